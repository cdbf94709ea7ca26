"""Multiboot 1 kernels: 32-bit ELF files, and any file whose header says where it goes (a.out kludge).

Reference: Multiboot Specification 0.6.96.  The information structure, the map, the strings and the
GDT lie behind the kernel and its modules, so that they are in nobody's way.

Traps: requirement bits 0 to 15 that a loader does not know must make it refuse; bit 2 asks for a
video mode, which nobody can set here; an ELF entry point is a virtual address, and counts from the
segment that holds it; memory map entries carry a size in front that does not count itself.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from vbox_pdm.engine import CpuState
from vbox_pdm.errors import PdmError
from vbox_vmm.loaders.memory import (
    LOW_END,
    PAGE,
    GuestMemory,
    flat_cpu,
    gdt,
    low_ram_end,
    memory_map,
    no_room,
    read_file,
)

HEADER_MAGIC, BOOT_MAGIC = 0x1BADB002, 0x2BADB002
SEARCH = 8192
ALIGN_MODULES, MEMORY_INFO, VIDEO_MODE, KLUDGE = 1, 2, 4, 1 << 16
LOADER_NAME = b"vbox-vmm"
FIRST_DISK = 0x80FFFFFF
"""boot_device: the first hard disk, no partition."""
_BAD = "VERR_BAD_EXE_FORMAT"


@frozen
class Piece:
    """Bytes of the file that go to `address`, followed by zeros up to `size`."""

    address: int
    data: bytes
    size: int


@frozen
class Module:
    """A file handed to the kernel, with the text that the kernel gets with it."""

    path: Path
    text: str = ""


@frozen
class Image:
    """A kernel file, taken apart."""

    pieces: tuple[Piece, ...]
    entry: int

    @property
    def end(self) -> int:
        """The first address behind all of it."""
        return max(piece.address + piece.size for piece in self.pieces)


def is_multiboot(data: bytes) -> bool:
    """Whether the file has a multiboot header."""
    return _find_header(data) is not None


def parse(data: bytes, name: str) -> Image:
    """Take the kernel file `name` apart.  Raises PdmError VERR_BAD_EXE_FORMAT, or
    VERR_NOT_SUPPORTED for what it asks in vain."""
    at = _find_header(data)
    if at is None:
        raise PdmError(
            "VERR_INVALID_EXE_SIGNATURE",
            f"{name} is no multiboot kernel: there is no header in its first {SEARCH} bytes",
            "Give a kernel with a multiboot 1 header, 4-byte aligned",
        )
    (flags,) = struct.unpack_from("<I", data, at + 4)
    if flags & VIDEO_MODE:
        raise PdmError(
            "VERR_NOT_SUPPORTED",
            f"The multiboot kernel {name} asks for a video mode (flag bit 2), which cannot be set here",
            "Build it without, or boot it by firmware and a boot loader",
        )
    if unknown := flags & 0xFFFF & ~(ALIGN_MODULES | MEMORY_INFO):
        raise PdmError(
            "VERR_NOT_SUPPORTED",
            f"The multiboot kernel {name} requires what multiboot 1 does not define (flags {unknown:#x})",
            "Build it for multiboot 1",
        )
    image = _parse_kludge(data, at, name) if flags & KLUDGE else _parse_elf(data, name)
    if not any(piece.address <= image.entry < piece.address + piece.size for piece in image.pieces):
        raise PdmError(
            _BAD, f"The entry point {image.entry:#x} of {name} lies outside of it", "It is damaged"
        )
    return image


def load(
    memory: GuestMemory, kernel: Path, modules: Sequence[Module] = (), command_line: str = "", *,
    boot_device: int = FIRST_DISK,
) -> CpuState:  # fmt: skip
    """Put a kernel and its modules into memory; the CPU state to enter it with.

    Raises PdmError: VERR_BAD_EXE_FORMAT, VERR_NOT_SUPPORTED, VERR_NO_MEMORY."""
    image = parse(read_file(kernel, "kernel"), str(kernel))
    end_of_ram = low_ram_end(memory)
    for piece in image.pieces:
        end = piece.address + piece.size
        if end > end_of_ram:
            raise no_room(f"The kernel {kernel}", end, memory)
        if piece.address < LOW_END < end or LOW_END <= piece.address < 0x100000:
            raise PdmError(
                _BAD, f"The kernel {kernel} wants to lie at {piece.address:#x}, where no free RAM is",
                "Link it to 1 MiB or above",
            )  # fmt: skip
    contents = [read_file(module.path, "module") for module in modules]
    at = _page_up(max(image.end, 0x100000))
    spans = []
    for module, content in zip(modules, contents, strict=True):
        if at + len(content) > end_of_ram:
            raise no_room(f"The module {module.path}", at + len(content), memory)
        spans.append((at, at + len(content)))
        at = _page_up(at + len(content))
    info, gdt_address = _information(
        memory, at, modules, spans, f"{kernel} {command_line}".strip(), boot_device
    )
    if at + len(info) > end_of_ram:
        raise no_room("The boot information", at + len(info), memory)
    for piece in image.pieces:
        memory.write(piece.address, piece.data + bytes(piece.size - len(piece.data)))
    for (first, _), content in zip(spans, contents, strict=True):
        memory.write(first, content)
    memory.write(at, info)
    state = flat_cpu(image.entry, gdt_address)
    state.gpr[0], state.gpr[3] = BOOT_MAGIC, at
    return state


def _find_header(data: bytes) -> int | None:
    for at in range(0, min(len(data), SEARCH) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", data, at)
        if magic == HEADER_MAGIC and (magic + flags + checksum) & 0xFFFFFFFF == 0:
            return at
    return None


def _parse_kludge(data: bytes, at: int, name: str) -> Image:
    if len(data) < at + 32:
        raise _truncated(name)
    header, first, load_end, bss_end, entry = struct.unpack_from("<5I", data, at + 12)
    start = at - (header - first)
    if header < first or start < 0:
        raise PdmError(_BAD, f"The load address {first:#x} of {name} lies before its file", "It is damaged")
    length = load_end - first if load_end else len(data) - start
    if length < 0 or start + length > len(data):
        raise _truncated(name)
    size = bss_end - first if bss_end else length
    if size < length:
        raise PdmError(_BAD, f"The bss of {name} ends before its data", "It is damaged")
    return Image((Piece(first, data[start : start + length], size),), entry)


def _parse_elf(data: bytes, name: str) -> Image:
    if data[:4] != b"\x7fELF" or len(data) < 52:
        raise PdmError(
            _BAD,
            f"The multiboot kernel {name} is no ELF file and has no addresses in its header",
            "Link it as 32-bit ELF, or set flag bit 16 with the addresses",
        )
    kind, machine = struct.unpack_from("<HH", data, 16)
    if data[4:6] != b"\x01\x01" or kind != 2 or machine != 3:
        raise PdmError(
            _BAD,
            f"The multiboot kernel {name} is no 32-bit x86 ELF executable",
            "Link it with -m elf_i386, or set flag bit 16 with the addresses",
        )
    entry, table = struct.unpack_from("<II", data, 24)
    size, count = struct.unpack_from("<HH", data, 42)
    pieces = []
    real_entry = entry
    for index in range(count):
        at = table + index * size
        if size < 32 or at + 32 > len(data):
            raise _truncated(name)
        segment, offset, virtual, address, file_size, memory_size = struct.unpack_from("<6I", data, at)
        if segment != 1 or not memory_size:
            continue
        if file_size > memory_size or offset + file_size > len(data):
            raise _truncated(name)
        pieces.append(Piece(address, data[offset : offset + file_size], memory_size))
        if virtual <= entry < virtual + memory_size:
            real_entry = entry - virtual + address
    if not pieces:
        raise PdmError(_BAD, f"The multiboot kernel {name} has nothing to load", "Link it as an executable")
    return Image(tuple(pieces), real_entry)


def _information(
    memory: GuestMemory, at: int, modules: Sequence[Module], spans: Sequence[tuple[int, int]],
    command_line: str, boot_device: int,
) -> tuple[bytes, int]:  # fmt: skip
    """The information structure to lie at `at` with all that it points to, and where the GDT is."""
    block = bytearray(120)

    def put(data: bytes) -> int:
        block.extend(bytes(-len(block) % 8))
        block.extend(data)
        return at + len(block) - len(data)

    entries = memory_map(memory)
    packed_map = b"".join(struct.pack("<IQQI", 20, e.first, e.size, e.kind) for e in entries)
    texts = [put(f"{module.path} {module.text}".strip().encode() + b"\0") for module in modules]
    packed_modules = b"".join(
        struct.pack("<4I", first, end, text, 0) for (first, end), text in zip(spans, texts, strict=True)
    )
    upper = (low_ram_end(memory) - 0x100000) >> 10
    map_at = put(packed_map)
    modules_at = put(packed_modules)
    line_at = put(command_line.encode() + b"\0")
    name_at = put(LOADER_NAME + b"\0")
    gdt_address = put(gdt(long_mode=False))
    flags = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    struct.pack_into(
        "<7I", block, 0, flags, LOW_END >> 10, upper, boot_device, line_at, len(modules), modules_at
    )
    struct.pack_into("<II", block, 44, len(packed_map), map_at)
    struct.pack_into("<I", block, 64, name_at)
    return bytes(block), gdt_address


def _page_up(address: int) -> int:
    return (address + PAGE - 1) & ~(PAGE - 1)


def _truncated(name: str) -> PdmError:
    return PdmError(_BAD, f"The multiboot kernel {name} is cut off", "Fetch or build it again")
