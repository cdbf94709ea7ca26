"""Two cascaded 8259A interrupt controllers of a PC.

8259A Programmable Interrupt Controller (Intel, 231468-003, 1988); the edge/level control registers
are those of the 82371SB (PIIX3, Intel 290550, section 2.5.4).

Modelled: ICW1 to ICW4, OCW1 to OCW3, edge and level inputs (LTIM and ELCR), all priorities and
rotations, every end of interrupt, automatic EOI, special mask mode, special fully nested mode, poll,
both interrupt vectors (8086, and the low byte of the MCS-80/85 CALL), default IR7 and IR15.
Not modelled: the alias addresses 0x24..0x3D and 0xA4..0xBD; buffered mode has no effect on a PC.

Traps of the chip:
* An edge input must stay high until it is acknowledged.  If it falls before, the request is gone, and an
  acknowledge that comes anyway gets IR7 of that chip with no ISR bit.  (An edge that a device means as a
  short pulse reaches this device as `pulse_irq`, which stays pending.)
* The slave's INT stays asserted until INTA: when its request went away, the CPU is still interrupted,
  gets IR7 of the slave (IRQ 15), and the master's ISR bit 2 is set and wants its EOI.
* The slave's INT falls at INTA.  If it has more to tell, the master sees a new edge.
* ICW1 clears the edge latches: a line that is high already must fall and rise again.
* The chip is silent from ICW1 to the last ICW, and until its first initialisation.
* In special mask mode a masked level in service blocks nobody, and a non-specific EOI passes it over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from vbox_pdm import (
    Device,
    DeviceClass,
    DeviceType,
    NoConfig,
    Ports,
    Reg8,
    RegisterMap,
    State,
    Width,
    hookimpl,
)
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup

CASCADE = 2
_CASCADE_BIT = 1 << CASCADE
# PIIX3: IRQ 0, 1, 2, 8 and 13 are always edge triggered.
ELCR_WRITABLE = (0xF8, 0xDE)


class Registers(RegisterMap):
    """One 8259A: command port, data port."""

    ICW1 = Reg8(
        0, "w", fields={"IC4": 0, "SNGL": 1, "ADI": 2, "LTIM": 3, "INIT": 4, "A7_5": (5, 7)},
        values={0x11: "cascaded, with ICW4"}, when="D4=1",
    )  # fmt: skip
    OCW2 = Reg8(0, "w", fields={"L": (0, 2), "EOI": 5, "SL": 6, "R": 7}, when="D4=0, D3=0")
    OCW3 = Reg8(0, "w", fields={"RIS": 0, "RR": 1, "P": 2, "SMM": 5, "ESMM": 6}, when="D4=0, D3=1")
    IRR = Reg8(0, "r", when="RIS=0")
    ISR = Reg8(0, "r", when="RIS=1")
    POLL = Reg8(  # either port: A0 does not matter
        0, "r", count=2, stride=1, bits=0x87, fields={"W": (0, 2), "I": 7},
        effect="acknowledges", when="after OCW3.P",
    )  # fmt: skip
    ICW2 = Reg8(1, "w", fields={"T": (3, 7)}, when="after ICW1")
    ICW3 = Reg8(
        1, "w", values={_CASCADE_BIT: "a slave on IR2", CASCADE: "slave 2"}, when="after ICW2, SNGL=0"
    )
    ICW4 = Reg8(1, "w", fields={"uPM": 0, "AEOI": 1, "MS": 2, "BUF": 3, "SFNM": 4}, when="last, IC4=1")
    OCW1 = Reg8(1, "rw", fields={"IMR": (0, 7)})


class ElcrRegisters(RegisterMap):
    """PIIX3: a set bit makes the line level triggered."""

    ELCR1 = Reg8(0, bits=ELCR_WRITABLE[0], fields={f"IRQ{n}": n for n in range(3, 8)})
    ELCR2 = Reg8(1, bits=ELCR_WRITABLE[1], fields={f"IRQ{8 + n}": n for n in (1, 2, 3, 4, 6, 7)})


def _priority_rows() -> tuple[list[bytes], list[bytes]]:
    """For each lowest level: the first level of a mask by priority (0 for an empty mask), and the mask
    of levels that come before all of a mask."""
    first_rows, above_rows = [], []
    for low in range(8):
        order = [(low + 1 + n) & 7 for n in range(8)]
        first, above = bytearray(256), bytearray(256)
        for mask in range(256):
            higher = 0
            for level in order:
                if mask >> level & 1:
                    first[mask] = level
                    break
                higher |= 1 << level
            above[mask] = higher
        first_rows.append(bytes(first))
        above_rows.append(bytes(above))
    return first_rows, above_rows


_FIRST, _ABOVE = _priority_rows()


@frozen
class ChipState(State, version=2):
    """One 8259A."""

    pins: int
    latch: int
    imr: int
    isr: int
    elcr: int
    low: int
    icw1: int
    icw2: int
    icw3: int
    icw4: int
    expects: int
    ready: bool
    read_isr: bool
    poll: bool
    special_mask: bool
    rotate_auto: bool

    @classmethod
    def upgrade(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had the INT output, which follows from the rest."""
        return {name: value for name, value in fields.items() if name != "out"}


@frozen
class PicState(State, version=1):
    """Master and slave."""

    master: ChipState
    slave: ChipState


class Chip:
    """One 8259A.  `drive` is told when its INT output changes.

    `latch` holds edges that wait, `pins` the levels of the inputs; `sense` has the level-triggered
    inputs, `open` the levels that may interrupt now.  Both are derived, so that a line that changes costs
    a few operations.
    """

    __slots__ = (
        "above",
        "auto_eoi",
        "drive",
        "elcr",
        "expects",
        "first",
        "icw1",
        "icw2",
        "icw3",
        "icw4",
        "imr",
        "isr",
        "latch",
        "low",
        "open",
        "out",
        "pins",
        "plain",
        "poll",
        "read_isr",
        "ready",
        "rotate_auto",
        "sense",
        "special_mask",
        "vectors",
    )

    def __init__(self, drive: Callable[[bool], None]) -> None:
        self.drive = drive
        self.reset()

    def reset(self) -> None:
        """Power on; the INT output is low and not driven again."""
        self.pins = self.latch = self.imr = self.isr = self.elcr = 0
        self.icw1 = self.icw2 = self.icw3 = self.icw4 = 0
        self.expects = 0  # the next ICW: 2..4, or 0
        self.ready = self.read_isr = self.poll = False
        self.special_mask = self.rotate_auto = False
        self.out = False
        self.low = 7
        self.derive()

    # --- registers

    def read(self, offset: int, size: int) -> int:
        if self.poll:
            self.poll = False
            level = self.accept()
            self.settle()
            return 7 if level < 0 else 0x80 | level
        if offset:
            return self.imr
        return self.isr if self.read_isr else self.latch | (self.pins & self.sense)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset:
            if self.expects:
                self.write_icw(value)
            else:
                self.imr = value
                self.refresh()
        elif value == 0x20 and self.isr and self.plain:  # non-specific EOI, by far the most: written out
            self.isr = isr = self.isr & ~(1 << self.first[self.isr])
            self.open = opened = self.above[isr] & ~self.imr
            out = (self.latch | self.pins & self.sense) & opened != 0
            if out is not self.out:
                self.out = out
                self.drive(out)
            return
        elif value & 0x10:
            self.write_icw1(value)
        elif value & 0x08:
            self.write_ocw3(value)
        else:
            self.write_ocw2(value)
        self.settle()

    def write_icw1(self, value: int) -> None:
        self.icw1 = value
        self.latch = self.imr = self.isr = 0
        self.icw4 = 0
        self.ready = self.read_isr = self.poll = False
        self.special_mask = self.rotate_auto = False
        self.low = 7
        self.expects = 2
        self.derive()

    def write_icw(self, value: int) -> None:
        if self.expects == 2:
            self.icw2 = value
            self.expects = 4 if self.icw1 & 0x02 else 3
        elif self.expects == 3:
            self.icw3 = value
            self.expects = 4
        else:
            self.icw4 = value
            self.expects = 0
        if self.expects == 4 and not self.icw1 & 0x01:
            self.expects = 0
        self.ready = not self.expects
        self.derive()

    def write_ocw2(self, value: int) -> None:
        command, level = value >> 5, value & 7
        if command == 1:  # non-specific EOI
            self.end(self.highest_in_service())
        elif command == 3:  # specific EOI
            self.end(level)
        elif command == 5:  # rotate on non-specific EOI
            level = self.highest_in_service()
            if level >= 0:
                self.end(level)
                self.rotate(level)
        elif command == 7:  # rotate on specific EOI
            self.end(level)
            self.rotate(level)
        elif command == 6:  # set priority
            self.rotate(level)
        elif command == 4:
            self.rotate_auto = True
        elif command == 0:
            self.rotate_auto = False

    def write_ocw3(self, value: int) -> None:
        if value & 0x40:
            self.special_mask = bool(value & 0x20)
            self.derive()
        self.poll = bool(value & 0x04)
        if value & 0x02 and not self.poll:
            self.read_isr = bool(value & 0x01)

    def write_elcr(self, value: int) -> None:
        self.elcr = value
        self.derive()
        self.settle()

    # --- machinery

    def derive(self) -> None:
        """Whatever follows from the command words and priorities."""
        self.sense = 0xFF if self.icw1 & 0x08 else self.elcr
        self.first, self.above = _FIRST[self.low], _ABOVE[self.low]
        self.auto_eoi = bool(self.icw4 & 0x02)
        self.plain = self.ready and not (self.icw4 & 0x12 or self.special_mask)
        if self.icw4 & 0x01:
            self.vectors = bytes((self.icw2 & 0xF8) | level for level in range(8))
        elif self.icw1 & 0x04:  # MCS-80/85, call address interval 4
            self.vectors = bytes((self.icw1 & 0xE0) | level << 2 for level in range(8))
        else:
            self.vectors = bytes((self.icw1 & 0xC0) | level << 3 for level in range(8))
        self.refresh()

    def refresh(self) -> None:
        """`open` after a change of ISR, IMR or modes."""
        if not self.ready:
            self.open = 0
            return
        isr = self.isr
        if self.special_mask:
            isr &= ~self.imr
        allowed = self.above[isr]
        if isr and self.icw4 & 0x10:  # special fully nested: a slave in service may ask again
            allowed |= 1 << self.first[isr] & self.icw3
        self.open = allowed & ~self.imr

    def asks(self) -> bool:
        """What INT must be."""
        return (self.latch | self.pins & self.sense) & self.open != 0

    def settle(self) -> None:
        """Drive INT as the state demands."""
        out = self.asks()
        if out is not self.out:
            self.out = out
            self.drive(out)

    def accept(self) -> int:
        """INTA or poll: the level taken, or -1 when nothing asks.  The caller settles."""
        asking = (self.latch | self.pins & self.sense) & self.open
        if not asking:
            return -1
        level = self.first[asking]
        self.latch &= ~(1 << level)
        if not self.auto_eoi:
            self.isr |= 1 << level
            self.refresh()
        elif self.rotate_auto:
            self.rotate(level)
        return level

    def highest_in_service(self) -> int:
        """What a non-specific EOI means; -1 when nothing is in service."""
        isr = self.isr & ~self.imr if self.special_mask else self.isr
        return self.first[isr] if isr else -1

    def end(self, level: int) -> None:
        if level >= 0:
            self.isr &= ~(1 << level)
            self.refresh()

    def rotate(self, level: int) -> None:
        """`level` becomes the lowest priority."""
        self.low = level
        self.first, self.above = _FIRST[level], _ABOVE[level]
        self.refresh()

    # --- state

    def save(self) -> ChipState:
        return ChipState(
            pins=self.pins,
            latch=self.latch,
            imr=self.imr,
            isr=self.isr,
            elcr=self.elcr,
            low=self.low,
            icw1=self.icw1,
            icw2=self.icw2,
            icw3=self.icw3,
            icw4=self.icw4,
            expects=self.expects,
            ready=self.ready,
            read_isr=self.read_isr,
            poll=self.poll,
            special_mask=self.special_mask,
            rotate_auto=self.rotate_auto,
        )

    def load(self, state: ChipState) -> None:
        self.pins, self.latch = state.pins & 0xFF, state.latch & 0xFF
        self.imr, self.isr, self.elcr = state.imr & 0xFF, state.isr & 0xFF, state.elcr & 0xFF
        self.low = state.low & 7
        self.icw1, self.icw2 = state.icw1 & 0xFF, state.icw2 & 0xFF
        self.icw3, self.icw4 = state.icw3 & 0xFF, state.icw4 & 0xFF
        self.expects, self.ready = state.expects, state.ready
        self.read_isr, self.poll = state.read_isr, state.poll
        self.special_mask, self.rotate_auto = state.special_mask, state.rotate_auto
        self.derive()
        self.out = self.asks()

    def describe(self) -> str:
        asking = self.latch | self.pins & self.sense
        return (
            f"IRR={asking:02x} ISR={self.isr:02x} IMR={self.imr:02x} pins={self.pins:02x} "
            f"ELCR={self.elcr:02x} base={self.icw2 & 0xF8:02x} lowest={self.low} INT={self.out:d}"
            + ("" if self.ready else " not initialised")
            + (" AEOI" if self.auto_eoi else "")
            + (" rotating" if self.rotate_auto else "")
            + (" special mask" if self.special_mask else "")
            + (" fully nested" if self.icw4 & 0x10 else "")
        )


class PicPair(Device[NoConfig]):
    """Both chips, with the slave on IR2 of the master."""

    def pdm_construct(self) -> None:
        self.cpu = self.helpers.provide_pic(self)
        self.master = Chip(self.cpu.interrupt)
        self.slave = Chip(self.slave_int)
        for name, port, chip in (("master", 0x20, self.master), ("slave", 0xA0, self.slave)):
            region = Ports(name, 2, chip.read, chip.write, registers=Registers, width=Width.BYTE)
            self.helpers.map_ports(port, region)
        self.helpers.map_ports(
            0x4D0,
            Ports("elcr", 2, self.read_elcr, self.write_elcr, registers=ElcrRegisters, width=Width.BYTE),
        )
        chips = [self.master] * 8 + [self.slave] * 8
        self.inputs = [(chip, 1 << (line & 7)) for line, chip in enumerate(chips)]

    def pdm_reset(self) -> None:
        self.slave.reset()
        self.master.reset()
        self.cpu.interrupt(False)

    # --- the role: hot

    def set_irq(self, line: int, level: bool) -> None:
        """Line 2 is the cascade and cannot be driven."""
        chip, bit = self.inputs[line]
        if level:
            if chip.pins & bit or line == CASCADE:
                return
            chip.pins |= bit
            chip.latch |= bit
            if chip.open & bit and not chip.out:
                chip.out = True
                chip.drive(True)
        elif chip.pins & bit and line != CASCADE:
            chip.pins &= ~bit
            chip.latch &= ~bit
            if chip.out:
                chip.settle()

    def pulse_irq(self, line: int) -> None:
        """High and low again: one edge, which stays pending until it is acknowledged."""
        chip, bit = self.inputs[line]
        if line != CASCADE and not chip.pins & bit | chip.sense & bit:
            chip.latch |= bit
            chip.settle()

    def acknowledge(self) -> int:
        master = self.master
        asking = (master.latch | master.pins & master.sense) & master.open
        if not asking:
            return master.vectors[7]
        level = master.first[asking]
        if level != CASCADE and master.plain:
            # The usual case written out: what may still interrupt is above the level, and does not ask.
            bit = 1 << level
            master.latch &= ~bit
            master.isr |= bit
            master.open = master.above[master.isr] & ~master.imr
            master.out = False
            master.drive(False)
            return master.vectors[level]
        master.accept()
        if level == CASCADE and master.icw3 & _CASCADE_BIT and not master.icw1 & 0x02:
            vector = self.acknowledge_slave()
        else:
            vector = master.vectors[level]
        master.settle()
        return vector

    def acknowledge_slave(self) -> int:
        slave = self.slave
        if slave.icw3 & 7 != CASCADE:
            return 0xFF  # nobody feels addressed and the bus floats
        level = slave.accept()
        slave.out = False
        self.master.pins &= ~_CASCADE_BIT
        slave.settle()
        return slave.vectors[level]  # -1 is the last: IR7

    def slave_int(self, level: bool) -> None:
        master = self.master
        if level:
            master.pins |= _CASCADE_BIT
            master.latch |= _CASCADE_BIT
        else:
            master.pins &= ~_CASCADE_BIT
            if not self.slave.ready:
                master.latch &= ~_CASCADE_BIT
        master.settle()

    # --- edge/level control

    def read_elcr(self, offset: int, size: int) -> int:
        return (self.slave if offset else self.master).elcr

    def write_elcr(self, offset: int, size: int, value: int) -> None:
        (self.slave if offset else self.master).write_elcr(value & ELCR_WRITABLE[offset])

    # --- state

    def pdm_save(self) -> PicState:
        return PicState(self.master.save(), self.slave.save())

    def pdm_load(self, state: PicState) -> None:
        """INTR is loaded by the host."""
        self.master.load(state.master)
        self.slave.load(state.slave)

    def pdm_info(self, arguments: str) -> str:
        return f"master: {self.master.describe()}\nslave:  {self.slave.describe()}\n"


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "i8259",
            PicPair,
            device_class=DeviceClass.PIC,
            max_instances=1,
            summary="two 8259A interrupt controllers with ELCR",
        )
    )
