"""The VM as a whole: states, reset, guru meditation, failing plugins, requests from other threads."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.engine import CpuState, Segment
from vbox_pdm.errors import PdmError
from vbox_vmm.machine import add_device, default_machine, parse_spec
from vbox_vmm.rem import probe
from vbox_vmm.rem.probe import NATIVE, usable
from vbox_vmm.vm import Vm
from vbox_vmm.vmstate import VmState

pytestmark = pytest.mark.usefixtures("any_firmware")
PROBE = '''
"""A device whose accesses go wrong in various ways."""
import threading
from vbox_pdm import Clock, Device, DeviceType, Ports, ResetSource, RuntimeErrorFlags, hookimpl

contract = "1.0"
events = []
release = threading.Event()

class Probe(Device):
    def pdm_construct(self):
        self.helpers.map_ports(0x500, Ports("probe", 8, self.read, self.write))
        self.queue = self.helpers.queue("outside", lambda item: events.append(item))
    def read(self, offset, size):
        raise ValueError("a handler that raises")
    def write(self, offset, size, value):
        events.append((offset, value))
        if offset == 1:
            self.helpers.reset_vm(ResetSource.PCI)
        elif offset == 2:
            self.helpers.power_off_vm(value)
        elif offset == 3:
            self.helpers.set_runtime_error(RuntimeErrorFlags.SUSPEND, "ProbeAsks", "the guest asked")
        elif offset == 4:
            self.helpers.set_runtime_error(RuntimeErrorFlags.FATAL, "ProbeDies", "the guest asked")
    def pdm_reset(self):
        events.append("reset")
    def pdm_destruct(self):
        events.append("destruct")

class Stillborn(Device):
    def pdm_construct(self):
        raise OSError("no such thing")
    def pdm_destruct(self):
        events.append("stillborn destructed")

@hookimpl
def vbox_register_devices(register):
    register(DeviceType("probe", Probe))
    register(DeviceType("stillborn", Stillborn))
'''
LOOP = bytes.fromhex("ebfe")  # jmp $
SLEEP = bytes.fromhex("fbf4ebfd")  # sti; hlt; jmp to the hlt
TRIPLE = bytes.fromhex("0f011d00000000 cc".replace(" ", ""))  # lidt [0]; int3


def flat32(code: bytes) -> object:
    """Boots into `code` at 1 MiB, in flat 32-bit protected mode without paging."""

    def boot(vm: Vm) -> CpuState:
        vm.pgm.write(0x100000, code)
        data = Segment(16, 0, 0xFFFFFFFF, 0xCF9300)
        return CpuState(
            rip=0x100000, cr0=0x11, cs=Segment(8, 0, 0xFFFFFFFF, 0xCF9B00),
            ds=data, es=data, ss=data, fs=data, gs=data,
        )  # fmt: skip

    return boot


def out(port: int, value: int) -> bytes:
    """mov dx, port; mov al, value; out dx, al; jmp to what follows (the end of a block)"""
    return bytes([0x66, 0xBA, port & 0xFF, port >> 8, 0xB0, value, 0xEE, 0xEB, 0])


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    path = tmp_path / "probe.py"
    path.write_text(PROBE)
    found = Catalogue()
    found.add_file(path)
    return found


@pytest.fixture
def events(catalogue: Catalogue) -> list[object]:
    module = next(plugin.module for plugin in catalogue.plugins if plugin.name == "probe")
    found: list[object] = module.events  # type: ignore[union-attr]
    return found


@pytest.fixture
def vms() -> Iterator[list[Vm]]:
    made: list[Vm] = []
    yield made
    for vm in made:
        vm.destroy()


def start(vms: list[Vm], catalogue: Catalogue, code: bytes, **settings: int) -> Vm:
    machine = default_machine(16 << 20)
    for name, value in settings.items():
        machine.ensure_node("CPUM").insert(name, value)
    add_device(machine, parse_spec("probe"))
    vm = Vm(machine, catalogue, boot=flat32(code))  # type: ignore[arg-type]
    vms.append(vm)
    vm.power_on()
    return vm


def test_vm_suspended_and_resumed_passes_the_states_and_stops_time(
    vms: list[Vm], catalogue: Catalogue
) -> None:
    vm = start(vms, catalogue, LOOP)
    seen: list[VmState] = []
    vm.states.at_state(lambda new, old: seen.append(new))

    vm.suspend()
    first, second = vm.info("clocks"), vm.info("clocks")
    vm.resume()

    assert seen == [VmState.SUSPENDING, VmState.SUSPENDED, VmState.RESUMING, VmState.RUNNING]
    assert [line for line in first.splitlines() if "Virt" in line] == [
        line for line in second.splitlines() if "Virt" in line
    ]


def test_vm_illegal_change_is_refused_and_changes_nothing(vms: list[Vm], catalogue: Catalogue) -> None:
    vm = start(vms, catalogue, LOOP)

    with pytest.raises(PdmError) as caught:
        vm.resume()

    assert caught.value.status == "VERR_VM_INVALID_VM_STATE"
    assert vm.state is VmState.RUNNING


def test_vm_reset_by_a_device_resets_devices_and_boots_again(
    vms: list[Vm], catalogue: Catalogue, events: list[object]
) -> None:
    # cmos byte 0x40 survives: the second time round the guest powers off
    code = (
        out(0x70, 0x40) + bytes.fromhex("e471") + bytes.fromhex("3c77") + bytes.fromhex("741b")
        + out(0x70, 0x40) + out(0x71, 0x77) + out(0x501, 1) + out(0x502, 42) + LOOP
    )  # fmt: skip

    vm = start(vms, catalogue, code)
    state = vm.wait_for(VmState.OFF, timeout=20)

    assert state is VmState.OFF
    assert vm.exit_code == 42
    assert "reset" in events


def test_vm_fpu_error_without_ne_is_irq_13_before_the_instruction_that_waits(
    vms: list[Vm], catalogue: Catalogue
) -> None:
    controllers = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xA0, 0x11), (0xA1, 0x70), (0xA1, 2)]
    controllers += [(0xA1, 1), (0x21, 0xFB), (0xA1, 0xDF)]  # IRQ 13 alone is open, at vector 75h
    error = bytes.fromhex("d9eed9e8d8f19bddd8ddd8")  # fldz / fld1 / fdiv st, st(1) / fwait / fstp st, twice
    code = (
        b"".join(out(*each) for each in controllers)
        + bytes.fromhex("dbe3 d92d00401000 fb") + error * 2  # fninit / fldcw [104000] / sti
        + bytes.fromhex("a110401000 66ba0205 ee") + LOOP  # mov eax, [104010] / out 502h, al
    )  # fmt: skip
    handler = (
        bytes.fromhex("ff0510401000 6050") + out(0xF0, 0) + bytes.fromhex("dbe2")  # inc [104010] / fnclex
        + out(0xA0, 0x20) + out(0x20, 0x20) + bytes.fromhex("5861cf")
    )  # fmt: skip
    start_code = flat32(code)

    def boot(vm: Vm) -> CpuState:
        state: CpuState = start_code(vm)  # type: ignore[operator]
        vm.pgm.write(0x101000, handler)
        vm.pgm.write(0x102000 + 0x75 * 8, bytes.fromhex("0010080000 8e1000".replace(" ", "")))
        vm.pgm.write(0x103000, struct.pack("<3Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF))
        vm.pgm.write(0x104000, struct.pack("<H", 0x37B))  # division by zero is not masked
        state.gdtr, state.idtr = (0x103000, 23), (0x102000, 0x7FF)
        state.gpr[4] = 0x108000
        return state

    machine = default_machine(16 << 20)
    add_device(machine, parse_spec("probe"))
    vm = Vm(machine, catalogue, boot=boot)
    vms.append(vm)
    vm.power_on()

    state = vm.wait_for(VmState.OFF, timeout=20)

    assert state is VmState.OFF
    assert vm.exit_code == 2


def test_vm_triple_fault_is_a_guru_meditation_with_a_report(vms: list[Vm], catalogue: Catalogue) -> None:
    vm = start(vms, catalogue, TRIPLE)

    state = vm.wait_for(VmState.GURU_MEDITATION, timeout=20)

    assert state is VmState.GURU_MEDITATION
    assert vm.guru is not None
    assert vm.guru.status == "VINF_EM_TRIPLE_FAULT"
    assert "Guru Meditation 1155 (VINF_EM_TRIPLE_FAULT)" in vm.guru.report
    assert "{cpumguest}" in vm.guru.report
    vm.power_off()
    assert vm.state is VmState.OFF


def test_vm_triple_fault_resets_when_configured(
    vms: list[Vm], catalogue: Catalogue, events: list[object]
) -> None:
    code = (
        out(0x70, 0x40) + bytes.fromhex("e4713c777420") + out(0x70, 0x40) + out(0x71, 0x77)
        + TRIPLE.ljust(14, b"\x90") + out(0x502, 7) + LOOP
    )  # fmt: skip
    vm = start(vms, catalogue, code, TripleFaultReset=1)

    vm.wait_for(VmState.OFF, timeout=20)

    assert events.count("reset") >= 1


def test_vm_runtime_error_of_a_device_suspends_and_resumes(vms: list[Vm], catalogue: Catalogue) -> None:
    vm = start(vms, catalogue, out(0x503, 0) + out(0x502, 9) + LOOP)

    vm.wait_for(VmState.SUSPENDED, timeout=20)
    suspended = vm.state
    vm.resume()
    vm.wait_for(VmState.OFF, timeout=20)

    assert suspended is VmState.SUSPENDED
    assert vm.runtime_errors[0].error_id == "ProbeAsks"
    assert vm.exit_code == 9


def test_vm_wait_for_requests_after_a_ring_returns(vms: list[Vm], catalogue: Catalogue) -> None:
    # What was rung for may be something that the EMT looked at just before: it must look again.
    vm = start(vms, catalogue, LOOP)
    vm.suspend()

    def rung_before() -> None:
        vm.woken.ring()
        vm.wait_requests(600.0)

    thread = threading.Thread(target=lambda: vm.call(rung_before), daemon=True)
    thread.start()
    thread.join(60)

    assert not thread.is_alive()


def test_vm_fatal_runtime_error_allows_only_power_off(vms: list[Vm], catalogue: Catalogue) -> None:
    vm = start(vms, catalogue, out(0x504, 0) + LOOP)

    vm.wait_for(VmState.FATAL_ERROR, timeout=20)

    assert vm.state is VmState.FATAL_ERROR
    with pytest.raises(PdmError):
        vm.resume()
    vm.power_off()
    assert vm.state is VmState.OFF


def test_vm_handler_that_raises_reads_ones_and_then_suspends_by_name(
    vms: list[Vm], catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    # mov dx, 0x500; in al, dx; jmp to the in
    vm = start(vms, catalogue, bytes.fromhex("66ba0005") + bytes.fromhex("ecebfd"))

    vm.wait_for(VmState.SUSPENDED, timeout=20)
    state = vm.call(lambda: vm.em.engine.get_state())  # type: ignore[union-attr]

    assert vm.state is VmState.SUSPENDED
    assert state.gpr[0] & 0xFF == 0xFF
    assert "probe#0" in vm.runtime_errors[0].text
    assert caplog.text.count("a handler that raises") < 5


def test_vm_failed_construct_destructs_all_and_names_the_device(
    catalogue: Catalogue, events: list[object]
) -> None:
    machine = default_machine(16 << 20)
    add_device(machine, parse_spec("probe"))
    add_device(machine, parse_spec("stillborn"))

    with pytest.raises(PdmError) as caught:
        Vm(machine, catalogue)

    assert "Failed to construct device 'stillborn' instance #0" in str(caught.value)
    assert "stillborn destructed" in events
    assert events.count("destruct") == 1


def test_vm_sleeping_guest_serves_other_threads(vms: list[Vm], catalogue: Catalogue) -> None:
    vm = start(vms, catalogue, SLEEP)
    results: list[bool] = []

    def outsider() -> None:
        for _ in range(50):
            with vm.lock:
                results.append(vm.lock.mine)
            vm.call(vm.assert_emt)

    threads = [threading.Thread(target=outsider) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert results == [True] * 150
    assert vm.state is VmState.RUNNING


@pytest.mark.parametrize("code", [SLEEP, LOOP], ids=["sleeping", "computing"])
def test_vm_items_from_outside_at_any_instant_are_all_delivered(
    vms: list[Vm], catalogue: Catalogue, events: list[object], code: bytes
) -> None:
    # Each finds the EMT somewhere else on its way into the guest, or into HLT.
    vm = start(vms, catalogue, code)
    queue = vm.pdm.wiring.query_device("probe", 0).object.queue
    late = time.monotonic() + 60

    for number in range(1500):
        pause = time.monotonic_ns() + number % 50 * 1000
        while time.monotonic_ns() < pause:
            pass
        queue.put(number)
        while number not in events[-1:] and time.monotonic() < late:
            time.sleep(0)

    assert events == list(range(1500))


@pytest.mark.skipif(usable(NATIVE) is not None, reason="the native engine is not here")
def test_vm_item_from_outside_is_delivered_without_leaving_a_guest_that_computes(
    vms: list[Vm], catalogue: Catalogue, events: list[object]
) -> None:
    vm = start(vms, catalogue, LOOP)
    queue = vm.pdm.wiring.query_device("probe", 0).object.queue
    vm.call(lambda: None)  # by then it computes
    left = vm.em.exits.total()

    for item in range(20):
        queue.put(item)
        while item not in events:
            time.sleep(0.001)

    assert events == list(range(20))
    assert vm.em.exits.total() - left <= 2  # for the call above, perhaps a timer of the board


def test_vm_request_that_raises_reaches_its_caller_and_not_the_loop(
    vms: list[Vm], catalogue: Catalogue
) -> None:
    vm = start(vms, catalogue, LOOP)

    with pytest.raises(ZeroDivisionError):
        vm.call(lambda: 1 // 0)

    assert vm.state is VmState.RUNNING


def test_vm_destroyed_refuses_further_requests(vms: list[Vm], catalogue: Catalogue) -> None:
    vm = start(vms, catalogue, LOOP)

    vm.destroy()
    vm.destroy()

    assert vm.state is VmState.TERMINATED
    with pytest.raises(PdmError):
        vm.power_on()


def without_native_module(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = probe.usable

    def answer(name: str = probe.NATIVE) -> str | None:
        return "the native module is not built: build it" if name == probe.NATIVE else usable(name)

    monkeypatch.setattr(probe, "usable", answer)


def test_vm_without_the_native_module_runs_on_the_portable_engine_and_says_so(
    vms: list[Vm],
    catalogue: Catalogue,
    events: list[object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    without_native_module(monkeypatch)
    vm = start(vms, catalogue, out(0x505, 7) + out(0x502, 3) + LOOP)

    vm.wait_for(VmState.OFF, timeout=20)

    assert (5, 7) in events
    assert "'rem-portable': the native module is not built" in caplog.text


def test_vm_with_an_engine_by_name_that_cannot_run_is_refused(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_native_module(monkeypatch)
    machine = default_machine(16 << 20)
    machine.ensure_node("CPUM").insert("Engine", "rem")

    with pytest.raises(PdmError, match=r"'rem'.*VERR_NOT_SUPPORTED"):
        Vm(machine, catalogue)
