"""The console of the process: the guest's serial line on standard input and output, or at another
terminal (`terminal`), where no program may read the keys.

At a terminal the driver sets raw mode while the VM runs (see `terminal` for how it is restored), and
every key goes to the guest, Ctrl-C too.  An escape character (Ctrl-A unless configured otherwise)
starts a command: see `escape`.  Where standard input is a pipe or a file there is no escape; its end
ends typing, not the VM.

Traps: the descriptors of a terminal are shared with the shell, so O_NONBLOCK must not be set on
them: terminals and pipes are opened a second time instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from vbox_pdm import CharStream, ConfigError, DriverType, Worker, hookimpl, key
from vbox_plugin_host.escape import Command, Escapes, parse_escape
from vbox_plugin_host.pump import LIMIT, CharDriver
from vbox_plugin_host.terminal import RawTerminal

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

_REMEDY = "Give what the command `tty` says in that terminal"
TERMINAL_LIMIT = 16 * LIMIT
"""Keys typed ahead: the terminal is read on, so that the escape works when the guest hangs."""


@frozen
class Config:
    """Configuration of the console."""

    escape: str = key("^A", help="starts a command at a terminal: ^A..^Z, ^], or none")
    terminal: str | None = key(None, help="another terminal, such as /dev/pts/3")


class Console(CharDriver[Config]):
    """Standard input and output as one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.terminal: RawTerminal | None = None
        self.source: int | None = None
        self.sink: int | None = None
        self._other: int | None = None  # the terminal of the configuration

    def pdm_construct(self) -> None:
        escape = parse_escape(self.config.escape)
        self._other = open_terminal(self.config.terminal)
        keys, screen = (0, 1) if self._other is None else (self._other, self._other)
        self.terminal = RawTerminal(keys) if is_terminal(keys) else None
        self.escapes = Escapes(escape if self.terminal is not None else None)
        self.source = open_again(keys, os.O_RDONLY)
        self.sink = open_again(screen, os.O_WRONLY)
        self.connected = True
        self._commands = self.helpers.queue("commands", self._command, 16)
        self.start()

    def pdm_power_on(self) -> None:
        self._enter()
        super().pdm_power_on()

    def pdm_suspend(self) -> None:
        self._leave()

    def pdm_resume(self) -> None:
        self._enter()
        super().pdm_resume()

    def pdm_power_off(self) -> None:
        self._finish()

    def pdm_destruct(self) -> None:
        self._finish()
        super().pdm_destruct()
        close_own(self.source, self.sink, self._other)
        self.source = self.sink = self._other = None

    def may_read(self) -> bool:
        if self.terminal is None:
            return super().may_read()
        return self._unread < TERMINAL_LIMIT

    def received(self, data: bytes) -> None:
        passed, commands = self.escapes.feed(data)
        for command in commands:
            if command is Command.POWER_OFF:
                self._commands.put("power off")
            else:
                self._tell(self.escapes.help(self.config.escape))
        if passed:
            self.post(passed)

    def serve(self, worker: Worker) -> None:
        """Both directions, until the worker must end; the end of input only ends input."""
        while worker.running:
            self.exchange(worker, self.source, self.sink)
            if worker.running:  # both ends are gone
                self.pause(None)

    def _command(self, command: str) -> None:
        self.helpers.log.info("%s, asked for at the console", command)
        self.helpers.power_off_vm()

    def _tell(self, text: str) -> None:
        with self._lock:
            if not self._discarding:
                self._outgoing += f"\r\n{text}\r\n".encode()

    def _finish(self) -> None:
        try:
            if self.worker is not None:
                self.worker.stop()
            if self.sink is not None:
                self.drain(self.sink)
        finally:
            self._leave()

    def _enter(self) -> None:
        if self.terminal is not None:
            self.terminal.enter()

    def _leave(self) -> None:
        if self.terminal is not None:
            self.terminal.leave()


def is_terminal(descriptor: int) -> bool:
    """Whether it is open, and a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def open_terminal(path: str | None) -> int | None:
    """A terminal, for both directions; None when no path is given.  ConfigError when it is none."""
    if path is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        status = "VERR_FILE_NOT_FOUND" if isinstance(error, FileNotFoundError) else "VERR_ACCESS_DENIED"
        raise ConfigError(status, f"Cannot open the terminal {path}: {error.strerror}", _REMEDY) from None
    if not is_terminal(descriptor):
        os.close(descriptor)
        raise ConfigError("VERR_NOT_SUPPORTED", f"{path} is no terminal", _REMEDY)
    return descriptor


def close_own(*descriptors: int | None) -> None:
    """Close what was opened here: not the standard ones, which `open_again` may have answered; each once."""
    for descriptor in {each for each in descriptors if each is not None and each > 2}:
        os.close(descriptor)


def open_again(descriptor: int, flags: int) -> int | None:
    """The same terminal or pipe with a non-blocking description of its own; otherwise the
    descriptor itself; None when it is closed."""
    try:
        kind = os.fstat(descriptor).st_mode
    except OSError:
        return None
    if os.isatty(descriptor) or stat.S_ISFIFO(kind):
        try:
            return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            pass
    return descriptor


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType(
            "stdio", Console, Config, serves=CharStream, max_instances=1,
            summary="a character stream on standard input and output",
        )
    )  # fmt: skip


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: a terminal that is not this process's."""
    from vbox_pdm.testing.conformance import Setup
    from vbox_plugin_host.conformance import other_end

    here = other_end(folder, "sit")
    return Setup(
        {"terminal": here},
        keys={"escape": ("none", "^]", "x"), "terminal": (here, str(folder), "/dev/null", "")},
    )
