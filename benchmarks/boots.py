"""Boots to a shell on Debian's kernel: seconds from the start of the process to the guest's prompt.

Both machines have the same firmware, disks, kernel, memory and console.  `direct` (our loader, no firmware)
is compared with QEMU's -kernel, which goes through its firmware.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence

import guests
import marks
from peers import Machine, Words
from results import Unit

PATIENCE = 300.0
"""Seconds that a boot may take."""
SCENARIOS: dict[str, Callable[[], guests.GuestFiles]] = {
    "direct": lambda: guests.debian(firmware=False),
    "kernel": guests.debian,
    "isolinux": lambda: guests.isolinux_cd(guests.debian()),
    "grub-cd": lambda: guests.grub_cd(guests.debian()),
    "grub-disk": lambda: guests.grub_disk(guests.debian()),
}
TITLES = {
    "direct": "without firmware",
    "kernel": "by the firmware",
    "isolinux": "ISOLINUX from a CD",
    "grub-cd": "GRUB from a CD",
    "grub-disk": "GRUB from a disk",
}


def units() -> list[Unit]:
    """One a way to boot."""
    return [
        Unit(f"boots/{name}", ("shell",), functools.partial(measure, name), can_boot) for name in SCENARIOS
    ]


def can_boot(machine: Machine) -> bool:
    """Whether the harness starts Linux on it."""
    return machine.start_guest is not None


def measure(scenario: str, machine: Machine, chosen: Sequence[str]) -> Mapping[str, float]:
    """Seconds.  Raises marks.Failed, packages.Unavailable where a guest cannot be had."""
    assert machine.start_guest is not None
    guest = SCENARIOS[scenario]()
    return {"shell": run_to(machine.start_guest(guest), guest.prompt)[0]}


def run_to(words: Words, prompt: str) -> tuple[float, str]:
    """Run a command until it prints `prompt`: (seconds, what it printed).  Raises marks.Failed."""
    begin = time.monotonic()
    seen = b""
    with marks.started(words, PATIENCE) as process:
        assert process.stdout is not None
        while part := process.stdout.read(65536):
            seen = seen[-200_000:] + part
            if prompt.encode() in seen:
                return time.monotonic() - begin, seen.decode("latin-1")
    raise marks.Failed(f"{words[0]} did not reach the prompt; last: {seen[-500:].decode('latin-1')!r}")
