"""`vbox machine`: the machine that options describe, as a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from vbox_vmm import cfgm_xml
from vbox_vmm.boot import read_boot
from vbox_vmm.frontends.messages import logging_to_stderr
from vbox_vmm.frontends.options import (
    FILE,
    GroupedCommand,
    MachineOptions,
    build_machine,
    load_catalogue,
    machine_options,
)

_EXAMPLES = (
    ("A machine with a disk, kept in a file, and run from it", "vbox machine --disk pc.img -o pc.xml"),
    ("Run it; options change it for this run", "vbox run --machine pc.xml --cdrom rescue.iso --boot cdrom"),
)


class MachineCommand(GroupedCommand):
    """`vbox machine`."""

    examples = _EXAMPLES


@click.command("machine", cls=MachineCommand, short_help="Write a machine to a file.")
@machine_options
@click.option(
    "--output", "-o", type=FILE, required=True, metavar="FILE.xml", help="Where to; - is standard output."
)
@click.option("--debug", is_flag=True, help="Tracebacks for errors.")
def machine(output: Path, debug: bool, **options: Any) -> None:
    """Write the machine that the options describe to FILE.xml, for `vbox run --machine FILE.xml`."""
    chosen = MachineOptions(**options)
    with logging_to_stderr(None, debug):
        tree = build_machine(chosen, load_catalogue(chosen.plugins))
        read_boot(tree)
        if str(output) == "-":
            sys.stdout.write(cfgm_xml.serialize(tree).decode())
        else:
            cfgm_xml.write(tree, output)
