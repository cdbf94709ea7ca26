"""A terminal in raw mode, and back in its own mode whatever happens.

`RawTerminal.enter` sets the terminal raw, `leave` restores it; `leave` also runs at interpreter
exit.  Against everything that ends the process without Python (a signal's default action, a crash in
native code, SIGKILL) a guardian stands by: a small process that holds a pipe to this one, and when
that breaks without a farewell restores the terminal.  It ignores the keyboard's signals, and is
given the mode to restore, so it needs nothing of this process.

SIGTSTP and SIGCONT: called on the main thread, `enter` takes over a SIGTSTP that nobody else
handles: the terminal is restored, the process stops, and goes raw again when it continues.  On
another thread that is the front end's business, by suspending the VM (the driver leaves raw mode in
`pdm_suspend`).

`Farewell` is the same for what was done to a terminal by writing to it: its words of undoing are
written at the end, whatever the end is.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
import termios
import threading
from types import FrameType
from typing import Any

_GUARDIAN = """
import ast, os, signal, sys, termios
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGTTOU", "SIGTTIN"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
mode = ast.literal_eval(sys.argv[1])
os.write(1, b"!")
os.close(1)
if not os.read(0, 1):
    try:
        if mode is not None:
            termios.tcsetattr(2, termios.TCSANOW, mode)
        os.write(2, bytes.fromhex(sys.argv[2]))
    except (OSError, termios.error):
        pass
"""


class RawTerminal:
    """The terminal at `descriptor`.  `enter` and `leave` may be called again and again."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.raw = False
        self._mode: list[Any] = []
        self._guardian: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._handles_stop = False

    def enter(self) -> None:
        """Raw mode: no echo, no line editing, no signals from keys, output as it is.

        In the background the terminal is somebody else's, and is left as it is."""
        with self._lock:
            if self.raw or not _in_foreground(self.descriptor):
                return
            self._mode = termios.tcgetattr(self.descriptor)
            if self._guardian is None:
                self._guardian = _start_guardian(self.descriptor, self._mode)
                atexit.register(self.leave)
            self._set_raw()
            self._take_stop_signal()

    def leave(self) -> None:
        """The mode before `enter`; no effect when it is not raw."""
        with self._lock:
            atexit.unregister(self.leave)
            if self.raw:
                self._restore()
            if self._handles_stop:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)
                self._handles_stop = False
            if self._guardian is not None:
                _dismiss(self._guardian)
                self._guardian = None

    def _set_raw(self) -> None:
        mode: Any = [part[:] if isinstance(part, list) else part for part in self._mode]
        mode[0] &= ~(
            termios.BRKINT
            | termios.ICRNL
            | termios.IGNCR
            | termios.INLCR
            | termios.INPCK
            | termios.ISTRIP
            | termios.IXON
        )
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        _set_mode(self.descriptor, mode)
        self.raw = True

    def _restore(self) -> None:
        _set_mode(self.descriptor, self._mode)
        self.raw = False

    def _take_stop_signal(self) -> None:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL
        ):
            signal.signal(signal.SIGTSTP, self._stop)
            self._handles_stop = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        with self._lock:
            self._restore()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)  # stops here until SIGCONT
            signal.signal(signal.SIGTSTP, self._stop)
            self._mode = termios.tcgetattr(self.descriptor)
            self._set_raw()


class Farewell:
    """Bytes that the terminal at `descriptor` gets when `leave` is called, at interpreter exit, and
    when the process is killed."""

    def __init__(self, descriptor: int, words: bytes) -> None:
        self.descriptor = descriptor
        self.words = words
        self.entered = False
        self._guardian: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    def enter(self) -> bool:
        """From now on they are owed.  False in the background: the terminal is somebody else's."""
        with self._lock:
            if not self.entered and _in_foreground(self.descriptor):
                if self._guardian is None:
                    self._guardian = _start_guardian(self.descriptor, None, self.words)
                    atexit.register(self.leave)
                self.entered = True
            return self.entered

    def leave(self) -> None:
        """Write them; no effect when they are not owed."""
        with self._lock:
            atexit.unregister(self.leave)
            if self.entered:
                self.entered = False
                _write_anyway(self.descriptor, self.words)
            if self._guardian is not None:
                _dismiss(self._guardian)
                self._guardian = None


def _write_anyway(descriptor: int, words: bytes) -> None:
    """Also from the background, and to a terminal that is slow."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        while words:
            select.select([], [descriptor], [], 1.0)
            words = words[os.write(descriptor, words) :]
    except OSError:
        pass  # the terminal itself is gone, or takes nothing
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _set_mode(descriptor: int, mode: list[Any]) -> None:
    """Also from the background, where the terminal driver would stop the process (SIGTTOU)."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, mode)
    except termios.error:
        pass  # the terminal itself is gone
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _in_foreground(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return True  # not the controlling terminal: nobody else to be in front


def _start_guardian(
    descriptor: int, mode: list[Any] | None, words: bytes = b""
) -> subprocess.Popen[bytes] | None:
    if not sys.executable:
        return None
    try:
        guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARDIAN, repr(mode), words.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=descriptor,
        )
    except OSError:
        return None  # without it the terminal is still restored on every orderly way out
    assert guardian.stdout is not None
    guardian.stdout.read(1)  # it is ready: nothing can go wrong unseen from here on
    guardian.stdout.close()
    return guardian


def _dismiss(guardian: subprocess.Popen[bytes]) -> None:
    assert guardian.stdin is not None
    try:
        guardian.stdin.write(b".")
        guardian.stdin.close()
    except OSError:
        pass
    guardian.wait()
