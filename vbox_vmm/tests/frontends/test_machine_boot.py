"""What a machine starts with, as trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from vbox_pdm import ConfigError
from vbox_vmm import machine, machine_boot
from vbox_vmm.boot import Boot, read_boot
from vbox_vmm.cfgm import Node

KERNEL = "Devices/qemu-fw-cfg/0/Config"
BIOS = "Devices/pcbios/0/Config"


def order(tree: Node) -> list[str]:
    return [tree.query_string(f"{BIOS}/boot_device{number}", default="") for number in range(4)]


def test_firmware_none_takes_its_devices_and_the_video_bios_out() -> None:
    tree = machine.default_machine(firmware="none")

    assert tree.find("Devices/pcbios") is tree.find("Devices/qemu-fw-cfg") is None
    assert tree.query_string("Devices/vga/0/Config/bios_rom") == ""
    assert machine_boot.firmware(tree) == "none"


def test_firmware_there_and_back_is_the_same_machine() -> None:
    tree = machine.default_machine()
    machine_boot.set_kernel(tree, "/k", "/i", "a b")
    before = tree.duplicate()

    machine_boot.set_firmware(tree, "none")
    assert tree.query_string("Boot/Kernel") == "/k"
    machine_boot.set_firmware(tree, "bios")

    assert tree.equals(before)


def test_video_bios_that_was_chosen_stays() -> None:
    tree = machine.default_machine()
    tree.child("Devices/vga/0").ensure_node("Config").insert("bios_rom", "/my.rom")

    machine_boot.set_firmware(tree, "none")
    machine_boot.set_firmware(tree, "bios")

    assert tree.query_string("Devices/vga/0/Config/bios_rom") == "/my.rom"


def test_boot_order_names_all_positions() -> None:
    tree = machine.default_machine()

    machine_boot.set_boot_order(tree, machine_boot.parse_boot_order("cdrom,disk"))

    assert order(tree) == ["cdrom", "disk", "none", "none"]


def test_kernel_first_in_the_boot_order_leaves_the_rest_to_firmware() -> None:
    tree = machine.default_machine()
    machine_boot.set_kernel(tree, "/k")

    machine_boot.set_boot_order(tree, ("kernel",))
    assert order(tree) == [""] * 4
    machine_boot.set_boot_order(tree, ("kernel", "net"))

    assert order(tree) == ["net", "none", "none", "none"]


@pytest.mark.parametrize("text", ["", "disk,", "hda", "disk,disk", "Disk"])
def test_boot_order_of_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="VERR_INVALID_PARAMETER"):
        machine_boot.parse_boot_order(text)


def test_bios_is_an_image_or_a_folder_with_one(tmp_path: Path) -> None:
    (tmp_path / "bios.bin").write_bytes(b"x")
    tree = machine.default_machine()

    machine_boot.set_bios(tree, tmp_path / "bios.bin", "bios.bin")
    assert tree.query_string(f"{BIOS}/bios_rom") == str(tmp_path / "bios.bin")
    machine_boot.set_bios(tree, tmp_path, "bios.bin")

    assert not tree.exists(f"{BIOS}/bios_rom")
    assert tree.query_string("Firmware/Path") == str(tmp_path)
    with pytest.raises(ConfigError, match="VERR_FILE_NOT_FOUND"):
        machine_boot.set_bios(tree, tmp_path, "other.bin")


def test_tsc_rate_is_told_once_and_as_the_machine_has_it() -> None:
    tree = machine.default_machine()
    machine_boot.tell_tsc(tree)
    assert not tree.exists(f"{KERNEL}/append")  # no kernel, nobody to tell

    machine_boot.set_kernel(tree, "/k", append="quiet")
    tree.ensure_node("TM").insert("TSCTicksPerSecond", 2_500_000_000)
    machine_boot.tell_tsc(tree)
    machine_boot.tell_tsc(tree)

    assert tree.query_string(f"{KERNEL}/append") == "quiet tsc_early_khz=2500000"


def test_tsc_rate_that_must_not_be_told_is_not() -> None:
    tree = machine.default_machine()
    machine_boot.set_kernel(tree, "/k", append="quiet")
    tree.child("Boot").insert("TellTsc", 0)

    machine_boot.tell_tsc(tree)

    assert tree.query_string(f"{KERNEL}/append") == "quiet"


def test_files_are_those_named_by_path() -> None:
    tree = machine.default_machine()
    assert machine_boot.named_files(tree) == []

    machine_boot.set_kernel(tree, "/k", "/i")
    tree.child(BIOS).insert("bios_rom", "/b")

    found = {("kernel", Path("/k")), ("initrd", Path("/i")), ("firmware image", Path("/b"))}
    assert set(machine_boot.named_files(tree)) == found


# --- vbox_vmm.boot


def test_boot_with_firmware_begins_at_the_reset_vector() -> None:
    assert read_boot(Node()) is None
    assert read_boot(machine.default_machine()) is None


def test_boot_without_firmware_enters_the_kernel() -> None:
    tree = machine.default_machine(firmware="none")
    assert read_boot(tree) is None

    machine_boot.set_kernel(tree, "/k", "/i", "quiet")
    tree.ensure_node("CPUM").insert("Without", "sse lm")

    assert read_boot(tree) == Boot(Path("/k"), Path("/i"), "quiet", long_mode=False)


@pytest.mark.parametrize(
    ("key", "value", "pattern"),
    [
        ("Kernel", "/k", "VERR_NOT_SUPPORTED.*qemu-fw-cfg/0/Config/kernel"),
        ("Append", "a", "VERR_NOT_SUPPORTED.*Config/append"),
        ("Firmware", "uefi", "VERR_NOT_SUPPORTED.*bios or none"),
        ("Nonsense", "x", "VERR_CFGM_CONFIG_UNKNOWN_VALUE"),
    ],
)
def test_boot_node_that_makes_no_sense_is_refused(key: str, value: str, pattern: str) -> None:
    tree = machine.default_machine()
    tree.child("Boot").replace(key, value)

    with pytest.raises(ConfigError, match=pattern):
        read_boot(tree)


def test_initrd_without_kernel_is_refused() -> None:
    tree = machine.default_machine(firmware="none")
    machine_boot.set_kernel(tree, initrd="/i")

    with pytest.raises(ConfigError, match=r"VERR_INVALID_PARAMETER.*--kernel"):
        read_boot(tree)
    with pytest.raises(ConfigError, match=r"VERR_INVALID_PARAMETER.*--kernel"):
        machine_boot.check_kernel(tree)
