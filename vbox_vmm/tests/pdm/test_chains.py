"""Chains of drivers: traffic, look-ups, changes at run time."""

from __future__ import annotations

from typing import Any

import pytest
from pdm_things import chain

from vbox_pdm import (
    CharStream,
    Device,
    DeviceType,
    Driver,
    DriverType,
    PdmError,
    hookimpl,
)


def test_traffic_goes_through_the_chain_in_both_directions(thing_vm: Any) -> None:
    chain(thing_vm, "filter", "bottom")
    (thing,) = thing_vm.build("thing")
    bottom = thing_vm.pdm.wiring.query_driver_on_lun("thing", 0, 0, "bottom").object
    assert thing.ends[0].connected
    assert thing.ends[0].char_send(b"down") == 4
    assert bottom.sent == [b"down"]
    bottom.above.char_received(b"up")
    assert thing.got == [b"up"]


def test_lookup_errors_come_one_after_the_other(thing_vm: Any) -> None:
    thing_vm.build("thing")
    wiring = thing_vm.pdm.wiring
    for call, status in (
        (lambda: wiring.query_device("nothing", 0), "VERR_PDM_DEVICE_NOT_FOUND"),
        (lambda: wiring.query_device("thing", 5), "VERR_PDM_DEVICE_INSTANCE_NOT_FOUND"),
        (lambda: wiring.query_device_lun("thing", 0, 9), "VERR_PDM_LUN_NOT_FOUND"),
        (lambda: wiring.query_lun("thing", 0, 0), "VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN"),
        (lambda: wiring.device_attach("thing", 0, 0), "VERR_PDM_NO_ATTACHED_DRIVER"),
        (lambda: wiring.device_attach("thing", 0, 9), "VERR_PDM_LUN_NOT_FOUND"),
    ):
        with pytest.raises(PdmError) as caught:
            call()
        assert caught.value.status == status


def test_attach_and_detach_at_run_time_live_through_their_lives(thing_vm: Any, log: list[str]) -> None:
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    wiring = thing_vm.pdm.wiring
    chain(thing_vm, "filter", "bottom")
    log.clear()
    wiring.device_attach("thing", 0, 0)
    assert thing.ends[0].connected
    assert log == [
        "bottom0.construct", "filter0.construct", "filter0.init_complete", "bottom0.init_complete",
        "filter0.power_on", "bottom0.power_on", "thing0.attach",
    ]  # fmt: skip
    with pytest.raises(PdmError) as caught:
        wiring.device_attach("thing", 0, 0)
    assert caught.value.status == "VERR_PDM_DRIVER_ALREADY_ATTACHED"
    log.clear()
    assert wiring.device_detach("thing", 0, 0) == "VINF_SUCCESS"
    assert not thing.ends[0].connected
    assert log == [
        "thing0.detach", "filter0.power_off", "bottom0.power_off", "bottom0.destruct", "filter0.destruct",
    ]  # fmt: skip
    assert wiring.device_detach("thing", 0, 0) == "VINF_PDM_NO_DRIVER_ATTACHED_TO_LUN"


def test_driver_attached_while_suspended_is_powered_on_at_resume(thing_vm: Any, log: list[str]) -> None:
    thing_vm.build("thing")
    thing_vm.start()
    thing_vm.pdm.suspend()
    chain(thing_vm, "bottom")
    thing_vm.pdm.wiring.device_attach("thing", 0, 0)
    assert "bottom0.power_on" not in log
    log.clear()
    thing_vm.pdm.resume()
    assert log == ["bottom0.power_on", "thing0.resume"]


def test_driver_is_attached_below_the_lowest_and_detached_with_all_below(
    thing_vm: Any, log: list[str]
) -> None:
    chain(thing_vm, "filter")
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    wiring = thing_vm.pdm.wiring
    thing_vm.configure("Devices/thing/0/LUN#0/AttachedDriver/Driver", "bottom")
    wiring.driver_attach("thing", 0, 0)
    bottom = wiring.query_driver_on_lun("thing", 0, 0, "bottom").object
    thing.ends[0].char_send(b"x")
    assert bottom.sent == [b"x"]
    with pytest.raises(PdmError) as caught:
        wiring.driver_attach("thing", 0, 0)
    assert caught.value.status == "VERR_PDM_DRVINS_NO_ATTACH"
    with pytest.raises(PdmError) as caught:
        wiring.driver_detach("thing", 0, 0, "bottom", 1)
    assert caught.value.status == "VERR_PDM_DRIVER_INSTANCE_NOT_FOUND"
    log.clear()
    assert wiring.driver_detach("thing", 0, 0, "bottom") == "VINF_SUCCESS"
    assert log == ["filter0.detach", "bottom0.power_off", "bottom0.destruct"]
    assert [driver.name for driver in wiring.lun(thing_vm.pdm.instances()[0], 0).drivers] == ["filter"]
    wiring.driver_attach("thing", 0, 0)
    assert wiring.driver_detach("thing", 0, 0) == "VINF_SUCCESS"
    assert not thing.ends[0].connected


def test_device_and_driver_without_callbacks_refuse_run_time_changes(vm: Any) -> None:
    class Fixed(Device[Any]):
        def pdm_construct(self) -> None:
            self.helpers.lun(0, CharStream, "stream")

    class Plain(Driver[Any]):
        def char_send(self, data: bytes) -> int:
            return len(data)

    vm.register(
        DeviceType("fixed", Fixed),
        DriverType("plain", Plain, serves=CharStream, wants=CharStream),
    )
    chain(vm, "plain", where="Devices/fixed/0/LUN#0")
    vm.build("fixed")
    wiring = vm.pdm.wiring
    for call, status in (
        (lambda: wiring.device_detach("fixed", 0, 0), "VERR_PDM_DRIVER_DETACH_NOT_POSSIBLE"),
        (lambda: wiring.driver_attach("fixed", 0, 0), "VERR_PDM_DRIVER_NO_RT_ATTACH"),
    ):
        with pytest.raises(PdmError) as caught:
            call()
        assert caught.value.status == status
    wiring.detach(vm.pdm.instances()[0], 0)
    with pytest.raises(PdmError) as caught:
        wiring.device_attach("fixed", 0, 0)
    assert caught.value.status == "VERR_PDM_DEVICE_NO_RT_ATTACH"


def test_failing_attach_leaves_the_lun_empty_and_usable(thing_vm: Any, log: list[str]) -> None:
    (thing,) = thing_vm.build("thing")
    thing_vm.start()
    chain(thing_vm, "filter", "bottom")
    thing_vm.configure("Devices/thing/0/LUN#0/Config/fail", "init_complete")
    with pytest.raises(ValueError, match="init_complete fails"):
        thing_vm.pdm.wiring.device_attach("thing", 0, 0)
    assert not thing.ends[0].connected
    assert [owned.instance.title for owned in thing_vm.pdm.owned_records()] == ["thing#0"]
    thing_vm.cfgm.child("Devices/thing/0/LUN#0/Config").remove_value("fail")
    thing_vm.pdm.wiring.device_attach("thing", 0, 0)
    assert thing.ends[0].connected


def test_too_many_drivers_are_refused(thing_vm: Any) -> None:
    for number in range(3):
        chain(thing_vm, "bottom", where=f"Devices/thing/{number}/LUN#0")
    with pytest.raises(PdmError) as caught:
        thing_vm.pdm.construct()
    assert caught.value.status == "VERR_PDM_TOO_MANY_DRIVER_INSTANCES"


def test_link_hooks_hear_of_every_link_and_observers_see_the_traffic(thing_vm: Any) -> None:
    seen: list[str] = []
    traffic: list[bytes] = []

    class Sniffer:
        @hookimpl(wrapper=True)
        def char_send(self, data: bytes) -> Any:
            traffic.append(data)
            return (yield)

    class Plugin:
        @hookimpl
        def pdm_link_created(self, instance: Any, lun: int, link: Any) -> None:
            seen.append(f"{instance.title}/{lun}")
            if not getattr(link, "sniffed", False):
                link.sniffed = True
                link.observe(Sniffer())

    thing_vm.catalogue.manager.register(Plugin())
    chain(thing_vm, "filter", "bottom")
    (thing,) = thing_vm.build("thing")
    assert sorted(seen) == ["filter#0/0", "thing#0/0"]
    thing.ends[0].char_send(b"x")
    assert traffic == [b"x", b"x"]
