"""Sequential reads of a raw IDE disk by DMA in Linux: MiB a second.

The guest reads the disk with dd, by 1 MiB, through its page cache and past it (O_DIRECT), and reads its
own clock before and after.  The image is in the host's page cache.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import guests
from attrs import evolve
from boots import can_boot, run_to
from peers import Machine
from results import Unit

WAYS = {"buffered": "", "direct": "iflag=direct"}
TITLES = {"buffered": "through the guest's page cache", "direct": "past it"}
SIZE = 512
"""MiB of the disk."""


def units() -> list[Unit]:
    """One for both ways."""
    return [Unit("disks/read", tuple(WAYS), measure, can_boot)]


def commands(chosen: Sequence[str]) -> list[str]:
    """Shell that prints "took WAY BEFORE AFTER" for each way."""
    lines = ["sleep 1"]
    for way in chosen:
        lines += [
            "echo 3 > /proc/sys/vm/drop_caches",
            "read a rest < /proc/uptime",
            f"dd if=/dev/sda of=/dev/null bs=1M {WAYS[way]} 2>/dev/null",
            "read b rest < /proc/uptime",
            f"echo took {way} $a $b",
        ]
    return lines


def measure(machine: Machine, chosen: Sequence[str]) -> Mapping[str, float]:
    """MiB a second by way.  Raises marks.Failed, packages.Unavailable."""
    assert machine.start_guest is not None
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        with image.open("wb") as file:
            for number in range(SIZE):
                file.write(number.to_bytes(4, "little") * (1 << 18))
        guest = guests.debian(guests.STORAGE_MODULES, commands=commands(chosen))
        text = run_to(machine.start_guest(evolve(guest, disks=(image,))), guest.prompt)[1]
    found = re.findall(r"took (\w+) ([\d.]+) ([\d.]+)", text)
    return {way: SIZE / (float(after) - float(before)) for way, before, after in found}
