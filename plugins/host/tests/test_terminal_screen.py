"""Screen and keyboard at a real terminal: a process of its own, and a terminal emulator at the other end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

pyte = pytest.importorskip("pyte")
MACHINE = Path(__file__).parent / "terminal_machine.py"


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path, "COLORTERM": "truecolor", **more}


class Terminal:
    """A terminal with the process in it."""

    def __init__(self, columns: int = 90, rows: int = 30, **variables: str) -> None:
        self.child = pexpect.spawn(
            sys.executable, [str(MACHINE)], env=environment(**variables),  # type: ignore[arg-type]
            timeout=20, dimensions=(rows, columns), echo=True,
        )  # fmt: skip
        self.child.delaybeforesend = None
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def type(self, keys: bytes) -> None:
        self.child.send(keys)

    def becomes(self, condition: Callable[[], object], seconds: float = 15) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read()
            if condition():
                return True
        return False

    def shows(self, text: str) -> bool:
        return self.becomes(lambda: any(text in line for line in self.screen.display))

    def _read(self) -> None:
        try:
            data = self.child.read_nonblocking(65536, timeout=0.02)
        except (pexpect.TIMEOUT, pexpect.EOF):
            time.sleep(0.01)
            return
        self.raw += data
        self.stream.feed(data)

    def is_restored(self) -> bool:
        flags = termios.tcgetattr(self.child.child_fd)
        wanted = termios.ICANON | termios.ECHO | termios.ISIG
        return flags[3] & wanted == wanted and self.raw.rfind(b"\x1b[?1049l") > self.raw.rfind(b"\x1b[?1049h")

    @property
    def cooked(self) -> bool:
        return bool(termios.tcgetattr(self.child.child_fd)[3] & termios.ECHO)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    try:
        assert made.shows("The guest's screen")
        yield made
    finally:
        made.child.close(force=True)


def test_screen_is_drawn_and_keys_reach_the_guest(terminal: Terminal) -> None:
    assert not terminal.cooked
    assert terminal.screen.buffer[0][0].fg == "ffff55"
    assert terminal.screen.buffer[0][0].bg == "0000aa"

    terminal.type(b"a\x1b[A\x03\x1bOP")

    assert terminal.shows(" 4 52 e0+6 3a")
    assert (terminal.screen.cursor.x, terminal.screen.cursor.y) == (2, 1)


def test_escape_alone_is_the_escape_key(terminal: Terminal) -> None:
    terminal.type(b"\x1b")

    assert terminal.shows(" 29")


def test_escape_character_leaves_and_the_last_screen_stays(terminal: Terminal) -> None:
    terminal.type(b"z\x01x")

    assert terminal.becomes(lambda: b"off 0" in terminal.raw)
    assert terminal.is_restored()
    after = terminal.raw[terminal.raw.rfind(b"\x1b[?1049l") :]
    assert b"The guest's screen\r\n 1d\r\n" in after


def test_escape_character_a_sends_it_and_h_helps_until_the_next_key(terminal: Terminal) -> None:
    terminal.type(b"\x01a\x01\x01")
    assert terminal.shows(" e0+4 e0+4")

    terminal.type(b"\x01h")
    assert terminal.shows("^A x  power off")
    terminal.type(b"b")

    assert terminal.becomes(lambda: not any("power off" in line for line in terminal.screen.display))
    assert terminal.shows("e0+4 5")


def test_redraw_mends_a_screen_that_others_wrote_to(terminal: Terminal) -> None:
    terminal.stream.feed(b"\x1b[1;1Hgarbage")

    terminal.type(b"\x01r")

    assert terminal.shows("The guest's screen")


def test_graphics_mode_is_drawn_with_half_blocks(terminal: Terminal) -> None:
    terminal.type(b"\x07")

    assert terminal.shows("[64x40 graphics]")
    assert terminal.screen.buffer[0][0].data == "\u2580"


@pytest.mark.parametrize(
    "how", [b"\x05", b"\x0b", signal.SIGTERM], ids=["an exception", "SIGKILL", "a signal"]
)
def test_terminal_is_restored_however_the_process_ends(terminal: Terminal, how: bytes | int) -> None:
    if isinstance(how, bytes):
        terminal.type(how)
    else:
        terminal.child.kill(how)

    assert terminal.becomes(terminal.is_restored)


def test_terminal_is_its_own_while_the_vm_is_suspended(terminal: Terminal) -> None:
    terminal.type(b"\x10")
    assert terminal.becomes(lambda: b"paused" in terminal.raw)
    assert terminal.is_restored()

    terminal.type(b"go on\r")

    assert terminal.becomes(lambda: not terminal.cooked)
    assert terminal.shows("The guest's screen")


def test_small_terminal_gets_what_fits_and_a_note() -> None:
    terminal = Terminal(40, 12)

    assert terminal.shows("The guest's screen")
    assert terminal.shows("^A x  power off")
    terminal.type(b"a")
    assert terminal.shows("[80x25 text; enlarge this 40x12")
    terminal.child.close(force=True)


def test_resized_terminal_is_drawn_anew(terminal: Terminal) -> None:
    terminal.type(b"\x02")
    assert terminal.shows("#" * 80)

    terminal.child.setwinsize(10, 50)
    terminal.screen.resize(10, 50)

    assert terminal.shows("[80x25 text; enlarge this 50x10")


def test_no_terminal_is_a_clear_error() -> None:
    done = subprocess.run(
        [sys.executable, str(MACHINE)], env=environment(), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "VERR_NOT_SUPPORTED" in done.stderr
    assert "no terminal" in done.stderr
