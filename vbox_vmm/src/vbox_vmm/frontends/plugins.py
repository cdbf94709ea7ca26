"""`vbox plugins`: what was found, in which state, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vbox_pdm.catalogue import Catalogue, Plugin, PluginState
from vbox_pdm.errors import PdmError
from vbox_vmm.frontends.messages import print_json, print_table
from vbox_vmm.frontends.options import load_catalogue, plugin_option


@click.command("plugins", short_help="List the plugins, and how to mend what is unusable.")
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Tracebacks for errors.")
def plugins(plugins: Sequence[Path], as_json: bool, debug: bool) -> None:
    """List the plugins, and how to mend what is unusable."""
    catalogue = load_catalogue()
    missing = load_files(catalogue, plugins)
    catalogue.load_all()
    rows = [describe(plugin) for plugin in catalogue.plugins] + missing
    if as_json:
        print_json(rows)
        return
    headers = ("NAME", "KIND", "DISTRIBUTION", "VERSION", "CONTRACT", "STATE", "HOW TO MEND IT")
    print_table(headers, [[_cell(row, header) for header in headers] for row in rows])


def load_files(catalogue: Catalogue, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Add plugin files; rows for those that are not even plugins."""
    missing = []
    for path in files:
        try:
            catalogue.add_file(path)
        except PdmError as error:
            if not any(plugin.distribution == str(path) for plugin in catalogue.plugins):
                missing.append(
                    {
                        "name": path.stem, "kind": "", "distribution": str(path),
                        "version": "", "contract": "",
                        "state": PluginState.UNUSABLE.value, "reason": error.message, "remedy": error.remedy,
                        "devices": [], "drivers": [], "engines": [],
                    }
                )  # fmt: skip
    return missing


def describe(plugin: Plugin) -> dict[str, Any]:
    """A plugin as JSON has it."""
    types = {
        "device": [kind.name for kind in plugin.devices],
        "driver": [kind.name for kind in plugin.drivers],
        "engine": [kind.name for kind in plugin.engines],
    }
    kinds = [kind for kind, names in types.items() if names]
    if not kinds and plugin.state is PluginState.LOADED:
        kinds = ["hooks"]
    return {
        "name": plugin.name,
        "kind": ", ".join(kinds),
        "distribution": plugin.distribution,
        "version": plugin.version,
        "contract": plugin.contract,
        "state": plugin.state.value,
        "reason": plugin.reason,
        "remedy": plugin.remedy,
        "devices": types["device"],
        "drivers": types["driver"],
        "engines": types["engine"],
    }


def _cell(row: dict[str, Any], header: str) -> str:
    if header == "HOW TO MEND IT":
        return ". ".join(part.rstrip(".") for part in (row["reason"], row["remedy"]) if part)
    return str(row[header.lower()])
