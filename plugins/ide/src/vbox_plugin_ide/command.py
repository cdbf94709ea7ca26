"""A command under way.  ATA/ATAPI-7 (T13 1532D) volume 1, PACKET and IDENTIFY PACKET DEVICE.

Traps
- Byte count limit of a packet: FFFFh is FFFEh, and so is 0, as by a device that says FFFEh in word 125
  of IDENTIFY PACKET DEVICE (0000h there would mean that 0 is refused when there is data).  An odd limit
  below the length of the data is not allowed; the next lower even number is used, but not 0.
"""

from __future__ import annotations

from attrs import define

from vbox_pdm import DriveRequest, Phase
from vbox_plugin_ide.busmaster import Loan
from vbox_plugin_ide.registers import PACKET
from vbox_plugin_ide.saved import LentState, Stage
from vbox_plugin_ide.taskfile import Unit

LONGEST_BLOCK = 0xFFFE
"""Bytes in a block of a packet command: the byte count has 16 bits, and is even."""


@define(eq=False)
class Command:
    """A command under way."""

    unit: Unit
    request: DriveRequest
    phase: Phase
    block: int = 512
    dma: bool = False
    stage: Stage = Stage.SUBMIT
    sent: int = 0  # bytes of the buffer that the drive took (PIO out)
    loan: Loan | None = None
    lent: LentState | None = None  # of a loaded state: what the next step has
    cancelled: bool = False

    @property
    def packet(self) -> bool:
        """Whether it is a PACKET command of a packet device."""
        return self.request.task.command == PACKET and self.unit.packet

    @property
    def left(self) -> int:
        """Bytes that may still be transferred."""
        return max(0, self.phase.length - self.request.position)


def packet_block(limit: int, length: int) -> int:
    """Bytes in a DRQ block of a packet command: `limit` as the host wrote it, `length` of all data."""
    limit = min(limit or LONGEST_BLOCK, LONGEST_BLOCK)
    return limit if length <= limit else max(2, limit & ~1)
