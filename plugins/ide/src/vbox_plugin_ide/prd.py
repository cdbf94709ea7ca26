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
_FETCH = 2048  # bytes of the table that are read at once: a megabyte in pages
_PAIRS = struct.Struct("<II")

Fetch = Callable[[int, int], bytes]
"""(address, length) -> bytes of guest memory."""


@frozen
class Walk:
    """A part of the memory that a table describes: `pieces` of (address, length), `length` bytes in
    all.  `ended`: the table has nothing behind them."""

    pieces: tuple[tuple[int, int], ...]
    length: int
    ended: bool


def walk(fetch: Fetch, table: int, skip: int, length: int) -> Walk:
    """The memory for `length` bytes of a transfer, of which `skip` bytes came before: as much as the
    table has.  Neighbouring regions are joined."""
    pieces: list[tuple[int, int]] = []
    if length <= 0:
        return Walk((), 0, False)
    left = length
    first = end = -1  # the region that grows
    for address, word in _descriptors(fetch, table):
        count = word & 0xFFFE or 0x10000
        last = word & EOT
        if skip >= count:
            skip -= count
            if last:
                break
            continue
        address &= ~1
        use = count
        if skip:
            address = (address + skip) % SPACE
            use -= skip
            skip = 0
        whole = use <= left
        if not whole:
            use = left
        left -= use
        if address != end:
            if first >= 0:
                _add(pieces, first, end - first)
            first = address
        end = address + use
        if end >= SPACE:
            _add(pieces, first, end - first)
            first = end = -1
        if not left:
            if first >= 0:
                _add(pieces, first, end - first)
            return Walk(tuple(pieces), length, bool(whole and last))
        if last:
            break
    if first >= 0:
        _add(pieces, first, end - first)
    return Walk(tuple(pieces), length - left, True)


def _descriptors(fetch: Fetch, table: int) -> Iterator[tuple[int, int]]:
    """Both dwords of each descriptor, up to the end of the 64 KiB."""
    at = table & 0xFFFC
    base = table & 0xFFFF0000
    while at + DESCRIPTOR <= TABLE:
        length = min(_FETCH, TABLE - at) & ~(DESCRIPTOR - 1)
        yield from _PAIRS.iter_unpack(fetch(base | at, length))
        at += length


def _add(pieces: list[tuple[int, int]], address: int, length: int) -> None:
    """A region; what passes the end of the address space goes on at 0."""
    beyond = address + length - SPACE
    if beyond > 0:
        _add(pieces, address, length - beyond)
        _add(pieces, 0, beyond)
    elif pieces and pieces[-1][0] + pieces[-1][1] == address:
        pieces[-1] = (pieces[-1][0], pieces[-1][1] + length)
    else:
        pieces.append((address, length))
