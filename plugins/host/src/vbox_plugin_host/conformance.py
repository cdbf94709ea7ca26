"""Who is at the other end while the conformance kit checks a driver: somebody at a terminal, a server
that echoes, a program that opens a terminal now and then.

Each is a process of its own, `python -m vbox_plugin_host.conformance FOLDER WHAT ...`, so that nothing of it
is taken for the driver's.  It says in a line where it can be reached, and ends when FOLDER, or the process
that is checked, is gone.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TURN_SECONDS = 0.05
KEYS = b"Kit \x1b[A\x1bOP\x7f\xc3\xa4\x03\r\x01\x01\x01h\x01r\x1b"
"""Letters, sequences, a character that no US keyboard has, Ctrl-C, all commands but power off, ESC."""
_CHUNK = 65536

Turn = Callable[[], None]


def other_end(folder: Path, what: str, *more: str) -> str:
    """Start it (sit, serve, visit PATH); the answer is a path or a port."""
    command = [sys.executable, "-m", __spec__.name, str(folder), what, *more]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        where = said.readline().strip()
    threading.Thread(target=process.wait, name=f"the end of {what}", daemon=True).start()
    return where


def sit_at_terminal() -> tuple[str, Turn]:
    """A terminal whose keys are typed again and again, and whose output is read."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    tty.setraw(slave)

    def turn() -> None:
        ready, _, _ = select.select([master], [], [], TURN_SECONDS)
        if ready:
            os.read(master, _CHUNK)
        else:
            os.write(master, KEYS)

    return os.ttyname(slave), turn


def visit_terminal(path: str) -> tuple[str, Turn]:
    """A program that opens the terminal at `path` when it is there, echoes for a while, and goes.

    `path` is a link, and may be left over: a terminal whose other side is not with the process that is
    checked belongs to somebody else, and is left alone."""
    checked = os.getppid()

    def turn() -> None:
        if os.path.basename(os.readlink(path)) not in _pseudo_terminals(checked):
            raise FileNotFoundError
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            os.write(descriptor, KEYS)
            if select.select([descriptor], [], [], 2 * TURN_SECONDS)[0]:
                os.write(descriptor, os.read(descriptor, _CHUNK))
        finally:
            os.close(descriptor)

    return path, turn


def _pseudo_terminals(process: int) -> set[str]:
    """The numbers of those whose master's side the process has open."""
    found = set()
    for name in os.listdir(f"/proc/{process}/fdinfo"):
        with suppress(OSError):
            for line in Path(f"/proc/{process}/fdinfo/{name}").read_text().splitlines():
                if line.startswith("tty-index:"):
                    found.add(line.partition(":")[2].strip())
    return found


def serve() -> tuple[str, Turn]:
    """A server that sends back what it gets, to any number of clients."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    peers: dict[socket.socket, bytearray] = {}  # what each is still to get

    def turn() -> None:
        waiting = [peer for peer, rest in peers.items() if rest]
        ready, free, _ = select.select([listener, *peers], waiting, [], TURN_SECONDS)
        for one in ready:
            if one is listener:
                peer, _ = listener.accept()
                peer.setblocking(False)
                peers[peer] = bytearray(KEYS)
            elif not _hear(one, peers[one]):
                del peers[one]
                one.close()
        for one in free:
            if one in peers:
                with suppress(OSError):
                    del peers[one][: one.send(peers[one])]

    return str(listener.getsockname()[1]), turn


def _hear(peer: socket.socket, rest: bytearray) -> bool:
    try:
        data = peer.recv(_CHUNK)
    except OSError:
        return False
    rest += data
    return bool(data)


def main() -> None:
    """The process."""
    folder, what, *more = sys.argv[1:]
    checked = os.getppid()
    ends: dict[str, Callable[..., tuple[str, Turn]]] = {
        "sit": sit_at_terminal,
        "serve": serve,
        "visit": visit_terminal,
    }
    where, turn = ends[what](*more)
    print(where, flush=True)
    while os.path.isdir(folder) and os.getppid() == checked:
        try:
            turn()
        except OSError:  # nobody is there, or takes any more
            select.select([], [], [], TURN_SECONDS)


if __name__ == "__main__":
    main()
