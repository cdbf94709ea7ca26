"""The command `vbox`: its subcommands, loaded when they are asked for, and how errors are told.

An error is one line on standard error: `vbox: what happened (STATUS). What to do`.  Exit codes are in
`EXIT_CODES`; `vbox run --help` prints them.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from vbox_pdm.errors import PdmError
from vbox_vmm.frontends.exitcodes import ERROR, INTERRUPTED, USAGE
from vbox_vmm.frontends.messages import complain

COMMANDS = {
    "run": ("vbox_vmm.frontends.run:run", "Run a virtual machine."),
    "plugins": ("vbox_vmm.frontends.plugins:plugins", "List the plugins, and how to mend what is unusable."),
    "devices": ("vbox_vmm.frontends.devices:devices", "List devices and drivers, or show one with its keys."),
    "machine": ("vbox_vmm.frontends.machine_cmd:machine", "Write a machine to a file."),
    "conformance": (
        "vbox_vmm.frontends.conformance:conformance",
        "Check whether devices and drivers keep the contract.",
    ),
    "new-plugin": ("vbox_vmm.frontends.new_plugin:new_plugin", "Write a new plugin, to begin with."),
}
"""Name -> (module:command, one line of help)."""


class Front(click.Group):
    """A group that imports a subcommand when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Parse, run, and end the process with the exit code; every error becomes one line."""
        words = list(args) if args is not None else sys.argv[1:]
        debug = "--debug" in words
        try:
            code = super().main(words, prog_name or "vbox", complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show(sys.stderr)
            code = USAGE
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx is not None else "vbox"
            text = error.format_message().rstrip(". ")
            complain(f"{text} (VERR_INVALID_PARAMETER). `{where} --help` lists what there is")
            code = USAGE
        except click.ClickException as error:
            complain(error.format_message())
            code = ERROR
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except PdmError as error:
            if debug:
                raise
            complain(str(error))
            code = ERROR
        except BrokenPipeError:
            # Whoever read the output has enough; Python must not complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = ERROR
        except Exception as error:
            if debug:
                raise
            complain(
                f"Internal error: {type(error).__name__}: {error} (VERR_INTERNAL_ERROR). "
                "Run it again with --debug and report what it prints"
            )
            code = ERROR
        sys.exit(code if isinstance(code, int) else 0)


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    import importlib_metadata

    from vbox_pdm import CONTRACT

    try:
        version = importlib_metadata.version("vbox-vmm")
    except importlib_metadata.PackageNotFoundError:
        version = "(not installed)"
    click.echo(f"vbox {version} (contract {CONTRACT}, Python {sys.version.split()[0]})")
    ctx.exit()


@click.command("vbox", cls=Front, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print versions and exit.",
)
def main() -> None:
    """A PC virtual machine monitor whose every device is a plugin."""
