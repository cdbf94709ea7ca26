#!/usr/bin/env python3
"""Measures CPU kernels and boots beside QEMU's TCG, and writes docs/performance.md.

    performance.py [--runs N]

What is measured, and what is needed for it: cpu.py and boots.py.  Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boots
import cpu

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_INTRODUCTION = """\
# How fast it is

Beside QEMU's TCG, by turns in one run: medians of {runs} runs of each, in seconds. A ratio under 1 means
that ours is faster. `make bench` measures it again and writes this page.

Measured on {machine}.

QEMU has no more devices than ours: `-M pc,acpi=off -cpu qemu64,-apic -smp 1 -nic none`, the same
firmware, disks and console.
"""
_CPU = """
## CPU-bound code

[Kernels](../benchmarks/guest/kernels.c), the same code on both machines: 32 bits without paging, 32 bits
with pages of 4 KiB, 64 bits.
"""
_BOOTS = """
## Boots

From the start of the process to the prompt of a shell on Debian's kernel: by the firmware, from a CD by
ISOLINUX and by GRUB, from a disk by GRUB, and directly without firmware.
"""


def machine() -> str:
    """The host, and the versions of what is compared."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().split("\n")
            if "model name" in line
        ),
        platform.processor(),
    )
    version = subprocess.run([boots.QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    return f"{model}, {platform.system()} {platform.release().split('-')[0]}, {version.splitlines()[0]}"


def row(name: str, mine: float, theirs: float) -> str:
    """Of a table."""
    return f"| {name} | {mine:.2f} | {theirs:.2f} | {mine / theirs:.2f} |"


def lines(runs: int) -> Iterator[str]:
    """The page."""
    yield _INTRODUCTION.format(runs=runs, machine=machine())
    yield _CPU
    ours, qemu = cpu.machines()
    for mode in cpu.MODES:
        cpu.measure_mode(mode, runs, ours, qemu)
        rows = cpu.medians(mode, ours, qemu)
        yield f"| {mode} | ours | QEMU | ratio |\n|---|--:|--:|--:|"
        for each in rows:
            yield row(*each)
        yield f"| geometric mean | | | {cpu.mean(rows):.2f} |\n"
    yield _BOOTS
    yield "| boot | ours | QEMU | ratio |\n|---|--:|--:|--:|"
    for name in boots.SCENARIOS:
        mine, theirs = boots.measure(name, runs)
        yield row(name, statistics.median(mine), statistics.median(theirs))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each machine [5]")
    text = []
    for line in lines(parser.parse_args().runs):
        print(line, flush=True)
        text.append(line)
    PAGE.write_text("\n".join(text) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
