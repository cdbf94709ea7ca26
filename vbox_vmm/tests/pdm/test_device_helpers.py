"""PCI, interrupts, roles: what helpers make of a device's wishes."""

from __future__ import annotations

from typing import Any

import pytest
from pdm_things import Bridge, Everything

from vbox_pdm import (
    Device,
    DeviceClass,
    DeviceType,
    PciIdentity,
    PdmError,
    ShadowMode,
)
from vbox_pdm.pci import BAR0, COMMAND


def test_bars_follow_the_guest_and_reset_unmaps_them(pc: Any) -> None:
    engine = pc.with_engine()
    bridge, nic = pc.build("bridge", "nic")
    assert bridge.bus.function(1, 0) is nic.pci
    assert bridge.bus.function(2, 0) is None
    nic.pci.config_write(BAR0, 4, 0xE0000000)
    nic.pci.config_write(BAR0 + 4, 4, 0xC000)
    nic.pci.config_write(BAR0 + 8, 4, 0xE1000000)
    nic.pci.config_write(0x30, 4, 0xE2000001)
    assert [row.first for row in engine.mmio] == []
    nic.pci.config_write(COMMAND, 2, 7)
    # A ROM of 2 KiB is less than an engine maps: handlers read it.
    assert [(row.first, row.size) for row in engine.mmio] == [(0xE0000000, 0x100), (0xE2000000, 0x800)]
    assert [row.first for row in engine.ports] == [0xC000]
    assert pc.pgm.read(0xE2000000, 2) == b"\x55\xaa"
    assert pc.pgm.read(0xE2000000 + 102, 2) == b"\xff\xff"
    nic.vram.view[0] = 0x99
    assert pc.pgm.read(0xE1000000, 1) == pc.pgm.read(0xA0000, 1) == b"\x99"
    pc.start()
    pc.pdm.reset()
    assert list(engine.mmio) == list(engine.ports) == []
    assert 0xE1000000 not in engine.pages


def test_interrupts_of_pci_functions_reach_the_router(pc: Any) -> None:
    bridge, nic = pc.build("bridge", "nic")
    nic.pci.set_irq(True)
    nic.pci.set_irq(False)
    assert bridge.routes == [(1, 0, True), (1, 0, False)]


def test_message_is_written_to_memory_only_by_a_bus_master(pc: Any) -> None:
    _, nic = pc.build("bridge", "nic")
    nic.pci.config_write(0x44, 4, 0x200000)
    nic.pci.config_write(0x4C, 2, 0x1234)
    nic.pci.config_write(0x42, 2, 1)
    nic.pci.send_message(0)
    assert pc.pgm.read(0x200000, 4) == bytes(4)
    nic.pci.config_write(COMMAND, 2, 4)
    assert pc.pgm.read(0x200000, 4) == b"\x34\x12\0\0"


def test_dma_of_a_function_that_is_no_bus_master_is_scratch(pc: Any) -> None:
    _, nic = pc.build("bridge", "nic")
    pc.pgm.write(0x200000, b"data")
    handle = nic.pci.dma(0x200000, 4)
    assert (bytes(handle.views[0]), handle.complete) == (b"\xff" * 4, False)
    nic.pci.config_write(COMMAND, 2, 4)
    with nic.pci.dma(0x200000, 4) as (view,):
        assert bytes(view) == b"data"


def test_interrupt_controller_drives_intr_and_is_asked_for_the_vector(pc: Any) -> None:
    bridge, _ = pc.build("bridge", "nic")
    assert pc.pdm.acknowledge() == -1
    bridge.intr.interrupt(True)
    bridge.intr.interrupt(True)
    assert pc.intr == [True]
    assert pc.pdm.acknowledge() == 0x20
    bridge.intr.interrupt(False)
    assert pc.pdm.acknowledge() == -1


def test_roles_are_found_or_named_as_missing(pc: Any) -> None:
    bridge, nic = pc.build("bridge", "nic")
    nic.helpers.cmos_write(0x10, 0x40)
    assert nic.helpers.cmos_read(0x10) == bridge.cmos[0x10] == 0x40
    assert nic.helpers.dma_channel(2, lambda position, length: position) == ("channel", 2)
    with pytest.raises(PdmError):
        nic.helpers.dma_channel(4, lambda position, length: position)


def test_pci_device_without_a_bus_is_refused(vm: Any) -> None:
    vm.register(DeviceType("nic", Everything))
    with pytest.raises(PdmError, match="nic#0") as caught:
        vm.build("nic")
    assert caught.value.status == "VERR_PDM_NO_PCI_BUS"


def test_configured_slot_is_used_and_a_taken_one_refused(pc: Any) -> None:
    pc.configure("Devices/nic/0/PCIDeviceNo", 7)
    pc.configure("Devices/nic/0/PCIFunctionNo", 1)
    bridge, nic = pc.build("bridge", "nic")
    assert bridge.bus.function(7, 1) is nic.pci


def test_two_devices_in_one_slot_are_refused_by_name(make_vm: Any) -> None:
    vm = make_vm()

    class Other(Device[Any]):
        def pdm_construct(self) -> None:
            self.helpers.pci(PciIdentity(1, 2, class_code=0), device=7)

    vm.register(DeviceType("bridge", Bridge, device_class=DeviceClass.BUS_PCI), DeviceType("a", Other),
                DeviceType("b", Other))  # fmt: skip
    with pytest.raises(PdmError, match=r"b#0 asks for PCI address 7\.0, which a#0 has"):
        vm.build("bridge", "a", "b")


def test_a20_shadow_and_nmi_mask_return_to_power_on_at_reset(pc: Any) -> None:
    _, nic = pc.build("bridge", "nic")
    pc.start()
    helpers = nic.helpers
    helpers.set_a20(False)
    helpers.mask_nmi(True)
    helpers.shadow(0xF0000, 0x10000, ShadowMode.READ_RAM_WRITE_RAM)
    helpers.nmi()
    assert pc.nmis == 0
    assert pc.pgm.read(0xF0000, 1) == b"\0"
    pc.pdm.reset()
    assert helpers.a20()
    assert pc.pgm.read(0xF0000, 1) == b"\xea"
    helpers.nmi()
    assert pc.nmis == 1
