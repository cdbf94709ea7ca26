"""MC146818A real-time clock with 256 bytes of CMOS.

MC146818A data sheet (Motorola, 1984/1988): registers A to D, update cycle, interrupts; ports 0x70..0x73
and the NMI mask as in the 82371SB (PIIX3, Intel 290550) and the AT.  The clock bytes are in
`rtc_calendar`.

Modelled: the calendar with century (0x32), binary and BCD, 12 and 24 hours, SET, UIP, divider stop and
reset, all periodic rates of the 32,768 Hz base, alarm with don't-care codes, update-ended interrupt, the
read effects of register C, VRT, RESET, both banks of CMOS.
Not modelled: the square wave output and daylight saving (both bits are stored); the time bases other than
32,768 Hz, which is the crystal of a PC: with another divider than 010 the clock stands; the 2 ms of an
update during which the bytes cannot be read: it takes no time here.

Time comes from the host's wall clock at creation, then counts Clock.VIRTUAL_SYNC, so that seconds, UIP and
interrupts fit the guest's other clocks.  When the wall clock has gone elsewhere by a second or more (the
VM was paused, the host's clock was set) whole seconds are added, and what the guest has set stays set.
Nothing runs once a second: bytes and flags are brought up to date when they are looked at, and timers
exist only for interrupts that are enabled and not pending yet.

Traps of the chip:
* UIP rises 244 us before the bytes change: whoever reads it low has that long.
* SET stops updates, clears UIE, and leaves the divider chain alone; the periodic interrupt goes on.
* Releasing the divider reset makes the first update come 500 ms later.
* Flags in C rise whether or not their interrupts are enabled; reading C clears them all.
* Changing DM or 24/12 converts nothing.
* Port 0x70 bit 7 masks NMI and is no part of the index; port 0x70 cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

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
    StateError,
    Width,
    hookimpl,
    key,
)
from vbox_pdm.readout import FOREVER
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup
from vbox_plugin_pc.rtc_calendar import CENTURY, YEAR, Format

REG_A, REG_B, REG_C, REG_D = 10, 11, 12, 13
UIP, DV, RS = 0x80, 0x70, 0x0F
DV_RUN = 0x20
SET, PIE, AIE, UIE, SQWE, DM, HOURS24 = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10
VRT = 0x80
_ENABLES = PIE | AIE | UIE  # the bits of their flags in C
_RESET_CLEARS = _ENABLES | SQWE  # of B

SECOND = 1_000_000_000
UIP_LEAD = 244_140
"""ns between the rise of UIP and the update: eight clocks of the crystal."""
HALF_SECOND = 500_000_000


class Registers(RegisterMap):
    """What the index selects; the rest is RAM."""

    SECONDS = Reg8(0, reset=None)
    SECONDS_ALARM = Reg8(1)
    MINUTES = Reg8(2, reset=None)
    MINUTES_ALARM = Reg8(3)
    HOURS = Reg8(4, reset=None, fields={"HOUR": (0, 6), "PM": 7})
    HOURS_ALARM = Reg8(5)
    WEEKDAY = Reg8(6, reset=None)
    DAY = Reg8(7, reset=None)
    MONTH = Reg8(8, reset=None)
    YEAR = Reg8(9, reset=None)
    A = Reg8(10, reset=0x26, fields={"RS": (0, 3), "DV": (4, 6), "UIP": 7})
    B = Reg8(
        11,
        reset=0x02,
        fields={"DSE": 0, "24/12": 1, "DM": 2, "SQWE": 3, "UIE": 4, "AIE": 5, "PIE": 6, "SET": 7},
    )
    C = Reg8(12, "r", fields={"UF": 4, "AF": 5, "PF": 6, "IRQF": 7}, effect="clears all flags and IRQ 8")
    D = Reg8(13, "r", reset=0x80, fields={"VRT": 7})
    CENTURY = Reg8(0x32, reset=None)


class PortRegisters(RegisterMap):
    """The ports."""

    INDEX = Reg8(
        0, "w", fields={"ADDRESS": (0, 6), "NMI_OFF": 7}, effect="bit 7 masks NMI",
        values={register.offset: name for name, register in Registers.registers.items()},
    )  # fmt: skip
    DATA = Reg8(1, reset=None, effect="register C is cleared by reading")
    INDEX2 = Reg8(2, "w", fields={"ADDRESS": (0, 6)})
    DATA2 = Reg8(3, reset=None)  # the battery keeps it


@frozen
class Config:
    base: int = key(0x70, span=(0, 0xFFFC), help="first of the four ports")
    irq: int = key(8, span=(0, 15), help="ISA interrupt line")
    utc: bool = key(True, help="the clock shows UTC; off: local time")
    utc_offset: int = key(0, span=(-86_400, 86_400), help="local time minus UTC in seconds, when utc is off")


@frozen
class RtcState(State, version=2):
    """CMOS and the divider chain; times in ns.

    The battery keeps all of it over a reset but the indices, the flags, and `enables`: what a reset clears
    of register B, which is 0 in `cmos`.  `behind` is the part of a second by which the wall clock
    had gone elsewhere when it was last followed.
    """

    across_reset: ClassVar[frozenset[str]] = frozenset({"cmos", "phase", "held", "behind"})

    cmos: bytes
    enables: int
    index: int
    index2: int
    flags: int
    phase: int
    held: int
    behind: int

    @classmethod
    def upgrade(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had all of register B in `cmos`, from where pdm_load takes it as well; and `second`
        and `ticks`, which follow from the time."""
        rest = {name: value for name, value in fields.items() if name not in ("second", "ticks")}
        return {**rest, "enables": 0, "behind": 0}


_FORMATS = {dm | hours24: Format(bool(dm), bool(hours24)) for dm in (0, DM) for hours24 in (0, HOURS24)}


def rate_of(register_a: int) -> int:
    """Periodic interrupts a second: 2..8192, or 0."""
    select = register_a & RS
    if not select:
        return 0
    return 32_768 >> (select - 1 if select > 2 else select + 6)


class RealTimeClock(Device[Config]):
    """The chip.  The chain's time is `now + phase`: whole seconds of it are updates."""

    # Where the host's clock was; and what follows from the time and from what the battery keeps.
    transient = frozenset({"wall", "second", "ticks"})

    def pdm_construct(self) -> None:
        self.cmos = bytearray(256)
        self.cmos[REG_A], self.cmos[REG_B], self.cmos[REG_D] = 0x26, HOURS24, VRT
        self.index, self.index2 = 0, 0x80
        self.flags = 0
        self.now = self.helpers.reader(Clock.VIRTUAL_SYNC)
        self.irq = self.helpers.isa_irq(self.config.irq)
        self.periodic = self.helpers.timer("periodic", Clock.VIRTUAL_SYNC, self.update)
        self.updates = self.helpers.timer("update", Clock.VIRTUAL_SYNC, self.update)
        self.helpers.provide_rtc(self)
        self.readout = self.helpers.readout(self.read, Clock.VIRTUAL_SYNC)
        ports = Ports("mc146818", 4, self.readout.read, self.write, registers=PortRegisters, width=Width.BYTE)
        self.helpers.map_ports(self.config.base, ports)
        self.set_from_wall_clock()

    def set_from_wall_clock(self) -> None:
        wall, now = self.helpers.utc_now(), self.now()
        offset = 0 if self.config.utc else self.config.utc_offset
        self.format.put_time(self.cmos, wall // SECOND + offset)
        self.held = -1
        """Of a chain that stands: where in its second; -1 while it runs."""
        self.phase = wall % SECOND - now
        self.count_from(now)
        self.wall_is_right()

    def pdm_reset(self) -> None:
        self.readout.drop(1)
        self.sync()
        self.cmos[REG_B] &= ~_RESET_CLEARS
        self.flags = 0
        self.index, self.index2 = 0, 0x80
        self.follow()

    def pdm_resume(self) -> None:
        self.update()

    # --- ports

    def read(self, offset: int, size: int) -> int:
        if offset == 1:
            return self.read_data(self.index)
        return self.cmos[self.index2] if offset == 3 else 0xFF

    def read_data(self, index: int) -> int:
        """Port +1; what it reads may be known ahead."""
        if index == REG_A:  # polled for UIP, which follows from the time alone
            now = self.now()
            rises = self.next_update(now) - UIP_LEAD
            if rises <= now:
                return self.cmos[REG_A] | UIP
            self.readout.hold(1, 1, self.cmos[REG_A], rises)
        elif index <= REG_D or index == CENTURY:
            return self.read_register(index)
        else:
            self.readout.hold(1, 1, self.cmos[index], FOREVER)
        return self.cmos[index]

    def write(self, offset: int, size: int, value: int) -> None:
        self.readout.drop(1)
        if offset == 0:
            self.index = value & 0x7F
            self.helpers.mask_nmi(bool(value & 0x80))
        elif offset == 1:
            self.write_register(self.index, value)
        elif offset == 2:
            self.index2 = value & 0x7F | 0x80
        else:
            self.cmos[self.index2] = value

    # --- the role

    def cmos_read(self, index: int) -> int:
        """Like the guest, but register C keeps its flags."""
        index &= 0xFF
        return self.peek_flags() if index == REG_C else self.read_register(index)

    def cmos_write(self, index: int, value: int) -> None:
        self.readout.drop(1)
        self.write_register(index & 0xFF, value & 0xFF)

    # --- registers

    def read_register(self, index: int) -> int:
        if (index > REG_D and index != CENTURY) or index in (REG_B, REG_D):
            return self.cmos[index]
        if index == REG_A:
            now = self.now()
            return self.cmos[REG_A] | (UIP if self.next_update(now) - now <= UIP_LEAD else 0)
        self.sync()
        if index != REG_C:
            return self.cmos[index]
        value = self.flags
        if value & self.cmos[REG_B] & _ENABLES:
            value |= IRQF
        self.flags = 0
        self.follow()
        return value

    def peek_flags(self) -> int:
        self.sync()
        return self.flags | (IRQF if self.flags & self.cmos[REG_B] & _ENABLES else 0)

    def write_register(self, index: int, value: int) -> None:
        if index <= YEAR or index == CENTURY:
            self.sync()
            self.cmos[index] = value
            self.follow()
        elif index == REG_A:
            self.write_a(value & ~UIP)
        elif index == REG_B:
            self.write_b(value)
        elif index > REG_D:
            self.cmos[index] = value

    def write_a(self, value: int) -> None:
        now = self.sync()
        if self.held < 0 and value & DV != DV_RUN:
            self.held = (now + self.phase) % SECOND
        if value & 0x60 == 0x60:
            self.held = HALF_SECOND
        self.cmos[REG_A] = value
        if self.held >= 0 and value & DV == DV_RUN:
            self.phase, self.held = self.held - now, -1
            self.wall_is_right()
        self.count_from(now)
        self.follow()

    def write_b(self, value: int) -> None:
        self.sync()
        if value & SET:
            value &= ~UIE
        elif self.cmos[REG_B] & SET:
            self.wall_is_right()
        self.cmos[REG_B] = value
        self.follow()

    # --- time

    @property
    def format(self) -> Format:
        """As register B says."""
        return _FORMATS[self.cmos[REG_B] & (DM | HOURS24)]

    def count_from(self, now: int) -> None:
        """Seconds and ticks up to `now` are over and done with; a chain that stands has none."""
        running = self.held < 0
        self.second = (now + self.phase) // SECOND if running else 0
        self.ticks = self.ticks_at(now) if running else 0

    def ticks_at(self, now: int) -> int:
        """Periods of the periodic interrupt in the chain's time."""
        return (now + self.phase) * rate_of(self.cmos[REG_A]) // SECOND

    def next_update(self, now: int) -> int:
        """When the time will have moved on by a second."""
        if self.held >= 0 or self.cmos[REG_B] & SET:
            return FOREVER
        return now + SECOND - (now + self.phase) % SECOND

    def sync(self, *, follow: bool = True) -> int:
        """Bring bytes and flags up to date, perhaps without a look at the wall clock; returns the time."""
        now = self.now()
        if self.held >= 0:
            return now
        second = (now + self.phase) // SECOND
        passed = second - self.second
        self.second = second
        if not self.cmos[REG_B] & SET:
            if passed > 0:
                self.flags |= UF
            if follow:
                passed += self.wall_jump()
            if passed:
                alarm = self.format.seconds_to_alarm(self.cmos)
                if alarm is not None and alarm <= passed:
                    self.flags |= AF
                self.format.advance(self.cmos, passed)
        ticks = self.ticks_at(now)
        if ticks != self.ticks:
            self.ticks = ticks
            self.flags |= PF
        return now

    def wall_is_right(self) -> None:
        """The clock bytes are to count from here on, wherever the wall clock is."""
        self.wall = self.helpers.utc_now() - self.now()
        self.behind = 0

    def wall_jump(self) -> int:
        """Whole seconds by which the wall clock has gone elsewhere, to be added; the rest stays behind."""
        away = self.helpers.utc_now() - self.now() - self.wall
        jump = away // SECOND if away > 0 else -(-away // SECOND)
        self.wall += jump * SECOND
        self.behind = away - jump * SECOND
        return jump

    def update(self) -> None:
        """A timer, or the end of a pause."""
        self.sync()
        self.follow()

    def follow(self) -> None:
        """IRQ 8 and the timers, after a sync."""
        b = self.cmos[REG_B]
        pending = bool(self.flags & b & _ENABLES)
        self.irq.set(pending)
        if pending or self.held >= 0 or not b & _ENABLES:
            # Until C is read, or an interrupt enabled, nobody can notice anything.
            self.periodic.stop()
            self.updates.stop()
            return
        rate = rate_of(self.cmos[REG_A])
        if b & PIE and rate:
            self.periodic.set(-(-(self.ticks + 1) * SECOND // rate) - self.phase)
        else:
            self.periodic.stop()
        wait = None
        if not b & SET:
            if b & UIE:
                wait = 1
            elif b & AIE:
                wait = self.format.seconds_to_alarm(self.cmos)
        if wait is None:
            self.updates.stop()
        else:
            self.updates.set((self.second + wait) * SECOND - self.phase)

    # --- state

    def pdm_save(self) -> RtcState:
        self.sync(follow=False)  # nothing happens while the VM is suspended
        cmos = bytearray(self.cmos)
        enables = cmos[REG_B] & _RESET_CLEARS
        cmos[REG_B] ^= enables
        return RtcState(
            bytes(cmos),
            enables,
            self.index,
            self.index2,
            self.flags,
            self.phase,
            self.held,
            self.behind,
        )

    def pdm_load(self, state: RtcState) -> None:
        """The clock goes on from where it was; the time in between has not passed for the guest."""
        if len(state.cmos) != 256:
            raise StateError(
                "VERR_SSM_UNEXPECTED_DATA", f"mc146818: CMOS has {len(state.cmos)} bytes, not 256"
            )
        self.readout.drop(1)
        self.cmos[:] = state.cmos
        self.cmos[REG_B] |= state.enables & _RESET_CLEARS
        self.index, self.index2 = state.index & 0x7F, state.index2 & 0x7F | 0x80
        self.flags = state.flags & _ENABLES
        self.phase, self.held = state.phase, state.held
        self.count_from(self.now())
        self.wall_is_right()
        self.behind = state.behind
        self.wall -= state.behind

    def pdm_info(self, arguments: str) -> str:
        self.sync()
        century, year, month, day, hour, minute, second = (self.cmos[i] for i in (CENTURY, 9, 8, 7, 4, 2, 0))
        registers = " ".join(
            f"{name}={Registers.registers[name].describe(self.cmos[index])}"
            for name, index in (("A", REG_A), ("B", REG_B))
        )
        return (
            f"bytes: {century:02x}{year:02x}-{month:02x}-{day:02x} {hour:02x}:{minute:02x}:{second:02x}\n"
            f"{registers} C={Registers.C.describe(self.peek_flags())} index={self.index:#04x}\n"
            f"periodic: {rate_of(self.cmos[REG_A])} Hz\n"
        )


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "mc146818",
            RealTimeClock,
            Config,
            device_class=DeviceClass.RTC,
            max_instances=1,
            summary="MC146818A real-time clock and CMOS",
        )
    )
