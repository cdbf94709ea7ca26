"""IOM: conflicts, resolution, wrapping, rows for the engine, accesses, failing handlers, texts."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import Device, DeviceType, Mmio, PdmError, Ports, RuntimeErrorFlags, Width, hookimpl
from vbox_pdm.engine import ALL_SIZES
from vbox_pdm.instance import Instance
from vbox_pdm.pci import PciFunction, PciIdentity
from vbox_pdm.regions import resolve
from vbox_vmm.failures import LIMIT


class Thing(Device[Any]):
    """Answers with offset and size, remembers writes."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(bytes([(0x10 + offset + at) & 0xFF for at in range(size)]), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))

    def fail(self, *arguments: int) -> int:
        raise ValueError("broken")


def instance(name: str = "thing", number: int = 0) -> Instance:
    return Instance(DeviceType(name, Thing), number, Thing(), "test-plugin")


def ports(owner: Instance, size: int, name: str = "regs", **more: Any) -> Ports:
    return Ports(name, size, owner.object.read, owner.object.write, **more)


def mmio(owner: Instance, size: int, name: str = "regs", **more: Any) -> Mmio:
    return Mmio(name, size, owner.object.read, owner.object.write, **more)


# --- mapping


def test_port_conflict_names_both_owners_and_changes_nothing(vm: Any) -> None:
    one, two = instance("one"), instance("two")
    vm.iom.map(one, 0x3F8, ports(one, 8, "uart"))
    with pytest.raises(
        PdmError, match=r"two#0: regs at 0x3ff\.\.0x400 overlaps one#0: uart at 0x3f8"
    ) as caught:
        vm.iom.map(two, 0x3FF, ports(two, 2))
    assert caught.value.status == "VERR_IOM_IOPORT_RANGE_CONFLICT"
    assert vm.iom.port_read(0x400, 1) == 0xFF
    assert "two#0" not in vm.iom.info_ioport()


def test_mmio_conflict_names_both_owners(vm: Any) -> None:
    one, two = instance("one"), instance("two")
    vm.iom.map(one, 0xFED00000, mmio(one, 0x400, "hpet"))
    with pytest.raises(PdmError, match=r"two#0: regs .* overlaps one#0: hpet") as caught:
        vm.iom.map(two, 0xFED003FF, mmio(two, 1))
    assert caught.value.status == "VERR_IOM_MMIO_RANGE_CONFLICT"


@pytest.mark.parametrize("port", [-1, 0xFFFF, 0x10000])
def test_ports_beyond_the_end_are_refused(vm: Any, port: int) -> None:
    one = instance()
    with pytest.raises(PdmError) as caught:
        vm.iom.map(one, port, ports(one, 2))
    assert caught.value.status == "VERR_IOM_INVALID_IOPORT_RANGE"


@pytest.mark.parametrize("address", [-1, (1 << 52) - 1])
def test_mmio_beyond_the_end_is_refused(vm: Any, address: int) -> None:
    one = instance()
    with pytest.raises(PdmError) as caught:
        vm.iom.map(one, address, mmio(one, 2))
    assert caught.value.status == "VERR_IOM_INVALID_MMIO_RANGE"


def test_moving_onto_another_region_is_refused_and_leaves_it_where_it_was(vm: Any) -> None:
    one, two = instance("one"), instance("two")
    mapping = vm.iom.map(one, 0x100, ports(one, 4))
    vm.iom.map(two, 0x200, ports(two, 4))
    with pytest.raises(PdmError):
        mapping.move(0x1FE)
    assert mapping.address == 0x100
    assert vm.iom.port_read(0x101, 1) == 0x11
    mapping.move(0x102)  # over its own old place
    assert vm.iom.port_read(0x101, 1) == 0xFF
    assert vm.iom.port_read(0x102, 1) == 0x10


def test_unmapped_region_is_not_called_and_reads_ones(vm: Any) -> None:
    one = instance()
    for region, address, read in (
        (ports(one, 4), 0x100, vm.iom.port_read),
        (mmio(one, 4), 0xE0000000, vm.iom.mmio_read),
    ):
        mapping = vm.iom.map(one, address, region)
        assert read(address, 1) == 0x10
        mapping.unmap()
        mapping.unmap()
        assert mapping.address is None
        assert read(address, 4) == 0xFFFFFFFF


def test_released_instance_leaves_nothing_behind(vm: Any) -> None:
    one = instance()
    vm.iom.map(one, 0x100, ports(one, 4))
    vm.iom.map(one, 0xE0000000, mmio(one, 4))
    vm.iom.release(one)
    assert vm.iom.entries == []
    assert vm.iom.ports.rows == ()
    assert vm.pgm.layout.rows() == ()


# --- resolution and wrapping


def test_row_without_wrappers_is_the_devices_own_bound_method(vm: Any) -> None:
    engine = vm.with_engine()
    one = instance()
    vm.iom.map(one, 0x3F8, ports(one, 8))
    vm.iom.map(one, 0xE0000000, mmio(one, 8))
    for row in (engine.ports[0], engine.mmio[0]):
        assert row.read.__self__ is one.object
        assert row.read.__func__ is Thing.read
        assert row.write.__func__ is Thing.write
        assert row.adapted_read == row.read
        assert row.direct == ALL_SIZES


class Wrapper:
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    @hookimpl
    def pdm_wrap_region(self, region: Any) -> Any:
        if region.name != "uart":
            return None
        read = region.read

        def traced(offset: int, size: int) -> int:
            self.seen.append(self.name)
            return int(read(offset, size))

        return region.with_handlers(read=traced)


def test_wrappers_stack_in_order_of_registration_and_go_when_they_are_removed(vm: Any) -> None:
    seen: list[str] = []
    one = instance()
    first, second = Wrapper("first", seen), Wrapper("second", seen)
    vm.catalogue.manager.register(first)
    vm.iom.flush()
    vm.iom.map(one, 0x3F8, ports(one, 8, "uart"))
    vm.catalogue.manager.register(second)
    vm.iom.flush()
    assert vm.iom.port_read(0x3F8, 1) == 0x10
    assert seen == ["second", "first"]
    vm.catalogue.manager.unregister(first)
    vm.iom.flush()
    seen.clear()
    vm.iom.port_read(0x3F8, 1)
    assert seen == ["second"]
    vm.catalogue.manager.unregister(second)
    vm.iom.flush()
    assert vm.iom.ports.rows[0].read == one.object.read


def test_new_wrapper_is_told_to_the_engine_in_one_go(vm: Any) -> None:
    engine = vm.with_engine()
    one = instance()
    for port in range(0x100, 0x140, 8):
        vm.iom.map(one, port, ports(one, 8, "uart"))
    engine.calls.clear()
    vm.catalogue.manager.register(Wrapper("x", []))
    vm.iom.flush()
    assert engine.count("ports") == 1


def test_wrapper_that_raises_or_answers_nonsense_is_left_out(
    vm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad:
        @hookimpl
        def pdm_wrap_region(self, instance: Any, region: Any) -> Any:
            if region.name == "uart":
                raise RuntimeError("no")
            return "nonsense"

    vm.catalogue.manager.register(Bad())
    vm.iom.flush()
    one = instance()
    vm.iom.map(one, 0x100, ports(one, 4, "uart"))
    vm.iom.map(one, 0x200, ports(one, 4, "other"))
    assert vm.iom.port_read(0x100, 1) == vm.iom.port_read(0x200, 1) == 0x10
    assert "cannot wrap uart of thing#0" in caplog.text


# --- the engine's tables


def test_engine_gets_one_table_for_a_batch_of_changes(vm: Any) -> None:
    engine = vm.with_engine()
    engine.calls.clear()
    one = instance()
    with vm.iom.batch():
        for index in range(20):
            vm.iom.map(one, 0x100 + 8 * index, ports(one, 8))
            vm.iom.map(one, 0xE0000000 + 0x1000 * index, mmio(one, 0x100))
        assert engine.calls == []
    assert (engine.count("ports"), engine.count("mmio")) == (1, 1)
    assert len(engine.ports) == len(engine.mmio) == 20
    engine.calls.clear()
    vm.iom.flush()
    vm.pgm.flush()
    assert engine.calls == []


def test_change_outside_a_batch_is_told_at_once(vm: Any) -> None:
    engine = vm.with_engine()
    one = instance()
    mapping = vm.iom.map(one, 0x100, ports(one, 4))
    assert [row.first for row in engine.ports] == [0x100]
    mapping.move(0x200)
    assert [row.first for row in engine.ports] == [0x200]


def test_registers_over_ram_take_the_page_and_leave_the_rest_of_it_readable(vm: Any) -> None:
    engine = vm.with_engine()
    one = instance()
    vm.pgm.write(0x300000, b"A" * 0x1000)
    mapping = vm.iom.map(one, 0x300800, mmio(one, 16))
    assert 0x300000 not in engine.pages
    assert 0x2FF000 in engine.pages
    assert 0x301000 in engine.pages
    assert [(row.first, row.size) for row in engine.mmio] == [
        (0x300000, 0x800), (0x300800, 16), (0x300810, 0x7F0),
    ]  # fmt: skip
    scrap = engine.mmio[0]
    assert scrap.read(0x7FE + scrap.start, 2) == 0x4141
    scrap.write(4 + scrap.start, 2, 0x4242)
    assert vm.pgm.read(0x300003, 4) == b"ABBA"
    assert vm.iom.mmio_read(0x300800, 1) == 0x10
    mapping.unmap()
    assert 0x300000 in engine.pages
    assert list(engine.mmio) == []


# --- BARs


class _Host:
    def __init__(self, vm: Any, owner: Instance) -> None:
        self.vm, self.owner = vm, owner


def bar(vm: Any, owner: Instance, region: Any, slot: int, address: int) -> Any:
    function = PciFunction(SimpleNamespace(), PciIdentity(1, 2, class_code=0), (), slot, 0, owner.title)  # type: ignore[arg-type]
    entry = vm.iom.bar(owner, function, region, (slot, 0, region.name))
    entry.move(address)
    return entry


def test_bar_is_cut_by_fixed_regions_and_keeps_its_offsets(vm: Any) -> None:
    one, two = instance("one"), instance("two")
    vm.iom.map(one, 0x104, ports(one, 4))
    bar(vm, two, ports(two, 16), 3, 0x100)
    reads = [vm.iom.port_read(port, 1) for port in range(0x100, 0x110)]
    assert reads == [0x10, 0x11, 0x12, 0x13, *(0x10, 0x11, 0x12, 0x13), *range(0x18, 0x20)]


def test_bars_on_each_other_resolve_the_same_whatever_came_first(vm: Any) -> None:
    one, two = instance("one"), instance("two")
    first = bar(vm, one, mmio(one, 0x1000), 5, 0xE0000000)
    second = bar(vm, two, mmio(two, 0x1000), 3, 0xE0000000)
    vm.iom.mmio_write(0xE0000010, 4, 7)
    assert two.object.writes == [(0x10, 4, 7)]
    first.unmap()
    first.move(0xE0000000)
    vm.iom.mmio_write(0xE0000010, 4, 8)
    assert two.object.writes == [(0x10, 4, 7), (0x10, 4, 8)]
    second.move(0xE0000800)
    vm.iom.mmio_write(0xE0000010, 4, 9)
    assert one.object.writes == [(0x10, 4, 9)]


# --- accesses


def test_access_over_the_end_of_a_region_is_split_into_bytes(vm: Any) -> None:
    one = instance()
    vm.iom.map(one, 0x100, ports(one, 2))
    assert vm.iom.port_read(0x101, 4) == 0xFFFFFF11
    vm.iom.port_write(0x0FF, 4, 0x44332211)
    assert one.object.writes == [(0, 1, 0x22), (1, 1, 0x33)]


def test_port_access_of_a_wrong_size_is_refused(vm: Any) -> None:
    with pytest.raises(PdmError) as caught:
        vm.iom.port_read(0x80, 3)
    assert caught.value.status == "VERR_IOM_INVALID_IOPORT_SIZE"


def test_value_wider_than_the_access_is_masked(vm: Any) -> None:
    one = instance()
    vm.iom.map(one, 0x100, Ports("wide", 4, lambda offset, size: 0x123456789))
    assert vm.iom.port_read(0x100, 1) == 0x89
    assert vm.iom.port_read(0x100, 4) == 0x23456789


def test_regions_that_claim_some_sizes_share_a_row_that_picks_by_size(vm: Any) -> None:
    """0xCF8 as a dword is the bridge's, the byte at 0xCF9 the reset control's."""
    bridge, reset = instance("bridge"), instance("reset")
    vm.iom.map(bridge, 0xCF8, ports(bridge, 4, "address", claims=4))
    vm.iom.map(reset, 0xCF9, ports(reset, 1, "control", claims=1))
    vm.iom.port_write(0xCF8, 4, 0x80000000)
    vm.iom.port_write(0xCF9, 1, 6)
    assert bridge.object.writes == [(0, 4, 0x80000000)]
    assert reset.object.writes == [(0, 1, 6)]
    assert vm.iom.port_read(0xCF9, 1) == 0x10
    assert vm.iom.port_read(0xCF8, 1) == 0xFF
    assert vm.iom.port_read(0xCF8, 2) == 0xFFFF
    with pytest.raises(PdmError):
        vm.iom.map(reset, 0xCFB, ports(reset, 1, claims=4))


_regions = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.integers(1, 12),
        st.sampled_from([Width.ANY, Width.BYTE, Width.WORD, Width.DWORD]),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(
    parts=_regions, accesses=st.lists(st.tuples(st.integers(0, 50), st.sampled_from([1, 2, 4])), max_size=20)
)
def test_port_accesses_go_where_a_byte_by_byte_model_says(
    make_vm_once: Any, parts: Any, accesses: Any
) -> None:
    vm = make_vm_once
    owners: list[tuple[int, int, Instance, Ports]] = []
    for first, size, width in parts:
        owner = instance()
        region = ports(owner, size, width=width)
        try:
            vm.iom.map(owner, first, region)
        except PdmError:
            assert any(f < first + size and first < f + s for f, s, _, _ in owners)
            continue
        owners.append((first, size, owner, region))
    try:
        for port, size in accesses:
            value = 0
            for at in range(size):
                byte = 0xFF
                for first, length, owner, _ in owners:
                    if first <= port + at < first + length:
                        byte = owner.object.read(port + at - first, 1)
                value |= byte << 8 * at
            assert vm.iom.port_read(port, size) == value
    finally:
        for _, _, owner, _ in owners:
            vm.iom.release(owner)


@pytest.fixture(scope="module")
def make_vm_once() -> Any:
    from vbox_pdm.catalogue import Catalogue
    from vbox_vmm.iom import Iom
    from vbox_vmm.pgm import Pgm

    pgm = Pgm(4 << 20)
    yield SimpleNamespace(
        iom=Iom(SimpleNamespace(pgm=pgm, catalogue=Catalogue([]), runtime_error=lambda *a: None))  # type: ignore[arg-type]
    )
    pgm.close()


def test_mmio_misaligned_access_goes_through_the_width_policy(vm: Any) -> None:
    one = instance()
    vm.iom.map(one, 0xE0000000, mmio(one, 16, width=Width.DWORD))
    vm.iom.mmio_write(0xE0000004, 4, 1)
    vm.iom.mmio_write(0xE0000006, 1, 0xAA)
    assert one.object.writes == [(4, 4, 1), (4, 4, 0x17AA1514)]
    assert vm.iom.mmio_read(0xE0000003, 4) == 0x16151413


# --- failing handlers


def test_failing_handler_reads_ones_and_is_logged_once_with_everything(
    vm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = instance()
    vm.iom.map(one, 0x100, Ports("uart", 8, one.object.fail, one.object.fail))
    with caplog.at_level(logging.ERROR):
        assert vm.iom.port_read(0x105, 1) == 0xFF
        vm.iom.port_write(0x105, 1, 1)
        vm.iom.port_read(0x106, 2)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    for part in ("thing#0", "test-plugin", "read of 1 at uart+0x5", "ValueError", "broken"):
        assert part in lines[0]


def test_handler_that_answers_no_number_counts_as_failed(vm: Any) -> None:
    one = instance()
    vm.iom.map(one, 0x100, Ports("bad", 8, lambda offset, size: None))  # type: ignore[arg-type, return-value]
    assert vm.iom.port_read(0x100, 4) == 0xFFFFFFFF
    assert vm.iom.failures.counts == {"thing#0": 1}


def test_instance_that_keeps_failing_suspends_the_vm_with_its_name(vm: Any) -> None:
    one, two = instance("one"), instance("two")
    vm.iom.map(one, 0x100, Ports("bad", 8, one.object.fail))
    vm.iom.map(two, 0x200, Ports("bad", 8, two.object.fail))
    for _ in range(LIMIT - 1):
        vm.iom.port_read(0x100, 1)
    vm.iom.port_read(0x200, 1)
    assert vm.runtime_errors == []
    vm.iom.port_read(0x100, 1)
    ((flags, error_id, text),) = vm.runtime_errors
    assert flags is RuntimeErrorFlags.SUSPEND
    assert error_id == "DeviceFailed"
    assert "one#0 of test-plugin failed 64 times" in text
    assert vm.iom.failures.failed == {"one#0"}


def test_owner_of_a_row_is_what_the_engine_hands_back(vm: Any) -> None:
    engine = vm.with_engine()
    one = instance()
    vm.iom.map(one, 0x100, ports(one, 8, "uart"))
    vm.iom.handler_failed(engine.ports[0].owner, 3, 1, None, ValueError("x"))
    vm.iom.handler_failed("something else", 3, 1, 5, ValueError("x"))
    assert vm.iom.failures.counts == {"thing#0": 1, "(unknown)": 1}


# --- texts


def test_info_texts_list_mapped_and_unmapped_regions(vm: Any) -> None:
    one = instance("serial")
    vm.iom.map(one, 0x3F8, ports(one, 8, "uart"))
    vm.iom.map(one, 0x2F8, ports(one, 8, "other")).unmap()
    vm.iom.map(one, 0xFEC00000, mmio(one, 0x20, "window"))
    bar(vm, one, mmio(one, 0x100, "bar"), 3, 0xE0000000)
    header, *lines = vm.iom.info_ioport().splitlines()
    assert header.split() == ["##", "Ctx", "Ports", "Mapping", "PCI", "Description"]
    assert lines[0].split() == ["0", "R3", "0x8", "03f8-03ff", "serial#0:", "uart"]
    assert lines[1].split() == ["1", "R3", "0x8", "unmapped", "serial#0:", "other"]
    header, *lines = vm.iom.info_mmio().splitlines()
    assert header.split() == ["##", "Ctx", "Size", "Mapping", "PCI", "Description"]
    assert lines[0].split()[3] == "00000000fec00000-00000000fec0001f"
    assert lines[1].split()[4] == "03.0"


def test_resolved_row_serves_exactly_the_region() -> None:
    one = instance()
    row = resolve(ports(one, 8), 0x3F8, "owner")
    assert (row.first, row.size, row.start, row.owner) == (0x3F8, 8, 0, "owner")
