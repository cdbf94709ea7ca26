"""`vbox plugins`, `vbox devices`, `vbox machine`, `vbox --version`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from vbox_vmm import cfgm_xml, machine

Vbox = Callable[..., Result]


def loaded(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_version_names_the_contract(vbox: Vbox) -> None:
    result = vbox("--version")

    assert result.exit_code == 0
    assert result.stdout.startswith("vbox ")
    assert "contract 1.0" in result.stdout


def test_no_command_is_help_and_wrong_usage(vbox: Vbox) -> None:
    result = vbox()

    assert result.exit_code == 2
    assert "Usage: vbox" in result.stderr


@pytest.mark.parametrize("command", ["run", "plugins", "devices", "machine"])
def test_help_of_each_command_is_success(vbox: Vbox, command: str) -> None:
    result = vbox(command, "--help")

    assert result.exit_code == 0
    assert f"Usage: vbox {command}" in result.stdout


def test_help_of_run_lists_the_exit_codes(vbox: Vbox) -> None:
    text = vbox("run", "--help").stdout

    for word in ("isa-debug-exit", "guru meditation", "130", "--timeout is over"):
        assert word in text


def test_plugins_as_json_say_what_each_is(vbox: Vbox) -> None:
    rows = {row["name"]: row for row in loaded(vbox("plugins", "--json"))}

    assert rows["serial"]["kind"] == "device"
    assert rows["serial"]["distribution"] == "vbox-plugin-pc"
    assert rows["serial"]["version"]
    assert rows["serial"]["contract"]
    assert rows["serial"]["state"] == "loaded"
    assert rows["stdio"]["kind"] == "driver"
    assert rows["rem"]["kind"] == "engine"


def test_plugin_file_with_hooks_only_is_listed(vbox: Vbox, tmp_path: Path) -> None:
    path = tmp_path / "watcher.py"
    path.write_text(
        'contract = "1.0"\nfrom vbox_pdm import hookimpl\n\n'
        "@hookimpl\ndef pdm_wrap_region(instance, region):\n    return None\n"
    )

    rows = {row["name"]: row for row in loaded(vbox("plugins", "--json", "--plugin", path))}

    assert rows["watcher"]["kind"] == "hooks"
    assert rows["watcher"]["state"] == "loaded"


def test_devices_list_devices_and_drivers(vbox: Vbox) -> None:
    rows = {row["name"]: row for row in loaded(vbox("devices", "--json"))}

    assert set(machine.BOARD) | {"serial"} <= set(rows)
    assert rows["stdio"]["kind"] == "driver"
    assert rows["stdio"]["class"] == "CharStream"
    assert "serial" in vbox("devices").stdout


def test_device_as_json_has_keys_and_luns(vbox: Vbox) -> None:
    row = loaded(vbox("devices", "serial", "--json"))

    key = next(key for key in row["keys"] if key["name"] == "io_base")
    assert (key["type"], key["default"], key["span"]) == ("int", 0x3F8, [0, 0xFFF8])
    assert key["help"]
    assert row["luns"] == [{"lun": 0, "layer": "CharStream", "description": "character stream"}]


def test_device_text_shows_every_key(vbox: Vbox) -> None:
    text = vbox("devices", "serial").stdout

    for word in ("io_base", "0x3f8", "0x0..0xfff8", "uart_type", "16450 | 16550A", "LUN#0: CharStream"):
        assert word in text


def test_driver_as_json_has_what_it_wants_below(vbox: Vbox) -> None:
    assert loaded(vbox("devices", "stdio", "--json"))["luns"] == []


def test_required_key_is_shown_as_required(vbox: Vbox) -> None:
    row = loaded(vbox("devices", "file", "--json"))

    key = next(key for key in row["keys"] if key["name"] == "path")
    assert key["required"]
    assert key["default"] is None


def test_unknown_device_is_an_error(vbox: Vbox) -> None:
    result = vbox("devices", "nope")

    assert result.exit_code == 1
    assert "VERR_PDM_DEVICE_NOT_FOUND" in result.stderr


def test_machine_without_options_is_the_default_machine(vbox: Vbox, tmp_path: Path) -> None:
    path = tmp_path / "machine.xml"

    assert vbox("machine", "--output", path).exit_code == 0

    assert cfgm_xml.read(path).equals(machine.default_machine())


def test_machine_with_options_keeps_types(vbox: Vbox, tmp_path: Path) -> None:
    path = tmp_path / "machine.xml"

    result = vbox(
        "machine", "--output", path, "--memory", "1G", "--serial", "tcp:h:0x1", "--clock", "warp",
    )  # fmt: skip
    assert result.exit_code == 2
    result = vbox(
        "machine", "--output", path, "--memory", "1G", "--serial", "none", "--serial", "tcp:h:1,nodelay=off",
        "--device", "debugcon,io_base=0xe9", "--device", "isa-debug-exit,PCIDeviceNo=3", "--clock", "warp",
        "--engine", "rem", "--cpu", "default,-sse2,+apic", "--set", "Devices/serial/0/Config/pacing=1",
        "--without", "serial#3",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr

    tree = cfgm_xml.read(path)
    assert tree.query_integer("RamSize") == 1 << 30
    assert tree.find("Devices/serial/0/LUN#0") is None
    assert tree.query_string("Devices/serial/1/LUN#0/Driver") == "tcp"
    assert tree.query_string("Devices/serial/1/LUN#0/Config/role") == "client"
    assert tree.query_integer("Devices/serial/1/LUN#0/Config/nodelay") == 0
    assert tree.query_integer("Devices/debugcon/1/Config/io_base") == 0xE9
    assert tree.query_integer("Devices/isa-debug-exit/0/PCIDeviceNo") == 3
    assert tree.query_string("TM/Mode") == "warp"
    assert tree.query_string("CPUM/Engine") == "rem"
    assert tree.query_string("CPUM/With") == "apic"
    assert tree.query_string("CPUM/Without") == "sse2"
    assert tree.query_integer("Devices/serial/0/Config/pacing") == 1
    assert tree.find("Devices/serial/3") is None


def test_machine_can_change_a_machine(vbox: Vbox, tmp_path: Path) -> None:
    one, two = tmp_path / "one.xml", tmp_path / "two.xml"
    assert vbox("machine", "-o", one, "--serial", "pty", "--kernel", "kernel").exit_code == 0

    assert vbox("machine", "--machine", one, "-o", two, "--memory", 64, "--append", "quiet").exit_code == 0

    tree = cfgm_xml.read(two)
    assert tree.query_integer("RamSize") == 64 << 20
    assert tree.query_string("Devices/serial/0/LUN#0/Driver") == "pty"
    kernel = tree.child("Devices/qemu-fw-cfg/0/Config")
    assert Path(kernel.query_string("kernel")).is_absolute()
    assert kernel.query_string("append") == "quiet"
    assert not tree.exists("Boot/Kernel")


def test_machine_changes_its_firmware_and_keeps_the_kernel(vbox: Vbox, tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{name}.xml" for name in ("one", "two", "three"))
    assert vbox("machine", "-o", one, "--kernel", "/k", "--initrd", "/i", "--append", "quiet").exit_code == 0

    assert vbox("machine", "--machine", one, "-o", two, "--firmware", "none").exit_code == 0
    assert vbox("machine", "--machine", two, "-o", three, "--firmware", "bios").exit_code == 0

    direct = cfgm_xml.read(two)
    boot = [direct.query_string(f"Boot/{key}") for key in ("Firmware", "Kernel", "Initrd", "Append")]
    assert boot == ["none", "/k", "/i", "quiet"]
    assert direct.find("Devices/pcbios") is direct.find("Devices/qemu-fw-cfg") is None
    assert cfgm_xml.read(three).equals(cfgm_xml.read(one))
