"""A machine whose serial line is the terminal, as a process of its own for the tests of `stdio`.

The guest echoes what it gets in capitals; each control character that it gets ends the process in
another way.  Argument: the escape character.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from host_streams import LINE, Line  # type: ignore[import-not-found]

from vbox_pdm.testing import Bench
from vbox_plugin_host import stdio


class Stop(Exception):
    """What SIGTERM becomes, as in a front end."""


class Signals:
    """Turns signals into exceptions, which come out of `wait` alone: elsewhere one would leave the line
    with its work half done, a row handed over but still on its list, to be sent twice."""

    def __init__(self) -> None:
        self.came: BaseException | None = None
        self.waiting = False
        exceptions = {signal.SIGTERM: Stop, signal.SIGHUP: Stop, signal.SIGINT: KeyboardInterrupt}
        for number, error in exceptions.items():
            signal.signal(number, lambda number, frame, error=error: self.take(error(number)))

    def take(self, error: BaseException) -> None:
        self.came = error
        if self.waiting:
            raise error

    def wait(self, bench: Bench, line: Line) -> None:
        self.waiting = True
        try:
            if self.came is not None:
                raise self.came
            bench.wait(lambda: line.taken or bench.exit_code is not None, 60)
        finally:
            self.waiting = False


def main() -> int:
    signals = Signals()
    with Bench() as bench:
        bench.plugin(stdio)
        line: Line = bench.add(LINE, lun0=("stdio", {"escape": sys.argv[1]}))
        bench.power_on()
        try:
            line.send(b"pid %d " % os.getpid() if os.isatty(0) else b"")
            line.send(b"ready\r\n")
            while bench.exit_code is None:
                signals.wait(bench, line)
                data, line.taken = bytes(line.taken), bytearray()
                act(bench, line, data)
        except (Stop, KeyboardInterrupt) as error:
            line.send(b"stopped by %s\r\n" % type(error).__name__.encode())
    print("off", bench.exit_code, flush=True)
    return 0


def act(bench: Bench, line: Line, data: bytes) -> None:
    line.send(data.upper().replace(b"\r", b"\r\n"))
    if b"\x05" in data:  # ^E
        bench.wait(lambda: not line.to_send, 30)
        raise RuntimeError("something went wrong")
    if b"\x0b" in data:  # ^K
        os.kill(os.getpid(), signal.SIGKILL)
    if b"\x18" in data:  # ^X
        ctypes.string_at(0)
    if b"\x10" in data:  # ^P
        bench.suspend()
        print("paused", flush=True)
        input()
        bench.resume()
    if b"\x02" in data:  # ^B: a lot
        line.send(b"".join(b"line %d\r\n" % number for number in range(20_000)) + b"end\r\n")


if __name__ == "__main__":
    sys.exit(main())
