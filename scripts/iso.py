"""ISO 9660 images: files by their names in three name spaces, and a boot image by El Torito.

Every file has its plain ISO 9660 name, which boot loaders read; its Rock Ridge name, which Linux and
GRUB read; and its Joliet name.  A boot image is started without emulation of a floppy and, as ISOLINUX
and GRUB want it, with a boot info table in its bytes 8 to 63: where on the disc the image itself lies.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pycdlib

Content = bytes | Path
"""What is in a file: these bytes, or those of a file of the host."""

CATALOGUE = "boot.cat"
LOADED_SECTORS = 4
"""Virtual sectors of 512 bytes that the BIOS loads of a boot image; it loads the rest by itself."""

PADDING = 150 * 2048
"""Bytes after the last file.  GRUB and Linux read on past the end of a file; past the end of the disc that
would be an error, and GRUB would not see the file."""


def write(target: Path, label: str, files: Mapping[str, Content], *, boot: str = "") -> None:
    """An image with these files, by their paths relative to its root.

    `boot` is the path of the one among them that the BIOS starts; the boot catalogue is laid beside it.
    Raises OSError, and ValueError when two files have the same plain name."""
    catalogue = str(PurePosixPath(boot).with_name(CATALOGUE)) if boot else ""
    plain = plain_names([*files, catalogue] if boot else files)
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=label, rock_ridge="1.09", joliet=3)
    with ExitStack() as opened:
        for folder in _folders(plain):
            image.add_directory(_plain_folder(folder), rr_name=folder.name, joliet_path=f"/{folder}")
        for path, content in files.items():
            file = opened.enter_context(_opened(content))
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            image.add_fp(file, size, plain[path], rr_name=PurePosixPath(path).name, joliet_path=f"/{path}")
        if boot:
            image.add_eltorito(
                plain[boot],
                bootcatfile=plain[catalogue],
                rr_bootcatname=CATALOGUE,
                joliet_bootcatfile=f"/{catalogue}",
                boot_load_size=LOADED_SECTORS,
                boot_info_table=True,
            )
        image.write(str(target))
        image.close()
    with target.open("ab") as file:
        file.write(bytes(PADDING))


def plain_names(paths: Iterable[str]) -> dict[str, str]:
    """path -> its path in plain ISO 9660, such as /BOOT/VMLINUZ.;1.  Raises ValueError."""
    names: dict[str, str] = {}
    for path in paths:
        pure = PurePosixPath(path)
        stem, _, extension = pure.name.rpartition(".") if "." in pure.name else (pure.name, "", "")
        folder = "" if pure.parent == PurePosixPath(".") else _plain_folder(pure.parent)
        name = f"{folder}/{_plain(stem, 27 - len(extension))}.{_plain(extension, 8)};1"
        if name in names.values():
            raise ValueError(f"{path}: another file is {name} in plain ISO 9660")
        names[path] = name
    return names


def _opened(content: Content) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _folders(paths: Iterable[str]) -> list[PurePosixPath]:
    """All folders above these paths, the outer before the inner."""
    above = {parent for path in paths for parent in PurePosixPath(path).parents}
    return sorted(above - {PurePosixPath(".")})


def _plain_folder(folder: PurePosixPath) -> str:
    return "".join(f"/{_plain(part, 31)}" for part in folder.parts)


def _plain(name: str, length: int) -> str:
    """Capital letters, digits and underscores: all that a name may have."""
    return re.sub(r"[^A-Z0-9_]", "_", name.upper())[:length]
