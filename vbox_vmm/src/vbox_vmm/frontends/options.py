"""The options that describe a machine, shared by `vbox run` and `vbox machine`, and what they build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import importlib_metadata
from attrs import frozen

from vbox_pdm.catalogue import GROUP, Catalogue
from vbox_pdm.errors import ConfigError, PdmError
from vbox_vmm import machine
from vbox_vmm.cfgm import EXTRA_DATA_PREFIX, Node, apply_extra_data

F = TypeVar("F", bound=Callable[..., Any])


class _Text(click.ParamType):  # type: ignore[type-arg]
    """A text that `parse` of vbox_vmm.machine takes apart; what it refuses is wrong usage."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ConfigError as error:
            self.fail(f"{error.message}. {error.remedy}", param, ctx)


def _filter(text: str) -> str:
    lun, _, driver = text.partition("=")
    machine.parse_lun(lun)
    machine.parse_spec(driver)
    return text


def _serial(text: str) -> tuple[machine.Spec | None]:
    return (machine.parse_serial(text),)


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip("/"):
        raise ConfigError("VERR_INVALID_PARAMETER", f"'{text}' is no setting", "Write PATH/KEY=VALUE")
    return key.strip("/"), value


FILE = click.Path(path_type=Path)

plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=FILE,
    metavar="FILE.py",
    help="Load a file as a plugin.  Repeatable.",
)

MACHINE_OPTIONS = (
    click.option("--machine", "machine_file", type=FILE, metavar="FILE.xml",
                 help="Begin with this machine instead of the default one."),
    click.option("--memory", type=_Text("SIZE", machine.parse_size), metavar="SIZE",
                 help="RAM in MiB, or with K, M or G behind it; at least 4 MiB.  [default: 128]"),
    click.option("--kernel", type=FILE, metavar="FILE",
                 help="Enter this kernel: a Linux bzImage or a multiboot kernel."),
    click.option("--initrd", type=FILE, metavar="FILE", help="Initrd, or module of a multiboot kernel."),
    click.option("--append", metavar="TEXT", help="Kernel command line; Linux also gets the TSC's rate."),
    click.option("--firmware", type=click.Choice(["none"]),
                 help="What sets up the board.  none: vbox does.  [default: none]"),
    click.option("--serial", "serials", multiple=True, type=_Text("WHERE", _serial),
                 metavar="stdio|file:PATH|tcp:HOST:PORT[,server]|pty|none|DRIVER[,key=value...]",
                 help="What hangs at COM1; again for COM2 and so on.  [default with --kernel: stdio]"),
    click.option("--device", "devices", multiple=True, type=_Text("DEVICE", machine.parse_spec),
                 metavar="NAME[,key=value...]", help="Add a device.  Repeatable."),
    click.option("--without", multiple=True, metavar="NAME[#N]",
                 help="Leave a device of the machine out.  Repeatable."),
    click.option("--filter", "filters", multiple=True, type=_Text("FILTER", _filter),
                 metavar="DEVICE#N/lunN=DRIVER[,key=value...]",
                 help="Put a driver at the top of a LUN's chain.  Repeatable."),
    click.option("--set", "settings", multiple=True, type=_Text("SETTING", _setting),
                 metavar="PATH/KEY=VALUE",
                 help="Write into the configuration tree, such as "
                      "Devices/serial/0/Config/pacing=1.  Repeatable."),
    plugin_option,
    click.option("--clock", type=click.Choice(["realtime", "warp"]),
                 help="Virtual time: as the host's, or jumping to the next timer while the guest "
                      "waits.  [default: realtime]"),
    click.option("--engine", metavar="NAME", help="What executes the guest; `vbox plugins` lists engines."),
    click.option("--cpu", metavar="MODEL[,+feature][,-feature]", help="What CPUID tells the guest."),
)  # fmt: skip


def machine_options(function: F) -> F:
    """Decorator: all options that describe a machine."""
    for option in reversed(MACHINE_OPTIONS):
        function = option(function)
    return function


@frozen(kw_only=True)
class MachineOptions:
    """The values of `MACHINE_OPTIONS`."""

    machine_file: Path | None = None
    memory: int | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    firmware: str | None = None
    serials: Sequence[tuple[machine.Spec | None]] = ()
    devices: Sequence[machine.Spec] = ()
    without: Sequence[str] = ()
    filters: Sequence[str] = ()
    settings: Sequence[tuple[str, str]] = ()
    plugins: Sequence[Path] = ()
    clock: str | None = None
    engine: str | None = None
    cpu: str | None = None


@frozen
class _OwnDistribution:
    name: str = "vbox-vmm"
    version: str = ""
    requires: tuple[str, ...] = ()


@frozen
class OwnPlugin:
    """A plugin of the command line itself, in the shape of an entry point.  `module` has hooks."""

    name: str
    module: Any
    dist: _OwnDistribution = _OwnDistribution()

    def load(self) -> Any:
        return self.module


def load_catalogue(files: Sequence[Path] = (), own: Sequence[OwnPlugin] = ()) -> Catalogue:
    """What is installed, and plugin files.  Raises PdmError for a file that cannot be used."""
    catalogue = Catalogue([*importlib_metadata.entry_points(group=GROUP), *own])
    for path in files:
        catalogue.add_file(path)
    return catalogue


def build_machine(options: MachineOptions, catalogue: Catalogue) -> Node:
    """The machine that the options describe.  Raises PdmError."""
    if options.machine_file is not None:
        from vbox_vmm import cfgm_xml  # lxml takes its time

        tree = cfgm_xml.read(options.machine_file)
    else:
        tree = machine.default_machine()
    if options.memory is not None:
        machine.set_memory(tree, options.memory)
    for text in options.without:
        machine.remove_device(tree, text)
    for spec in options.devices:
        machine.add_device(tree, spec, catalogue)
    _set_serials(tree, options, catalogue)
    _set_boot(tree, options)
    if options.clock is not None:
        tree.ensure_node("TM").replace("Mode", options.clock)
    if options.engine is not None:
        tree.ensure_node("CPUM").replace("Engine", options.engine)
    if options.cpu is not None:
        _set_cpu(tree, options.cpu)
    for text in options.filters:
        machine.insert_filter(tree, text, catalogue)
    apply_extra_data(tree, {EXTRA_DATA_PREFIX + key: value for key, value in options.settings})
    return tree


def _set_serials(tree: Node, options: MachineOptions, catalogue: Catalogue) -> None:
    serials = [spec for (spec,) in options.serials]
    if not serials:
        configured = tree.find("Devices/serial/0/LUN#0") is not None
        if options.kernel is None or configured or tree.find("Devices/serial/0") is None:
            return
        serials = [machine.Spec("stdio")]
    if sum(spec is not None and spec.name == "stdio" for spec in serials) > 1:
        raise PdmError(
            "VERR_PDM_TOO_MANY_DRIVER_INSTANCES",
            "Two serial ports cannot share standard input and output",
            "Give --serial stdio once",
        )
    for number, spec in enumerate(serials):
        machine.set_lun(tree, f"serial#{number}/lun0", [] if spec is None else [spec], catalogue)


def _set_boot(tree: Node, options: MachineOptions) -> None:
    boot = tree.ensure_node("Boot")
    if options.kernel is not None:
        boot.replace("Kernel", str(options.kernel.absolute()))
    if options.initrd is not None:
        boot.replace("Initrd", str(options.initrd.absolute()))
    if options.append is not None:
        boot.replace("Append", options.append)
    if options.firmware is not None or options.kernel is not None:
        boot.replace("Firmware", options.firmware or "none")
    if not boot.values:
        boot.remove()


def _set_cpu(tree: Node, text: str) -> None:
    model, *changes = text.split(",")
    cpum = tree.ensure_node("CPUM")
    if model:
        cpum.replace("Model", model)
    bad = next((change for change in changes if change[:1] not in ("+", "-") or len(change) < 2), None)
    if bad is not None:
        raise ConfigError(
            "VERR_INVALID_PARAMETER", f"--cpu {text}: '{bad}' is no feature", "Write MODEL,+feature,-feature"
        )
    for key, sign in (("With", "+"), ("Without", "-")):
        names = [change[1:] for change in changes if change[0] == sign]
        if names:
            cpum.replace(key, " ".join(names))
