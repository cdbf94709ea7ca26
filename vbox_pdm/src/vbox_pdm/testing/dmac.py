"""The bench's stand-in for the ISA DMA controller: programmed by the test, not by ports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import DmaTransfer

AUTO_INIT, DECREMENT = 0x10, 0x20
"""Bits of an 8237 mode register; bits 2 and 3 are the direction: 4 writes memory, 8 reads it."""
WRITE_MEMORY, READ_MEMORY = 4, 8
_MAX_STEPS = 100_000


class _Memory(Protocol):
    def memory_read(self, address: int, length: int) -> bytes: ...
    def memory_write(self, address: int, data: bytes) -> None: ...


class FakeChannel:
    """A `DmaChannel`."""

    def __init__(self, memory: Callable[[], _Memory], number: int, transfer: DmaTransfer) -> None:
        self.number = number
        self.transfer = transfer
        self.position = 0
        """Bytes of the block that were moved."""
        self.done = False
        """Terminal count was reached."""
        self._memory = memory
        self._block: tuple[int, int] | None = None
        self._mode = 0
        self._request = False

    # --- the device's side

    def request(self, level: bool) -> None:
        """Drive DREQ."""
        self._request = bool(level)

    def mode(self) -> int:
        """The mode register."""
        return self._mode

    def read_memory(self, position: int, length: int) -> bytes:
        """Memory to device."""
        address, length = self._place(position, length)
        data = self._memory().memory_read(address, length)
        return data[::-1] if self._mode & DECREMENT else data

    def write_memory(self, position: int, data: bytes) -> None:
        """Device to memory."""
        address, length = self._place(position, len(data))
        data = bytes(data[:length])
        self._memory().memory_write(address, data[::-1] if self._mode & DECREMENT else data)

    # --- the test's side

    def program(self, address: int, count: int, mode: int) -> None:
        """A block of `count` bytes, from `address` upwards or (DECREMENT) downwards."""
        self._block = (address, count)
        self._mode = mode & 0xFC | self.number & 3
        self.position = 0
        self.done = False

    def run(self) -> None:
        """Transfer while the device requests and there is something left."""
        for _ in range(_MAX_STEPS):
            if not self._request or self._block is None or self.done:
                return
            count = self._block[1]
            position = self.transfer(self.position, count)
            if position < self.position or position > count:
                raise PdmError(
                    "VERR_OUT_OF_RANGE",
                    f"The transfer of DMA channel {self.number} went from {self.position} to {position} "
                    f"of {count}",
                )
            if position == self.position:
                return
            self.position = position
            if position == count:
                self.done = not self._mode & AUTO_INIT
                if not self.done:
                    self.position = 0
                return

    def _place(self, position: int, length: int) -> tuple[int, int]:
        address, count = self._block if self._block is not None else (0, 0)
        length = max(0, min(length, count - position))
        if self._mode & DECREMENT:
            return address - position - length + 1, length
        return address + position, length


class FakeDmac:
    """A `Dmac`: the taps' stand-in."""

    def __init__(self, memory: Callable[[], _Memory]) -> None:
        self.channels: dict[int, FakeChannel] = {}
        self._memory = memory

    def attach(self, channel: int, transfer: DmaTransfer) -> FakeChannel:
        """A device takes a channel."""
        if channel in self.channels:
            raise PdmError("VERR_ALREADY_EXISTS", f"DMA channel {channel} is taken", "Configure another one")
        self.channels[channel] = FakeChannel(self._memory, channel, transfer)
        return self.channels[channel]

    def run(self) -> None:
        """Let all channels transfer."""
        for channel in self.channels.values():
            channel.run()
