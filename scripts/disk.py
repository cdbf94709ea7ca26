"""Images of hard disks: sector 0 with a partition table, a gap for a boot loader, and one partition with an
ext2 file system.  Made without root and without mounting anything.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

import packages
from iso import Content

SECTOR = 512
FIRST_SECTOR = 2048
"""Where the partition starts: 1 MiB, as partitioning programs have it.  Before it, from sector 1 on, is
the gap for a boot loader."""
SIGNATURE_AT, TABLE_AT, MAGIC_AT = 0x1B8, 0x1BE, 0x1FE
MAGIC = b"\x55\xaa"
ACTIVE, LINUX = 0x80, 0x83
BLOCK = 4096
"""Bytes, of the file system, as on any real disk; for small ones mke2fs by itself takes 1024."""
HEADS, SECTORS_PER_TRACK, CYLINDERS = 255, 63, 1024
"""What a BIOS makes of a disk of some GiB; the table's CHS addresses follow it, and end with it."""


def write(
    target: Path,
    size: int,
    files: Mapping[str, Content],
    *,
    boot_code: bytes = b"",
    gap: bytes = b"",
    signature: int = 0x76626F78,
) -> None:
    """A sparse image of `size` MiB whose partition holds `files`, by their paths relative to its root.

    `boot_code` goes to the start of sector 0, `gap` to sector 1 and those that follow.  Raises
    packages.Unavailable, OSError, and ValueError for what has no room."""
    sectors = (size << 20) // SECTOR
    if len(boot_code) > SIGNATURE_AT or len(gap) > (FIRST_SECTOR - 1) * SECTOR or sectors <= FIRST_SECTOR:
        raise ValueError(
            f"boot code of {len(boot_code)} bytes (at most {SIGNATURE_AT}), {len(gap)} bytes for the gap"
            f" (at most {(FIRST_SECTOR - 1) * SECTOR}), a disk of {size} MiB (at least 2)"
        )
    first = bytearray(boot_code.ljust(SECTOR, b"\0"))
    struct.pack_into("<I", first, SIGNATURE_AT, signature)
    first[TABLE_AT : TABLE_AT + 16] = _partition(FIRST_SECTOR, sectors - FIRST_SECTOR)
    first[MAGIC_AT:] = MAGIC
    with target.open("wb") as file:
        file.write(first + gap)
        file.truncate(size << 20)
    _make_file_system(target, (sectors - FIRST_SECTOR) * SECTOR, files)


def _partition(start: int, length: int) -> bytes:
    """An entry of the partition table: active, for Linux."""
    first, last = chs(start), chs(start + length - 1)
    return bytes((ACTIVE, *first, LINUX, *last)) + struct.pack("<II", start, length)


def chs(sector: int) -> tuple[int, int, int]:
    """The address of a sector as the partition table has it: head, sector with the upper bits of the
    cylinder, cylinder; the last address there is when the sector lies behind it."""
    track, in_track = divmod(sector, SECTORS_PER_TRACK)
    cylinder, head = divmod(track, HEADS)
    if cylinder >= CYLINDERS:
        cylinder, head, in_track = CYLINDERS - 1, HEADS - 1, SECTORS_PER_TRACK - 1
    return head, (in_track + 1) | cylinder >> 2 & 0xC0, cylinder & 0xFF


def _make_file_system(target: Path, size: int, files: Mapping[str, Content]) -> None:
    # ext2: GRUB 2.06 does not know all that newer versions of mke2fs switch on for ext4.
    program = packages.Program(packages.FILE_SYSTEM_TOOLS, "sbin/mke2fs")
    settings = packages.find(packages.FILE_SYSTEM_TOOLS, "etc/mke2fs.conf")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        for path, content in files.items():
            copy = Path(scratch) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                copy.write_bytes(content)
            else:
                shutil.copyfile(content, copy)
        Path(scratch).chmod(0o755)
        program.run(
            *("-q", "-F", "-t", "ext2", "-b", str(BLOCK), "-L", "guest", "-d", scratch),
            *("-E", f"offset={FIRST_SECTOR * SECTOR},root_owner=0:0", target, f"{size >> 10}k"),
            environment={"MKE2FS_CONFIG": str(settings)},
        )
