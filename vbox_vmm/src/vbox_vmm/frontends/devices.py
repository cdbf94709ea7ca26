"""`vbox devices`: the devices and drivers that there are, and what can be configured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vbox_pdm.catalogue import Catalogue, Plugin
from vbox_pdm.config import KeyInfo, keys
from vbox_pdm.device import DeviceType
from vbox_pdm.driver import DriverType
from vbox_pdm.errors import PdmError
from vbox_vmm import machine, machine_boot
from vbox_vmm.frontends.linkbook import LinkBook
from vbox_vmm.frontends.messages import logging_to_stderr, print_json, print_table
from vbox_vmm.frontends.options import load_catalogue, plugin_option


@click.command("devices", short_help="List devices and drivers, or show one with its keys.")
@click.argument("name", required=False)
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Tracebacks for errors.")
def devices(name: str | None, plugins: Sequence[Path], as_json: bool, debug: bool) -> None:
    """List devices and drivers; with NAME, show one with its configuration keys and its LUNs."""
    with logging_to_stderr(None, debug):
        catalogue = load_catalogue(plugins)
        catalogue.load_all()
        if name is not None:
            found = _find(catalogue, name)
            found["luns"] = (
                _luns(catalogue, name) if found["kind"] == "device" else _driver_luns(catalogue, name)
            )
            if as_json:
                print_json(found)
            else:
                _show(found)
            return
        rows = _all(catalogue)
    if as_json:
        print_json(rows)
    else:
        print_table(
            ("NAME", "KIND", "CLASS", "DISTRIBUTION", "SUMMARY"),
            [[row[key] for key in ("name", "kind", "class", "distribution", "summary")] for row in rows],
        )


def _all(catalogue: Catalogue) -> list[dict[str, Any]]:
    listed: list[tuple[DeviceType | DriverType, Plugin]] = []
    for plugin in catalogue.plugins:
        listed += [(kind, plugin) for kind in plugin.devices]
        listed += [(kind, plugin) for kind in plugin.drivers]
    return [describe(kind, plugin) for kind, plugin in sorted(listed, key=lambda pair: pair[0].name)]


def _find(catalogue: Catalogue, name: str) -> dict[str, Any]:
    rows = [row for row in _all(catalogue) if row["name"] == name]
    if not rows:
        catalogue.device(name)  # says what is wrong with it
    return rows[0]


def describe(kind: DeviceType | DriverType, plugin: Plugin) -> dict[str, Any]:
    """A type as JSON has it."""
    is_device = isinstance(kind, DeviceType)
    return {
        "name": kind.name,
        "kind": "device" if is_device else "driver",
        "class": kind.device_class.name if isinstance(kind, DeviceType) else kind.serves.name,
        "summary": kind.summary,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "max_instances": kind.max_instances,
        "keys": [describe_key(info) for info in keys(kind.config)],
    }


def describe_key(info: KeyInfo) -> dict[str, Any]:
    """A configuration key as JSON has it."""
    return {
        "name": info.name,
        "type": info.type_name,
        "default": None if info.required else _plain(info.default),
        "required": info.required,
        "range": info.range_text,
        "span": list(info.span) if info.span is not None else None,
        "choices": [_plain(choice) for choice in info.choices] if info.choices is not None else None,
        "help": info.help,
    }


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _driver_luns(catalogue: Catalogue, name: str) -> list[dict[str, Any]]:
    wants = catalogue.driver(name)[0].wants
    return [] if wants is None else [{"lun": 0, "layer": wants.name, "description": "below"}]


def _luns(catalogue: Catalogue, name: str) -> list[dict[str, Any]] | None:
    """The LUNs of a device, from one that is made on the default board and thrown away; None when it
    cannot be made without more configuration."""
    from vbox_vmm.vm import Vm

    kind, _ = catalogue.device(name)
    if any(info.required for info in keys(kind.config)):
        return None
    book = LinkBook()
    catalogue.manager.register(book)
    try:
        # Without firmware: its images need not be installed to say what a device has.
        tree = machine.default_machine(machine.LEAST_MEMORY, firmware=machine_boot.NONE)
        for lun in (machine.KEYBOARD, machine.MOUSE, machine.SCREEN):
            machine.set_lun(tree, lun, [])
        if tree.find(f"Devices/{name}/0") is None:
            machine.add_device(tree, machine.Spec(name), catalogue)
        vm = Vm(tree, catalogue, with_engine=False)
        vm.destroy()
    except PdmError:
        return None
    finally:
        catalogue.manager.unregister(book)
    return [
        {"lun": lun, "layer": link.layer.name, "description": link.description}
        for lun, link in book.luns(f"{name}#0").items()
    ]


def _show(found: dict[str, Any]) -> None:
    click.echo(f"{found['name']}: {found['summary']}")
    click.echo(f"{found['kind']}, {found['class']}, of {found['distribution']} {found['version']}".rstrip())
    if found["max_instances"] is not None:
        click.echo(f"at most {found['max_instances']} in a machine")
    click.echo()
    if found["keys"]:
        print_table(("KEY", "TYPE", "DEFAULT", "RANGE", "HELP"), [_key_row(info) for info in found["keys"]])
    else:
        click.echo("no configuration")
    for lun in found["luns"] or ():
        click.echo(f"LUN#{lun['lun']}: {lun['layer']}, {lun['description']}")


def _key_row(info: dict[str, Any]) -> list[str]:
    default = "required" if info["required"] else _shown(info["default"], str(info["range"]))
    return [info["name"], info["type"], default, info["range"], info["help"]]


def _shown(value: Any, range_text: str) -> str:
    """Numbers as their range has them."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int) and range_text.startswith("0x"):
        return hex(value)
    return str(value)
