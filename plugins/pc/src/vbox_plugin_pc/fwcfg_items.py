"""Items of the firmware configuration device: their numbers, and how their bytes are made.

Item numbers and layouts are those of QEMU's docs/specs/fw_cfg.rst.  Numbers below 20h are fixed, files
follow from 20h on in the order of the directory, and 8000h and up belong to x86.  Integers are
little-endian, except in the directory, which is big-endian.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from vbox_pdm import ConfigError

Content = bytes | memoryview
"""What an item holds; large ones are views of the file that they come from."""

SIGNATURE, ID, UUID, RAM_SIZE, NOGRAPHIC, CPUS, MACHINE_ID = range(0x00, 0x07)
KERNEL_ADDRESS, KERNEL_SIZE, KERNEL_CMDLINE, INITRD_ADDRESS, INITRD_SIZE = range(0x07, 0x0C)
BOOT_DEVICE, NUMA, BOOT_MENU, MAX_CPUS = range(0x0C, 0x10)
KERNEL_ENTRY, KERNEL_DATA, INITRD_DATA = range(0x10, 0x13)
CMDLINE_ADDRESS, CMDLINE_SIZE, CMDLINE_DATA = range(0x13, 0x16)
SETUP_ADDRESS, SETUP_SIZE, SETUP_DATA, FILE_DIR = range(0x16, 0x1A)
FIRST_FILE: Final = 0x20
ARCHITECTURE: Final = 0x8000
ACPI_TABLES, SMBIOS, IRQ0_OVERRIDE, E820, HPET = range(ARCHITECTURE, ARCHITECTURE + 5)
NAMES = {number: name for name, number in list(globals().items()) if isinstance(number, int)}
"""The names above, by number: for tracers."""

VERSION_PORTS, VERSION_DMA = 1, 2
LONGEST_NAME: Final = 55
MOST_FILES: Final = ARCHITECTURE // 2 - FIRST_FILE
"""Numbers from 4000h to 7FFFh cannot be selected: bit 14 once meant something else."""
E820_RAM, E820_RESERVED = 1, 2
GIB4: Final = 4 << 30


def u16(value: int) -> bytes:
    return struct.pack("<H", value & 0xFFFF)


def u32(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def e820(ram_size: int, ram_below_4g: int) -> bytes:
    """The file etc/e820: RAM below and above the hole under 4 GiB.  What firmware itself takes it
    reserves itself.  Sizes in bytes."""
    entries = struct.pack("<QQI", 0, ram_below_4g, E820_RAM)
    if ram_size > ram_below_4g:
        entries += struct.pack("<QQI", GIB4, ram_size - ram_below_4g, E820_RAM)
    return entries


def machine_items(
    *, ram_size: int, cpus: int, identity: str, boot_menu: bool, where: str
) -> dict[int, Content]:
    """The items that describe the machine.  `identity` is a UUID in text; ConfigError when it is none."""
    try:
        machine_uuid = uuid.UUID(identity)
    except ValueError:
        raise ConfigError(
            "VERR_CFGM_NOT_STRING",
            f"Configuration value '/uuid' of {where} is {identity!r}, which is no UUID",
            "Write it as 8-4-4-4-12 hexadecimal digits",
        ) from None
    return {
        SIGNATURE: b"QEMU",
        ID: u32(VERSION_PORTS | VERSION_DMA),
        UUID: machine_uuid.bytes,
        RAM_SIZE: u64(ram_size),
        NOGRAPHIC: u16(0),
        CPUS: u16(cpus),
        MACHINE_ID: u32(0),
        BOOT_DEVICE: u16(0),  # the order is in CMOS and in the file "bootorder"
        NUMA: u64(0) + bytes(8 * cpus),  # no nodes; the node of each CPU
        BOOT_MENU: u16(boot_menu),
        MAX_CPUS: u16(cpus),
        ACPI_TABLES: u16(0),
        SMBIOS: u16(0),
        IRQ0_OVERRIDE: u32(1),
        E820: u32(0),  # reservations only, and there are none; RAM is in the file
        HPET: b"\x00",
    }


def directory(files: Mapping[str, Content]) -> dict[int, Content]:
    """Items for `files` and for their directory, sorted by name.  ConfigError for an impossible name."""
    if len(files) > MOST_FILES:
        raise ConfigError("VERR_OUT_OF_RANGE", f"{len(files)} firmware files are too many")
    items: dict[int, Content] = {}
    listing = bytearray(struct.pack(">I", len(files)))
    for number, name in enumerate(sorted(files), FIRST_FILE):
        check_name(name)
        items[number] = files[name]
        listing += struct.pack(">IHH56s", len(files[name]), number, 0, name.encode())
    items[FILE_DIR] = bytes(listing)
    return items


def check_name(name: str) -> None:
    """ConfigError unless a file of the directory can have this name."""
    if not 0 < len(name) <= LONGEST_NAME or not name.isascii() or not name.isprintable() or " " in name:
        raise ConfigError(
            "VERR_INVALID_NAME",
            f"{name!r} is no name for a firmware file",
            f"Names have 1 to {LONGEST_NAME} letters without spaces, such as opt/org.example/data",
        )


def split_pairs(text: str, key: str, where: str) -> Sequence[tuple[str, str]]:
    """`name=value;name=value` in pairs.  ConfigError where a piece has no '=' or no value."""
    pairs = []
    for piece in text.split(";"):
        if not piece.strip():
            continue
        name, sign, value = piece.strip().partition("=")
        if not sign or not value:
            raise ConfigError(
                "VERR_PARSE_ERROR",
                f"Configuration value '/{key}' of {where} has the piece {piece.strip()!r}",
                "Write NAME=VALUE, with ';' between several",
            )
        pairs.append((name, value))
    return pairs
