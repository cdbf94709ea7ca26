"""A VM whose time is made of instructions: the trace of a run does not depend on what the host does."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from test_vm import flat32

from vbox_pdm.catalogue import Catalogue
from vbox_pdm.errors import PdmError
from vbox_pdm.timers import Clock
from vbox_vmm.machine import add_device, default_machine, parse_spec, set_clock
from vbox_vmm.vm import Vm
from vbox_vmm.vmstate import VmState

pytestmark = pytest.mark.usefixtures("any_firmware")
PROBE = '''
from vbox_pdm import Clock, Device, DeviceType, Ports, hookimpl

contract = "1.0"
trace = []

class Probe(Device):
    """Traces accesses to its ports, and the timers that they set; port 4 powers off."""
    def pdm_construct(self):
        self.helpers.map_ports(0x500, Ports("probe", 16, self.read, self.write))
        self.timers = [
            self.helpers.timer(clock.name, clock, lambda clock=clock: self.note("fired", clock.name))
            for clock in (Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.TSC)
        ]
        self.late = self.helpers.timer("off", Clock.VIRTUAL_SYNC, self.helpers.power_off_vm)
    def note(self, *what):
        now = [self.helpers.now(clock) for clock in (Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.TSC)]
        trace.append((*what, *now, self.helpers.utc_now()))
    def read(self, offset, size):
        self.note("read", offset)
        return int(self.helpers.random() * 256)
    def write(self, offset, size, value):
        self.note("write", offset, size, value)
        if offset < 3:
            self.timers[offset].set_relative(value)
        elif offset == 4:
            self.late.set_relative(1000)

@hookimpl
def vbox_register_devices(register):
    register(DeviceType("probe", Probe))
'''
TURNS = 300
TURN = bytes.fromhex(
    "0f31 66ba0505 ef"  # rdtsc; mov dx, 505; out dx, eax
    "0fc7f0 ef"  # rdrand eax; out dx, eax
    "66ba0305 ec"  # mov dx, 503; in al, dx
    "89e8 69c061000000"  # mov eax, ebp; imul eax, 97: ns to the timers
    "66ba0005 ef 42 ef 42 ef"  # mov dx, 500; out dx, eax; and to 501, 502
    "89e9 01c9 90 e2fd"  # mov ecx, ebp; add ecx, ecx; nop; loop to the nop
    "4d"  # dec ebp
)
GUEST = (
    b"\xbd" + TURNS.to_bytes(4, "little")  # mov ebp, TURNS
    + TURN + b"\x75" + (-len(TURN) - 2).to_bytes(1, "little", signed=True)  # jnz to the turn
    + bytes.fromhex("66ba0405 ee f4")  # mov dx, 504; out dx, al; hlt
)  # fmt: skip


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    path = tmp_path / "probe.py"
    path.write_text(PROBE)
    found = Catalogue()
    found.add_file(path)
    return found


def machine(**time_settings: object) -> Any:
    tree = default_machine(16 << 20)
    set_clock(tree, "instructions")
    for name, value in time_settings.items():
        tree.ensure_node("TM").replace(name, value)
    add_device(tree, parse_spec("probe"))
    return tree


def traced(
    catalogue: Catalogue, disturb: Callable[[Vm], None] = lambda vm: None, **time_settings: object
) -> list[Any]:
    """The probe's trace of a run to the power off, during which `disturb` is called."""
    module = next(plugin.module for plugin in catalogue.plugins if plugin.name == "probe")
    trace: list[Any] = module.trace  # type: ignore[union-attr]
    trace.clear()
    vm = Vm(machine(**time_settings), catalogue, boot=flat32(GUEST))  # type: ignore[arg-type]
    try:
        vm.power_on()
        disturb(vm)
        assert vm.wait_for(VmState.OFF, timeout=60) is VmState.OFF
        return [*trace, vm.tm.counter.executed]  # type: ignore[union-attr]
    finally:
        vm.destroy()


def again_and_again(vm: Vm, disturb: Callable[[], None]) -> None:
    """While it runs, at random moments; the guest needs some time, too."""
    rng = random.Random(0)
    while vm.state is VmState.RUNNING:
        disturb()
        time.sleep(rng.random() * 300e-6)


def kick(vm: Vm) -> None:
    again_and_again(vm, vm.kick)


def suspend_and_resume(vm: Vm) -> None:
    def both() -> None:
        with suppress(PdmError):  # it is off
            vm.suspend()
            vm.resume()

    again_and_again(vm, both)


def forget_translations(vm: Vm) -> None:
    engine = vm.em.engine
    assert engine is not None
    again_and_again(vm, lambda: vm.call(lambda: engine.set_state(engine.get_state())))


def take_the_lock(vm: Vm) -> None:
    def take() -> None:
        with vm.lock:
            vm.tm.now(Clock.REAL)

    again_and_again(vm, take)


def test_trace_has_everything(catalogue: Catalogue) -> None:
    trace = traced(catalogue)

    kinds = {entry[:2] for entry in trace[:-1]}
    fired = {("fired", clock) for clock in ("VIRTUAL", "VIRTUAL_SYNC", "TSC")}
    assert kinds >= fired | {("read", 3), ("write", 5)}
    times = [entry[-4] for entry in trace[:-1]]
    assert times == sorted(times)
    assert len({entry[3] for entry in trace[:-1] if entry[:2] == ("write", 5)}) == 2 * TURNS  # TSC, RDRAND


@pytest.mark.parametrize("disturb", [kick, suspend_and_resume, forget_translations, take_the_lock])
@pytest.mark.parametrize("settings", [{}, {"InstructionTime": 1000, "TSCTicksPerSecond": 3_000_000_000}])
def test_trace_is_the_same_whatever_the_host_does(
    catalogue: Catalogue, disturb: Callable[[Vm], None], settings: dict[str, int]
) -> None:
    assert traced(catalogue, disturb, **settings) == traced(catalogue, **settings)


def test_idle_time_passes_at_the_hosts_pace_when_asked_for(catalogue: Catalogue) -> None:
    assert traced(catalogue, kick, Mode="realtime") == traced(catalogue)


def test_seed_decides_over_random_numbers(catalogue: Catalogue) -> None:
    first = traced(catalogue)
    trees = [machine(), machine()]
    trees[1].insert("RandomSeed", 5)
    vms = [Vm(tree, catalogue, boot=flat32(GUEST)) for tree in trees]  # type: ignore[arg-type]
    try:
        assert vms[0].random.getstate() != vms[1].random.getstate()
        assert vms[0].tm.counter.seed != vms[1].tm.counter.seed  # type: ignore[union-attr]
    finally:
        for vm in vms:
            vm.destroy()
    assert traced(catalogue) == first


PLAIN = '''
from vbox_pdm import hookimpl
from vbox_pdm.engine import EngineType
from vbox_vmm.rem.probe import NATIVE, engine_class, fast_stores, usable

contract = "1.0"

class Plain:
    """All of an engine but what counts."""
    def __init__(self, host, model):
        assert usable() is None
        self.rem = engine_class(NATIVE).create(host, model, fast_stores())
    def __getattr__(self, name):
        if name in ("count_instructions", "executed", "stop_at"):
            raise AttributeError(name)
        return getattr(self.rem, name)

@hookimpl
def vbox_register_engines(register):
    register(EngineType("plain", create=Plain, usable=lambda: None))
'''


def test_engine_that_cannot_count_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text(PLAIN)
    catalogue.add_file(path)
    tree = machine()
    tree.ensure_node("CPUM").replace("Engine", "plain")

    with pytest.raises(PdmError, match=r"Plain counts no instructions.*TM/Source = host") as caught:
        Vm(tree, catalogue)

    assert caught.value.status == "VERR_NOT_SUPPORTED"
