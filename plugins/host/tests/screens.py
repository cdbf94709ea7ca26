"""Graphics devices for the tests of screens: what they show is set by the test."""

from __future__ import annotations

from vbox_pdm import Picture, TextScreen

PALETTE = bytes.fromhex(
    "000000 0000aa 00aa00 00aaaa aa0000 aa00aa aa5500 aaaaaa"
    "555555 5555ff 55ff55 55ffff ff5555 ff55ff ffff55 ffffff"
)
"""The usual 16 colours of a PC."""


def text_screen(
    *lines: str,
    columns: int = 80,
    rows: int = 25,
    attribute: int = 0x07,
    cursor: tuple[int, int] | None = None,
    palette: bytes = PALETTE,
    blinking: bool = False,
) -> TextScreen:
    """A screen with these lines at the top, all in one attribute; blanks elsewhere."""
    text = "".join(line.ljust(columns) for line in lines).ljust(columns * rows)
    cells = bytes(byte for character in text.encode("cp437") for byte in (character, attribute))
    return TextScreen(columns, rows, cells, cursor, palette, blinking)


def picture(width: int = 4, height: int = 2) -> Picture:
    """Every pixel another colour."""
    pixels = [(x * 40 & 255, y * 90 & 255, (x + y) * 7 & 255) for y in range(height) for x in range(width)]
    return Picture(width, height, bytes(part for pixel in pixels for part in pixel))
