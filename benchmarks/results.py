"""What was measured: figures by name, kept in .cache/bench as JSON, one file a group.

A figure is named group/unit/name (`cpu/long64/sieve`).  It has the values of each run on each machine, and
what it was measured with.  Runs are by turns within a figure; a figure that is measured again replaces the
one that was kept, so a document can be written from several partial runs.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp, log
from pathlib import Path
from typing import Any

import marks
from attrs import asdict, define, field, frozen
from peers import ROOT, Machine

FOLDER = ROOT / ".cache" / "bench"


@frozen
class Unit:
    """What one run of a machine measures: `measure(machine, chosen)` gives values by name, for the names
    in `chosen` at least; a machine that cannot do one leaves it out.  Raises marks.Failed,
    packages.Unavailable.  `fits` says which machines take part."""

    name: str
    names: tuple[str, ...]
    measure: Callable[[Machine, Sequence[str]], Mapping[str, float]]
    fits: Callable[[Machine], bool]


@define
class Figure:
    """The values of each run, by machine, and the machines' versions."""

    values: dict[str, list[float]] = field(factory=dict)
    versions: dict[str, str] = field(factory=dict)
    host: str = ""
    date: str = ""

    def add(self, machine: Machine, value: float) -> None:
        """One more run."""
        self.values.setdefault(machine.name, []).append(value)
        self.versions[machine.name] = machine.version

    def median(self, machine: str) -> float | None:
        """None when the machine was not measured."""
        values = self.values.get(machine)
        return statistics.median(values) if values else None

    def ratio(self, machine: str, peer: str) -> float | None:
        """The medians' ratio; None when one is missing."""
        mine, theirs = self.median(machine), self.median(peer)
        return mine / theirs if mine is not None and theirs else None


Figures = dict[str, Figure]


def mean(ratios: Iterable[float]) -> float:
    """The geometric mean."""
    values = list(ratios)
    return exp(sum(map(log, values)) / len(values))


def host() -> str:
    """This machine, in a line."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cpu}, {cores} cores, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}"
    )


def measure(
    unit: Unit,
    chosen: Sequence[str],
    machines: Sequence[Machine],
    runs: int,
    failed: Callable[[Machine, marks.Failed], None],
) -> Figures:
    """`runs` of each machine, by turns.  A machine that fails is reported and takes no further part.

    Raises packages.Unavailable."""
    figures: Figures = {}
    where, today = host(), datetime.date.today().isoformat()
    able = list(machines)
    for _ in range(runs):
        for machine in list(able):
            try:
                values = unit.measure(machine, chosen)
            except marks.Failed as error:
                failed(machine, error)
                able.remove(machine)
                continue
            for name, value in values.items():
                figure = figures.setdefault(f"{unit.name}/{name}", Figure(host=where, date=today))
                figure.add(machine, value)
    return figures


def load(folder: Path = FOLDER) -> Figures:
    """All that is kept."""
    figures: Figures = {}
    for path in sorted(folder.glob("*.json")):
        kept: dict[str, dict[str, Any]] = json.loads(path.read_text())
        figures.update({name: Figure(**fields) for name, fields in kept.items()})
    return figures


def keep(figures: Figures, folder: Path = FOLDER) -> None:
    """Replace what was kept of these figures."""
    folder.mkdir(parents=True, exist_ok=True)
    for group in {name.split("/")[0] for name in figures}:
        path = folder / f"{group}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        kept.update(
            {name: asdict(figure) for name, figure in figures.items() if name.startswith(f"{group}/")}
        )
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(kept, indent=1))
        fresh.rename(path)
