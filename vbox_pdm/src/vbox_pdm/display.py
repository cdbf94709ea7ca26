"""Displays: what a graphics device shows, and whoever looks at it.

The screen below looks when it wants to; the device says once that there is something new to see.
"""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from vbox_pdm.layers import End, Layer

CP437 = (
    "\u0020\u263a\u263b\u2665\u2666\u2663\u2660\u2022\u25d8\u25cb\u25d9\u2642\u2640\u266a\u266b\u263c"
    "\u25ba\u25c4\u2195\u203c\u00b6\u00a7\u25ac\u21a8\u2191\u2193\u2192\u2190\u221f\u2194\u25b2\u25bc"
    + bytes(range(32, 127)).decode("ascii")
    + "\u2302"
    + bytes(range(128, 255)).decode("cp437")
    + "\u00a0"
)
"""What the character generator of a PC shows for each code, as Unicode."""


@frozen
class TextScreen:
    """A screen in a text mode.

    `cells` has two bytes for each character, row by row: its code and its attribute, as the guest
    wrote them.  `cursor` is (column, row), None when it is off or outside.  `palette` has the 16
    colours of the attribute controller as RGB bytes.  `blinking`: bit 7 of an attribute blinks
    instead of selecting a bright background."""

    columns: int
    rows: int
    cells: bytes
    cursor: tuple[int, int] | None
    palette: bytes
    blinking: bool

    def lines(self) -> list[str]:
        """The characters, a string for each row, blanks at its end included."""
        codes, width = self.cells[::2], self.columns
        return [
            "".join(CP437[c] for c in codes[at : at + width]) for at in range(0, width * self.rows, width)
        ]

    def text(self) -> str:
        """All rows, blanks at their ends removed, joined by newlines."""
        return "\n".join(line.rstrip() for line in self.lines())


@frozen
class Picture:
    """A screen as pixels: `rgb` has three bytes for each, row by row from the top left."""

    width: int
    height: int
    rgb: bytes


class DisplayBelow(End, Protocol):
    """A screen, as the graphics device calls it."""

    def display_changed(self) -> None:
        """What there is to see may have changed since somebody last looked (`display_text`,
        `display_picture`).  Not said again before somebody looks."""


class DisplayAbove(End, Protocol):
    """A graphics device, as the screen calls it."""

    def display_text(self) -> TextScreen | None:
        """The screen as text; None in a graphics mode and while the screen is blanked."""
        return None

    def display_picture(self) -> Picture | None:
        """The screen as pixels; None when the device shows nothing at all (no mode is set)."""
        return None


Display = Layer("Display", DisplayBelow, DisplayAbove)  # type: ignore[type-abstract]
