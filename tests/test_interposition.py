"""Single files given by --plugin come between: a region is traced, characters are dropped, counted."""

from __future__ import annotations

import json
from pathlib import Path

import guests
from machines import VBOX, run

from vbox_pdm.catalogue import Catalogue
from vbox_vmm.machine import default_machine
from vbox_vmm.vm import Vm

TRACER = '''
"""Counts every access to the first UART, by direction and register."""
import atexit, collections, json
from vbox_pdm import hookimpl

contract = "1.0"
counts = collections.Counter()

@hookimpl
def pdm_wrap_region(instance, region):
    if instance.title != "serial#0" or region.name != "uart":
        return None
    def read(offset, size):
        value = region.read(offset, size)
        counts["read " + region.registers.name_at(offset, False)] += 1
        return value
    def write(offset, size, value):
        counts["write " + region.registers.name_at(offset, True)] += 1
        region.write(offset, size, value)
    return region.with_handlers(read=read, write=write)

@atexit.register
def report():
    with open({path!r}, "w") as file:
        json.dump(counts, file)
'''
DROPPER = '''
"""Drops every digit that the guest sends."""
from vbox_pdm import CharStream, Driver, DriverType, hookimpl

contract = "1.0"

class NoDigits(Driver):
    def char_send(self, data):
        kept = bytes(byte for byte in data if not 48 <= byte <= 57)
        if kept:
            self.below.char_send(kept)
        return len(data)
    def char_room(self):
        return self.above.char_room()
    def char_received(self, data):
        self.above.char_received(data)
    def char_ready(self):
        self.below.char_ready()
    def char_sendable(self):
        self.above.char_sendable()

@hookimpl
def vbox_register_drivers(register):
    register(DriverType("no-digits", NoDigits, serves=CharStream, wants=CharStream))
'''
COUNTER = '''
"""Counts the characters that the guest sends."""
import atexit
from vbox_pdm import hookimpl

contract = "1.0"
total = 0

class Observer:
    @hookimpl(wrapper=True)
    def char_send(self, data):
        global total
        total += len(data)
        return (yield)

observer = Observer()

@hookimpl
def pdm_link_created(instance, lun, link):
    if instance.title == "serial#0":
        link.observe(observer)

@atexit.register
def report():
    with open({path!r}, "w") as file:
        file.write(str(total))
'''


def boot_tiny(*options: str) -> str:
    """The serial output of the tiny guest up to an echo."""
    tiny = guests.tiny()
    return run(
        VBOX,
        "run", "--firmware", "none", "--kernel", tiny.kernel, "--memory", "16", "--timeout", "60", *options,
        "--expect", tiny.prompt, "--type", "echo one2three\\n", "--expect", "three",
        "--expect", tiny.prompt,
    )  # fmt: skip


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_wrapped_region_traces_every_access_of_a_boot(tmp_path: Path) -> None:
    result = tmp_path / "counts.json"
    plugin = write(tmp_path, "tracer.py", TRACER.replace("{path!r}", repr(str(result))))

    output = boot_tiny("--plugin", plugin)

    counts = json.loads(result.read_text())
    sent = sum(count for name, count in counts.items() if name.startswith("write") and "THR" in name)
    assert "one2three" in output
    assert any(name.startswith("read") and "LSR" in name for name in counts)
    assert sent >= len("one2three")


def test_filter_from_a_file_drops_characters(tmp_path: Path) -> None:
    plugin = write(tmp_path, "dropper.py", DROPPER)

    output = boot_tiny("--plugin", plugin, "--filter", "serial#0/lun0=no-digits")

    assert "onethree" in output
    assert "one2three" not in output


def test_observer_from_a_file_counts_what_passes_unchanged(tmp_path: Path) -> None:
    result = tmp_path / "total"
    plugin = write(tmp_path, "counter.py", COUNTER.replace("{path!r}", repr(str(result))))

    plain = boot_tiny()
    observed = boot_tiny("--plugin", plugin)

    assert "one2three" in observed
    assert int(result.read_text()) >= len("one2three")
    assert abs(len(observed) - len(plain)) < 200


def test_exit_path_without_plugins_is_the_resolved_callable() -> None:
    vm = Vm(default_machine(16 << 20, firmware="none"), Catalogue(), with_engine=False)
    try:
        rows = {row.first: row for row in vm.call(lambda: vm.iom.ports.rows)}
        uart = next(each.object for each in vm.pdm.instances() if each.title == "serial#0")

        assert rows[0x3F8].read == uart.read
        assert rows[0x3F8].read.__func__ is type(uart).read
        assert rows[0x3F8].write == uart.write
    finally:
        vm.destroy()
