"""A doorbell: the smallest device with ports, an interrupt and a state.

The guest writes a byte to BELL: the device keeps it, counts, and raises its interrupt line.
Reading BELL gives the byte back and lowers the line.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from vbox_pdm import Device, DeviceType, Ports, Reg8, RegisterMap, State, Width, hookimpl, key

contract = "1.0"  # for `vbox run --plugin` with this file; a wheel says it in its requirements


class Registers(RegisterMap):
    BELL = Reg8(0, "rw", effect="a write raises the interrupt, a read lowers it")
    COUNT = Reg8(1, "r")


@frozen
class Config:
    io_base: int = key(0x510, span=(0, 0xFFFE), help="first of two ports")
    irq: int = key(5, span=(0, 15), help="ISA interrupt line")


@frozen
class DoorbellState(State, version=1):
    value: int
    count: int
    ringing: bool  # the line is high


class Doorbell(Device[Config]):
    def pdm_construct(self) -> None:
        self.irq = self.helpers.isa_irq(self.config.irq)
        region = Ports("doorbell", 2, self.read, self.write, registers=Registers, width=Width.BYTE)
        self.helpers.map_ports(self.config.io_base, region)
        self.pdm_reset()

    def pdm_reset(self) -> None:
        self.value = self.count = 0
        self.ring(False)

    def ring(self, ringing: bool) -> None:
        self.ringing = ringing
        self.irq.set(ringing)

    def read(self, offset: int, size: int) -> int:
        if offset == 1:
            return self.count
        self.ring(False)
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self.value = value
            self.count = (self.count + 1) & 0xFF
            self.ring(True)

    def pdm_save(self) -> DoorbellState:
        return DoorbellState(self.value, self.count, self.ringing)

    def pdm_load(self, state: DoorbellState) -> None:
        self.value, self.count, self.ringing = state.value, state.count, state.ringing


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(DeviceType("doorbell", Doorbell, Config, summary="a doorbell"))
