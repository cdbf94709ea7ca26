"""Frames in a terminal, read back from a terminal emulator."""

from __future__ import annotations

import pytest
import screens
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import TextScreen
from vbox_plugin_host.terminal_render import (
    ENTER,
    Painter,
    Size,
    nearest,
    note_frame,
    picture_frame,
    text_frame,
)

pyte = pytest.importorskip("pyte")

NAMES = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")
"""Of a terminal's first eight colours, as pyte has them."""


class Terminal:
    """A terminal of a size, and the painter that believes to know what it shows."""

    def __init__(self, columns: int = 80, rows: int = 30, true_colour: bool = True) -> None:
        self.size = Size(columns, rows)
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.painter = Painter(true_colour)
        self.stream.feed(ENTER)

    def show(self, frame: object) -> bytes:
        sent = self.painter.paint(frame, self.size)  # type: ignore[arg-type]
        self.stream.feed(sent)
        return sent

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def cell(self, column: int, row: int) -> tuple[str, str, str]:
        found = self.screen.buffer[row][column]
        return found.data, found.fg, found.bg


def test_text_stands_where_the_guest_put_it_in_its_colours() -> None:
    terminal = Terminal()

    terminal.show(text_frame(screens.text_screen("Hello", "", "  \u2592\u2588 \u00e4", attribute=0x1E)))

    assert terminal.lines[:4] == ["Hello", "", "  \u2592\u2588 \u00e4", ""]
    assert terminal.cell(0, 0) == ("H", "ffff55", "0000aa")
    assert terminal.cell(79, 24) == (" ", "ffff55", "0000aa")
    assert terminal.screen.cursor.hidden


def test_cursor_is_the_guests() -> None:
    terminal = Terminal()

    terminal.show(text_frame(screens.text_screen("abc", cursor=(3, 0))))

    assert (terminal.screen.cursor.x, terminal.screen.cursor.y, terminal.screen.cursor.hidden) == (
        3,
        0,
        False,
    )
    terminal.show(text_frame(screens.text_screen("abc")))
    assert terminal.screen.cursor.hidden


def test_only_cells_that_changed_are_sent() -> None:
    terminal = Terminal()
    full = terminal.show(text_frame(screens.text_screen(*["x" * 80] * 25)))

    one = terminal.show(text_frame(screens.text_screen("x" * 40 + "y", *["x" * 80] * 24)))
    none = terminal.show(text_frame(screens.text_screen("x" * 40 + "y", *["x" * 80] * 24)))

    assert len(full) > 2000
    assert len(none) < 10
    assert one.count(b"y") == 1
    assert terminal.lines[0] == "x" * 40 + "y"


def test_sixteen_colours_are_the_nearest() -> None:
    terminal = Terminal(true_colour=False)

    terminal.show(text_frame(screens.text_screen("a", attribute=0x4E)))

    assert terminal.cell(0, 0) == ("a", "brightbrown", "red")
    order = [nearest((p[0], p[1], p[2])) for p in (screens.PALETTE[at : at + 3] for at in range(0, 48, 3))]
    assert order == [0, 4, 2, 6, 1, 5, 3, 7, 8, 12, 10, 14, 9, 13, 11, 15]


def test_bit_seven_blinks_or_brightens() -> None:
    blinking, bright = Terminal(), Terminal()

    sent = blinking.show(text_frame(screens.text_screen("a", attribute=0xC7, blinking=True)))
    bright.show(text_frame(screens.text_screen("a", attribute=0xC7)))

    assert b"\x1b[0;5;" in sent
    assert blinking.cell(0, 0)[2] == "aa0000"
    assert bright.cell(0, 0)[2] == "ff5555"


def test_small_terminal_shows_the_part_around_the_cursor_and_says_so() -> None:
    terminal = Terminal(60, 10)
    lines = [f"line {row:02}" for row in range(25)]

    terminal.show(text_frame(screens.text_screen(*lines, cursor=(5, 20))))

    assert terminal.lines[:9] == lines[12:21]
    assert "80x25 text" in terminal.lines[9]
    assert (terminal.screen.cursor.x, terminal.screen.cursor.y) == (5, 8)
    terminal.show(text_frame(screens.text_screen(*lines, cursor=(5, 0))))
    assert terminal.lines[:9] == lines[:9]


def test_terminal_that_was_resized_is_drawn_anew() -> None:
    terminal = Terminal(40, 10)
    frame = text_frame(screens.text_screen("abc"))
    terminal.show(frame)

    terminal.size = Size(80, 30)
    terminal.screen.resize(30, 80)
    terminal.show(frame)

    assert terminal.lines[0] == "abc"
    assert not any(terminal.lines[1:])


def test_picture_is_two_pixels_in_a_cell() -> None:
    terminal = Terminal(20, 10)

    terminal.show(picture_frame(screens.picture(4, 2), Size(20, 9)))

    pixels = screens.picture(4, 2).rgb.hex()
    assert terminal.cell(1, 0) == ("\u2580", pixels[6:12], pixels[24 + 6 : 24 + 12])
    assert terminal.lines[9] == "[4x2 graphics]"


def test_large_picture_fits_in_proportion() -> None:
    frame = picture_frame(screens.picture(640, 480), Size(80, 24))

    assert (frame.size.columns, frame.size.rows) == (64, 24)


def test_note_takes_the_last_line() -> None:
    terminal = Terminal(40, 5)

    terminal.show(note_frame("[the screen is off]"))

    assert terminal.lines == ["", "", "", "", "[the screen is off]"]


ROWS = st.lists(st.text(st.sampled_from("ab \u2592\u00e9\u2192"), max_size=12), max_size=6)
CURSORS = st.none() | st.tuples(st.integers(0, 11), st.integers(0, 5))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(ROWS, st.integers(0, 255), CURSORS), min_size=1, max_size=4),
    st.integers(3, 16),
    st.integers(2, 9),
)  # fmt: skip
def test_any_sequence_of_screens_ends_as_the_last_one_drawn_alone(
    shown: list[tuple[list[str], int, tuple[int, int] | None]], columns: int, rows: int
) -> None:
    def screen(lines: list[str], attribute: int, cursor: tuple[int, int] | None) -> TextScreen:
        text = "".join(line.ljust(12) for line in lines).ljust(72)
        cells = b"".join(bytes((_code(character), attribute)) for character in text)
        return TextScreen(12, 6, cells, cursor, screens.PALETTE, False)

    step_by_step, alone = Terminal(columns, rows), Terminal(columns, rows)
    for item in shown:
        step_by_step.show(text_frame(screen(*item)))
    alone.show(text_frame(screen(*shown[-1])))

    assert step_by_step.screen.display == alone.screen.display
    for row in range(rows):
        for column in range(columns):
            assert step_by_step.cell(column, row) == alone.cell(column, row)
    assert step_by_step.screen.cursor.hidden == alone.screen.cursor.hidden


def _code(character: str) -> int:
    return 0x1A if character == "\u2192" else character.encode("cp437")[0]


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=24, max_size=24), st.binary(min_size=48, max_size=48), st.booleans())
def test_no_screen_sends_control_characters_but_our_own(cells: bytes, palette: bytes, true: bool) -> None:
    sent = Painter(true).paint(text_frame(TextScreen(4, 3, cells, None, palette, True)), Size(10, 5)).decode()

    for part in sent.split("\x1b[")[1:]:
        assert all(character >= " " and character != "\x7f" for character in part)
    assert not sent.split("\x1b[")[0]
