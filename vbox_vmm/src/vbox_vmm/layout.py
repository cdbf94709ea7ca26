"""The physical address space as layers: who answers where.  Pure computation, no engine, no device.

From the top: RAM that shadows the bus below 1 MiB (PAM); what is mapped at fixed addresses; RAM; what
guests place (BARs), the lower order first.  A block that is partly covered shows where it is not.

Engines map whole pages.  Where a region of registers covers a part of a page of memory, the page is
left to I/O and the rest of it is served by handlers that reach the memory (`Layout.rows`).
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from attrs import define, evolve, field, frozen

from vbox_pdm.engine import Exit
from vbox_pdm.helpers import ShadowMode
from vbox_vmm.hostmem import PAGE, HostMemory

SHADOW_FIRST, SHADOW_END = 0xA0000, 0x100000
"""Where reads and writes can be sent to the bus or to RAM, page by page."""


class Rank(enum.IntEnum):
    """Who covers whom: the lower rank."""

    SHADOW = 0
    FIXED = 1
    RAM = 2
    BAR = 3


class Kind(enum.Enum):
    """What a block is, as `info phys` prints it."""

    RAM = "RAM"
    ROM = "ROM"
    DEVICE_RAM = "MMIO2"
    MMIO = "MMIO"


@define(eq=False)
class Block:
    """A mapped range: memory from offset `at` on, or the registers of `row`."""

    kind: Kind
    first: int
    size: int
    rank: Rank
    title: str
    order: tuple[Any, ...] = ()
    memory: HostMemory | None = None
    at: int = 0
    row: Exit | None = None
    cut_rows: dict[tuple[int, int], Exit] = field(factory=dict)
    """Rows of parts of it, so that a part that stays keeps its row."""

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.first + self.size


@frozen(eq=False)
class Piece:
    """[first, end) as the guest sees it.  `read` and `write` are None where no memory answers."""

    first: int
    end: int
    block: Block | None
    read: HostMemory | None = None
    read_at: int = 0
    write: HostMemory | None = None
    write_at: int = 0


@frozen
class Slot:
    """[first, end) as an engine maps it; `write_host` None drops writes."""

    first: int
    end: int
    host: int
    write_host: int | None

    @property
    def key(self) -> tuple[int, int | None]:
        """Equal for slots that continue each other."""
        return self.host - self.first, None if self.write_host is None else self.write_host - self.first


class _Cover:
    """A set of addresses that grows: what higher layers have taken."""

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.ends: list[int] = []

    def claim(self, first: int, end: int) -> list[tuple[int, int]]:
        """Take [first, end); returns the parts of it that nobody had."""
        low = bisect_right(self.ends, first)
        high = bisect_left(self.firsts, end)
        free, at = [], first
        for index in range(low, high):
            if at < self.firsts[index]:
                free.append((at, self.firsts[index]))
            at = max(at, self.ends[index])
        if at < end:
            free.append((at, end))
        if low < high:
            first = min(first, self.firsts[low])
            end = max(end, self.ends[high - 1])
        self.firsts[low:high] = [first]
        self.ends[low:high] = [end]
        return free


class Layout:
    """The address space made of `blocks`.  `shadow` has a mode per page of [SHADOW_FIRST, SHADOW_END),
    `shadow_ram` is the RAM there (its offset is the address), `ones` reads as 0xFF."""

    def __init__(
        self, blocks: Iterable[Block], shadow: Sequence[ShadowMode], shadow_ram: Block | None,
        ones: HostMemory | None,
    ) -> None:  # fmt: skip
        pieces: list[Piece] = []
        cover = _Cover()
        runs = [] if shadow_ram is None else list(_runs(shadow))
        for first, end, mode in runs:
            if mode in (ShadowMode.READ_RAM_WRITE_NONE, ShadowMode.READ_RAM_WRITE_RAM):
                assert shadow_ram is not None
                cover.claim(first, end)
                pieces.append(_memory_piece(shadow_ram, first, end, mode is ShadowMode.READ_RAM_WRITE_RAM))
        for block in sorted(blocks, key=lambda block: (block.rank, block.order)):
            for first, end in cover.claim(block.first, block.end):
                pieces.append(_piece(block, first, end))
        for first, end, mode in runs:
            if mode is ShadowMode.READ_ROM_WRITE_RAM:
                assert shadow_ram is not None
                assert ones is not None
                pieces = list(_with_writes_to(shadow_ram, ones, pieces, cover, first, end))
        pieces.sort(key=lambda piece: piece.first)
        self.pieces = tuple(pieces)
        self.firsts = [piece.first for piece in pieces]

    def find(self, address: int) -> Piece | None:
        """The piece at `address`."""
        index = bisect_right(self.firsts, address) - 1
        if index >= 0 and address < self.pieces[index].end:
            return self.pieces[index]
        return None

    def spans(self, address: int, length: int) -> Iterator[tuple[int, int, Piece | None]]:
        """[address, address+length) as (address, length, piece or None), in order."""
        end = address + length
        index = max(bisect_right(self.firsts, address) - 1, 0)
        while address < end:
            while index < len(self.pieces) and self.pieces[index].end <= address:
                index += 1
            piece = self.pieces[index] if index < len(self.pieces) else None
            if piece is None or piece.first >= end:
                yield address, end - address, None
                return
            if address < piece.first:
                yield address, piece.first - address, None
                address = piece.first
            stop = min(end, piece.end)
            yield address, stop - address, piece
            address = stop

    def slots(self) -> list[Slot]:
        """What an engine maps, contiguous pieces joined."""
        found: list[Slot] = []
        for piece in self.pieces:
            first, end = _whole_pages(piece)
            if piece.read is None or first >= end:
                continue
            skip = first - piece.first
            host = piece.read.address + piece.read_at + skip
            write_host = None if piece.write is None else piece.write.address + piece.write_at + skip
            slot = Slot(first, end, host, write_host)
            if found and found[-1].end == first and found[-1].key == slot.key:
                found[-1] = evolve(found[-1], end=end)
            else:
                found.append(slot)
        return found

    def rows(self) -> tuple[Exit, ...]:
        """The MMIO table: registers, and scraps of memory pages."""
        found: list[Exit] = []
        for piece in self.pieces:
            if piece.read is None:
                if piece.block is not None:
                    found.append(_row(piece.block, piece.first, piece.end))
                continue
            first, end = _whole_pages(piece)
            if first >= end:
                first = end = piece.end
            for low, high in ((piece.first, first), (end, piece.end)):
                if low < high:
                    found.append(_scrap(piece, low, high))
        return tuple(found)


def differences(old: Sequence[Slot], new: Sequence[Slot]) -> list[Slot | tuple[int, int]]:
    """What turns `old` into `new`: slots to map, and (first, end) to unmap, which come first."""
    cuts = sorted({at for slot in (*old, *new) for at in (slot.first, slot.end)})
    maps: list[Slot] = []
    unmaps: list[tuple[int, int]] = []
    before, after = _Walk(old), _Walk(new)
    for first, end in pairwise(cuts):
        was, now = before.at(first), after.at(first)
        if now is None:
            if was is not None:
                if unmaps and unmaps[-1][1] == first:
                    unmaps[-1] = (unmaps[-1][0], end)
                else:
                    unmaps.append((first, end))
        elif was is None or was.key != now.key:
            skip = first - now.first
            write_host = None if now.write_host is None else now.write_host + skip
            slot = Slot(first, end, now.host + skip, write_host)
            if maps and maps[-1].end == first and maps[-1].key == slot.key:
                maps[-1] = evolve(maps[-1], end=end)
            else:
                maps.append(slot)
    return [*unmaps, *maps]


class _Walk:
    """Slots asked for at rising addresses."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self.index = 0

    def at(self, address: int) -> Slot | None:
        while self.index < len(self.slots) and self.slots[self.index].end <= address:
            self.index += 1
        if self.index < len(self.slots) and self.slots[self.index].first <= address:
            return self.slots[self.index]
        return None


def _runs(shadow: Sequence[ShadowMode]) -> Iterator[tuple[int, int, ShadowMode]]:
    start = 0
    for page in range(1, len(shadow) + 1):
        if page == len(shadow) or shadow[page] is not shadow[start]:
            yield SHADOW_FIRST + start * PAGE, SHADOW_FIRST + page * PAGE, shadow[start]
            start = page


def _memory_piece(block: Block, first: int, end: int, writable: bool) -> Piece:
    at = block.at + first - block.first
    return Piece(
        first, end, block, block.memory, at, block.memory if writable else None, at if writable else 0
    )


def _piece(block: Block, first: int, end: int) -> Piece:
    if block.memory is None:
        return Piece(first, end, block)
    return _memory_piece(block, first, end, block.kind is not Kind.ROM)


def _with_writes_to(
    ram: Block, ones: HostMemory, pieces: Iterable[Piece], cover: _Cover, first: int, end: int
) -> Iterator[Piece]:
    """Reads of [first, end) go where they went, writes to RAM.  Registers keep both."""

    def part(piece: Piece, low: int, high: int) -> Piece:
        skip = low - piece.first
        return evolve(
            piece, first=low, end=high, read_at=piece.read_at + skip, write_at=piece.write_at + skip
        )

    for piece in pieces:
        low, high = max(piece.first, first), min(piece.end, end)
        if low >= high or piece.read is None:
            yield piece
            continue
        if piece.first < low:
            yield part(piece, piece.first, low)
        yield evolve(part(piece, low, high), write=ram.memory, write_at=ram.at + low - ram.first)
        if high < piece.end:
            yield part(piece, high, piece.end)
    for low, high in cover.claim(first, end):
        yield Piece(low, high, None, ones, low - SHADOW_FIRST, ram.memory, ram.at + low - ram.first)


def _whole_pages(piece: Piece) -> tuple[int, int]:
    if (piece.first - piece.read_at) % PAGE:
        return piece.first, piece.first  # a ROM BAR may lie across pages
    return -(-piece.first // PAGE) * PAGE, piece.end // PAGE * PAGE


def _row(block: Block, first: int, end: int) -> Exit:
    assert block.row is not None
    if (first, end) == (block.first, block.end):
        return block.row
    row = block.cut_rows.get((first, end))
    if row is None:
        row = evolve(block.row, first=first, size=end - first, start=first - block.first)
        block.cut_rows[first, end] = row
    return row


def _scrap(piece: Piece, first: int, end: int) -> Exit:
    """Memory through handlers.  Its offsets are addresses."""
    skip = -piece.first

    def read(offset: int, size: int) -> int:
        assert piece.read is not None
        at = piece.read_at + skip + offset
        return int.from_bytes(piece.read.read_only[at : at + size], "little")

    def write(offset: int, size: int, value: int) -> None:
        if piece.write is not None:
            at = piece.write_at + skip + offset
            piece.write.view[at : at + size] = (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
            piece.write.mark_dirty(at, size)

    title = piece.block.title if piece.block is not None else "memory"
    return Exit(first, end - first, read, write, read, write, start=first, owner=title)
