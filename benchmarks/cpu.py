"""CPU-bound kernels: seconds of each, the same code on all machines (guest/kernels.c).

Machines must come to the same results.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import marks
from peers import Machine, Multiboot
from results import Unit

SOURCES = ("kernels.c",)
_answers: dict[tuple[str, str], tuple[int, str]] = {}


def units() -> list[Unit]:
    """One a mode."""
    names = marks.works("kernels.c")
    return [
        Unit(
            f"cpu/{mode}",
            names,
            functools.partial(measure, mode),
            functools.partial(marks.has_mode, mode),
        )
        for mode in marks.MODES
    ]


def measure(mode: str, machine: Machine, chosen: Sequence[str]) -> Mapping[str, float]:
    """Seconds by kernel.  Raises marks.Failed, also when it computes what another machine did not."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = marks.build(SOURCES, mode, Path(folder))
        done = marks.run(machine, Multiboot(kernel, " ".join(chosen)))
    for work in done:
        answer, by = _answers.setdefault((mode, work.name), (work.result, machine.title))
        if answer != work.result:
            raise marks.Failed(
                f"{mode}/{work.name} is {work.result:#x} on {machine.title} and {answer:#x} on {by}"
            )
    return {work.name: work.seconds for work in done}
