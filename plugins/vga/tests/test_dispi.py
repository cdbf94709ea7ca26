"""DISPI: handshake, modes, limits, panning."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vga_card import MODES, Card

from vbox_plugin_vga.dispi import DEPTHS, Dispi

ID, XRES, YRES, BPP, ENABLE, BANK, VIRT_WIDTH, VIRT_HEIGHT, X_OFFSET, Y_OFFSET = range(10)
MIB = 1 << 20


def set_mode(card: Card, width: int, height: int, depth: int, enable: int = 0x41) -> None:
    card.dispi(ENABLE, 0)
    for index, value in ((XRES, width), (YRES, height), (BPP, depth), (ENABLE, enable)):
        card.dispi(index, value)


def test_dispi_id_takes_versions_and_refuses_extensions() -> None:
    card = Card()
    assert card.get_dispi(ID) == 0xB0C0
    for version in range(0xB0C0, 0xB0C6):
        card.dispi(ID, version)
        assert card.get_dispi(ID) == version
    for refused in (0xBE00, 0xBE01, 0xBE02, 0xBE03, 0, 0xB0BF, 0xB0C6, 0xFFFF):
        card.dispi(ID, refused)
        assert card.get_dispi(ID) == 0xB0C5, hex(refused)


def test_dispi_bytes_are_taken_and_given_high_first() -> None:
    card = Card()
    for value in (0x00, XRES):
        card.put(0x1CE, value)
    for value in (0x03, 0x20):
        card.put(0x1CF, value)
    assert card.get_dispi(XRES) == 0x320
    assert [card.get(0x1CF), card.get(0x1CF)] == [0x03, 0x20]
    assert card.get(0x1CE, 2) == XRES


def test_dispi_size_of_vram_reads_as_dword_and_in_units() -> None:
    card = Card(vram_size=8 * MIB)
    assert card.get(0x1CF, 4) == 8 * MIB
    assert card.get_dispi(0x0A) == 8 * 16


def test_dispi_framebuffer_register_follows_the_bar() -> None:
    card = Card()
    assert card.get_dispi(0x0B) == 0
    placed = card.bench.pci_enable(card.device, at=0xE2000000)
    assert placed[0] == 0xE2000000
    assert card.get_dispi(0x0B) == 0xE200


def test_dispi_capabilities_are_asked_without_losing_the_mode() -> None:
    card = Card()
    set_mode(card, 800, 600, 16)
    card.vram[0:4] = b"abcd"
    card.dispi(Y_OFFSET, 3)
    card.dispi(ENABLE, 0x43)
    assert [card.get_dispi(index) for index in (XRES, YRES, BPP)] == [16384, 16384, 32]
    card.dispi(ENABLE, 0x41)
    assert [card.get_dispi(index) for index in (XRES, YRES, BPP)] == [800, 600, 16]
    assert (card.get_dispi(Y_OFFSET), bytes(card.vram[0:4])) == (3, b"abcd")


def test_dispi_values_beyond_the_maxima_are_ignored() -> None:
    card = Card()
    for index, good, bad in ((XRES, 16384, 16385), (YRES, 16384, 0xFFFF), (BPP, 24, 12)):
        card.dispi(index, good)
        card.dispi(index, bad)
        assert card.get_dispi(index) == good
    card.dispi(BPP, 0)
    assert card.get_dispi(BPP) == 8


@pytest.mark.parametrize(("width", "height"), [(0, 480), (640, 0), (4096, 4096)])
def test_dispi_impossible_mode_is_not_enabled(width: int, height: int) -> None:
    card = Card()
    set_mode(card, width, height, 32)
    assert card.get_dispi(ENABLE) == 0
    assert card.screen.picture() is None


def test_dispi_enabling_clears_what_is_visible_unless_told_not_to() -> None:
    card = Card(vram_size=MIB)
    card.vram[:] = b"\xaa" * MIB
    set_mode(card, 640, 480, 8, 0xC1)
    assert card.vram[0] == 0xAA
    set_mode(card, 640, 480, 8, 0x41)
    assert bytes(card.vram[640 * 480 - 1 : 640 * 480 + 1]) == b"\x00\xaa"
    assert card.get_dispi(ENABLE) == 0x41


def test_dispi_virtual_size_and_offsets_stay_inside_vram() -> None:
    card = Card(vram_size=MIB)
    set_mode(card, 512, 256, 16)
    assert (card.get_dispi(VIRT_WIDTH), card.get_dispi(VIRT_HEIGHT)) == (512, 1024)
    card.dispi(VIRT_WIDTH, 1024)
    assert (card.get_dispi(VIRT_WIDTH), card.get_dispi(VIRT_HEIGHT)) == (1024, 512)
    card.dispi(X_OFFSET, 5000)
    card.dispi(Y_OFFSET, 5000)
    assert (card.get_dispi(X_OFFSET), card.get_dispi(Y_OFFSET)) == (512, 256)
    card.dispi(VIRT_WIDTH, 0x8000)
    assert card.get_dispi(VIRT_WIDTH) == 512
    card.dispi(VIRT_HEIGHT, 1)
    assert card.get_dispi(VIRT_HEIGHT) == 1024


def test_dispi_8_bit_dac_shows_all_bits() -> None:
    card = Card()
    set_mode(card, 8, 1, 8, 0x61)
    card.put(0x3C0, 0x20)
    card.put(0x3C8, 0)
    for component in (0xFF, 0x81, 0x7E):
        card.put(0x3C9, component)
    assert card.screen.pixel(0, 0) == (0xFF, 0x81, 0x7E)
    card.put(0x3C7, 0)
    assert [card.get(0x3C9) for _ in range(3)] == [0xFF, 0x81, 0x7E]
    card.dispi(ENABLE, 0x41)
    card.put(0x3C7, 0)
    assert [card.get(0x3C9) for _ in range(3)] == [0x3F, 0x20, 0x1F]


@pytest.mark.parametrize(
    ("depth", "pixel", "expected"),
    [
        (15, b"\x1f\x7c", (255, 0, 255)),
        (15, b"\xe0\x03", (0, 255, 0)),
        (15, b"\x10\x42", (0x84, 0x84, 0x84)),
        (16, b"\x1f\xf8", (255, 0, 255)),
        (16, b"\xe0\x07", (0, 255, 0)),
        (16, b"\x10\x84", (0x84, 0x82, 0x84)),
        (24, b"\x01\x02\x03", (3, 2, 1)),
        (32, b"\x01\x02\x03\xff", (3, 2, 1)),
    ],
)
def test_dispi_colours_of_each_depth(depth: int, pixel: bytes, expected: tuple[int, int, int]) -> None:
    card = Card()
    set_mode(card, 64, 32, depth)
    card.put(0x3C0, 0x20)
    card.dispi(VIRT_WIDTH, 80)
    card.dispi(X_OFFSET, 2)
    card.dispi(Y_OFFSET, 1)
    at = (80 * (5 + 1) + 3 + 2) * len(pixel)
    card.bench.pci_enable(card.device, at=0xE0000000)
    card.bench.memory_write(0xE0000000 + at, pixel)
    assert card.screen.pixel(3, 5) == expected
    assert card.screen.pixel(2, 5) == card.screen.pixel(4, 5) == (0, 0, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 0xFFFF))
def test_dispi_16_bits_expand_by_repeating(value: int) -> None:
    card = Card(vram_size=MIB)
    set_mode(card, 1, 1, 16)
    card.put(0x3C0, 0x20)
    card.vram[0:2] = value.to_bytes(2, "little")
    red, green, blue = value >> 11, value >> 5 & 63, value & 31
    assert card.screen.pixel(0, 0) == (red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2)


def test_dispi_disabling_brings_the_vga_back() -> None:
    card = Card()
    card.set_mode(3)
    set_mode(card, 640, 480, 8)
    assert card.screen.text() is None
    card.dispi(ENABLE, 0)
    card.set_mode(3)
    card.type(0, 0, "back")
    assert (card.screen.text() or "").startswith("back")


def test_dispi_a_line_of_odd_width_in_4_bits() -> None:
    card = Card()
    card.set_mode(0x12)
    set_mode(card, 13, 2, 4)
    card.put(0x3C0, 0x20)
    card.store(0, 1, 0x80)
    card.store(2, 1, 0x40)
    picture = card.screen.picture()
    assert picture is not None
    assert (picture.width, picture.height, len(picture.rgb)) == (13, 2, 78)
    assert card.screen.pixel(0, 0) == card.screen.pixel(1, 1) != card.screen.pixel(1, 0)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([1, 2, 16]),
    st.lists(st.tuples(st.integers(0, 12), st.one_of(st.integers(0, 2000), st.integers(0, 0xFFFF)))),
)
def test_dispi_whatever_is_written_what_is_visible_lies_in_vram(
    size: int, writes: list[tuple[int, int]]
) -> None:
    dispi = Dispi(size * MIB)
    for index, value in writes:
        if dispi.write_register(index, value):
            _, clear = dispi.set_mode(value)
            assert 0 <= clear <= size * MIB
        values = dispi.registers
        assert values[BPP] in (0, *DEPTHS)
        assert 0 <= values[BANK] < dispi.most_banks
        if dispi.enabled:
            assert 0 < values[XRES] <= values[VIRT_WIDTH]
            assert values[YRES]
            assert values[X_OFFSET] + values[XRES] <= values[VIRT_WIDTH]
            lines = values[Y_OFFSET] + values[YRES]
            assert dispi.pitch(values[VIRT_WIDTH]) * lines <= size * MIB
    fresh = Dispi(size * MIB)
    fresh.load(dispi.save())
    assert fresh.save() == dispi.save()


def test_dispi_modes_leave_a_timing_that_moves() -> None:
    card = Card()
    card.put(0x3C2, MODES[3].misc)
    set_mode(card, 1024, 768, 8)
    seen = set()
    for _ in range(600):
        seen.add(card.get(0x3DA))
        card.bench.advance(31_000)
    assert seen >= {0, 9}
