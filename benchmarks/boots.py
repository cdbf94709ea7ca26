#!/usr/bin/env python3
"""Boots to a shell, ours and QEMU's TCG by turns in one run: medians and their ratio.

    boots.py [--runs N] [SCENARIO...]       scenarios: kernel isolinux grub-cd grub-disk direct

Both machines have the same firmware, disks, kernel, memory and console, and QEMU no more devices than
ours: `-M pc,acpi=off -cpu qemu64,-apic -smp 1 -nic none -vga std`.  A run's time is from the start of the
process to the prompt of the guest's shell.  `direct` (no firmware) is compared with QEMU's -kernel.
Needs qemu-system-x86_64.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import guests  # noqa: E402
import packages  # noqa: E402

VBOX = Path(sys.executable).parent / "vbox"
QEMU = "qemu-system-x86_64"
PATIENCE = 120.0
"""Seconds that a boot may take."""
Words = list[str]


def qemu(memory: int, *words: str) -> Words:
    """A QEMU with the devices of our default machine."""
    machine = ["-accel", "tcg", "-M", "pc,acpi=off", "-cpu", "qemu64,-apic", "-smp", "1", "-m", str(memory)]
    devices = ["-nic", "none", "-vga", "std", "-display", "none", "-serial", "stdio", "-monitor", "none"]
    return [QEMU, *machine, *devices, "-no-reboot", *words]


def ours(*words: str) -> Words:
    """`vbox run` with its console on standard output."""
    return [str(VBOX), "run", "--serial", "stdio", "--display", "none", *words]


def pair(guest: guests.GuestFiles) -> tuple[Words, Words, str]:
    """(our command, QEMU's, the prompt that ends the run) of a guest."""
    words: Words = []
    if guest.kernel is not None:
        words += ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", guest.append]
    for kind, paths in (("disk,snapshot=on", guest.disks), ("cdrom,readonly=on", guest.cdroms)):
        for path in paths:
            words += ["-drive", f"file={path},if=ide,format=raw,media={kind}"]
    return ours(*guest.words()), qemu(guest.memory, *words), guest.prompt


SCENARIOS: dict[str, Callable[[], guests.GuestFiles]] = {
    "kernel": guests.debian,
    "isolinux": lambda: guests.isolinux_cd(guests.debian()),
    "grub-cd": lambda: guests.grub_cd(guests.debian()),
    "grub-disk": lambda: guests.grub_disk(guests.debian()),
    "direct": lambda: guests.debian(firmware=False),
}


def run_to(words: Sequence[str], prompt: str) -> tuple[float, str]:
    """Run a command until it prints `prompt`: (seconds, what it printed)."""
    begin = time.monotonic()
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )
    assert process.stdout is not None
    seen = b""
    try:
        while prompt.encode() not in seen:
            part = process.stdout.read(65536)
            if not part or time.monotonic() - begin > PATIENCE:
                raise SystemExit(f"{words[0]} did not reach the prompt:\n{seen[-2000:].decode('latin-1')}")
            seen = seen[-200_000:] + part
        return time.monotonic() - begin, seen.decode("latin-1")
    finally:
        process.kill()
        process.wait()


def measure(scenario: str, runs: int) -> tuple[list[float], list[float]]:
    """Seconds of our boots and of QEMU's, by turns.  packages.Unavailable where a guest cannot be had."""
    mine, theirs, prompt = pair(SCENARIOS[scenario]())
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        times[0].append(run_to(mine, prompt)[0])
        times[1].append(run_to(theirs, prompt)[0])
    return times


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--runs", type=int, default=3, help="of each machine [3]")
    options = parser.parse_args()
    if shutil.which(QEMU) is None:
        print(f"boots: there is no {QEMU} here (Debian: apt-get install qemu-system-x86)", file=sys.stderr)
        return 1
    print(f"{'boot':<10} {'ours':>8} {'QEMU':>8} {'ratio':>6}   all runs, seconds")
    for name in options.scenarios or SCENARIOS:
        try:
            times = measure(name, options.runs)
        except packages.Unavailable as error:
            print(f"{name:<10} left out: {error}")
            continue
        a, b = (statistics.median(each) for each in times)
        every = " / ".join(" ".join(f"{value:.2f}" for value in each) for each in times)
        print(f"{name:<10} {a:>8.2f} {b:>8.2f} {a / b:>6.2f}   {every}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
