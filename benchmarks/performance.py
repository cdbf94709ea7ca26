#!/usr/bin/env python3
"""Measures ours beside its peers, by turns in one run, and writes docs/performance.md from all that is kept.

    performance.py [--runs N] [--only PATTERN]... [--machines NAME,...] [--quick]
    performance.py --document-only
    performance.py --list

Figures are named as --list says; a pattern is a part of a name, with * and ? as in file names.  Results are
kept in .cache/bench.  Run it on a machine that does nothing else.  Needs cc and objcopy; peers take part
where they are installed.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import boots
import cpu
import disks
import host
import marks
import packages
import page
import peers
import results
import system
from results import Unit


def units() -> list[Unit]:
    """All that can be measured, in the order of the document."""
    return [*cpu.units(), *system.units(), *host.units(), *boots.units(), *disks.units()]


def chosen(unit: Unit, patterns: Sequence[str]) -> list[str]:
    """The names of a unit that a pattern fits; all without patterns."""
    return [
        name
        for name in unit.names
        if not patterns
        or any(fnmatch.fnmatchcase(f"{unit.name}/{name}", f"*{pattern}*") for pattern in patterns)
    ]


def measure(machines: Sequence[peers.Machine], patterns: Sequence[str], runs: int, kept: Path) -> bool:
    """Measure and keep, in this folder; whether all went well."""
    failures = 0

    def failed(machine: peers.Machine, error: marks.Failed) -> None:
        nonlocal failures
        failures += 1
        print(f"{unit.name:<28} {machine.name} FAILED: {error}", file=sys.stderr, flush=True)

    for unit in units():
        names = chosen(unit, patterns)
        taking_part = [machine for machine in machines if unit.fits(machine)]
        if not names or not taking_part:
            continue
        try:
            figures = results.measure(unit, names, taking_part, runs, failed)
        except packages.Unavailable as error:
            print(f"{unit.name:<28} left out: {error}", flush=True)
            continue
        results.keep(figures, kept)
        for name, figure in figures.items():
            medians = "  ".join(f"{machine} {figure.median(machine):.4g}" for machine in figure.values)
            print(f"{name:<28} {medians}", flush=True)
    return not failures


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 when something could not be measured that should have been."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of each machine [5]")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="repeatable")
    parser.add_argument("--machines", metavar="NAME,...", help="these alone")
    parser.add_argument("--quick", action="store_true", help="one run, ours and QEMU alone")
    parser.add_argument("--document-only", action="store_true", help="write the document; measure nothing")
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="for results and document [.cache/bench and docs]"
    )
    parser.add_argument("--list", action="store_true", help="print the names of figures and machines")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs {options.runs}: at least 1")
    kept, docs = (options.into,) * 2 if options.into else (results.FOLDER, page.DOCS)
    every = peers.machines()
    if options.list:
        for unit in units():
            print("\n".join(f"{unit.name}/{name}" for name in unit.names))
        for machine in every:
            print(f"machine {machine.name}: {machine.missing or machine.version}")
        return 0
    if options.document_only:
        page.write(results.load(kept), every, docs)
        return 0
    wanted = options.machines.split(",") if options.machines else [machine.name for machine in every]
    if unknown := set(wanted) - {machine.name for machine in every}:
        names = ", ".join(machine.name for machine in every)
        parser.error(f"--machines: no {', '.join(sorted(unknown))}; there are {names}")
    if not any(chosen(unit, options.only) for unit in units()):
        parser.error(f"--only {' '.join(options.only)}: no figure has such a name; --list prints them")
    for tool in ("cc", "objcopy"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed (Debian: apt-get install gcc binutils)")
    quick = [machine for machine in every if machine.ours or machine.name == "qemu"]
    machines = [
        machine
        for machine in (quick if options.quick else every)
        if machine.name in wanted and not machine.missing
    ]
    well = measure(machines, options.only, 1 if options.quick else options.runs, kept)
    page.write(results.load(kept), every, docs)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
