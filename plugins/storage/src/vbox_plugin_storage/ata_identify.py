"""IDENTIFY DEVICE data of the disk, IDENTIFY PACKET DEVICE data of the CD drive.

Reference: ATA/ATAPI-7 (T13 1532D) volume 1, 6.17 and 6.18; TRIM and the rotation rate: ACS-2.
"""

from __future__ import annotations

from attrs import frozen

from vbox_pdm import ata
from vbox_pdm.ata import Geometry, ModeKind

MAX_MULTIPLE = 128
"""Sectors of the largest DRQ block of READ and WRITE MULTIPLE."""
MAX_TRIM_BLOCKS = 8
"""512-byte blocks of ranges that one DATA SET MANAGEMENT may bring."""

_SUPPORTED_82 = 0x4000 | 0x2000 | 0x1000 | 0x0400 | 0x0040 | 0x0020 | 0x0008
"""NOP, READ BUFFER, WRITE BUFFER, host protected area, look-ahead, write cache, power management."""
_SUPPORTED_83 = 0x2000 | 0x1000 | 0x0400
"""FLUSH CACHE EXT, FLUSH CACHE, 48-bit addresses."""
_SUPPORTED_84 = 0x0040
"""WRITE DMA FUA EXT and WRITE MULTIPLE FUA EXT."""
_WORD_VALID = 0x4000


@frozen
class DiskFacts:
    """What the data tells: `sectors` is what the guest may address (see SET MAX)."""

    model: str
    serial: str
    firmware: str
    sectors: int
    native: int
    default: Geometry
    current: Geometry
    multiple: int
    mode: tuple[ModeKind, int]
    write_cache: bool
    look_ahead: bool
    non_rotational: bool
    trim: bool


def identify_disk(facts: DiskFacts) -> bytes:
    """512 bytes."""
    kind, mode = facts.mode
    mdma = 1 << 8 + mode if kind is ModeKind.MDMA else 0
    udma = 1 << 8 + mode if kind is ModeKind.UDMA else 0
    reachable = min(facts.current.size, facts.sectors)
    words = {
        0: 0x0040,  # a fixed ATA device
        1: facts.default.cylinders,
        3: facts.default.heads,
        6: facts.default.sectors,
        47: 0x8000 | MAX_MULTIPLE,
        49: 0x0F00,  # LBA, DMA, IORDY and that it can be disabled
        50: _WORD_VALID,
        51: 0x0200,  # PIO mode 2, for hosts that look at nothing else
        53: 0x0007,  # words 54 to 58, 64 to 70 and 88 are valid
        54: facts.current.cylinders,
        55: facts.current.heads,
        56: facts.current.sectors,
        **ata.words_of(reachable, 57, 2),
        59: 0x0100 | facts.multiple if facts.multiple else 0,
        **ata.words_of(min(facts.sectors, ata.LBA28_SECTORS), 60, 2),
        63: 0x0007 | mdma,
        64: 0x0003,  # PIO 3 and 4
        **dict.fromkeys((65, 66, 67, 68), 120),  # ns of a cycle
        80: 0x00FE,  # ATA-1 to ATA/ATAPI-7
        82: _SUPPORTED_82,
        83: _SUPPORTED_83 | _WORD_VALID,
        84: _SUPPORTED_84 | _WORD_VALID,
        85: _SUPPORTED_82 & ~0x60 | facts.look_ahead << 6 | facts.write_cache << 5,
        86: _SUPPORTED_83,
        87: _SUPPORTED_84 | _WORD_VALID,
        88: 0x007F | udma,
        93: 0x6003,  # an 80-conductor cable; device number by jumper
        **ata.words_of(facts.sectors, 100, 4),
        105: MAX_TRIM_BLOCKS if facts.trim else 0,
        106: _WORD_VALID,  # one logical sector in a physical one
        169: 0x0001 if facts.trim else 0,
        217: 0x0001 if facts.non_rotational else 0,
    }
    strings = ((10, 20, facts.serial.rjust(20)), (23, 8, facts.firmware), (27, 40, facts.model))
    return ata.identify_data(words, strings)


_PACKET_82 = 0x4000 | 0x0200 | 0x0010 | 0x0008
"""NOP, DEVICE RESET, PACKET, power management."""


def identify_packet(model: str, serial: str, firmware: str, mode: tuple[ModeKind, int]) -> bytes:
    """512 bytes: a removable CD drive with packets of 12 bytes, DRQ within 50 us."""
    kind, number = mode
    words = {
        0: 0x85C0,
        49: 0x0F00,  # DMA, LBA, IORDY and that it can be disabled
        50: _WORD_VALID,
        53: 0x0006,  # words 64 to 70 and 88 are valid
        63: 0x0007 | (1 << 8 + number if kind is ModeKind.MDMA else 0),
        64: 0x0003,
        **dict.fromkeys((65, 66, 67, 68), 120),
        80: 0x00F0,  # ATA/ATAPI-4 to 7
        82: _PACKET_82,
        83: 0x1000 | _WORD_VALID,  # FLUSH CACHE
        84: _WORD_VALID,
        85: _PACKET_82,
        86: 0x1000,
        87: _WORD_VALID,
        88: 0x007F | (1 << 8 + number if kind is ModeKind.UDMA else 0),
        93: 0x6003,
        125: 0xFFFE,  # what a byte count limit of 0 means
    }
    return ata.identify_data(words, ((10, 20, serial.rjust(20)), (23, 8, firmware), (27, 40, model)))
