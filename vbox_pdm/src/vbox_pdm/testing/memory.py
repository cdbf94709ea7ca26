"""Guest-physical memory of the bench: RAM, ROM, device RAM, PAM shadows, and the MMIO table.

What answers at an address, first match: RAM that shadows the bus (0xA0000-0xFFFFF, where there is no
RAM else), fixed MMIO, fixed ROM and device RAM, guest RAM, then what a guest placed by a BAR.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from attrs import define

from vbox_pdm.dmaviews import Piece
from vbox_pdm.engine import Exit
from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import ShadowMode
from vbox_pdm.regions import Mmio
from vbox_pdm.tables import BAR, FIXED, RegionTable

PAGE = 4096
MIB = 1 << 20
SHADOW_FIRST = 0xA0000
"""From here to 1 MiB the bus answers, unless a page is shadowed by RAM."""
HOLE = 3 << 30
"""RAM below 4 GiB ends here at the latest."""
GIB4 = 4 << 30
_READ_RAM = (ShadowMode.READ_RAM_WRITE_NONE, ShadowMode.READ_RAM_WRITE_RAM)
_WRITE_RAM = (ShadowMode.READ_ROM_WRITE_RAM, ShadowMode.READ_RAM_WRITE_RAM)


@define(eq=False)
class Slot:
    """Mapped memory: `view` at `first`; a ROM is not writable."""

    first: int
    view: memoryview
    writable: bool
    rank: int
    owner: object
    blocked: object = None

    @property
    def end(self) -> int:
        return self.first + len(self.view)


class SlotMapping:
    """The `Mapping` of a slot."""

    def __init__(self, memory: Memory, slot: Slot) -> None:
        self._memory = memory
        self._slot = slot
        self._mapped = False

    @property
    def address(self) -> int | None:
        """Where it begins; None while it is not mapped."""
        return self._slot.first if self._mapped else None

    def unmap(self) -> None:
        """It answers no more."""
        if self._mapped:
            self._memory.remove(self._slot)
            self._mapped = False

    def move(self, address: int) -> None:
        """Map it elsewhere."""
        old = self._slot.first if self._mapped else None
        self.unmap()
        try:
            self._memory.insert(self._slot, address)
        except PdmError:
            if old is not None:
                self._memory.insert(self._slot, old)
                self._mapped = True
            raise
        self._mapped = True


class Memory:
    """The guest-physical address space of a bench."""

    def __init__(self, size: int) -> None:
        if size <= 0 or size % MIB:
            raise PdmError("VERR_INVALID_PARAMETER", f"{size} bytes of RAM are no whole MiB")
        self.size = size
        self.below_4g = min(size, HOLE)
        self._low = memoryview(mmap.mmap(-1, self.below_4g))  # zeros that cost nothing until written
        above = size - self.below_4g
        self._high = memoryview(mmap.mmap(-1, above)) if above else memoryview(b"")
        self.mmio = RegionTable(Mmio)
        self.mmio.block(0, self.below_4g)
        if self._high:
            self.mmio.block(GIB4, len(self._high))
        self._slots: list[Slot] = []
        self.modes: dict[int, ShadowMode] = {}

    # --- what is mapped

    def map(self, address: int, view: memoryview, writable: bool, owner: object, rank: int) -> SlotMapping:
        """Map memory; VERR_PGM_* for a fixed one that does not fit."""
        mapping = SlotMapping(self, Slot(address, view, writable, rank, owner))
        mapping.move(address)
        return mapping

    def insert(self, slot: Slot, address: int) -> None:
        """For mappings."""
        if slot.rank == FIXED:
            if address % PAGE:
                raise PdmError(
                    "VERR_PGM_INVALID_GC_PHYSICAL_RANGE",
                    f"Memory of {_title(slot)} at {address:#x} is not page aligned",
                )
            for other in self._slots:
                if other.rank == FIXED and other.first < address + len(slot.view) and address < other.end:
                    raise PdmError(
                        "VERR_PGM_RAM_CONFLICT",
                        f"Memory of {_title(slot)} at {address:#x} overlaps that of {_title(other)} at "
                        f"{other.first:#x}",
                        "Give one of them another address",
                    )
            slot.blocked = self.mmio.block(address, len(slot.view), rank=FIXED)
        slot.first = address
        self._slots.append(slot)
        self._slots.sort(key=lambda s: (s.rank, str(_title(s)), s.first))

    def remove(self, slot: Slot) -> None:
        """For mappings."""
        self._slots.remove(slot)
        if slot.blocked is not None:
            self.mmio.remove(slot.blocked)  # type: ignore[arg-type]
            slot.blocked = None

    def shadow(self, address: int, size: int, mode: ShadowMode) -> None:
        """Where accesses to pages of 0xA0000-0xFFFFF go."""
        if address % PAGE or size % PAGE or not SHADOW_FIRST <= address < address + size <= MIB:
            raise PdmError(
                "VERR_PGM_INVALID_GC_PHYSICAL_RANGE",
                f"{address:#x}..{address + size - 1:#x} cannot be shadowed",
                f"Whole pages of {SHADOW_FIRST:#x}..{MIB - 1:#x} can",
            )
        for page in range(address // PAGE, (address + size) // PAGE):
            self.modes[page] = mode

    # --- who answers

    def row(self, address: int, *, write: bool) -> Exit | None:
        """The MMIO row that answers at an address; None where memory or nobody does."""
        if self._through_ram(address, write):
            return None
        return self.mmio.find(address)

    def read(self, address: int, length: int) -> bytes:
        """Memory without side effects; 0xFF where there is none."""
        out = bytearray()
        for _, count, view in self.pieces(address, length, write=False):
            out += b"\xff" * count if view is None else view
        return bytes(out)

    def write(self, address: int, data: bytes) -> None:
        """RAM and device RAM; dropped elsewhere."""
        done = 0
        for _, count, view in self.pieces(address, len(data), write=True):
            if view is not None:
                view[:] = data[done : done + count]
            done += count

    def pieces(self, address: int, length: int, *, write: bool) -> Iterator[Piece]:
        """A range in contiguous pieces: memory as views, all else as None."""
        end = address + length
        pending: tuple[int, int, tuple[memoryview, int] | None] | None = None  # first, end, (backing, offset)
        at = address
        while at < end:
            stop = min(end, self._boundary(at))
            backing = self._backing(at, write)
            if pending is not None and _continues(pending, at, backing):
                pending = (pending[0], stop, pending[2])
            else:
                if pending is not None:
                    yield _piece(pending)
                pending = (at, stop, backing)
            at = stop
        if pending is not None:
            yield _piece(pending)

    # --- saved state

    def save_ram(self) -> bytes:
        """Guest RAM, pages of zeros left out."""
        return sparse(self._low) + sparse(self._high)

    def load_ram(self, low: dict[int, bytes], high: dict[int, bytes]) -> None:
        """Take over pages by number."""
        fill(self._low, low)
        fill(self._high, high)

    @property
    def pages(self) -> tuple[int, int]:
        """Pages of RAM below and above 4 GiB."""
        return len(self._low) // PAGE, len(self._high) // PAGE

    # --- machinery

    def _mode(self, address: int) -> ShadowMode | None:
        """The shadow mode of an address; None where nothing can be shadowed."""
        if SHADOW_FIRST <= address < MIB:
            return self.modes.get(address // PAGE, ShadowMode.READ_ROM_WRITE_NONE)
        return None

    def _through_ram(self, address: int, write: bool) -> bool:
        mode = self._mode(address)
        return mode is not None and mode in (_WRITE_RAM if write else _READ_RAM)

    def _backing(self, address: int, write: bool) -> tuple[memoryview, int] | None:
        if self._through_ram(address, write):
            return self._ram(address)
        mode = self._mode(address)
        if self.mmio.find(address) is not None:
            return None
        fixed = next((s for s in self._slots if s.rank == FIXED and s.first <= address < s.end), None)
        if fixed is None and mode is None:
            ram = self._ram(address)
            if ram is not None:
                return ram
        slot = fixed or next((s for s in self._slots if s.rank == BAR and s.first <= address < s.end), None)
        if slot is None or (write and not slot.writable):
            return None
        return slot.view, address - slot.first

    def _ram(self, address: int) -> tuple[memoryview, int] | None:
        if address < self.below_4g:
            return self._low, address
        if GIB4 <= address < GIB4 + len(self._high):
            return self._high, address - GIB4
        return None

    def _boundary(self, address: int) -> int:
        """The next address above `address` where another may answer."""
        ends = [1 << 64 if address < 1 << 64 else 1 << 80]
        ends += [SHADOW_FIRST, MIB, self.below_4g, GIB4, GIB4 + len(self._high)]
        if address < MIB and self.modes:
            ends.append((address // PAGE + 1) * PAGE)
        for slot in self._slots:
            ends += (slot.first, slot.end)
        for row in self.mmio.rows:
            ends += (row.first, row.first + row.size)
        return min(end for end in ends if end > address)


def _title(slot: Slot) -> object:
    return getattr(slot.owner, "title", slot.owner)


def _continues(
    pending: tuple[int, int, tuple[memoryview, int] | None], at: int, backing: tuple[memoryview, int] | None
) -> bool:
    before = pending[2]
    if before is None or backing is None:
        return before is None and backing is None
    return before[0] is backing[0] and before[1] + at - pending[0] == backing[1]


def _piece(pending: tuple[int, int, tuple[memoryview, int] | None]) -> Piece:
    first, end, backing = pending
    if backing is None:
        return first, end - first, None
    view, offset = backing
    return first, end - first, view[offset : offset + end - first]


def sparse(view: memoryview) -> bytes:
    """Its size in pages, how many of them are not all zeros, then each of those behind its number."""
    zeros = bytes(PAGE)
    out = bytearray()
    count = 0
    for page in range(len(view) // PAGE):
        data = bytes(view[page * PAGE : page * PAGE + PAGE])
        if data != zeros:
            out += page.to_bytes(4, "little") + data
            count += 1
    return (len(view) // PAGE).to_bytes(4, "little") + count.to_bytes(4, "little") + bytes(out)


def fill(view: memoryview, pages: dict[int, bytes]) -> None:
    """The opposite of `sparse`, from pages by number."""
    zeros = bytes(PAGE)
    for page in range(len(view) // PAGE):
        data = pages.get(page, zeros)
        if view[page * PAGE : page * PAGE + PAGE].tobytes() != data:
            view[page * PAGE : page * PAGE + PAGE] = data
