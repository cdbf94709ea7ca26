"""PGM: guest-physical memory: RAM, ROM, device RAM, shadowing, A20, and who wrote where.

Facts: vmm.md section 7.  RAM is one memfd.  It begins at 0; what does not fit below the hole under
4 GiB goes on at 4 GiB.  0xA0000-0xFFFFF belongs to the bus unless it is shadowed: there is no RAM
until the host bridge enables it, and in the VGA window only what a device maps.

The engine is told the fewest changes.  Outside `batch` it is told at once, since a guest may use a
BAR with the instruction after the one that moved it.

Nothing here locks: all is called under the VM's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import evolve

from vbox_pdm.engine import Engine, Exit
from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import ShadowMode
from vbox_vmm.dma import DmaHandle, scratch
from vbox_vmm.hostmem import PAGE, HostMemory
from vbox_vmm.layout import SHADOW_END, SHADOW_FIRST, Block, Kind, Layout, Rank, Slot, differences

log = logging.getLogger("vbox.PGM")

LEAST_RAM, MOST_RAM = 4 << 20, 2 << 40
LEAST_HOLE, MOST_HOLE = 16 << 20, 4032 << 20
ADDRESS_END = 1 << 52
"""Where the physical address space of a PC ends."""
_4G = 1 << 32
_BUS = (ShadowMode.READ_ROM_WRITE_NONE,) * ((SHADOW_END - SHADOW_FIRST) // PAGE)


class Pgm:
    """The physical memory of one VM: `ram` bytes of RAM, a hole of `hole` bytes below 4 GiB.

    Raises PdmError VERR_OUT_OF_RANGE, VERR_INVALID_PARAMETER.  `least` is the smallest RAM allowed.
    """

    def __init__(self, ram: int, hole: int = 512 << 20, *, least: int = LEAST_RAM) -> None:
        _check_size("RamSize", ram, least, MOST_RAM)
        _check_size("RamHoleSize", hole, LEAST_HOLE, MOST_HOLE)
        self.ram_size = ram
        self.ram_below_4g = min(ram, _4G - hole)
        try:
            self.ram = HostMemory("ram", ram, shared=True)
        except PdmError as error:
            raise PdmError(
                "VERR_OUT_OF_RANGE",
                f"RamSize is {ram} bytes ({ram >> 20} MiB), more than this host can give: {error.message}",
                f"RamSize takes {LEAST_RAM >> 20} MiB to what the host has",
            ) from None
        self.on_written: Callable[[int, int], None] | None = None
        """Told of each range of guest memory that a DMA handle wrote, at its release."""
        self.mmio_rows: tuple[Exit, ...] = ()
        self.a20 = True
        self._engine: Engine | None = None
        self._memories: list[HostMemory] = [self.ram]
        self._shadow_ram: Block | None = None
        self._blocks = self._ram_blocks()
        self._shadow: tuple[ShadowMode, ...] = _BUS
        self._ones: HostMemory | None = None
        self._layout: Layout | None = None
        self._slots: list[Slot] = []  # as the engine has them
        self._pushed_rows: tuple[Exit, ...] | None = None
        self._stale = True  # the engine does not know all
        self._batches = 0
        self._pushing = False
        self._plain_first = self._plain_end = 0
        self._ram_view, self._ram_read_only = self.ram.view, self.ram.read_only

    def _ram_blocks(self) -> list[Block]:
        low_end = min(self.ram_below_4g, SHADOW_FIRST)
        blocks = [Block(Kind.RAM, 0, low_end, Rank.RAM, "RAM", memory=self.ram)]
        if self.ram_below_4g >= SHADOW_END:
            self._shadow_ram = Block(
                Kind.RAM, SHADOW_FIRST, SHADOW_END - SHADOW_FIRST, Rank.SHADOW, "RAM (shadow)",
                memory=self.ram, at=SHADOW_FIRST,
            )  # fmt: skip
            size = self.ram_below_4g - SHADOW_END
            if size:
                blocks.append(
                    Block(Kind.RAM, SHADOW_END, size, Rank.RAM, "RAM", memory=self.ram, at=SHADOW_END)
                )
        above = self.ram_size - self.ram_below_4g
        if above:
            blocks.append(Block(Kind.RAM, _4G, above, Rank.RAM, "RAM", memory=self.ram, at=self.ram_below_4g))
        return blocks

    # --- the map

    def new_memory(self, name: str, size: int) -> HostMemory:
        """Memory for a device, zeroed; `size` is rounded up to whole pages."""
        memory = HostMemory(name, -(-size // PAGE) * PAGE)
        self._memories.append(memory)
        return memory

    def free_memory(self, memory: HostMemory) -> None:
        """Give memory of a device back; its blocks must be gone."""
        if memory in self._memories:
            self._memories.remove(memory)
            memory.close()

    def add(self, block: Block) -> None:
        """Map a block.

        Raises PdmError VERR_PGM_INVALID_GC_PHYSICAL_RANGE when it does not fit, and for two that are
        fixed VERR_IOM_MMIO_RANGE_CONFLICT (registers) or VERR_PGM_RAM_CONFLICT (memory)."""
        self.check(block)
        self._blocks.append(block)
        self._changed()

    def check(self, block: Block, instead_of: Block | None = None) -> None:
        """Raise what `add` would raise; `instead_of` is about to go."""
        registers = block.kind is Kind.MMIO
        if block.first < 0 or block.end > ADDRESS_END or (not registers and block.first % PAGE):
            if block.rank is Rank.BAR:
                return  # guests place them: what does not fit is not seen
            raise PdmError(
                "VERR_IOM_INVALID_MMIO_RANGE" if registers else "VERR_PGM_INVALID_GC_PHYSICAL_RANGE",
                f"{block.title} does not fit at {block.first:#x}..{block.end - 1:#x}",
                "Choose an address below 2^52" + ("" if registers else f", a multiple of {PAGE:#x}"),
            )
        if block.rank is not Rank.FIXED:
            return
        for other in self._blocks:
            if other.rank is Rank.FIXED and other is not instead_of and _overlap(block, other):
                both = registers and other.kind is Kind.MMIO
                raise PdmError(
                    "VERR_IOM_MMIO_RANGE_CONFLICT" if both else "VERR_PGM_RAM_CONFLICT",
                    f"{block.title} at {block.first:#x}..{block.end - 1:#x} overlaps {other.title} at "
                    f"{other.first:#x}..{other.end - 1:#x}",
                    "Give one of them another address",
                )

    def remove(self, block: Block) -> None:
        """Unmap a block; no effect when it is not mapped."""
        if any(other is block for other in self._blocks):
            self._blocks = [other for other in self._blocks if other is not block]
            self._changed()

    def changed(self) -> None:
        """A block was changed in place (its row, by a wrapper)."""
        self._changed()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What is mapped, RAM first, then in the order of mapping."""
        return tuple(self._blocks)

    def shadow(self, address: int, size: int, mode: ShadowMode) -> None:
        """Where reads and writes of [address, address+size) go.  Whole pages within
        0xA0000..0xFFFFF; VERR_PGM_INVALID_GC_PHYSICAL_RANGE."""
        end = address + size
        if not SHADOW_FIRST <= address < end <= SHADOW_END or address % PAGE or size % PAGE:
            raise PdmError(
                "VERR_PGM_INVALID_GC_PHYSICAL_RANGE",
                f"{address:#x}..{end - 1:#x} cannot be shadowed",
                f"Whole pages of {SHADOW_FIRST:#x}..{SHADOW_END - 1:#x} can",
            )
        low, high = (address - SHADOW_FIRST) // PAGE, (end - SHADOW_FIRST) // PAGE
        wanted = (*self._shadow[:low], *(mode,) * (high - low), *self._shadow[high:])
        if wanted != self._shadow:
            self._shadow = wanted
            self._changed()

    @property
    def shadow_modes(self) -> tuple[ShadowMode, ...]:
        """The mode of each page from 0xA0000 on."""
        return self._shadow

    def set_shadow_modes(self, modes: tuple[ShadowMode, ...]) -> None:
        """All modes at once (a saved state)."""
        assert len(modes) == len(_BUS)
        if modes != self._shadow:
            self._shadow = modes
            self._changed()

    def set_a20(self, enabled: bool) -> None:
        """Pass or mask address bit 20 of the CPU's accesses.  DMA is not masked."""
        enabled = bool(enabled)
        if enabled != self.a20:
            self.a20 = enabled
            if self._engine is not None:
                self._engine.a20(enabled)

    def reset(self) -> None:
        """Hard reset: nothing is shadowed, A20 passes.  RAM keeps its contents."""
        self.set_a20(True)
        self.set_shadow_modes(_BUS)

    # --- the engine

    def set_engine(self, engine: Engine | None) -> None:
        """Who executes from now on; it is told everything."""
        self._engine = engine
        self._slots = []
        self._pushed_rows = None
        self._stale = True
        if engine is not None:
            if not self.a20:
                engine.a20(False)
            self.flush()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Changes within are told to the engine at the end, together."""
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1
            self.flush()

    def flush(self) -> None:
        """Tell the engine what changed."""
        if not self._stale or self._batches or self._engine is None or self._pushing:
            return
        self._pushing = True
        try:
            layout = self.layout
            slots = layout.slots()
            for change in differences(self._slots, slots):
                if isinstance(change, Slot):
                    self._engine.map_ram(
                        change.first, change.end - change.first, change.host, change.write_host
                    )
                else:
                    self._engine.unmap(change[0], change[1] - change[0])
            self._slots = slots
            if self._pushed_rows is None or not _same(self._pushed_rows, self.mmio_rows):
                self._engine.set_mmio(self.mmio_rows)
            self._pushed_rows = self.mmio_rows
            self._stale = False
        finally:
            self._pushing = False

    def _changed(self) -> None:
        self._layout = None
        self._stale = True
        self._plain_first = self._plain_end = 0
        self.flush()

    @property
    def layout(self) -> Layout:
        """The address space as it is now."""
        layout = self._layout
        if layout is None:
            if self._ones is None and ShadowMode.READ_ROM_WRITE_RAM in self._shadow:
                self._ones = self.new_memory("ones", SHADOW_END - SHADOW_FIRST)
                self._ones.view[:] = b"\xff" * self._ones.size
            blocks = [block for block in self._blocks if block.end <= ADDRESS_END]
            layout = Layout(blocks, self._shadow, self._shadow_ram, self._ones)
            self._layout = layout
            self.mmio_rows = layout.rows()
            plain = [piece for piece in layout.pieces if piece.write is self.ram and piece.read is self.ram]
            identity = [piece for piece in plain if piece.read_at == piece.first]
            if identity:
                largest = max(identity, key=lambda piece: piece.end - piece.first)
                self._plain_first, self._plain_end = largest.first, largest.end
        return layout

    # --- access from outside the CPU

    def dma(self, address: int, length: int, write: bool = False) -> DmaHandle:
        """Guest memory for a transfer; see `vbox_pdm.helpers.Dma`."""
        if self._plain_first <= address and address + length <= self._plain_end and length > 0:
            if write:
                views = (self._ram_view[address : address + length],)
                return DmaHandle(self, views, True, [(address, length)])
            return DmaHandle(None, (self._ram_read_only[address : address + length],), True, [])
        parts: list[memoryview] = []
        written: list[tuple[int, int]] = []
        complete = self._collect(address, length, write, parts, written)
        return DmaHandle(self if written else None, tuple(parts), complete, written)

    def dma_list(self, pieces: Sequence[tuple[int, int]], write: bool = False) -> DmaHandle:
        """One handle for several (address, length), in order."""
        low, high = self._plain_first, self._plain_end
        view = self._ram_view if write else self._ram_read_only
        parts: list[memoryview] = []
        written: list[tuple[int, int]] = []
        complete = True
        for piece in pieces:
            address, length = piece
            if low <= address and address + length <= high and length > 0:
                parts.append(view[address : address + length])
                if write:
                    written.append(piece)
            elif not self._collect(address, length, write, parts, written):
                complete = False
        return DmaHandle(self if written else None, tuple(parts), complete, written)

    def _collect(
        self, address: int, length: int, write: bool, parts: list[memoryview], written: list[tuple[int, int]]
    ) -> bool:
        """Views of a range, with scratch for holes, and what of it is memory that is written; whether all
        of it is memory."""
        if length < 0 or address < 0:
            raise PdmError("VERR_INVALID_PARAMETER", f"A transfer of {length} bytes at {address:#x}")
        complete = True
        for first, size, piece in self.layout.spans(address, length):
            memory = None if piece is None else piece.write if write else piece.read
            if piece is None or memory is None:
                complete = False
                parts += scratch(size, write)
                continue
            at = (piece.write_at if write else piece.read_at) + first - piece.first
            parts.append((memory.view if write else memory.read_only)[at : at + size])
            if write:
                written.append((first, size))
        return complete

    def read(self, address: int, length: int) -> bytes:
        """Memory as the CPU would read it, without side effects; 0xFF where there is none."""
        if self._plain_first <= address and address + length <= self._plain_end:
            return bytes(self._ram_read_only[address : address + length])
        parts = []
        for first, size, piece in self.layout.spans(address, length):
            if piece is None or piece.read is None:
                parts.append(b"\xff" * size)
            else:
                at = piece.read_at + first - piece.first
                parts.append(bytes(piece.read.read_only[at : at + size]))
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Memory as the CPU would write it; dropped where there is none.  Registers are not reached."""
        done = 0
        for first, size, piece in self.layout.spans(address, len(data)):
            if piece is not None and piece.write is not None:
                at = piece.write_at + first - piece.first
                piece.write.view[at : at + size] = data[done : done + size]
                self.written(first, size)
            done += size

    def released(self, written: list[tuple[int, int]]) -> None:
        """A DMA handle ends that wrote to these (address, length)."""
        engine, tap = self._engine, self.on_written
        for address, length in written:
            if self._plain_first <= address and address + length <= self._plain_end:
                first, last = address >> 12, (address + length - 1) >> 12
                if first == last:
                    self.ram.clean[first] = 0
                else:
                    self.ram.clean[first : last + 1] = bytes(last + 1 - first)
                if engine is not None:
                    engine.invalidate(address, length)
            else:
                self.written(address, length)
            if tap is not None:
                tap(address, length)

    def written(self, address: int, length: int) -> None:
        """[address, address+length) was written by something that is not the CPU."""
        for first, size, piece in self.layout.spans(address, length):
            if piece is not None and piece.write is not None:
                piece.write.mark_dirty(piece.write_at + first - piece.first, size)
        if self._engine is not None:
            self._engine.invalidate(address, length)

    def is_valid(self, address: int, length: int = 1) -> bool:
        """Whether memory (RAM, ROM, device RAM) is everywhere in [address, address+length)."""
        if address < 0 or length < 0:
            return False
        spans = self.layout.spans(address, length)
        return all(piece is not None and piece.read is not None for _, _, piece in spans)

    def dirty_pages(self, address: int, size: int) -> bytes:
        """One byte per page of [address, address+size): 1 when the CPU or a device may have written
        to it since the last call; the log is cleared.  The first call answers ones."""
        if address % PAGE or size % PAGE or address < 0 or size < 0:
            raise PdmError(
                "VERR_PGM_INVALID_GC_PHYSICAL_RANGE", f"{address:#x}+{size:#x} is not made of whole pages"
            )
        found = bytearray(size // PAGE)
        for first, length, piece in self.layout.spans(address, size):
            if piece is None or piece.write is None or piece.write_at % PAGE or first % PAGE:
                continue
            page = (piece.write_at + first - piece.first) // PAGE
            at = (first - address) // PAGE
            found[at : at + length // PAGE] = piece.write.take_dirty(page, length // PAGE)
        if self._engine is not None:
            cpu = self._engine.dirty_pages(address, size)
            merged = int.from_bytes(found, "little") | int.from_bytes(cpu, "little")
            return merged.to_bytes(len(found), "little")
        return bytes(found)

    # --- texts and the end

    def info_phys(self) -> str:
        """The text of `info phys`."""
        lines = [f"{'First':>16} {'Last':>16} {'Type':<6} {'Write':<5} Description"]
        for piece in self.layout.pieces:
            kind = piece.block.kind.value if piece.block is not None else "-"
            title = piece.block.title if piece.block is not None else "bus"
            if piece.read is None:
                write = "-"
            elif piece.write is None:
                write = "no"
            else:
                write = "yes" if piece.write is piece.read else "RAM"
            lines.append(f"{piece.first:016x} {piece.end - 1:016x} {kind:<6} {write:<5} {title}")
        size = f"RAM: {self.ram_size} bytes, {self.ram_below_4g} of them below 4 GiB; A20 "
        return "\n".join([*lines, size + ("passes" if self.a20 else "is masked"), ""])

    def info_handlers(self) -> str:
        """The text of `info handlers`: ranges where accesses go to code."""
        lines = [f"{'First':>16} {'Last':>16} {'Kind':<5} Description"]
        for row in self._rows():
            title = getattr(row.owner, "title", row.owner)
            lines.append(f"{row.first:016x} {row.first + row.size - 1:016x} MMIO  {title}")
        return "\n".join([*lines, ""])

    def _rows(self) -> tuple[Exit, ...]:
        assert self.layout is not None
        return self.mmio_rows

    def close(self) -> None:
        """Give all memory back, whoever holds views of it; no effect the second time."""
        self._engine = None
        for memory in self._memories:
            memory.close()
        self._memories.clear()
        self._blocks = []
        self._ones = self._shadow_ram = None
        self._shadow = _BUS
        self._layout = Layout((), _BUS, None, None)
        self.mmio_rows = ()
        self._plain_first = self._plain_end = 0
        self.on_written = None


class BlockMapping:
    """A mapped block: the `Mapping` that a device gets for its RAM and ROM."""

    def __init__(self, pgm: Pgm, block: Block) -> None:
        self._pgm = pgm
        self._block = block
        self._mapped = False

    @property
    def block(self) -> Block:
        """The block; its address means nothing while it is not mapped."""
        return self._block

    @property
    def address(self) -> int | None:
        """Guest-physical address; None while it is not mapped."""
        return self._block.first if self._mapped else None

    def unmap(self) -> None:
        """Nothing answers there any more; no effect when it is not mapped."""
        if self._mapped:
            self._mapped = False
            self._pgm.remove(self._block)

    def move(self, address: int) -> None:
        """Map it at `address`; it stays where it was when that is not possible (see `Pgm.add`)."""
        self.replace(evolve(self._block, first=address, cut_rows={}))

    def replace(self, block: Block) -> None:
        """Map `block` in its place, or raise and leave all as it was."""
        self._pgm.check(block, instead_of=self._block if self._mapped else None)
        with self._pgm.batch():
            self._pgm.remove(self._block)
            self._pgm.add(block)
        self._block = block
        self._mapped = True


def _overlap(a: Block, b: Block) -> bool:
    return a.first < b.end and b.first < a.end


def _same(old: tuple[Any, ...], new: tuple[Any, ...]) -> bool:
    return len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))


def _check_size(name: str, size: int, least: int, most: int) -> None:
    if not least <= size <= most:
        raise PdmError(
            "VERR_OUT_OF_RANGE",
            f"{name} is {size} bytes ({size >> 20} MiB), which is out of range",
            f"{name} takes {least >> 20} MiB to {most >> 20} MiB",
        )
    if size % PAGE:
        raise PdmError("VERR_INVALID_PARAMETER", f"{name} is {size} bytes", f"Make it a multiple of {PAGE}")
