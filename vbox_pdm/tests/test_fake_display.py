"""The screen for tests of graphics devices."""

from __future__ import annotations

import pytest

from vbox_pdm import Device, Display, Picture, TextScreen
from vbox_pdm.testing import Bench
from vbox_pdm.testing.fake_display import FakeDisplay


class Card(Device[None]):
    """Shows four letters and two pixels, or nothing."""

    def pdm_construct(self) -> None:
        self.screen = self.helpers.lun(0, Display, "screen")
        self.on = True

    def display_text(self) -> TextScreen | None:
        return TextScreen(2, 2, b"a\7b\7c\7 \7", None, bytes(48), True) if self.on else None

    def display_picture(self) -> Picture | None:
        return Picture(2, 1, b"\1\2\3\4\5\6") if self.on else None


def test_fake_display_looks_and_counts() -> None:
    screen = FakeDisplay()
    card = Bench().add(Card, lun0=screen)
    assert screen.changes == 0
    card.screen.display_changed()
    card.screen.display_changed()
    assert screen.changes == 2
    assert screen.text() == "ab\nc"
    assert screen.pixel(1, 0) == (4, 5, 6)
    assert screen.picture() == Picture(2, 1, b"\1\2\3\4\5\6")


@pytest.mark.parametrize(("x", "y"), [(2, 0), (0, 1), (-1, 0)])
def test_fake_display_pixel_outside_is_an_error(x: int, y: int) -> None:
    screen = FakeDisplay()
    Bench().add(Card, lun0=screen)
    with pytest.raises(ValueError, match="no pixel"):
        screen.pixel(x, y)


def test_fake_display_sees_nothing_when_nothing_is_shown_or_nobody_is_above() -> None:
    alone = FakeDisplay()
    assert (alone.screen(), alone.text(), alone.picture()) == (None, None, None)
    screen = FakeDisplay()
    Bench().add(Card, lun0=screen).on = False
    assert (screen.screen(), screen.text(), screen.picture()) == (None, None, None)
