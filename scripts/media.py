"""What whole machines start from: CDs with ISOLINUX and with GRUB, a disk with GRUB, memtest86+, and
Debian's installer.

Each is built in the cache the first time, from files of Debian's packages, and again when what it is
made of has changed:

    media/NAME-DIGEST.iso, .img

They are shared between everyone who tests: write to a copy, or through an overlay that is thrown away.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import disk
import grub
import iso
import packages
from iso import Content

RECIPES = ("media.py", "iso.py", "grub.py", "disk.py")
"""The files of this folder that say how media are made; they count among what media are made of."""
GRUB_FOLDER = "/boot/grub"
INSTALLER_APPEND = "vga=normal fb=false nomodeset"
CHUNK = 1 << 20

ISOLINUX_CFG = """\
DEFAULT linux
PROMPT 0
TIMEOUT 0
LABEL linux
  KERNEL /boot/vmlinuz
  INITRD /boot/initrd.img
  APPEND {append}
"""


def isolinux_cd(
    kernel: Path,
    initrd: Path,
    append: str,
    *,
    extra: Mapping[str, Content] | None = None,
    name: str = "isolinux",
) -> Path:
    """A CD on which ISOLINUX starts a kernel without asking; `extra` are more files to put on it.

    `name` begins the file's name and is the disc's label.  Raises packages.Unavailable."""
    files = {
        "isolinux/isolinux.bin": packages.find(packages.ISOLINUX, "usr/lib/ISOLINUX/isolinux.bin"),
        "isolinux/ldlinux.c32": packages.find(packages.SYSLINUX, "usr/lib/syslinux/modules/bios/ldlinux.c32"),
        "isolinux/isolinux.cfg": ISOLINUX_CFG.format(append=append).encode(),
        "boot/vmlinuz": kernel,
        "boot/initrd.img": initrd,
        **(extra or {}),
    }

    def make(target: Path) -> None:
        iso.write(target, name.upper(), files, boot="isolinux/isolinux.bin")

    return kept(name, ".iso", files, make)


def grub_cd(
    kernel: Path,
    initrd: Path,
    append: str,
    *,
    extra: Mapping[str, Content] | None = None,
    interactive: bool = False,
) -> Path:
    """A CD on which GRUB starts a kernel without asking, or, `interactive`, from a menu that waits.

    `extra` are more files to put on it.  Raises packages.Unavailable."""
    files = {
        "boot/grub/eltorito.img": grub.core_image(grub.CD_FORMAT, f"(cd){GRUB_FOLDER}", ("iso9660",)),
        **_for_grub(kernel, initrd, append, timeout=-1 if interactive else 0),
        **(extra or {}),
    }

    def make(target: Path) -> None:
        iso.write(target, "GRUB", files, boot="boot/grub/eltorito.img")

    return kept("grub", ".iso", files, make)


def grub_disk(
    kernel: Path, initrd: Path, append: str, *, size: int = 64, extra: Mapping[str, Content] | None = None
) -> Path:
    """A raw disk of `size` MiB on whose first partition, ext2, GRUB starts a kernel without asking.

    Raises packages.Unavailable; also when the files do not fit."""
    core = grub.core_image(grub.DISK_FORMAT, f"(hd0,msdos1){GRUB_FOLDER}", ("part_msdos", "ext2"))
    code, gap = grub.boot_code(1), grub.embedded(core, 1)
    files = {**_for_grub(kernel, initrd, append), **(extra or {})}

    def make(target: Path) -> None:
        disk.write(target, size, files, boot_code=code, gap=gap)

    return kept("disk", ".img", {**files, " code": code, " gap": gap, " size": str(size).encode()}, make)


def memtest_cd(kind: str = "x64") -> Path:
    """The CD of memtest86+ as Debian ships it, `kind` x64 or ia32.  Raises packages.Unavailable."""
    return packages.find(packages.MEMTEST, f"usr/lib/memtest86+/memtest86+{kind}.iso")


def installer_cd(append: str = INSTALLER_APPEND) -> Path:
    """A CD on which ISOLINUX starts Debian's installer for i386, on the text screen.

    Raises packages.Unavailable."""
    folder = packages.find(packages.INSTALLER, "usr/lib/debian-installer/images/*/i386/text")
    images = folder / "debian-installer/i386"
    return isolinux_cd(images / "linux", images / "initrd.gz", append, name="installer")


def random_file(size: int, seed: int = 0) -> Path:
    """A file of `size` bytes that do not repeat, the same ones for the same seed: to compare checksums."""

    def make(target: Path) -> None:
        source = random.Random(seed)
        with target.open("wb") as file:
            for start in range(0, size, CHUNK):
                file.write(source.randbytes(min(CHUNK, size - start)))

    return kept(f"random-{size}-{seed}", ".bin", {}, make)


def _for_grub(kernel: Path, initrd: Path, append: str, timeout: int = 0) -> dict[str, Content]:
    """What GRUB starts, and the configuration that says so."""
    return {
        "boot/grub/grub.cfg": grub.config("/boot/vmlinuz", "/boot/initrd.img", append, timeout),
        "boot/vmlinuz": kernel,
        "boot/initrd.img": initrd,
    }


def kept(name: str, suffix: str, inputs: Mapping[str, Content], make: Callable[[Path], None]) -> Path:
    """The file in the cache that `make` writes, made when there is none of these inputs yet."""
    digest = hashlib.sha256()
    recipes = {recipe: Path(__file__).with_name(recipe) for recipe in RECIPES}
    for key, content in sorted({**recipes, **inputs}.items()):
        data = content if isinstance(content, bytes) else content.read_bytes()
        digest.update(f"{key}\0{len(data)}\0".encode() + data)
    folder = packages.cache_folder() / "media"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{digest.hexdigest()[:16]}{suffix}"
    if not path.is_file():
        fresh = folder / f".{path.name}.{os.getpid()}"
        try:
            make(fresh)
            fresh.rename(path)
        finally:
            fresh.unlink(missing_ok=True)
    return path
