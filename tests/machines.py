"""What several tests of whole machines share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import packages
import pexpect
import pytest
from guests import GuestFiles

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
VBOX = Path(sys.executable).parent / "vbox"


def clean_environment() -> dict[str, str]:
    """An environment for child processes in which nothing of this one's import path shows."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "VBOX_BENCH")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def run(*words: str | Path, timeout: float = 280, status: int = 0) -> str:
    """Run a command that must end with `status`; its output, standard error included."""
    done = subprocess.run(
        [str(word) for word in words],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == status, f"{words} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def found(find: Callable[[], T]) -> T:
    """What `find` finds; the test is skipped, with the reason, where Debian's packages cannot be had."""
    try:
        return find()
    except packages.Unavailable as error:
        pytest.skip(str(error))


def make_venv(folder: Path) -> Path:
    """A new virtual environment with pip and nothing else; returns its Python."""
    run(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


class Guest:
    """`vbox run` with a guest whose shell is on this process's end of a pseudo terminal.

    Patience is in seconds, and generous: it ends tests that hang, and times nothing."""

    def __init__(self, files: GuestFiles, *options: str, patience: float = 120) -> None:
        self.files = files
        words = ["run", *files.words(), *options]
        self._child = pexpect.spawn(
            str(VBOX),
            words,
            env={**clean_environment(), "TERM": "dumb"},  # type: ignore[arg-type]
            timeout=patience,
            dimensions=(24, 200),
            encoding="latin-1",
        )
        self._child.delaybeforesend = None
        self._commands = 0
        self.output = ""

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return bool(self._child.isalive())

    def expect(self, pattern: str, patience: float = -1) -> re.Match[str]:
        """Wait for output that matches; the match.  Fails with what came instead."""
        try:
            self._child.expect(pattern, timeout=patience)
        except (pexpect.TIMEOUT, pexpect.EOF) as error:
            tail = str(self._child.before)[-2000:]
            raise AssertionError(
                f"{type(error).__name__} instead of {pattern!r}; the last output:\n{tail}"
            ) from None
        self.output = self._child.before + self._child.after
        found = self._child.match
        assert isinstance(found, re.Match)
        return found

    def prompt(self, patience: float = -1) -> None:
        """Wait for the prompt of the guest's shell."""
        self.expect(re.escape(self.files.prompt), patience)

    def type(self, text: str) -> None:
        """Type on the serial line."""
        self._child.send(text)

    def tiny(self, command: str, patience: float = -1) -> str:
        """What a command of the tiny guest prints."""
        self.type(command + "\r")
        self.expect(re.escape(command) + "\r\n", patience)
        self.prompt(patience)
        return self.output.removesuffix(self.files.prompt).replace("\r\n", "\n")

    def shell(self, command: str, patience: float = -1, *, status: int = 0) -> str:
        """What a command of a Linux guest prints; it must end with `status`.

        It may print anything: the marks around it are not in what the guest echoes."""
        self._commands += 1
        number = self._commands
        self.type(f"echo 'be''gin-{number}'; {command}; echo 'e''nd-{number}-'$?\r")
        found = self.expect(rf"(?s)begin-{number}\r\n(.*)end-{number}-(\d+)\r\n", patience)
        self.prompt(patience)
        assert int(found[2]) == status, f"{command} ended with {found[2]}: {found[1]}"
        return found[1].replace("\r\n", "\n")

    def cpu_seconds(self) -> float:
        """CPU time that the process has used, with all its threads."""
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def idle_share(self) -> float:
        """The share of a core that the process uses while the guest idles: the least of several
        windows, so that what else the host does counts little."""
        shares = []
        for _ in range(5):
            before = self.cpu_seconds()
            time.sleep(3)
            shares.append((self.cpu_seconds() - before) / 3)
        return min(shares)

    def wait(self, patience: float = -1) -> int:
        """Wait until the process ends; its exit code, or minus the signal."""
        self._child.expect(pexpect.EOF, timeout=patience)
        self._child.close()
        status, signal = self._child.exitstatus, self._child.signalstatus
        return -int(signal) if signal is not None else int(status)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._child.close(force=True)


class Shared:
    """A guest that several tests use one after another; a new one when the last has ended."""

    def __init__(self, files: GuestFiles) -> None:
        self._files = files
        self._guest: Guest | None = None

    def __enter__(self) -> Shared:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def guest(self) -> Guest:
        """The guest, at its prompt."""
        if self._guest is None or not self._guest.alive:
            self.close()
            self._guest = Guest(self._files)
            self._guest.prompt()
        return self._guest

    def close(self) -> None:
        """End it; the next test gets a new one."""
        if self._guest is not None:
            self._guest.close()
            self._guest = None
