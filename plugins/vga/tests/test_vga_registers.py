"""Registers: storage, protection, flip-flop, DAC, status, reset, nonsense, saved state."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vga_card import MODES, Card

from vbox_pdm import PdmError, StateError
from vbox_pdm.testing import Bench
from vbox_plugin_vga.registers import (
    AttributeController,
    CrtController,
    GraphicsController,
    Sequencer,
    stored_bits,
)

MIB = 1 << 20


def test_vga_register_masks_are_those_of_the_reference() -> None:
    assert stored_bits(Sequencer) == (0x03, 0x3D, 0x0F, 0x3F, 0x0E)
    assert stored_bits(GraphicsController) == (15, 15, 15, 0x1F, 3, 0x7B, 15, 15, 0xFF)
    assert stored_bits(AttributeController) == (0x3F,) * 16 + (0xEF, 0xFF, 0x3F, 0x0F, 0x0F)
    crtc = dict(enumerate(stored_bits(CrtController)))
    odd = {at: mask for at, mask in crtc.items() if mask != 0xFF}
    assert odd == {8: 0x7F, 0x0A: 0x3F, 0x0B: 0x7F, 0x14: 0x7F, 0x17: 0xEF}
    assert len(crtc) == 25


@pytest.mark.parametrize("port", [0x3C4, 0x3CE, 0x3D4])
def test_vga_indexed_registers_keep_their_bits_and_others_read_zero(port: int) -> None:
    card = Card()
    card.put(0x3C2, 3)
    masks = {0x3C4: Sequencer, 0x3CE: GraphicsController, 0x3D4: CrtController}[port]
    bits = stored_bits(masks)
    card.set_indexed(port, 0x11, 0)
    for index in range({0x3C4: 8, 0x3CE: 16, 0x3D4: 256}[port]):
        card.set_indexed(port, index, 0xFF if index != 0x11 else 0x7F)
        expected = bits[index] if index < len(bits) else 0
        assert card.get_indexed(port, index) == (expected & 0x7F if index == 0x11 else expected), hex(index)
        if index != 0x11:
            card.set_indexed(port, index, 0)


def test_vga_index_and_data_read_as_a_word() -> None:
    card = Card()
    card.put(0x3C2, 3)
    card.cr(0x0E, 0x5A)
    card.sr(2, 7)
    assert (card.get(0x3D4, 2), card.get(0x3C4, 2)) == (0x5A0E, 0x0702)


def test_vga_attribute_flip_flop_is_cleared_by_status() -> None:
    card = Card()
    card.put(0x3C2, 3)
    card.put(0x3C0, 0x21)
    card.get(0x3DA)
    card.put(0x3C0, 0x22)
    card.put(0x3C0, 0x15)
    card.put(0x3C0, 0x23)
    assert (card.get(0x3C0), card.get(0x3C1)) == (0x23, 0)
    assert (card.get_ar(2), card.get_ar(1)) == (0x15, 0)


def test_vga_status_at_the_other_address_leaves_the_flip_flop() -> None:
    card = Card()
    card.put(0x3C2, 3)
    card.put(0x3C0, 0x21)
    assert card.get(0x3BA) == 0xFF
    card.put(0x3C0, 0x15)
    assert card.get_ar(1) == 0x15


def test_vga_crtc_moves_with_the_colour_bit() -> None:
    card = Card()
    card.put(0x3C2, 3)
    card.put(0x3D4, 0x5A0F, 2)
    assert (card.get(0x3B4, 2), card.get(0x3B5)) == (0xFFFF, 0xFF)
    card.put(0x3C2, 2)
    assert card.get(0x3D5) == 0xFF
    assert card.get(0x3B4) == 0x0F
    card.put(0x3BA, 0xFF)
    assert card.get(0x3CA) == 0x0B


def test_vga_protection_keeps_cr0_to_cr7_but_line_compare() -> None:
    card = Card()
    card.put(0x3C2, 3)
    for index in range(8):
        card.cr(index, 0x20 + index)
    card.cr(0x11, 0x80)
    for index in range(8):
        card.cr(index, 0xFF if index == 7 else 0)
    values = [card.get_indexed(0x3D4, index) for index in range(8)]
    assert values == [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x37]
    card.cr(7, 0)
    assert card.get_indexed(0x3D4, 7) == 0x27
    card.cr(9, 0x4F)
    assert card.get_indexed(0x3D4, 9) == 0x4F
    card.cr(0x11, 0)
    card.cr(0, 0)
    assert card.get_indexed(0x3D4, 0) == 0


# --- the DAC


def test_dac_writes_three_components_and_steps() -> None:
    card = Card()
    card.put(0x3C8, 0xFF)
    for component in (1, 2, 3, 0xFF, 5, 6):
        card.put(0x3C9, component)
    assert (card.get(0x3C7), card.get(0x3C8)) == (0, 1)
    card.put(0x3C7, 0xFF)
    assert card.get(0x3C7) == 3
    assert [card.get(0x3C9) for _ in range(6)] == [1, 2, 3, 0x3F, 5, 6]


def test_dac_an_unfinished_colour_is_not_stored() -> None:
    card = Card()
    card.put(0x3C8, 7)
    card.put(0x3C9, 9)
    card.put(0x3C9, 9)
    card.put(0x3C8, 8)
    for _ in range(3):
        card.put(0x3C9, 4)
    card.put(0x3C7, 7)
    assert [card.get(0x3C9) for _ in range(6)] == [0, 0, 0, 4, 4, 4]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([0x3C6, 0x3C7, 0x3C8, 0x3C9]), st.integers(0, 255)),
            st.tuples(st.sampled_from([0x3C6, 0x3C7, 0x3C8, 0x3C9]), st.none()),
        ),
        max_size=60,
    )
)
def test_dac_follows_a_plain_state_machine(script: list[tuple[int, int | None]]) -> None:
    card = Card()
    table = [[0, 0, 0] for _ in range(256)]
    mask, address, state, held, at = 0xFF, 0, 0, [0, 0, 0], 0
    for port, value in script:
        if value is None:
            got = card.get(port)
            if port == 0x3C9:
                assert got == held[at]
                at = (at + 1) % 3
                if at == 0:
                    held, address = list(table[address]), (address + 1) % 256
            else:
                assert got == {0x3C6: mask, 0x3C7: state, 0x3C8: address}[port]
            continue
        card.put(port, value)
        if port == 0x3C6:
            mask = value
        elif port == 0x3C7:
            held, address, state, at = list(table[value]), (value + 1) % 256, 3, 0
        elif port == 0x3C8:
            address, state, at = value, 0, 0
        else:
            held[at] = value & 0x3F
            at = (at + 1) % 3
            if at == 0:
                table[address], address = list(held), (address + 1) % 256


def test_status0_comparator_tells_light_from_dark() -> None:
    card = Card()
    assert card.get(0x3C2) == 0x10
    card.put(0x3C8, 0)
    for component in (0x3F, 0x3F, 0x3F):
        card.put(0x3C9, component)
    assert card.get(0x3C2) == 0


# --- timing


@pytest.mark.parametrize(("mode", "frequency"), [(3, 70.1), (0x12, 59.9), (0x13, 70.1), (7, 70.1)])
def test_status1_retrace_comes_with_the_frequency_of_the_mode(mode: int, frequency: float) -> None:
    card = Card()
    card.set_mode(mode)
    port = card.crtc + 6
    edges, blank, before = 0, 0, card.get(port)
    step, count = 20_000, 15_000
    for _ in range(count):
        card.bench.advance(step)
        now = card.get(port)
        edges += now & 8 > before & 8
        blank += now & 1
        before = now
        assert now in (0, 1, 9)
    assert edges == pytest.approx(frequency * step * count / 1e9, abs=1.1)
    assert 0.15 < blank / count < 0.45


def test_status1_moves_whatever_is_programmed() -> None:
    card = Card()
    card.put(0x3C2, 3)
    for value in (0, 0xFF):
        card.cr(0x11, 0)
        for index in range(25):
            card.cr(index, value if index != 0x11 else 0)
        seen = set()
        for _ in range(3000):
            card.bench.advance(7_001)
            seen.add(card.get(0x3DA))
        assert {0, 1} <= seen


# --- life


def test_vga_reset_returns_to_power_on() -> None:
    card = Card()
    before = card.bench.save()["vga#0"]
    card.set_mode(3)
    card.dispi(1, 640)
    card.put(0x3C0, 0x20)
    card.bench.reset()
    assert card.bench.save()["vga#0"] == before
    assert card.screen.picture() is None


def test_vga_identity_is_virtualbox_or_bochs() -> None:
    card = Card()
    function = card.bench.pci_function(card.device)
    assert (function.device, card.bench.pci_read(2, 0, 0), card.bench.pci_read(2, 0, 8)) == (
        2, 0xBEEF80EE, 0x03000000,
    )  # fmt: skip
    assert function.bar_sizes() == {0: (16 * MIB, False, False)}
    assert card.bench.pci_read(2, 0, 0x10) & 0xF == 8
    bochs = Card(identity="bochs", vram_size=MIB)
    assert bochs.bench.pci_read(2, 0, 0) == 0x11111234
    assert bochs.bench.pci_read(2, 0, 0x2C) == 0x11001AF4


@pytest.mark.parametrize("size", [3 * MIB, MIB // 2, 512 * MIB, MIB + 1])
def test_vga_impossible_vram_is_refused(size: int) -> None:
    with pytest.raises(PdmError) as caught:
        Card(vram_size=size)
    assert caught.value.status == "VERR_OUT_OF_RANGE"
    assert "vram_size" in str(caught.value)


def option_rom(vendor: int, device: int) -> bytes:
    """A ROM of two units with a PCI data structure at 40h."""
    image = bytearray(1024)
    image[0:7] = b"\x55\xaa\x02\xeb\x1e\x90\x00"
    image[0x18:0x1A] = b"\x40\x00"
    image[0x40:0x44] = b"PCIR"
    image[0x44:0x48] = vendor.to_bytes(2, "little") + device.to_bytes(2, "little")
    image[0x4A:0x4C] = b"\x18\x00"
    image[0x4D:0x50] = b"\x00\x00\x03"
    image[0x50:0x52] = b"\x02\x00"
    image[0x55] = 0x80
    image[-1] = -sum(image) & 0xFF
    return bytes(image)


@pytest.mark.parametrize(("identity", "ids"), [("virtualbox", "ee80efbe"), ("bochs", "34121111")])
def test_vga_rom_names_its_function(identity: str, ids: str) -> None:
    bench = Bench(files={"vgabios-stdvga.bin": option_rom(0x1234, 0x1111)})
    device = bench.add("vga", identity=identity)
    placed = bench.pci_enable(device, rom=True)
    rom = bench.memory_read(placed[6], 1024)
    assert rom[:2] == b"\x55\xaa"
    assert rom[0x44:0x48] == bytes.fromhex(ids)
    assert sum(rom) & 0xFF == 0


@pytest.mark.parametrize("content", [b"", b"not a ROM", bytes(4096), option_rom(1, 2)[:700]])
def test_vga_file_that_is_no_rom_is_refused(content: bytes) -> None:
    bench = Bench(files={"vgabios-stdvga.bin": content})
    with pytest.raises(PdmError, match=r"vgabios-stdvga\.bin") as caught:
        bench.add("vga")
    assert caught.value.remedy


def test_vga_rom_that_is_missing_or_too_big_is_refused() -> None:
    with pytest.raises(PdmError) as missing:
        Bench(files={}).add("vga", bios_rom="absent.bin")
    assert missing.value.status == "VERR_FILE_NOT_FOUND"
    with pytest.raises(PdmError) as big:
        Bench(files={"vgabios-stdvga.bin": bytes(MIB)}).add("vga")
    assert big.value.status == "VERR_FILE_TOO_BIG"


# --- nonsense, and state at any moment

PORTS = [0x3B4, 0x3B5, 0x3BA, *range(0x3C0, 0x3D0), 0x3D4, 0x3D5, 0x3DA, 0x1CE, 0x1CF, 0x1D0, 0x1D2]
small = st.integers(0, 0x20)
values = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 0xFF, 0xFFFF, 0xFFFFFFFF]))
operations = st.one_of(
    st.tuples(st.just("out"), st.sampled_from(PORTS), st.sampled_from([1, 2, 4]), values),
    st.tuples(st.just("in"), st.sampled_from(PORTS), st.sampled_from([1, 2, 4])),
    st.tuples(st.just("index"), st.sampled_from([0x3C4, 0x3CE, 0x3D4]), small, st.integers(0, 255)),
    st.tuples(st.just("attribute"), small, st.integers(0, 255)),
    st.tuples(st.just("dispi"), st.integers(0, 12), st.one_of(st.integers(0, 800), st.integers(0, 0xFFFF))),
    st.tuples(st.just("store"), st.integers(0, 0x1FFF8), st.sampled_from([1, 2, 4, 8]), values),
    st.tuples(st.just("load"), st.integers(0, 0x1FFF8), st.sampled_from([1, 2, 4, 8])),
    st.tuples(st.just("mode"), st.sampled_from(sorted(MODES))),
    st.tuples(st.just("wait"), st.integers(1, 10**8)),
)


def apply(card: Card, operation: tuple[Any, ...]) -> Any:
    match operation:
        case ("out", port, size, value):
            card.put(port, value & (1 << 8 * size) - 1, size)
        case ("in", port, size):
            value = card.get(port, size)
            assert 0 <= value < 1 << 8 * size
            return value
        case ("index", port, index, value):
            card.set_indexed(port, index, value)
        case ("attribute", index, value):
            card.ar(index, value)
        case ("dispi", index, value):
            card.dispi(index, value)
        case ("store", offset, size, value):
            card.store(offset, size, value & (1 << 8 * size) - 1)
        case ("load", offset, size):
            return card.load(offset, size)
        case ("mode", number):
            card.set_mode(number)
        case ("wait", ns):
            card.bench.advance(ns)
    return None


def look(card: Card) -> tuple[Any, Any]:
    picture = card.screen.picture()
    if picture is not None:
        assert len(picture.rgb) == 3 * picture.width * picture.height > 0
    screen = card.screen.screen()
    if screen is not None:
        assert len(screen.cells) == 2 * screen.columns * screen.rows
        assert len(screen.lines()) == screen.rows
        assert screen.cursor is None or (
            0 <= screen.cursor[0] < screen.columns and 0 <= screen.cursor[1] < screen.rows
        )
    return picture, screen


@settings(max_examples=60, deadline=None)
@given(st.lists(operations, max_size=30))
def test_vga_nonsense_never_raises_and_always_shows_something_sound(script: list[Any]) -> None:
    card = Card(vram_size=MIB)
    for operation in script:
        apply(card, operation)
    look(card)
    assert card.bench.info(card.device)


def test_vga_loaded_state_is_the_saved_one() -> None:
    first, second = Card(vram_size=MIB), Card(vram_size=MIB)
    first.set_mode(0x12)
    first.store(0, 1, 0x5A)
    first.load(0)
    first.sr(3, 0x15)
    for index, value in enumerate((0xB0C3, 640, 400, 8, 0x61, 2, 0, 0, 0, 7)):
        first.dispi(index, value)
    for port, value in (
        (0x3DA, 8),
        (0x3C6, 0x7F),
        (0x3C7, 9),
        (0x1CE, 3),
        (0x1CF, 4),
        (0x3C4, 3),
        (0x3CE, 6),
    ):
        first.put(port, value)
    for port in (0x3C9, 0x3C9):
        first.get(port)
    first.get(0x3DA)
    first.put(0x3C0, 0x2A)
    second.bench.load(first.bench.save())
    assert second.bench.save()["vga#0"] == first.bench.save()["vga#0"]
    state = second.device.pdm_save()
    assert (state.flip_flop, state.latch, state.attribute_index) == (True, 0x5A5A5A5A, 0x2A)
    assert (state.dac.component, state.dac.mask, state.dac.wide) == (2, 0x7F, True)
    assert state.dispi.index_high == 3


@settings(max_examples=40, deadline=None)
@given(st.lists(operations, max_size=20), st.lists(operations, max_size=20))
def test_vga_saved_state_goes_on_identically(before: list[Any], after: list[Any]) -> None:
    first, second = Card(vram_size=MIB), Card(vram_size=MIB)
    for operation in before:
        apply(first, operation)
    second.bench.load(first.bench.save())
    second.crtc = first.crtc
    assert look(first) == look(second)
    for operation in after:
        assert apply(first, operation) == apply(second, operation)
    assert look(first) == look(second)
    assert first.bench.save()["vga#0"] == second.bench.save()["vga#0"]
    assert first.vram == second.vram


@pytest.mark.parametrize("value", [0, 0xFF])
@pytest.mark.parametrize("graphics", range(0, 0x80, 0x20))
@pytest.mark.parametrize("alphanumeric", [False, True])
def test_vga_extreme_crtc_values_make_bounded_pictures(value: int, graphics: int, alphanumeric: bool) -> None:
    card = Card(vram_size=MIB)
    card.set_mode(0x12)
    card.cr(0x11, 0)
    for index in range(25):
        card.cr(index, value)
    card.cr(0x17, 0x80 | value)
    for height in (0, 0x1F):
        card.cr(9, value & 0xE0 | height)
        card.gr(5, graphics)
        card.gr(6, 0x04 | (not alphanumeric))
        begin = time.perf_counter()
        picture, _ = look(card)
        assert time.perf_counter() - begin < 10
        assert picture.width <= 256 * 9
        assert picture.height <= 1024 + 32


def test_vga_state_that_does_not_fit_is_refused() -> None:
    card = Card()
    state = card.device.pdm_save()
    with pytest.raises(StateError):
        card.device.pdm_load(attrs.evolve(state, crtc=b""))
    with pytest.raises(StateError):
        card.device.pdm_load(attrs.evolve(state, dac=attrs.evolve(state.dac, colours=b"x")))
    card.device.pdm_load(
        attrs.evolve(
            state, sequencer_index=99, graphics_index=-1, crtc_index=-5, attribute_index=1 << 40,
            latch=-1, dac=attrs.evolve(state.dac, component=99, address=-7),
            dispi=attrs.evolve(state.dispi, registers=(1, 1 << 20, -1, 77, 0xFFFF, 9999)),
        )
    )  # fmt: skip
    for port in PORTS:
        card.get(port)
        card.put(port, 0xFF)
    look(card)
