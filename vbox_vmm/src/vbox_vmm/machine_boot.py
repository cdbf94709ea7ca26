"""What a machine starts with: firmware or none, a kernel, the order of drives.

With firmware ("bios") the CPU begins at its reset vector, in the ROM of the device pcbios; a kernel is
configuration of qemu-fw-cfg, whose option ROM starts it.  Without ("none") there are neither of the
two, and the kernel is in /Boot, for the loaders that vbox_vmm.boot calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vbox_pdm.errors import ConfigError
from vbox_vmm.cfgm import Node
from vbox_vmm.tm_config import read_config

BIOS, NONE = "bios", "none"
FIRMWARE = ("pcbios", "qemu-fw-cfg")
"""The devices of a machine with firmware besides the board."""
BOOT_DEVICES = ("disk", "cdrom", "floppy", "net")
KERNEL = "kernel"
_BIOS_CONFIG, _KERNEL_CONFIG = "Devices/pcbios/0/Config", "Devices/qemu-fw-cfg/0/Config"
_VGA_CONFIG = "Devices/vga/0/Config"
_KEYS = (("Kernel", "kernel"), ("Initrd", "initrd"), ("Append", "append"))
_POSITIONS = 4


def firmware(tree: Node) -> str:
    """What sets the board of a machine up: "bios", "none", or nonsense that a file says."""
    return tree.query_string("Boot/Firmware", default=BIOS)


def set_firmware(tree: Node, name: str) -> None:
    """Change to "bios" or "none"; a kernel that is configured goes along."""
    kernel = _kernel_of(tree)
    tree.ensure_node("Boot").replace("Firmware", name)
    if name == NONE:
        for device in FIRMWARE:
            found = tree.find(f"Devices/{device}")
            if found is not None:
                found.remove()
        if tree.find("Devices/vga/0") is not None and not tree.exists(f"{_VGA_CONFIG}/bios_rom"):
            tree.ensure_node(_VGA_CONFIG).insert("bios_rom", "")  # nobody would run it
    else:
        for device in FIRMWARE:
            tree.ensure_node(f"Devices/{device}/0/Config")
        if tree.query_string(f"{_VGA_CONFIG}/bios_rom", default="?") == "":
            _remove_value(tree, f"{_VGA_CONFIG}/bios_rom")
    for key, _ in _KEYS:
        _remove_value(tree, f"Boot/{key}")
    set_kernel(tree, **kernel)


def set_kernel(
    tree: Node, kernel: str | None = None, initrd: str | None = None, append: str | None = None
) -> None:
    """What is not None; where it goes depends on the firmware.  Paths should be absolute."""
    direct = firmware(tree) == NONE
    for (key, config_key), value in zip(_KEYS, (kernel, initrd, append), strict=True):
        if value is None:
            continue
        if direct:
            tree.ensure_node("Boot").replace(key, value)
        else:
            tree.ensure_node(_KERNEL_CONFIG).replace(config_key, value)


def check_kernel(tree: Node) -> None:
    """Raise ConfigError where an initrd or a command line has no kernel, or what starts a kernel is
    missing."""
    given = _kernel_of(tree)
    if firmware(tree) != NONE and given.get("kernel"):
        _bios(tree)
    if (given.get("initrd") or given.get("append")) and not given.get("kernel"):
        raise ConfigError(
            "VERR_INVALID_PARAMETER", "An initrd or command line needs a kernel", "Give --kernel"
        )


def has_kernel(tree: Node) -> bool:
    """Whether the machine starts a kernel and not what is on its drives."""
    return bool(_kernel_of(tree).get("kernel"))


def parse_boot_order(text: str) -> tuple[str, ...]:
    """`disk,cdrom,kernel,net,floppy`: any of them, each once.  ConfigError VERR_INVALID_PARAMETER."""
    words = [word.strip() for word in text.split(",")]
    known = (KERNEL, *BOOT_DEVICES)
    for number, word in enumerate(words):
        if word not in known or word in words[:number]:
            what = "comes twice" if word in known else "is nothing to start from"
            raise ConfigError(
                "VERR_INVALID_PARAMETER", f"'{word}' {what}", f"Write one or more of {', '.join(known)}"
            )
    return tuple(words)


def set_boot_order(tree: Node, order: Sequence[str]) -> None:
    """What firmware tries, the first first; what is not named is not tried.

    A kernel, where there is one, always comes first, as it is given to be started.  ConfigError
    VERR_INVALID_PARAMETER, VERR_NOT_SUPPORTED."""
    if KERNEL in order and not has_kernel(tree):
        raise ConfigError(
            "VERR_INVALID_PARAMETER", "There is no kernel to start", "Give --kernel, or another order"
        )
    if KERNEL in order[1:]:
        raise ConfigError(
            "VERR_NOT_SUPPORTED",
            "A kernel is what the machine starts first",
            "Name it first, or leave out --kernel to start from a drive",
        )
    if firmware(tree) == NONE:
        raise ConfigError(
            "VERR_NOT_SUPPORTED",
            "Without firmware nothing starts from drives",
            "Leave out --boot, or --firmware none",
        )
    devices = [word for word in order if word != KERNEL]
    config = _bios(tree)
    if not devices:
        return
    for position in range(_POSITIONS):
        config.replace(f"boot_device{position}", devices[position] if position < len(devices) else NONE)


def set_bios(tree: Node, path: Path, default_name: str) -> None:
    """A firmware image, or a folder that has one named `default_name` and others.

    ConfigError VERR_NOT_SUPPORTED (no firmware), VERR_FILE_NOT_FOUND."""
    if firmware(tree) == NONE:
        raise ConfigError(
            "VERR_NOT_SUPPORTED", "A machine without firmware needs no image of it", "Leave out --bios"
        )
    absolute, config = str(path.absolute()), _bios(tree)
    if not path.is_dir():
        config.replace("bios_rom", absolute)
        return
    if not (path / default_name).is_file():
        raise ConfigError(
            "VERR_FILE_NOT_FOUND",
            f"The folder {path} has no firmware image {default_name}",
            "Give the image itself, or a folder such as /usr/share/seabios",
        )
    if ":" in absolute:
        raise ConfigError(
            "VERR_INVALID_PARAMETER", f"The name of {path} has a colon in it", "Give the image itself"
        )
    _remove_value(tree, f"{_BIOS_CONFIG}/bios_rom")
    before = tree.query_string("Firmware/Path", default="")
    tree.ensure_node("Firmware").replace("Path", f"{absolute}:{before}" if before else absolute)


def tell_tsc(tree: Node) -> None:
    """Add the rate of the TSC to the command line of a kernel that firmware starts, as `boot.Boot`
    does for one that is entered directly: Linux need not measure it then.

    /Boot/TellTsc = 0 forbids it.  Raises ConfigError as `tm_config.read_config`."""
    config = tree.find(_KERNEL_CONFIG)
    if config is None or not config.query_string("kernel", default=""):
        return
    line = config.query_string("append", default="")
    if "tsc_early_khz=" in line or not tree.query_bool("Boot/TellTsc", default=True):
        return
    rate = read_config(tree.find("TM") or Node()).tsc_hz
    config.replace("append", f"{line} tsc_early_khz={rate // 1000}".lstrip())


def named_files(tree: Node) -> list[tuple[str, Path]]:
    """(what, path) of the files that starting reads as a whole, as far as they are named by path."""
    boot, config = "Boot", _KERNEL_CONFIG
    places = [
        ("kernel", f"{boot}/Kernel"), ("initrd", f"{boot}/Initrd"),
        ("kernel", f"{config}/kernel"), ("initrd", f"{config}/initrd"),
        ("firmware image", f"{_BIOS_CONFIG}/bios_rom"),
    ]  # fmt: skip
    found = [(what, tree.query_string(place, default="")) for what, place in places]
    return [(what, Path(name)) for what, name in found if re.search("/", name)]


def _bios(tree: Node) -> Node:
    if tree.find("Devices/pcbios/0") is None:
        raise ConfigError(
            "VERR_PDM_DEVICE_NOT_FOUND",
            "The machine has no firmware: there is no device pcbios",
            "Add it: --device pcbios, or --firmware bios",
        )
    return tree.ensure_node(_BIOS_CONFIG)


def _kernel_of(tree: Node) -> dict[str, str]:
    """The keyword arguments of `set_kernel`, as the machine has them now."""
    given = {}
    for key, config_key in _KEYS:
        for place in (f"Boot/{key}", f"{_KERNEL_CONFIG}/{config_key}"):
            if tree.exists(place):
                given[config_key] = tree.query_string(place)
    return given


def _remove_value(tree: Node, path: str) -> None:
    above, _, name = path.rpartition("/")
    node = tree.find(above)
    if node is not None and node.exists(name):
        node.remove_value(name)
