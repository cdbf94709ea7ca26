"""Somebody who asks of a device that is checked what other devices ask of one with a role."""

from __future__ import annotations

from collections.abc import Callable

from vbox_pdm.device import Device, DeviceType
from vbox_pdm.helpers import DmaChannel
from vbox_pdm.pci import PciIdentity
from vbox_pdm.testing.conformance.violations import Violation


class Stand(Device[None]):
    """The rest of the machine: somebody else who drives interrupt lines, and takes DMA channels.

    A transfer moves `chunk` bytes at a time, or to the end of the block, where it has two more than fit."""

    def pdm_construct(self) -> None:
        self.chunk = 1
        self.channels: dict[int, DmaChannel] = {}
        self.lines = [self.helpers.isa_irq(line) for line in range(16)]
        identity = [PciIdentity(0x1234, 0x5678, class_code=0xFF0000, pin=pin) for pin in range(1, 5)]
        self.pins = [self.helpers.pci(one, device=30, function=number) for number, one in enumerate(identity)]

    def take_channels(self) -> None:
        """An 8-bit and a 16-bit one, of the controller that is checked."""
        for number in (1, 5):
            self.channels[number] = self.helpers.dma_channel(number, self._mover(number))

    def _mover(self, number: int) -> Callable[[int, int], int]:
        def move(position: int, length: int) -> int:
            if not 0 <= position < length:
                raise Violation("layer", f"a device with DMA is to go on at {position} of {length} bytes")
            channel, end = self.channels[number], min(length, position + self.chunk)
            if channel.mode() & 0x0C == 0x04:
                more = 2 if end == length else 0
                channel.write_memory(position, bytes([number]) * (end - position + more))
            else:
                channel.read_memory(position, end - position)
            return end

        return move

    def drive(self, line: int, level: bool, *, slot: bool) -> None:
        """ISA line 0..15, or pin 0..3 of its slot."""
        if slot:
            self.pins[line & 3].set_irq(level)
        else:
            self.lines[line].set(level)


STAND = DeviceType("kit stand", Stand)
