"""The clocks and timers of the bench: time passes only when a test says so.

VIRTUAL, VIRTUAL_SYNC and TSC are the same clock here (the TSC ticks at 1 GHz); they stand still
while the machine is suspended.  REAL goes on.  A timer callback runs with its clock exactly at the
timer's expiry, as VIRTUAL_SYNC promises.
"""

from __future__ import annotations

from collections.abc import Callable

from vbox_pdm.errors import PdmError
from vbox_pdm.readout import PlainReadout, Readout
from vbox_pdm.timers import NS_PER_SECOND, Clock, check_reader

MAX_RUNS = 1000
"""How often timers may run at one instant before one that arms itself again is stopped."""


class BenchTimer:
    """A `Timer`."""

    def __init__(self, clocks: BenchClocks, name: str, clock: Clock, callback: Callable[[], None]) -> None:
        self.name = name
        self.clock = clock
        self.callback = callback
        self._clocks = clocks
        self._order = 0
        self._expires: int | None = None

    @property
    def active(self) -> bool:
        """Whether it is armed."""
        return self._expires is not None

    @property
    def expires(self) -> int | None:
        """When it fires; None when it is not armed."""
        return self._expires

    @property
    def order(self) -> int:
        """Timers of one expiry fire in the order in which they were armed."""
        return self._order

    def set(self, when: int) -> None:
        """Arm it for a time of its clock."""
        if not isinstance(when, int):
            raise PdmError("VERR_INVALID_PARAMETER", f"Timer '{self.name}' is set to {when!r}, not an int")
        self._expires = when
        self._order = self._clocks.next_order()

    def set_relative(self, delay: int) -> None:
        """Arm it for `delay` from now."""
        self.set(self._clocks.now(self.clock) + delay)

    def stop(self) -> None:
        """Disarm it."""
        self._expires = None

    def load(self, expires: int | None) -> None:
        """Take over a saved expiry."""
        if expires is None:
            self.stop()
        else:
            self.set(expires)


class BenchClocks:
    """All clocks and timers of a bench.

    `run(timer)` calls a timer's callback; `settle()` hands queued work on; `unstable(timer, error)`
    hears of a timer that was stopped because it armed itself for now over and over."""

    def __init__(
        self,
        run: Callable[[BenchTimer], None],
        settle: Callable[[], object],
        unstable: Callable[[BenchTimer, PdmError], None],
    ) -> None:
        self._run = run
        self._settle = settle
        self._unstable = unstable
        self._virtual = 0
        self._real = 0
        self._orders = 0
        self._timers: list[BenchTimer] = []
        self.ticking = False
        """Whether the virtual clocks run."""

    def now(self, clock: Clock) -> int:
        """The time of a clock."""
        return self._real if clock is Clock.REAL else self._virtual

    def reader(self, clock: Clock, hz: int) -> Callable[[], int]:
        """What gives the time of a clock in periods of `hz`."""
        check_reader(clock, hz)
        return lambda: self.now(clock) * hz // NS_PER_SECOND

    def readout(self, look: Callable[[int, int], int], clock: Clock, hz: int) -> Readout:
        """What answers by the time of a clock in periods of `hz`."""
        return PlainReadout(self.reader(clock, hz), look)

    @property
    def virtual(self) -> int:
        """The time of the virtual clocks."""
        return self._virtual

    def next_order(self) -> int:
        """For timers: a number that grows."""
        self._orders += 1
        return self._orders

    def create(self, name: str, clock: Clock, callback: Callable[[], None]) -> BenchTimer:
        """A new timer."""
        timer = BenchTimer(self, name, clock, callback)
        self._timers.append(timer)
        return timer

    def drop(self, timer: BenchTimer) -> None:
        """The owner is gone."""
        timer.stop()
        self._timers.remove(timer)

    def deadline(self) -> int | None:
        """ns to the first timer whose clock runs; 0 when it is due already."""
        delays = [self._delay(timer) for timer in self._timers if self._runs(timer)]
        return min(delays) if delays else None

    def advance(self, ns: int) -> None:
        """Step the clocks by `ns`, run what is due on the way."""
        end = self._real + ns
        runs = 0
        self._settle()
        while True:
            timer = self._next()
            if timer is None or self._delay(timer) > end - self._real:
                break
            step = self._delay(timer)
            runs = 0 if step else runs + 1
            self._step(step)
            timer.stop()
            if runs > MAX_RUNS:
                error = PdmError(
                    "VERR_TM_TIMER_UNSTABLE_STATE",
                    f"Timer '{timer.name}' was armed for now {MAX_RUNS} times without time passing",
                    "Arm it for a time that lies ahead",
                )
                self._unstable(timer, error)
                continue
            self._run(timer)
            self._settle()
        self._step(end - self._real)

    def load(self, virtual: int) -> None:
        """Take over a saved virtual time."""
        self._virtual = virtual

    def _runs(self, timer: BenchTimer) -> bool:
        return timer.active and (self.ticking or timer.clock is Clock.REAL)

    def _delay(self, timer: BenchTimer) -> int:
        assert timer.expires is not None
        return max(0, timer.expires - self.now(timer.clock))

    def _next(self) -> BenchTimer | None:
        armed = [timer for timer in self._timers if self._runs(timer)]
        return min(armed, key=lambda timer: (self._delay(timer), timer.order), default=None)

    def _step(self, ns: int) -> None:
        self._real += ns
        if self.ticking:
            self._virtual += ns
