"""Files of the host that a machine's configuration names: firmware, option ROMs, kernels.

A name without a folder is looked for, in this order, in the folders of the CFGM value /Firmware/Path
(separated by ":"), in those of the environment variable VBOX_FIRMWARE_PATH, and where Debian's
packages put firmware.
"""

from __future__ import annotations

import os
from pathlib import Path

from vbox_pdm.errors import PdmError
from vbox_vmm.cfgm import Node

VARIABLE = "VBOX_FIRMWARE_PATH"
DEBIAN = ("/usr/share/seabios", "/usr/share/qemu", "/usr/share/vgabios")
"""Package seabios puts the BIOS and the VGA BIOSes into the first."""


def search_path(tree: Node) -> list[Path]:
    """The folders in which a name without a folder is looked for."""
    configured = tree.query_string("Firmware/Path", default="")
    texts = [*configured.split(":"), *os.environ.get(VARIABLE, "").split(":"), *DEBIAN]
    return [Path(text) for text in texts if text]


def find(tree: Node, name: str) -> Path:
    """The file that a configuration names.  PdmError VERR_FILE_NOT_FOUND."""
    path = Path(name)
    if path.is_absolute() or path.parent != Path():
        if path.exists():
            return path
        raise PdmError("VERR_FILE_NOT_FOUND", f"There is no file {path}", "Check the path")
    folders = search_path(tree)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise PdmError(
        "VERR_FILE_NOT_FOUND",
        f"'{name}' is in none of {', '.join(str(folder) for folder in folders)}",
        f"Install it (Debian: apt-get install seabios), name its folder with --bios or in {VARIABLE}, "
        "or boot a kernel without firmware: --firmware none",
    )


def read(tree: Node, name: str, most: int) -> bytes:
    """Its content.  PdmError VERR_FILE_NOT_FOUND, VERR_ACCESS_DENIED, VERR_FILE_TOO_BIG."""
    path = find(tree, name)
    try:
        if path.is_dir():
            raise PdmError("VERR_IS_A_DIRECTORY", f"{path} is a folder", "Name a file in it")
        size = path.stat().st_size
        if size > most:
            raise PdmError(
                "VERR_FILE_TOO_BIG",
                f"{path} has {size} bytes, more than the {most} that fit",
                "Name the right file",
            )
        return path.read_bytes()
    except OSError as error:
        raise PdmError(
            "VERR_ACCESS_DENIED", f"Cannot read {path}: {error.strerror}", "Check its permissions"
        ) from None
