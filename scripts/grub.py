"""GRUB for the BIOS: its core image, and how it gets on a CD and on a disk.

From power-on to the menu on a disk: the BIOS loads sector 0, boot.img; that loads one sector, the first of
the core image, which is diskboot.img; that loads the rest by the block lists at its end.  On a CD the BIOS
loads cdboot.img, which finds the rest by its boot info table.  What grub-bios-setup patches, it patches at
these offsets (grub-core/boot/i386/pc/boot.S and diskboot.S).
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import packages

SECTOR = 512
DISK_FORMAT, CD_FORMAT = "i386-pc", "i386-pc-eltorito"
MODULES = ("normal", "linux", "boot", "terminal", "biosdisk")
"""In every core image: grub.cfg, the command linux, and disks by the BIOS."""

BOOT_CODE_SIZE = 0x1B8
"""Bytes of sector 0 before the disk's signature and the partition table."""
BOOT_PARAMETERS = slice(0x03, 0x5A)
"""Where file systems that start at sector 0 keep their parameters; on a partitioned disk zeros."""
CORE_SECTOR_AT = 0x5C
"""Sector of the core image, 8 bytes."""
BOOT_DRIVE_AT = 0x64
ANY_DRIVE = 0xFF
"""The drive that the BIOS says; its number is in DL."""
DRIVE_CHECK_AT = 0x66
NO_CHECK = b"\x90\x90"
"""Two NOPs for a jump over the code that mistrusts DL: with them, a BIOS's drive number below 80h is
replaced by 80h, which on a hard disk is right."""

BLOCK_LIST = struct.Struct("<QHH")
"""First sector, number of sectors, segment to load them at.  The lists end with one of no sectors, and
go down in memory from the end of diskboot.img."""
REST_SEGMENT = 0x820
"""Where the second sector of the core image goes: it starts at 8000h."""


def config(kernel: str, initrd: str, append: str, timeout: int = 0) -> bytes:
    """A grub.cfg that starts Linux after `timeout` seconds, and stays with the text screen.

    0: at once, without a menu; -1: the menu waits for a key."""
    return f"""\
terminal_output console
set gfxpayload=text
set timeout={timeout}
menuentry "Linux" {{
    linux {kernel} {append}
    initrd {initrd}
}}
""".encode()


def core_image(image_format: str, prefix: str, modules: Sequence[str]) -> bytes:
    """A core image with MODULES and `modules` that looks for grub.cfg in the folder `prefix`.

    Raises packages.Unavailable."""
    program = packages.Program(packages.GRUB_TOOLS, "bin/grub-mkimage")
    folder = packages.find(packages.GRUB, "usr/lib/grub/i386-pc")
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "core.img"
        program.run(*("-O", image_format, "-d", folder, "-p", prefix, "-o", output), *(*MODULES, *modules))
        return output.read_bytes()


def boot_code(core_sector: int) -> bytes:
    """boot.img for a hard disk, BOOT_CODE_SIZE bytes, that goes on at this sector.

    Raises packages.Unavailable."""
    image = bytearray(packages.find(packages.GRUB, "usr/lib/grub/i386-pc/boot.img").read_bytes())
    if len(image) != SECTOR:
        raise packages.Unavailable(f"boot.img of {packages.GRUB} has {len(image)} bytes and not {SECTOR}")
    image[BOOT_PARAMETERS] = bytes(BOOT_PARAMETERS.stop - BOOT_PARAMETERS.start)
    struct.pack_into("<Q", image, CORE_SECTOR_AT, core_sector)
    image[BOOT_DRIVE_AT] = ANY_DRIVE
    image[DRIVE_CHECK_AT : DRIVE_CHECK_AT + 2] = NO_CHECK
    return bytes(image[:BOOT_CODE_SIZE])


def embedded(core: bytes, core_sector: int) -> bytes:
    """The core image for a place of sectors in a row, from `core_sector` on; a whole number of sectors."""
    padded = bytearray(core + bytes(-len(core) % SECTOR))
    rest = len(padded) // SECTOR - 1
    first_list = SECTOR - BLOCK_LIST.size
    BLOCK_LIST.pack_into(padded, first_list, core_sector + 1, rest, REST_SEGMENT)
    BLOCK_LIST.pack_into(padded, first_list - BLOCK_LIST.size, 0, 0, 0)
    return bytes(padded)
