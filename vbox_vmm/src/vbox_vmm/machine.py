"""Machines as CFGM trees: the default machine, and what changes one.

Types are named by strings: the kernel knows no plugin.  A machine is

    /RamSize, /TM, /CPUM                      what vm.Vm reads
    /Devices/<type>/<number>/Config/<key>     a device
    /Devices/<type>/<number>/LUN#<n>/...      a chain: Driver, Config, AttachedDriver
    /Boot                                     what vbox_vmm.boot reads
    /Firmware/Path                            folders to look for firmware in, with ":" between them

Texts that people write: `NAME[,key=value...]` is a type and its configuration (a comma in a value is
written twice), `serial#0` an instance, `serial#0/lun0` a LUN.  Whoever has a catalogue gives it to
the functions here: then keys and values are checked at once against the type's configuration class,
and kept with their types.  PDM checks all of them again when it builds the machine.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.config import keys, parse
from vbox_pdm.errors import ConfigError, PdmError
from vbox_vmm import machine_boot
from vbox_vmm.cfgm import Node

CLOCKS = ("realtime", "warp", "instructions")
DEFAULT_MEMORY = 128 << 20
LEAST_MEMORY, MOST_MEMORY = 4 << 20, 2 << 40
"""Bytes of RAM; what the host can give is for PGM to find out."""
BOARD = (
    "pcarch", "i440fx", "piix3", "i8259", "i8254", "mc146818", "i8237", "pckbd", "debugcon",
    "piix3ide", "vga",
)  # fmt: skip
"""The devices of the default machine besides the serial ports and the firmware's."""
SERIAL_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))
"""(first port, interrupt line) of COM1..COM4."""
KEYBOARD, MOUSE = "pckbd#0/lun0", "pckbd#0/lun1"
SCREEN = "vga#0/lun0"
NO_SCREEN, TERMINAL_SCREEN, TERMINAL_KEYS, KEY_QUEUE = (
    "screen", "terminal-screen", "terminal-keys", "keyboard-queue",
)  # fmt: skip
"""Drivers below SCREEN and KEYBOARD."""

_INSTANCE_KEYS = ("PCIDeviceNo", "PCIFunctionNo")
_LUN = re.compile(r"(?P<device>[^#/]+)#(?P<number>\d+)/lun(?:#)?(?P<lun>\d+)", re.IGNORECASE)
_INSTANCE = re.compile(r"(?P<device>[^#/]+)(?:#(?P<number>\d+))?")
_SIZE = re.compile(r"(?P<number>\d+)(?P<unit>[KMGT]?)(?:i?B)?", re.IGNORECASE)
_SHIFT = {"K": 10, "": 20, "M": 20, "G": 30, "T": 40}

Plain = int | str | bytes


@frozen
class Spec:
    """A type and its configuration, as written: `serial,io_base=0x3f8`."""

    name: str
    config: Mapping[str, Plain] = attrs.field(factory=dict)


def default_machine(
    memory: int = DEFAULT_MEMORY, name: str = "vm", *, firmware: str = machine_boot.BIOS
) -> Node:
    """A PC with a 440FX board, `memory` bytes of RAM, four serial ports with nothing attached, a
    keyboard and a mouse with their queues, an IDE controller without drives, a VGA with a screen that
    nobody sits at, and firmware ("bios" or "none").  Raises PdmError VERR_OUT_OF_RANGE."""
    tree = Node()
    tree.insert("Name", name)
    set_memory(tree, memory)
    for device in BOARD:
        tree.insert_node(f"Devices/{device}/0/Config")
    for number, (port, line) in enumerate(SERIAL_PORTS):
        config = tree.insert_node(f"Devices/serial/{number}/Config")
        config.insert("io_base", port)
        config.insert("irq", line)
    set_lun(tree, KEYBOARD, [Spec(KEY_QUEUE)])
    set_lun(tree, MOUSE, [Spec("mouse-queue")])
    set_lun(tree, SCREEN, [Spec(NO_SCREEN)])
    machine_boot.set_firmware(tree, firmware)
    return tree


# --- texts


def parse_size(text: str) -> int:
    """Bytes of `64` (MiB), `65536K`, `64M`, `1G`.  ConfigError VERR_INVALID_PARAMETER."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            "VERR_INVALID_PARAMETER",
            f"'{text}' is no amount of memory",
            "Write MiB, or a number with K, M or G",
        )
    return int(match["number"]) << _SHIFT[match["unit"].upper()]


def parse_spec(text: str) -> Spec:
    """`NAME[,key=value...]`; `,,` is a comma in a value.  ConfigError VERR_INVALID_PARAMETER."""
    name, *pairs = [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
    config: dict[str, Plain] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or key in config:
            what = f"gives '{key}' twice" if key in config else f"has '{pair}', which is not key=value"
            raise ConfigError("VERR_INVALID_PARAMETER", f"'{text}' {what}", "Write NAME,key=value,key=value")
        config[key] = value
    if not name or "/" in name or "=" in name:
        raise ConfigError(
            "VERR_INVALID_PARAMETER", f"'{text}' names nothing", "Write NAME,key=value,key=value"
        )
    return Spec(name, config)


def parse_serial(text: str) -> Spec | None:
    """What hangs below a serial port: stdio, file:PATH, tcp:HOST:PORT[,server], pty, none (None), or
    any driver as `NAME[,key=value...]`.  ConfigError VERR_INVALID_PARAMETER."""
    if text == "none":
        return None
    kind, colon, rest = text.partition(":")
    if colon and kind == "file":
        if not rest:
            raise ConfigError("VERR_INVALID_PARAMETER", f"'{text}' names no file", "Write file:PATH")
        return Spec("file", {"path": rest})
    if colon and kind == "tcp":
        return _parse_tcp(text, rest)
    if text == "file" or text == "tcp":
        remedy = "Write file:PATH" if text == "file" else "Write tcp:HOST:PORT or tcp:HOST:PORT,server"
        raise ConfigError("VERR_INVALID_PARAMETER", f"'{text}' does not say where", remedy)
    return parse_spec(text)


def parse_display(text: str) -> Spec:
    """What is below the graphics device: none, text, png:PATH, or any driver as
    `NAME[,key=value...]`.  ConfigError VERR_INVALID_PARAMETER."""
    kind, colon, rest = text.partition(":")
    if text == "none":
        return Spec(NO_SCREEN)
    if text == "text":
        return Spec(TERMINAL_SCREEN)
    if kind == "png":
        if not colon or not rest:
            raise ConfigError("VERR_INVALID_PARAMETER", f"'{text}' names no file", "Write png:PATH")
        return Spec(NO_SCREEN, {"png": str(Path(rest).absolute()), "live": "on"})
    return parse_spec(text)


def _parse_tcp(text: str, rest: str) -> Spec:
    address, *options = rest.split(",")
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isdecimal() or int(port) > 0xFFFF:
        raise ConfigError(
            "VERR_INVALID_PARAMETER",
            f"'{text}' is no address",
            "Write tcp:HOST:PORT to connect, tcp:HOST:PORT,server to wait for a client; ports end at 65535",
        )
    role = "server" if "server" in options else "client"
    more = parse_spec(",".join(["tcp", *(option for option in options if option != "server")])).config
    return Spec("tcp", {"role": role, "host": host, "port": int(port), **more})


def parse_lun(text: str) -> tuple[str, int, int]:
    """(device, number, lun) of `serial#0/lun0`.  ConfigError VERR_INVALID_PARAMETER."""
    match = _LUN.fullmatch(text)
    if match is None:
        raise ConfigError("VERR_INVALID_PARAMETER", f"'{text}' is no LUN", "Write DEVICE#NUMBER/lunNUMBER")
    return match["device"], int(match["number"]), int(match["lun"])


# --- changes


def set_memory(tree: Node, size: int) -> None:
    """RAM of `size` bytes.  PdmError VERR_OUT_OF_RANGE, VERR_INVALID_PARAMETER."""
    if not LEAST_MEMORY <= size <= MOST_MEMORY:
        raise PdmError(
            "VERR_OUT_OF_RANGE",
            f"{describe_size(size)} of memory is out of range",
            f"A machine takes {LEAST_MEMORY >> 20} MiB to {MOST_MEMORY >> 20} MiB, if the host has them",
        )
    if size % 4096:
        raise PdmError(
            "VERR_INVALID_PARAMETER", f"{size} bytes of memory are not whole pages", "Use a multiple of 4K"
        )
    tree.replace("RamSize", size)


def set_clock(tree: Node, clock: str) -> None:
    """One of `CLOCKS`.  With instructions time jumps while the guest waits, as it does with warp."""
    time = tree.ensure_node("TM")
    time.replace("Source", "instructions" if clock == "instructions" else "host")
    time.replace("Mode", "realtime" if clock == "realtime" else "warp")


def describe_size(size: int) -> str:
    """`64 MiB`, or bytes where that is not a whole number."""
    return f"{size >> 20} MiB" if size % (1 << 20) == 0 else f"{size} bytes"


def instance(tree: Node, text: str) -> Node:
    """The node of `serial#0` (`serial` when it has just one).  ConfigError VERR_PDM_DEVICE_NOT_FOUND,
    VERR_PDM_DEVICE_INSTANCE_NOT_FOUND."""
    match = _INSTANCE.fullmatch(text)
    if match is None:
        raise ConfigError("VERR_INVALID_PARAMETER", f"'{text}' is no device", "Write DEVICE#NUMBER")
    devices = tree.find("Devices")
    found = _instances(tree, match["device"])
    if not found:
        there = ", ".join(devices.children) if devices is not None else "none"
        raise ConfigError(
            "VERR_PDM_DEVICE_NOT_FOUND",
            f"The machine has no device '{match['device']}'",
            f"It has {there}; --device adds one",
        )
    number = match["number"] if match["number"] is not None else next(iter(found))
    if number not in found or (match["number"] is None and len(found) > 1):
        raise ConfigError(
            "VERR_PDM_DEVICE_INSTANCE_NOT_FOUND",
            f"The machine has no '{text}'",
            f"It has {', '.join(match['device'] + '#' + each for each in found)}",
        )
    return found[number]


def add_device(tree: Node, spec: Spec, catalogue: Catalogue | None = None) -> Node:
    """One more device, with the next number; its node.

    Where the type allows a single instance and the machine has it already, that one is configured
    instead.  `PCIDeviceNo` and `PCIFunctionNo` choose the PCI address.  Raises PdmError as
    `vbox_pdm.config.parse` and `Catalogue.device`, and VERR_PDM_TOO_MANY_DEVICE_INSTANCES."""
    place = {key: spec.config[key] for key in _INSTANCE_KEYS if key in spec.config}
    config = {key: value for key, value in spec.config.items() if key not in place}
    there = _instances(tree, spec.name)
    number = str(max(map(int, there), default=-1) + 1)
    if catalogue is not None:
        kind, _ = catalogue.device(spec.name)
        if kind.max_instances == 1 and len(there) == 1:
            number = next(iter(there))
        elif kind.max_instances is not None and len(there) >= kind.max_instances:
            raise ConfigError(
                "VERR_PDM_TOO_MANY_DEVICE_INSTANCES",
                f"The machine has {len(there)} devices '{spec.name}' already, and that is all it may have",
                f"Configure one of them: --set Devices/{spec.name}/0/Config/KEY=VALUE",
            )
        known = _config_of(there.get(number))
        config = typed(kind.config, {**known, **config}, f"{spec.name} instance #{number}")
    node = tree.ensure_node(f"Devices/{spec.name}/{number}")
    _insert_all(node.ensure_node("Config"), config)
    for key, text in place.items():
        node.replace(key, _integer(key, text))
    return node


def remove_device(tree: Node, text: str) -> None:
    """Take `serial#0` out, or with `serial` all of them.  ConfigError as `instance`."""
    if "#" in text:
        node = instance(tree, text)
        above = node.parent
        node.remove()
        if above is not None and not above.children:
            above.remove()
        return
    found = tree.find(f"Devices/{text}")
    if found is None:
        instance(tree, text)  # raises
    else:
        found.remove()


def set_lun(tree: Node, lun: str, chain: Sequence[Spec], catalogue: Catalogue | None = None) -> None:
    """Hang a chain, from the top down, below `serial#0/lun0`; an empty one detaches what is there."""
    device, number, index = parse_lun(lun)
    node = instance(tree, f"{device}#{number}")
    name = f"LUN#{index}"
    below = _chain(chain, lun, catalogue)
    old = node.find(name)
    if old is not None:
        old.remove()
    if below is not None:
        node.insert_subtree(name, below)


def set_display(tree: Node, screen: Spec, catalogue: Catalogue | None = None) -> None:
    """Hang a screen below the graphics device; a screen in the terminal brings the terminal's keys
    along.  ConfigError as `set_lun`."""
    set_lun(tree, SCREEN, [screen], catalogue)
    wanted = TERMINAL_KEYS if screen.name == TERMINAL_SCREEN else KEY_QUEUE
    keyboard = tree.find("Devices/pckbd/0")
    if keyboard is not None and keyboard.query_string("LUN#0/Driver", default=KEY_QUEUE) in (
        KEY_QUEUE, TERMINAL_KEYS,
    ):  # fmt: skip
        set_lun(tree, KEYBOARD, [Spec(wanted)], catalogue)


def insert_filter(tree: Node, text: str, catalogue: Catalogue | None = None) -> None:
    """`serial#0/lun0=DRIVER[,key=value...]`: one more driver in a chain, above the first that serves the
    same layer; at the top where none does, or without a catalogue.

    Raises PdmError: VERR_INVALID_PARAMETER, those of `instance`, `Catalogue.driver` and `parse`."""
    lun, equals, rest = text.partition("=")
    if not equals:
        raise ConfigError(
            "VERR_INVALID_PARAMETER", f"'{text}' names no driver", "Write DEVICE#N/lunN=DRIVER[,key=value...]"
        )
    device, number, index = parse_lun(lun)
    node = instance(tree, f"{device}#{number}")
    spec = parse_spec(rest)
    inserted = _chain([spec], lun, catalogue)
    assert inserted is not None
    above, name = node, f"LUN#{index}"
    if catalogue is not None:
        above, name = _above_layer(node, name, catalogue.driver(spec.name)[0].serves, catalogue)
    old = above.find(name)
    if old is not None:
        old.remove()
        inserted.insert_subtree("AttachedDriver", old)
    above.insert_subtree(name, inserted)


def typed(config_class: type[Any], config: Mapping[str, Plain], where: str) -> dict[str, Plain]:
    """The given keys with values of their types, all checked.  Bytes are written as hexadecimal
    digits.  ConfigError as `vbox_pdm.config.parse`."""
    given: dict[str, object] = dict(config)
    for info in keys(config_class):
        value = given.get(info.name)
        if info.type_name.startswith("bytes") and isinstance(value, str):
            try:
                given[info.name] = bytes.fromhex(value)
            except ValueError:
                raise ConfigError(
                    "VERR_CFGM_NOT_BYTES",
                    f"Configuration value '/{info.name}' of {where} is '{value}', which is not hexadecimal",
                    "Write two digits for each byte",
                ) from None
    parsed = parse(config_class, given, where)
    return {name: _plain(getattr(parsed, name)) for name in config}


# --- machinery


def _chain(chain: Sequence[Spec], where: str, catalogue: Catalogue | None) -> Node | None:
    below: Node | None = None
    for spec in reversed(chain):
        config: Mapping[str, Plain] = spec.config
        if catalogue is not None:
            kind, _ = catalogue.driver(spec.name)
            config = typed(kind.config, config, f"driver '{spec.name}' of {where}")
        node = Node()
        node.insert("Driver", spec.name)
        _insert_all(node.insert_node("Config"), config)
        if below is not None:
            node.insert_subtree("AttachedDriver", below)
        below = node
    return below


def _above_layer(node: Node, name: str, layer: object, catalogue: Catalogue) -> tuple[Node, str]:
    """(node, name of the child) of the first driver of a chain that serves `layer`; else those of its top."""
    top = node, name
    driver = node.find(name)
    while driver is not None:
        if catalogue.driver(driver.query_string("Driver"))[0].serves is layer:
            return node, name
        node, name = driver, "AttachedDriver"
        driver = node.find(name)
    return top


def _instances(tree: Node, device: str) -> dict[str, Node]:
    node = tree.find(f"Devices/{device}")
    return {} if node is None else {name: child for name, child in node.children.items() if name.isdecimal()}


def _config_of(node: Node | None) -> dict[str, Plain]:
    config = node.find("Config") if node is not None else None
    return {} if config is None else {name: value.data for name, value in config.values.items()}


def _insert_all(node: Node, values: Mapping[str, Plain]) -> None:
    for name, value in values.items():
        node.replace(name, value)


def _plain(value: object) -> Plain:
    if value is None:
        return ""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, int | str | bytes):
        return value
    return str(value)


def _integer(key: str, value: Plain) -> int:
    try:
        return value if isinstance(value, int) else int(str(value), 0)
    except ValueError:
        raise ConfigError(
            "VERR_CFGM_NOT_INTEGER", f"{key} is '{value!s}', which is not an integer", "Write 5 or 0x5"
        ) from None
