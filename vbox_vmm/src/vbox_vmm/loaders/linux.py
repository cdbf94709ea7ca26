"""Linux: the 32-bit and 64-bit boot protocols of bzImage kernels.

Reference: Documentation/arch/x86/boot.rst and zero-page.rst of the kernel.  The real-mode setup
code is not run: what it would find out by BIOS calls is put into the zero page (struct boot_params).

Low memory:   0x1000 GDT   0x10000 zero page   0x20000 command line   0x30000 page tables (64-bit)
High memory:  the kernel at its preferred address, or lower when RAM ends before; the initrd as high
as the kernel can reach.

Traps: setup_sects of 0 means 4; a field may be used only from its protocol version on; the kernel
needs `init_size` bytes from its run-time start, much more than the file; `mem=` on the command line
limits what the kernel will use, and so where the initrd may lie; an initrd address is a highest
*byte*, not an end; the 64-bit entry is 0x200 behind the load address.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from attrs import frozen

from vbox_pdm.engine import CpuState
from vbox_pdm.errors import PdmError
from vbox_vmm.loaders.memory import (
    LEGACY_END,
    PAGE,
    GuestMemory,
    flat_cpu,
    gdt,
    low_ram_end,
    megabytes,
    memory_map,
    no_room,
    read_file,
)

GDT, ZERO_PAGE, COMMAND_LINE, PAGE_TABLES = 0x1000, 0x10000, 0x20000, 0x30000
HEADER = 0x1F1
E820_COUNT, E820_TABLE, E820_MAX = 0x1E8, 0x2D0, 128
LOADED_HIGH, KERNEL_64 = 1, 1
_BAD = "VERR_BAD_EXE_FORMAT"


@frozen
class LinuxHeader:
    """The setup header, with the defaults of old protocol versions filled in.  Sizes in bytes."""

    version: int
    setup_size: int
    protected_size: int
    header_end: int
    xloadflags: int
    relocatable: bool
    alignment: int
    preferred: int
    init_size: int
    initrd_max: int
    command_line_max: int

    @property
    def is_64bit(self) -> bool:
        """Whether there is a 64-bit entry point."""
        return bool(self.xloadflags & KERNEL_64)


def parse_header(data: bytes, name: str) -> LinuxHeader:
    """Read and check the header of the kernel file `name`.  Raises PdmError VERR_BAD_EXE_FORMAT."""
    if len(data) < 0x206 + 2 or data[0x1FE:0x200] != b"\x55\xaa" or data[0x202:0x206] != b"HdrS":
        raise PdmError(
            "VERR_INVALID_EXE_SIGNATURE",
            f"{name} is no Linux kernel: there is no setup header (HdrS) at 0x202",
            "Give a bzImage, such as /boot/vmlinuz-*; an ELF vmlinux or a compressed file will not do",
        )
    (version,) = struct.unpack_from("<H", data, 0x206)
    if version < 0x0202:
        raise PdmError(
            _BAD, f"{name} speaks boot protocol {version >> 8}.{version & 0xFF:02}, which is too old",
            "2.02 (kernel 2.4) is the oldest that can be entered directly",
        )  # fmt: skip
    header_end = 0x202 + data[0x201]
    setup_size = ((data[HEADER] or 4) + 1) * 512
    if len(data) < 0x290 or len(data) < setup_size or not 0x22C <= header_end <= E820_TABLE:
        raise _truncated(name, len(data), max(setup_size, 0x290))

    def known(since: int, offset: int, layout: str, default: int) -> int:
        if version < since:
            return default
        return int(struct.unpack_from(layout, data, offset)[0])

    if not data[0x211] & LOADED_HIGH:
        raise PdmError(_BAD, f"{name} is a zImage, which cannot be entered directly", "Build a bzImage")
    file_size = len(data) - setup_size
    protected_size = known(0x0204, 0x1F4, "<I", file_size // 16) * 16
    slack = 15 if version < 0x0208 else 0  # with the checksum came the padding to whole paragraphs
    if protected_size > file_size + slack or not protected_size:
        raise _truncated(name, len(data), setup_size + max(protected_size, 16))
    alignment = known(0x0205, 0x230, "<I", PAGE) or PAGE
    if alignment & (alignment - 1) or alignment > 1 << 30:
        raise PdmError(_BAD, f"{name} wants the impossible alignment {alignment:#x}", "The file is damaged")
    return LinuxHeader(
        version,
        setup_size,
        min(protected_size, file_size),
        header_end,
        xloadflags=known(0x020C, 0x236, "<H", 0),
        relocatable=bool(known(0x0205, 0x234, "<B", 0)),
        alignment=alignment,
        preferred=known(0x020A, 0x258, "<Q", LEGACY_END),
        init_size=known(0x020A, 0x260, "<I", 0) or 2 * protected_size,
        initrd_max=known(0x0203, 0x22C, "<I", 0x37FFFFFF),
        command_line_max=known(0x0206, 0x238, "<I", 255),
    )


def load(
    memory: GuestMemory, kernel: Path, initrd: Path | None = None, command_line: str = "", *,
    long_mode: bool = True,
) -> CpuState:  # fmt: skip
    """Put a kernel into memory; the CPU state to enter it with.

    A kernel with a 64-bit entry is entered there unless the CPU has no `long_mode`.  Raises PdmError:
    no kernel, truncated (VERR_BAD_EXE_FORMAT), RAM too small for kernel or initrd
    (VERR_NO_MEMORY), a command line that is too long (VERR_OUT_OF_RANGE)."""
    image = read_file(kernel, "kernel")
    header = parse_header(image, str(kernel))
    line = _command_line(command_line, header, str(kernel))
    address, kernel_end = place_kernel(header, memory, str(kernel))
    zero_page = _zero_page(image, header, memory, address)
    if initrd is not None:
        data = read_file(initrd, "initrd")
        if not data:
            raise PdmError("VERR_BAD_EXE_FORMAT", f"The initrd {initrd} is empty", "Leave it out")
        at = place_initrd(header, memory, len(data), kernel_end, command_line, str(initrd))
        memory.write(at, data)
        struct.pack_into("<II", zero_page, 0x218, at, len(data))
    memory.write(address, image[header.setup_size : header.setup_size + header.protected_size])
    memory.write(COMMAND_LINE, line)
    memory.write(ZERO_PAGE, bytes(zero_page))
    use_64bit = header.is_64bit and long_mode
    memory.write(GDT, gdt(use_64bit))
    state = flat_cpu(address + (0x200 if use_64bit else 0), GDT, long_mode=use_64bit)
    state.gpr[6] = ZERO_PAGE
    if use_64bit:
        memory.write(PAGE_TABLES, identity_tables(PAGE_TABLES))
        state.cr3 = PAGE_TABLES
    return state


def place_kernel(header: LinuxHeader, memory: GuestMemory, name: str) -> tuple[int, int]:
    """(load address, end of what the kernel needs from there on)."""
    end_of_ram = low_ram_end(memory)
    candidates = [header.preferred] if header.version >= 0x020A else []
    candidates.append(_align_up(LEGACY_END, header.alignment))
    if not header.relocatable:
        # It runs at its preferred address wherever it lies; below that it must not overlap itself.
        candidates = [LEGACY_END]
    for address in candidates:
        start = _align_up(address, header.alignment) if header.relocatable else header.preferred
        end = max(start + header.init_size, address + header.protected_size)
        if address >= LEGACY_END and end <= end_of_ram:
            return address, end
    raise no_room(f"The kernel {name} ({megabytes(header.init_size)} while it starts)", end, memory)


def place_initrd(
    header: LinuxHeader, memory: GuestMemory, size: int, kernel_end: int, command_line: str, name: str
) -> int:
    """The highest page where the initrd fits and the kernel can reach it."""
    top = min(low_ram_end(memory), header.initrd_max + 1, memory_limit(command_line))
    at = (top - size) & ~(PAGE - 1)
    if at >= kernel_end:
        return at
    if top < low_ram_end(memory):
        raise PdmError(
            "VERR_NO_MEMORY",
            f"The initrd {name} ({megabytes(size)}) does not fit between the kernel, which ends at "
            f"{kernel_end:#x}, and {top:#x}, the highest address that the kernel lets it have",
            "Give a smaller initrd, or take mem= off the command line",
        )
    raise no_room(f"The initrd {name} ({megabytes(size)})", kernel_end + size + PAGE, memory)


def memory_limit(command_line: str) -> int:
    """What `mem=` on a command line leaves to the kernel, in bytes; huge without it."""
    limit = 1 << 64
    for number, unit in re.findall(r"(?:^|\s)mem=(0x[0-9a-fA-F]+|\d+)([kKmMgGtT]?)(?=\s|$)", command_line):
        base = int(number, 8) if re.fullmatch("0[0-7]+", number) else int(number, 0 if "x" in number else 10)
        limit = base << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[unit.lower()]
    return limit


def identity_tables(at: int) -> bytes:
    """Page tables for the first 4 GiB in pages of 2 MiB, to lie at `at`: PML4, PDPT, four PDs."""
    table = struct.Struct("<512Q")
    pml4 = table.pack(at + PAGE | 3, *[0] * 511)
    pdpt = table.pack(*[at + (2 + n) * PAGE | 3 for n in range(4)], *[0] * 508)
    directories = [table.pack(*[(512 * n + m) << 21 | 0x83 for m in range(512)]) for n in range(4)]
    return b"".join([pml4, pdpt, *directories])


def _zero_page(image: bytes, header: LinuxHeader, memory: GuestMemory, address: int) -> bytearray:
    page = bytearray(PAGE)
    page[HEADER : header.header_end] = image[HEADER : header.header_end]
    entries = memory_map(memory)[:E820_MAX]
    page[E820_COUNT] = len(entries)
    for index, entry in enumerate(entries):
        struct.pack_into("<QQI", page, E820_TABLE + 20 * index, entry.first, entry.size, entry.kind)
    extended = min((low_ram_end(memory) - LEGACY_END) >> 10, 0xFFFFFFFF)
    struct.pack_into("<H", page, 0x02, min(extended, 0xFFFF))  # screen_info.ext_mem_k
    struct.pack_into("<I", page, 0x1E0, extended)  # alt_mem_k
    struct.pack_into("<H", page, 0x1FA, 0xFFFF)  # vid_mode: normal
    page[0x210] = 0xFF  # type_of_loader: none of the assigned
    struct.pack_into("<I", page, 0x214, address)  # code32_start
    struct.pack_into("<I", page, 0x228, COMMAND_LINE)
    if header.version >= 0x0209:
        struct.pack_into("<Q", page, 0x250, 0)  # setup_data: none
    return page


def _command_line(text: str, header: LinuxHeader, name: str) -> bytes:
    line = text.encode()
    if len(line) > header.command_line_max or b"\0" in line:
        raise PdmError(
            "VERR_OUT_OF_RANGE",
            f"The command line has {len(line)} bytes; the kernel {name} takes {header.command_line_max}",
            "Shorten --append",
        )
    return line + b"\0"


def _truncated(name: str, size: int, wanted: int) -> PdmError:
    return PdmError(
        _BAD,
        f"The kernel {name} is cut off: it has {size} bytes, and its header speaks of {wanted}",
        "Fetch or build it again",
    )


def _align_up(value: int, alignment: int) -> int:
    return (value + alignment - 1) & ~(alignment - 1)
