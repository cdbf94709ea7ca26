"""A port that ends the VM with an exit code, for tests.

Not a chip: the convention of test kernels, which write the result of their run to a port.  A write of
`v` powers the VM off with the exit code (v << 1 | 1) & 0xFF, so that 0 cannot be mistaken for success.
A machine has this device only when it is configured.

Traps: the code has odd values only; a write wider than a byte counts as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from vbox_pdm import Device, DeviceClass, DeviceType, Ports, Reg8, RegisterMap, hookimpl, key
from vbox_plugin_pc.conformance import vbox_conformance_setup as vbox_conformance_setup


class Registers(RegisterMap):
    """The ports."""

    EXIT = Reg8(0, count=4, stride=1, bits=0, effect="writes power the VM off")


@frozen
class Config:
    io_base: int = key(0xF4, span=(0, 0xFFFC), help="first port")
    size: int = key(4, span=(1, 4), help="how many ports")


class DebugExit(Device[Config]):
    """Stateless."""

    def pdm_construct(self) -> None:
        region = Ports("debug exit", self.config.size, self.read, self.write, registers=Registers)
        self.helpers.map_ports(self.config.io_base, region)

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.helpers.power_off_vm((value << 1 | 1) & 0xFF)


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(
        DeviceType(
            "isa-debug-exit",
            DebugExit,
            Config,
            device_class=DeviceClass.MISC,
            summary="a port that powers the VM off with an exit code",
        )
    )
