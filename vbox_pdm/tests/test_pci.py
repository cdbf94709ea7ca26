"""PCI functions: configuration space, BARs, INTx, MSI and MSI-X, against a recording host."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vbox_pdm import (
    Capability,
    Mmio,
    Msi,
    MsiX,
    PciFunction,
    PciIdentity,
    Ports,
    RegistrationError,
    Rom,
    StateError,
)
from vbox_pdm.pci import PciState

IDENTITY = PciIdentity(0x8086, 0x2829, class_code=0x010601, revision=2, subsystem_vendor=0x1234, subsystem=5)


class Mapping:
    def __init__(self, host: Host, region: Any, address: int) -> None:
        self.host, self.region, self.address = host, region, address
        host.mapped.append(self)

    def unmap(self) -> None:
        self.host.mapped.remove(self)

    def move(self, address: int) -> None:
        self.address = address


class Host:
    def __init__(self) -> None:
        self.mapped: list[Mapping] = []
        self.levels: list[tuple[int, bool]] = []
        self.messages: list[tuple[int, int]] = []

    def bar_map(self, function: PciFunction, region: Any, address: int) -> Mapping:
        return Mapping(self, region, address)

    def intx(self, function: PciFunction, pin: int, level: bool) -> None:
        self.levels.append((pin, level))

    def message(self, function: PciFunction, address: int, data: int) -> None:
        self.messages.append((address, data))

    def dma(self, address: int, length: int, write: bool, allowed: bool) -> Any:
        return address, length, write, allowed


def make(*capabilities: Any, identity: PciIdentity = IDENTITY) -> tuple[PciFunction, Host]:
    host = Host()
    return PciFunction(host, identity, capabilities, 3, 1, "ahci#0"), host  # type: ignore[arg-type]


def with_bars() -> tuple[PciFunction, Host]:
    function, host = make(Msi(4, maskable=True), MsiX(3, bar=4))
    function.bar(0, Ports("io", 5))
    function.bar(1, Mmio("registers", 0x1100))
    function.bar(2, Mmio("wide", 0x10000, prefetchable=True), wide=True)
    function.rom(Rom("firmware", bytes(3000)))
    return function, host


# --- configuration space as memory


@given(st.integers(0, 63), st.integers(0, 2**32 - 1))
def test_dwords_follow_writes_sets_resets_and_loads(index: int, value: int) -> None:
    function, _ = with_bars()
    dwords, saved = function.dwords, function.save()

    def same() -> bool:
        return list(dwords) == [
            sum(function.config_read(4 * at + byte, 1) << 8 * byte for byte in range(4)) for at in range(64)
        ]

    function.config_write(4 * index, 4, value)
    assert same()
    function.set_config(4 * index, value.to_bytes(4, "little"))
    assert dwords[index] == value == function.config_read(4 * index, 4)
    function.reset()
    assert same()
    function.set_config(4 * index, value.to_bytes(4, "little"))
    function.load(saved)
    assert same()
    with pytest.raises(TypeError):
        dwords[index] = value


@pytest.mark.parametrize(("offset", "data"), [(255, b"ab"), (-1, b"a"), (256, b"a")])
def test_registers_outside_of_configuration_space_are_refused(offset: int, data: bytes) -> None:
    function, _ = make()
    for change in (function.custom, function.set_config):
        with pytest.raises(RegistrationError, match="256 bytes"):
            change(offset, data)
    assert len(function.save().config) == 256


def test_load_of_a_space_of_another_size_is_refused() -> None:
    function, _ = make()
    before = function.save()
    with pytest.raises(StateError, match="has 255 bytes, not 256"):
        function.load(attrs.evolve(before, config=bytes(255)))
    assert function.save() == before


# --- header


def test_header_after_reset_says_who_it_is() -> None:
    function, _ = make(identity=PciIdentity(0x8086, 0x7000, class_code=0x060100, multifunction=True, pin=2))
    assert function.config_read(0, 4) == 0x70008086
    assert function.config_read(8, 4) == 0x06010000
    assert function.config_read(0x0E, 1) == 0x80
    assert function.config_read(0x3D, 1) == 2
    assert function.config_read(4, 4) == 0


@given(st.integers(0, 255), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFFFFFF))
def test_write_anywhere_keeps_what_is_read_only(offset: int, size: int, value: int) -> None:
    function, _ = with_bars()
    offset = min(offset, 256 - size)
    before = function.save().config
    function.config_write(offset, size, value & ((1 << (8 * size)) - 1))
    after = function.save().config
    for at in (0, 1, 2, 3, 8, 9, 10, 11, 0x0E, 0x2C, 0x2D, 0x2E, 0x2F, 0x34, 0x3D):
        assert after[at] == before[at]
    assert after[5] & ~0x05 == 0
    changed = {at for at in range(256) if after[at] != before[at]}
    assert changed <= set(range(offset, offset + size))


def test_status_bits_are_cleared_by_ones() -> None:
    function, _ = make()
    function.set_config(6, b"\x10\x20")
    function.config_write(6, 2, 0x2000)
    assert function.config_read(6, 2) == 0x0010


# --- BARs


@given(st.integers(1, 1 << 20), st.sampled_from([Ports, Mmio]))
def test_sizing_a_bar_gives_its_size_as_a_power_of_two(size: int, kind: type[Ports] | type[Mmio]) -> None:
    if kind is Ports:
        size = min(size, 256)
    function, _ = make()
    function.bar(0, kind("region", size))
    function.config_write(0x10, 4, 0xFFFFFFFF)
    value = function.config_read(0x10, 4)
    assert value & 1 == (kind is Ports)
    decoded = (~(value & (~3 if kind is Ports else ~15)) & 0xFFFFFFFF) + 1
    assert decoded >= size
    assert decoded & (decoded - 1) == 0
    assert decoded < max(32, 2 * size)
    assert function.bar_sizes()[0] == (decoded, kind is Ports, False)


def test_sizing_a_wide_bar_takes_both_halves() -> None:
    function, _ = with_bars()
    function.config_write(0x18, 4, 0xFFFFFFFF)
    function.config_write(0x1C, 4, 0xFFFFFFFF)
    assert function.config_read(0x18, 4) == 0xFFFF000C
    assert function.config_read(0x1C, 4) == 0xFFFFFFFF


def test_bar_decodes_only_while_its_command_bit_is_set() -> None:
    function, host = with_bars()
    function.config_write(0x10, 4, 0xC000)
    function.config_write(0x14, 4, 0xE0000000)
    assert not host.mapped
    function.config_write(4, 2, 1)
    assert [(m.region.name, m.address) for m in host.mapped] == [("io", 0xC000)]
    assert (function.bar_address(0), function.bar_address(1)) == (0xC000, None)
    function.config_write(4, 2, 2)
    assert ("registers", 0xE0000000) in [(m.region.name, m.address) for m in host.mapped]
    assert function.bar_address(0) is None
    function.config_write(4, 2, 0)
    assert not host.mapped
    assert function.config_read(0x14, 4) == 0xE0000000


def test_moving_a_decoding_bar_maps_it_elsewhere() -> None:
    function, host = with_bars()
    function.config_write(4, 2, 1)
    function.config_write(0x10, 4, 0xC000)
    function.config_write(0x11, 1, 0xD0)
    assert [m.address for m in host.mapped] == [0xD000]


def test_io_bar_beyond_the_ports_decodes_nowhere() -> None:
    function, host = with_bars()
    function.config_write(4, 2, 1)
    function.config_write(0x10, 4, 0x10000)
    assert not host.mapped


def test_rom_decodes_with_its_own_enable_bit() -> None:
    function, host = make()
    function.rom(Rom("firmware", bytes(3000)))
    function.config_write(0x30, 4, 0xFFFFFFFF)
    assert function.config_read(0x30, 4) == 0xFFFFF001
    function.config_write(0x30, 4, 0xE0000000)
    function.config_write(4, 2, 2)
    assert not host.mapped
    function.config_write(0x30, 4, 0xE0000001)
    assert [m.address for m in host.mapped] == [0xE0000000]


@pytest.mark.parametrize("number", [0, 2, 3, 4, 6, -1])
def test_bar_that_is_not_free_is_refused(number: int) -> None:
    function, _ = with_bars()
    with pytest.raises(RegistrationError):
        function.bar(number, Ports("other", 4))


# --- capabilities and custom registers


def test_capabilities_are_a_list_that_ends() -> None:
    function, _ = make(Msi(), Capability(9, b"\x04\x01", at=0x80), MsiX(1, bar=2), Capability(1, bytes(6)))
    assert function.config_read(6, 2) & 0x10
    found, at = [], function.config_read(0x34, 1)
    while at:
        found.append((function.config_read(at, 1), at))
        at = function.config_read(at + 1, 1)
    assert [kind for kind, _ in found] == [5, 9, 0x11, 1]
    assert found[1][1] == 0x80
    assert all(where % 4 == 0 for _, where in found)


@pytest.mark.parametrize("at", [0x3C, 0x41, 0xFF, 0x100])
def test_capability_that_does_not_fit_is_refused(at: int) -> None:
    with pytest.raises(RegistrationError):
        make(Capability(9, b"\0\0", at=at))


def test_custom_registers_have_masks_and_tell_of_changes() -> None:
    function, _ = make()
    seen: list[tuple[int, int]] = []
    function.custom(
        0x50, b"\x12\x34\xff", b"\x0f\x00\x00", w1c=b"\0\0\x0f", changed=lambda o, s: seen.append((o, s))
    )
    function.config_write(0x50, 4, 0xFFF3FFFF)
    assert function.config_read(0x50, 4) == 0x00FC341F
    function.config_write(0x54, 4, 0)
    function.config_write(0x4F, 2, 0)
    assert seen == [(0x50, 4), (0x4F, 2)]


# --- interrupts


def test_set_irq_drives_its_pin_once_a_change_and_shows_in_status() -> None:
    function, host = make()
    function.set_irq(True)
    function.set_irq(True)
    assert host.levels == [(1, True)]
    assert function.config_read(6, 2) & 8
    function.set_irq(False)
    assert host.levels == [(1, True), (1, False)]
    assert not function.config_read(6, 2) & 8


def test_intx_disable_silences_the_pin_but_not_the_status() -> None:
    function, host = make()
    function.set_irq(True)
    function.config_write(4, 2, 0x400)
    assert host.levels[-1] == (1, False)
    assert function.config_read(6, 2) & 8
    function.config_write(4, 2, 0)
    assert host.levels[-1] == (1, True)


def test_function_without_a_pin_drives_nothing() -> None:
    function, host = make(identity=PciIdentity(1, 2, class_code=0, pin=0))
    function.set_irq(True)
    assert host.levels == []


def msi(function: PciFunction, vectors: int = 0, enable: bool = True) -> int:
    at = function.config_read(0x34, 1)
    function.config_write(at + 4, 4, 0xFEE01000)
    function.config_write(at + 8, 4, 1)
    function.config_write(at + 12, 2, 0x4041)
    function.config_write(at + 2, 2, vectors << 4 | enable)
    return at


def test_msi_sends_its_data_with_the_vector_in_the_low_bits() -> None:
    function, host = make(Msi(4))
    msi(function, vectors=2)
    function.config_write(4, 2, 4)
    function.send_message(2)
    assert host.messages == [(0x1FEE01000, 0x4042)]


def test_msi_with_fewer_vectors_granted_folds_them() -> None:
    function, host = make(Msi(4))
    msi(function, vectors=1)
    function.config_write(4, 2, 4)
    function.send_message(3)
    assert host.messages == [(0x1FEE01000, 0x4041)]


def test_msi_enabled_silences_intx() -> None:
    function, host = make(Msi())
    function.set_irq(True)
    msi(function)
    assert host.levels == [(1, True), (1, False)]


def test_msi_masked_vector_is_pending_until_unmasked() -> None:
    function, host = make(Msi(2, maskable=True))
    at = msi(function, vectors=1)
    function.config_write(4, 2, 4)
    function.config_write(at + 16, 4, 2)
    function.send_message(1)
    assert host.messages == []
    assert function.config_read(at + 20, 4) == 2
    function.config_write(at + 16, 4, 0)
    assert len(host.messages) == 1
    assert function.config_read(at + 20, 4) == 0


def test_message_waits_for_bus_mastering_and_is_lost_while_disabled() -> None:
    function, host = make(Msi())
    function.send_message(0)
    msi(function)
    function.config_write(4, 2, 4)
    assert host.messages == []
    function.config_write(4, 2, 0)
    function.send_message(0)
    assert host.messages == []
    function.config_write(4, 2, 4)
    assert len(host.messages) == 1


def test_msix_sends_from_its_table_and_keeps_masked_ones_pending() -> None:
    function, host = make(MsiX(2, bar=0))
    function.config_write(0x10, 4, 0xE0000000)
    function.config_write(4, 2, 6)
    table = host.mapped[0].region
    at = function.config_read(0x34, 1)
    assert function.config_read(at + 4, 4) == 0
    pending = function.config_read(at + 8, 4)
    assert table.read(28, 4) == 1  # masked after reset
    table.write(16, 8, 0xFEE02000)
    table.write(24, 4, 0x51)
    function.config_write(at + 2, 2, 0x8000)
    function.send_message(1)
    function.send_message(7)
    assert host.messages == []
    assert table.read(pending, 4) == 2
    table.write(28, 4, 0)
    assert host.messages == [(0xFEE02000, 0x51)]
    assert table.read(pending, 4) == 0
    function.config_write(at + 2, 2, 0xC000)
    function.send_message(1)
    assert len(host.messages) == 1
    function.config_write(at + 2, 2, 0x8000)
    assert len(host.messages) == 2


# --- DMA


def test_dma_is_allowed_while_bus_mastering_is() -> None:
    function, _ = make()
    assert function.dma(0x1000, 8, write=True) == (0x1000, 8, True, False)
    function.config_write(4, 2, 4)
    assert function.dma(0x1000, 8) == (0x1000, 8, False, True)


# --- reset, save, load


class FunctionMachine(RuleBasedStateMachine):
    """Any guest: what is mapped, driven and saved follows from configuration space."""

    def __init__(self) -> None:
        super().__init__()
        self.function, self.host = with_bars()
        self.saved: PciState | None = None

    @rule(offset=st.integers(0, 255), size=st.sampled_from([1, 2, 4]), value=st.integers(0, 0xFFFFFFFF))
    def write(self, offset: int, size: int, value: int) -> None:
        offset = min(offset, 256 - size)
        self.function.config_write(offset, size, value & ((1 << (8 * size)) - 1))

    @rule(value=st.integers(0, 7))
    def command(self, value: int) -> None:
        self.function.config_write(4, 2, value)

    @rule(level=st.booleans())
    def irq(self, level: bool) -> None:
        self.function.set_irq(level)

    @rule(vector=st.integers(0, 3))
    def message(self, vector: int) -> None:
        self.function.send_message(vector)

    @rule()
    def save(self) -> None:
        self.saved = self.function.save()

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self) -> None:
        levels, messages = len(self.host.levels), len(self.host.messages)
        self.function.load(self.saved)
        assert self.function.save() == self.saved
        assert (len(self.host.levels), len(self.host.messages)) == (levels, messages)
        if self.function.driven != (bool(self.host.levels) and self.host.levels[-1][1]):
            self.host.levels.append((1, self.function.driven))  # a host loads its wires itself

    @rule()
    def reset(self) -> None:
        self.function.reset()
        assert self.function.save() == with_bars()[0].save()
        assert not self.host.mapped

    @invariant()
    def mapped_where_it_decodes(self) -> None:
        command = self.function.config_read(4, 2)
        sizes = self.function.bar_sizes()
        decoding = {
            n: self.function.bar_address(n) for n in sizes if self.function.bar_address(n) is not None
        }
        assert len(self.host.mapped) == len(decoding)
        for number, address in decoding.items():
            size, io, _ = sizes[number]
            assert command & (1 if io else 2)
            assert address is not None
            assert address % size == 0
            at = 0x30 if number == 6 else 0x10 + 4 * number
            assert self.function.config_read(at, 4) & ~0xF == address & 0xFFFFFFF0 or size < 16

    @invariant()
    def pin_is_what_it_was_told_last(self) -> None:
        assert self.function.driven == (bool(self.host.levels) and self.host.levels[-1][1])


TestFunctionMachine = FunctionMachine.TestCase
