"""`vbox run`: a machine from options, run to its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.errors import ConfigError, PdmError
from vbox_vmm import machine, machine_boot, machine_storage
from vbox_vmm.boot import read_boot
from vbox_vmm.cfgm import Node
from vbox_vmm.frontends.exitcodes import EXIT_CODES
from vbox_vmm.frontends.linkbook import LinkBook
from vbox_vmm.frontends.messages import LEVELS, complain, hold, logging_to_stderr, progress, release, say
from vbox_vmm.frontends.options import (
    FILE,
    GroupedCommand,
    MachineOptions,
    OwnPlugin,
    build_machine,
    load_catalogue,
    machine_options,
    option,
)
from vbox_vmm.frontends.script import (
    DRIVER,
    SCREEN_DRIVER,
    Script,
    ScriptDriver,
    Step,
    screen_driver,
    script_driver,
)
from vbox_vmm.frontends.trace import Tracer

_SCRIPT = ("expect", "expect_screen", "type", "keys")
_LARGE = 32 << 20
"""Bytes of a file whose reading is worth a word."""
_EXAMPLES = (
    ("Start from a CD, on the screen in this terminal", "vbox run --cdrom debian.iso --memory 512"),
    (
        "Install from a CD to a new disk of 8 GiB, then start from the disk",
        "truncate -s 8G pc.img && vbox run --disk pc.img --cdrom debian.iso --boot cdrom,disk --memory 1G",
    ),
    ("Try something out: nothing is written to the disk", "vbox run --disk pc.img,snapshot=on"),
    (
        "A Linux kernel with its console on COM1, which is this terminal",
        'vbox run --kernel vmlinuz --initrd initrd.img --append "console=ttyS0" --memory 256',
    ),
    (
        "For scripts: wait for a text on the screen, type, keep a picture of how it ended",
        'vbox run --cdrom x.iso --expect-screen "boot:" --keys "\\n" --timeout 300 --screenshot end.png',
    ),
)


class RunCommand(GroupedCommand):
    """Keeps the order in which options of different names were given, which click does not."""

    examples = _EXAMPLES

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            values, _, order = self.make_parser(ctx).parse_args(args=list(args))
            given = {name: iter(values.get(name) or ()) for name in _SCRIPT}
            ctx.meta["vbox.script"] = [
                Step.parse(parameter.name, next(given[parameter.name]))
                for parameter in order
                if parameter.name in given
            ]
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("How scripts work"):
            formatter.write_text(
                "--expect, --expect-screen, --type and --keys are carried out in the order given. "
                r"In their texts \n \r \t \e \a \b \0 \\ \xHH and \uHHHH are resolved. "
                "--expect waits for output that was not part of a match before; --expect-screen is met when "
                "the text stands on the screen. When the last of them is an expectation, its being met ends "
                "the run; otherwise the guest goes on until it powers off."
            )
        with formatter.section("At a terminal"):
            formatter.write_text(
                "Every key goes to the guest, Ctrl-C too; Ctrl-A x powers off, Ctrl-A h helps. This holds "
                "for the screen as well as for a serial port."
            )
        with formatter.section("Exit codes"):
            formatter.write_dl(EXIT_CODES)
        super().format_epilog(ctx, formatter)


@click.command("run", cls=RunCommand, short_help="Run a virtual machine.")
@machine_options
@option(
    "Display and serial ports",
    "--screenshot",
    type=FILE,
    metavar="PATH",
    help="When the run ends, however it ends, write the last screen to this PNG file.",
)
@option(
    "Script",
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Power off after so many seconds of the host's time.",
)
@option("Script", "--expect", multiple=True, metavar="TEXT", help="Wait until COM1 sends TEXT.")
@option("Script", "--expect-screen", multiple=True, metavar="TEXT", help="Wait until the screen shows TEXT.")
@option("Script", "--type", "type", multiple=True, metavar="TEXT", help="Type TEXT into COM1.")
@option("Script", "--keys", multiple=True, metavar="TEXT", help="Type TEXT on the keyboard.")
@option(
    "Debugging",
    "--trace",
    multiple=True,
    metavar="[DEVICE[#N]/]REGION",
    help="Print each access to a region, named or by a pattern, to standard error.  Repeatable.",
)
@option("Debugging", "--exits", is_flag=True, help="At the end print why the guest was left, and how often.")
@option(
    "Debugging",
    "--log-level",
    type=click.Choice(LEVELS),
    help="What of the log is printed.  [default: warning]",
)
@option("Debugging", "--debug", is_flag=True, help="Print the whole log, and tracebacks.")
@click.pass_context
def run(
    context: click.Context,
    /,
    screenshot: Path | None,
    timeout: float | None,
    expect: Sequence[str],
    expect_screen: Sequence[str],
    type: Sequence[str],
    keys: Sequence[str],
    trace: Sequence[str],
    exits: bool,
    log_level: str | None,
    debug: bool,
    **options: Any,
) -> int:
    """Run a virtual machine: the default one (a PC with SeaBIOS, IDE, VGA, keyboard, mouse and serial
    ports), with the changes that the options make, or one from a file that `vbox machine` wrote."""
    chosen = MachineOptions(**options)
    steps = context.meta["vbox.script"]
    if not (_says_what(chosen) or screenshot or expect_screen):
        raise click.UsageError(
            "Nothing to run: give --cdrom FILE, --disk FILE, --kernel FILE or --machine FILE.xml", context
        )
    with logging_to_stderr(log_level, debug):
        return _Preparation(chosen, steps, timeout, trace, exits, screenshot).execute()


def _says_what(options: MachineOptions) -> bool:
    """Whether the options say what is to be seen; firmware alone is something to see."""
    if any((options.kernel, options.machine_file, options.devices, options.plugins)):
        return True
    if options.firmware == machine_boot.NONE:
        return False
    return any((options.disks, options.cdroms, options.bios, options.boot, options.display, options.firmware))


@frozen
class _Preparation:
    """A run from its options to its exit code."""

    options: MachineOptions
    steps: Sequence[Step]
    timeout: float | None
    trace: Sequence[str]
    exits: bool
    screenshot: Path | None

    def execute(self) -> int:
        """Raises PdmError."""
        book = LinkBook()
        script = Script(self.steps, book.keyboard) if self.steps else None
        own = [OwnPlugin(DRIVER, _ScriptPlugin(script))] if script is not None else []
        catalogue = load_catalogue(self.options.plugins, own)
        tree = self._tree(catalogue, script)
        boot = read_boot(tree)
        if boot is not None:
            boot.check(tree)
        tracer = Tracer(self.trace, say)
        catalogue.manager.register(book)
        if self.trace:
            catalogue.manager.register(tracer)

        from vbox_vmm.frontends.runner import Run  # the kernel: not for errors in the options

        try:
            return Run(
                tree=tree,
                catalogue=catalogue,
                boot=boot,
                timeout=self.timeout,
                script=script,
                started=lambda vm: self._started(book, tracer),
                ended=lambda vm: self._ended(book, vm),
            ).execute()
        finally:
            release()

    def _tree(self, catalogue: Catalogue, script: Script | None) -> Node:
        """The machine, and whether what it needs is there."""
        tree = build_machine(self.options, catalogue, terminal=_can_draw())
        _check_output("screenshot", self.screenshot)
        live = tree.query_string("Devices/vga/0/LUN#0/Config/png", default=None)
        _check_output("picture", Path(live) if live else None)
        machine_storage.check_images(tree)
        _check_files(tree)
        machine_boot.tell_tsc(tree)
        if self.screenshot is not None and tree.find("Devices/vga/0") is None:
            raise ConfigError(
                "VERR_PDM_DEVICE_NOT_FOUND", "A machine without vga has no screen", "Leave out --screenshot"
            )
        if script is not None:
            has_port = tree.find("Devices/serial/0") is not None
            if script.needs_screen or not (script.needs_port or has_port):
                machine.insert_filter(tree, f"{machine.SCREEN}={SCREEN_DRIVER}", catalogue)
            if script.needs_port or (has_port and not script.needs_screen):
                machine.insert_filter(tree, f"serial#0/lun0={DRIVER}", catalogue)
        return tree

    def _started(self, book: LinkBook, tracer: Tracer) -> None:
        for pattern in tracer.unused if self.trace else ():
            complain(f"warning: --trace {pattern} names no region; there are {', '.join(tracer.seen)}")
        for number, (spec,) in enumerate(self.options.serials):
            _tell_where(book, spec, f"serial#{number}")
        screen, keyboard = book.screen(), book.keyboard()
        if screen is not None and hasattr(screen, "show_note"):  # it draws in the terminal
            hold()
            if keyboard is not None and hasattr(keyboard, "introduce"):
                keyboard.introduce(screen)

    def _ended(self, book: LinkBook, vm: Any) -> None:
        from vbox_vmm.frontends.runner import print_exits

        release()
        if self.exits:
            print_exits(vm)
        if self.screenshot is not None:
            screen = book.screen()
            try:
                if screen is None:
                    raise ConfigError(
                        "VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN",
                        "The machine has no screen that can be kept",
                        "Attach the driver screen to LUN 0 of vga",
                    )
                screen.screenshot(str(self.screenshot.absolute()))
            except PdmError as error:
                complain(f"there is no screenshot: {error}")


def _can_draw() -> bool:
    """Whether standard output is a terminal that a screen can be drawn in."""
    try:
        return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except ValueError:
        return False  # closed


def _check_output(what: str, path: Path | None) -> None:
    """Whether a file could be written there, before a long run."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = (
            "it is a folder" if path.is_dir()
            else f"{folder} may not be written" if folder.is_dir()
            else f"there is no folder {folder}"
        )  # fmt: skip
        raise ConfigError(
            "VERR_ACCESS_DENIED" if folder.is_dir() else "VERR_PATH_NOT_FOUND",
            f"The {what} cannot be written to {path}: {reason}",
            "Give the name of a file in a folder that is there",
        )


def _check_files(tree: Node) -> None:
    """Whether kernel, initrd and firmware can be read; a word about those that take a while."""
    for what, path in machine_boot.named_files(tree):
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            status = "VERR_FILE_NOT_FOUND" if isinstance(error, FileNotFoundError) else "VERR_ACCESS_DENIED"
            raise ConfigError(
                status, f"Cannot read {what} {path}: {error.strerror}", "Check the path and its permissions"
            ) from None
        if size >= _LARGE:
            progress(f"reading {what} {path.name}, {size >> 20} MiB")


def _tell_where(book: LinkBook, spec: machine.Spec | None, title: str) -> None:
    """Name what the host chose: the terminal of a pty, the port of a server."""
    driver = book.bottom(title, 0) if spec is not None else None
    if driver is None or spec is None:
        return
    if spec.name == "pty" and hasattr(driver, "path"):
        say(f"vbox: {title} is at {driver.path}")
    elif spec.name == "tcp" and spec.config.get("role") == "server" and hasattr(driver, "port"):
        say(f"vbox: {title} listens on {spec.config['host']!s}:{driver.port}")


class _ScriptPlugin:
    """The plugin with the script's driver, as the catalogue takes it."""

    __name__ = ScriptDriver.__module__

    def __init__(self, script: Script) -> None:
        self._script = script

    def vbox_register_drivers(self, register: Any) -> None:
        register(script_driver(self._script))
        register(screen_driver(self._script))
