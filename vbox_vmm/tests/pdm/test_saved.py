"""Saved states of instances."""

from __future__ import annotations

from typing import Any

import pytest
from pdm_things import Bridge, Config, Everything, Thing, ThingState, chain, types

from vbox_pdm import (
    DeviceClass,
    DeviceType,
    StateError,
)
from vbox_pdm.pci import BAR0, COMMAND


def saved_pair(make_vm: Any) -> tuple[Any, Any, Any, Any]:
    machines = []
    for _ in range(2):
        vm = make_vm()
        vm.register(*types([]))
        chain(vm, "filter", "bottom")
        (thing,) = vm.build("thing")
        vm.start()
        vm.tm.pause()
        vm.pdm.suspend()
        machines += [vm, thing]
    return tuple(machines)  # type: ignore[return-value]


def test_saved_state_of_everything_comes_back_and_is_identical(make_vm: Any) -> None:
    one, thing, two, other = saved_pair(make_vm)
    thing.value, other.value = 7, 0
    thing.irq.set(True)
    thing.timer.set(5000)
    saved = one.pdm.save()
    assert sorted(saved) == [
        ":pdm", "thing#0", "thing#0/LUN#0/filter#0:helpers", "thing#0:helpers",
    ]  # fmt: skip
    two.pdm.load(saved)
    two.pdm.load(saved)
    assert (other.value, other.irq.level, other.timer.expires) == (7, True, 5000)
    assert two.pdm.isa.level(5)
    assert two.pdm.save() == saved
    two.pdm.resume()
    other.irq.set(False)
    assert not two.pdm.isa.level(5)


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (lambda saved: saved.pop("thing#0:helpers"), "VERR_SSM_LOAD_CONFIG_MISMATCH"),
        (lambda saved: saved.update(extra=b""), "VERR_SSM_LOAD_CONFIG_MISMATCH"),
        (lambda saved: saved.update({"thing#0": saved["thing#0"][:-1]}), "VERR_SSM_LOADED_TOO_MUCH"),
        (lambda saved: saved.update({"thing#0": saved["thing#0"] + b"\0"}), "VERR_SSM_LOADED_TOO_LITTLE"),
        (lambda saved: saved.update({"thing#0": b"\x09" + saved["thing#0"][1:]}),
         "VERR_SSM_UNSUPPORTED_DATA_UNIT_VERSION"),
    ],
)  # fmt: skip
def test_state_that_does_not_fit_changes_nothing(make_vm: Any, damage: Any, status: str) -> None:
    one, thing, _, _ = saved_pair(make_vm)
    saved = one.pdm.save()
    thing.value = 9
    thing.irq.set(True)
    before = one.pdm.save()
    damage(saved)
    with pytest.raises(StateError) as caught:
        one.pdm.load(saved)
    assert caught.value.status == status
    assert one.pdm.save() == before


def test_state_that_the_device_refuses_is_rolled_back(make_vm: Any) -> None:
    one, thing, _, _ = saved_pair(make_vm)
    thing.value = 666
    saved = one.pdm.save()
    thing.value = 9
    before = one.pdm.save()
    with pytest.raises(StateError, match="thing#0 cannot load its state"):
        one.pdm.load(saved)
    assert one.pdm.save() == before


def test_loading_tells_no_controller_and_pci_comes_back_mapped(make_vm: Any) -> None:
    machines = []
    for _ in range(2):
        vm = make_vm()
        vm.register(
            DeviceType("bridge", Bridge, device_class=DeviceClass.BUS_PCI), DeviceType("nic", Everything)
        )
        vm.with_engine()
        machines.append((vm, *vm.build("bridge", "nic")))
    (one, bridge, nic), (two, bridge2, nic2) = machines
    nic.pci.config_write(BAR0, 4, 0xE0000000)
    nic.pci.config_write(COMMAND, 2, 7)
    nic.pci.set_irq(True)
    bridge.intr.interrupt(True)
    nic.vram.view[0x123] = 0x77
    two.pdm.load(one.pdm.save())
    assert bridge2.routes == bridge2.irqs == []
    assert two.pdm.intx.level(1, 0)
    assert two.intr == [True]
    assert nic2.vram.view[0x123] == 0x77
    assert [row.first for row in two.engine.mmio] == [0xE0000000]
    nic2.pci.set_irq(False)
    assert bridge2.routes == [(1, 0, False)]
    assert two.pdm.save() == two.pdm.save()


def test_device_that_raises_a_line_while_loading_is_reported(make_vm: Any) -> None:
    class Eager(Thing):
        def pdm_load(self, state: ThingState) -> None:
            self.irq.set(True)

    vm = make_vm()
    vm.register(DeviceType("thing", type("E", (Eager,), {"log": []}), Config))
    (thing,) = vm.build("thing")
    vm.pdm.load(vm.pdm.save())
    assert vm.iom.failures.counts == {"thing#0": 1}
    assert not vm.pdm.isa.level(5)
    assert not thing.irq.level
