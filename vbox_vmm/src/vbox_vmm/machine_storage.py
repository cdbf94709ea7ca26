"""Drives of a machine: what hangs at the cables of its IDE controller, and the images in them.

Texts that people write: `PATH[,key=value...]`, a comma in a path written twice.  Keys of our own are
`at` (0 primary master, 1 primary slave, 2 secondary master, 3 secondary slave), `readonly` and
`snapshot`; all others are the drive's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.errors import ConfigError
from vbox_vmm import machine
from vbox_vmm.cfgm import Node
from vbox_vmm.machine import Plain, Spec

CONTROLLER = "piix3ide"
POSITIONS = ("primary master", "primary slave", "secondary master", "secondary slave")
DISK, CD, IMAGE, OVERLAY = "ata-disk", "atapi-cd", "raw-image", "overlay"
USUAL_CD = 2
"""Where a CD drive is in most PCs."""
_ON, _OFF = ("on", "yes", "true", "1"), ("off", "no", "false", "0")
_FORMATS = {b"QFI\xfb": "qcow2", b"KDMV": "VMDK", b"conectix": "VHD", b"vhdxfile": "VHDX"}
_VDI_SIGNATURE, _VDI_AT = b"\x7f\x10\xda\xbe", 64


@frozen
class Drive:
    """A drive as written.  `path` None is a CD drive with nothing in it; `at` None takes a free place."""

    kind: str
    path: Path | None
    at: int | None = None
    read_only: bool = False
    snapshot: bool = False
    config: Mapping[str, Plain] = field(factory=dict)

    def chain(self) -> list[Spec]:
        """The drivers from the top down."""
        drive = Spec(self.kind, self.config)
        if self.path is None:
            return [drive]
        read_only = self.read_only or self.snapshot or self.kind == CD
        image = Spec(IMAGE, {"path": str(self.path.absolute()), "read_only": read_only})
        return [drive, *([Spec(OVERLAY)] if self.snapshot else []), image]


def parse_disk(text: str) -> Drive:
    """`PATH[,key=value...]`.  ConfigError VERR_INVALID_PARAMETER."""
    path, given = _split(text)
    return Drive(
        DISK, Path(path), _position(given), _switch(given, "readonly"), _switch(given, "snapshot"), given
    )


def parse_cdrom(text: str) -> Drive:
    """`PATH[,key=value...]`, or `none[,key=value...]`.  ConfigError VERR_INVALID_PARAMETER."""
    path, given = _split(text)
    for name in ("readonly", "snapshot"):
        if name in given:
            raise ConfigError(
                "VERR_INVALID_PARAMETER", f"A CD is always read only: '{name}' says nothing", "Leave it out"
            )
    return Drive(CD, None if path == "none" else Path(path), _position(given), config=given)


def add_drives(tree: Node, drives: Sequence[Drive], catalogue: Catalogue | None = None) -> None:
    """Hang drives at the controller, in place of what is where they want to be.

    Disks without a place take the first that is free.  A CD without one goes into the CD drive that
    the machine has, else to the secondary master, else to the last that is free.  ConfigError
    VERR_PDM_DEVICE_NOT_FOUND, VERR_ALREADY_EXISTS, VERR_OUT_OF_RANGE, and those of the drivers."""
    if not drives:
        return
    controller = machine.instance(tree, f"{CONTROLLER}#0")
    there = {at for at in range(len(POSITIONS)) if controller.find(f"LUN#{at}") is not None}
    taken: dict[int, Drive] = {}
    for drive in drives:
        if drive.at is not None:
            _place(taken, drive.at, drive)
    for drive in drives:
        if drive.at is None and drive.kind == CD:
            _place(taken, _place_for_cd(controller, there, taken), drive)
    for drive in drives:
        if drive.at is None and drive.kind != CD:
            _place(taken, _first_free(range(len(POSITIONS)), there, taken), drive)
    for at, drive in sorted(taken.items()):
        machine.set_lun(tree, f"{CONTROLLER}#0/lun{at}", drive.chain(), catalogue)


def check_images(tree: Node) -> None:
    """Whether the images of a machine are there and can be used, before it is made.

    ConfigError, with the image's path: VERR_FILE_NOT_FOUND, VERR_IS_A_DIRECTORY, VERR_ACCESS_DENIED,
    VERR_INVALID_PARAMETER (empty, no file), VERR_NOT_SUPPORTED (a format), VERR_SHARING_VIOLATION."""
    seen: dict[tuple[int, int], tuple[str, bool]] = {}
    for where, node in _images(tree):
        path = Path(node.query_string("Config/path", default=""))
        read_only = node.query_bool("Config/read_only", default=False)
        identity = _check_image(path, read_only)
        other = seen.get(identity)
        if other is not None and not (read_only and other[1]):
            raise ConfigError(
                "VERR_SHARING_VIOLATION",
                f"{path} is in two drives, {other[0]} and {where}, and one of them writes",
                "Give each drive an image of its own, or snapshot=on to both",
            )
        seen[identity] = (where, read_only)


def _split(text: str) -> tuple[str, dict[str, Plain]]:
    path, *pairs = [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
    if not path:
        raise ConfigError("VERR_INVALID_PARAMETER", f"'{text}' names no image", "Write PATH,key=value")
    given: dict[str, Plain] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals and key in ("snapshot", "readonly"):
            value = "on"
        elif not key or not equals:
            raise ConfigError(
                "VERR_INVALID_PARAMETER",
                f"'{text}' has '{pair}', which is not key=value",
                "A comma in a path is written twice",
            )
        if key in given:
            raise ConfigError("VERR_INVALID_PARAMETER", f"'{text}' gives '{key}' twice", "Give it once")
        given[key] = value
    return path, given


def _position(given: dict[str, Plain]) -> int | None:
    text = given.pop("at", None)
    if text is None:
        return None
    if text not in ("0", "1", "2", "3"):
        places = ", ".join(f"{number} {name}" for number, name in enumerate(POSITIONS))
        raise ConfigError(
            "VERR_INVALID_PARAMETER", f"at={text!s} is no place on an IDE controller", f"There are {places}"
        )
    return int(text)


def _switch(given: dict[str, Plain], name: str) -> bool:
    text = str(given.pop(name, "off")).lower()
    if text not in _ON + _OFF:
        raise ConfigError("VERR_INVALID_PARAMETER", f"{name}={text} is neither on nor off", "Write on or off")
    return text in _ON


def _place(taken: dict[int, Drive], at: int, drive: Drive) -> None:
    if at in taken:
        raise ConfigError(
            "VERR_ALREADY_EXISTS",
            f"Two drives want to be {POSITIONS[at]} (at={at}): {_name(taken[at])} and {_name(drive)}",
            "Give one of them another place by at=0..3",
        )
    taken[at] = drive


def _name(drive: Drive) -> str:
    return str(drive.path) if drive.path is not None else "an empty CD drive"


def _place_for_cd(controller: Node, there: set[int], taken: Mapping[int, Drive]) -> int:
    for at in sorted(there - taken.keys()):
        if controller.query_string(f"LUN#{at}/Driver", default="") == CD:
            return at
    return _first_free((USUAL_CD, 3, 1, 0), there, taken)


def _first_free(places: Sequence[int], there: set[int], taken: Mapping[int, Drive]) -> int:
    for at in places:
        if at not in there and at not in taken:
            return at
    raise ConfigError(
        "VERR_OUT_OF_RANGE",
        "An IDE controller takes four drives, and the machine has them",
        "Replace one of them by at=0..3",
    )


def _images(tree: Node) -> Iterator[tuple[str, Node]]:
    """(drive, node) of all drivers that are images."""
    devices = tree.find("Devices")
    for name, kind in devices.children.items() if devices is not None else ():
        for number, instance in kind.children.items():
            for lun, top in instance.children.items():
                node: Node | None = top if lun.startswith("LUN#") else None
                while node is not None:
                    if node.query_string("Driver", default="") == IMAGE:
                        yield f"{name}#{number}/lun{lun.removeprefix('LUN#')}", node
                    node = node.find("AttachedDriver")


def _check_image(path: Path, read_only: bool) -> tuple[int, int]:
    """Raise ConfigError unless it can be used; what tells it apart from others."""
    try:
        about = path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise ConfigError(
            "VERR_FILE_NOT_FOUND" if missing else "VERR_ACCESS_DENIED",
            f"Cannot use the image {path}: {error.strerror}",
            f"Check the path; `truncate -s 8G {path.name}` makes an empty disk"
            if missing
            else "Check its folder",
        ) from None
    if stat.S_ISDIR(about.st_mode):
        raise ConfigError("VERR_IS_A_DIRECTORY", f"The image {path} is a folder", "Give the file in it")
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISBLK(about.st_mode):
        raise ConfigError(
            "VERR_INVALID_PARAMETER",
            f"The image {path} is neither a file nor a block device",
            "Give an image file, such as an ISO or a raw disk",
        )
    try:
        with path.open("rb") as file:
            head = file.read(_VDI_AT + len(_VDI_SIGNATURE))
    except OSError as error:
        raise ConfigError(
            "VERR_ACCESS_DENIED", f"Cannot read the image {path}: {error.strerror}", "Check its permissions"
        ) from None
    if not head:
        raise ConfigError(
            "VERR_INVALID_PARAMETER",
            f"The image {path} is empty",
            f"`truncate -s 8G {path.name}` makes an empty disk of it",
        )
    _check_format(path, head)
    if not read_only and not os.access(path, os.W_OK):
        raise ConfigError(
            "VERR_ACCESS_DENIED",
            f"The disk image {path} may not be written",
            "Add ,snapshot=on or ,readonly=on, or change its permissions",
        )
    return about.st_dev, about.st_ino


def _check_format(path: Path, head: bytes) -> None:
    name: str | None = next((name for magic, name in _FORMATS.items() if head.startswith(magic)), None)
    if head[_VDI_AT:].startswith(_VDI_SIGNATURE):
        name = "VDI"
    if name is not None:
        raise ConfigError(
            "VERR_NOT_SUPPORTED",
            f"{path} is a {name} image, and only raw images and ISOs are understood",
            f"Make a raw one: qemu-img convert -O raw {path.name} {path.stem}.raw",
        )
