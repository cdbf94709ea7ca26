"""Memory behind the window: every mode against a plain model that goes bit by bit."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vga_card import MODES, Card

from vbox_plugin_vga.planes import PLANE, Planes

VRAM = 1 << 20
CONTENT = random.Random(5).randbytes(0x40000)
"""What memory holds at first: no two bytes agree by accident for long."""


class Model:
    """Four planes of 64 KiB as the reference describes them, one bit at a time."""

    def __init__(self) -> None:
        self.planes = [bytearray(CONTENT[p::4]) for p in range(4)]
        self.latches = [0, 0, 0, 0]
        self.sr = [0, 0, 0, 0, 0]
        self.gr = [0] * 9

    def place(self, offset: int) -> int | None:
        """From the beginning of the window, None outside."""
        first, size = ((0, 0x20000), (0, 0x10000), (0x10000, 0x8000), (0x18000, 0x8000))[self.gr[6] >> 2 & 3]
        return offset - first if first <= offset < first + size else None

    def address(self, at: int) -> int:
        bit16 = at >> 16
        if self.sr[4] & 8:
            return at % 0x10000 // 4 * 4 + bit16
        if self.gr[6] & 2:
            return at % 0x10000 // 2 * 2 + bit16
        return at % 0x10000

    def read(self, offset: int) -> int:
        at = self.place(offset)
        if at is None:
            return 0xFF
        address = self.address(at)
        self.latches = [plane[address] for plane in self.planes]
        if self.gr[5] & 8:
            value = 0
            for bit in range(8):
                same = all(
                    not self.gr[7] >> p & 1 or self.latches[p] >> bit & 1 == self.gr[2] >> p & 1
                    for p in range(4)
                )
                value |= same << bit
            return value
        plane = self.gr[4] & 3
        if self.sr[4] & 8:
            plane = at % 4
        elif self.gr[5] & 0x10:
            plane = plane & 2 | at & 1
        return self.latches[plane]

    def write(self, offset: int, byte: int) -> None:
        at = self.place(offset)
        if at is None:
            return
        address = self.address(at)
        count = self.gr[3] & 7
        rotated = (byte >> count | byte << (8 - count)) & 0xFF
        for p in range(4):
            if not self.sr[2] >> p & 1:
                continue
            if self.sr[4] & 8:
                if at % 4 != p:
                    continue
            elif not self.sr[4] & 4 and p % 2 != at % 2:
                continue
            result = 0
            for bit in range(8):
                result |= self.bit(p, bit, byte, rotated) << bit
            self.planes[p][address] = result

    def bit(self, p: int, bit: int, byte: int, rotated: int) -> int:
        latch = self.latches[p] >> bit & 1
        mode = self.gr[5] & 3
        if mode == 1:
            return latch
        set_reset = self.gr[0] >> p & 1
        allowed = self.gr[8] >> bit & 1
        if mode == 0:
            value = set_reset if self.gr[1] >> p & 1 else rotated >> bit & 1
        elif mode == 2:
            value = byte >> p & 1
        else:
            value = set_reset
            allowed &= rotated >> bit & 1
        value = (value, value & latch, value | latch, value ^ latch)[self.gr[3] >> 3 & 3]
        return value if allowed else latch


def interleaved(model: Model) -> bytes:
    data = bytearray(0x40000)
    for p in range(4):
        data[p::4] = model.planes[p]
    return bytes(data)


SR_INDEXES, GR_INDEXES = (2, 4), range(9)
GR_MASKS = (15, 15, 15, 31, 3, 0x7B, 15, 15, 255)
OFFSETS = st.one_of(
    st.integers(0, 0x1FFFF),
    st.sampled_from([0, 0x10000, 0x18000, 0xFFFC, 0x17FF8, 0x1FFF8]).flatmap(
        lambda base: st.integers(base, min(base + 8, 0x1FFFF))
    ),
)
registers = st.one_of(
    st.tuples(st.just("sr"), st.sampled_from(SR_INDEXES), st.integers(0, 255)),
    st.tuples(st.just("gr"), st.sampled_from(GR_INDEXES), st.integers(0, 255)),
    st.tuples(st.just("gr"), st.just(8), st.just(255)),
)
accesses = st.one_of(
    st.tuples(st.just("write"), OFFSETS, st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1))),
    st.tuples(st.just("read"), OFFSETS, st.sampled_from([1, 2, 4, 8])),
    st.tuples(st.just("copy"), OFFSETS, OFFSETS, st.integers(0, 255)),
)
beginnings = st.sampled_from(sorted(MODES))


class Pair:
    """The planes and the model, side by side."""

    def __init__(self, start: int) -> None:
        self.memory = bytearray(CONTENT + bytes(VRAM - len(CONTENT)))
        self.planes = Planes(memoryview(self.memory), lambda: None)
        self.model = Model()
        mode = MODES[start]
        self.model.sr[1:] = mode.sequencer
        self.model.gr[:] = mode.graphics
        self.configure()

    def configure(self) -> None:
        self.planes.configure(bytes(self.model.sr), bytes(self.model.gr), True, 0, 0)

    def apply(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case ("sr", index, value):
                self.model.sr[index] = value & 15
                self.configure()
            case ("gr", 8, value):
                self.model.gr[8] = value
                self.planes.set_bit_mask(value)
            case ("gr", index, value):
                self.model.gr[index] = value & GR_MASKS[index]
                self.configure()
            case ("write", offset, (size, value)):
                offset = min(offset, 0x20000 - size)
                value &= (1 << 8 * size) - 1
                self.planes.write(offset, size, value)
                for at in range(size):
                    self.model.write(offset + at, value >> 8 * at & 0xFF)
            case ("read", offset, size):
                offset = min(offset, 0x20000 - size)
                expected = sum(self.model.read(offset + at) << 8 * at for at in range(size))
                assert self.planes.read(offset, size) == expected
                self.check_latches()
            case ("copy", source, target, byte):
                self.apply(("read", source, 1))
                self.apply(("write", target, (1, byte)))

    def check_latches(self) -> None:
        assert self.planes.latch.to_bytes(4, "little") == bytes(self.model.latches)


@settings(max_examples=150, deadline=None)
@given(beginnings, st.lists(st.one_of(registers, accesses, accesses), max_size=40))
def test_planes_any_registers_behave_as_the_plain_model(start: int, script: list[Any]) -> None:
    pair = Pair(start)
    for operation in script:
        pair.apply(operation)
    assert pair.memory[:0x40000] == interleaved(pair.model)
    assert not any(pair.memory[0x40000:0x40100])


@settings(max_examples=100, deadline=None)
@given(beginnings, st.integers(0, 3), st.lists(st.one_of(registers, accesses, accesses), max_size=30))
def test_planes_a_planar_dispi_mode_is_the_plain_model_at_a_bank(
    start: int, bank: int, script: list[Any]
) -> None:
    class Banked(Pair):
        def configure(self) -> None:
            # Chain 4, odd/even and the memory map of the VGA's registers have no say.
            sr, gr = bytes(self.model.sr), bytes(self.model.gr)
            self.planes.configure(sr, gr, True, 4, bank)
            self.model.sr[4], self.model.gr[6] = 4, 4
            self.model.gr[5] &= ~0x10

    pair = Banked(start)
    pair.memory[:] = bytes(VRAM)
    pair.memory[bank << 18 : bank + 1 << 18] = CONTENT
    for operation in script:
        pair.apply(operation)
    assert pair.memory[bank << 18 : bank + 1 << 18] == interleaved(pair.model)
    assert VRAM - pair.memory.count(0) == 0x40000 - interleaved(pair.model).count(0)


@settings(max_examples=100, deadline=None)
@given(beginnings, st.integers(0, 15), st.lists(st.one_of(registers, accesses), max_size=20))
def test_planes_a_dispi_mode_of_bytes_is_vram_at_a_bank(start: int, bank: int, script: list[Any]) -> None:
    pair, mode = Pair(start), MODES[start]
    expected = bytearray(pair.memory)
    pair.planes.configure(b"\0" + mode.sequencer, mode.graphics, True, 8, bank)
    for operation in script:
        match operation:
            case ("gr", 8, value):
                pair.planes.set_bit_mask(value)
            case ("write", offset, (size, value)):
                offset = min(offset, 0x20000 - size)
                value &= (1 << 8 * size) - 1
                pair.planes.write(offset, size, value)
                end = max(offset, min(offset + size, PLANE))
                at = (bank << 16) + offset
                expected[at : at + end - offset] = value.to_bytes(size, "little")[: end - offset]
            case ("read", offset, size):
                offset = min(offset, 0x20000 - size)
                end = max(offset, min(offset + size, PLANE))
                there = expected[(bank << 16) + offset : (bank << 16) + end].ljust(size, b"\xff")
                assert pair.planes.read(offset, size) == int.from_bytes(there, "little")
    assert pair.memory == expected


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 255)), max_size=6),
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 7), st.tuples(st.just(1), st.integers(0, 255))),
            st.tuples(st.just("read"), st.integers(0, 7), st.just(1)),
            st.tuples(st.just("copy"), st.integers(0, 7), st.integers(0, 7), st.integers(0, 255)),
        ),
        min_size=1,
        max_size=30,
    ),
)
def test_planes_each_write_mode_combines_latches_as_the_plain_model(
    mode: int, settings_: list[tuple[int, int]], script: list[Any]
) -> None:
    pair = Pair(0x12)
    for index, value in settings_:
        if index not in (5, 6):
            pair.apply(("gr", index, value))
    pair.apply(("gr", 5, mode))
    for operation in script:
        pair.apply(operation)
    assert pair.memory[:0x40000] == interleaved(pair.model)


@pytest.mark.parametrize("map_mask", [3, 15])
@pytest.mark.parametrize("sequencer", [0, 4, 8])
def test_planes_each_layout_stores_and_loads_as_the_plain_model(sequencer: int, map_mask: int) -> None:
    pair = Pair(0x12)
    pair.apply(("sr", 2, map_mask))
    pair.apply(("sr", 4, sequencer))
    chance = random.Random(sequencer + map_mask)
    for window, reading, plane in itertools.product(range(0, 16, 2), (0, 8, 0x10), range(4)):
        for index, value in ((6, window), (5, reading), (4, plane)):
            pair.apply(("gr", index, value))
        for offset, size in ((4, 1), (5, 1), (6, 2), (5, 2), (8, 4), (6, 4), (16, 8)):
            pair.apply(("write", pair.planes.low + offset, (size, chance.getrandbits(64))))
            pair.apply(("read", pair.planes.low + offset, size))
        pair.apply(("read", 0xFFFE, 4))
    assert pair.memory[:0x40000] == interleaved(pair.model)


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize("function", range(4))
def test_planes_each_function_and_mode_with_many_values(mode: int, function: int) -> None:
    pair, chance = Pair(0x12), random.Random(mode * 4 + function)
    pair.apply(("gr", 5, mode))
    for _ in range(60):
        pair.apply(("gr", 3, function << 3 | chance.randrange(8)))
        for index in (0, 1, 8):
            pair.apply(("gr", index, chance.randrange(256)))
        pair.apply(("sr", 2, chance.randrange(16)))
        pair.apply(("copy", chance.randrange(256), chance.randrange(256), chance.randrange(256)))
    assert pair.memory[:0x40000] == interleaved(pair.model)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 15), st.integers(0, 15), st.integers(0, 255))
def test_planes_colour_compare_finds_a_colour(wanted: int, care: int, offset: int) -> None:
    pair = Pair(0x12)
    for operation in (("gr", 5, 8), ("gr", 2, wanted), ("gr", 7, care), ("read", offset, 4)):
        pair.apply(operation)


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_planes_a_wide_load_leaves_the_latches_of_its_last_byte(mode: int, size: int) -> None:
    pair = Pair(mode)
    pair.apply(("read", pair.planes.low + 16, size))


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_planes_a_wide_access_equals_its_bytes(mode: int, size: int) -> None:
    wide, narrow = Pair(mode), Pair(mode)
    first = wide.planes.low + 8
    value = 0x8877665544332211 & (1 << 8 * size) - 1
    wide.planes.write(first, size, value)
    for at in range(size):
        narrow.planes.write(first + at, 1, value >> 8 * at & 0xFF)
    assert wide.memory == narrow.memory
    if mode not in (6, 0x0D, 0x12):  # there a store goes to planes that a load does not return
        assert wide.planes.read(first, size) == value


@pytest.mark.parametrize(
    ("number", "first", "size"),
    [(0, 0, 0x20000), (1, 0, 0x10000), (2, 0x10000, 0x8000), (3, 0x18000, 0x8000)],
)
def test_window_follows_the_memory_map(number: int, first: int, size: int) -> None:
    card = Card()
    card.set_mode(0x12)
    card.gr(6, number << 2 | 1)
    for offset in range(0, 0x20000, 0x4000):
        inside = first <= offset < first + size
        card.store(offset, 1, 0x5A)
        assert card.load(offset) == (0x5A if inside else 0xFF), hex(offset)
    assert card.load(first + size - 1) == 0
    card.store(first, 1, 0x11)
    assert card.vram[0] == 0x11


def test_window_is_silent_while_ram_or_the_subsystem_is_off() -> None:
    card = Card()
    card.set_mode(0x12)
    card.store(0, 1, 0x77)
    card.put(0x3C2, MODES[0x12].misc & ~2)
    card.store(0, 1, 0x11)
    assert card.load(0) == 0xFF
    card.put(0x3C2, MODES[0x12].misc)
    assert card.load(0) == 0x77
    card.put(0x3C3, 0)
    assert card.load(0) == 0xFF
    assert card.get(0x3CC) == 0xFF
    card.put(0x3C3, 1)
    assert (card.load(0), card.get(0x3CC)) == (0x77, MODES[0x12].misc)


def test_window_chain4_spreads_pixels_over_planes() -> None:
    card = Card()
    card.set_mode(0x13)
    card.store(0x10, 4, 0x44332211)
    assert bytes(card.vram[0x40:0x44]) == b"\x11\x22\x33\x44"
    card.sr(4, 6)
    card.gr(4, 2)
    assert card.load(0x10) == 0x33


def test_window_banks_of_a_dispi_mode_are_bytes_of_vram() -> None:
    card = Card(vram_size=1 << 20)
    for index, value in ((1, 640), (2, 480), (3, 8), (4, 1)):
        card.dispi(index, value)
    card.dispi(5, 3)
    card.store(0x1234, 8, 0x8877665544332211)
    card.store(0xFFFC, 4, 0xCAFEBABE)
    card.store(0x10000, 1, 1)
    assert bytes(card.vram[0x31234:0x3123C]) == bytes.fromhex("1122334455667788")
    assert bytes(card.vram[0x3FFFC:0x40004]) == bytes.fromhex("bebafeca00000000")
    assert (card.load(0xFFFC, 4), card.load(0x10000)) == (0xCAFEBABE, 0xFF)
    card.dispi(5, 0xFFFF)
    assert card.get_dispi(5) == 15


def test_window_banks_of_a_planar_dispi_mode_count_planar_addresses() -> None:
    card = Card(vram_size=1 << 20)
    for index, value in ((1, 1024), (2, 768), (3, 4), (4, 1)):
        card.dispi(index, value)
    card.dispi(5, 1)
    card.store(2, 1, 0xF0)
    assert bytes(card.vram[0x40008:0x4000C]) == b"\xf0" * 4
    card.dispi(5, 9)
    assert card.get_dispi(5) == 3
