"""A screen for tests of graphics devices: it looks when the test says so."""

from __future__ import annotations

from vbox_pdm.display import DisplayAbove, Picture, TextScreen
from vbox_pdm.testing.fakes import Fake


class FakeDisplay(Fake):
    """The neighbour below a Display LUN."""

    above: DisplayAbove | None = None

    def __init__(self) -> None:
        self.changes = 0
        """How many times `display_changed` was said."""

    # --- what a test does

    def screen(self) -> TextScreen | None:
        """Look at the text; None in a graphics mode, while blanked, and when nothing is above."""
        if self.above is None:
            return None
        found: TextScreen | None = self.traffic(self.above.display_text)
        return found

    def text(self) -> str | None:
        """Look at the text as one string, without the blanks at the ends of lines."""
        screen = self.screen()
        return None if screen is None else screen.text()

    def picture(self) -> Picture | None:
        """Look at the pixels; None when nothing is shown, or nothing is above."""
        if self.above is None:
            return None
        found: Picture | None = self.traffic(self.above.display_picture)
        return found

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """Look at one pixel.  ValueError when there is none."""
        picture = self.picture()
        if picture is None or not (0 <= x < picture.width and 0 <= y < picture.height):
            raise ValueError(f"There is no pixel at {x}, {y}")
        red, green, blue = picture.rgb[3 * (picture.width * y + x) :][:3]
        return red, green, blue

    # --- the layer

    def display_changed(self) -> None:
        self.changes += 1
