"""`vbox conformance`: the conformance kit of vbox-pdm, for those who do not use pytest."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from vbox_pdm.errors import PdmError
from vbox_pdm.testing.conformance.command import OPTIONS, Request, run
from vbox_pdm.testing.conformance.setup import PROFILES


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--file", type=click.Path(path_type=Path), metavar="PATH", help=OPTIONS["file"])
@click.option("--profile", type=click.Choice(sorted(PROFILES)), default="quick", help=OPTIONS["profile"])
@click.option("--budget", type=float, metavar="SECONDS", help=OPTIONS["budget"])
@click.option("--seed", type=int, default=0, help=OPTIONS["seed"])
@click.option("--report", type=click.Path(path_type=Path), metavar="DIR", help=OPTIONS["report"])
@click.option("--config", multiple=True, metavar="KEY=VALUE", help=OPTIONS["config"])
@click.option("--corpus", type=click.Path(path_type=Path), metavar="DIR", help=OPTIONS["corpus"])
@click.option("--jobs", type=int, default=1, metavar="N", help=OPTIONS["jobs"])
@click.option("--cpu-time", is_flag=True, help=OPTIONS["cpu-time"])
def conformance(
    names: tuple[str, ...],
    file: Path | None,
    profile: str,
    budget: float | None,
    seed: int,
    report: Path | None,
    config: tuple[str, ...],
    corpus: Path | None,
    jobs: int,
    cpu_time: bool,
) -> int:
    """Check whether the device or driver types NAME keep the contract; `all` for all that are installed.

    The exit code is 0 when all passed and 1 when a property does not hold."""
    if importlib.util.find_spec("hypothesis") is None:
        raise PdmError(
            "VERR_MODULE_NOT_FOUND", "The conformance kit needs hypothesis", 'pip install "vbox-pdm[testing]"'
        )
    return run(Request(names, file, profile, budget, seed, report, config, corpus, jobs, cpu_time))
