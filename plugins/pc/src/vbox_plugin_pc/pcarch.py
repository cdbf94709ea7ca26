"""What a PC/AT's board has besides its chips: port 0x92, and the coprocessor's ports 0xF0 and 0xF1.

PS/2 Model 80 Technical Reference (IBM, 1987), system control port A; 82371SB (PIIX3, Intel 290550), "Port
92" and "Coprocessor Error"; IBM PC/AT Technical Reference (1984), numeric coprocessor.

Modelled: A20 (bit 1) and fast reset (bit 0) of port 0x92; an error of the FPU (FERR#, with CR0.NE clear)
raises IRQ 13, the coprocessor's ports lower it, and port 0xF0 has the FPU go on (IGNNE#).
Not modelled: the password and disk lamp bits of port 0x92, which read 0.

Traps of the chip:
* Fast reset is an edge: writing 1 again does nothing until it was 0.
* It is an INIT of the CPU.  Software uses it to leave protected mode on a 286 (CMOS byte 0x0F says so
  with 5, 9 or 10) and, far more often, to restart the machine, for which firmware would set up everything
  again: then the whole VM is reset.
* Port 0xF1 reset the 287; the FPU of later CPUs does not hear of it.
* Bit 1 reads the state of the gate, which the keyboard controller moves, too.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from vbox_pdm import (
    Device,
    DeviceClass,
    DeviceType,
    NoConfig,
    PdmError,
    Ports,
    Reg8,
    RegisterMap,
    ResetSource,
    State,
    Width,
    hookimpl,
)

FAST_RESET, A20 = 0x01, 0x02
CMOS_SHUTDOWN = 0x0F
RESUMING = frozenset({0x05, 0x09, 0x0A})
"""Shutdown codes after which firmware jumps back to its caller instead of starting the machine."""


class Port92(RegisterMap):
    """System control port A."""

    PORT92 = Reg8(
        0, reset=A20, bits=FAST_RESET | A20, fields={"FAST_RESET": 0, "A20": 1},
        effect="writes move A20; a rising FAST_RESET resets",
    )  # fmt: skip


class Coprocessor(RegisterMap):
    """Numeric coprocessor."""

    CLEAR_BUSY = Reg8(0, "w", effect="lowers IRQ 13, and has the FPU go on in spite of its error")
    RESET = Reg8(1, "w", effect="lowers IRQ 13")


@frozen
class ArchState(State, version=1):
    """Bit 0 of port 0x92; the host keeps A20."""

    fast_reset: bool


class PcArchitecture(Device[NoConfig]):
    """Both parts."""

    def pdm_construct(self) -> None:
        self.fast_reset = False
        self.irq13 = self.helpers.isa_irq(13)
        self.ignore_fpu_errors = self.helpers.provide_fpu_errors(self)
        self.helpers.map_ports(
            0x92, Ports("port 92", 1, self.read_port92, self.write_port92, registers=Port92, width=Width.BYTE)
        )
        self.helpers.map_ports(
            0xF0,
            Ports("coprocessor", 2, write=self.write_coprocessor, registers=Coprocessor, width=Width.BYTE),
        )

    def pdm_reset(self) -> None:
        self.fast_reset = False
        self.irq13.set(False)
        self.helpers.set_a20(True)

    def read_port92(self, offset: int, size: int) -> int:
        return (A20 if self.helpers.a20() else 0) | self.fast_reset

    def write_port92(self, offset: int, size: int, value: int) -> None:
        self.helpers.set_a20(bool(value & A20))
        rising = value & FAST_RESET and not self.fast_reset
        self.fast_reset = bool(value & FAST_RESET)
        if rising:
            self.helpers.reset_vm(ResetSource.PORT92, soft=self.firmware_resumes())

    def fpu_error(self) -> None:
        """The role."""
        self.irq13.set(True)

    def write_coprocessor(self, offset: int, size: int, value: int) -> None:
        self.irq13.set(False)
        if offset == 0:
            self.ignore_fpu_errors()

    def firmware_resumes(self) -> bool:
        try:
            return self.helpers.cmos_read(CMOS_SHUTDOWN) in RESUMING
        except PdmError:  # a machine without CMOS
            return False

    def pdm_save(self) -> ArchState:
        return ArchState(self.fast_reset)

    def pdm_load(self, state: ArchState) -> None:
        self.fast_reset = state.fast_reset


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "pcarch",
            PcArchitecture,
            device_class=DeviceClass.ARCH,
            max_instances=1,
            summary="port 0x92 and the coprocessor's ports",
        )
    )
