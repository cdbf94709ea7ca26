"""What the screen shows: text, pixels of each kind of mode, and when it is told to look."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from vga_card import Card, colour

from vbox_pdm import TextScreen
from vbox_pdm.testing import Bench
from vbox_pdm.testing.fake_display import FakeDisplay

H = bytes([0b10000001] * 7 + [0b11111111] + [0b10000001] * 8)
BLOCK = b"\xff" * 16
# What mode 3 makes of the 16 colours: entries of the DAC.
MODE3_ENTRIES = (0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F)


def text_card(mode: int = 3) -> Card:
    card = Card()
    card.set_mode(mode)
    card.load_font({ord("H"): H, 0xDB: BLOCK, 0xC4: BLOCK, ord("B"): BLOCK, ord(" "): bytes(16)})
    return card


def screen_of(card: Card) -> TextScreen:
    screen = card.screen.screen()
    assert screen is not None
    return screen


# --- text


def test_text_hello_is_read_with_attributes_and_palette() -> None:
    card = text_card()
    card.type(0, 0, "Hello", 0x1F)
    card.type(75, 24, "end", 0x07)
    screen = screen_of(card)
    assert (screen.columns, screen.rows) == (80, 25)
    assert screen.cells[:10] == b"H\x1fe\x1fl\x1fl\x1fo\x1f"
    assert screen.lines()[0].startswith("Hello")
    assert screen.lines()[24][75:] == "end\u0020\u0020"
    assert screen.palette == b"".join(bytes(colour(entry)) for entry in MODE3_ENTRIES)
    assert screen.blinking


def test_text_pixels_of_a_character_are_those_of_the_font() -> None:
    card = text_card()
    card.cr(0x0A, 0x20)
    card.type(1, 1, "H", 0x1E)
    picture = card.screen.picture()
    assert picture is not None
    assert (picture.width, picture.height) == (720, 400)
    front, back = colour(MODE3_ENTRIES[14]), colour(MODE3_ENTRIES[1])
    for row in range(16):
        for dot in range(9):
            lit = dot < 8 and H[row] >> (7 - dot) & 1
            at = 3 * (720 * (16 + row) + 9 + dot)
            assert tuple(picture.rgb[at : at + 3]) == (front if lit else back), (row, dot)


def test_text_ninth_dot_repeats_for_line_graphics_only() -> None:
    card = text_card()
    card.cr(0x0A, 0x20)
    card.store(0x18000, 2, 0x07C4)
    card.store(0x18002, 2, 0x07DB)
    card.store(0x18004, 2, 0x0700 | ord("B"))
    front, back = colour(7), colour(0)
    assert [card.screen.pixel(at, 0) for at in (8, 17, 26)] == [front, front, back]
    card.ar(0x10, 0x08)
    assert [card.screen.pixel(at, 0) for at in (8, 17, 26)] == [back, back, back]


def test_text_eight_dots_make_640_pixels() -> None:
    card = text_card()
    card.sr(1, 1)
    picture = card.screen.picture()
    assert picture is not None
    assert picture.width == 640


def test_text_cursor_is_a_block_of_its_lines() -> None:
    card = text_card()
    card.type(2, 1, " ", 0x04)
    card.cr(0x0E, 0)
    card.cr(0x0F, 82)
    assert screen_of(card).cursor == (2, 1)
    lit, dark = colour(MODE3_ENTRIES[4]), colour(0)
    rows = [card.screen.pixel(18, 16 + row) for row in range(16)]
    assert rows == [lit if row in (13, 14) else dark for row in range(16)]
    for start, end, on in ((0x2D, 0x0E, False), (0x0E, 0x0D, False), (0x10, 0x1F, False), (0x00, 0x1F, True)):
        card.cr(0x0A, start)
        card.cr(0x0B, end)
        assert (screen_of(card).cursor is not None) == on, hex(start)
    card.cr(0x0E, 8)
    assert screen_of(card).cursor is None


def test_text_start_address_and_offset_scroll() -> None:
    card = text_card()
    card.type(0, 1, "second")
    card.cr(0x0F, 80)
    card.cr(0x0D, 80)
    assert screen_of(card).lines()[0].startswith("second")
    assert screen_of(card).cursor == (0, 0)
    card.cr(0x0D, 0)
    card.cr(0x13, 0x14)
    assert screen_of(card).lines()[2].startswith("second")


def test_text_start_address_wraps_at_the_end_of_memory() -> None:
    card = text_card()
    card.type(0, 0, "wrapped")
    card.cr(0x0C, 0xFF)
    card.cr(0x0D, 0xF6)
    assert screen_of(card).lines()[0][10:17] == "wrapped"
    card.cr(0x17, 0x83)  # rotate with bit 13: the counter's bit 15 is not seen by memory
    card.cr(0x0C, 0x80)
    card.cr(0x0D, 0)
    assert screen_of(card).lines()[0].startswith("wrapped")


def test_text_line_compare_starts_again_at_zero() -> None:
    card = text_card()
    card.type(0, 0, "status")
    card.type(0, 2, "top")
    card.cr(0x0D, 160)
    card.cr(0x11, 0)
    card.cr(0x07, 0x0F)
    card.cr(0x09, 0x0F)
    for line, row in ((0x7F, 8), (0x80, 9), (0x8F, 9)):
        card.cr(0x18, line)
        lines = screen_of(card).lines()
        assert lines[0].startswith("top")
        assert [at for at, text in enumerate(lines) if text.startswith("status")] == [row]


def test_text_rows_follow_the_character_height() -> None:
    card = text_card()
    card.cr(0x09, 0x47)
    assert screen_of(card).rows == 50
    card.cr(0x09, 0xC7)
    screen, picture = screen_of(card), card.screen.picture()
    assert picture is not None
    assert (screen.rows, picture.height) == (25, 200)


def test_text_of_40_columns_is_360_wide() -> None:
    card = text_card(1)
    card.type(0, 1, "forty", width=40)
    screen, picture = screen_of(card), card.screen.picture()
    assert picture is not None
    assert (screen.columns, screen.lines()[1][:5], picture.width) == (40, "forty", 360)


def test_text_second_font_is_chosen_by_attribute_bit_3() -> None:
    card = text_card()
    card.cr(0x0A, 0x20)
    card.load_font({ord("H"): b"\x0f" * 16}, font=5)
    card.sr(3, 0x05 << 2 & 0x0C | 0x20)  # A: font 5, B: font 0
    card.type(0, 0, "H", 0x0F)
    card.type(1, 0, "H", 0x07)
    assert card.screen.pixel(0, 0) == colour(0)
    assert card.screen.pixel(4, 0) == colour(MODE3_ENTRIES[15])
    assert card.screen.pixel(9, 0) == colour(7)
    assert card.screen.pixel(13, 0) == colour(0)
    card.load_font({ord("H"): b"\x10" * 16}, font=6)
    card.sr(3, 0x12)
    assert card.screen.pixel(12, 0) == colour(7)
    assert card.screen.pixel(9, 0) == colour(0)


def test_text_blink_bit_selects_seven_or_fifteen_backgrounds() -> None:
    card = text_card()
    card.cr(0x0A, 0x20)
    card.type(0, 0, " ", 0xC0)
    assert card.screen.pixel(0, 0) == colour(MODE3_ENTRIES[4])
    card.ar(0x10, 0x04)
    assert card.screen.pixel(0, 0) == colour(MODE3_ENTRIES[12])
    assert not screen_of(card).blinking


def test_text_colours_pass_select_plane_enable_and_mask() -> None:
    card = text_card()
    card.cr(0x0A, 0x20)
    card.type(0, 0, "B", 0x0F)
    card.ar(0x14, 0x04)
    assert card.screen.pixel(0, 0) == colour(0x7F)
    card.ar(0x14, 0x05)
    card.ar(0x10, 0x8C)
    assert card.screen.pixel(0, 0) == colour(0x5F)
    card.put(0x3C6, 0x0F)
    assert card.screen.pixel(0, 0) == colour(0x0F)
    card.ar(0x12, 0x07)
    assert card.screen.pixel(0, 0) == colour(0x07)
    assert screen_of(card).palette[45:48] == bytes(colour(0x07))


def test_text_in_mono_mode_is_at_b0000_and_underlines() -> None:
    card = text_card(7)
    card.cr(0x0A, 0x20)
    for at, attribute in enumerate((0x01, 0x07)):
        card.store(0x10000 + 2 * at, 2, attribute << 8 | ord(" "))
    assert screen_of(card).cells[:4] == b" \x01 \x07"
    lit, dark = colour(8), colour(0)
    assert [card.screen.pixel(0, row) for row in (12, 13, 14)] == [dark, lit, dark]
    assert card.screen.pixel(9, 13) == dark


def test_text_is_none_while_blanked_and_the_picture_black() -> None:
    card = text_card()
    card.type(0, 0, "BBB", 0x0F)
    card.get(0x3DA)
    card.put(0x3C0, 0x00)
    assert card.screen.screen() is None
    picture = card.screen.picture()
    assert picture is not None
    assert (picture.width, picture.height, any(picture.rgb)) == (720, 400, False)
    card.get(0x3DA)
    card.put(0x3C0, 0x20)
    assert card.screen.screen() is not None
    card.sr(1, 0x20)
    assert card.screen.screen() is None


def test_picture_is_none_before_a_mode_is_set() -> None:
    card = Card()
    assert (card.screen.picture(), card.screen.screen()) == (None, None)


# --- graphics


def test_planar_640_by_480_shows_each_colour() -> None:
    card = Card()
    card.set_mode(0x12)
    card.gr(8, 0x40)
    for number in range(16):
        card.gr(5, 2)
        card.load(80 * number + 3)
        card.store(80 * number + 3, 1, number)
    picture = card.screen.picture()
    assert picture is not None
    assert (picture.width, picture.height) == (640, 480)
    for number, entry in enumerate(MODE3_ENTRIES):
        at = 3 * (640 * number + 25)
        assert tuple(picture.rgb[at : at + 3]) == colour(entry)
        assert tuple(picture.rgb[at + 3 : at + 6]) == colour(0)


def test_planar_320_by_200_scans_double() -> None:
    card = Card()
    card.set_mode(0x0D)
    card.store(40 * 199 + 39, 1, 0x01)
    picture = card.screen.picture()
    assert picture is not None
    assert (picture.width, picture.height) == (320, 200)
    assert card.screen.pixel(319, 199) == colour(0x17)
    assert card.screen.pixel(318, 199) == card.screen.pixel(319, 198) == colour(0)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (319, 199), (255, 51), (3, 100), (2, 150)])
def test_chained_256_colours_show_bytes_in_order(x: int, y: int) -> None:
    card = Card()
    card.set_mode(0x13)
    card.store(320 * y + x, 1, 0xA5)
    picture = card.screen.picture()
    assert picture is not None
    assert (picture.width, picture.height) == (320, 200)
    lit = [at for at in range(64000) if tuple(picture.rgb[3 * at : 3 * at + 3]) != colour(0)]
    assert lit == [320 * y + x]
    assert card.screen.pixel(x, y) == colour(0xA5)


def test_unchained_256_colours_have_four_pages() -> None:
    card = Card()
    card.set_mode(0x13)
    card.sr(4, 6)
    card.cr(0x14, 0)
    card.cr(0x17, 0xE3)
    card.sr(2, 1 << 2)
    card.store(80 * 7 + 5 + 0x4000, 1, 0x33)
    card.cr(0x0C, 0x40)
    assert card.screen.pixel(4 * 5 + 2, 7) == colour(0x33)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 1), (318, 198), (7, 101), (319, 199)])
def test_cga_four_colours_interleave_lines(x: int, y: int) -> None:
    card = Card()
    card.set_mode(4)
    card.store(0x18000 + 0x2000 * (y & 1) + 80 * (y >> 1) + x // 4, 1, 3 << 2 * (3 - x % 4))
    picture = card.screen.picture()
    assert picture is not None
    assert (picture.width, picture.height) == (320, 200)
    lit = [at for at in range(64000) if any(picture.rgb[3 * at : 3 * at + 3])]
    assert lit == [320 * y + x]
    assert card.screen.pixel(x, y) == colour(0x17)


def test_cga_two_colours_interleave_lines() -> None:
    card = Card()
    card.set_mode(6)
    card.store(0x18000 + 0x2000 + 80 * 3 + 4, 1, 0x08)
    assert card.screen.pixel(36, 7) == colour(0x17)
    assert card.screen.pixel(36, 6) == card.screen.pixel(35, 7) == colour(0)
    picture = card.screen.picture()
    assert picture is not None
    assert (picture.width, picture.height) == (640, 200)


# --- when to look


def test_display_changed_is_not_repeated_by_a_reset_that_nobody_saw() -> None:
    card = text_card()
    before = card.screen.changes
    card.bench.reset()
    assert card.screen.changes == before == 1


def test_display_changed_is_said_once_until_somebody_looks() -> None:
    card = text_card()
    card.screen.text()
    before = card.screen.changes
    card.type(0, 0, "many characters")
    card.cr(0x0F, 3)
    assert card.screen.changes == before + 1
    card.screen.text()
    assert card.screen.changes == before + 1
    card.store(0x18000, 2, 0x0741)
    assert card.screen.changes == before + 2


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.cr(0x0F, 9),
        lambda card: card.ar(3, 9),
        lambda card: card.put(0x3C6, 0x0F),
        lambda card: [card.put(0x3C9, 1) for _ in range(3)],
        lambda card: card.sr(1, 1),
        lambda card: card.gr(6, 5),
        lambda card: card.put(0x3C2, 0x63),
        lambda card: card.bench.reset(),
    ],
)
def test_display_changed_follows_registers(change: Callable[[Card], object]) -> None:
    card = text_card()
    card.screen.text()
    before = card.screen.changes
    change(card)
    assert card.screen.changes == before + 1


def test_display_changed_comes_again_while_a_frame_buffer_may_be_drawn_into() -> None:
    card = Card()
    card.screen.picture()
    for index, value in ((1, 64), (2, 64), (3, 32), (4, 0x41)):
        card.dispi(index, value)
    card.screen.picture()
    before = card.screen.changes
    card.bench.advance(30_000_000)
    assert card.screen.changes == before
    card.bench.advance(4_000_000)
    assert card.screen.changes == before + 1
    card.bench.advance(1_000_000_000)
    assert card.screen.changes == before + 1
    card.dispi(4, 0)
    card.screen.picture()
    after = card.screen.changes
    card.bench.advance(1_000_000_000)
    assert card.screen.changes == after


def test_display_changed_goes_on_after_suspend() -> None:
    card = Card()
    for index, value in ((1, 64), (2, 64), (3, 32), (4, 0x41)):
        card.dispi(index, value)
    card.screen.picture()
    before = card.screen.changes
    card.bench.suspend()
    card.bench.resume()
    card.bench.advance(40_000_000)
    assert card.screen.changes == before + 1


@pytest.mark.parametrize("looked", [False, True])
def test_display_changed_is_said_after_a_load_whatever_was_said_before(looked: bool) -> None:
    card, other = text_card(), text_card()
    card.type(0, 0, "loaded")
    saved = card.bench.save()
    if looked:
        other.screen.text()
    before = other.screen.changes
    other.bench.load(saved)
    assert other.screen.changes > before
    assert (other.screen.text() or "").startswith("loaded")
    after = other.screen.changes
    other.type(0, 0, "more")
    assert other.screen.changes == after + 1


@pytest.mark.parametrize("rest", [Bench.suspend, Bench.power_off])
def test_display_changed_does_not_come_again_while_the_guest_does_not_run(
    rest: Callable[[Bench], None],
) -> None:
    card = Card()
    for index, value in ((1, 64), (2, 64), (3, 32), (4, 0x41)):
        card.dispi(index, value)
    card.screen.picture()
    rest(card.bench)
    before = card.screen.changes
    card.screen.picture()
    card.bench.advance(1_000_000_000)
    assert card.screen.changes == before


def test_display_may_be_plugged_and_unplugged() -> None:
    card = text_card()
    card.type(0, 0, "here")
    card.bench.detach(card.device, 0)
    card.type(0, 0, "gone")
    other = FakeDisplay()
    card.bench.attach(card.device, 0, other)
    assert other.changes == 1
    assert (other.text() or "").startswith("gone")
    card.type(0, 0, "more")
    assert other.changes == 2


def test_info_shows_registers_and_the_screen() -> None:
    card = text_card()
    card.type(3, 2, "look at me")
    everything = card.bench.info(card.device) or ""
    assert "text mode, 720 x 400, 70.1 Hz" in everything
    assert "GR 00 00 00 00 00 10 0e 00 ff" in everything
    assert (card.bench.info(card.device, "text") or "").splitlines()[2] == "   look at me"
