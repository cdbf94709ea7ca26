"""The host bridge: configuration mechanism 1, its own registers, shadowing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import Device, DeviceType, PciIdentity, Ports, Rom
from vbox_pdm.helpers import ResetSource
from vbox_pdm.testing import Bench
from vbox_plugin_pc import i440fx, piix3

ENABLE = 1 << 31
PAM, SMRAM, TRC = 0x59, 0x72, 0x93


class Firmware(Device[Any]):
    """A ROM where the BIOS is."""

    def pdm_construct(self) -> None:
        self.helpers.map_rom(0xE0000, Rom("bios", b"\xbb" * 0x20000))


class Card(Device[Any]):
    """A function with all bytes of its own."""

    def pdm_construct(self) -> None:
        pci = self.helpers.pci(PciIdentity(0x1234, 0x5678, class_code=0xFF0000), device=5, function=0)
        pci.custom(0x40, bytes(range(64)), b"\xff" * 64)


class Board:
    """A bench with a host bridge."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.bench.plugin(i440fx)
        self.bench.plugin(piix3)
        self.bench.add(DeviceType("firmware", Firmware))
        self.device = self.bench.add("i440fx")
        self.bench.add(DeviceType("card", Card))

    def select(self, device: int, offset: int, *, bus: int = 0, function: int = 0) -> None:
        address = ENABLE | bus << 16 | device << 11 | function << 8 | offset & 0xFC
        self.bench.port_write(0xCF8, 4, address)

    def get(self, offset: int, size: int = 1, device: int = 0) -> int:
        self.select(device, offset)
        return self.bench.port_read(0xCFC + offset % 4, size)

    def put(self, offset: int, value: int, size: int = 1, device: int = 0) -> None:
        self.select(device, offset)
        self.bench.port_write(0xCFC + offset % 4, size, value)

    def config(self) -> bytes:
        return bytes(self.get(offset) for offset in range(256))


def test_i440fx_identity_and_power_on_registers_follow_the_data_sheet() -> None:
    board = Board()
    for offset, size, value in (
        (0x00, 4, 0x12378086), (0x04, 2, 0x0006), (0x06, 2, 0x0280), (0x08, 4, 0x06000002),
        (0x0E, 1, 0), (0x3D, 1, 0), (0x53, 1, 0x80), (0x57, 1, 0x01), (0x58, 1, 0x10), (0x59, 1, 0),
            (0x5C, 4, 0),
        (0x60, 4, 0x01010101), (0x64, 4, 0x01010101), (0x71, 1, 0x10), (0x72, 1, 0x02),
            (0x90, 2, 0), (0x93, 1, 0),
    ):  # fmt: skip
        assert board.get(offset, size) == value, hex(offset)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.integers(0, 2**32 - 1),
                st.builds(
                    lambda device, offset: ENABLE | device << 11 | offset,
                    st.sampled_from([0, 1, 5, 6]),
                    st.integers(0, 255),
                ),
            ),
            st.sampled_from([(at, size) for size in (1, 2, 4) for at in range(5 - size)]),
            st.one_of(st.none(), st.integers(0, 2**32 - 1)),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_i440fx_data_ports_show_the_function_that_the_address_names(
    accesses: list[tuple[int, tuple[int, int], int | None]],
) -> None:
    bench = Board().bench
    there = {(function.device, function.function): function for function in bench.pci_functions()}
    for address, (at, size), value in accesses:
        bench.port_write(0xCF8, 4, address)
        named = there.get((address >> 11 & 31, address >> 8 & 7))
        expected = (1 << 8 * size) - 1
        if value is not None and address >> 11 & 31:  # the bridge itself might reset the machine
            bench.port_write(0xCFC + at, size, value & expected)
        if named is not None and address >> 16 & 0x80FF == 0x8000:
            register = (address & 0xFC) + at
            expected = sum(named.config_read(register + byte, 1) << 8 * byte for byte in range(size))
        assert bench.port_read(0xCFC + at, size) == expected, hex(address)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_i440fx_address_register_keeps_defined_bits(value: int) -> None:
    bench = Board().bench
    bench.port_write(0xCF8, 4, value)
    assert bench.port_read(0xCF8, 4) == value & 0x80FFFFFC


@pytest.mark.parametrize(("port", "size"), [(p, 1) for p in range(0xCF8, 0xCFC)] + [(0xCF8, 2), (0xCFA, 2)])
def test_i440fx_address_register_ignores_narrow_accesses(port: int, size: int) -> None:
    bench = Board().bench
    bench.port_write(0xCF8, 4, 0x80001234)
    bench.port_write(port, size, 0x5555)
    assert bench.port_read(0xCF8, 4) == 0x80001234
    assert bench.port_read(port, size) == (1 << 8 * size) - 1


def test_i440fx_leaves_bytes_at_cf9_to_others() -> None:
    board = Board()
    board.bench.add("piix3")
    board.bench.port_write(0xCF8, 4, 0x80000000)
    board.bench.port_write(0xCF9, 1, 0x02)
    assert board.bench.port_read(0xCF9, 1) == 0x02
    assert board.bench.port_read(0xCF8, 4) == 0x80000000
    board.bench.port_write(0xCF9, 1, 0x06)
    assert board.bench.resets == [(ResetSource.PCI, False)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_i440fx_data_ports_take_all_widths(size: int) -> None:
    board = Board()
    for offset in range(0x40, 0x50, size):
        expected = int.from_bytes(bytes(range(offset - 0x40, offset - 0x40 + size)), "little")
        assert board.get(offset, size, device=5) == expected
        board.put(offset, 0x11111111 * size & (1 << 8 * size) - 1, size, device=5)
        assert board.get(offset, size, device=5) == 0x11111111 * size & (1 << 8 * size) - 1


@pytest.mark.parametrize(
    ("device", "bus", "function"), [(9, 0, 0), (5, 0, 1), (0, 1, 0), (5, 255, 0), (31, 0, 7)]
)
def test_i440fx_absent_function_reads_ones(device: int, bus: int, function: int) -> None:
    board = Board()
    board.select(device, 0x40, bus=bus, function=function)
    for size in (1, 2, 4):
        assert board.bench.port_read(0xCFC, size) == (1 << 8 * size) - 1
    board.bench.port_write(0xCFC, 4, 0)
    assert board.get(0x40, 4, device=5) == 0x03020100


def test_i440fx_disabled_mechanism_leaves_data_ports_alone() -> None:
    board = Board()
    board.bench.port_write(0xCF8, 4, 0x2840)
    assert board.bench.port_read(0xCFC, 4) == 0xFFFFFFFF
    board.bench.port_write(0xCFC, 4, 0)
    assert board.get(0x40, 4, device=5) == 0x03020100


RANGES = [
    (0x59, 4, 0xF0000, 0x10000),
    *[(0x5A + index // 2, index % 2 * 4, 0xC0000 + index * 0x4000, 0x4000) for index in range(12)],
]


@pytest.mark.parametrize(("register", "shift", "first", "size"), RANGES)
def test_i440fx_pam_directs_reads_and_writes(register: int, shift: int, first: int, size: int) -> None:
    board = Board()
    memory = board.bench
    rom = 0xBB if first >= 0xE0000 else 0xFF

    def put(value: int) -> None:
        memory.mmio_write(first, 1, value)
        memory.mmio_write(first + size - 1, 1, value)

    def get() -> set[int]:
        return {memory.mmio_read(first, 1), memory.mmio_read(first + size - 1, 1)}

    put(0x11)
    assert get() == {rom}
    board.put(register, 2 << shift)  # writes go to RAM, reads to ROM
    put(0x22)
    assert get() == {rom}
    board.put(register, 1 << shift)  # reads come from RAM, writes go nowhere
    assert get() == {0x22}
    put(0x33)
    assert get() == {0x22}
    board.put(register, 3 << shift)
    put(0x44)
    assert get() == {0x44}
    board.put(register, 0)
    assert get() == {rom}


def test_i440fx_pam_dword_write_changes_all_it_covers() -> None:
    board = Board()
    board.put(0x58, 0x33333010, 4)
    board.put(0x5C, 0x33333333, 4)
    for _, _, first, _ in RANGES:
        board.bench.mmio_write(first, 1, 0x5A)
        assert board.bench.mmio_read(first, 1) == 0x5A


def test_i440fx_reset_closes_the_shadow() -> None:
    board = Board()
    before = board.config()
    for register in range(0x59, 0x60):
        board.put(register, 0x33)
    board.put(SMRAM, 0x5A)
    board.bench.mmio_write(0xF0000, 1, 0)
    board.bench.reset()
    assert board.bench.mmio_read(0xF0000, 1) == 0xBB
    assert board.bench.port_read(0xCF8, 4) == 0
    assert board.config() == before


def test_i440fx_smram_shows_ram_while_open() -> None:
    board = Board()
    board.put(SMRAM, 0x4A)
    board.bench.mmio_write(0xA8000, 4, 0x12345678)
    assert board.bench.mmio_read(0xA8000, 4) == 0x12345678
    board.put(SMRAM, 0x0A)
    assert board.bench.mmio_read(0xA8000, 4) == 0xFFFFFFFF


def test_i440fx_smram_lock_holds_until_reset() -> None:
    board = Board()
    board.put(SMRAM, 0x4A)
    board.put(SMRAM, 0x5A)
    assert board.get(SMRAM) == 0x1A
    board.put(SMRAM, 0x62)
    assert board.get(SMRAM) == 0x3A  # D_CLS alone is still open
    board.bench.reset()
    assert board.get(SMRAM) == 0x02


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0x02, 0x06], [(ResetSource.PCI, False)]),
        ([0x04], [(ResetSource.PCI, True)]),
        ([0x04, 0x04], [(ResetSource.PCI, True)]),
        ([0x02, 0x08], []),
    ],
)
def test_i440fx_turbo_reset_control(values: list[int], expected: list[Any]) -> None:
    board = Board()
    for value in values:
        board.put(TRC, value)
    assert board.bench.resets == expected


WRITABLE = {
    0x04: 0x40, 0x05: 0x01, 0x0D: 0xF8, 0x50: 0x70, 0x51: 0x80, 0x52: 0xFF, 0x53: 0xFF, 0x54: 0x82,
    0x55: 0xFF, 0x56: 0xFF, 0x57: 0x77, 0x58: 0x7F, 0x59: 0x30, **dict.fromkeys(range(0x5A, 0x60), 0x33),
    **dict.fromkeys(range(0x60, 0x68), 0xFF), 0x68: 0xC0, 0x70: 0xF8, 0x71: 0x1F, 0x90: 0x1B,
}  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=50))
def test_i440fx_read_only_bits_never_change(writes: list[tuple[int, int]]) -> None:
    board = Board()
    before = board.config()
    for offset, value in writes:
        if offset not in (SMRAM, TRC):
            board.put(offset, value)
    after = board.config()
    for offset in range(256):
        changed = before[offset] ^ after[offset]
        assert not changed & ~WRITABLE.get(offset, 0), hex(offset)
    for offset, value in dict(writes).items():
        assert after[offset] & WRITABLE.get(offset, 0) == value & WRITABLE.get(offset, 0)


access = st.tuples(
    st.sampled_from([0xCF8, 0xCF8, 0xCFC, 0xCFD, 0xCFE, 0xCFF, 0xCFB]),
    st.sampled_from([1, 2, 4]),
    st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 63).map(lambda n: ENABLE | n << 2)),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(access, max_size=40), st.lists(access, max_size=40))
def test_i440fx_saved_state_goes_on_identically(before: list[Any], after: list[Any]) -> None:
    first, second = Board(), Board()
    for port, size, value in before:
        first.bench.port_write(port, size, value & (1 << 8 * size) - 1)
    second.bench.load(first.bench.save())
    asked = len(first.bench.resets)
    for port, size, value in after:
        for board in (first, second):
            board.bench.port_write(port, size, value & (1 << 8 * size) - 1)
        assert first.bench.port_read(port, size) == second.bench.port_read(port, size)
    assert first.config() == second.config()
    assert first.bench.resets[asked:] == second.bench.resets
    for _, _, address, _ in RANGES:
        for board in (first, second):
            board.bench.mmio_write(address, 1, 0x77)
        assert first.bench.mmio_read(address, 1) == second.bench.mmio_read(address, 1)


def test_i440fx_is_alone_at_its_ports() -> None:
    class Thief(Device[Any]):
        def pdm_construct(self) -> None:
            self.helpers.map_ports(0xCF8, Ports("thief", 4))

    with pytest.raises(Exception, match="CONFLICT"):
        Board().bench.add(DeviceType("thief", Thief))
