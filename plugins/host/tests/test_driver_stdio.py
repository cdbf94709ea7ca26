"""The console driver: a process of its own at a real terminal, at pipes, and at nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest

from vbox_pdm import ConfigError
from vbox_plugin_host.escape import parse_escape

CONSOLE = Path(__file__).parent / "console.py"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Terminal:
    """A shell-like parent: it has the terminal, and looks at its mode from outside."""

    def __init__(self, escape: str = "^A", *, shell: bool = False, background: bool = False) -> None:
        words = [sys.executable, str(CONSOLE), escape]
        start = ["dash", "-i"] if shell else words
        self.child = pexpect.spawn(start[0], start[1:], env=environment(), timeout=20, echo=True)
        if shell:
            self.child.send(shlex.join(words) + (" &\n" if background else "\n"))
        self.child.expect(rb"ready\r+\n")

    def is_raw(self) -> bool:
        flags = termios.tcgetattr(self.child.child_fd)
        return not flags[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def is_restored(self) -> bool:
        flags = termios.tcgetattr(self.child.child_fd)
        wanted = termios.ICANON | termios.ECHO | termios.ISIG
        return flags[3] & wanted == wanted and bool(flags[1] & termios.OPOST)

    def becomes(self, condition: Any) -> bool:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False


def test_keys_go_to_the_guest_raw_and_its_output_comes_unchanged() -> None:
    terminal = Terminal()
    assert terminal.is_raw()

    terminal.child.send(b"hello \x03\x1a\r")

    terminal.child.expect_exact(b"HELLO \x03\x1a\r\n")
    terminal.child.send(b"\x01x")
    terminal.child.expect_exact(b"off 0")
    assert terminal.is_restored()


def test_escape_twice_sends_it_once_and_help_lists_the_commands() -> None:
    terminal = Terminal()

    terminal.child.send(b"\x01\x01a\r")
    terminal.child.expect_exact(b"\x01A\r\n")
    terminal.child.send(b"\x01h")
    terminal.child.expect_exact(b"^A x  power off")

    terminal.child.send(b"\x01x")
    terminal.child.expect_exact(b"off 0")


def test_another_escape_leaves_control_a_to_the_guest() -> None:
    terminal = Terminal("^]")

    terminal.child.send(b"\x01x\r")
    terminal.child.expect_exact(b"\x01X\r\n")
    terminal.child.send(b"\x1dx")

    terminal.child.expect_exact(b"off 0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda s: s.name)
def test_terminal_is_restored_after_a_handled_signal(number: signal.Signals) -> None:
    terminal = Terminal()

    terminal.child.kill(number)

    terminal.child.expect_exact(b"stopped by")
    terminal.child.expect_exact(b"off")
    assert terminal.is_restored()


@pytest.mark.parametrize(
    ("key", "how"),
    [(b"\x05", "an exception"), (b"\x0b", "SIGKILL"), (b"\x18", "a crash")],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_terminal_is_restored_however_the_process_ends(key: bytes, how: str) -> None:
    terminal = Terminal()

    terminal.child.send(key)

    assert terminal.becomes(terminal.is_restored), how


@pytest.mark.skipif(shutil.which("dash") is None, reason="needs a shell that leaves the terminal alone")
def test_terminal_is_restored_while_stopped_and_raw_after_continuing() -> None:
    # A process group that nobody could continue is never stopped: there must be a shell.
    terminal = Terminal(shell=True)

    pid = int(terminal.child.before.split(b"pid ")[1].split()[0])
    os.kill(pid, signal.SIGTSTP)
    terminal.child.expect_exact(b"Stopped")
    assert terminal.becomes(terminal.is_restored)
    terminal.child.send(b"fg\n")

    assert terminal.becomes(terminal.is_raw)
    terminal.child.send(b"again\r")
    terminal.child.expect_exact(b"AGAIN\r\n")
    terminal.child.send(b"\x01x")
    terminal.child.expect_exact(b"off 0")


@pytest.mark.skipif(shutil.which("dash") is None, reason="needs a shell that leaves the terminal alone")
def test_background_process_leaves_the_terminal_alone() -> None:
    terminal = Terminal(shell=True, background=True)

    pid = int(terminal.child.before.split(b"pid ")[1].split()[0])
    time.sleep(0.2)

    assert terminal.is_restored()
    os.kill(pid, signal.SIGTERM)
    terminal.child.expect_exact(b"stopped by")


def test_terminal_is_restored_while_the_vm_is_suspended() -> None:
    terminal = Terminal()

    terminal.child.send(b"\x10")
    terminal.child.expect_exact(b"paused")
    assert terminal.is_restored()
    terminal.child.sendline(b"go on")

    assert terminal.becomes(terminal.is_raw)
    terminal.child.send(b"\x01x")
    terminal.child.expect_exact(b"off 0")


def test_terminal_gets_a_large_output_whole_and_in_order() -> None:
    terminal = Terminal()

    terminal.child.send(b"\x02")
    terminal.child.expect_exact(b"end\r\n", timeout=60)

    lines = terminal.child.before.split(b"\r\n")
    assert lines == [b"\x02line 0", *(b"line %d" % number for number in range(1, 20_000)), b""]
    terminal.child.send(b"\x01x")
    terminal.child.expect_exact(b"off 0")


def run(data: bytes | None, **more: Any) -> subprocess.CompletedProcess[bytes]:
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    return subprocess.run(
        [sys.executable, str(CONSOLE), "^A"],
        env=environment(), stdout=subprocess.PIPE, timeout=60, check=False, **source, **more,
    )  # fmt: skip


def test_pipe_is_passed_without_escapes_and_its_end_is_not_the_guests() -> None:
    child = subprocess.Popen(
        [sys.executable, str(CONSOLE), "^A"], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\r\n"

    child.stdin.write(b"ab\x01x\r")
    child.stdin.close()

    assert child.stdout.readline() == b"AB\x01X\r\n"
    time.sleep(0.3)
    assert child.poll() is None  # still running
    child.send_signal(signal.SIGTERM)
    assert child.stdout.read() == b"stopped by Stop\r\noff None\n"
    assert child.wait() == 0
    child.stdout.close()


def test_large_pipe_input_comes_back_whole() -> None:
    text = b"".join(b"row %d\r" % number for number in range(50_000))

    done = run(text + b"\x05")  # ends with an exception

    assert done.stdout.startswith(b"ready\r\n")
    assert done.stdout[7:].startswith(text.upper().replace(b"\r", b"\r\n"))


def test_no_input_at_all_works() -> None:
    child = subprocess.Popen(
        [sys.executable, str(CONSOLE), "^A"],
        env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\r\n"
    child.send_signal(signal.SIGTERM)

    assert child.stdout.read() == b"stopped by Stop\r\noff None\n"
    child.wait()
    child.stdout.close()


def test_reader_that_goes_away_does_not_stop_the_guest() -> None:
    child = subprocess.Popen(
        [sys.executable, str(CONSOLE), "^A"], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\r\n"
    child.stdout.close()

    child.stdin.write(b"\x02\x02more\r")
    child.stdin.flush()
    time.sleep(0.5)

    assert child.poll() is None
    child.kill()
    child.wait()
    child.stdin.close()


@pytest.mark.parametrize(("text", "value"), [("^A", 1), ("^a", 1), ("^]", 29), ("none", None)])
def test_escape_is_read(text: str, value: int | None) -> None:
    assert parse_escape(text) == value


@pytest.mark.parametrize("text", ["", "A", "^", "^1", "^AA"])
def test_escape_that_is_no_control_character_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no control character"):
        parse_escape(text)
