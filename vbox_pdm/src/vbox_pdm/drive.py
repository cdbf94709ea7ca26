"""Drives: what a controller (IDE, SATA, USB) has at the other end of its cable.

A controller owns the registers, the interrupt and the way of the data (PIO, PRDs, FISes); the drive
owns the meaning of commands and packets and answers with the registers that the host reads back.

How a command goes: the controller asks `drive_phase` what it will transfer, finds memory for that,
and submits a `DriveRequest` with it.  The drive moves as much as the memory takes and calls `done`.
When `more` is set the command goes on: the controller drains or refills the memory and submits the
same request again.  So PIO needs a buffer of a few sectors however long the command is, and DMA
lends guest memory for the whole of it.

Reference: ATA/ATAPI-7 (T13 1532D) volume 1, register values at completion: 6.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen

from vbox_pdm.layers import End, Layer

ATA_SIGNATURE = 0x00000101
"""Count, LBA low, mid, high after a reset, low byte first: an ATA device."""
ATAPI_SIGNATURE = 0xEB140101
"""The same of a packet device."""


@frozen
class TaskFile:
    """The command block registers.  With two-deep registers (48-bit commands) `features` and `count`
    have 16 bits and `lba` 48, the earlier written bytes on top; commands of 28 bits look at the low
    byte of `features` and `count`, at the low 24 bits of `lba` and at bits 3:0 of `device`."""

    command: int
    features: int = 0
    count: int = 0
    lba: int = 0
    device: int = 0


class Direction(enum.Enum):
    """Where the data of a command goes."""

    NONE = "none"
    IN = "in"  # drive to host
    OUT = "out"  # host to drive


@frozen
class Phase:
    """What a command will transfer: at most `length` bytes, in DRQ blocks of `block` bytes (the last
    one may be shorter) when it is done by PIO.  `dma` is for commands of the DMA protocol; a packet
    goes by DMA when bit 0 of `features` was set."""

    direction: Direction = Direction.NONE
    length: int = 0
    block: int = 512
    dma: bool = False


@define(eq=False)
class DriveRequest:
    """A command under way.  `packet` is the CDB of a PACKET command (12 bytes).

    `views` is the memory of this step, and belongs to the request until `done(request)` is called:
    once for each submission whatever happens meanwhile (a reset, a saved state that is loaded, a medium
    that is pulled), under the VM's lock, perhaps before `drive_submit` returns.  Then
    `moved` is how many bytes of them were transferred in this step, and `more` says whether the
    command has more to transfer.  `position` counts the bytes of the steps before.

    When `more` is False the command is over and `status` (BSY and DRQ clear), `error`, `count`, `lba`
    and `device` are the registers to show.  For PACKET, `count` has the interrupt reason.
    """

    task: TaskFile
    done: Callable[[DriveRequest], None]
    packet: bytes = b""
    views: tuple[memoryview, ...] = field(default=(), kw_only=True)
    position: int = field(default=0, kw_only=True)
    moved: int = field(default=0, kw_only=True)
    more: bool = field(default=False, kw_only=True)
    status: int = field(default=0x50, kw_only=True)
    error: int = field(default=0, kw_only=True)
    count: int = field(default=0, kw_only=True)
    lba: int = field(default=0, kw_only=True)
    device: int = field(default=0, kw_only=True)
    cookie: object = field(default=None, kw_only=True)
    """The controller's own."""


class DriveReset(enum.Enum):
    """How a drive is reset."""

    POWER = "power"  # power on, hard reset of the machine, COMRESET
    SOFTWARE = "software"  # SRST
    DEVICE = "device"  # the DEVICE RESET command of packet devices


class DriveBelow(End, Protocol):
    """A drive, as its controller calls it."""

    def drive_signature(self) -> int | None:
        """ATA_SIGNATURE or ATAPI_SIGNATURE; None where no drive is."""
        return None

    def drive_phase(self, task: TaskFile, packet: bytes) -> Phase:
        """What this command would transfer; asks only, changes nothing.  A command that the drive
        does not know transfers nothing and is aborted when it is submitted."""
        return Phase()

    def drive_submit(self, request: DriveRequest) -> None:
        """Carry out a command, or its next step.  One at a time until `more` is False."""
        request.status, request.error, request.moved, request.more = 0x51, 0x04, 0, False
        request.done(request)

    def drive_reset(self, kind: DriveReset) -> None:
        """Settings as after that reset.  A request that is under way still completes; one that has
        `more` to do is forgotten."""

    def drive_lchs(self) -> tuple[int, int, int] | None:
        """Cylinders, heads and sectors of the translation that firmware should use; None to leave it
        to the firmware, or where there is no disk."""
        return None


class DriveAbove(End, Protocol):
    """A controller, as its drive calls it."""

    def drive_notify(self) -> None:
        """Something happened that the host may want to know without asking: a medium was changed, or
        there is a drive now (`drive_signature`) where there was none, or none any more."""


Drive = Layer("Drive", DriveBelow, DriveAbove)  # type: ignore[type-abstract]
