"""The options that describe a machine, shared by `vbox run` and `vbox machine`, and what they build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import importlib_metadata
from attrs import frozen

from vbox_pdm.catalogue import GROUP, Catalogue
from vbox_pdm.config import keys
from vbox_pdm.errors import ConfigError, PdmError
from vbox_vmm import machine, machine_boot, machine_storage
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
GROUPS = ("Machine", "Boot", "Drives", "Display and serial ports", "Script", "Debugging")
"""The sections of --help, in order; what is in none of them comes last."""


class GroupedOption(click.Option):
    """An option that belongs to a section of --help."""

    def __init__(self, *args: Any, group: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose --help has sections, and examples as they are typed."""

    examples: Sequence[tuple[str, str]] = ()
    """(what it does, the line)."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in (*GROUPS, "Other")}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                rows[getattr(parameter, "group", "") or "Other"].append(record)
        for group, records in rows.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records, col_max=26)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for what, line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}# {what}\n")
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def option(group: str, *names: str, **more: Any) -> Callable[[F], F]:
    """An option in a section of --help."""
    return click.option(*names, cls=GroupedOption, group=group, **more)


_MACHINE, _BOOT, _DRIVES, _DISPLAY, _SCRIPT, _DEBUGGING = GROUPS

plugin_option = option(
    _MACHINE,
    "--plugin",
    "plugins",
    multiple=True,
    type=FILE,
    metavar="FILE.py",
    help="Load a file as a plugin.  Repeatable.",
)

MACHINE_OPTIONS = (
    option(_MACHINE, "--machine", "machine_file", type=FILE, metavar="FILE.xml",
           help="Begin with this machine (`vbox machine` writes one) instead of the default one."),
    option(_MACHINE, "--memory", type=_Text("SIZE", machine.parse_size), metavar="SIZE",
           help="RAM in MiB, or with K, M or G behind it; at least 4 MiB.  [default: 128]"),
    option(_MACHINE, "--cpu", metavar="MODEL[,+feature][,-feature]", help="What CPUID tells the guest."),
    option(_MACHINE, "--clock", type=click.Choice(machine.CLOCKS),
           help="Virtual time: as the host's; jumping to the next timer while the guest waits; or made of "
                "the instructions that the guest executes, so that each run is the same.  "
                "[default: realtime]"),
    option(_MACHINE, "--engine", metavar="NAME",
           help="What executes the guest; `vbox plugins` lists engines."),
    option(_MACHINE, "--device", "devices", multiple=True, type=_Text("DEVICE", machine.parse_spec),
           metavar="NAME[,key=value...]",
           help="Add a device; `vbox devices` lists them and their keys.  Repeatable."),
    option(_MACHINE, "--without", multiple=True, metavar="NAME[#N]",
           help="Leave a device of the machine out.  Repeatable."),
    option(_MACHINE, "--filter", "filters", multiple=True, type=_Text("FILTER", _filter),
           metavar="DEVICE#N/lunN=DRIVER[,key=value...]",
           help="Put a driver into a LUN's chain, at the top of those that serve its layer.  Repeatable."),
    option(_MACHINE, "--set", "settings", multiple=True, type=_Text("SETTING", _setting),
           metavar="PATH/KEY=VALUE",
           help="Write into the configuration tree, such as "
                "Devices/serial/0/Config/pacing=1.  Repeatable."),
    plugin_option,
    option(_BOOT, "--kernel", type=FILE, metavar="FILE",
           help="Start this Linux kernel (bzImage) instead of what is on drives.  Without firmware: a "
                "multiboot kernel, too."),
    option(_BOOT, "--initrd", type=FILE, metavar="FILE",
           help="Its initrd, or the module of a multiboot kernel."),
    option(_BOOT, "--append", metavar="TEXT", help="Its command line; Linux also gets the TSC's rate."),
    option(_BOOT, "--firmware", type=click.Choice([machine_boot.BIOS, machine_boot.NONE]),
           help="What sets the board up.  bios: SeaBIOS, as in a PC.  none: vbox does, and enters the "
                "kernel at once.  [default: bios]"),
    option(_BOOT, "--bios", type=FILE, metavar="PATH",
           help="A firmware image, or a folder with images.  [default: those installed, "
                "/usr/share/seabios]"),
    option(_BOOT, "--boot", type=_Text("ORDER", machine_boot.parse_boot_order),
           metavar="disk|cdrom|kernel|net,...",
           help="What is tried, in this order.  [default: the kernel if there is one, then disk, cdrom]"),
    option(_DRIVES, "--disk", "disks", multiple=True, type=_Text("DISK", machine_storage.parse_disk),
           metavar="PATH[,key=value...]",
           help="A hard disk from a raw image or a block device.  snapshot=on throws away what the guest "
                "writes; readonly=on; at=0..3 is its place (0 primary master, 1 primary slave, "
                "2 secondary master, 3 secondary slave); other keys: `vbox devices ata-disk`.  A comma in "
                "PATH is written twice.  Repeatable."),
    option(_DRIVES, "--cdrom", "cdroms", multiple=True, type=_Text("CDROM", machine_storage.parse_cdrom),
           metavar="PATH|none[,key=value...]",
           help="A CD drive with this ISO image, or empty, as secondary master; keys as for --disk."),
    option(_DISPLAY, "--display", type=_Text("DISPLAY", machine.parse_display),
           metavar="none|text|png:PATH",
           help="Who sees the screen.  text: you, in this terminal, with its keyboard (Ctrl-A x powers "
                "off, Ctrl-A h helps).  png: a picture file that follows it.  [default: text at a terminal "
                "that no serial port uses, else none]"),
    option(_DISPLAY, "--serial", "serials", multiple=True, type=_Text("WHERE", _serial),
           metavar="stdio|file:PATH|tcp:HOST:PORT[,server]|pty|none|DRIVER[,key=value...]",
           help="What hangs at COM1; again for COM2 and so on.  [default with --kernel, without "
                "--display text: stdio]"),
)  # fmt: skip


def machine_options(function: F) -> F:
    """Decorator: all options that describe a machine."""
    for decorator in reversed(MACHINE_OPTIONS):
        function = decorator(function)
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
    bios: Path | None = None
    boot: Sequence[str] | None = None
    disks: Sequence[machine_storage.Drive] = ()
    cdroms: Sequence[machine_storage.Drive] = ()
    display: machine.Spec | None = None
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


def build_machine(options: MachineOptions, catalogue: Catalogue, *, terminal: bool = False) -> Node:
    """The machine that the options describe.  `terminal`: its screen may be drawn in the terminal when
    nobody says where it goes.  Raises PdmError."""
    if options.machine_file is not None:
        from vbox_vmm import cfgm_xml  # lxml takes its time

        tree = cfgm_xml.read(options.machine_file)
    else:
        tree = machine.default_machine()
    if options.memory is not None:
        machine.set_memory(tree, options.memory)
    _set_firmware(tree, options)
    for text in options.without:
        machine.remove_device(tree, text)
    for spec in options.devices:
        machine.add_device(tree, spec, catalogue)
    machine_storage.add_drives(tree, [*options.disks, *options.cdroms], catalogue)
    _set_serials(tree, options, catalogue)
    display = options.display
    if display is None and terminal and _nobody_looks(tree) and not _uses_terminal(tree):
        display = machine.Spec(machine.TERMINAL_SCREEN)
    if display is not None:
        _set_display(tree, display, catalogue)
    _set_boot(tree, options, catalogue)
    if options.clock is not None:
        machine.set_clock(tree, options.clock)
    if options.engine is not None:
        tree.ensure_node("CPUM").replace("Engine", options.engine)
    if options.cpu is not None:
        _set_cpu(tree, options.cpu)
    for text in options.filters:
        machine.insert_filter(tree, text, catalogue)
    apply_extra_data(tree, {EXTRA_DATA_PREFIX + key: value for key, value in options.settings})
    return tree


def _nobody_looks(tree: Node) -> bool:
    """Whether the machine has a screen of which nobody asked for a picture."""
    screen = tree.find("Devices/vga/0/LUN#0")
    return (
        screen is not None
        and screen.query_string("Driver", default="") == machine.NO_SCREEN
        and not screen.exists("Config/png")
    )


def _uses_terminal(tree: Node) -> bool:
    """Whether a serial port of the machine is on standard input and output."""
    ports = tree.find("Devices/serial")
    return ports is not None and any(
        node.query_string("Driver", default="") == "stdio" for node in ports.walk() if node is not ports
    )


def _set_serials(tree: Node, options: MachineOptions, catalogue: Catalogue) -> None:
    serials = [spec for (spec,) in options.serials]
    if not serials:
        configured = tree.find("Devices/serial/0/LUN#0") is not None
        in_terminal = options.display is not None and options.display.name == machine.TERMINAL_SCREEN
        if options.kernel is None or configured or in_terminal or tree.find("Devices/serial/0") is None:
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


def _set_display(tree: Node, screen: machine.Spec, catalogue: Catalogue) -> None:
    if screen.name == machine.TERMINAL_SCREEN and _uses_terminal(tree):
        raise PdmError(
            "VERR_PDM_TOO_MANY_DRIVER_INSTANCES",
            "The screen and a serial port cannot share the terminal",
            "Give --serial none, pty or file:PATH, or another --display",
        )
    machine.set_display(tree, screen, catalogue)


def _set_firmware(tree: Node, options: MachineOptions) -> None:
    if options.firmware is not None:
        machine_boot.set_firmware(tree, options.firmware)

    def text(path: Path | None) -> str | None:
        return None if path is None else str(path.absolute())

    machine_boot.set_kernel(tree, text(options.kernel), text(options.initrd), options.append)


def _set_boot(tree: Node, options: MachineOptions, catalogue: Catalogue) -> None:
    """What needs the kernel to be known, and must not bring back a device that was left out."""
    machine_boot.check_kernel(tree)
    if options.kernel is not None and not machine_boot.has_kernel(tree):
        raise ConfigError(
            "VERR_PDM_DEVICE_NOT_FOUND",
            "Without qemu-fw-cfg firmware starts no kernel",
            "Keep that device, or give --firmware none",
        )
    if options.bios is not None:
        kind, _ = catalogue.device(machine_boot.FIRMWARE[0])
        name = next((info.default for info in keys(kind.config) if info.name == "bios_rom"), "")
        machine_boot.set_bios(tree, options.bios, str(name))
    if options.boot is not None:
        machine_boot.set_boot_order(tree, options.boot)


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
