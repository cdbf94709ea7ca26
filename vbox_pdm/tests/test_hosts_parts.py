"""What hosts share: region tables, wires, DMA handles, notifications, workers."""

from __future__ import annotations

import dis
import sys
import threading
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vbox_pdm import Device, DeviceType, Mmio, PdmError, Ports, hookimpl
from vbox_pdm.dmaviews import SCRATCH, DmaHandle
from vbox_pdm.engine import ALL_SIZES, Exit
from vbox_pdm.hooks import MethodHooks
from vbox_pdm.hookspecs import PROJECT, InstanceSpecs, VmSpecs
from vbox_pdm.instance import Instance
from vbox_pdm.lines import Wires
from vbox_pdm.tables import BAR, RegionTable, wrap_region
from vbox_pdm.workers import WorkerThread

# --- tables


def owner(name: str) -> Any:
    return SimpleNamespace(title=name)


def table_read(table: RegionTable, address: int, size: int) -> int:
    """As an engine does it."""
    row = table.find(address)
    if row is not None and address + size <= row.first + row.size:
        return call(row, address, size)
    if size == 1:
        return 0xFF
    return sum(table_read(table, address + at, 1) << (8 * at) for at in range(size))


def call(row: Exit, address: int, size: int) -> int:
    handler = row.read if size & row.direct else row.adapted_read
    return handler(address - row.first + row.start, size)


def stamp(value: int) -> Any:
    """A read handler that answers `value` always."""
    return lambda offset, size: value


def test_fixed_regions_that_overlap_conflict_and_both_are_named() -> None:
    table = RegionTable(Ports)
    table.map(0x100, Ports("a", 8), owner("a of x#0"))
    with pytest.raises(PdmError) as caught:
        table.map(0x107, Ports("b", 1), owner("b of y#0"))
    assert caught.value.status == "VERR_IOM_IOPORT_RANGE_CONFLICT"
    assert "a of x#0" in str(caught.value)
    assert "b of y#0" in str(caught.value)
    table.map(0x108, Ports("b", 1), owner("b of y#0"))


@pytest.mark.parametrize(("kind", "first"), [(Ports, 0xFFFF), (Mmio, (1 << 64) - 1), (Mmio, -1)])
def test_region_that_does_not_fit_is_refused(kind: Any, first: int) -> None:
    with pytest.raises(PdmError, match="does not fit"):
        RegionTable(kind).map(first, kind("a", 2), owner("a"))


def test_move_to_a_taken_place_leaves_it_where_it_was() -> None:
    table = RegionTable(Ports)
    table.map(0x100, Ports("a", 8), owner("a"))
    mapping = table.map(0x200, Ports("b", 8, stamp(5)), owner("b"))
    with pytest.raises(PdmError):
        mapping.move(0x100)
    assert mapping.address == 0x200
    assert table_read(table, 0x200, 1) == 5
    mapping.move(0x204)  # overlaps itself
    assert mapping.address == 0x204
    mapping.unmap()
    mapping.unmap()
    assert mapping.address is None
    assert table.find(0x204) is None


def test_claims_share_a_port_by_size() -> None:
    table = RegionTable(Ports)
    table.map(0xCF8, Ports("address", 4, stamp(0xA0A0A0A0), claims=4), owner("bridge"))
    table.map(0xCF9, Ports("reset", 1, stamp(0x06), claims=1), owner("reset"))
    table.map(0xCFC, Ports("data", 4, stamp(0xDD)), owner("bridge"))
    assert table_read(table, 0xCF8, 4) == 0xA0A0A0A0
    assert table_read(table, 0xCF9, 1) == 0x06
    assert table_read(table, 0xCF8, 1) == 0xFF
    assert table_read(table, 0xCFC, 1) == 0xDD
    assert table_read(table, 0xCF9, 2) == 0xFFFF
    with pytest.raises(PdmError):
        table.map(0xCF8, Ports("other", 1, claims=4), owner("other"))


def test_claims_write_goes_to_whom_it_belongs() -> None:
    seen: list[tuple[str, int, int, int]] = []

    def to(name: str) -> Any:
        return lambda offset, size, value: seen.append((name, offset, size, value))

    table = RegionTable(Ports)
    table.map(0xCF8, Ports("address", 4, write=to("address"), claims=4), owner("bridge"))
    table.map(0xCF9, Ports("reset", 1, write=to("reset"), claims=1), owner("reset"))
    row = table.find(0xCF8)
    assert row is not None
    for offset, size, value in ((0, 4, 0x80000000), (1, 1, 6), (0, 1, 9), (0, 2, 9)):
        (row.write if size & row.direct else row.adapted_write)(offset, size, value)
    assert seen == [("address", 0, 4, 0x80000000), ("reset", 0, 1, 6)]


@pytest.mark.parametrize(("first", "direct"), [(0xCF8, 4), (0xCF7, ALL_SIZES)])
def test_claims_of_a_region_that_spans_the_row_reach_its_own_handler(first: int, direct: int) -> None:
    table = RegionTable(Ports)
    address = Ports("address", 4, stamp(0xA0A0A0A0), claims=4)
    table.map(first, Ports("reset", 0xCFA - first, stamp(0x06), claims=1), owner("reset"))
    table.map(0xCF8, address, owner("bridge"))
    row = table.find(0xCF8)
    assert row is not None
    assert row.direct == direct
    assert (row.read is address.read) is (direct == 4)
    assert table_read(table, 0xCF8, 4) == 0xA0A0A0A0
    assert table_read(table, 0xCF9, 1) == 0x06


def test_blocked_range_hides_bars_and_shows_them_behind_it() -> None:
    table = RegionTable(Mmio)
    block = table.block(0, 0x1000)
    table.map(0x800, Mmio("bar", 0x1000, lambda offset, size: offset), owner("bar"), rank=BAR)
    assert table.find(0x800) is None
    assert table_read(table, 0x1004, 4) == 0x804
    table.remove(block)
    assert table_read(table, 0x800, 4) == 0


regions = st.tuples(st.integers(0, 40), st.integers(1, 12), st.sampled_from([1, 2, 7, 4]), st.integers(0, 3))


@given(st.lists(regions, max_size=6), st.integers(0, 50), st.sampled_from([1, 2, 4]))
def test_table_answers_as_a_search_in_order_of_rank(
    given_regions: list[tuple[int, int, int, int]], port: int, size: int
) -> None:
    table = RegionTable(Ports)
    for index, (first, length, claims, rank) in enumerate(given_regions):
        region = Ports("r", length, stamp(0x10 + index), claims=claims)
        table.map(first, region, owner("r"), rank=BAR + rank, order=(index,))
    rows = table.rows
    assert all(a.first + a.size <= b.first for a, b in pairwise(rows))

    def answers(at: int, width: int) -> int:
        here = [
            (rank, index, first, length)
            for index, (first, length, claims, rank) in enumerate(given_regions)
            if first <= at < first + length and claims & width
        ]
        return 0x10 + min(here)[1] if here else 0xFF

    if size == 1:
        assert table_read(table, port, 1) == answers(port, 1)
    else:  # whoever answers claims that size there, or the bytes do one by one
        value = table_read(table, port, size)
        whole = {
            0x10 + i
            for i, (f, n, c, _) in enumerate(given_regions)
            if c & size and f <= port and port + size <= f + n
        }
        split = sum(answers(port + at, 1) << (8 * at) for at in range(size))
        assert value in whole | {split, (1 << (8 * size)) - 1}


def test_wrap_region_asks_in_order_the_last_outermost() -> None:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(VmSpecs)

    def plugin(digit: int) -> Any:
        class Plugin:
            @hookimpl
            def pdm_wrap_region(self, region: Any) -> Any:
                inner = region.read
                return region.with_handlers(read=lambda offset, size: inner(offset, size) * 10 + digit)

        return Plugin()

    class Silent:
        @hookimpl
        def pdm_wrap_region(self, instance: Any, region: Any) -> Any:
            return None

    for item in (plugin(1), Silent(), plugin(2)):
        manager.register(item)
    wrapped = wrap_region(manager, None, Ports("r", 1, stamp(7)))
    assert wrapped.read(0, 1) == 712


# --- wires


class WiresMachine(RuleBasedStateMachine):
    """Any owners doing anything: the wire is their OR, and each change is told once."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[int, bool] = {}
        self.wires: Wires[int] = Wires(self.changed)
        self.handles = [self.wires.handle(at % 3) for at in range(7)]

    def changed(self, wire: int, level: bool) -> None:
        assert self.told.get(wire, False) != level
        self.told[wire] = level

    @rule(at=st.integers(0, 6), level=st.booleans())
    def set(self, at: int, level: bool) -> None:
        self.handles[at].set(level)
        assert self.handles[at].level is level

    @rule(at=st.integers(0, 6))
    def pulse(self, at: int) -> None:
        self.handles[at].pulse()
        assert not self.handles[at].level

    @rule()
    def lower(self) -> None:
        self.wires.lower_all()
        assert not any(handle.level for handle in self.handles)

    @rule(at=st.integers(0, 6))
    def replace(self, at: int) -> None:
        self.wires.drop(self.handles[at])
        self.handles[at] = self.wires.handle(at % 3)

    @invariant()
    def wire_is_the_or_and_was_told(self) -> None:
        for wire in range(3):
            level = any(handle.level for handle in self.handles if handle.wire == wire)
            assert self.wires.level(wire) is level
            assert self.told.get(wire, False) is level


TestWiresMachine = WiresMachine.TestCase


def test_load_of_a_level_is_told_to_nobody() -> None:
    told: list[tuple[int, bool]] = []
    wires: Wires[int] = Wires(lambda wire, level: told.append((wire, level)))
    handle = wires.handle(3)
    handle.load(True)
    assert wires.level(3)
    assert told == []
    handle.set(False)
    assert told == [(3, False)]


# --- DMA handles


def test_dma_views_are_the_memory_and_die_with_the_handle() -> None:
    memory, written = bytearray(16), []
    pieces = [(0x10, 8, memoryview(memory)[:8]), (0x18, 4, memoryview(memory)[8:12])]
    handle = DmaHandle(pieces, write=True, written=lambda *range_: written.append(range_))
    with handle as views:
        views[0][0] = 5
        views[1][3] = 6
        assert handle.complete
        assert written == []
    assert (memory[0], memory[11]) == (5, 6)
    assert written == [(0x10, 8), (0x18, 4)]
    handle.release()
    assert len(written) == 2
    with pytest.raises(ValueError, match="released"):
        bytes(views[0])


def test_dma_read_views_cannot_be_written() -> None:
    written: list[Any] = []
    handle = DmaHandle([(0, 4, memoryview(bytearray(4)))], write=False, written=lambda *a: written.append(a))
    with handle as (view,), pytest.raises(TypeError):
        view[0] = 1
    assert written == []


@given(st.integers(0, 3 * SCRATCH), st.booleans())
def test_dma_scratch_reads_ones_and_covers_the_length(length: int, write: bool) -> None:
    written: list[Any] = []
    handle = DmaHandle([(0, length, None)], write=write, written=lambda *a: written.append(a))
    assert sum(len(view) for view in handle.views) == length
    assert all(bytes(view) == b"\xff" * len(view) for view in handle.views)
    assert not handle.complete
    handle.release()
    assert written == []


def test_dma_handle_whose_view_is_still_held_is_released_all_the_same() -> None:
    written: list[Any] = []
    handle = DmaHandle([(0, 4, memoryview(bytearray(4)))], write=True, written=lambda *a: written.append(a))
    kept = memoryview(handle.views[0])
    handle.release()
    assert written == [(0, 4)]
    assert len(kept) == 4


# --- workers


def test_worker_runs_until_halted_and_again_after_start() -> None:
    started, blocked = threading.Semaphore(0), threading.Event()
    failures: list[BaseException] = []

    def run(worker: Any) -> None:
        started.release()
        while worker.running:
            blocked.wait(10)
            blocked.clear()

    worker = WorkerThread("w", run, blocked.set, failures.append)
    assert not worker.running
    for _ in range(2):
        worker.start()
        assert started.acquire(timeout=5)
        assert worker.running
        assert worker.halt()
        assert not worker.running
    worker.stop()
    worker.start()
    assert not started.acquire(timeout=0.05)
    assert failures == []


def test_worker_that_raises_or_returns_is_over() -> None:
    failures: list[BaseException] = []
    done = threading.Event()

    def run(worker: Any) -> None:
        raise OSError("gone")

    def failed(error: BaseException) -> None:
        failures.append(error)
        done.set()

    worker = WorkerThread("w", run, lambda: None, failed)
    worker.start()
    assert done.wait(5)
    assert worker.halt()
    worker.start()
    assert worker.halt()
    assert [str(error) for error in failures] == ["gone"]


def test_worker_that_ignores_wake_is_left_behind() -> None:
    release = threading.Event()
    worker = WorkerThread("w", lambda worker: release.wait(30), lambda: None, lambda error: None)  # type: ignore[arg-type,return-value]
    worker.start()
    assert not worker.halt(timeout=0.1)
    release.set()


class Plain:
    """A plugin with an attribute before it is registered, and one after."""

    def __init__(self) -> None:
        self.calls = 0

    def pdm_power_on(self) -> None:
        self.calls += 1


class Slotted:
    __slots__ = ("calls",)
    __init__ = Plain.__init__
    pdm_power_on = Plain.pdm_power_on


@pytest.mark.parametrize("kind", [Plain, Slotted, SimpleNamespace])
def test_method_hooks_register_leaves_attributes_as_they_are(kind: Any) -> None:
    plugin = kind()
    if kind is SimpleNamespace:
        plugin.calls, plugin.pdm_power_on = 0, lambda: setattr(plugin, "calls", plugin.calls + 1)
    hooks = MethodHooks(InstanceSpecs, frozenset({"pdm_power_on"}))
    hooks.register(plugin)
    plugin.calls += 1
    hooks.hook.pdm_power_on()
    assert plugin.calls == 2
    assert hooks.is_registered(plugin)


# --- instances


@pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11),
    reason="it is CPython 3.11 that looks up attributes of some instances the slow way",
)
def test_instance_attributes_of_its_object_are_looked_up_the_quick_way() -> None:
    class Thing(Device[None]):
        def read(self) -> int:
            return self.value  # type: ignore[attr-defined, no-any-return]

    instance = Instance(DeviceType("thing", Thing), 0, Thing())
    instance.object.value = 1

    ways = set()
    for _ in range(20):
        for _ in range(100):
            instance.object.read()
        ways |= {
            each.opname for each in dis.get_instructions(Thing.read, adaptive=True) if "ATTR" in each.opname
        }

    assert ways == {"LOAD_ATTR_WITH_HINT"}
