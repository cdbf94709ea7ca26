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
from functools import partial
from types import TracebackType


class Doorbell:
    """An event that one thread waits for and clears, without the cost of threading.Event."""

    def __init__(self) -> None:
        self._gate = allocate_lock()
        self._gate.acquire()
        self.clear = partial(self._gate.acquire, False)
        """Forget a ring."""

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

    @property
    def rung(self) -> bool:
        """Whether it rang since it was cleared."""
        return not self._gate.locked()


class VmLock:
    """A fair, re-entrant lock, handed over directly.  `kick` is called (any thread) when somebody
    starts to wait, and when another thread than the `keeper` has let it go: there may be something to
    be seen now."""

    def __init__(self, kick: Callable[[], None]) -> None:
        self._kick = kick
        self._guard = allocate_lock()  # for what follows; held for a moment only
        self.waiters: deque[tuple[int, Doorbell]] = deque()
        """Who waits; the EMT looks whether somebody does between two runs of the guest."""
        self._owner: int | None = None
        self.keeper: int | None = None
        """The thread that sleeps without the lock, and is kicked."""
        self._depth = 0

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
            self.waiters.append((me, turn))
        self._kick()
        turn.wait(None)

    def release(self) -> None:
        """Give it back once; RuntimeError when the caller does not own it."""
        me = threading.get_ident()
        turn = None
        with self._guard:
            if self._owner != me:
                raise RuntimeError("the VM's lock is not owned by this thread")
            self._depth -= 1
            if self._depth:
                return
            if self.waiters:
                self._owner, turn = self.waiters.popleft()
                self._depth = 1
            else:
                self._owner = None
        if turn is not None:
            turn.ring()
        elif me != self.keeper:
            self._kick()

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
