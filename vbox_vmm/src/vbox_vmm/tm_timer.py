"""TM's timers and the queue that holds them (`tm` has the clocks and everything else).

Facts: vmm.md section 9.  A timer is one-shot; its callback may arm it again.  A queue goes by the
nanoseconds of one clock; timers on TSC share VIRTUAL_SYNC's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from vbox_pdm import Clock, State

if TYPE_CHECKING:
    from vbox_vmm.tm import TimeManager

FAR = 1 << 62
"""Later than anything, in ns: 146 years.  A timer for then or later never fires."""


@frozen
class TimerState(State, version=1):
    """The saved state of a timer: `expires` is in its clock's units, None when it is not armed."""

    expires: int | None


class Queue:
    """The timers of one clock by expiry, ties in the order in which they were armed.

    A timer that is stopped or moved leaves its entry behind; such entries are dropped when they come
    to the front, or all together when they outnumber the live ones.
    """

    __slots__ = ("heap", "live")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Timer]] = []
        self.live = 0

    def head(self) -> Timer | None:
        heap = self.heap
        while heap:
            _key, ticket, timer = heap[0]
            if timer.ticket == ticket:
                return timer
            heapq.heappop(heap)
        return None

    def first(self) -> int:
        """When the first timer expires; `FAR` without one."""
        heap = self.heap
        if heap:
            key, ticket, timer = heap[0]
            if timer.ticket == ticket or self.head() is not None:
                key = heap[0][0]
                return key if key < FAR else FAR
        return FAR

    def take(self, last: int) -> Timer | None:
        """Disarm the first timer and return it, if it expires by then."""
        heap = self.heap
        while heap and heap[0][0] <= last:
            _key, ticket, timer = heapq.heappop(heap)
            if timer.ticket == ticket:
                self.live -= 1
                timer.ticket = 0
                return timer
        return None

    def push(self, timer: Timer) -> None:
        heapq.heappush(self.heap, (timer.key, timer.ticket, timer))
        self.live += 1
        if len(self.heap) > 2 * self.live + 64:
            self.heap = [entry for entry in self.heap if entry[2].ticket == entry[1]]
            heapq.heapify(self.heap)


@define(eq=False)
class Timer:
    """A one-shot timer; fills the contract's `vbox_pdm.Timer`.  Made by `TimeManager.create`."""

    name: str
    clock: Clock
    callback: Callable[[], None]
    owner: object
    manager: TimeManager = field(repr=False)
    queue: Queue = field(repr=False)
    ticket: int = 0
    """The number of its valid entry in the queue; 0 when it is not armed."""
    key: int = 0
    """When it fires, in ns of the clock that its queue goes by."""
    when: int = 0
    """When it fires, in its own clock's units."""
    runs: int = 0
    """How often it has run since `window`, a time of its queue."""
    window: int = 0
    warned: bool = False

    @property
    def active(self) -> bool:
        """Whether it is armed."""
        return self.ticket != 0

    @property
    def expires(self) -> int | None:
        """When it fires, in its clock's units; None when it is not armed."""
        return self.when if self.ticket else None

    def set(self, when: int) -> None:
        """Arm it, or move it, to an absolute time of its clock (ns, TSC: ticks); the past fires at once."""
        self.manager.arm(self, when)

    def set_relative(self, delay: int) -> None:
        """Arm it, or move it, `delay` (ns, TSC: ticks) from now."""
        self.manager.arm(self, self.manager.now(self.clock) + delay)

    def stop(self) -> None:
        """Disarm it; no effect when it is not armed."""
        self.manager.disarm(self)

    def destroy(self) -> None:
        """Disarm it and forget it; it must not be used any more."""
        self.manager.destroy(self)

    def save(self) -> TimerState:
        """Whether and when it fires."""
        return TimerState(self.expires)

    def load(self, state: TimerState) -> None:
        """Arm or disarm it as it was; the clocks must have been loaded before."""
        if state.expires is None:
            self.stop()
        else:
            self.set(state.expires)


def label(timer: Timer) -> str:
    """Owner and name, for logs and info texts."""
    return timer.name if timer.owner is None else f"{timer.owner}: {timer.name}"


def table(timers: Iterable[Timer], now: Callable[[Clock], int], active_only: bool) -> str:
    """A line for each timer; the active ones alone by clock and expiry."""
    lines = [f"{'Clock':<12} {'Time':>20} {'Expire':>20} {'State':<8} Description"]
    shown = [timer for timer in timers if timer.ticket or not active_only]
    if active_only:
        shown.sort(key=lambda timer: (timer.clock.value, timer.key, timer.ticket))
    for timer in shown:
        expires = str(timer.when) if timer.ticket else "-"
        state = "ACTIVE" if timer.ticket else "STOPPED"
        time = now(timer.clock)
        lines.append(f"{timer.clock.name:<12} {time:>20} {expires:>20} {state:<8} {label(timer)}")
    return "\n".join([*lines, ""])
