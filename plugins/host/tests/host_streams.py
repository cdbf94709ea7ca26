"""What the tests of character drivers share: a device above with a buffer of any size."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vbox_pdm import CharStream, Device, DeviceType
from vbox_pdm.testing import Bench


class Line(Device[Any]):
    """A device that keeps all, and takes what `room` allows."""

    def pdm_construct(self) -> None:
        self.taken = bytearray()
        self.room = 1 << 30
        self.overrun = False
        self.status: tuple[bool, bool, bool, bool] | None = None
        self.to_send = bytearray()
        self.below = self.helpers.lun(0, CharStream, "line under test")

    # what the guest does

    def send(self, data: bytes) -> None:
        """Send all of it, in pieces as the driver accepts them."""
        self.to_send += data
        self.char_sendable()

    def make_room(self, room: int) -> None:
        """The guest read what there was."""
        self.room += room
        self.below.char_ready()

    # the layer

    def char_room(self) -> int:
        return self.room

    def char_received(self, data: bytes) -> None:
        self.overrun |= len(data) > self.room
        self.room -= len(data)
        self.taken += data

    def char_sendable(self) -> None:
        while self.to_send:
            accepted = self.below.char_send(bytes(self.to_send))
            del self.to_send[:accepted]
            if not accepted:
                return

    def char_status(self, cts: bool, dsr: bool, ri: bool, dcd: bool) -> None:
        self.status = (cts, dsr, ri, dcd)


LINE = DeviceType("line", Line)


def make(bench: Bench, module: ModuleType, name: str, **config: object) -> tuple[Line, Any]:
    """The device and the driver below it, running."""
    bench.plugin(module)
    device = bench.add(LINE, lun0=(name, config))
    bench.power_on()
    return device, bench.drivers(device)[0]
