"""From the configuration tree to what is to be built (facts: pdm.md section 3).

/Devices/<name>/Priority
/Devices/<name>/<number>/Trusted, PCIDeviceNo, PCIFunctionNo, ...
/Devices/<name>/<number>/Config/<key>
/Devices/<name>/<number>/LUN#<n>/Driver, Config/<key>, AttachedDriver/Driver, ...
"""

from __future__ import annotations

from typing import Any

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.chains import Chain, chain_from_tree
from vbox_pdm.errors import ConfigError, PdmError
from vbox_vmm.cfgm import Node
from vbox_vmm.pdm.owned import Plan

_VALUES = "Trusted|R0Enabled|RCEnabled|TracingEnabled|TraceAllGstMemRw|PCIBusNo|PCIDeviceNo|PCIFunctionNo"
_NODES = "Config|LUN#*"
LUN = "LUN#"


def plans(root: Node, catalogue: Catalogue) -> list[Plan]:
    """The devices of a machine in the order in which they are constructed.

    Raises PdmError VERR_PDM_DEVICE_NOT_FOUND, VERR_PDM_TOO_MANY_DEVICE_INSTANCES, ConfigError
    VERR_CFGM_* for a tree that makes no sense."""
    devices = root.find("Devices")
    if devices is None:
        return []
    if devices.values:
        devices.validate("", "*", "/Devices")
    found: list[tuple[int, Plan]] = []
    for name, node in devices.children.items():
        kind, plugin = catalogue.device(name)
        node.validate("Priority", "*", f"device '{name}'")
        priority = node.query_integer("Priority", default=int(kind.device_class), bits=32)
        numbers = _numbers(name, node)
        if kind.max_instances is not None and len(numbers) > kind.max_instances:
            raise PdmError(
                "VERR_PDM_TOO_MANY_DEVICE_INSTANCES",
                f"Device '{name}' allows {kind.max_instances} instances, {len(numbers)} are configured",
                "Remove one of them",
            )
        for number in sorted(numbers):
            found.append((priority, _plan(kind, plugin.distribution, number, numbers[number], catalogue)))
    found.sort(key=lambda entry: entry[0])  # stable: as in the tree, then by number
    return [plan for _, plan in found]


def _numbers(name: str, node: Node) -> dict[int, Node]:
    numbers: dict[int, Node] = {}
    for text, child in node.children.items():
        if not (text.isascii() and text.isdigit()):
            raise ConfigError(
                "VERR_CFGM_INVALID_CHILD_PATH",
                f"'{text}' below /Devices/{name} is no instance number",
                "Instances are numbered with decimal digits",
            )
        number = int(text)
        if number in numbers:
            raise ConfigError(
                "VERR_CFGM_NODE_EXISTS",
                f"Instance #{number} of device '{name}' is configured twice: "
                f"'{numbers[number].name}' and '{text}'",
                "Remove one of them",
            )
        numbers[number] = child
    return numbers


def _plan(kind: Any, distribution: str, number: int, node: Node, catalogue: Catalogue) -> Plan:
    node.validate(_VALUES, _NODES, kind.name, number)
    who = f"{kind.name} instance #{number}"
    if not node.query_bool("Trusted", default=False):
        for key in ("TracingEnabled", "TraceAllGstMemRw"):
            if node.query_bool(key, default=False):
                raise PdmError(
                    "VERR_INCOMPATIBLE_CONFIG", f"{key} of {who} needs a trusted device", "Set Trusted=1"
                )
    bus = node.query_integer("PCIBusNo", default=0)
    if bus:
        raise PdmError("VERR_PDM_NO_PCI_BUS", f"{who} is to be on PCI bus {bus}", "There is bus 0 only")
    node.ensure_node("Config").restricted = True
    return Plan(
        kind,
        number,
        config_values(node.child("Config"), who),
        {lun: chain_of(catalogue, child, f"{LUN}{lun} of {who}") for lun, child in _luns(node, who)},
        distribution,
        _place(node, "PCIDeviceNo", 31, who),
        _place(node, "PCIFunctionNo", 7, who),
    )


def _place(node: Node, key: str, last: int, who: str) -> int | None:
    value = node.query_integer(key, default=None)
    if value is not None and value > last:
        raise PdmError("VERR_OUT_OF_RANGE", f"{key} of {who} is {value}", f"{key} takes 0..{last}")
    return value


def _luns(node: Node, who: str) -> list[tuple[int, Node]]:
    found: dict[int, Node] = {}
    for name, child in node.children.items():
        if not name.startswith(LUN):
            continue
        digits = name[len(LUN) :]
        if not (digits.isascii() and digits.isdigit()) or int(digits) in found:
            raise ConfigError(
                "VERR_CFGM_CONFIG_UNKNOWN_NODE",
                f"Unknown configuration node '/{name}' found in the configuration of {who}",
                "LUNs are numbered with decimal digits: LUN#0",
            )
        found[int(digits)] = child
    return list(found.items())


def config_values(node: Node | None, who: str) -> dict[str, object]:
    """The values of a Config node; it has no children (VERR_CFGM_CONFIG_UNKNOWN_NODE)."""
    if node is None:
        return {}
    if node.children:
        node.validate("*", "", who)
    return {name: value.data for name, value in node.values.items()}


def chain_of(catalogue: Catalogue, node: Node, where: str) -> Chain:
    """The chain that a LUN# or AttachedDriver node describes.

    VERR_PDM_CFG_MISSING_DRIVER_NAME, VERR_PDM_DRIVER_NOT_FOUND, VERR_CFGM_CONFIG_UNKNOWN_*."""
    return chain_from_tree(catalogue, _tree(node, where), where)


def _tree(node: Node, where: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    here: dict[str, Any] | None = tree
    level: Node | None = node
    while level is not None and here is not None:
        level.validate("Driver", "Config|AttachedDriver", where)
        if level.exists("Driver"):
            here["Driver"] = level.query_string("Driver")
        name = here.get("Driver", "driver")
        here["Config"] = config_values(level.find("Config"), f"'{name}' in {where}")
        level = level.find("AttachedDriver")
        if level is not None:
            here["AttachedDriver"] = {}
            here = here["AttachedDriver"]
    return tree


def lun_node(root: Node, name: str, number: int, lun: int) -> Node | None:
    """The node that describes what hangs below a LUN."""
    device = root.find(f"Devices/{name}")
    if device is None:
        return None
    for text, node in device.children.items():
        if text.isdigit() and int(text) == number:
            for child_name, child in node.children.items():
                digits = child_name[len(LUN) :]
                if child_name.startswith(LUN) and digits.isdigit() and int(digits) == lun:
                    return child
    return None
