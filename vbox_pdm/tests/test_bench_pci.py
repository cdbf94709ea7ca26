"""PCI functions on the bench: configuration, BARs, DMA, INTx, messages, roles."""

from __future__ import annotations

from typing import Any

import pytest

from vbox_pdm import (
    Device,
    DeviceType,
    Mmio,
    Msi,
    MsiX,
    PciIdentity,
    PdmError,
    Ports,
    Ram,
    Rom,
    Width,
)
from vbox_pdm.testing import Bench


class Card(Device[None]):
    """A function with every kind of BAR."""

    def pdm_construct(self) -> None:
        self.pci = self.helpers.pci(PciIdentity(0x1AF4, 0x1000, class_code=0x020000), capabilities=[Msi(2)])
        self.register = 0
        self.pci.bar(0, Ports("io", 8, self.read, self.write, width=Width.BYTE))
        self.pci.bar(1, Mmio("registers", 0x100, lambda offset, size: offset))
        self.ram = self.helpers.ram(Ram("vram", 0x2000))
        self.pci.bar(2, self.ram, wide=True)
        self.pci.rom(Rom("rom", b"\x55\xaa"))

    def read(self, offset: int, size: int) -> int:
        return self.register

    def write(self, offset: int, size: int, value: int) -> None:
        self.register = value


CARD = DeviceType("card", Card)


def bare(construct: Any) -> DeviceType:
    return DeviceType("bare", type("Bare", (Device,), {"pdm_construct": construct}))


def one(identity: PciIdentity | None = None, **options: Any) -> DeviceType:
    def construct(self: Any) -> None:
        self.pci = self.helpers.pci(identity or PciIdentity(1, 2, class_code=0), **options)

    return bare(construct)


def test_config_space_is_reached_by_slot_and_by_device() -> None:
    with Bench() as bench:
        card = bench.add(CARD)
        assert bench.pci_read(1, 0, 0, 4) == 0x10001AF4
        assert bench.pci_read(card, 0, 2, 2) == 0x1000
        assert bench.pci_read(5, 0, 0, 4) == 0xFFFFFFFF
        bench.pci_write(card, 0, 0x3C, 1, 11)
        bench.pci_write(6, 0, 0x3C, 1, 11)
        assert bench.pci_read(1, 0, 0x3C, 1) == 11
        assert bench.pci_functions() == [card.pci]
        assert bench.pci_function(card) is bench.pci_function(1) is card.pci
        with pytest.raises(PdmError):
            bench.pci_function(2)
        with pytest.raises(PdmError):
            bench.pci_read(1, 0, 0xFE, 4)


def test_pci_enable_places_bars_as_firmware_does() -> None:
    with Bench() as bench:
        card, other = bench.add(CARD), bench.add(CARD)
        first = bench.pci_enable(card)
        second = bench.pci_enable(other, at={1: 0xFD000000, 2: 1 << 33}, rom=True)
        assert set(first) == {0, 1, 2}
        assert set(second) == {0, 1, 2, 6}
        assert second[1] == 0xFD000000
        for placed, thing in ((first, card), (second, other)):
            for number, address in placed.items():
                assert thing.pci.bar_address(number) == address
                assert address % thing.pci.bar_sizes()[number][0] == 0
        bench.port_write(first[0] + 3, 1, 0x5A)
        assert bench.port_read(first[0]) == 0x5A
        assert bench.port_read(second[0]) == 0
        assert bench.mmio_read(0xFD000010, 4) == 0x10
        bench.mmio_write(1 << 33, 4, 0x44)
        assert other.ram.view[0] == 0x44
        assert bench.mmio_read(second[6], 4) == 0xFFFFAA55
        assert bench.pci_enable(other, at=0xD000)[0] == 0xD000
        assert bench.port_read(0xD000) == 0


def test_bar_yields_to_fixed_regions_and_ram_and_lower_slots() -> None:
    def construct(self: Any) -> None:
        self.helpers.map_ports(0xC000, Ports("fixed", 4, lambda o, s: 0xF1))

    with Bench() as bench:
        first, second = bench.add(CARD), bench.add(CARD)
        bench.add(bare(construct))
        first.register, second.register = 1, 2
        bench.pci_enable(second, at={0: 0xC000, 1: 0x1000})
        assert [bench.port_read(at) for at in (0xC003, 0xC004)] == [0xF1, 2]
        assert bench.mmio_read(0x1010, 4) == 0
        bench.pci_enable(first, at={0: 0xC000})
        assert bench.port_read(0xC004) == 1
        bench.pci_write(1, 0, 4, 2, 0)
        assert bench.port_read(0xC004) == 2


def test_dma_is_scratch_until_bus_mastering_is_on() -> None:
    with Bench() as bench:
        card = bench.add(CARD)
        bench.memory_write(0x1000, b"data")
        with card.pci.dma(0x1000, 4, write=True) as (view,):
            assert bytes(view) == b"\xff" * 4
            view[:] = b"lost"
        assert bench.memory_read(0x1000, 4) == b"data"
        assert bench.dma_written == []
        bench.pci_enable(card)
        with card.pci.dma(0x1000, 4, write=True) as (view,):
            assert bytes(view) == b"data"
            view[:] = b"kept"
        assert bench.memory_read(0x1000, 4) == b"kept"
        assert bench.dma_written == [(0x1000, 4)]


def test_intx_is_the_or_of_a_slot_and_low_after_reset() -> None:
    def construct(self: Any) -> None:
        self.functions = [
            self.helpers.pci(PciIdentity(1, 2, class_code=0, pin=2), device=9, function=n) for n in range(2)
        ]

    with Bench() as bench:
        thing = bench.add(bare(construct))
        first, second = thing.functions
        bench.advance(3)
        first.set_irq(True)
        second.set_irq(True)
        first.set_irq(False)
        assert bench.pci_irq(9, 2)
        assert bench.pci_irq(thing)
        assert not bench.pci_irq(9, 1)
        assert bench.pci_irq_edges == [(3, (9, 2), True)]
        bench.reset()
        assert not bench.pci_irq(9, 2)
        assert bench.pci_irq_edges[1:] == [(3, (9, 2), False)]


def test_router_gets_intx_as_slots_drive_it() -> None:
    class Router(Device[None]):
        def pdm_construct(self) -> None:
            self.routed: list[tuple[int, int, bool]] = []
            self.helpers.provide_pci_router(self)
            self.bus = self.helpers.provide_pci_bus()

        def route(self, device: int, pin: int, level: bool) -> None:
            self.routed.append((device, pin, level))

    with Bench() as bench:
        router = bench.add(Router)
        card = bench.add(CARD)
        card.pci.set_irq(True)
        card.pci.set_irq(False)
        assert router.routed == [(1, 0, True), (1, 0, False)]
        assert router.bus.function(1, 0) is card.pci
        assert router.bus.function(2, 0) is None


def test_message_is_tapped_and_written() -> None:
    with Bench() as bench:
        card = bench.add(CARD)
        bench.pci_enable(card)
        at = card.pci.config_read(0x34, 1)
        bench.pci_write(1, 0, at + 4, 4, 0x2000)
        bench.pci_write(1, 0, at + 12, 2, 0x31)
        bench.pci_write(1, 0, at + 2, 2, 1)
        card.pci.send_message(0)
        assert bench.messages == [(0x2000, 0x31)]
        assert bench.memory_read(0x2000, 4) == b"\x31\0\0\0"
        card.pci.set_irq(True)
        assert not bench.pci_irq(card)


def test_msix_table_is_reached_by_its_bar() -> None:
    with Bench() as bench:
        card = bench.add(one(capabilities=[MsiX(2, bar=0)]))
        (address,) = bench.pci_enable(card).values()
        bench.mmio_write(address, 8, 0xFEE00000)
        bench.mmio_write(address + 8, 4, 0x55)
        bench.mmio_write(address + 12, 4, 0)
        bench.pci_write(card, 0, card.pci.config_read(0x34, 1) + 2, 2, 0x8000)
        card.pci.send_message(0)
        assert bench.messages == [(0xFEE00000, 0x55)]


def test_slots_are_suggested_overridden_and_never_shared() -> None:
    with Bench() as bench:
        bridge = bench.add(one(device=0))
        first = bench.add(one())
        moved = bench.add(one(device=7), pci_device=3, pci_function=1)
        second = bench.add(one())
        found = [(f.pci.device, f.pci.function) for f in (bridge, first, moved, second)]
        assert found == [(0, 0), (1, 0), (3, 1), (2, 0)]
        for wrong, status in (
            (one(device=0), "VERR_PDM_BAD_PCI_CONFIG"),
            (one(device=32), "VERR_INVALID_PARAMETER"),
            (one(device=4, function=8), "VERR_INVALID_PARAMETER"),
        ):
            with pytest.raises(PdmError) as caught:
                bench.add(wrong)
            assert caught.value.status == status
        assert len(bench.pci_functions()) == 4


def test_all_slots_taken_is_an_error() -> None:
    with Bench() as bench:
        for _ in range(31):
            bench.add(one())
        with pytest.raises(PdmError) as caught:
            bench.add(one())
        assert caught.value.status == "VERR_PDM_TOO_PCI_MANY_DEVICES"


def test_functions_of_one_device_move_together() -> None:
    def construct(self: Any) -> None:
        self.isa = self.helpers.pci(PciIdentity(1, 2, class_code=0), device=1)
        self.ide = self.helpers.pci(PciIdentity(1, 3, class_code=0), device=1, function=1)

    with Bench() as bench:
        thing = bench.add(bare(construct), pci_device=5)
        assert [(f.device, f.function) for f in (thing.isa, thing.ide)] == [(5, 0), (5, 1)]


def test_saved_state_brings_bars_lines_and_ram_back() -> None:
    def build() -> tuple[Bench, Any]:
        bench = Bench(ram=1 << 20)
        return bench, bench.add(CARD)

    bench, card = build()
    placed = bench.pci_enable(card)
    card.ram.view[5] = 9
    card.pci.set_irq(True)
    saved = bench.save()
    other, twin = build()
    other.load(saved)
    assert {n: twin.pci.bar_address(n) for n in placed} == placed
    assert twin.ram.view[5] == 9
    assert other.pci_irq(twin)
    assert twin.pci.irq_level
    assert other.pci_irq_edges == []
    assert other.mmio_read(placed[2] + 4, 2) == 0x0900
    assert other.save() == saved
    twin.pci.set_irq(False)
    assert not other.pci_irq(twin)


def test_destruct_takes_everything_down() -> None:
    bench = Bench()
    card = bench.add(CARD)
    placed = bench.pci_enable(card)
    card.pci.set_irq(True)
    bench.power_off()
    assert not bench.pci_irq(1, 1)
    bench.destruct()
    assert bench.pci_functions() == []
    assert bench.port_read(placed[0]) == 0xFF
