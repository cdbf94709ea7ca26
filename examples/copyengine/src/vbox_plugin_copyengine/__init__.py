"""A copy engine: a PCI function that copies, fills and sums guest memory by itself.

README.md is its data sheet.  An operation moves memory in bursts, takes virtual time for each, and ends
with DONE or ERROR and an interrupt, by the pin or by MSI.

Traps
- A burst is moved when its time is over, so what the guest changes before that takes part.  Bus mastering
  is looked at for each burst: a guest may take it away in the middle.
- STATUS clears by ones.  A width policy that reads the bytes which a narrow write leaves out would write
  DONE back, and clear it: here they are zeros.
- The operands cannot change while BUSY; so they, the command and POSITION are all that there is to save of
  an operation under way.  When its next burst is due, the timer knows, and that is saved by the host.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from vbox_pdm import (
    Clock,
    Device,
    DeviceType,
    Mmio,
    Msi,
    PciIdentity,
    ReadWidth,
    Reg32,
    Reg64,
    RegisterMap,
    State,
    StateError,
    Width,
    WriteWidth,
    hookimpl,
    key,
)
from vbox_pdm.pci import STATUS as PCI_STATUS

if TYPE_CHECKING:
    from vbox_pdm.testing import Bench
    from vbox_pdm.testing.conformance import Setup

contract = "1.0"  # for `vbox run --plugin` with this file; a wheel says it in its requirements

VENDOR, DEVICE = 0x1234, 0xCE01
SIGNATURE = int.from_bytes(b"VCE1", "little")
BURST = 4096
START_TIME = 1000  # ns from a command to its first burst
BUSY, DONE, ERROR, CAUSE = 0x01, 0x02, 0x04, 0x30
MASTER_ABORT = 0x2000  # in the status register of configuration space
DWORD, QWORD = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


class Command(enum.IntEnum):
    """What a write to COMMAND starts; STOP ends what is under way."""

    STOP = 0
    COPY = 1
    FILL = 2
    SUM = 3


class Cause(enum.IntEnum):
    """Why an operation failed: the field CAUSE of STATUS."""

    COMMAND = 0
    ADDRESS = 1
    MASTER = 2


class Registers(RegisterMap):
    """BAR 0."""

    ID = Reg32(0x00, "r", reset=SIGNATURE, bits=0)
    STATUS = Reg32(
        0x04, bits=BUSY | DONE | ERROR | CAUSE, fields={"BUSY": 0, "DONE": 1, "ERROR": 2, "CAUSE": (4, 5)},
        effect="write: ones clear DONE and ERROR, and the interrupt falls when both are clear",
    )  # fmt: skip
    COMMAND = Reg32(0x08, "w", effect="1 copies, 2 fills, 3 sums, 0 stops")
    ENABLE = Reg32(0x0C, bits=0x01, fields={"INTERRUPT": 0})
    SOURCE = Reg64(0x10)
    DESTINATION = Reg64(0x18)
    LENGTH = Reg32(0x20)
    FILL = Reg32(0x24, bits=0xFF)
    POSITION = Reg32(0x28, "r")
    RESULT = Reg32(0x2C, "r")


@frozen
class Config:
    """Configuration of a copy engine."""

    rate: int = key(100, span=(1, 10_000), help="megabytes that it moves in a second")


@frozen
class CopyEngineState(State, version=1):
    """`command` is STOP while nothing is under way."""

    command: Command
    status: int
    enable: int
    source: int
    destination: int
    length: int
    fill: int
    position: int
    result: int


class CopyEngine(Device[Config]):
    """The engine."""

    def pdm_construct(self) -> None:
        self.pci = self.helpers.pci(PciIdentity(VENDOR, DEVICE, class_code=0x088000), capabilities=[Msi()])
        self.pci.bar(
            0,
            Mmio(
                "copyengine", 0x40, self.read, self.write,
                registers=Registers, width=Width(ReadWidth.DWORD, WriteWidth.DWORD_ZEROED),
            ),
        )  # fmt: skip
        self.burst = self.helpers.timer("burst", Clock.VIRTUAL_SYNC, self.burst_over)
        self.power_on_values()

    def pdm_reset(self) -> None:
        self.burst.stop()
        self.power_on_values()

    def power_on_values(self) -> None:
        """All registers as a reset leaves them."""
        self.command = Command.STOP
        self.status = self.enable = 0  # of the status all but BUSY, which is a command under way
        self.source = self.destination = self.length = self.fill = 0
        self.position = self.result = 0

    # --- registers, by aligned dwords

    def read(self, offset: int, size: int) -> int:
        """BAR 0."""
        match offset:
            case Registers.ID.offset:
                return SIGNATURE
            case Registers.STATUS.offset:
                return self.status | (BUSY if self.command else 0)
            case Registers.ENABLE.offset:
                return self.enable
            case 0x10 | 0x14:  # SOURCE
                return half(self.source, offset)
            case 0x18 | 0x1C:  # DESTINATION
                return half(self.destination, offset)
            case Registers.LENGTH.offset:
                return self.length
            case Registers.FILL.offset:
                return self.fill
            case Registers.POSITION.offset:
                return self.position
            case Registers.RESULT.offset:
                return self.result
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """BAR 0."""
        match offset:
            case Registers.STATUS.offset:
                self.clear(value)
            case Registers.COMMAND.offset:
                self.start(value)
            case Registers.ENABLE.offset:
                self.enable = value & 1
                self.update_interrupt()
            case _ if not self.command:
                self.write_operand(offset, value)

    def write_operand(self, offset: int, value: int) -> None:
        """A dword of an operand, while nothing is under way."""
        match offset:
            case 0x10 | 0x14:  # SOURCE
                self.source = with_half(self.source, offset, value)
            case 0x18 | 0x1C:  # DESTINATION
                self.destination = with_half(self.destination, offset, value)
            case Registers.LENGTH.offset:
                self.length = value
            case Registers.FILL.offset:
                self.fill = value & 0xFF

    def clear(self, ones: int) -> None:
        """Ones were written to STATUS."""
        self.status &= ~(ones & (DONE | ERROR))
        if not self.status & ERROR:
            self.status &= ~CAUSE
        self.update_interrupt()

    # --- an operation

    def start(self, code: int) -> None:
        """A write to COMMAND.  While one is under way, STOP is all that is heard."""
        if code == Command.STOP:
            self.command = Command.STOP
            self.burst.stop()
        elif not self.command:
            self.position = self.result = 0
            self.clear(DONE | ERROR)
            if code > max(Command):
                self.end(Cause.COMMAND)
                return
            self.command = Command(code)
            self.burst.set_relative(START_TIME + self.burst_time())

    def burst_time(self) -> int:
        """Nanoseconds that the next burst takes."""
        return min(BURST, self.length - self.position) * 1000 // self.config.rate

    def burst_over(self) -> None:
        """The timer: the next burst has crossed the bus."""
        if not self.command:
            return
        size = min(BURST, self.length - self.position)
        if not self.pci.bus_master:
            self.end(Cause.MASTER)
        elif not self.move(size):
            status = self.pci.config_read(PCI_STATUS, 2) | MASTER_ABORT
            self.pci.set_config(PCI_STATUS, status.to_bytes(2, "little"))
            self.end(Cause.ADDRESS)
        else:
            self.position += size
            if self.position < self.length:
                self.burst.set_relative(self.burst_time())
            else:
                self.end()

    def move(self, size: int) -> bool:
        """Carry out the next `size` bytes; whether there was RAM for them."""
        if self.command is Command.FILL:
            return self.store(bytes([self.fill]) * size)
        handle = self.pci.dma(self.source + self.position & QWORD, size)
        with handle as views:
            data = b"".join(views)
        if not handle.complete:
            return False
        if self.command is Command.SUM:
            self.result = zlib.crc32(data, self.result)
            return True
        return self.store(data)

    def store(self, data: bytes) -> bool:
        """Put the next bytes into memory; whether there was RAM for them."""
        handle = self.pci.dma(self.destination + self.position & QWORD, len(data), write=True)
        with handle as views:
            at = 0
            for view in views:
                view[:] = data[at : at + view.nbytes]
                at += view.nbytes
        return handle.complete

    def end(self, failed: Cause | None = None) -> None:
        """The operation is over."""
        self.command = Command.STOP
        self.status |= DONE if failed is None else ERROR | failed << 4
        self.update_interrupt()

    def update_interrupt(self) -> None:
        """The pin is high while DONE or ERROR is set and ENABLE allows it; its edge sends a message."""
        level = bool(self.enable and self.status & (DONE | ERROR))
        if level and not self.pci.irq_level:
            self.pci.send_message(0)  # silent unless the guest chose MSI, and then the pin is
        self.pci.set_irq(level)

    # --- state

    def pdm_save(self) -> CopyEngineState:
        return CopyEngineState(
            self.command, self.status, self.enable, self.source, self.destination, self.length, self.fill,
            self.position, self.result,
        )  # fmt: skip

    def pdm_load(self, state: CopyEngineState) -> None:
        if state.command and not 0 <= state.position <= state.length <= DWORD:
            raise StateError(
                "VERR_SSM_UNEXPECTED_DATA",
                f"The saved copy engine is at byte {state.position} of {state.length}",
                "Save the machine again; this state was not written by a copy engine",
            )
        self.command = state.command
        self.status, self.enable = state.status & (DONE | ERROR | CAUSE), state.enable & 1
        self.source, self.destination = state.source & QWORD, state.destination & QWORD
        self.length, self.fill = state.length & DWORD, state.fill & 0xFF
        self.position, self.result = state.position & DWORD, state.result & DWORD

    def pdm_info(self, arguments: str) -> str:
        return (
            f"{self.command.name.lower()}, {self.position} of {self.length} bytes "
            f"from {self.source:#x} to {self.destination:#x}\n"
            f"status {Registers.STATUS.describe(self.status)}, interrupt {'on' if self.enable else 'off'}"
        )


def half(value: int, offset: int) -> int:
    """The dword at `offset` of a register of 64 bits."""
    return value >> 8 * (offset & 4) & DWORD


def with_half(value: int, offset: int, dword: int) -> int:
    """A register of 64 bits with another dword at `offset`."""
    shift = 8 * (offset & 4)
    return value & ~(DWORD << shift) | dword << shift


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(DeviceType("copyengine", CopyEngine, Config, summary="moves memory: copy, fill, CRC-32"))


# --- for the conformance kit: what must work whatever a guest did before


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """Imported only where the kit is."""
    from vbox_pdm.testing.conformance import Setup

    return Setup(
        exercises={
            "a copy of 5000 bytes": copy_is_exact,
            "a copy to where no memory is": copy_to_nowhere_fails,
        }
    )


def run(engine: CopyEngine, bench: Bench, source: int, destination: int, length: int) -> int:
    """What a driver does for a copy; STATUS at its end."""
    bar = bench.pci_enable(engine.pci)[0]
    bench.mmio_write(bar + Registers.COMMAND.offset, 4, Command.STOP)
    for register, value in ((Registers.SOURCE, source), (Registers.DESTINATION, destination)):
        bench.mmio_write(bar + register.offset, 4, value)
        bench.mmio_write(bar + register.offset + 4, 4, 0)
    bench.mmio_write(bar + Registers.LENGTH.offset, 4, length)
    bench.mmio_write(bar + Registers.COMMAND.offset, 4, Command.COPY)
    bench.advance(20_000_000)  # at the lowest rate 5 ms
    return bench.mmio_read(bar + Registers.STATUS.offset, 4)


def copy_is_exact(engine: CopyEngine, bench: Bench) -> str | None:
    """The bytes arrive, and none behind them."""
    data = bytes(range(1, 251)) * 20
    bench.memory_write(0x10000, data * 2)
    bench.memory_write(0x20000, bytes(0x3000))
    status = run(engine, bench, 0x10000, 0x20000, len(data))
    if status & (BUSY | DONE | ERROR) != DONE:
        return f"STATUS is {status:#x}"
    return None if bench.memory_read(0x20000, 0x3000) == data.ljust(0x3000, b"\0") else "it is not exact"


def copy_to_nowhere_fails(engine: CopyEngine, bench: Bench) -> str | None:
    """At 2 GiB is no memory."""
    status = run(engine, bench, 0x10000, 0x8000_0000, 100)
    return None if status & (BUSY | DONE | ERROR) == ERROR else f"STATUS is {status:#x}"
