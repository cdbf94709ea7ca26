"""Building a machine from its configuration."""

from __future__ import annotations

from typing import Any

import pytest
from pdm_things import chain, types

from vbox_pdm import (
    ConfigError,
    Device,
    DeviceType,
    PdmError,
)


def test_devices_are_built_by_class_then_in_the_order_of_the_tree(thing_vm: Any, log: list[str]) -> None:
    for path in ("Devices/thing/2/", "Devices/thing/0/", "Devices/early/0/Config/"):
        thing_vm.configure(path, 0)
    thing_vm.configure("Devices/early/0/Config/port", 0x400)
    thing_vm.pdm.construct()
    assert log == [
        "early0.construct", "thing0.construct", "thing2.construct",
        "early0.init_complete", "thing0.init_complete", "thing2.init_complete",
    ]  # fmt: skip


def test_priority_beats_the_class(thing_vm: Any, log: list[str]) -> None:
    thing_vm.configure("Devices/thing/Priority", 0)
    thing_vm.configure("Devices/thing/0/", 0)
    thing_vm.configure("Devices/early/Priority", 1)
    thing_vm.configure("Devices/early/0/Config/port", 0x400)
    thing_vm.pdm.construct()
    assert log[:2] == ["thing0.construct", "early0.construct"]


@pytest.mark.parametrize(
    ("path", "value", "status", "text"),
    [
        ("Devices/nothing/0/", 0, "VERR_PDM_DEVICE_NOT_FOUND", "nothing"),
        ("Devices/thing/x/", 0, "VERR_CFGM_INVALID_CHILD_PATH", "'x' below /Devices/thing"),
        ("Devices/thing/00/", 0, "VERR_CFGM_NODE_EXISTS", "'0' and '00'"),
        ("Devices/thing/0/Bogus", 1, "VERR_CFGM_CONFIG_UNKNOWN_VALUE", "'/Bogus'.*thing instance #0"),
        ("Devices/thing/0/Bogus/", 0, "VERR_CFGM_CONFIG_UNKNOWN_NODE", "'/Bogus'.*thing instance #0"),
        ("Devices/thing/Bogus", 1, "VERR_CFGM_CONFIG_UNKNOWN_VALUE", "'/Bogus'"),
        ("Devices/thing/0/Config/bogus", 1, "VERR_CFGM_CONFIG_UNKNOWN_VALUE", "'/bogus'.*thing instance #0"),
        ("Devices/thing/0/Config/bogus/", 1, "VERR_CFGM_CONFIG_UNKNOWN_NODE", "'/bogus'.*thing instance #0"),
        ("Devices/thing/0/Config/port", 0x10000, "VERR_OUT_OF_RANGE", "port"),
        ("Devices/thing/0/Config/port", "text", "VERR_CFGM_NOT_INTEGER", "port"),
        ("Devices/thing/0/LUN#x/Driver", "bottom", "VERR_CFGM_CONFIG_UNKNOWN_NODE", "LUN#x"),
        ("Devices/thing/0/LUN#0/", 0, "VERR_PDM_CFG_MISSING_DRIVER_NAME", "LUN#0 of thing instance #0"),
        ("Devices/thing/0/LUN#0/Driver", "nothing", "VERR_PDM_DRIVER_NOT_FOUND", "nothing"),
        ("Devices/thing/0/LUN#7/Driver", "bottom", "VERR_PDM_LUN_NOT_FOUND", "LUN#7"),
        ("Devices/thing/0/TracingEnabled", 1, "VERR_INCOMPATIBLE_CONFIG", "Tracing"),
        ("Devices/thing/0/PCIBusNo", 1, "VERR_PDM_NO_PCI_BUS", "bus 1"),
        ("Devices/thing/0/PCIDeviceNo", 32, "VERR_OUT_OF_RANGE", "0..31"),
    ],
)
def test_wrong_configuration_is_refused_by_name_and_nothing_stays(
    thing_vm: Any, path: str, value: Any, status: str, text: str
) -> None:
    thing_vm.configure("Devices/thing/0/", 0)
    thing_vm.configure(path, value)
    with pytest.raises(PdmError, match=text) as caught:
        thing_vm.pdm.construct()
    assert caught.value.status == status
    assert thing_vm.pdm.instances() == []
    assert thing_vm.iom.entries == []


def test_too_many_instances_are_refused(vm: Any, log: list[str]) -> None:
    vm.register(*types(log, max_instances=1))
    vm.configure("Devices/thing/0/", 0)
    vm.configure("Devices/thing/1/", 0)
    with pytest.raises(PdmError) as caught:
        vm.pdm.construct()
    assert caught.value.status == "VERR_PDM_TOO_MANY_DEVICE_INSTANCES"
    assert log == []


@pytest.mark.parametrize("where", ["construct", "late", "init_complete"])
def test_failed_creation_destroys_everything_once_and_says_who(
    thing_vm: Any, log: list[str], where: str
) -> None:
    chain(thing_vm, "filter", "bottom")
    thing_vm.configure("Devices/early/0/Config/port", 0x400)
    thing_vm.configure("Devices/thing/0/Config/fail", where)
    if where == "init_complete":
        with pytest.raises(ValueError, match="fails"):
            thing_vm.pdm.construct()
    else:
        with pytest.raises(
            PdmError, match="Failed to construct device 'thing' instance #0: ValueError"
        ) as caught:
            thing_vm.pdm.construct()
        assert isinstance(caught.value.__cause__, ValueError)
    assert log.count("thing0.destruct") == log.count("early0.destruct") == 1
    if where == "late":
        ends = [line for line in log if line.endswith("destruct")]
        assert ends == ["bottom0.destruct", "filter0.destruct", "thing0.destruct", "early0.destruct"]
    assert thing_vm.pdm.instances() == []
    assert thing_vm.tm.timers == ()
    assert thing_vm.iom.entries == []


def test_failed_driver_destroys_the_partial_chain_from_the_bottom(thing_vm: Any, log: list[str]) -> None:
    chain(thing_vm, "filter", "bottom")
    thing_vm.configure("Devices/thing/0/LUN#0/Config/fail", "construct")
    with pytest.raises(PdmError, match="Failed to construct driver 'filter' instance #0"):
        thing_vm.pdm.construct()
    assert [line for line in log if "destruct" in line] == [
        "bottom0.destruct", "filter0.destruct", "thing0.destruct",
    ]  # fmt: skip


def test_wrong_driver_configuration_leaves_no_instance_behind(thing_vm: Any) -> None:
    chain(thing_vm, "filter", "bottom")
    thing_vm.configure("Devices/thing/0/LUN#0/AttachedDriver/Config/bogus", 1)
    with pytest.raises(ConfigError, match="bogus"):
        thing_vm.pdm.construct()
    assert thing_vm.pdm.owned_records() == []


def test_config_error_of_a_constructor_keeps_its_kind_and_status(vm: Any) -> None:
    class Picky(Device[Any]):
        def pdm_construct(self) -> None:
            raise ConfigError("VERR_PDM_MISSING_INTERFACE", "no screen", "attach one")

    vm.register(DeviceType("picky", Picky))
    with pytest.raises(
        ConfigError, match="Failed to construct device 'picky' instance #0: no screen"
    ) as caught:
        vm.build("picky")
    assert (caught.value.status, caught.value.remedy) == ("VERR_PDM_MISSING_INTERFACE", "attach one")


def test_version_mismatch_of_a_constructor_is_the_devices(vm: Any) -> None:
    class Old(Device[Any]):
        def pdm_construct(self) -> None:
            raise PdmError("VERR_VERSION_MISMATCH", "too old")

    vm.register(DeviceType("old", Old))
    with pytest.raises(PdmError) as caught:
        vm.build("old")
    assert caught.value.status == "VERR_PDM_DEVICE_VERSION_MISMATCH"


def test_no_devices_at_all_is_legal(vm: Any) -> None:
    vm.pdm.construct()
    vm.start()
    vm.pdm.suspend()
