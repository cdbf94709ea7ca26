"""The page about our own types: every device and driver with its keys and LUNs.

It shows what `vbox devices --json` says, of the plugins whose sources are in plugins/.
"""

from __future__ import annotations

import contextlib
import io
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refpages import bench
from refpages.author import Author
from refpages.markdown import Page, code, slug_of
from vbox_pdm import hookimpl, testing
from vbox_pdm.catalogue import Catalogue
from vbox_pdm.errors import PdmError
from vbox_vmm.frontends.cli import main

KEY = ("Key", "Type", "Default", "Range", "What it is")
_OWN = Path(__file__).parent.parent.parent / "plugins"


class Unusable(Exception):
    """A plugin of ours cannot be loaded, or a device not be made: a page about it would be wrong."""


def own_types() -> list[dict[str, Any]]:
    """All types of our own distributions, as JSON has them, with their LUNs.  Raises Unusable."""
    ours = own_distributions()
    for plugin in ask("plugins"):
        if plugin["distribution"] in ours and plugin["state"] == "unusable":
            raise Unusable(f"plugin {plugin['name']} is unusable: {plugin['reason']}")
    catalogue = Catalogue()
    types = [row for row in ask("devices") if row["distribution"] in ours]
    for kind in types:
        if kind["kind"] == "device":
            kind["luns"] = _luns(kind["name"])
        else:
            wants = catalogue.driver(kind["name"])[0].wants
            kind["luns"] = [] if wants is None else [(0, wants.name, "below")]
    return types


def _luns(device: str) -> list[tuple[int, str, str]]:
    """(number, layer, description) of the LUNs of a device, from one that is made on the bench."""
    found = []

    class Links:
        @hookimpl
        def pdm_link_created(self, instance: Any, lun: int, link: Any) -> None:
            if instance.title == f"{device}#0":
                found.append((lun, str(link.layer.name), str(link.description)))

    with testing.Bench(backend="bench", files=_AnyFile()) as bench:
        bench.plugin(Links())
        try:
            bench.add(device)
        except PdmError as error:
            raise Unusable(f"device {device} cannot be made: {error}") from None
    return sorted(found)


class _AnyFile(dict[str, bytes]):
    """Whatever a device wants to read of the host is there, so that pages do not depend on the host: an
    option ROM of 64 KiB (128 blocks, its bytes add up to 0), which does for firmware, too."""

    def get(self, name: str, default: Any = None) -> Any:
        """What the bench asks."""
        return b"\x55\xaa\x80" + bytes((64 << 10) - 4) + b"\x81"


def own_distributions() -> dict[str, str]:
    """Name -> what it is, of each distribution in plugins/."""
    found = {}
    for path in sorted(_OWN.glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        found[str(project["name"])] = str(project["description"])
    return found


def ask(*words: str) -> Any:
    """What a verb of `vbox` answers."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            main([*words, "--json"])
        except SystemExit as end:
            if end.code:
                raise Unusable(f"vbox {' '.join(words)} --json ended with {end.code}") from None
    return json.loads(output.getvalue())


def users_of_layers(types: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Layer -> who of our own types serves it, who wants it, and the fake that stands below in tests."""
    serves: dict[str, list[str]] = {}
    wants: dict[str, list[str]] = {}
    for kind in types:
        link = f"[{kind['name']}](devices.md#{slug_of(kind['name'])})"
        if kind["kind"] == "driver":
            serves.setdefault(kind["class"], []).append(link)
        for layer in dict.fromkeys(layer for _, layer, _ in kind["luns"]):
            wants.setdefault(layer, []).append(link)
    found = {}
    for layer in dict.fromkeys([*wants, *serves]):
        servers = ", ".join(serves.get(layer, ["nothing of ours"]))
        found[layer] = f"Served by {servers}; wanted by {', '.join(wants.get(layer, ['nothing of ours']))}."
        fake = bench.fake_below(layer)
        if fake is not None:
            found[layer] += f" In tests {code(fake.__name__)} stands below."
    return found


def devices(author: Author, types: Sequence[Mapping[str, Any]]) -> None:
    """Every type with its keys."""
    page = author.page(
        "devices.md",
        "Devices and drivers",
        "Every configuration key of every device and driver of our own plugins.",
    )
    page.text(
        "`vbox devices NAME` shows the same of whatever is installed. Keys are given by `--device "
        "NAME,key=value`, `--filter`, `--serial` or `--disk`, or by `--set Devices/NAME/0/Config/key=value` "
        "for a device that the machine has already."
    )
    for distribution, what in own_distributions().items():
        page.heading(2, distribution)
        page.text(f"{what}.")
        mine = [kind for kind in types if kind["distribution"] == distribution]
        rows = [
            (f"[{kind['name']}](#{slug_of(kind['name'])})", _kind(kind), kind["summary"]) for kind in mine
        ]
        page.table(("Name", "Kind", "What it is"), rows)
        for kind in mine:
            _type(author, page, kind)


def _type(author: Author, page: Page, kind: Mapping[str, Any]) -> None:
    page.heading(3, kind["name"])
    author.must(kind["summary"], kind["name"])
    most = kind["max_instances"]
    limit = "" if most is None else f", at most {most} in a machine"
    page.text(f"{_kind(kind)}{limit}: {kind['summary']}.")
    if not kind["keys"]:
        page.text("It has no keys.")
    rows = []
    for info in kind["keys"]:
        text = author.must(info["help"], f"{kind['name']} key {info['name']}")
        rows.append((code(info["name"]), info["type"], _default(info), code(info["range"]), text))
    page.table(KEY, rows)
    luns = [(str(number), code(layer), what) for number, layer, what in kind["luns"]]
    page.table(("LUN", "Layer", "What hangs there"), luns)


def _kind(kind: Mapping[str, Any]) -> str:
    what = "Device" if kind["kind"] == "device" else "Driver"
    return f"{what}, {code(kind['class'])}"


def _default(info: Mapping[str, Any]) -> str:
    value = info["default"]
    if info["required"]:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int) and str(info["range"]).startswith("0x"):
        return code(hex(value))
    return code(str(value)) if value != "" else "empty"
