"""The VM's lock: callbacks of one VM are serialised by it, whatever thread they run on.

The EMT holds it while the guest runs and lets others in at the boundaries of its loop; a waiter
kicks the guest out, so it waits microseconds, not until the guest idles.  First come, first served:
otherwise the EMT would take the lock again before a waiter woke up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class VmLock:
    """A fair, re-entrant lock.  `kick` is called (any thread) when somebody starts to wait."""

    def __init__(self, kick: Callable[[], None]) -> None:
        self._kick = kick
        self._turn = threading.Condition()
        self._next_ticket = 0
        self._serving = 0
        self._owner: int | None = None
        self._depth = 0
        self.wanted = 0
        """How many threads wait; the EMT looks at it between two runs of the guest."""

    def acquire(self) -> None:
        """Wait for the lock; the owner may take it again."""
        me = threading.get_ident()
        with self._turn:
            if self._owner == me:
                self._depth += 1
                return
            ticket = self._next_ticket
            self._next_ticket += 1
            if self._owner is not None or ticket != self._serving:
                self.wanted += 1
                self._kick()
                while self._owner is not None or ticket != self._serving:
                    self._turn.wait()
                self.wanted -= 1
            self._owner = me
            self._depth = 1

    def release(self) -> None:
        """Give it back once; RuntimeError when the caller does not own it."""
        with self._turn:
            if self._owner != threading.get_ident():
                raise RuntimeError("the VM's lock is not owned by this thread")
            self._depth -= 1
            if self._depth == 0:
                self._owner = None
                self._serving += 1
                self._turn.notify_all()

    def let_others_in(self) -> None:
        """Whoever waits now goes first; then the caller owns it again."""
        self.release()
        self.acquire()

    @property
    def mine(self) -> bool:
        """Whether the calling thread owns it."""
        return self._owner == threading.get_ident()

    def __enter__(self) -> VmLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
