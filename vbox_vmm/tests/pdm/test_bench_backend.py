"""The kernel behind the bench: the same machine as the bench's own, whatever is done to both."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import Clock, Device, DeviceType, PciIdentity, PdmError, Ports, Ram, State, StateError
from vbox_pdm.pci import BAR0, COMMAND
from vbox_pdm.regions import Mmio, Width
from vbox_pdm.testing import Bench
from vbox_vmm.bench_backend import KernelBench


@frozen
class PlainState(State, version=1):
    registers: bytes


class Plain(Device[Any]):
    """Registers behind ports, a BAR and RAM; a timer counts in register 0, a queue in register 1."""

    def pdm_construct(self) -> None:
        helpers = self.helpers
        self.registers = bytearray(16)
        self.irq = helpers.isa_irq(5)
        self.timer = helpers.timer("tick", Clock.VIRTUAL_SYNC, self.tick)
        self.queue = helpers.queue("in", self.take)
        helpers.map_ports(0x300, Ports("ports", 16, self.read, self.write, width=Width.WORD))
        self.vram = helpers.ram(Ram("vram", 0x2000))
        self.pci = helpers.pci(PciIdentity(1, 2, class_code=0xFF0000))
        self.pci.bar(0, Mmio("regs", 0x1000, self.read_mmio, self.write))
        self.pci.bar(1, self.vram)

    def tick(self) -> None:
        self.registers[0] = self.registers[0] + 1 & 0xFF
        self.irq.set(bool(self.registers[0] & 1))
        self.timer.set_relative(1000 * (1 + self.registers[2]))

    def take(self, item: int) -> None:
        self.registers[1] = item
        self.pci.set_irq(bool(item & 1))

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.registers[offset : offset + size], "little")

    def read_mmio(self, offset: int, size: int) -> int:
        return self.read(offset & 15, size)

    def write(self, offset: int, size: int, value: int) -> None:
        offset &= 15
        for at in range(min(size, 16 - offset)):
            self.registers[offset + at] = value >> 8 * at & 0xFF
        if offset == 3:
            self.timer.set_relative(500)
        with self.helpers.dma(0x1000 + offset, 2, write=True) as (view,):
            view[:] = b"ok"

    def pdm_reset(self) -> None:
        self.registers[:] = bytes(16)
        self.timer.stop()

    def pdm_save(self) -> PlainState:
        return PlainState(bytes(self.registers))

    def pdm_load(self, state: PlainState) -> None:
        self.registers[:] = state.registers


PLAIN = DeviceType("plain", Plain)


def bench(backend: Any = KernelBench) -> tuple[Bench, Plain]:
    made = Bench(ram=2 << 20, backend=backend)
    return made, made.add(PLAIN)


def both() -> tuple[tuple[Bench, Plain], tuple[Bench, Plain]]:
    return bench("bench"), bench(KernelBench)


addresses = st.sampled_from(
    [
        0x0,
        0x9FFFE,
        0xA0000,
        0xFFFFE,
        0x100000,
        0x1FFFFC,
        0x200000,
        0xE0000000,
        0xE0000FFE,
        0xE1000000,
        0xE1001FFC,
    ]
)
sizes = st.sampled_from([1, 2, 4])
actions = st.one_of(
    st.tuples(st.just("in"), st.integers(0x2FE, 0x312), sizes),
    st.tuples(st.just("out"), st.integers(0x2FE, 0x312), sizes, st.integers(0, 2**32 - 1)),
    st.tuples(st.just("load"), addresses, st.sampled_from([1, 2, 4, 8])),
    st.tuples(st.just("store"), addresses, st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("config"), st.sampled_from([COMMAND, BAR0, BAR0 + 4]),
              st.sampled_from([0, 2, 7, 0xE0000000, 0xE1000000, 0xFFFFFFFF, 0x100000])),
    st.tuples(st.just("advance"), st.integers(0, 20_000)),
    st.tuples(st.just("put"), st.integers(0, 255)),
    st.tuples(st.just("a20"), st.booleans()),
    st.tuples(st.sampled_from(["reset", "pause", "save"])),
)  # fmt: skip


def act(machine: Bench, device: Plain, action: tuple[Any, ...]) -> Any:
    match action:
        case ("in", port, size):
            return machine.backend.port_read(port, size)
        case ("out", port, size, value):
            return machine.backend.port_write(port, size, value & ((1 << 8 * size) - 1))
        case ("load", address, size):
            return machine.backend.mmio_read(address, size)
        case ("store", address, size, value):
            return machine.backend.mmio_write(address, size, value & ((1 << 8 * size) - 1))
        case ("config", offset, value):
            return device.pci.config_write(offset, 2 if offset == COMMAND else 4, value & 0xFFFFFFFF)
        case ("advance", ns):
            return machine.backend.advance(ns)
        case ("put", item):
            return (device.queue.put(item), machine.backend.drain())
        case ("a20", enabled):
            return device.helpers.set_a20(enabled)
        case ("reset",):
            return machine.backend.reset()
        case ("pause",):
            machine.backend.suspend()
            return machine.backend.resume()
        case ("save",):
            machine.backend.suspend()
            saved = machine.backend.save()
            machine.backend.load(saved)
            machine.backend.resume()
            return saved["plain#0"]
    raise AssertionError(action)


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, max_size=25))
def test_kernel_and_bench_cannot_be_told_apart(script: list[tuple[Any, ...]]) -> None:
    (one, device), (two, other) = both()
    with one, two:
        one.power_on()
        two.power_on()
        for action in script:
            assert act(one, device, action) == act(two, other, action), action
            assert one.backend.isa_level(5) == two.backend.isa_level(5), action
            assert one.backend.intx_level(1, 0) == two.backend.intx_level(1, 0), action
            assert one.backend.deadline() == two.backend.deadline(), action
        assert one.backend.clock(Clock.VIRTUAL_SYNC) == two.backend.clock(Clock.VIRTUAL_SYNC)
        assert one.backend.memory_read(0, 0x3000) == two.backend.memory_read(0, 0x3000)
        assert device.registers == other.registers
        assert [(e.line, e.level) for e in one.irq_edges] == [(e.line, e.level) for e in two.irq_edges]


def test_state_of_another_size_of_memory_changes_nothing() -> None:
    small, device = bench()
    large = Bench(ram=4 << 20, backend=KernelBench)
    large.add(PLAIN)
    with small, large:
        device.registers[5] = 9
        with pytest.raises(StateError) as caught:
            small.load(large.save())
        assert caught.value.status == "VERR_SSM_LOAD_MEMORY_SIZE_MISMATCH"
        assert device.registers[5] == 9


def test_wait_ends_when_another_thread_puts_something() -> None:
    machine, device = bench()
    with machine:
        machine.power_on()
        timer = threading.Timer(0.05, lambda: device.queue.put(7))
        timer.start()
        assert machine.backend.wait(5.0)
        assert machine.backend.drain()
        assert device.registers[1] == 7
        assert not machine.backend.wait(0.0)
        timer.join()


def test_illegal_order_is_refused() -> None:
    machine, _ = bench()
    with machine:
        for change in (machine.backend.resume, machine.backend.reset, machine.backend.suspend):
            with pytest.raises(PdmError) as caught:
                change()
            assert caught.value.status == "VERR_VM_INVALID_VM_STATE"


def test_closed_benches_leave_nothing_open() -> None:
    def cycle() -> None:
        machine, _ = bench()
        machine.power_on()
        machine.backend.port_read(0x300, 1)
        machine.backend.close()
        machine.backend.close()

    cycle()
    before = (len(os.listdir("/proc/self/fd")), threading.active_count())
    repeat: Callable[[], None] = cycle
    for _ in range(30):
        repeat()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
