"""One counter of an 8254, computed from time instead of clocked.

8254 Programmable Interval Timer (Intel, 231164-005, 1993): "Mode Definitions", "Gate Pin Operations
Summary", "Counter Latch Command", "Read-Back Command".

A counter is known at one clock (`anchor`); `sync(clock)` brings it to a later one in constant time.
`left` is how many clocks remain: until zero in modes 0, 1, 4 and 5 (the full modulus once it wrapped),
until the reload in mode 2, until the end of the half in mode 3.

What is read often is known ahead: OUT is `high` until the clock `steady`, and the count `step` times what is
left until `end`.  Whatever is done to the counter lets both lapse.

Traps of the chip:
* What is written is loaded at the next clock, and that clock does not count: N+1 clocks to terminal count.
* Modes 2 and 3 take a new count only when the period or half is over; modes 1 and 5 at the next trigger.
* Mode 3 counts by two; an odd count is high one clock longer than low and starts at N-1.
* In mode 0 the first of two bytes stops the counter and lowers OUT at once.
* A gate edge is remembered until the next clock even when the gate falls again.
* Null count falls when the count reaches the counting element, not when it is written.
* A count of 1 is illegal in modes 2 and 3: here OUT stays high.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from vbox_pdm import State
from vbox_pdm.readout import FOREVER

LOW, HIGH, BOTH = 1, 2, 3


def bcd_to_int(value: int) -> int:
    """Four BCD digits; a nibble above 9 counts as its value."""
    return (value & 15) + 10 * (value >> 4 & 15) + 100 * (value >> 8 & 15) + 1000 * (value >> 12 & 15)


def int_to_bcd(value: int) -> int:
    """The four BCD digits of 0..9999."""
    return value % 10 | value // 10 % 10 << 4 | value // 100 % 10 << 8 | value // 1000 % 10 << 12


@frozen
class CounterState(State, version=1):
    """One counter."""

    control: int
    gate: bool
    count: int
    written: bool
    null: bool
    low_byte: int
    read_high: bool
    latch: int
    status: int
    anchor: int
    left: int
    period: int
    half: bool
    load: bool
    loaded: bool
    hold: bool
    due: bool
    out: bool
    shown: int


class Counter:
    """One counter; `clock` is always the number of the current clock, never less than before."""

    __slots__ = (
        "access",
        "anchor",
        "bcd",
        "control",
        "count",
        "due",
        "end",
        "gate",
        "half",
        "high",
        "hold",
        "latch",
        "latched",
        "left",
        "load",
        "loaded",
        "low_byte",
        "mode",
        "modulus",
        "null",
        "out",
        "period",
        "read_high",
        "shown",
        "status",
        "steady",
        "step",
        "written",
    )

    transient = frozenset({"end", "high", "steady", "step"})

    def __init__(self, gate: bool) -> None:
        self.reset(gate)

    def reset(self, gate: bool) -> None:
        """Power on: nothing is programmed, nothing counts."""
        self.gate = gate
        self.shown = 0
        self.anchor = self.end = 0
        self.step = 1
        self.high = True
        self.load = self.loaded = False
        self.program(BOTH << 4, 0)

    def program(self, control: int, clock: int) -> None:
        """A control word (its low six bits)."""
        self.shown = self.value(clock)  # where it stands, until a new count is loaded
        self.control = control
        self.access = control >> 4
        mode = control >> 1 & 7
        self.mode = mode if mode < 6 else mode & 3
        self.bcd = bool(control & 1)
        self.modulus = 10_000 if self.bcd else 0x10000
        self.anchor = clock
        self.count = self.period = self.left = self.modulus
        self.written = self.load = self.loaded = self.hold = self.due = False
        self.null = self.half = True
        self.out = self.mode != 0
        self.low_byte = -1
        self.read_high = False
        self.latch = self.status = -1
        self.latched = False
        self.steady = self.end = 0

    # --- time

    def sync(self, clock: int) -> None:
        """Bring everything to `clock`."""
        clocks = clock - self.anchor
        if clocks <= 0:
            return
        self.anchor = clock
        if self.load:
            self.take_count()
            clocks -= 1
            if not clocks:
                return
        mode = self.mode
        if not self.loaded or self.hold or not (self.gate or mode == 1 or mode == 5):
            if mode == 4:
                self.out = True  # a strobe lasts one clock
            return
        left = self.left
        if mode == 2:
            if clocks < left:
                self.left = left - clocks
            else:
                self.period = period = self.count
                self.null = False
                self.left = period - (clocks - left) % period
        elif mode == 3:
            if clocks < left:
                self.left = left - clocks
            else:
                self.next_halves(clocks - left)
        else:
            if mode < 2:
                if self.due and clocks >= left:
                    self.out, self.due = True, False
            elif self.due and clocks >= left:
                self.out, self.due = clocks > left, False
            else:
                self.out = True
            self.left = (left - clocks - 1) % self.modulus + 1

    def take_count(self) -> None:
        """The count reaches the counting element."""
        self.load, self.loaded, self.null = False, True, False
        self.period = self.left = self.count
        self.due = True
        if self.mode == 3:
            self.half, self.left = True, (self.count + 1) // 2
        elif self.mode == 1:
            self.out = False
        elif self.mode != 0:
            self.out = True

    def next_halves(self, clocks: int) -> None:
        """Mode 3: a half has just ended and `clocks` have passed since."""
        self.period = period = self.count
        self.null = False
        self.half = not self.half
        clocks %= period
        length = (period + 1) // 2 if self.half else period // 2
        if clocks >= length:
            clocks -= length
            self.half = not self.half
            length = period - length
        self.left = length - clocks

    def next_edge(self) -> int | None:
        """The clock of the next change of OUT as an interrupt input sees it, with the gate as it is:
        strobes of modes 2 and 4 count at their end.  None: no change ahead.  Call it in sync."""
        mode = self.mode
        if mode == 4 and not self.out:
            return self.anchor + 1
        if self.load:
            clock = self.anchor + 1
            left = (self.count + 1) // 2 if mode == 3 else self.count
        elif not self.loaded or self.hold:
            return None
        else:
            clock, left = self.anchor, self.left
        if not self.gate or mode == 1 or mode == 5:
            return None
        if mode == 2 or mode == 3:
            return clock + left if self.count > 1 or self.period > 1 else None
        if not (self.due or self.load):
            return None
        return clock + left + (mode == 4)

    def level(self, clock: int) -> bool:
        """OUT."""
        if clock < self.steady:
            return self.high
        self.sync(clock)
        mode, left = self.mode, self.left
        if mode == 2:
            self.high = left != 1 or self.period == 1 or self.load or not (self.gate and self.loaded)
        elif mode == 3:
            self.high = self.half or self.load or not self.gate
        else:
            self.high = self.out
        if self.load or (mode > 3 and not self.out):
            self.steady = self.anchor + 1
        elif not self.counts():
            self.steady = FOREVER
        else:
            self.steady = self.anchor + left - (mode == 2 and left > 1)  # low for the last clock
        return self.high

    def counts(self) -> bool:
        """Whether each clock counts, as it is."""
        return self.loaded and not self.hold and (self.gate or self.mode == 1 or self.mode == 5)

    def value(self, clock: int) -> int:
        """The counting element as it is read: 16 bits, binary or BCD."""
        left = self.end - clock
        return left * self.step & 0xFFFF if left > 0 else self.look(clock)

    def look(self, clock: int) -> int:
        """As value(), when it is not known ahead."""
        self.sync(clock)
        if not self.loaded:
            return self.shown
        left, step = self.left, 1
        if self.mode == 3:
            left, step = left - (self.half and self.period & 1), 2
        if not self.bcd and not self.load and self.counts():
            self.end, self.step = self.anchor + left, step
        value = left * step % self.modulus
        return int_to_bcd(value) if self.bcd else value

    # --- accesses

    def set_gate(self, level: bool, clock: int) -> None:
        if level is self.gate:
            return
        self.sync(clock)
        self.steady = self.end = 0
        self.gate = level
        if level and self.written and self.mode in (1, 2, 3, 5):
            self.load = True

    def write(self, value: int, clock: int) -> None:
        """A byte of the count."""
        self.sync(clock)
        self.steady = self.end = 0
        if self.access == LOW:
            self.set_count(value)
        elif self.access == HIGH:
            self.set_count(value << 8)
        elif self.low_byte < 0:
            self.low_byte = value
            if self.mode == 0:
                self.hold, self.out = True, False
        else:
            self.set_count(value << 8 | self.low_byte)
            self.low_byte = -1

    def set_count(self, count: int) -> None:
        count = bcd_to_int(count) % self.modulus if self.bcd else count
        self.count = count or self.modulus
        self.null = True
        if self.mode == 0:
            self.load, self.hold, self.out = True, False, False
        elif self.mode == 4 or (not self.written and self.mode in (2, 3)):
            self.load = True
        self.written = True

    def read(self, now: Callable[[], int]) -> int:
        """What was latched, status first, else a byte of the running count; `now` gives the clock."""
        if self.latched:
            return self.read_latched()
        clock = now()
        left = self.end - clock
        value = left * self.step if left > 0 else self.look(clock)  # value(), without a call
        if self.read_high:
            self.read_high = False
            return value >> 8 & 0xFF
        access = self.access
        if access == BOTH:
            self.read_high = True
        elif access == HIGH:
            return value >> 8 & 0xFF
        return value & 0xFF

    def read_latched(self) -> int:
        if self.status >= 0:
            status, self.status = self.status, -1
            self.latched = self.latch >= 0
            return status
        value = self.latch
        if self.access == BOTH and not self.read_high:
            self.read_high = True
            return value & 0xFF
        self.read_high = self.latched = False
        self.latch = -1
        return value & 0xFF if self.access == LOW else value >> 8

    def latch_count(self, clock: int) -> None:
        if self.latch < 0:
            self.latch = self.value(clock)
            self.latched = True
            self.read_high = False

    def latch_status(self, clock: int) -> None:
        if self.status < 0:
            level = self.level(clock)
            self.status = level << 7 | self.null << 6 | self.control
            self.latched = True

    # --- state

    def save(self) -> CounterState:
        return CounterState(
            control=self.control,
            gate=self.gate,
            count=self.count,
            written=self.written,
            null=self.null,
            low_byte=self.low_byte,
            read_high=self.read_high,
            latch=self.latch,
            status=self.status,
            anchor=self.anchor,
            left=self.left,
            period=self.period,
            half=self.half,
            load=self.load,
            loaded=self.loaded,
            hold=self.hold,
            due=self.due,
            out=self.out,
            shown=self.shown,
        )

    def load_state(self, state: CounterState) -> None:
        self.loaded = False
        self.program(state.control & 0x3F, state.anchor)
        self.gate, self.written, self.null = state.gate, state.written, state.null
        self.count = min(max(state.count, 1), self.modulus)
        self.period = min(max(state.period, 1), self.modulus)
        self.left = min(max(state.left, 1), self.modulus)
        self.low_byte = min(max(state.low_byte, -1), 0xFF)
        self.read_high = state.read_high and self.access == BOTH
        self.latch, self.status = min(max(state.latch, -1), 0xFFFF), min(max(state.status, -1), 0xFF)
        self.latched = self.latch >= 0 or self.status >= 0
        self.shown = state.shown & 0xFFFF
        self.half, self.load, self.loaded = state.half, state.load, state.loaded
        self.hold, self.due, self.out = state.hold, state.due, state.out
