"""The VM's lock: callbacks of one VM are serialised by it, whatever thread they run on.

The EMT holds it while the guest runs and lets others in at the boundaries of its loop; a waiter
kicks the guest out, so it waits microseconds, not until the guest idles.  First come, first served:
otherwise the EMT would take the lock again before a waiter woke up.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from types import TracebackType


class Doorbell:
    """An event that one thread waits for and clears, without the cost of threading.Event."""

    def __init__(self) -> None:
        self._gate = allocate_lock()
        self._gate.acquire()

    def ring(self) -> None:
        """Any thread: let the waiter go on, now or when it comes; ringing twice is ringing once."""
        if self._gate.locked():  # an exception is dear, and an interrupt rings each time
            try:
                self._gate.release()
            except RuntimeError:  # another thread was faster
                pass

    def wait(self, seconds: float | None) -> bool:
        """Wait for a ring, at most `seconds` (None: no limit), and clear it; False when there was none."""
        return self._gate.acquire(True, -1 if seconds is None else max(0.0, min(seconds, 1e6)))

    def clear(self) -> None:
        """Forget a ring."""
        self._gate.acquire(False)

    @property
    def rung(self) -> bool:
        """Whether it rang since it was cleared."""
        return not self._gate.locked()


class VmLock:
    """A fair, re-entrant lock, handed over directly.  `kick` is called (any thread) when somebody
    starts to wait."""

    def __init__(self, kick: Callable[[], None]) -> None:
        self._kick = kick
        self._guard = allocate_lock()  # for what follows; held for a moment only
        self._waiters: deque[tuple[int, Doorbell]] = deque()
        self._owner: int | None = None
        self._depth = 0

    @property
    def wanted(self) -> int:
        """How many threads wait; the EMT looks at it between two runs of the guest."""
        return len(self._waiters)

    def acquire(self) -> None:
        """Wait for the lock; the owner may take it again."""
        me = threading.get_ident()
        with self._guard:
            if self._owner == me:
                self._depth += 1
                return
            if self._owner is None:
                self._owner = me
                self._depth = 1
                return
            turn = Doorbell()
            self._waiters.append((me, turn))
        self._kick()
        turn.wait(None)

    def release(self) -> None:
        """Give it back once; RuntimeError when the caller does not own it."""
        with self._guard:
            if self._owner != threading.get_ident():
                raise RuntimeError("the VM's lock is not owned by this thread")
            self._depth -= 1
            if self._depth:
                return
            if not self._waiters:
                self._owner = None
                return
            self._owner, turn = self._waiters.popleft()
            self._depth = 1
        turn.ring()

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
