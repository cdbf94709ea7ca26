"""The thread that kicks a guest out at a time of the host's monotonic clock."""

from __future__ import annotations

import signal
import threading
import time

from .structures import Machine


def kick(machine: Machine) -> None:
    machine.kicked = 1
    machine.env.attention = 1


class Deadline:
    """One engine's.  The thread starts with the first deadline; it knows nothing of the engine but its
    memory, which must outlive it (see `stop`)."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._quit = False
        self._at = 0  # nanoseconds; 0: none
        self._waits_for: float = float("inf")
        self._inside = False
        self._expired = False

    def set(self, host_ns: int) -> None:
        """Kick at this time; 0 for never.  The thread sleeps on until the earlier time when it is moved
        back."""
        if self._thread is None:
            if host_ns == 0:
                return
            self._start()
        with self._changed:
            self._at = host_ns
            self._expired = False
            if host_ns and host_ns < self._waits_for:
                self._changed.notify()

    def enter(self) -> bool:
        """The guest begins to run; True when the deadline passed before and must end this run at once."""
        with self._changed:
            self._inside = True
            expired, self._expired = self._expired, False
            return expired

    def leave(self) -> None:
        self._inside = False

    def stop(self) -> None:
        if self._thread is not None:
            with self._changed:
                self._quit = True
                self._changed.notify()
            self._thread.join()
            self._thread = None

    def _start(self) -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # for the thread
        try:
            self._thread = threading.Thread(target=self._main, name="rem-deadline", daemon=True)
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _main(self) -> None:
        nap: int | None = None
        with self._changed:
            while not self._quit:
                now = time.monotonic_ns()
                if self._at == 0:
                    self._sleep(nap)
                    nap = None
                elif now < self._at:
                    self._sleep(self._at)
                else:
                    self._at = 0
                    if self._inside:
                        kick(self._machine)
                    else:
                        self._expired = True
                    # The next deadline comes soon, and is later than this: nobody need wake this thread.
                    nap = now + 1_000_000

    def _sleep(self, until_ns: int | None) -> None:
        self._waits_for = float("inf") if until_ns is None else until_ns
        self._changed.wait(None if until_ns is None else max(until_ns - time.monotonic_ns(), 0) / 1e9)
        self._waits_for = 0
