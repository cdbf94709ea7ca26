"""TM: the time manager: clocks, timers, catch-up, warp.

Facts: vmm.md section 9.

Four clocks.  REAL is the host's.  VIRTUAL is the host's while the VM runs, scaled by warp drive.
VIRTUAL_SYNC follows VIRTUAL but never passes a timer that is due: when the VMM is late, guest time
waits for it, lags, and afterwards runs a little faster until it has caught up.  All that the guest
sees hangs on VIRTUAL_SYNC; TSC is a linear function of it.

With a counter VIRTUAL follows that clock and not the host's: executed instructions, see
`instruction_clock`.  Then there are two deadlines, the counter's for the virtual clocks and the host's
for REAL.

How VIRTUAL_SYNC is computed (`tm_line`).  Since the last anchor (virtual time `_v0`, sync time `_s0`) it runs
with VIRTUAL, plus `_rate` per cent until `_v_end`, and stops at `_limit`, the expiry of the first
timer on it.  So reading it changes nothing, and whoever lets the guest's TSC run natively needs the
same four numbers (`tsc_mapping`).  A new anchor is set when timers have run, when the timer that
held the clock went away, and when catching up is over.

Traps:
* Lateness below the schedule slack is forgiven: it causes no lag (a timer thread is always late).
* The limit is not the first timer's expiry when that lies in the past: time never runs backwards.
* A timer that is armed for "now", or for a nanosecond later, over and over must not hang the VM: it
  runs at most MAX_RUNS times in PUT_OFF, then it is put off until these are over.

Nothing here locks: all calls are made under the VM's lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from attrs import frozen

from vbox_pdm import Clock, PdmError, State, StateError
from vbox_pdm.readout import PlainReadout, Readout
from vbox_pdm.timers import check_reader
from vbox_vmm.instruction_clock import InstructionClock
from vbox_vmm.tm_config import NS_PER_SECOND, Mode, TmConfig, invalid
from vbox_vmm.tm_line import NO_LIMIT as NO_LIMIT
from vbox_vmm.tm_line import Look, TscMapping, make_line
from vbox_vmm.tm_timer import FAR, Queue, label, table
from vbox_vmm.tm_timer import Timer as Timer
from vbox_vmm.tm_timer import TimerState as TimerState

log = logging.getLogger("vbox.TM")

NEVER = 0
"""As a deadline: there is none (what `Engine.set_deadline` understands)."""
MAX_TIMERS = 4096
MAX_RUNS = 16
PUT_OFF = 100_000
"""A timer may run MAX_RUNS times in so many ns (or in the schedule slack, when that is longer)."""

_VIRTUAL, _SYNC, _REAL, _TSC = Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.REAL, Clock.TSC


@frozen
class TmState(State, version=2):
    """The saved state of the clocks (unit "tm").  Timers are saved with their owners."""

    virtual: int
    virtual_sync: int
    given_up: int
    rate: int
    """Per cent of extra speed while catching up, else 0."""
    tsc: int
    tsc_hz: int
    executed: int = 0
    """Instructions, when these are counted."""

    @classmethod
    def upgrade(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 knew no instructions."""
        return {**fields, "executed": 0}


class TimeManager:
    """Time of one VM.  It is created paused; `resume` starts the virtual clocks.

    `host_clock` gives ns and never runs backwards; `utc_clock` gives ns since 1970.
    `on_deadline_change(deadline)` is called when a timer was armed for an earlier host time than
    `next_deadline_host_ns` last announced (not from within `run_due`, whose caller asks anyway): the
    engine then needs the new deadline and a new TSC mapping at once.  A counter is told both by TM.
    `on_timer_failure(timer, error)` is told of callbacks that raise; by default it is logged.
    With a `counter` VIRTUAL follows it.
    """

    def __init__(
        self,
        config: TmConfig | None = None,
        *,
        host_clock: Callable[[], int] = time.monotonic_ns,
        utc_clock: Callable[[], int] = time.time_ns,
        counter: InstructionClock | None = None,
        on_deadline_change: Callable[[int], None] | None = None,
        on_timer_failure: Callable[[Timer, Exception], None] | None = None,
    ) -> None:
        self.config = config or TmConfig()
        self.on_deadline_change = on_deadline_change
        self.on_timer_failure = on_timer_failure
        self.tsc_version = 1
        """Changes whenever `tsc_mapping` describes another line than before."""
        self._host = host_clock
        self._utc = utc_clock
        self.counter = counter
        self._source = host_clock if counter is None else counter  # what VIRTUAL follows
        self._ticking = False
        self._anchor = 0  # the source's time at which VIRTUAL was _base
        self._base = 0
        self._warp = self.config.warp_percentage
        self._jumped = 0  # ns that were skipped while halted
        self._v0 = self._s0 = 0
        self._rate = 0
        self._v_end = 0
        self._limit = FAR
        self._line = make_line(self._source)  # all of that for whoever asks for the time
        self._virtual_now, self._sync_now = self._line.virtual, self._line.sync
        self._given_up = 0
        self._tsc_hz = self.config.tsc_hz
        self._tsc_offset = 0  # TSC - VIRTUAL_SYNC in ticks
        self._timers: list[Timer] = []
        self._sync_queue, self._virtual_queue, self._real_queue = Queue(), Queue(), Queue()
        self._tickets = 0
        self._running = False
        self._in_sync = False  # sync timers are being run: the clock stands at each one's expiry
        self._announced = FAR
        self._stop = FAR  # what the counter was told
        # More than the slack, so that what is put off does not run in the same round.
        self._put_off = max(PUT_OFF, self.config.slack + 1)

    # Clocks

    @property
    def ticking(self) -> bool:
        """Whether the virtual clocks run."""
        return self._ticking

    @property
    def lag(self) -> int:
        """How far VIRTUAL_SYNC is behind, in ns, without what was given up."""
        virtual = self._virtual_now()
        return virtual - self._sync_at(virtual) - self._given_up

    @property
    def catch_up_rate(self) -> int:
        """Per cent by which VIRTUAL_SYNC runs faster now; 0 when it is not catching up."""
        return self._rate if self._rate and self._virtual_now() < self._v_end else 0

    def now(self, clock: Clock) -> int:
        """The time of `clock`: ns, for TSC ticks."""
        if clock is _SYNC:
            return self._sync_now()
        if clock is _VIRTUAL:
            return self._virtual_now()
        if clock is _REAL:
            return self._host()
        return self._ticks(self._sync_now())

    def reader(self, clock: Clock, hz: int = NS_PER_SECOND) -> Callable[[], int]:
        """What gives the time of a clock in ns, at less cost than `now`, or in periods of `hz` (1..10**9).

        Raises PdmError VERR_INVALID_PARAMETER, for TSC as well.
        """
        check_reader(clock, hz)
        if clock is not _REAL:
            return self._line.reader(clock is _SYNC, hz)
        host = self._host
        return host if hz == NS_PER_SECOND else lambda: host() * hz // NS_PER_SECOND

    def readout(self, look: Look, clock: Clock, hz: int = NS_PER_SECOND) -> Readout:
        """What stands in front of a read handler and answers by the time of a clock, as `reader` gives it.

        Raises PdmError VERR_INVALID_PARAMETER, for TSC as well.
        """
        if clock is _REAL:
            return PlainReadout(self.reader(clock, hz), look)
        check_reader(clock, hz)
        return self._line.readout(look, clock is _SYNC, hz)

    def frequency(self, clock: Clock) -> int:
        """Units per second of `clock`."""
        return self._tsc_hz if clock is _TSC else NS_PER_SECOND

    def utc_now_ns(self) -> int:
        """The guest's wall clock: ns since 1970-01-01 UTC."""
        if self.counter is not None:
            start = self.config.utc_start * NS_PER_SECOND + self.config.utc_offset
            return start + self._virtual_now() - self.lag
        # What warp skipped has passed for the guest; what it lags behind has not.
        return self._utc() + self.config.utc_offset + self._jumped - self.lag

    def tsc_mapping(self) -> TscMapping:
        """The line on which the TSC runs from now on, until `tsc_version` changes."""
        return self._line.mapping(self._tsc_offset, self._tsc_hz)

    def pause(self) -> None:
        """Stop the virtual clocks.  Raises PdmError VERR_TM_TSC_ALREADY_PAUSED."""
        if not self._ticking:
            raise PdmError("VERR_TM_TSC_ALREADY_PAUSED", "TM: the virtual clocks are paused already")
        self._base = self._virtual_now()
        self._ticking = False
        self._line_changed()

    def resume(self) -> None:
        """Let the virtual clocks run.  Raises PdmError VERR_TM_TSC_ALREADY_TICKING."""
        if self._ticking:
            raise PdmError("VERR_TM_TSC_ALREADY_TICKING", "TM: the virtual clocks are running already")
        self._anchor = self._source()
        self._ticking = True
        self._line_changed()
        self._deadline_may_be_earlier()

    def set_warp_percentage(self, percentage: int) -> None:
        """Virtual time runs at `percentage` per cent of the host's (2..20000) from now on.

        Raises ConfigError VERR_INVALID_PARAMETER.
        """
        if not 2 <= percentage <= 20_000:
            raise invalid(f"warp drive percentage is {percentage}", "It takes 2..20000")
        if self.counter is not None:
            raise invalid("instructions are the source of time", "Set InstructionTime before the VM is made")
        if self._ticking:
            host = self._source()
            self._base += (host - self._anchor) * self._warp // 100
            self._anchor = host
        self._warp = percentage
        self._line_changed()
        log.info("TM: Warp drive at %d%%", percentage)
        self._deadline_may_be_earlier()

    # Timers

    def create(self, name: str, clock: Clock, callback: Callable[[], None], owner: object = None) -> Timer:
        """A new timer, not armed.  `owner` is named in logs and info texts.

        Raises PdmError VERR_TM_TOO_MANY_TIMERS, VERR_TM_TIMER_BAD_CLOCK.
        """
        if not isinstance(clock, Clock):
            raise PdmError("VERR_TM_TIMER_BAD_CLOCK", f"TM: timer '{name}' wants clock {clock!r}")
        if len(self._timers) >= MAX_TIMERS:
            raise PdmError(
                "VERR_TM_TOO_MANY_TIMERS", f"TM: timer '{name}' would be one more than {MAX_TIMERS}"
            )
        queue = {_REAL: self._real_queue, _VIRTUAL: self._virtual_queue}.get(clock, self._sync_queue)
        timer = Timer(name, clock, callback, owner, self, queue)
        self._timers.append(timer)
        return timer

    def arm(self, timer: Timer, when: int) -> None:
        """What `Timer.set` does."""
        key = self._ns(when) if timer.clock is _TSC else when
        if timer.runs >= MAX_RUNS and key < timer.window + self._put_off:
            key, when = self._later(timer)
        queue = timer.queue
        was_head = timer.ticket != 0 and queue.head() is timer
        if timer.ticket:
            queue.live -= 1
        self._tickets += 1
        timer.ticket = self._tickets
        timer.key, timer.when = key, when
        queue.push(timer)
        # An entry that was left behind at the front means a look for nothing.
        if was_head or queue.heap[0][2] is timer or queue.head() is timer:
            if queue is self._sync_queue and not self._in_sync:
                self._sync_head_changed()
            if not self._running:  # a call for nothing, and a tick is hot
                self._deadline_may_be_earlier()

    def disarm(self, timer: Timer) -> None:
        """What `Timer.stop` does."""
        if not timer.ticket:
            return
        queue = timer.queue
        was_head = queue.head() is timer
        timer.ticket = 0
        queue.live -= 1
        if was_head and queue is self._sync_queue and not self._in_sync:
            self._sync_head_changed()

    def destroy(self, timer: Timer) -> None:
        """What `Timer.destroy` does."""
        self.disarm(timer)
        if timer in self._timers:
            self._timers.remove(timer)

    @property
    def timers(self) -> tuple[Timer, ...]:
        """All timers in the order of their creation."""
        return tuple(self._timers)

    # What EM asks

    def next_deadline_host_ns(self) -> int:
        """When `run_due` is to be called next, as a host time; NEVER (0) when nothing is to come.

        A time that has passed means: at once.
        """
        self._announced = self._deadline()
        if self.counter is not None:
            self._stop_counter()
        return self._announced if self._announced != FAR else NEVER

    @property
    def counted_out(self) -> bool:
        """Whether the counter has reached the time at which `run_due` is to be called."""
        return self.counter is not None and self.counter() >= self._stop

    @property
    def warps(self) -> bool:
        """Whether virtual time jumps while the vCPU is halted."""
        return self.config.mode is Mode.WARP and self._ticking

    def halted_until_next(self) -> int:
        """The vCPU is halted: until which host time may EM sleep?  NEVER (0): until something happens.

        In warp mode virtual time jumps to the next timer on a virtual clock instead, and the answer is
        the present.
        """
        if self.warps:
            target = min(self._virtual_queue.first(), self._line.virtual_of(self._limit))
            if target != FAR:
                skip = target - self._virtual_now()
                if skip > 0:
                    self._skip(skip)
                return max(self._host(), 1)
        return self.next_deadline_host_ns()

    def until_next(self) -> int:
        """VIRTUAL's ns until `run_due` is to be called for a timer on a virtual clock; `FAR` without one."""
        target = min(self._virtual_queue.first(), self._line.virtual_of(self._limit))
        if self._rate:
            target = min(target, self._v_end)
        return target if target == FAR else max(target - self._virtual_now(), 0)

    def pass_idle(self, ns: int) -> None:
        """The guest was halted for so long while the counter stood (0..`until_next()`)."""
        if ns > 0:
            self._skip(ns)
            self._deadline_may_be_earlier()

    def _skip(self, ns: int) -> None:
        self._base += ns
        self._jumped += ns
        self._line_changed()

    def run_due(self) -> int:
        """Run the timers that are due; returns how many callbacks were called.

        While the VM is paused these are only those on REAL.  Callbacks may arm, stop, create and
        destroy timers.  Raises PdmError VERR_TM_INVALID_STATE when called by a callback.
        """
        if self._running:
            raise PdmError("VERR_TM_INVALID_STATE", "TM: timers are being run already")
        self._running = True
        try:
            count = 0
            if self._ticking:
                count += self._run_sync()
            if self._ticking and self._virtual_queue.heap:
                count += self._run_queue(self._virtual_queue, self._virtual_now())
            if self._real_queue.heap:
                count += self._run_queue(self._real_queue, self._host())
            return count
        finally:
            self._running = self._in_sync = False

    # State and information

    def save(self) -> TmState:
        """The clocks.  Timers are saved one by one (`Timer.save`)."""
        virtual = self._virtual_now()
        sync = self._sync_at(virtual)
        rate = self._rate if virtual < self._v_end else 0
        executed = 0 if self.counter is None else self.counter.executed
        return TmState(virtual, sync, self._given_up, rate, self._ticks(sync), self._tsc_hz, executed)

    def load(self, state: TmState) -> None:
        """Set the clocks; timers keep their expiry until they are loaded themselves.

        Raises StateError VERR_TM_LOAD_STATE, with nothing changed, when the clocks run or the values
        do not fit together.
        """
        if self._ticking:
            raise StateError(
                "VERR_TM_LOAD_STATE", "TM: cannot load while the virtual clocks run", "Pause first"
            )
        lag = state.virtual - state.virtual_sync - state.given_up
        tsc_offset = state.tsc - state.virtual_sync * self._tsc_hz // NS_PER_SECOND
        if (
            min(state.virtual, state.virtual_sync, state.given_up, state.rate, lag, state.executed) < 0
            or max(state.virtual, state.executed * (self.counter.ns if self.counter else 1)) >= FAR
            or state.tsc_hz <= 0
            or state.rate > 2000
            or abs(tsc_offset) >= FAR
        ):
            raise StateError("VERR_TM_LOAD_STATE", f"TM: the saved clocks contradict each other: {state}")
        if state.tsc_hz != self._tsc_hz:
            log.warning("TM: TSC runs at %d Hz, it was saved at %d Hz", self._tsc_hz, state.tsc_hz)
        if self.counter is not None:
            self.counter.executed = state.executed
        self._base = state.virtual
        self._jumped = 0
        self._given_up = state.given_up
        self._tsc_offset = tsc_offset
        self._rate = state.rate
        self._set_anchor(state.virtual, state.virtual_sync)
        for timer in self._timers:
            timer.runs = 0  # counted on other clocks
            if timer.clock is _TSC and timer.ticket:
                self.arm(timer, timer.when)  # its place in the queue follows from the offset

    def info_clocks(self) -> str:
        """The text of `info clocks`."""
        virtual = self._virtual_now()
        sync = self._sync_at(virtual)
        running = "ticking" if self._ticking else "paused"
        warp = f" - warp drive {self._warp}%" if self._warp != 100 else ""
        counted = "" if self.counter is None else f" - {self.counter.executed} instructions"
        held = " - held by a timer" if self._ticking and self._line.unlimited(virtual) > self._limit else ""
        offset = f" - offset {virtual - sync}" if virtual != sync else ""
        given_up = f" given up {self._given_up}" if self._given_up else ""
        rate = f" catching up at {self.catch_up_rate}%" if self.catch_up_rate else ""
        rows = (
            ("Cpu Tick", self._ticks(sync), self._tsc_hz, running + " - virtualized"),
            ("Virtual", virtual, NS_PER_SECOND, f"{running} - {self.config.mode.value}{warp}{counted}"),
            ("VirtSync", sync, NS_PER_SECOND, running + held + offset + given_up + rate),
            ("Real", self._host(), NS_PER_SECOND, "ticking"),
        )
        return "".join(
            f"{name:>8}: {value:18} ({value:#018x}) {hz} Hz {text}\n" for name, value, hz, text in rows
        )

    def info_timers(self, active_only: bool = False) -> str:
        """The text of `info timers`, or of `info activetimers`."""
        return table(self._timers, self.now, active_only)

    # VIRTUAL_SYNC

    def _line_changed(self) -> None:
        self.tsc_version += 1
        warp = self._warp if self._ticking else 0
        self._line.set(
            self._anchor, self._base, warp, self._v0, self._s0, self._rate, self._v_end, self._limit
        )
        if self.counter is not None:  # at once: EM comes around when the host likes
            self.counter.set_tsc(self.tsc_mapping())

    def _sync_at(self, virtual: int) -> int:
        return min(self._line.unlimited(virtual), self._limit)

    def _set_anchor(self, virtual: int, sync: int, first: int | None = None) -> None:
        """VIRTUAL_SYNC is `sync` at `virtual`: decide how it goes on.  `first`: of its queue, if known."""
        config = self.config
        lag = virtual - sync - self._given_up
        if lag > config.give_up_threshold:
            self._given_up += lag
            self._rate = 0
            log.warning(
                "TM: Giving up catch-up attempt at a %d ns lag; new total: %d ns", lag, self._given_up
            )
        elif lag <= config.stop_threshold:
            self._rate = 0
        else:
            # While catching up the rate only rises, so that it does not creep towards the end.
            for period in config.periods:
                if lag >= period.start and period.percentage > self._rate:
                    self._rate = period.percentage
        self._v0, self._s0 = virtual, sync
        rest = lag - config.stop_threshold
        self._v_end = virtual - (-rest * 100 // self._rate) if self._rate else virtual
        self._limit = max(self._sync_queue.first() if first is None else first, sync)
        self._line_changed()

    def _sync_head_changed(self) -> None:
        """Another timer than before holds VIRTUAL_SYNC, or none.  (_run_sync sets an anchor at its end.)"""
        virtual = self._virtual_now()
        sync = self._line.unlimited(virtual)
        if sync > self._limit:  # it stood still: it goes on from there
            self._set_anchor(virtual, self._limit)
            return
        limit = max(self._sync_queue.first(), sync)
        if limit != self._limit:
            self._limit = limit
            self._line_changed()

    def _run_sync(self) -> int:
        virtual = self._virtual_now()
        reach = self._line.unlimited(virtual)
        if self._limit > reach:
            if self._rate and virtual >= self._v_end:
                self._set_anchor(virtual, reach)
            return 0
        # Timers within the slack run together.  Each callback finds the clock at its own expiry.
        start = self._limit
        last = min(reach, start + self.config.slack)
        count = 0
        queue = self._sync_queue
        self._in_sync = True
        # The look at the front spares a call for nothing.
        while self._ticking and queue.heap and queue.heap[0][0] <= last and (timer := queue.take(last)):
            if timer.key > self._limit:
                self._limit = timer.key
                self._line.hold(timer.key)
            self._fire(timer, self._limit)
            count += 1
        self._in_sync = False
        reached = self._limit
        virtual = self._virtual_now()
        first = queue.first()
        forgiven = min(self._line.unlimited(virtual), start + self.config.slack, first)
        self._set_anchor(virtual, max(reached, forgiven), first)
        return count

    # Queues

    def _run_queue(self, queue: Queue, due: int) -> int:
        count = 0
        while (timer := queue.take(due)) is not None:
            self._fire(timer, due)
            count += 1
            if queue is self._virtual_queue and not self._ticking:
                break
        return count

    def _fire(self, timer: Timer, now: int) -> None:
        if now - timer.window >= self._put_off or not timer.runs:
            timer.window, timer.runs = now, 0
        timer.runs += 1
        try:
            timer.callback()
        except Exception as error:
            if self.on_timer_failure is None:
                log.exception("TM: timer %s failed", label(timer))
            else:
                self.on_timer_failure(timer, error)

    def _later(self, timer: Timer) -> tuple[int, int]:
        """Key and expiry of a timer that has used up its runs."""
        if not timer.warned:
            timer.warned = True
            text = "TM: timer %s ran %d times within %d ns and is put off"
            log.warning(text, label(timer), MAX_RUNS, self._put_off)
        key = timer.window + self._put_off
        return key, self._ticks(key) if timer.clock is _TSC else key

    def _ticks(self, sync: int) -> int:
        return self._tsc_offset + sync * self._tsc_hz // NS_PER_SECOND

    def _ns(self, ticks: int) -> int:
        """The first VIRTUAL_SYNC time at which TSC is `ticks` or more."""
        return -((self._tsc_offset - ticks) * NS_PER_SECOND // self._tsc_hz)

    def _deadline(self) -> int:
        deadline = self._real_queue.first() if self._real_queue.heap else FAR
        if self.counter is None:
            deadline = min(deadline, self._source_deadline())
        return max(deadline, 1)  # 0 means that there is none

    def _source_deadline(self) -> int:
        """The source's time at which the virtual clocks are at their deadline."""
        return self._line.deadline(self._virtual_queue.first() if self._virtual_queue.heap else FAR)

    def _stop_counter(self) -> None:
        assert self.counter is not None
        self._stop = self._source_deadline()
        self.counter.stop_at(self._stop)

    def _deadline_may_be_earlier(self) -> None:
        if self._running:
            return
        if self.counter is not None and self._source_deadline() < self._stop:
            self._stop_counter()
        if self.on_deadline_change is None:
            return
        deadline = self._deadline()
        if deadline < self._announced:
            self._announced = deadline
            self.on_deadline_change(deadline)
