"""ATA tables that drives and controllers share: commands, register bits, addresses, IDENTIFY data.

Reference: ATA/ATAPI-7 (T13 1532D) volume 1; commands that it calls obsolete: ATA-1 to ATA-5; DATA SET
MANAGEMENT and the rotation rate: ACS-2 (T13 2015-D).

Traps: a count of 0 means 256 or 65536 sectors; sectors of CHS addresses count from 1; characters of
IDENTIFY strings are swapped in each word; the checksum of IDENTIFY data is over bytes, not words.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from attrs import frozen

from vbox_pdm.drive import TaskFile

SECTOR = 512
"""Bytes of a logical sector."""

# Status register
ERR, DRQ, DSC, DF, DRDY, BSY = 0x01, 0x08, 0x10, 0x20, 0x40, 0x80
READY = DRDY | DSC
# Error register
AMNF, NM, ABRT, MCR, IDNF, MC, UNC, ICRC = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80
WP = 0x40
"""Error of a write: the medium is write protected (the bit that is UNC for reads)."""
# Device register
DEV, LBA, OBSOLETE_ONES = 0x10, 0x40, 0xA0

LBA28_SECTORS = 0x0FFFFFFF
"""How many sectors words 60 and 61 of IDENTIFY data may claim."""
LBA48_SECTORS = (1 << 48) - 1
CHS_SECTORS = 16383 * 16 * 63
"""From this many sectors on a disk claims 16383 cylinders of 16 heads and 63 sectors."""


class Protocol(enum.Enum):
    """How the data of a command goes."""

    NON_DATA = "non-data"
    PIO_IN = "PIO in"
    PIO_OUT = "PIO out"
    DMA_IN = "DMA in"
    DMA_OUT = "DMA out"
    PACKET = "packet"
    RESET = "device reset"
    DIAGNOSTIC = "diagnostic"


class Command(enum.IntEnum):
    """Command codes."""

    NOP = 0x00
    DATA_SET_MANAGEMENT = 0x06
    DEVICE_RESET = 0x08
    RECALIBRATE = 0x10  # up to 0x1F
    READ_SECTORS = 0x20
    READ_SECTORS_NO_RETRY = 0x21
    READ_SECTORS_EXT = 0x24
    READ_DMA_EXT = 0x25
    READ_NATIVE_MAX_EXT = 0x27
    READ_MULTIPLE_EXT = 0x29
    WRITE_SECTORS = 0x30
    WRITE_SECTORS_NO_RETRY = 0x31
    WRITE_SECTORS_EXT = 0x34
    WRITE_DMA_EXT = 0x35
    SET_MAX_EXT = 0x37
    WRITE_MULTIPLE_EXT = 0x39
    WRITE_VERIFY = 0x3C
    WRITE_DMA_FUA_EXT = 0x3D
    READ_VERIFY = 0x40
    READ_VERIFY_NO_RETRY = 0x41
    READ_VERIFY_EXT = 0x42
    SEEK = 0x70  # up to 0x7F
    EXECUTE_DIAGNOSTIC = 0x90
    INITIALIZE_PARAMETERS = 0x91
    STANDBY_IMMEDIATE_OLD = 0x94
    IDLE_IMMEDIATE_OLD = 0x95
    STANDBY_OLD = 0x96
    IDLE_OLD = 0x97
    CHECK_POWER_OLD = 0x98
    SLEEP_OLD = 0x99
    PACKET = 0xA0
    IDENTIFY_PACKET = 0xA1
    SMART = 0xB0
    READ_MULTIPLE = 0xC4
    WRITE_MULTIPLE = 0xC5
    SET_MULTIPLE = 0xC6
    READ_DMA = 0xC8
    READ_DMA_NO_RETRY = 0xC9
    WRITE_DMA = 0xCA
    WRITE_DMA_NO_RETRY = 0xCB
    WRITE_MULTIPLE_FUA_EXT = 0xCE
    STANDBY_IMMEDIATE = 0xE0
    IDLE_IMMEDIATE = 0xE1
    STANDBY = 0xE2
    IDLE = 0xE3
    READ_BUFFER = 0xE4
    CHECK_POWER = 0xE5
    SLEEP = 0xE6
    FLUSH_CACHE = 0xE7
    WRITE_BUFFER = 0xE8
    FLUSH_CACHE_EXT = 0xEA
    IDENTIFY = 0xEC
    SET_FEATURES = 0xEF
    READ_NATIVE_MAX = 0xF8
    SET_MAX = 0xF9


_C, _P = Command, Protocol
_BY_PROTOCOL: dict[Protocol, tuple[Command, ...]] = {
    _P.PIO_IN: (
        _C.READ_SECTORS, _C.READ_SECTORS_NO_RETRY, _C.READ_SECTORS_EXT, _C.READ_MULTIPLE,
        _C.READ_MULTIPLE_EXT, _C.READ_BUFFER, _C.IDENTIFY, _C.IDENTIFY_PACKET,
    ),
    _P.PIO_OUT: (
        _C.WRITE_SECTORS, _C.WRITE_SECTORS_NO_RETRY, _C.WRITE_SECTORS_EXT, _C.WRITE_VERIFY,
        _C.WRITE_MULTIPLE, _C.WRITE_MULTIPLE_EXT, _C.WRITE_MULTIPLE_FUA_EXT, _C.WRITE_BUFFER,
    ),
    _P.DMA_IN: (_C.READ_DMA, _C.READ_DMA_NO_RETRY, _C.READ_DMA_EXT),
    _P.DMA_OUT: (
        _C.WRITE_DMA, _C.WRITE_DMA_NO_RETRY, _C.WRITE_DMA_EXT, _C.WRITE_DMA_FUA_EXT, _C.DATA_SET_MANAGEMENT,
    ),
    _P.PACKET: (_C.PACKET,),
    _P.RESET: (_C.DEVICE_RESET,),
    _P.DIAGNOSTIC: (_C.EXECUTE_DIAGNOSTIC,),
}  # fmt: skip

PROTOCOLS: dict[int, Protocol] = {int(command): Protocol.NON_DATA for command in Command}
"""Command code to protocol; codes that are not here are unknown (SMART depends on its features)."""
PROTOCOLS |= {int(command): protocol for protocol, them in _BY_PROTOCOL.items() for command in them}
PROTOCOLS |= {code: Protocol.NON_DATA for base in (0x10, 0x70) for code in range(base, base + 16)}

EXT = frozenset(
    int(command)
    for command in (
        _C.READ_SECTORS_EXT, _C.READ_DMA_EXT, _C.READ_NATIVE_MAX_EXT, _C.READ_MULTIPLE_EXT,
        _C.WRITE_SECTORS_EXT, _C.WRITE_DMA_EXT, _C.SET_MAX_EXT, _C.WRITE_MULTIPLE_EXT,
        _C.WRITE_DMA_FUA_EXT, _C.READ_VERIFY_EXT, _C.FLUSH_CACHE_EXT, _C.DATA_SET_MANAGEMENT,
        _C.WRITE_MULTIPLE_FUA_EXT,
    )
)  # fmt: skip
"""Commands of 48 bits: they read both bytes of each register."""
READS = frozenset((0x20, 0x21, 0x24, 0x25, 0x29, 0xC4, 0xC8, 0xC9))
"""Commands that read sectors of the medium and transfer them."""
WRITES = frozenset((0x30, 0x31, 0x34, 0x35, 0x39, 0x3C, 0x3D, 0xC5, 0xCA, 0xCB, 0xCE))
"""Commands that write sectors."""
VERIFIES = frozenset((0x40, 0x41, 0x42))
MULTIPLES = frozenset((0x29, 0x39, 0xC4, 0xC5, 0xCE))
"""Commands whose DRQ blocks are those of SET MULTIPLE MODE."""
FUA = frozenset((0x3D, 0xCE))


# --- addresses


@frozen
class Geometry:
    """A translation.  `cylinders` 1..65535, `heads` 1..16 (255 for firmware), `sectors` 1..255."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def size(self) -> int:
        """Sectors that CHS addresses reach."""
        return self.cylinders * self.heads * self.sectors

    def lba(self, cylinder: int, head: int, sector: int) -> int | None:
        """The sector at a CHS address; None where it is outside of the geometry."""
        if cylinder >= self.cylinders or head >= self.heads or not 1 <= sector <= self.sectors:
            return None
        return (cylinder * self.heads + head) * self.sectors + sector - 1

    def chs(self, lba: int) -> tuple[int, int, int]:
        """Cylinder, head and sector (from 1) of a sector."""
        track, sector = divmod(lba, self.sectors)
        cylinder, head = divmod(track, self.heads)
        return cylinder, head, sector + 1


def default_geometry(sectors: int) -> Geometry:
    """The default translation of a disk of so many sectors: 16 heads of 63 sectors, 16383 cylinders at
    most (ATA/ATAPI-5, annex: large disks are addressed by LBA)."""
    if sectors >= CHS_SECTORS:
        return Geometry(16383, 16, 63)
    return Geometry(max(1, sectors // (16 * 63)), 16, 63)


def translated(sectors: int, heads: int, per_track: int) -> Geometry:
    """The translation that INITIALIZE DEVICE PARAMETERS sets."""
    return Geometry(max(1, min(0xFFFF, sectors // (heads * per_track))), heads, per_track)


def sector_count(task: TaskFile) -> int:
    """How many sectors a read or write command means: 1..256, or 1..65536 of 48-bit commands."""
    if task.command in EXT:
        return task.count & 0xFFFF or 0x10000
    return task.count & 0xFF or 0x100


def uses_lba(task: TaskFile) -> bool:
    """Whether the address is an LBA (of 28 or 48 bits), not CHS."""
    return task.command in EXT or bool(task.device & LBA)


def start_sector(task: TaskFile, geometry: Geometry) -> int | None:
    """The sector that a task file addresses; None for a CHS address outside of `geometry`."""
    if task.command in EXT:
        return task.lba & LBA48_SECTORS
    if task.device & LBA:
        return task.lba & 0xFFFFFF | (task.device & 0x0F) << 24
    return geometry.lba(task.lba >> 8 & 0xFFFF, task.device & 0x0F, task.lba & 0xFF)


def address_registers(task: TaskFile, sector: int, geometry: Geometry) -> tuple[int, int]:
    """The `lba` and `device` registers that report `sector` in the addressing of `task`."""
    device = task.device | OBSOLETE_ONES
    if task.command in EXT:
        return sector & LBA48_SECTORS, device
    if task.device & LBA:
        return sector & 0xFFFFFF, device & 0xF0 | sector >> 24 & 0x0F
    cylinder, head, number = geometry.chs(sector)
    return number & 0xFF | (cylinder & 0xFFFF) << 8, device & 0xF0 | head & 0x0F


# --- IDENTIFY data


def ata_string(text: str, length: int) -> bytes:
    """`text` as `length` bytes (even) of IDENTIFY data: padded with spaces, bytes of words swapped.
    What is no printable ASCII becomes '?'."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)[:length].ljust(length).encode("ascii")
    return bytes(byte for at in range(0, length, 2) for byte in (plain[at + 1], plain[at]))


def read_string(data: bytes, word: int, length: int) -> str:
    """A string of IDENTIFY data, without its padding."""
    raw = data[2 * word : 2 * word + length]
    return bytes(raw[at ^ 1] for at in range(length)).decode("ascii", "replace").strip()


def integrity_word(data: bytes) -> int:
    """Word 255 for the first 510 bytes of IDENTIFY data: A5h and the checksum that makes the sum of
    all 512 bytes zero."""
    return (-(sum(data[:510]) + 0xA5) & 0xFF) << 8 | 0xA5


def identify_data(words: dict[int, int], strings: Sequence[tuple[int, int, str]]) -> bytes:
    """512 bytes of IDENTIFY data: `words` by number, `strings` as (word, bytes, text), and word 255."""
    data = bytearray(2 * 256)
    for number, value in words.items():
        data[2 * number : 2 * number + 2] = (value & 0xFFFF).to_bytes(2, "little")
    for number, length, text in strings:
        data[2 * number : 2 * number + length] = ata_string(text, length)
    data[510:] = integrity_word(bytes(data)).to_bytes(2, "little")
    return bytes(data)


def words_of(value: int, first: int, count: int) -> dict[int, int]:
    """`value` as `count` words from number `first` on, low word first."""
    return {first + at: value >> 16 * at & 0xFFFF for at in range(count)}


# --- transfer modes (SET FEATURES 03h)


class ModeKind(enum.Enum):
    """The three kinds of transfer mode."""

    PIO = "PIO"
    MDMA = "multiword DMA"
    UDMA = "Ultra DMA"


def transfer_mode(count: int) -> tuple[ModeKind, int] | None:
    """What the count register of SET FEATURES 03h means; None for reserved and retired values.
    Modes: PIO 0..4 (00h and 01h are the default mode, given as 0), MDMA 0..2, UDMA 0..6."""
    count &= 0xFF
    kind, mode = count >> 3, count & 7
    if kind == 0:
        return (ModeKind.PIO, 0) if mode <= 1 else None
    if kind == 1:
        return (ModeKind.PIO, mode) if mode <= 4 else None
    if kind == 4:
        return (ModeKind.MDMA, mode) if mode <= 2 else None
    if kind == 8:
        return (ModeKind.UDMA, mode) if mode <= 6 else None
    return None
