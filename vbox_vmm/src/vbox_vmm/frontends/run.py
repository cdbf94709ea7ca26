"""`vbox run`: a machine from options, run to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from vbox_vmm import machine
from vbox_vmm.boot import read_boot
from vbox_vmm.frontends.exitcodes import EXIT_CODES
from vbox_vmm.frontends.linkbook import LinkBook
from vbox_vmm.frontends.messages import LEVELS, complain, logging_to_stderr, say
from vbox_vmm.frontends.options import (
    MachineOptions,
    OwnPlugin,
    build_machine,
    load_catalogue,
    machine_options,
)
from vbox_vmm.frontends.script import DRIVER, Script, ScriptDriver, Step, script_driver
from vbox_vmm.frontends.trace import Tracer

_SCRIPT = ("expect", "type", "keys")


class ScriptCommand(click.Command):
    """Keeps the order in which options of different names were given, which click does not."""

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
        with formatter.section("Exit codes"):
            formatter.write_dl(EXIT_CODES)
        with formatter.section("Script"):
            formatter.write_text(
                "--expect, --type and --keys are carried out in the order given, whatever hangs at COM1. "
                r"In their texts \n \r \t \e \a \b \0 \\ \xHH and \uHHHH are resolved. "
                "When the last of them is an --expect, its being met ends the run; otherwise the guest "
                "goes on until it powers off."
            )
        with formatter.section("Console"):
            formatter.write_text(
                "At a terminal every key goes to the guest, Ctrl-C too; Ctrl-A x powers off, Ctrl-A h helps."
            )


@click.command("run", cls=ScriptCommand, short_help="Run a virtual machine.")
@machine_options
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Power off after so many seconds of the host's time.",
)
@click.option("--expect", multiple=True, metavar="TEXT", help="Script: wait until COM1 sends TEXT.")
@click.option("--type", "type", multiple=True, metavar="TEXT", help="Script: type TEXT into COM1.")
@click.option("--keys", multiple=True, metavar="TEXT", help="Script: type TEXT on the keyboard.")
@click.option(
    "--trace",
    multiple=True,
    metavar="[DEVICE[#N]/]REGION",
    help="Print each access to a region, named or by a pattern, to standard error.  Repeatable.",
)
@click.option("--exits", is_flag=True, help="At the end print why the guest was left, and how often.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), help="What of the log is printed.  [default: warning]"
)
@click.option("--debug", is_flag=True, help="Print the whole log, and tracebacks.")
@click.pass_context
def run(
    context: click.Context,
    /,
    timeout: float | None,
    expect: Sequence[str],
    type: Sequence[str],
    keys: Sequence[str],
    trace: Sequence[str],
    exits: bool,
    log_level: str | None,
    debug: bool,
    **options: Any,
) -> int:
    """Run a virtual machine: the default one, with the changes that the options make, or one from a
    file that `vbox machine` wrote."""
    chosen = MachineOptions(**options)
    if not any((chosen.kernel, chosen.machine_file, chosen.devices, chosen.plugins)):
        raise click.UsageError("Nothing to run: give --kernel FILE or --machine FILE.xml", context)
    with logging_to_stderr(log_level, debug):
        return _run(chosen, context.meta["vbox.script"], timeout, trace, exits)


def _run(
    options: MachineOptions, steps: Sequence[Step], timeout: float | None, trace: Sequence[str], exits: bool
) -> int:
    book = LinkBook()
    script = Script(steps, book.keyboard) if steps else None
    own = [OwnPlugin(DRIVER, _ScriptPlugin(script))] if script is not None else []
    catalogue = load_catalogue(options.plugins, own)
    tree = build_machine(options, catalogue)
    boot = read_boot(tree)
    if boot is not None:
        boot.check(tree)
    if script is not None:
        machine.insert_filter(tree, f"serial#0/lun0={DRIVER}", catalogue)
    tracer = Tracer(trace, say)
    catalogue.manager.register(book)
    if trace:
        catalogue.manager.register(tracer)

    from vbox_vmm.frontends.runner import Run, print_exits  # the kernel: not for errors in the options

    def started(vm: Any) -> None:
        for pattern in tracer.unused if trace else ():
            complain(f"warning: --trace {pattern} names no region; there are {', '.join(tracer.seen)}")
        for number, (spec,) in enumerate(options.serials):
            _tell_where(book, spec, f"serial#{number}")

    return Run(
        tree=tree,
        catalogue=catalogue,
        boot=boot,
        timeout=timeout,
        script=script,
        started=started,
        ended=print_exits if exits else lambda _: None,
    ).execute()


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
