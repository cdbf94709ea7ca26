"""Time made of instructions (docs/deterministic-time.md): whole machines do the same in each run."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import guests
from guests import GuestFiles
from machines import VBOX, found, run

COUNTED = ("--clock", "instructions")
TRACE = '''
import os, threading, time
from vbox_pdm import Clock, Device, DeviceType, hookimpl

contract = "1.0"
path = os.environ.get("TRACE_TO")
output = open(path, "w") if path else None

@hookimpl
def pdm_wrap_region(instance, region):
    """Each access, with the virtual time."""
    if output is None:
        return None
    inner_read, inner_write, helpers = region.read, region.write, instance.object.helpers
    def note(*what):
        print(helpers.now(Clock.VIRTUAL), instance.name, region.name, *what, file=output)
    def read(offset, size):
        value = inner_read(offset, size)
        note("read", offset, size, value)
        return value
    def write(offset, size, value):
        note("write", offset, size, value)
        inner_write(offset, size, value)
    return region.with_handlers(read=read, write=write)

class Nuisance(Device):
    """Makes the guest be left all the time."""
    def pdm_construct(self):
        self.over = threading.Event()
        threading.Thread(target=self.kick, daemon=True).start()
    def kick(self):
        while not self.over.wait(0.0003):
            self.helpers.async_notification_completed()
    def pdm_destruct(self):
        self.over.set()

@hookimpl
def vbox_register_devices(register):
    register(DeviceType("nuisance", Nuisance))
'''


def trace(folder: Path, files: GuestFiles, *options: str) -> str:
    """Every access to a device up to the prompt, each with its time."""
    plugin, path = folder / "trace.py", folder / "trace.txt"
    plugin.write_text(TRACE)
    words = (*files.words(), *COUNTED, "--plugin", str(plugin), "--expect", files.prompt, *options)
    run("env", f"TRACE_TO={path}", VBOX, "run", *words)
    return path.read_text()


def test_tiny_guest_does_the_same_in_each_run_kicked_or_not(tiny: GuestFiles, tmp_path: Path) -> None:
    first = trace(tmp_path, tiny)

    assert len(first.splitlines()) > 100
    assert trace(tmp_path, tiny) == first
    assert trace(tmp_path, tiny, "--device", "nuisance") == first


def test_debian_with_a_disk_prints_the_same_up_to_its_shell_in_each_run(tmp_path: Path) -> None:
    commands = (
        "sha256sum /dev/sda",
        "hwclock -u -r -f /dev/rtc0",
        "cat /proc/uptime /proc/interrupts",
        "dmesg",
    )
    files = found(lambda: guests.debian(guests.STORAGE_MODULES, commands=commands))
    disk = tmp_path / "disk.img"
    disk.write_bytes(os.urandom(2 << 20))
    options = ("--disk", disk, "--serial", "stdio", "--expect", files.prompt)
    words = (VBOX, "run", *files.words(), *COUNTED, *options)

    first, second = run(*words), run(*words)

    assert hashlib.sha256(disk.read_bytes()).hexdigest() in first
    assert re.search(r"\[ +\d\.\d{6}\] Freeing unused kernel image", first)
    assert "Jan  1 00:00" in first
    assert first == second
