"""Regions: the named ranges of ports, MMIO and RAM through which a guest reaches a device.

A region is created (named, sized, with handlers) and then mapped, by `helpers.map_ports` and its
kin or by a PCI BAR.  The handlers are resolved once, when it is mapped: that is when width
policies and `pdm_wrap_region` plugins wrap them.  An access costs no hook call.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar, Self

import attrs
from attrs import define, field, frozen

from vbox_pdm.engine import (
    ALL_SIZES,
    Exit,
    ReadHandler,
    ReadStringHandler,
    WriteHandler,
    WriteStringHandler,
)
from vbox_pdm.errors import RegistrationError

if TYPE_CHECKING:
    from vbox_pdm.registers import RegisterMap


class ReadWidth(enum.Enum):
    """What a handler sees of a read that has not its natural width."""

    ANY = "any"  # passed through
    BYTE = "byte"  # one call a byte, as an 8-bit device on a bus
    WORD = "word"  # bytes pass through, wider ones in words
    DWORD = "dword"  # the aligned dword that holds it; a qword is two
    DWORD_QWORD = "dword or qword"  # aligned dwords, and aligned qwords as they are


class WriteWidth(enum.Enum):
    """What a handler sees of a write that has not its natural width."""

    ANY = "any"
    BYTE = "byte"
    WORD = "word"
    DWORD_ZEROED = "dword, missing bytes zero"
    DWORD_QWORD_ZEROED = "dword or qword, missing bytes zero"
    DWORD_READ_MISSING = "dword, missing bytes read"
    DWORD_QWORD_READ_MISSING = "dword or qword, missing bytes read"
    ONLY_DWORD = "only dword, others dropped"
    ONLY_DWORD_QWORD = "only dword or qword, others dropped"


@frozen
class Width:
    """A width policy: VirtualBox's IOMMMIO_FLAGS_*, and BYTE and WORD for ISA devices.

    An access of a size that a handler does not understand, or that is not aligned, is split into several
    or widened to one that it does."""

    reads: ReadWidth
    writes: WriteWidth

    ANY: ClassVar[Width]
    BYTE: ClassVar[Width]
    WORD: ClassVar[Width]
    DWORD: ClassVar[Width]


Width.ANY = Width(ReadWidth.ANY, WriteWidth.ANY)
Width.BYTE = Width(ReadWidth.BYTE, WriteWidth.BYTE)
Width.WORD = Width(ReadWidth.WORD, WriteWidth.WORD)
Width.DWORD = Width(ReadWidth.DWORD, WriteWidth.DWORD_READ_MISSING)


def read_nothing(offset: int, size: int) -> int:
    """The answer of a region without a read handler: all ones."""
    return (1 << (8 * size)) - 1


def write_nothing(offset: int, size: int, value: int) -> None:
    """A region without a write handler drops writes."""


class Latch:
    """Bytes as registers: reads give what lies there, writes stay there, and nothing else happens.

    Its methods are the handlers of a region, at offset 0 of `data`; an engine may do without calling them,
    which takes a fraction of the time.  `data` is at least as long as the region, and keeps its length; what
    is never written may be `bytes`.  One handler may be the device's own."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = memoryview(data)

    def read(self, offset: int, size: int) -> int:
        """A read handler."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """A write handler."""
        self.data[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


@frozen(eq=False, kw_only=True)
class _Handled:
    name: str = field(kw_only=False)
    """How errors and `--trace` call it."""
    size: int = field(kw_only=False)
    """Ports or bytes."""
    read: ReadHandler = field(default=read_nothing, kw_only=False)
    """Called for each read that the guest makes."""
    write: WriteHandler = field(default=write_nothing, kw_only=False)
    """Called for each write that the guest makes."""
    registers: type[RegisterMap] | None = None
    """What is where in it: for tracers, and for the conformance kit, which holds the device to it."""
    width: Width = Width.ANY
    """Which sizes the handlers understand; others are split or widened."""
    limit: ClassVar[int]

    def __attrs_post_init__(self) -> None:
        if not self.name or not 0 < self.size <= self.limit:
            raise RegistrationError(
                "VERR_INVALID_PARAMETER",
                f"{type(self).__name__} region '{self.name}' of {self.size} is not possible",
                f"Give it a name and a size of 1 to {self.limit:#x}",
            )

    def with_handlers(self, read: ReadHandler | None = None, write: WriteHandler | None = None) -> Self:
        """The same region with other handlers: what `pdm_wrap_region` returns."""
        return attrs.evolve(self, read=read or self.read, write=write or self.write)


@frozen(eq=False, kw_only=True)
class Ports(_Handled):
    """`size` I/O ports.  Handlers get (offset from the first port, 1 | 2 | 4 [, value]).

    `claims` is a mask of access sizes that the region answers; others pass it by, to another region
    that claims them or to nobody.  Regions may overlap where their claims are disjoint: a host
    bridge takes 0xCF8 as a dword only and leaves the bytes there to others.
    """

    claims: int = ALL_SIZES
    """1 | 2 | 4, or some of these."""
    read_string: ReadStringHandler | None = None
    """As `write_string`, for reads."""
    write_string: WriteStringHandler | None = None
    """Many items in one call, for guests that move data by REP INS and REP OUTS: only where the next
    items are known to have no other effect than moving data.  See `engine.ReadStringHandler`."""
    limit: ClassVar[int] = 0x10000

    def with_handlers(self, read: ReadHandler | None = None, write: WriteHandler | None = None) -> Self:
        """As of all regions; whoever wraps a handler sees each item of a string."""
        return attrs.evolve(
            self,
            read=read or self.read,
            write=write or self.write,
            read_string=None if read else self.read_string,
            write_string=None if write else self.write_string,
        )


@frozen(eq=False, kw_only=True)
class Mmio(_Handled):
    """`size` bytes of memory-mapped registers.  Handlers get (offset, 1 | 2 | 4 | 8 [, value])."""

    limit: ClassVar[int] = 1 << 40
    prefetchable: bool = False
    """What a BAR says of it: reads have no side effects."""


@define(eq=False)
class Ram:
    """Real RAM of a device (VRAM), `size` bytes in whole 4 KiB pages.

    The host fills in `view` (bytes of the RAM, writable) when the region is created with
    `helpers.ram(...)`; the content is part of the saved state.
    """

    name: str
    size: int
    view: memoryview = field(factory=lambda: memoryview(bytearray(0)))
    prefetchable: bool = True


@frozen(eq=False)
class Rom:
    """Read-only memory; a length that is no multiple of 4 KiB is filled up with 0xFF."""

    name: str
    data: bytes


Region = Ports | Mmio
"""What `pdm_wrap_region` sees."""


def resolve(region: Region, first: int, owner: object) -> Exit:
    """The exit-table row of a region mapped at `first`: width policies applied, nothing to search."""
    direct_read, adapted_read = _adapt_read(region)
    direct_write, adapted_write = _adapt_write(region)
    return Exit(
        first,
        region.size,
        region.read,
        region.write,
        adapted_read,
        adapted_write,
        direct=direct_read & direct_write,
        read_string=region.read_string if isinstance(region, Ports) else None,
        write_string=region.write_string if isinstance(region, Ports) else None,
        owner=owner,
        answers=_latched(region, region.read, Latch.read),
        keeps=_latched(region, region.write, Latch.write),
    )


def _latched(region: Region, handler: object, method: object) -> memoryview | None:
    """The bytes behind a handler that is a latch's own method."""
    latch = getattr(handler, "__self__", None)
    if not isinstance(latch, Latch) or getattr(handler, "__func__", None) is not method:
        return None
    if latch.data.nbytes < region.size or (method is Latch.write and latch.data.readonly):
        raise RegistrationError(
            "VERR_INVALID_PARAMETER",
            f"The latch of region '{region.name}' has {latch.data.nbytes} bytes"
            f"{' that cannot be written' if latch.data.readonly else ''}, the region {region.size}",
            "Make it of a bytearray that is as long as the region",
        )
    return latch.data


def _adapt_read(region: Region) -> tuple[int, ReadHandler]:
    read, policy = region.read, region.width.reads
    if policy is ReadWidth.ANY:
        return ALL_SIZES, read
    if policy is ReadWidth.BYTE:
        return 1, _reads_in_units(read, 1)
    if policy is ReadWidth.WORD:
        return 1 | 2, _reads_in_units(read, 2)
    qword = policy is ReadWidth.DWORD_QWORD
    return (4 | 8) if qword else 4, _reads_in_dwords(read, qword)


def _adapt_write(region: Region) -> tuple[int, WriteHandler]:
    write, policy = region.write, region.width.writes
    if policy is WriteWidth.ANY:
        return ALL_SIZES, write
    if policy is WriteWidth.BYTE:
        return 1, _writes_in_units(write, 1)
    if policy is WriteWidth.WORD:
        return 1 | 2, _writes_in_units(write, 2)
    qword = policy in (
        WriteWidth.DWORD_QWORD_ZEROED,
        WriteWidth.DWORD_QWORD_READ_MISSING,
        WriteWidth.ONLY_DWORD_QWORD,
    )
    direct = (4 | 8) if qword else 4
    if policy in (WriteWidth.ONLY_DWORD, WriteWidth.ONLY_DWORD_QWORD):
        return direct, _only_whole(write, direct)
    missing = policy in (WriteWidth.DWORD_READ_MISSING, WriteWidth.DWORD_QWORD_READ_MISSING)
    return direct, _writes_in_dwords(write, region.read if missing else None, qword)


def _reads_in_units(read: ReadHandler, unit: int) -> ReadHandler:
    def adapted(offset: int, size: int) -> int:
        if size <= unit and offset % size == 0:
            return read(offset, size)
        step = unit if offset % unit == 0 and size % unit == 0 else 1
        mask = (1 << (8 * step)) - 1
        value = 0
        for done in range(0, size, step):
            value |= (read(offset + done, step) & mask) << (8 * done)
        return value

    return adapted


def _writes_in_units(write: WriteHandler, unit: int) -> WriteHandler:
    def adapted(offset: int, size: int, value: int) -> None:
        if size <= unit and offset % size == 0:
            write(offset, size, value)
            return
        step = unit if offset % unit == 0 and size % unit == 0 else 1
        mask = (1 << (8 * step)) - 1
        for done in range(0, size, step):
            write(offset + done, step, (value >> (8 * done)) & mask)

    return adapted


def _reads_in_dwords(read: ReadHandler, qword: bool) -> ReadHandler:
    def adapted(offset: int, size: int) -> int:
        if (size == 4 and offset % 4 == 0) or (qword and size == 8 and offset % 8 == 0):
            return read(offset, size)
        first = offset & ~3
        value = 0
        for at in range(first, offset + size, 4):
            value |= (read(at, 4) & 0xFFFFFFFF) << (8 * (at - first))
        return (value >> (8 * (offset - first))) & ((1 << (8 * size)) - 1)

    return adapted


def _writes_in_dwords(write: WriteHandler, read: ReadHandler | None, qword: bool) -> WriteHandler:
    def adapted(offset: int, size: int, value: int) -> None:
        if (size == 4 and offset % 4 == 0) or (qword and size == 8 and offset % 8 == 0):
            write(offset, size, value)
            return
        for at in range(offset & ~3, offset + size, 4):
            low = max(at, offset)
            high = min(at + 4, offset + size)
            mask = ((1 << (8 * (high - low))) - 1) << (8 * (low - at))
            part = ((value >> (8 * (low - offset))) << (8 * (low - at))) & mask
            if read is not None and mask != 0xFFFFFFFF:
                part |= read(at, 4) & ~mask & 0xFFFFFFFF
            write(at, 4, part)

    return adapted


def _only_whole(write: WriteHandler, sizes: int) -> WriteHandler:
    def adapted(offset: int, size: int, value: int) -> None:
        if size & sizes and offset % size == 0:
            write(offset, size, value)

    return adapted
