"""What the loaders share: guest memory as they see it, memory maps, flat segments, errors."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from attrs import frozen

from vbox_pdm.engine import CpuState, Segment
from vbox_pdm.errors import PdmError

PAGE = 4096
LOW_END = 0x9FC00
"""End of conventional memory: the kilobyte above is the EBDA."""
LEGACY_END = 0x100000
RAM, RESERVED = 1, 2
CODE_SELECTOR, DATA_SELECTOR = 0x10, 0x18
_CODE32, _CODE64, _DATA = 0x00CF9B000000FFFF, 0x00AF9B000000FFFF, 0x00CF93000000FFFF


class GuestMemory(Protocol):
    """Guest-physical memory.  A loader stays inside `ram_ranges`."""

    def read(self, address: int, length: int) -> bytes:
        """Bytes of memory."""

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into memory."""

    def ram_ranges(self) -> Sequence[tuple[int, int]]:
        """(first, end) of each contiguous piece of RAM, ascending; the first begins at 0."""


class PortBus(Protocol):
    """The I/O ports, as the CPU reaches them."""

    def port_read(self, port: int, size: int) -> int:
        """IN of 1, 2 or 4 bytes."""

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT of 1, 2 or 4 bytes."""


@frozen
class MapEntry:
    """A range of the memory map: `kind` 1 is RAM, 2 reserved (the numbers of INT 15h E820)."""

    first: int
    size: int
    kind: int


def memory_map(memory: GuestMemory) -> list[MapEntry]:
    """What E820 would say: conventional memory, the reserved tables at F0000h, RAM above."""
    entries = []
    for first, end in memory.ram_ranges():
        if first < LEGACY_END:
            entries += [
                MapEntry(0, min(end, LOW_END), RAM),
                MapEntry(LOW_END, 0xA0000 - LOW_END, RESERVED),
                MapEntry(0xF0000, 0x10000, RESERVED),
            ]
            first = LEGACY_END
        if end > first:
            entries.append(MapEntry(first, end - first, RAM))
    return entries


def low_ram_end(memory: GuestMemory) -> int:
    """End of the RAM that begins at 0."""
    return memory.ram_ranges()[0][1]


def read_file(path: Path, what: str) -> bytes:
    """The content of a file that the user named."""
    try:
        return path.read_bytes()
    except OSError as error:
        status = "VERR_FILE_NOT_FOUND" if isinstance(error, FileNotFoundError) else "VERR_ACCESS_DENIED"
        raise PdmError(
            status, f"Cannot read {what} {path}: {error.strerror}", "Check the path and its permissions"
        ) from None


def megabytes(size: int) -> str:
    """`45 MiB`, rounded up."""
    return f"{-(-size >> 20)} MiB"


def no_room(what: str, end: int, memory: GuestMemory) -> PdmError:
    """The error for something that would end at `end`, beyond the RAM."""
    return PdmError(
        "VERR_NO_MEMORY",
        f"{what} needs guest RAM up to {end:#x}, and the guest's ends at {low_ram_end(memory):#x}",
        f"Give the guest more memory: --memory {-(-end >> 20) + 16}",
    )


def gdt(long_mode: bool) -> bytes:
    """A GDT with flat code at selector 10h and flat data at 18h."""
    return struct.pack("<4Q", 0, 0, _CODE64 if long_mode else _CODE32, _DATA)


def flat_cpu(entry: int, gdt_address: int, *, long_mode: bool = False) -> CpuState:
    """Protected mode without paging, or with `long_mode` 64-bit mode (the caller sets CR3): flat
    segments, interrupts off, at `entry`."""
    state = CpuState(rip=entry, cr0=0x11)
    data = Segment(DATA_SELECTOR, 0, 0xFFFFFFFF, 0x00C09300)
    state.cs = Segment(CODE_SELECTOR, 0, 0xFFFFFFFF, 0x00A09B00 if long_mode else 0x00C09B00)
    state.ds, state.es, state.ss, state.fs, state.gs = (
        Segment(data.selector, data.base, data.limit, data.attributes) for _ in range(5)
    )
    state.gdtr = (gdt_address, 31)
    state.idtr = (0, 0)
    if long_mode:
        state.cr0, state.cr4, state.efer = 0x80000011, 0x20, 0x500
    return state
