"""Linux kernels for the option ROM: what is in a bzImage, and where its parts go.

Reference: Documentation/arch/x86/boot.rst of the kernel ("The Real-mode kernel header").  The kernel's own
setup code runs and asks the firmware for the memory map and the screen, so all that a loader does is to
put four pieces into memory and to fill a few fields of the header in.

    10000h  setup code (up to 32 KiB), then its heap and stack up to 1E000h
    1E000h  command line, up to 20000h
    100000h kernel
    below the end of RAM: initrd

This leaves alone what a BIOS uses: the first 64 KiB, where its stack and our boot sector are, and the end of
low memory, where the extended BIOS data area is.

Traps
- setup_sects of 0 means 4.  A header field counts only from its protocol version on.
- heap_end_ptr is 200h less than the end of the heap.
- initrd_addr_max is the highest byte that the initrd may have, not its end.
- A kernel needs `init_size` bytes from where it runs while it starts, much more than its file has.
- `vga=` on the command line is for the loader; the setup code does not look for it.
"""

from __future__ import annotations

import re
import struct

from attrs import frozen

from vbox_pdm import PdmError
from vbox_plugin_pc import fwcfg_items
from vbox_plugin_pc.fwcfg_items import Content, u32

PAGE = 4096
SETUP_ADDRESS, COMMAND_LINE_ADDRESS, LOW_END = 0x10000, 0x1E000, 0x20000
KERNEL_ADDRESS = 0x100000
LARGEST_SETUP = 0x8000
FIRMWARE_TABLES = 1 << 20
"""Bytes left free below the end of RAM, where firmware keeps its tables.  The option ROM knows better: it
moves the initrd further down when the firmware's memory map says so."""

SETUP_SECTS, SYSSIZE, VID_MODE, BOOT_FLAG = 0x1F1, 0x1F4, 0x1FA, 0x1FE
HEADER_MAGIC, VERSION, TYPE_OF_LOADER, LOADFLAGS = 0x202, 0x206, 0x210, 0x211
RAMDISK_IMAGE, RAMDISK_SIZE, HEAP_END, CMD_LINE = 0x218, 0x21C, 0x224, 0x228
LOADED_HIGH, CAN_USE_HEAP = 0x01, 0x80
UNKNOWN_LOADER = 0xFF
_MULTIBOOT_MAGICS = (b"\x02\xb0\xad\x1b", b"\xd6\x50\x52\xe8")
_MULTIBOOT_WITHIN = 32768
_VIDEO_MODES = {"normal": 0xFFFF, "ext": 0xFFFE, "ask": 0xFFFD}
_BAD = "VERR_BAD_EXE_FORMAT"


@frozen
class Kernel:
    """A bzImage.  Sizes in bytes; fields that its protocol version has not got have their defaults."""

    name: str
    data: bytes
    version: int
    setup_size: int
    start_end: int
    """Where the memory ends that it needs while it starts."""
    initrd_max: int
    command_line_max: int


def parse(data: bytes, name: str) -> Kernel:
    """Check and read the header.  PdmError VERR_BAD_EXE_FORMAT or VERR_INVALID_EXE_SIGNATURE: this is no
    kernel that a BIOS could start."""
    if data[BOOT_FLAG : BOOT_FLAG + 2] != b"\x55\xaa" or data[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS":
        raise _no_kernel(data, name)
    if len(data) < 0x268:
        raise _truncated(name, len(data), 0x268)
    (version,) = struct.unpack_from("<H", data, VERSION)
    if version < 0x0202 or not data[LOADFLAGS] & LOADED_HIGH:
        raise PdmError(
            _BAD,
            f"{name} is a zImage, or its boot protocol {version >> 8}.{version & 0xFF:02} is too old",
            "Give a bzImage of Linux 2.4 or later",
        )

    def known(since: int, offset: int, layout: str, default: int) -> int:
        return int(struct.unpack_from(layout, data, offset)[0]) if version >= since else default

    setup_size = ((data[SETUP_SECTS] or 4) + 1) * 512
    kernel_size = len(data) - setup_size
    wanted = known(0x0204, SYSSIZE, "<I", 1) * 16
    slack = 15 if version < 0x0208 else 0  # files were not padded to whole paragraphs before
    if kernel_size <= 0 or wanted > kernel_size + slack:
        raise _truncated(name, len(data), setup_size + max(wanted, 16))
    if setup_size > LARGEST_SETUP:
        raise PdmError(_BAD, f"The setup code of {name} has {setup_size} bytes", "32 KiB are the most")

    alignment = max(known(0x0205, 0x230, "<I", PAGE), PAGE)
    preferred = known(0x020A, 0x258, "<Q", KERNEL_ADDRESS)
    relocatable = bool(known(0x0205, 0x234, "<B", 0))
    runs_at = max(_align_up(KERNEL_ADDRESS, alignment), preferred) if relocatable else preferred
    start_end = max(runs_at + known(0x020A, 0x260, "<I", 0), KERNEL_ADDRESS + kernel_size)
    return Kernel(
        name, data, version, setup_size, start_end,
        initrd_max=known(0x0203, 0x22C, "<I", 0x37FFFFFF),
        command_line_max=min(known(0x0206, 0x238, "<I", 255), LOW_END - COMMAND_LINE_ADDRESS - 1),
    )  # fmt: skip


def smallest() -> bytes:
    """A file that `parse` takes, of the oldest protocol: for tests.  It does not run."""
    data = bytearray(5 * 512 + 16)
    data[BOOT_FLAG : BOOT_FLAG + 2] = b"\x55\xaa"
    data[HEADER_MAGIC : HEADER_MAGIC + 4] = b"HdrS"
    struct.pack_into("<H", data, VERSION, 0x0202)
    data[LOADFLAGS] = LOADED_HIGH
    return bytes(data)


def items(
    kernel: Kernel, initrd: bytes, command_line: str, *, ram_below_4g: int, initrd_name: str = "initrd"
) -> dict[int, Content]:
    """The items of the firmware configuration device that the option ROM loads.

    `initrd` may be empty.  PdmError: a command line that is too long (VERR_OUT_OF_RANGE), too little RAM
    (VERR_NO_MEMORY)."""
    line = command_line.encode()
    if len(line) > kernel.command_line_max or b"\0" in line:
        raise PdmError(
            "VERR_OUT_OF_RANGE",
            f"The command line has {len(line)} bytes; {kernel.name} takes {kernel.command_line_max}",
            "Shorten it",
        )
    if kernel.start_end > ram_below_4g:
        raise _no_room(f"The kernel {kernel.name}", kernel.start_end, ram_below_4g)
    initrd_at = _place_initrd(kernel, len(initrd), ram_below_4g, command_line, initrd_name) if initrd else 0
    code = memoryview(kernel.data)[kernel.setup_size :]
    setup = _setup(kernel, initrd_at, len(initrd), command_line)
    line += b"\0"
    return {
        fwcfg_items.KERNEL_ADDRESS: u32(KERNEL_ADDRESS),
        fwcfg_items.KERNEL_SIZE: u32(len(code)),
        fwcfg_items.KERNEL_ENTRY: u32(KERNEL_ADDRESS),
        fwcfg_items.KERNEL_DATA: code,
        fwcfg_items.INITRD_ADDRESS: u32(initrd_at),
        fwcfg_items.INITRD_SIZE: u32(len(initrd)),
        fwcfg_items.INITRD_DATA: initrd,
        fwcfg_items.KERNEL_CMDLINE: u32(COMMAND_LINE_ADDRESS),
        fwcfg_items.CMDLINE_ADDRESS: u32(COMMAND_LINE_ADDRESS),
        fwcfg_items.CMDLINE_SIZE: u32(len(line)),
        fwcfg_items.CMDLINE_DATA: line,
        fwcfg_items.SETUP_ADDRESS: u32(SETUP_ADDRESS),
        fwcfg_items.SETUP_SIZE: u32(len(setup)),
        fwcfg_items.SETUP_DATA: setup,
    }


def _setup(kernel: Kernel, initrd_at: int, initrd_size: int, command_line: str) -> bytes:
    """The setup code with the fields of its header that a loader fills in."""
    setup = bytearray(kernel.data[: kernel.setup_size])
    setup[TYPE_OF_LOADER] = UNKNOWN_LOADER
    setup[LOADFLAGS] |= CAN_USE_HEAP
    struct.pack_into("<H", setup, HEAP_END, COMMAND_LINE_ADDRESS - SETUP_ADDRESS - 0x200)
    struct.pack_into("<I", setup, CMD_LINE, COMMAND_LINE_ADDRESS)
    struct.pack_into("<II", setup, RAMDISK_IMAGE, initrd_at, initrd_size)
    mode = video_mode(command_line)
    if mode is not None:
        struct.pack_into("<H", setup, VID_MODE, mode)
    return bytes(setup)


def video_mode(command_line: str) -> int | None:
    """What `vga=` asks for; None without it, or where it makes no sense."""
    found = re.findall(r"(?:^|\s)vga=(\S+)", command_line)
    if not found:
        return None
    if found[-1] in _VIDEO_MODES:
        return _VIDEO_MODES[found[-1]]
    try:
        return int(found[-1], 0) & 0xFFFF
    except ValueError:
        return None


def memory_limit(command_line: str) -> int:
    """What `mem=` leaves to the kernel, in bytes; huge without it."""
    limit = 1 << 64
    for number, unit in re.findall(r"(?:^|\s)mem=(0x[0-9a-fA-F]+|\d+)([kKmMgGtT]?)(?=\s|$)", command_line):
        octal = re.fullmatch("0[0-7]+", number)
        base = int(number, 8 if octal else 16 if number.startswith("0x") else 10)
        limit = base << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[unit.lower()]
    return limit


def _place_initrd(kernel: Kernel, size: int, ram: int, command_line: str, name: str) -> int:
    """The highest page where it fits and the kernel can reach it."""
    top = min(ram - FIRMWARE_TABLES, kernel.initrd_max + 1, memory_limit(command_line))
    at = (top - size) & ~(PAGE - 1)
    if at >= kernel.start_end:
        return at
    if top < ram - FIRMWARE_TABLES:
        raise PdmError(
            "VERR_NO_MEMORY",
            f"The initrd {name} ({_mib(size)} MiB) does not fit between the kernel, which needs all up to "
            f"{kernel.start_end:#x}, and {top:#x}, the highest address that the kernel lets it have",
            "Give a smaller initrd, or take mem= off the command line",
        )
    raise _no_room(f"The initrd {name}", kernel.start_end + size + PAGE + FIRMWARE_TABLES, ram)


def _no_room(what: str, wanted: int, ram: int) -> PdmError:
    return PdmError(
        "VERR_NO_MEMORY",
        f"{what} does not fit into {_mib(ram)} MiB of RAM below 4 GiB",
        f"Give the machine {_mib(wanted)} MiB or more",
    )


def _no_kernel(data: bytes, name: str) -> PdmError:
    head = data[:_MULTIBOOT_WITHIN]
    if data[:4] == b"\x7fELF" or any(magic in head for magic in _MULTIBOOT_MAGICS):
        return PdmError(
            "VERR_INVALID_EXE_SIGNATURE",
            f"{name} is no bzImage but an ELF or multiboot kernel, which a BIOS cannot start",
            "Start it without firmware: --firmware none",
        )
    return PdmError(
        "VERR_INVALID_EXE_SIGNATURE",
        f"{name} is no Linux kernel: there is no setup header (HdrS) at 0x202",
        "Give a bzImage, such as /boot/vmlinuz-*; multiboot kernels start without firmware (--firmware none)",
    )


def _truncated(name: str, size: int, wanted: int) -> PdmError:
    return PdmError(
        _BAD,
        f"The kernel {name} is cut off: it has {size} bytes, and its header speaks of {wanted}",
        "Fetch or build it again",
    )


def _mib(size: int) -> int:
    return -(-size >> 20)


def _align_up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
