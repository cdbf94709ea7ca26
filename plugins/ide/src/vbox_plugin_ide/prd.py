"""Physical region descriptors.  SFF-8038i 1.0; Intel 290550, "Bus Master Function".

A descriptor has 8 bytes: a 32-bit address, a 16-bit count of bytes, and EOT in bit 31 of the second
dword.  Bit 0 of address and count is not there; a count of 0 is 64 KiB.

Traps
- A table lies within 64 KiB.  One without EOT ends with its 64 KiB: that bounds the walk to 8192
  descriptors, where hardware would read on in circles.
- A region that passes 4 GiB goes on at address 0: the bus has 32 address lines.
- EOT belongs to the end of a region: a transfer that stops within the last region has not used up
  the table.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from attrs import frozen

SPACE = 1 << 32
TABLE = 1 << 16
EOT = 1 << 31
DESCRIPTOR = 8
_FETCH = 256  # bytes of the table that are read at once

Fetch = Callable[[int, int], bytes]
"""(address, length) -> bytes of guest memory."""


@frozen
class Walk:
    """A part of the memory that a table describes: `pieces` of (address, length), `length` bytes in
    all.  `ended`: the table has nothing behind them."""

    pieces: tuple[tuple[int, int], ...]
    length: int
    ended: bool


def descriptors(fetch: Fetch, table: int) -> Iterator[tuple[int, int, bool]]:
    """(address, bytes 2..65536, EOT) of each descriptor, up to EOT or the end of the 64 KiB."""
    at = table & 0xFFFC
    base = table & 0xFFFF0000
    while at + DESCRIPTOR <= TABLE:
        length = min(_FETCH, TABLE - at) & ~(DESCRIPTOR - 1)
        for address, word in struct.iter_unpack("<II", fetch(base | at, length)):
            last = bool(word & EOT)
            yield address & ~1, word & 0xFFFE or 0x10000, last
            if last:
                return
        at += length


def walk(fetch: Fetch, table: int, skip: int, length: int) -> Walk:
    """The memory for `length` bytes of a transfer, of which `skip` bytes came before: as much as the
    table has.  Neighbouring regions are joined."""
    pieces: list[tuple[int, int]] = []
    got = 0
    if length <= 0:
        return Walk((), 0, False)
    for address, count, last in descriptors(fetch, table):
        if skip >= count:
            skip -= count
            if last:
                break
            continue
        use = min(count - skip, length - got)
        _add(pieces, address + skip, use)
        got += use
        whole = skip + use == count
        skip = 0
        if got == length:
            return Walk(tuple(pieces), got, whole and last)
    return Walk(tuple(pieces), got, True)


def _add(pieces: list[tuple[int, int]], address: int, length: int) -> None:
    if address >= SPACE:
        address -= SPACE
    beyond = address + length - SPACE
    if beyond > 0:
        _add(pieces, address, length - beyond)
        _add(pieces, 0, beyond)
    elif pieces and pieces[-1][0] + pieces[-1][1] == address:
        pieces[-1] = (pieces[-1][0], pieces[-1][1] + length)
    else:
        pieces.append((address, length))
