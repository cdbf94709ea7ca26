#!/usr/bin/env python3
"""Sequential reads of a raw IDE disk by DMA in Linux, ours and QEMU's TCG by turns: MiB/s and their ratio.

    disks.py [--runs N] [--size MIB]

The guest reads the disk with dd, by 1 MiB, through its page cache and past it (O_DIRECT), and reads its
own clock before and after.  The image is in the host's page cache.  Needs qemu-system-x86_64.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from attrs import evolve
from boots import QEMU, pair, run_to  # puts scripts/ on the path, too

import guests  # isort: skip

WAYS = {"buffered": "", "direct": "iflag=direct"}


def commands() -> list[str]:
    """Shell that prints "way seconds" for each way."""
    lines = ["sleep 1"]
    for way, flag in WAYS.items():
        lines += [
            "echo 3 > /proc/sys/vm/drop_caches",
            "read a rest < /proc/uptime",
            f"dd if=/dev/sda of=/dev/null bs=1M {flag} 2>/dev/null",
            "read b rest < /proc/uptime",
            f"echo took {way} $a $b",
        ]
    return lines


def rates(text: str, size: int) -> dict[str, float]:
    """MiB/s of each way, from what the guest printed."""
    found = re.findall(r"took (\w+) ([\d.]+) ([\d.]+)", text)
    return {way: size / (float(after) - float(before)) for way, before, after in found}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each machine [3]")
    parser.add_argument("--size", type=int, default=1024, help="of the disk, in MiB [1024]")
    options = parser.parse_args()
    if shutil.which(QEMU) is None:
        print(f"disks: there is no {QEMU} here (Debian: apt-get install qemu-system-x86)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        with image.open("wb") as file:
            for number in range(options.size):
                file.write(number.to_bytes(4, "little") * (1 << 18))
        guest = guests.debian(guests.STORAGE_MODULES, commands=commands())
        mine, theirs, prompt = pair(evolve(guest, disks=(image,)))
        results: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in WAYS}
        for _ in range(options.runs):
            for index, words in enumerate((mine, theirs)):
                for way, rate in rates(run_to(words, prompt)[1], options.size).items():
                    results[way][index].append(rate)
    print(f"{'read':<10} {'ours':>8} {'QEMU':>8} {'ratio':>6}   all runs, MiB/s")
    for way, sides in results.items():
        a, b = (statistics.median(side) for side in sides)
        every = " / ".join(" ".join(f"{value:.0f}" for value in side) for side in sides)
        print(f"{way:<10} {a:>8.0f} {b:>8.0f} {a / b:>6.2f}   {every}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
