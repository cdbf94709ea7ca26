"""The 8254 interval timer of a PC, and port 0x61.

8254 Programmable Interval Timer (Intel, 231164-005, 1993); port 0x61 as in the 82371SB (PIIX3, Intel
290550), "NMI Status and Control Register".  The counters themselves are in `pit_counter`.

Counter 0 drives IRQ 0, counter 1 the refresh, counter 2 the speaker; gates 0 and 1 are tied high, gate 2
is port 0x61 bit 0.  All of them count 1,193,182 clocks a second of Clock.VIRTUAL_SYNC.

Modelled: everything that software can see of the 8254; of port 0x61 the speaker bits, the refresh toggle,
OUT2 and the two NMI enables as storage.  Not modelled: the sound of the speaker; SERR# and IOCHK#.

Traps of the chip:
* IRQ 0 is the level of OUT0.  In modes 2 and 4 OUT0 is low for one clock only: here the line falls and
  rises at the end of that clock, so that a tick costs one timer.
* Periods are counted from the load in whole clocks.  A callback that comes late shifts nothing.
* Read-back latches the status of the moment; status is read before a latched count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from vbox_pdm import (
    Clock,
    Device,
    DeviceClass,
    DeviceType,
    Ports,
    Reg8,
    RegisterMap,
    State,
    Width,
    hookimpl,
    key,
)
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup
from vbox_plugin_pc.pit_counter import BOTH, HIGH, Counter, CounterState

FREQUENCY = 1_193_182
# Clocks in a nanosecond, in lowest terms: 1,193,182 / 10^9.
_CLOCKS, _NANOSECONDS = 596_591, 500_000_000
REFRESH_CLOCKS = 18
"""Between two refreshes when counter 1 does not say otherwise: 15.09 us."""


class Registers(RegisterMap):
    """The 8254."""

    # What they read at first is undefined; each read takes what was latched, or one of two bytes.
    COUNTER0 = Reg8(0, reset=None, effect="the latched status or count first; low and high byte in turn")
    COUNTER1 = Reg8(1, reset=None, effect="as of COUNTER0")
    COUNTER2 = Reg8(2, reset=None, effect="as of COUNTER0")
    CONTROL = Reg8(3, "w", fields={"BCD": 0, "M": (1, 3), "RW": (4, 5), "SC": (6, 7)}, when="SC<3, RW>0")
    LATCH = Reg8(3, "w", fields={"SC": (6, 7)}, when="SC<3, RW=0")
    READ_BACK = Reg8(3, "w", fields={"CNT": (1, 3), "nSTATUS": 4, "nCOUNT": 5}, when="SC=3")


class SystemControl(RegisterMap):
    """Port 0x61."""

    NMISC = Reg8(
        0,
        bits=0x3F,  # nobody raises SERR# or IOCHK#
        fields={
            "GATE2": 0,
            "SPEAKER": 1,
            "nSERR": 2,
            "nIOCHK": 3,
            "REFRESH": 4,
            "OUT2": 5,
            "IOCHK": 6,
            "SERR": 7,
        },
    )


@frozen
class Config:
    base: int = key(0x40, span=(0, 0xFFFC), help="first of the four ports")
    irq: int = key(0, span=(0, 15), help="ISA interrupt line of counter 0")


@frozen
class PitState(State, version=2):
    """All counters at the clock of saving; `edge` is the clock that the timer of counter 0 waits for, or
    -1; `refresh_from` the one from which on refreshes are counted."""

    counters: tuple[CounterState, ...]
    control: int
    edge: int
    refresh_from: int

    @classmethod
    def upgrade(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 counted refreshes from the clock 0 on."""
        return {**fields, "refresh_from": 0}


def clock_at(time: int) -> int:
    """The number of the clock at a time in nanoseconds."""
    return time * _CLOCKS // _NANOSECONDS


def time_of(clock: int) -> int:
    """The first nanosecond of a clock."""
    return -(-clock * _NANOSECONDS // _CLOCKS)


class Pit(Device[Config]):
    """The chip and port 0x61.

    Both are polled.  While the host answers for a counter (`counts`), it alone knows whose turn it is of the
    two bytes: whatever is done to a counter takes it back first.
    """

    def pdm_construct(self) -> None:
        self.counters = (Counter(True), Counter(True), Counter(False))
        self.control = 0  # bits 0 to 3 of port 0x61
        self.edge = -1
        self.irq = self.helpers.isa_irq(self.config.irq)
        self.timer = self.helpers.timer("counter 0", Clock.VIRTUAL_SYNC, self.expired)
        # Bound once: a tick is hot.
        self.set_irq = self.irq.set
        self.arm = self.timer.set
        self.clock = self.helpers.reader(Clock.VIRTUAL_SYNC, FREQUENCY)
        self.refresh_from = self.clock()
        self.counts = self.helpers.readout(self.read, Clock.VIRTUAL_SYNC, FREQUENCY)
        self.nmisc = self.helpers.readout(self.read_control, Clock.VIRTUAL_SYNC, FREQUENCY)
        region = Ports("8254", 4, self.counts.read, self.write, registers=Registers, width=Width.BYTE)
        self.helpers.map_ports(self.config.base, region)
        region = Ports(
            "nmisc", 1, self.nmisc.read, self.write_control, registers=SystemControl, width=Width.BYTE
        )
        self.helpers.map_ports(0x61, region)

    def pdm_reset(self) -> None:
        self.take_all_back()
        for number, counter in enumerate(self.counters):
            counter.reset(number < 2)
        self.control = 0
        self.edge = -1
        self.timer.stop()
        self.refresh_from = self.clock()  # the toggle begins anew, with 0
        self.irq.set(False)

    # --- the 8254

    def read(self, offset: int, size: int) -> int:
        if offset == 3:
            return 0xFF  # the control word cannot be read
        self.take_back(offset)
        counter = self.counters[offset]
        value = counter.read(self.clock)
        access, end, step = counter.access, counter.end, counter.step
        if end and access != HIGH and not counter.latched:
            self.counts.hold(offset, 1, end * step, end, -step, 1 + (access == BOTH), counter.read_high)
        return value

    def take_back(self, number: int) -> None:
        """The counter answers itself again."""
        turn = self.counts.drop(number)
        if turn >= 0:
            self.counters[number].read_high = bool(turn)

    def take_all_back(self) -> None:
        for number in range(3):
            self.take_back(number)
        self.nmisc.drop(0)

    def write(self, offset: int, size: int, value: int) -> None:
        clock = self.clock()
        select = offset
        if offset == 3:
            select = value >> 6
            if select == 3:
                self.read_back(value, clock)
                return
            self.take_back(select)
            if not value & 0x30:
                self.counters[select].latch_count(clock)
                return
            self.counters[select].program(value & 0x3F, clock)
        else:
            self.take_back(offset)
            self.counters[offset].write(value, clock)
        self.nmisc.drop(0)
        if not select:
            self.follow(clock)

    def read_back(self, value: int, clock: int) -> None:
        for number, counter in enumerate(self.counters):
            if value & 2 << number:
                self.take_back(number)
                if not value & 0x20:
                    counter.latch_count(clock)
                if not value & 0x10:
                    counter.latch_status(clock)

    # --- port 0x61

    def read_control(self, offset: int, size: int) -> int:
        clock = self.clock()
        refresh, speaker = self.counters[1], self.counters[2]
        period = refresh.count if refresh.written and refresh.mode in (2, 3) else REFRESH_CLOCKS
        number = (clock - self.refresh_from) // period
        status = self.control | (number & 1) << 4 | speaker.level(clock) << 5
        self.nmisc.hold(0, 1, status, min(self.refresh_from + (number + 1) * period, speaker.steady))
        return status

    def write_control(self, offset: int, size: int, value: int) -> None:
        self.control = value & 0x0F
        self.nmisc.drop(0)
        self.take_back(2)
        self.counters[2].set_gate(bool(value & 1), self.clock())

    # --- IRQ 0

    def follow(self, clock: int) -> None:
        """Counter 0 was written: IRQ 0 and the timer follow."""
        counter = self.counters[0]
        self.set_irq(counter.level(clock))
        edge = counter.next_edge()
        if edge is None:
            self.edge = -1
            self.timer.stop()
        else:
            self.edge = edge
            self.arm(time_of(edge))

    def expired(self) -> None:
        """The clock `edge` has come.  Hot in modes 2 and 3: up to some thousand times a second."""
        counter = self.counters[0]
        edge = self.edge
        mode = counter.mode
        if mode == 2:
            self.set_irq(False)
            self.set_irq(True)
            edge += counter.count  # a reload takes the latest count
            if counter.count == 1:
                self.edge = -1
                return
        elif mode == 3:
            counter.sync(edge)
            self.set_irq(counter.half)
            edge += counter.left
            if counter.period == 1:
                self.edge = -1
                return
        else:
            self.one_shot_over(counter, edge)
            return
        self.edge = edge
        self.arm(-(-edge * _NANOSECONDS // _CLOCKS))

    def one_shot_over(self, counter: Counter, edge: int) -> None:
        if counter.mode == 4:
            self.set_irq(False)
        counter.sync(edge)
        self.follow(edge)

    # --- state

    def pdm_save(self) -> PitState:
        clock = self.clock()
        self.take_all_back()
        for counter in self.counters:
            counter.sync(clock)  # when somebody last looked at it is no part of the state
        return PitState(
            tuple(counter.save() for counter in self.counters), self.control, self.edge, self.refresh_from
        )

    def pdm_load(self, state: PitState) -> None:
        self.take_all_back()
        for counter, saved in zip(self.counters, state.counters, strict=True):
            counter.load_state(saved)
        self.control = state.control & 0x0F
        self.edge = state.edge
        self.refresh_from = state.refresh_from

    def pdm_info(self, arguments: str) -> str:
        clock = self.clock()
        lines = []
        for number, counter in enumerate(self.counters):
            lines.append(
                f"counter {number}: mode {counter.mode} count {counter.count:#x} "
                f"now {counter.value(clock):#06x} OUT={counter.level(clock):d} GATE={counter.gate:d}"
                + (" BCD" if counter.bcd else "")
                + ("" if counter.written else " not programmed")
            )
        lines.append(f"port 0x61: {self.control:#04x}")
        return "\n".join(lines) + "\n"


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "i8254",
            Pit,
            Config,
            device_class=DeviceClass.PIT,
            max_instances=1,
            summary="8254 interval timer and port 0x61",
        )
    )
