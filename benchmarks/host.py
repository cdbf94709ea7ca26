"""What only ours can be asked: the way of an interrupt from outside to the guest, in microseconds, and exits
beside threads that work, in nanoseconds.

Interrupts are raised by a device of our own (probe.py), after a request through a queue, as the completion of
a disk's transfer is: `post` is from the request, on another thread, to the device's callback on the EMT, so
it is what a kick takes to get the guest to leave; `raise` is from the line to the first instruction of the
handler.  Exits are reads of a UART's line status (guest/load.c), alone, and beside workers of ours at full
load or a foreign thread that computes in Python.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import marks
from attrs import evolve
from peers import Machine, Multiboot, Words
from results import Unit

SOURCES = ("load.c", "machine.c")
WAITS = ("busy", "halted")
LATENCY_TITLES = {
    f"{what}-{wait}{rank}": f"{done}, guest {wait}{remark}"
    for wait in WAITS
    for what, done in (("raise", "raised"), ("post", "posted"))
    for rank, remark in (("", ""), ("-p95", ", 95th percentile"))
}
LOADS = {
    "alone": "alone",
    "images": "beside DMA reads of a disk image, 128 KiB each, without a pause",
    "writes": "beside DMA writes to a disk image, 128 KiB each, without a pause",
    "screen": "beside a screen of 1280 by 1024 that is written to a PNG file",
    "characters": "beside a serial port that sends to a file, without a pause",
    "hog": "beside a foreign thread that computes in Python",
}
IMAGES = ("images", "writes")
OUR_WORKERS = ("images", "writes", "screen", "characters")
PROBE = Path(__file__).with_name("probe.py")
DISK = 64 << 20


def units() -> list[Unit]:
    """Latencies, and exits under load."""
    return [
        Unit("host/latency", tuple(LATENCY_TITLES), latency, _is_ours),
        Unit("host/exit", tuple(LOADS), exits, _is_ours),
    ]


def _is_ours(machine: Machine) -> bool:
    return machine.ours


def latency(machine: Machine, chosen: Sequence[str]) -> Mapping[str, float]:
    """Microseconds, medians and 95th percentiles of a run.  Raises marks.Failed."""
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        kernel = marks.build(SOURCES, "long64", Path(folder))
        out = Path(folder) / "samples.json"
        for wait in WAITS:
            if not any(f"-{wait}" in name for name in chosen):
                continue
            marks.run(_with(machine, _probe(f"out={out}")), Multiboot(kernel, wait))
            samples = json.loads(out.read_text())
            for number, what in enumerate(("post", "raise")):
                several = [sample[number] for sample in samples]
                percentiles = statistics.quantiles(several, n=20)
                values[f"{what}-{wait}"] = statistics.median(several) / 1e3
                values[f"{what}-{wait}-p95"] = percentiles[-1] / 1e3
    return values


def exits(machine: Machine, chosen: Sequence[str]) -> Mapping[str, float]:
    """Nanoseconds an exit, the mean of a run, by load.  Raises marks.Failed."""
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kernel = marks.build(SOURCES, "long64", folder)
        disk = folder / "disk.img"
        disk.write_bytes(bytes(DISK))
        more: dict[str, Words] = {
            "screen": ["--display", f"png:{folder / 'screen.png'}"],
            "characters": ["--serial", f"file:{folder / 'sent'}"],
            "hog": _probe("hog=on"),
        }
        for load in chosen:
            guest = Multiboot(kernel, load, disk if load in IMAGES else None)
            work = marks.run(_with(machine, more.get(load, [])), guest)[0]
            values[load] = work.seconds / work.operations * 1e9
    return values


def _probe(config: str) -> Words:
    return ["--plugin", str(PROBE), "--device", f"bench-probe,{config}"]


def _with(machine: Machine, words: Words) -> Machine:
    """The machine with more options of `vbox run`; the last of an option holds."""
    return evolve(machine, start_kernel=lambda guest, folder: [*machine.start_kernel(guest, folder), *words])
