"""Two VMs in one process, and a thousand one after another."""

from __future__ import annotations

import gc
import os
import threading
import time

import guests

from vbox_pdm import hookimpl
from vbox_pdm.catalogue import Catalogue
from vbox_vmm.boot import Boot
from vbox_vmm.machine import default_machine
from vbox_vmm.vm import Vm
from vbox_vmm.vmstate import VmState


class Output:
    """Everything that the first serial port sent, as an observer on its link."""

    def __init__(self) -> None:
        self.data = bytearray()

    @hookimpl
    def pdm_link_created(self, instance: object, lun: int, link: object) -> None:
        if instance.title == "serial#0":  # type: ignore[attr-defined]
            link.observe(self)  # type: ignore[attr-defined]

    @hookimpl(wrapper=True)
    def char_send(self, data: bytes):  # type: ignore[no-untyped-def]
        self.data += data
        return (yield)

    def wait_for(self, text: bytes, seconds: float = 60) -> bool:
        until = time.monotonic() + seconds
        while text not in self.data and time.monotonic() < until:
            threading.Event().wait(0.01)
        return text in self.data


def make(name: str, output: Output) -> Vm:
    tiny = guests.tiny()
    catalogue = Catalogue()
    catalogue.manager.register(output)
    boot = Boot(tiny.kernel, None, f"name={name}")
    return Vm(default_machine(16 << 20, name, firmware="none"), catalogue, boot=boot)


def resident_kib() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def test_two_vms_in_one_process_run_side_by_side() -> None:
    prompt = guests.tiny().prompt.encode()
    first, second = Output(), Output()
    one, two = make("one", first), make("two", second)
    try:
        one.power_on()
        two.power_on()

        assert first.wait_for(prompt)
        assert second.wait_for(prompt)
        one.power_off()
        assert two.state is VmState.RUNNING
        assert one.state is VmState.OFF
    finally:
        one.destroy()
        two.destroy()


def test_vm_created_and_destroyed_a_thousand_times_leaks_nothing() -> None:
    catalogue = Catalogue()

    def cycle() -> None:
        vm = Vm(default_machine(16 << 20, firmware="none"), catalogue)
        vm.power_on()
        vm.power_off()
        vm.destroy()

    for _ in range(100):  # caches and pools fill up
        cycle()
    gc.collect()
    before = resident_kib(), len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(1000):
        cycle()
    gc.collect()
    after = resident_kib(), len(os.listdir("/proc/self/fd")), threading.active_count()

    assert after[1:] == before[1:]
    assert after[0] - before[0] < 20 * 1024  # KiB: 20 bytes of each cycle would pass, 20 KiB would not
