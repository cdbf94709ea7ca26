"""One device on the cable, as its registers show it.  ATA/ATAPI-7 (T13 1532D) volume 1, clauses 7, 9.

Traps
- Both devices take what the host writes; each shows its own.
- Registers are two deep: 16 bits are kept, and HOB chooses which byte is read.
- A packet device is not ready (DRDY 0) after a reset, or old drivers take it for a disk.
- Where device 1 is missing, device 0 answers for it: status reads 00; the other registers are its own
  when it is a disk, and 00 when it is a packet device.  Where device 0 is missing nobody does.
"""

from __future__ import annotations

from vbox_pdm import DriveRequest, TaskFile
from vbox_pdm.drive import ATAPI_SIGNATURE, DriveBelow
from vbox_plugin_ide.registers import (
    BSY,
    COUNT,
    DEV,
    DEVICE,
    DRQ,
    ERROR,
    FEATURES,
    LBA_HIGH,
    LBA_LOW,
    LBA_MID,
    PASSED,
    READY,
)


class Unit:
    """Device 0 or 1 of a channel.  `status` of one that is not there is 0."""

    def __init__(self, number: int, drive: DriveBelow) -> None:
        self.number = number
        self.drive = drive
        self.signature: int | None = None
        self.clear()

    def clear(self) -> None:
        """Nobody is there."""
        self.features = self.count = self.low = self.mid = self.high = 0
        self.device = self.error = self.status = 0
        self.pending = False
        """It asks for an interrupt."""

    @property
    def present(self) -> bool:
        """Whether a drive is there."""
        return self.signature is not None

    @property
    def packet(self) -> bool:
        """Whether it is a packet device."""
        return self.signature == ATAPI_SIGNATURE

    def power_on(self) -> None:
        """See who is there, and show what it shows after power on."""
        self.signature = self.drive.drive_signature()
        self.clear()
        if self.signature is not None:
            self.sign()

    def sign(self) -> None:
        """The end of a reset: signature and diagnostic code; device 0 is selected."""
        signature = self.signature or 0
        self.features = 0
        self.count = signature & 0xFF
        self.low = signature >> 8 & 0xFF
        self.mid = signature >> 16 & 0xFF
        self.high = signature >> 24
        self.device = 0
        self.error = PASSED
        self.status = 0 if self.packet else READY
        self.pending = False

    def read(self, offset: int, hob: bool) -> int:
        """Registers 1 to 6."""
        if offset == ERROR:
            return self.error
        if offset == DEVICE:
            return self.device
        value = (self.count, self.low, self.mid, self.high)[offset - COUNT]
        return value >> 8 if hob else value & 0xFF

    def write(self, offset: int, value: int) -> None:
        """Registers 1 to 6."""
        if offset == LBA_LOW:
            self.low = self.low << 8 & 0xFF00 | value
        elif offset == LBA_MID:
            self.mid = self.mid << 8 & 0xFF00 | value
        elif offset == LBA_HIGH:
            self.high = self.high << 8 & 0xFF00 | value
        elif offset == COUNT:
            self.count = self.count << 8 & 0xFF00 | value
        elif offset == FEATURES:
            self.features = self.features << 8 & 0xFF00 | value
        else:
            self.device = value

    def task(self, command: int) -> TaskFile:
        """What a command is to work with."""
        lba = self.low & 0xFF | (self.mid & 0xFF) << 8 | (self.high & 0xFF) << 16
        lba |= (self.low >> 8) << 24 | (self.mid >> 8) << 32 | (self.high >> 8) << 40
        return TaskFile(command, self.features, self.count, lba, self.device)

    def show(self, request: DriveRequest) -> None:
        """The registers at the end of a command."""
        lba = request.lba
        self.count = request.count & 0xFFFF
        self.low = lba & 0xFF | lba >> 16 & 0xFF00
        self.mid = lba >> 8 & 0xFF | lba >> 24 & 0xFF00
        self.high = lba >> 16 & 0xFF | lba >> 32 & 0xFF00
        self.device = request.device & 0xFF & ~DEV | self.device & DEV
        self.error = request.error & 0xFF
        self.status = request.status & 0xFF & ~(BSY | DRQ)

    def ask_for_block(self, reason: int, length: int) -> None:
        """Interrupt reason and byte count of a packet device."""
        self.count = reason
        self.mid = length & 0xFF
        self.high = length >> 8
