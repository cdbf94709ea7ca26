"""A plugin that is a single file, for the tests of reports, of the command and of the pytest options."""

from __future__ import annotations

import os
from collections.abc import Callable

from attrs import frozen

from vbox_pdm import Device, DeviceType, Ports, Reg8, RegisterMap, State, Width, hookimpl, key

contract = "1.0"


class Registers(RegisterMap):
    TONE = Reg8(0, "rw", reset=1)
    VOLUME = Reg8(1, "rw", fields={"LOUD": 0, "MUTED": 7})
    BEATS = Reg8(2, "r", reset=0xFF)


@frozen
class Config:
    io_base: int = key(0x320, span=(0x320, 0x330), help="first of three ports")


@frozen
class BellState(State, version=1):
    tone: int
    volume: int


class Bell(Device[Config]):
    """BEATS is worked out of TONE."""

    def pdm_construct(self) -> None:
        region = Ports("bell", 3, self.read, self.write, registers=Registers, width=Width.BYTE)
        self.helpers.map_ports(self.config.io_base, region)
        self.pdm_reset()

    def pdm_reset(self) -> None:
        self.tone, self.volume = 1, 0

    def read(self, offset: int, size: int) -> int:
        return (self.tone, self.volume, 0)[offset] if offset < 2 else self.beats()

    def beats(self) -> int:
        return 255 // self.tone if self.tone else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self.tone = value
        elif offset == 1:
            self.volume = value

    def pdm_save(self) -> BellState:
        return BellState(self.tone, self.volume)

    def pdm_load(self, state: BellState) -> None:
        self.tone, self.volume = state.tone, state.volume


class Cracked(Bell):
    """Cannot be without a tone while it is muted."""

    def beats(self) -> int:
        return 255 // self.tone if self.tone or self.volume & 0x80 else 0


class Gone(Bell):
    """Takes the process with it."""

    def pdm_power_on(self) -> None:
        os._exit(3)


class GoneInPeace(Bell):
    """The same, and says that all is well."""

    def pdm_power_on(self) -> None:
        os._exit(0)


class Stuck(Bell):
    """Never comes to an end."""

    def pdm_power_on(self) -> None:
        while True:
            pass


class Stubborn(Bell):
    """Cannot even be interrupted."""

    def pdm_power_on(self) -> None:
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass


@hookimpl
def vbox_register_devices(register: Callable[[DeviceType], None]) -> None:
    register(DeviceType("bell", Bell, Config, summary="a bell"))
    register(DeviceType("cracked", Cracked, Config, summary="<b>a</b> bell that cannot be silent"))
    register(DeviceType("gone", Gone, Config))
    register(DeviceType("gone-in-peace", GoneInPeace, Config))
    register(DeviceType("stuck", Stuck, Config))
    register(DeviceType("stubborn", Stubborn, Config))
