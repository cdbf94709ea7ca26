"""Machines as trees: the default one, and what changes one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import ConfigError, PdmError
from vbox_pdm.catalogue import Catalogue
from vbox_vmm import cfgm_xml, machine, machine_boot
from vbox_vmm.machine import Spec

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [("64", 64 * MIB), ("65536K", 64 * MIB), ("64M", 64 * MIB), ("1G", 1024 * MIB), ("1GiB", 1024 * MIB)],
)
def test_parse_size_with_unit_gives_bytes(text: str, size: int) -> None:
    assert machine.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-4", "1.5G", "64X", "0x40"])
def test_parse_size_of_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="VERR_INVALID_PARAMETER"):
        machine.parse_size(text)


@pytest.mark.parametrize("size", [0, machine.LEAST_MEMORY - 4096, machine.MOST_MEMORY + 4096])
def test_memory_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(PdmError, match="VERR_OUT_OF_RANGE"):
        machine.default_machine(size)


def test_memory_of_odd_size_is_refused() -> None:
    with pytest.raises(PdmError, match="VERR_INVALID_PARAMETER"):
        machine.default_machine(machine.LEAST_MEMORY + 1)


def test_default_machine_has_the_board_and_four_serial_ports() -> None:
    tree = machine.default_machine()

    devices = tree.child("Devices").children
    assert set(devices) == {*machine.BOARD, *machine_boot.FIRMWARE, "serial"}
    ports = [
        (node.query_integer("Config/io_base"), node.query_integer("Config/irq"))
        for node in devices["serial"].children.values()
    ]
    assert ports == [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)]
    assert tree.query_string("Devices/pckbd/0/LUN#0/Driver") == "keyboard-queue"
    assert tree.query_string("Devices/pckbd/0/LUN#1/Driver") == "mouse-queue"
    assert tree.query_string("Devices/vga/0/LUN#0/Driver") == "screen"
    assert tree.query_string("Boot/Firmware") == "bios"


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(st.characters(exclude_characters="\0"))
    )
)
def test_parse_spec_of_doubled_commas_gives_the_values_back(config: dict[str, str]) -> None:
    text = ",".join(["name", *(f"{key}={value.replace(',', ',,')}" for key, value in config.items())])

    # A value that ends with a comma before the next key cannot be told from one that begins with it.
    if any(value.endswith(",") for value in config.values()):
        return
    assert machine.parse_spec(text) == Spec("name", config)


@pytest.mark.parametrize("text", ["", ",a=1", "name,a", "name,=1", "name,a=1,a=2", "a/b", "name,"])
def test_parse_spec_of_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="VERR_INVALID_PARAMETER"):
        machine.parse_spec(text)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("none", None),
        ("stdio", Spec("stdio")),
        ("pty", Spec("pty")),
        ("pty,link=/tmp/x", Spec("pty", {"link": "/tmp/x"})),
        ("file:a,b=c", Spec("file", {"path": "a,b=c"})),
        ("tcp:host:12", Spec("tcp", {"role": "client", "host": "host", "port": 12})),
        ("tcp:[::1]:12,server", Spec("tcp", {"role": "server", "host": "::1", "port": 12})),
        ("tcp:h:0,server,hold=on", Spec("tcp", {"role": "server", "host": "h", "port": 0, "hold": "on"})),
    ],
)
def test_parse_serial_names_driver_and_config(text: str, spec: Spec | None) -> None:
    assert machine.parse_serial(text) == spec


@pytest.mark.parametrize(
    "text", ["file", "file:", "tcp", "tcp:", "tcp:host", "tcp:host:x", "tcp::1", "tcp:h:70000"]
)
def test_parse_serial_of_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="VERR_INVALID_PARAMETER"):
        machine.parse_serial(text)


def test_add_device_takes_the_next_number() -> None:
    tree = machine.default_machine()

    machine.add_device(tree, Spec("thing", {"a": "1"}))
    node = machine.add_device(tree, Spec("thing", {"a": "2", "PCIDeviceNo": "0x5"}))

    assert node.path == "/Devices/thing/1/"
    assert node.query_string("Config/a") == "2"
    assert node.query_integer("PCIDeviceNo") == 5
    assert not node.exists("Config/PCIDeviceNo")


def test_filter_goes_to_the_top_of_the_chain() -> None:
    tree = machine.default_machine()
    machine.set_lun(tree, "serial#0/lun0", [Spec("stdio", {"escape": "none"})])

    machine.insert_filter(tree, "serial#0/lun0=first")
    machine.insert_filter(tree, "serial#0/lun0=second,key=value")

    lun = tree.child("Devices/serial/0/LUN#0")
    assert lun.query_string("Driver") == "second"
    assert lun.query_string("Config/key") == "value"
    assert lun.query_string("AttachedDriver/Driver") == "first"
    assert lun.query_string("AttachedDriver/AttachedDriver/Driver") == "stdio"
    assert lun.query_string("AttachedDriver/AttachedDriver/Config/escape") == "none"


def test_filter_goes_where_its_layer_is() -> None:
    catalogue = Catalogue()
    tree = machine.default_machine()
    chain = [Spec("ata-disk"), Spec("raw-image", {"path": "x.img"})]
    machine.set_lun(tree, "piix3ide#0/lun0", chain, catalogue)

    machine.insert_filter(tree, "piix3ide#0/lun0=overlay", catalogue)
    machine.insert_filter(tree, "piix3ide#0/lun0=ata-disk,model_number=another", catalogue)

    lun = tree.child("Devices/piix3ide/0/LUN#0")
    assert lun.query_string("Driver") == "ata-disk"
    assert lun.query_string("Config/model_number") == "another"
    assert lun.query_string("AttachedDriver/Driver") == "ata-disk"
    assert lun.query_string("AttachedDriver/AttachedDriver/Driver") == "overlay"
    assert lun.query_string("AttachedDriver/AttachedDriver/AttachedDriver/Config/path") == "x.img"


def test_filter_on_an_empty_lun_is_its_driver() -> None:
    tree = machine.default_machine()

    machine.insert_filter(tree, "serial#1/lun0=only")

    assert tree.query_string("Devices/serial/1/LUN#0/Driver") == "only"
    assert tree.find("Devices/serial/1/LUN#0/AttachedDriver") is None


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("serial#0/lun0", "VERR_INVALID_PARAMETER"),
        ("serial=x", "VERR_INVALID_PARAMETER"),
        ("serial#9/lun0=x", "VERR_PDM_DEVICE_INSTANCE_NOT_FOUND"),
        ("nothing#0/lun0=x", "VERR_PDM_DEVICE_NOT_FOUND"),
    ],
)
def test_filter_that_is_wrong_changes_nothing(text: str, status: str) -> None:
    tree = machine.default_machine()
    before = tree.duplicate()

    with pytest.raises(ConfigError, match=status):
        machine.insert_filter(tree, text)

    assert tree.equals(before)


def test_set_lun_to_nothing_detaches() -> None:
    tree = machine.default_machine()

    machine.set_lun(tree, machine.KEYBOARD, [])

    assert tree.find("Devices/pckbd/0/LUN#0") is None


def test_remove_device_takes_one_or_all() -> None:
    tree = machine.default_machine()

    machine.remove_device(tree, "serial#3")
    machine.remove_device(tree, "debugcon#0")
    assert list(tree.child("Devices/serial").children) == ["0", "1", "2"]
    assert tree.find("Devices/debugcon") is None
    machine.remove_device(tree, "serial")
    assert tree.find("Devices/serial") is None
    with pytest.raises(ConfigError, match="VERR_PDM_DEVICE_NOT_FOUND"):
        machine.remove_device(tree, "serial")


def test_machine_survives_xml() -> None:
    tree = machine.default_machine(5 * MIB)
    machine.set_lun(tree, "serial#0/lun0", [Spec("a", {"x": 1}), Spec("b", {"y": "text", "z": b"\x00\xff"})])

    assert cfgm_xml.parse(cfgm_xml.serialize(tree)).equals(tree)
