"""What the conformance kit cannot guess of drives and images: files, and values of keys that are text."""

from __future__ import annotations

from pathlib import Path

from vbox_pdm.testing.conformance import Setup

_NAMES = {
    "serial_number": ("", "twenty characters fit", "S/N 1"),
    "firmware_revision": ("", "123456789", "12345678"),
    "model_number": ("", "\u20ac", "x" * 41, "x" * 40),
}
_WRONG_NAMES = (
    {"serial_number": "x" * 21},
    {"firmware_revision": "123456789"},
    {"model_number": "x" * 41},
    {"model_number": "\u20ac"},
)


def disk() -> Setup:
    """Strings that fit and others; geometries that are given in part."""
    parts = ({"cylinders": 9}, {"heads": 4, "sectors": 9}, {"lchs_cylinders": 9}, {"lchs_sectors": 9})
    return Setup(keys=_NAMES, refused=(*_WRONG_NAMES, *parts))


def cd() -> Setup:
    """The same, and those of INQUIRY."""
    inquiry = {
        "vendor_id": ("", "VENDORS 9", "VENDOR 8"),
        "product_id": ("", "\x7f", "x" * 17, "x" * 16),
        "revision": ("", "12345", "1234"),
    }
    wrong = ({"vendor_id": "VENDORS 9"}, {"product_id": "\x7f"}, {"revision": "12345"})
    return Setup(keys={**_NAMES, **inquiry}, refused=(*_WRONG_NAMES, *wrong))


def image(folder: Path) -> Setup:
    """An image, one whose last sector is not whole, and what is none."""
    even, odd = folder / "image.img", folder / "odd.img"
    even.write_bytes(bytes(range(256)) * 1024)
    odd.write_bytes(bytes(range(251)) * 1000)
    wrong = (str(folder), str(folder / "missing.img"), "")
    return Setup({"path": str(even)}, keys={"path": (str(odd),)}, refused=[{"path": path} for path in wrong])


def overlay(folder: Path) -> Setup:
    """Folders, and what is none."""
    file = folder / "file"
    file.write_bytes(b"")
    wrong = (str(folder / "missing"), str(file))
    return Setup(
        {"folder": str(folder)},
        keys={"folder": (str(folder), "")},
        refused=[{"folder": path} for path in wrong],
    )
