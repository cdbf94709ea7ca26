"""What a figure may be at most, and whether it is.

Budgets are of the medians of five or more runs by turns; nothing fails when one is exceeded, the document
says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import host
import marks
import system
from attrs import frozen
from results import Figures, mean

PEER = "qemu"
LEAST_RUNS = 5
"""Of each machine, before a budget is judged for good."""
MOST_CPU, MOST_KERNEL, MOST_BOOT, MOST_EXCEPTION = 1.25, 2.0, 1.0, 1.2
"""Times QEMU's."""
MOST_DEVICE, MOST_TABLE, MOST_SECTOR = 200.0, 30.0, 3000.0
"""Nanoseconds of an exit into a handler in Python, of one that needs none, of REP INSW of a sector."""
MOST_RAISE, MOST_TICKS, MOST_LOADED = 5.0, 5.0, 3.0
"""Microseconds from the line to the handler; per cent at 1,000 Hz; times an exit without load."""
BOOTS = ("direct", "kernel", "isolinux")


@frozen
class Verdict:
    """A budget and what was measured; `value` is None where it was not."""

    title: str
    value: float | None
    most: float
    unit: str

    @property
    def kept(self) -> bool | None:
        """None where nothing was measured."""
        return None if self.value is None else self.value <= self.most


def verdicts(figures: Figures, engine: str) -> Iterator[Verdict]:
    """All budgets, of one engine of ours."""
    for mode in marks.MODES:
        ratios = ratios_of(figures, f"cpu/{mode}/", engine)
        yield Verdict(f"CPU kernels, {mode}: mean", mean(ratios) if ratios else None, MOST_CPU, "times QEMU")
        worst = max(ratios, default=None)
        yield Verdict(f"CPU kernels, {mode}: slowest", worst, MOST_KERNEL, "times QEMU")
    for mode in system.MODES:
        for name in ("int", "fault"):
            title = f"{system.TITLES[name]}, {mode}"
            yield Verdict(
                title, _ratio(figures, f"system/{mode}/{name}", engine), MOST_EXCEPTION, "times QEMU"
            )
    for name in BOOTS:
        ratio = _ratio(figures, f"boots/{name}/shell", engine)
        yield Verdict(f"boot: {name}", ratio, MOST_BOOT, "times QEMU")
    where = f"system/{system.MODES[-1]}"
    exits = [(name, "exit", MOST_DEVICE) for name in system.DEVICES]
    exits += [(name, "exit without Python", MOST_TABLE) for name in system.TABLE]
    for name, kind, most in exits:
        value = _median(figures, f"{where}/{name}", engine)
        yield Verdict(f"{kind}: {system.TITLES[name]}", value, most, "ns")
    sector = _median(figures, f"{where}/insw", engine)
    yield Verdict(system.TITLES["insw"], sector, MOST_SECTOR, "ns")
    for wait in host.WAITS:
        value = _median(figures, f"host/latency/raise-{wait}", engine)
        yield Verdict(f"line raised to handler, guest {wait}", value, MOST_RAISE, "µs")
    for mode in system.MODES:
        value = _median(figures, f"system/{mode}/tick1000", engine)
        yield Verdict(f"{system.TITLES['tick1000']}, {mode}", value, MOST_TICKS, "%")
    alone = _median(figures, "host/exit/alone", engine)
    for load in host.OUR_WORKERS:
        value = _median(figures, f"host/exit/{load}", engine)
        times = value / alone if value is not None and alone else None
        yield Verdict(f"exit {host.LOADS[load]}", times, MOST_LOADED, "times alone")


def ratios_of(figures: Figures, prefix: str, machine: str) -> Sequence[float]:
    """The ratios to the peer of all figures whose names begin so, where both were measured."""
    ratios = (figure.ratio(machine, PEER) for name, figure in figures.items() if name.startswith(prefix))
    return [ratio for ratio in ratios if ratio is not None]


def _ratio(figures: Figures, name: str, machine: str) -> float | None:
    return figures[name].ratio(machine, PEER) if name in figures else None


def _median(figures: Figures, name: str, machine: str) -> float | None:
    return figures[name].median(machine) if name in figures else None
