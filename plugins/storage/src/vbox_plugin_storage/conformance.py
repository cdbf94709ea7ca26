"""What the conformance kit cannot guess of drives and images: files, and values of keys that are text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vbox_pdm.testing.conformance import Setup

_NAMES = {
    "serial_number": ("", "twenty characters fit", "S/N 1"),
    "firmware_revision": ("", "123456789", "12345678"),
    "model_number": ("", "\u20ac", "x" * 41, "x" * 40),
}
_BAD_NAMES = (
    {"serial_number": "a" * 21},
    {"firmware_revision": "123456789"},
    {"model_number": "\u20ac"},
    {"model_number": "x" * 41},
)


def disk() -> Setup:
    """Strings that fit and others; geometries that are whole and others."""
    return Setup(
        keys=_NAMES,
        configs=(
            {"cylinders": 16, "heads": 4, "sectors": 8},
            {"lchs_cylinders": 2, "lchs_heads": 16, "lchs_sectors": 16},
        ),
        refuses=(*_BAD_NAMES, {"cylinders": 16}, {"cylinders": 16, "heads": 4}, {"lchs_sectors": 63}),
    )


def cd() -> Setup:
    """The same, and those of INQUIRY."""
    inquiry = {
        "vendor_id": ("", "VENDORS 9", "VENDOR 8"),
        "product_id": ("", "\x7f", "x" * 17, "x" * 16),
        "revision": ("", "12345", "1234"),
    }
    bad = ({"vendor_id": "VENDORS 9"}, {"product_id": "\x7f"}, {"revision": "12345"})
    return Setup(
        keys={**_NAMES, **inquiry},
        refuses=(*_BAD_NAMES, *bad),
        invariants={"the disc is locked in while the guest wants it so": _wrong_lock},
    )


def _wrong_lock(drive: Any, bench: Any) -> str | None:
    tray = bench.link(drive, 0).lower
    if tray is None or tray.locked == drive.unit.locked:
        return None
    return f"the unit has {drive.unit.locked}, the tray {tray.locked}"


def image(folder: Path) -> Setup:
    """An image, one whose last sector is not whole, and what is none."""
    even, odd = folder / "image.img", folder / "odd.img"
    even.write_bytes(bytes(range(256)) * 1024)
    odd.write_bytes(bytes(range(251)) * 1000)
    return Setup(
        {"path": str(even)},
        keys={"path": (str(odd), "")},
        refuses=({"path": str(folder)}, {"path": str(folder / "missing.img")}),
    )


def overlay(folder: Path) -> Setup:
    """Folders, and what is none."""
    file = folder / "file"
    file.write_bytes(b"")
    return Setup(
        {"folder": str(folder)},
        keys={"folder": (str(folder), "")},
        refuses=({"folder": str(folder / "missing")}, {"folder": str(file)}),
    )
