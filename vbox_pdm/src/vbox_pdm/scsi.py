"""SCSI tables that drives share: operation codes, sense data, fields and transfers of CDBs.

Reference: SPC-4 (T10 1731-D), SBC-3 (T10 1799-D), MMC-6 (T10 1836-D).

Traps: numbers are big endian; a transfer length of 0 means 256 blocks in 6-byte commands and none in
all others; an allocation length of 0 is no error.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from attrs import frozen

from vbox_pdm.drive import Direction


class Op(enum.IntEnum):
    """Operation codes."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    PREVENT_ALLOW = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    SEEK_10 = 0x2B
    WRITE_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    SYNCHRONIZE_CACHE_10 = 0x35
    UNMAP = 0x42
    READ_SUB_CHANNEL = 0x42  # of CD drives
    READ_TOC = 0x43
    PLAY_AUDIO_10 = 0x45
    GET_CONFIGURATION = 0x46
    PLAY_AUDIO_MSF = 0x47
    GET_EVENT_STATUS = 0x4A
    PAUSE_RESUME = 0x4B
    STOP_PLAY = 0x4E
    READ_DISC_INFORMATION = 0x51
    READ_TRACK_INFORMATION = 0x52
    MODE_SELECT_10 = 0x55
    MODE_SENSE_10 = 0x5A
    READ_16 = 0x88
    WRITE_16 = 0x8A
    SYNCHRONIZE_CACHE_16 = 0x91
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    PLAY_AUDIO_12 = 0xA5
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    READ_DVD_STRUCTURE = 0xAD
    READ_CD_MSF = 0xB9
    SCAN = 0xBA
    SET_CD_SPEED = 0xBB
    MECHANISM_STATUS = 0xBD
    READ_CD = 0xBE


class SenseKey(enum.IntEnum):
    """Sense keys."""

    NO_SENSE = 0
    RECOVERED_ERROR = 1
    NOT_READY = 2
    MEDIUM_ERROR = 3
    HARDWARE_ERROR = 4
    ILLEGAL_REQUEST = 5
    UNIT_ATTENTION = 6
    DATA_PROTECT = 7
    ABORTED_COMMAND = 0xB


@frozen
class Sense:
    """What went wrong: sense key, additional sense code and its qualifier."""

    key: SenseKey
    asc: int = 0
    ascq: int = 0


_K = SenseKey
NO_SENSE = Sense(_K.NO_SENSE)
NOT_READY = Sense(_K.NOT_READY, 0x04, 0x00)
NO_MEDIUM = Sense(_K.NOT_READY, 0x3A, 0x00)
NO_MEDIUM_TRAY_CLOSED = Sense(_K.NOT_READY, 0x3A, 0x01)
NO_MEDIUM_TRAY_OPEN = Sense(_K.NOT_READY, 0x3A, 0x02)
WRITE_ERROR = Sense(_K.MEDIUM_ERROR, 0x0C, 0x00)
UNRECOVERED_READ_ERROR = Sense(_K.MEDIUM_ERROR, 0x11, 0x00)
INTERNAL_FAILURE = Sense(_K.HARDWARE_ERROR, 0x44, 0x00)
PARAMETER_LIST_LENGTH = Sense(_K.ILLEGAL_REQUEST, 0x1A, 0x00)
INVALID_OPCODE = Sense(_K.ILLEGAL_REQUEST, 0x20, 0x00)
OUT_OF_RANGE = Sense(_K.ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_FIELD_IN_CDB = Sense(_K.ILLEGAL_REQUEST, 0x24, 0x00)
INVALID_FIELD_IN_PARAMETERS = Sense(_K.ILLEGAL_REQUEST, 0x26, 0x00)
COMMAND_SEQUENCE_ERROR = Sense(_K.ILLEGAL_REQUEST, 0x2C, 0x00)
INCOMPATIBLE_MEDIUM = Sense(_K.ILLEGAL_REQUEST, 0x30, 0x02)
SAVING_NOT_SUPPORTED = Sense(_K.ILLEGAL_REQUEST, 0x39, 0x00)
REMOVAL_PREVENTED = Sense(_K.ILLEGAL_REQUEST, 0x53, 0x02)
ILLEGAL_MODE_FOR_TRACK = Sense(_K.ILLEGAL_REQUEST, 0x64, 0x00)
MEDIUM_MAY_HAVE_CHANGED = Sense(_K.UNIT_ATTENTION, 0x28, 0x00)
RESET_OCCURRED = Sense(_K.UNIT_ATTENTION, 0x29, 0x00)
WRITE_PROTECTED = Sense(_K.DATA_PROTECT, 0x27, 0x00)


def fixed_sense(sense: Sense, information: int | None = None) -> bytes:
    """18 bytes of sense data in fixed format; `information` (an LBA) sets VALID."""
    data = bytearray(18)
    data[0] = 0x70 | (0x80 if information is not None else 0)
    data[2], data[7], data[12], data[13] = sense.key, 10, sense.asc, sense.ascq
    data[3:7] = ((information or 0) & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def cdb_length(opcode: int) -> int:
    """Bytes of a CDB by the group of its operation code; 0 where the group does not say."""
    return (6, 10, 10, 0, 16, 12, 0, 0)[opcode >> 5 & 7]


def field(cdb: Sequence[int], at: int, size: int) -> int:
    """A number of `size` bytes at byte `at` of a CDB; bytes that are not there are 0."""
    value = 0
    for index in range(at, at + size):
        value = value << 8 | (cdb[index] if index < len(cdb) else 0)
    return value


# Operation code: (first byte, size) of the number of bytes that go to the host at most.
_ALLOCATED: dict[int, tuple[int, int]] = {
    Op.REQUEST_SENSE: (4, 1), Op.INQUIRY: (3, 2), Op.MODE_SENSE_6: (4, 1), Op.MODE_SENSE_10: (7, 2),
    Op.READ_SUB_CHANNEL: (7, 2), Op.READ_TOC: (7, 2), Op.GET_CONFIGURATION: (7, 2),
    Op.GET_EVENT_STATUS: (7, 2), Op.READ_DISC_INFORMATION: (7, 2), Op.READ_TRACK_INFORMATION: (7, 2),
    Op.SERVICE_ACTION_IN_16: (10, 4), Op.REPORT_LUNS: (6, 4), Op.READ_DVD_STRUCTURE: (8, 2),
    Op.MECHANISM_STATUS: (8, 2),
}  # fmt: skip
_PARAMETERS: dict[int, tuple[int, int]] = {Op.MODE_SELECT_6: (4, 1), Op.MODE_SELECT_10: (7, 2)}
_READ_BLOCKS: dict[int, tuple[int, int]] = {
    Op.READ_6: (4, 1), Op.READ_10: (7, 2), Op.READ_12: (6, 4), Op.READ_16: (10, 4),
}  # fmt: skip
_WRITE_BLOCKS: dict[int, tuple[int, int]] = {
    Op.WRITE_6: (4, 1), Op.WRITE_10: (7, 2), Op.WRITE_12: (6, 4), Op.WRITE_16: (10, 4),
    Op.WRITE_VERIFY_10: (7, 2),
}  # fmt: skip


def blocks(cdb: Sequence[int]) -> tuple[int, int] | None:
    """(first block, number of blocks) of a read or write command; None for others."""
    opcode = cdb[0]
    place = _READ_BLOCKS.get(opcode) or _WRITE_BLOCKS.get(opcode)
    if place is None:
        return None
    count = field(cdb, *place)
    if opcode in (Op.READ_6, Op.WRITE_6):
        return field(cdb, 1, 3) & 0x1FFFFF, count or 256
    return field(cdb, 2, 8 if opcode in (Op.READ_16, Op.WRITE_16) else 4), count


def transfer(cdb: Sequence[int], block_size: int) -> tuple[Direction, int]:
    """Where the data of a command goes, and how many bytes at most.  Commands whose transfer is not
    known here, or that have none, give (NONE, 0)."""
    opcode = cdb[0]
    if opcode in _ALLOCATED:
        length = field(cdb, *_ALLOCATED[opcode])
        return (Direction.IN, length) if length else (Direction.NONE, 0)
    if opcode in _PARAMETERS:
        length = field(cdb, *_PARAMETERS[opcode])
        return (Direction.OUT, length) if length else (Direction.NONE, 0)
    if opcode == Op.READ_CAPACITY_10:
        return Direction.IN, 8
    them = blocks(cdb)
    if them is None or not them[1]:
        return Direction.NONE, 0
    return (Direction.IN if opcode in _READ_BLOCKS else Direction.OUT), them[1] * block_size
