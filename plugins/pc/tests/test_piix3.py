"""The ISA bridge: PIRQ routing, reset control, configuration registers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import Device, DeviceType, PciIdentity
from vbox_pdm.helpers import ResetSource
from vbox_pdm.testing import Bench
from vbox_plugin_pc import piix3

PIRQRC, SMIEN, SMIREQ = 0x60, 0xA2, 0xAA
ROUTABLE = {3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15}


def card(slot: int, pin: int, function: int = 0) -> DeviceType:
    """A type of card with one interrupt pin (1..4)."""

    class Card(Device[Any]):
        def pdm_construct(self) -> None:
            self.pci = self.helpers.pci(
                PciIdentity(0x1234, 0x5678, class_code=0xFF0000, pin=pin, multifunction=True),
                device=slot,
                function=function,
            )

    return DeviceType(f"card-{slot}-{function}", Card)


class Board:
    """A bench with the bridge and some cards."""

    def __init__(self, *cards: tuple[int, int]) -> None:
        self.bench = Bench()
        self.bench.plugin(piix3)
        self.device = self.bench.add("piix3")
        self.cards = [self.bench.add(card(slot, pin)) for slot, pin in cards]

    def get(self, offset: int, size: int = 1) -> int:
        return self.bench.pci_read(1, 0, offset, size)

    def put(self, offset: int, value: int, size: int = 1) -> None:
        self.bench.pci_write(1, 0, offset, size, value)

    def config(self) -> bytes:
        return bytes(self.get(offset) for offset in range(256))

    def drive(self, number: int, level: bool) -> None:
        self.cards[number].pci.set_irq(level)

    @property
    def lines(self) -> set[int]:
        return {line for line in range(16) if self.bench.irq(line)}


def test_piix3_identity_and_power_on_registers_follow_the_data_sheet() -> None:
    board = Board()
    for offset, size, value in (
        (0x00, 4, 0x70008086), (0x04, 2, 0x0007), (0x06, 2, 0x0200), (0x08, 4, 0x06010000),
        (0x0E, 1, 0x80), (0x3D, 1, 0), (0x4C, 1, 0x4D), (0x4E, 2, 0x0003), (0x60, 4, 0x80808080),
        (0x69, 1, 0x02), (0x6A, 2, 0), (0x70, 1, 0x80), (0x76, 2, 0x0C0C), (0x78, 2, 0x0002),
        (0xA0, 1, 0x08), (0xA8, 1, 0x0F),
    ):  # fmt: skip
        assert board.get(offset, size) == value, hex(offset)


@pytest.mark.parametrize("slot", [2, 3, 4, 5, 31])
@pytest.mark.parametrize("pin", [1, 2, 3, 4])
def test_piix3_slots_are_swizzled_over_pirqs(slot: int, pin: int) -> None:
    board = Board((slot, pin))
    for index, line in enumerate((3, 5, 7, 11)):
        board.put(PIRQRC + index, line)
    board.drive(0, True)
    assert board.lines == {(3, 5, 7, 11)[(slot + pin - 2) % 4]}
    board.drive(0, False)
    assert board.lines == set()


@pytest.mark.parametrize("value", range(256))
def test_piix3_routes_only_to_allowed_interrupts(value: int) -> None:
    board = Board((5, 1))
    board.put(PIRQRC, value)
    board.drive(0, True)
    assert board.get(PIRQRC) == value & 0x8F
    line = value & 0x0F
    assert board.lines == ({line} if not value & 0x80 and line in ROUTABLE else set())


def test_piix3_shared_line_stays_high_until_all_let_go() -> None:
    board = Board((5, 1), (6, 1), (9, 1))  # PIRQA, PIRQB, PIRQA
    board.put(PIRQRC, 0x0B0B, 2)
    for number in range(3):
        board.drive(number, True)
    for number in (0, 1):
        board.drive(number, False)
        assert board.lines == {11}
    board.drive(2, False)
    assert board.lines == set()


def test_piix3_routing_anew_moves_an_asserted_line() -> None:
    board = Board((5, 1), (6, 1))
    board.put(PIRQRC, 0x0B0A, 2)
    board.drive(0, True)
    board.drive(1, True)
    assert board.lines == {10, 11}
    board.put(PIRQRC, 11)
    assert board.lines == {11}
    board.put(PIRQRC + 1, 0x80)
    assert board.lines == {11}
    board.put(PIRQRC, 0x80)
    assert board.lines == set()
    board.put(PIRQRC + 1, 9)
    assert board.lines == {9}


def test_piix3_reset_lowers_lines_and_disables_routes() -> None:
    board = Board((5, 1))
    before = board.bench.save()["piix3#0"]
    board.put(PIRQRC, 11)
    board.drive(0, True)
    board.bench.port_write(0xCF9, 1, 2)
    board.bench.port_write(0xB2, 2, 0x1234)
    board.bench.reset()
    assert board.lines == set()
    once = board.bench.save()["piix3#0"]
    board.bench.reset()
    assert once == board.bench.save()["piix3#0"] == before
    assert board.get(PIRQRC) == 0x80


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([0x02, 0x06], [(ResetSource.PCI, False)]),
        ([0x06], [(ResetSource.PCI, False)]),
        ([0x0E], [(ResetSource.PCI, False)]),
        ([0x04], [(ResetSource.PCI, True)]),
        ([0x00, 0x04, 0x04], [(ResetSource.PCI, True)]),
        ([0x04, 0x00, 0x06], [(ResetSource.PCI, True), (ResetSource.PCI, False)]),
        ([0x02, 0xF9], []),
    ],
)
def test_piix3_reset_control_acts_on_an_edge(writes: list[int], expected: list[Any]) -> None:
    board = Board()
    for value in writes:
        board.bench.port_write(0xCF9, 1, value)
        assert board.bench.port_read(0xCF9, 1) == value & 6
    assert board.bench.resets == expected


def test_piix3_apm_ports_keep_bytes_and_note_requests() -> None:
    board = Board()
    board.bench.port_write(0xB2, 1, 0xA1)
    board.bench.port_write(0xB3, 1, 0x55)
    assert board.bench.port_read(0xB2, 2) == 0x55A1
    assert board.get(SMIREQ, 2) == 0
    board.put(SMIEN, 0x80)
    board.bench.port_write(0xB2, 1, 0xA1)
    board.put(SMIREQ, 0xFFFF, 2)
    assert board.get(SMIREQ, 2) == 0x80
    board.put(SMIREQ, 0x00)
    assert board.get(SMIREQ, 2) == 0


WRITABLE = {
    0x04: 0x08, 0x05: 0x01, 0x4C: 0xFF, 0x4E: 0xFF, 0x4F: 0x01, 0x60: 0x8F, 0x61: 0x8F, 0x62: 0x8F,
    0x63: 0x8F, 0x69: 0xFE, 0x6A: 0xD1, 0x70: 0xEF, 0x76: 0x8F, 0x77: 0x8F, 0x78: 0xFF, 0x79: 0xFF,
    0x80: 0x7F, 0x82: 0x0F, 0xA0: 0x1F, 0xA2: 0xFF, 0xA3: 0x01, 0xA4: 0xFB, 0xA5: 0xFF, 0xA6: 0xFF,
    0xA7: 0xEF, 0xA8: 0xFF, 0xAC: 0xFF, 0xAE: 0xFF,
}  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=60))
def test_piix3_read_only_bits_never_change(writes: list[tuple[int, int]]) -> None:
    board = Board()
    before = board.config()
    for offset, value in writes:
        board.put(offset, value)
    after = board.config()
    for offset in range(256):
        assert not (before[offset] ^ after[offset]) & ~WRITABLE.get(offset, 0), hex(offset)
    for offset, value in dict(writes).items():
        assert after[offset] & WRITABLE.get(offset, 0) == value & WRITABLE.get(offset, 0)


operations = st.one_of(
    st.tuples(st.just("route"), st.integers(0, 3), st.integers(0, 255)),
    st.tuples(st.just("drive"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("port"), st.sampled_from([0xCF9, 0xB2, 0xB3]), st.integers(0, 255)),
    st.tuples(st.just("config"), st.integers(0, 255), st.integers(0, 255)),
)
CARDS = ((2, 1), (3, 2), (5, 1), (9, 4))


def apply(board: Board, operation: tuple[Any, ...]) -> Any:
    match operation:
        case ("route", index, value):
            board.put(PIRQRC + index, value)
        case ("drive", number, level):
            board.drive(number, level)
        case ("port", port, value):
            board.bench.port_write(port, 1, value)
        case ("config", offset, value):
            board.put(offset, value)
    return board.lines, [board.bench.port_read(port) for port in (0xCF9, 0xB2, 0xB3)]


@settings(max_examples=80, deadline=None)
@given(st.lists(operations, max_size=50))
def test_piix3_lines_are_the_or_of_what_is_routed_there(script: list[tuple[Any, ...]]) -> None:
    board = Board(*CARDS)
    for operation in script:
        apply(board, operation)
        expected = set()
        for (slot, pin), owner in zip(CARDS, board.cards, strict=True):
            route = board.get(PIRQRC + (slot + pin - 2) % 4)
            if owner.pci.irq_level and route in ROUTABLE:
                expected.add(route)
        assert board.lines == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(operations, max_size=30), st.lists(operations, max_size=30))
def test_piix3_saved_state_goes_on_identically(before: list[Any], after: list[Any]) -> None:
    first, second = Board(*CARDS), Board(*CARDS)
    for operation in before:
        apply(first, operation)
    edges = len(second.bench.irq_edges)
    second.bench.load(first.bench.save())
    assert len(second.bench.irq_edges) == edges
    assert first.lines == second.lines
    asked = len(first.bench.resets)
    for operation in after:
        assert apply(first, operation) == apply(second, operation)
    assert first.config() == second.config()
    assert first.bench.resets[asked:] == second.bench.resets
    assert first.bench.save()["piix3#0"] == second.bench.save()["piix3#0"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0xB1, 0xB2, 0xB3, 0xCF6, 0xCF8, 0xCF9, 0xCFA]),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 2**32 - 1),
        ),
        max_size=40,
    )
)
def test_piix3_nonsense_never_raises(accesses: list[tuple[int, int, int]]) -> None:
    board = Board()
    for port, size, value in accesses:
        board.bench.port_write(port, size, value & (1 << 8 * size) - 1)
        assert 0 <= board.bench.port_read(port, size) < 1 << 8 * size
