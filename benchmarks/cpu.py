#!/usr/bin/env python3
"""CPU-bound kernels, ours and QEMU's TCG by turns in one run: medians and their ratios.

    cpu.py [--runs N] [MODE...]       modes: flat32 paged32 long64

The guests are built from benchmarks/guest with cc, the same code for both machines: 32 bits without paging,
32 bits with pages of 4 KiB, and 64 bits.  A guest says on its serial port when a kernel begins and ends; the
time is between these lines.  Both machines must come to the same results.  A ratio under 1 means that ours
is faster.  Needs cc, objcopy and qemu-system-x86_64.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from math import prod
from pathlib import Path

import boots
from attrs import define, field

GUEST = Path(__file__).resolve().parent / "guest"
MODES = {"flat32": 0, "paged32": 1, "long64": 2}
PATIENCE = 300.0
"""Seconds that all kernels of a guest may take."""
_COMPILE = [
    *("-march=x86-64", "-O2", "-fno-tree-vectorize", "-ffreestanding", "-fno-pic", "-fno-stack-protector"),
    *("-mno-red-zone", "-nostdlib", "-static", "-Wl,-n", "-Wl,-z,noexecstack", "-Wl,--build-id=none"),
    *("-Wl,--no-warn-rwx-segments", "-Wl,-Ttext=0x101000", "-Wl,--section-start=.multiboot=0x100000"),
]


@define
class Machine:
    """One that is measured: the words in front of a kernel's path, and seconds by (mode, kernel)."""

    name: str
    words: list[str]
    seconds: dict[tuple[str, str], list[float]] = field(factory=dict)
    results: dict[tuple[str, str], str] = field(factory=dict)


def build(mode: str, folder: Path) -> Path:
    """The guest of a mode: a multiboot kernel, which is a 32-bit ELF file whatever its code is."""
    number = MODES[mode]
    path = folder / f"{mode}.elf"
    bits, emulation = ("64", "elf_x86_64") if mode == "long64" else ("32", "elf_i386")
    sources = [str(GUEST / "boot.S"), str(GUEST / "kernels.c")]
    command = ["cc", f"-m{bits}", f"-Wl,-m,{emulation}", f"-DMODE={number}", *_COMPILE, "-o", str(path)]
    subprocess.run([*command, *sources], check=True)
    if mode == "long64":
        subprocess.run(["objcopy", "-O", "elf32-i386", str(path)], check=True)
    return path


def measure(machine: Machine, mode: str, kernel: Path) -> None:
    """One run of all kernels."""
    process = subprocess.Popen(
        [*machine.words, "-kernel" if machine.name == "qemu" else "--kernel", str(kernel)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    begun, end = 0.0, time.monotonic() + PATIENCE
    try:
        for line in process.stdout:
            now = time.monotonic()
            match line.split():
                case ["B", _]:
                    begun = now
                case ["E", name, result]:
                    machine.seconds.setdefault((mode, name), []).append(now - begun)
                    machine.results[mode, name] = result
                case ["END"]:
                    return
            if now > end:
                break
        raise SystemExit(f"{machine.name} did not come to an end of {kernel.name}")
    finally:
        process.kill()
        process.wait()


def machines() -> tuple[Machine, Machine]:
    """Ours and QEMU's TCG."""
    return Machine("ours", boots.ours("--firmware", "none")), Machine("qemu", boots.qemu(128))


def measure_mode(mode: str, runs: int, ours: Machine, qemu: Machine) -> None:
    """All kernels of a mode, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = build(mode, Path(folder))
        for _ in range(runs):
            measure(ours, mode, kernel)
            measure(qemu, mode, kernel)


def medians(mode: str, ours: Machine, qemu: Machine) -> list[tuple[str, float, float]]:
    """(kernel, our seconds, QEMU's)."""
    return [
        (name, statistics.median(seconds), statistics.median(qemu.seconds[where, name]))
        for (where, name), seconds in ours.seconds.items()
        if where == mode
    ]


def mean(rows: Sequence[tuple[str, float, float]]) -> float:
    """The geometric mean of the ratios."""
    return prod(mine / theirs for _, mine, theirs in rows) ** (1 / len(rows))


def table(mode: str, ours: Machine, qemu: Machine) -> list[str]:
    """Lines for people, with the geometric mean of the ratios at the end."""
    lines = [f"{mode:<12}{'ours s':>9}{'qemu s':>9}{'ratio':>8}"]
    rows = medians(mode, ours, qemu)
    lines += [f"{name:<12}{mine:9.3f}{theirs:9.3f}{mine / theirs:8.2f}" for name, mine, theirs in rows]
    return [*lines, f"{'mean':<12}{'':18}{mean(rows):8.2f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 when the machines disagree."""
    parser = argparse.ArgumentParser(description="CPU kernels, ours and QEMU's TCG by turns")
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"{', '.join(MODES)}; all")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of each machine (5)")
    options = parser.parse_args(arguments)
    modes = options.modes or list(MODES)
    for mode in modes:
        if mode not in MODES:
            parser.error(f"no mode {mode!r}; there are {', '.join(MODES)}")
    for tool in ("cc", "objcopy", boots.QEMU):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed")
    ours, qemu = machines()
    for mode in modes:
        measure_mode(mode, options.runs, ours, qemu)
        print("\n".join(table(mode, ours, qemu)), flush=True)
    wrong = [key for key, result in ours.results.items() if qemu.results[key] != result]
    if wrong:
        print(f"the machines disagree on {wrong}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
