"""Tables of CD and DVD drives: addresses, tables of contents, features, sectors as they lie on a disc.

Reference: MMC-6 (T10 1836-D); ECMA-130 for the sectors of a CD (EDC: annex A's polynomial, ECC: annex
A, layout: 14).

All discs here have one session with one data track (mode 1), as ISO images have.

Traps: MSF addresses are 150 frames ahead of LBAs; the full table of contents is in MSF whatever the
command asks for; P and Q parity of mode 1 cover the header as well as the data.
"""

from __future__ import annotations

import enum
from itertools import pairwise
from operator import itemgetter

from attrs import frozen

BLOCK = 2048
RAW_SECTOR = 2352
FRAMES, LEAD_IN = 75, 150
LAST_MSF = 100 * 60 * FRAMES - LEAD_IN
"""How many sectors MSF addresses reach: a larger medium is no CD."""
DATA_TRACK = 0x14
"""ADR 1 (position), control 4 (data track, copying prohibited)."""
LEAD_OUT = 0xAA


def msf(lba: int) -> bytes:
    """Minute, second, frame of a sector; addresses that have none become the last one."""
    frames = min(max(lba + LEAD_IN, 0), LAST_MSF + LEAD_IN - 1)
    return bytes((frames // (60 * FRAMES), frames // FRAMES % 60, frames % FRAMES))


def lba_of_msf(minute: int, second: int, frame: int) -> int:
    """The sector of an MSF address; negative in the lead-in."""
    return (minute * 60 + second) * FRAMES + frame - LEAD_IN


def address(lba: int, as_msf: bool) -> bytes:
    """Four bytes: a big endian LBA, or 0 and MSF."""
    return b"\0" + msf(lba) if as_msf else lba.to_bytes(4, "big")


# --- tables of contents


def toc(sectors: int, as_msf: bool, start: int) -> bytes | None:
    """READ TOC format 0 from track `start` on; None when there is no such track."""
    if start > 1 and start != LEAD_OUT:
        return None
    entries = b""
    for track, lba in ((1, 0), (LEAD_OUT, sectors)):
        if track >= start:
            entries += bytes((0, DATA_TRACK, track, 0)) + address(lba, as_msf)
    return _counted(b"\1\1" + entries)


def sessions(as_msf: bool) -> bytes:
    """READ TOC format 1: the first track of the last session."""
    return _counted(b"\1\1" + bytes((0, DATA_TRACK, 1, 0)) + address(0, as_msf))


def full_toc(sectors: int) -> bytes:
    """READ TOC format 2: the Q sub-channel of the lead-in."""
    points = ((0xA0, b"\1\0\0"), (0xA1, b"\1\0\0"), (0xA2, msf(sectors)), (1, msf(0)))
    entries = (bytes((1, DATA_TRACK, 0, point, 0, 0, 0, 0)) + position for point, position in points)
    return _counted(b"\1\1" + b"".join(entries))


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


# --- features


class Profile(enum.IntEnum):
    """What kind of disc a drive takes, or has."""

    NONE = 0x0000
    CD_ROM = 0x0008
    DVD_ROM = 0x0010


@frozen
class Feature:
    """A feature descriptor of GET CONFIGURATION."""

    code: int
    version: int
    persistent: bool
    current: bool
    data: bytes = b""

    def encode(self) -> bytes:
        flags = self.version << 2 | self.persistent << 1 | self.current
        return self.code.to_bytes(2, "big") + bytes((flags, len(self.data))) + self.data


def configuration(features: list[Feature], profile: Profile, kind: int, start: int) -> bytes:
    """The answer of GET CONFIGURATION: `kind` 0 is all features from code `start` on, 1 those that are
    current, 2 the feature `start` alone."""
    chosen = [
        feature
        for feature in features
        if (feature.code == start if kind == 2 else feature.code >= start and (kind == 0 or feature.current))
    ]
    body = b"\0\0" + profile.to_bytes(2, "big") + b"".join(feature.encode() for feature in chosen)
    return len(body).to_bytes(4, "big") + body


# --- READ CD


@frozen
class Layout:
    """Which parts of a mode 1 sector READ CD transfers: the bytes [first, last) of 2352."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """Bytes of a sector."""
        return self.last - self.first


_SYNC, _HEADER, _USER, _EDC = (0, 12), (12, 16), (16, 16 + BLOCK), (16 + BLOCK, RAW_SECTOR)


def layout(flags: int) -> Layout | None:
    """What byte 9 of READ CD selects of a mode 1 sector (sub-header codes select nothing there).  None
    for parts that do not lie side by side, which drives refuse, and for C2 error flags."""
    parts = [
        part
        for part, wanted in (
            (_SYNC, flags & 0x80),
            (_HEADER, flags & 0x20),
            (_USER, flags & 0x10),
            (_EDC, flags & 8),
        )
        if wanted
    ]
    if flags & 0x06:
        return None
    if not parts:
        return Layout(0, 0)
    for one, other in pairwise(parts):
        if one[1] != other[0]:
            return None
    return Layout(parts[0][0], parts[-1][1])


def _edc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xD8018001 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_EDC_TABLE = _edc_table()
_DOUBLE = bytes(value << 1 ^ (0x11D if value & 0x80 else 0) for value in range(256))
"""Multiplication by alpha in GF(2^8), x^8 + x^4 + x^3 + x^2 + 1."""
_HALF = bytearray(256)
"""Division by alpha + 1."""
for _value in range(256):
    _HALF[_value ^ _DOUBLE[_value]] = _value
_Q_ROWS = tuple(
    itemgetter(
        *(2 * ((44 * place + 43 * diagonal) % 1118) + byte for diagonal in range(26) for byte in (0, 1))
    )
    for place in range(43)
)
"""For each of the 43 places of a Q vector: where its bytes are, over all 26 diagonals."""


def edc(data: bytes) -> int:
    """The error detection code of `data`."""
    value = 0
    for byte in data:
        value = value >> 8 ^ _EDC_TABLE[(value ^ byte) & 0xFF]
    return value


def _parity(rows: list[bytes]) -> tuple[bytes, bytes]:
    """Two parity rows, so that with them the sum of all, and the sum weighted by falling powers of
    alpha, is zero.  Works on whole rows at once."""
    size = len(rows[0])
    plain = weighted = 0
    for row in rows:
        value = int.from_bytes(row, "little")
        plain ^= value
        doubled = weighted.to_bytes(size, "little").translate(_DOUBLE)
        weighted = int.from_bytes(doubled, "little") ^ value
    # With parities a, b: plain + a + b = 0 and alpha^2 weighted + alpha a + b = 0.
    shifted = weighted.to_bytes(size, "little").translate(_DOUBLE).translate(_DOUBLE)
    first = (int.from_bytes(shifted, "little") ^ plain).to_bytes(size, "little").translate(_HALF)
    second = int.from_bytes(first, "little") ^ plain
    return first, second.to_bytes(size, "little")


def raw_sector(lba: int, data: bytes) -> bytes:
    """The 2352 bytes of a mode 1 sector with 2048 bytes of user data."""
    header = bytes(_bcd(value) for value in msf(lba)) + b"\1"
    sector = b"\0" + b"\xff" * 10 + b"\0" + header + data
    sector += edc(sector).to_bytes(4, "little") + bytes(8)
    covered = sector[12:]
    p = b"".join(_parity([covered[86 * row : 86 * row + 86] for row in range(24)]))
    covered += p
    q = b"".join(_parity([bytes(row(covered)) for row in _Q_ROWS]))
    return sector + p + q


def _bcd(value: int) -> int:
    return value // 10 << 4 | value % 10
