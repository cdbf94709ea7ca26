"""What a system does besides computing: nanoseconds an operation, the same code everywhere (guest/system.c).

Ticks are what a fixed computation takes longer beside a clock, in per cent of its time without one.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import marks
from peers import Machine, Multiboot
from results import Unit

SOURCES = ("system.c", "machine.c")
MODES = ("paged32", "long64")
TICKS = ("tick100", "tick1000")
WITHOUT_TICKS = "masked"
TITLES = {
    "int": "INT 80h and IRET",
    "fault": "page fault and IRET",
    "switch": "CR3 switch and loads from 8 pages",
    "cold": "an instruction of code that is written and executed once",
    "rewritten": "the same, over code that was executed",
    "tick100": "ticks at 100 Hz",
    "tick1000": "ticks at 1,000 Hz",
    "irq": "interrupt that the guest asks a UART for (two OUT; handler: IN, OUT, IRET)",
    "nobody": "IN from a port that nobody has",
    "uart": "UART: line status",
    "pic": "8259: mask",
    "pci": "PCI configuration space: a dword",
    "cmos": "CMOS: a byte",
    "rtc": "RTC: status A",
    "pit": "8254: count",
    "port61": "port 61h",
    "kbc": "8042: status",
    "ide": "IDE: alternate status",
    "vga": "VGA: input status 1",
    "post": "OUT to port 80h, a latch",
    "vga-load": "MMIO: load of a byte from planar VGA memory",
    "vga-store": "MMIO: store of a byte",
    "insw": "REP INSW of a sector",
    "outsw": "REP OUTSW of a sector",
    "outsb": "REP OUTSB to a UART, a byte",
}
DEVICES = (
    *("uart", "pic", "pci", "cmos", "rtc", "pit", "port61", "kbc", "ide", "vga"),
    *("vga-load", "vga-store"),
)
"""Each an exit into the handler of a device."""
TABLE = ("nobody", "post")
"""Answered by the exit table alone."""
DISK = 64 << 20


def units() -> list[Unit]:
    """One a mode."""
    return [
        Unit(f"system/{mode}", tuple(TITLES), functools.partial(measure, mode), functools.partial(fits, mode))
        for mode in MODES
    ]


def fits(mode: str, machine: Machine) -> bool:
    """QEMU's defaults change nothing here."""
    return machine.name != "qemu-defaults" and marks.has_mode(mode, machine)


def measure(mode: str, machine: Machine, chosen: Sequence[str]) -> Mapping[str, float]:
    """Nanoseconds by work, and per cent by kind of ticks.  Raises marks.Failed."""
    # Bochs' time goes with its instructions: its ticks say nothing.
    wanted = [name for name in chosen if machine.name != "bochs" or name not in TICKS]
    if set(wanted) & set(TICKS):
        wanted.append(WITHOUT_TICKS)
    if not wanted:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        kernel = marks.build(SOURCES, mode, Path(folder))
        disk = Path(folder) / "disk.img"
        with disk.open("wb") as file:
            file.truncate(DISK)
        done = marks.run(machine, Multiboot(kernel, " ".join(wanted), disk))
    values: dict[str, list[float]] = {}
    for work in done:
        if work.operations:
            values.setdefault(work.name, []).append(work.seconds / work.operations * 1e9)
    without = values.pop(WITHOUT_TICKS, [])
    medians = {name: statistics.median(several) for name, several in values.items()}
    for name in set(TICKS) & set(medians):
        # Turn by turn, unless one was left out.
        turns = zip(values[name], without, strict=len(values[name]) == len(without))
        medians[name] = 100 * (statistics.median(beside / alone for beside, alone in turns) - 1)
    return medians
