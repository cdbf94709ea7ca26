"""PGM: the layers of the physical address space, what an engine is told, DMA, dirty pages, the end."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import PdmError, ShadowMode
from vbox_vmm.hostmem import HostMemory, check_packed, pack, unpack
from vbox_vmm.layout import Block, Kind, Rank, Slot, differences
from vbox_vmm.pgm import BlockMapping, Pgm

PAGE = 4096
MIB = 1 << 20


@pytest.fixture
def pgm() -> Any:
    made = Pgm(8 * MIB)
    yield made
    made.close()


def block(pgm: Pgm, kind: Kind, first: int, size: int, rank: Rank = Rank.FIXED, name: str = "x") -> Block:
    memory = pgm.new_memory(name, size)
    memory.view[:] = bytes([len(name)]) * memory.size
    return Block(kind, first, size, rank, name, memory=memory)


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- size


@pytest.mark.parametrize("size", [0, 4 * MIB - PAGE, 3 << 40])
def test_ram_size_out_of_range_is_refused_with_value_and_range(size: int) -> None:
    with pytest.raises(PdmError, match=rf"RamSize is {size} bytes.*4 MiB") as caught:
        Pgm(size)
    assert caught.value.status == "VERR_OUT_OF_RANGE"


def test_ram_size_that_is_no_whole_pages_is_refused() -> None:
    with pytest.raises(PdmError) as caught:
        Pgm(4 * MIB + 1)
    assert caught.value.status == "VERR_INVALID_PARAMETER"


def test_ram_above_the_hole_goes_on_at_4_gib() -> None:
    pgm = Pgm(6 << 30, 512 * MIB)
    try:
        assert pgm.ram_below_4g == (4 << 30) - 512 * MIB
        assert pgm.is_valid(pgm.ram_below_4g - PAGE, PAGE)
        assert not pgm.is_valid(pgm.ram_below_4g)
        pgm.write((4 << 30) + 16, b"high")
        assert bytes(pgm.ram.view[pgm.ram_below_4g + 16 : pgm.ram_below_4g + 20]) == b"high"
        assert pgm.is_valid((4 << 30) + (6 << 30) - pgm.ram_below_4g - 1)
        assert not pgm.is_valid((4 << 30) + (6 << 30) - pgm.ram_below_4g)
    finally:
        pgm.close()


def test_ram_is_one_memfd_at_a_fixed_address(pgm: Pgm) -> None:
    pgm.write(0x2000, b"here")
    assert os.pread(pgm.ram.fd, 4, 0x2000) == b"here"
    assert ctypes.string_at(pgm.ram.address + 0x2000, 4) == b"here"


# --- layers


def test_vga_window_and_rom_area_are_no_ram_until_shadowed(pgm: Pgm) -> None:
    assert pgm.is_valid(0x9FFFF)
    assert not pgm.is_valid(0xA0000)
    assert pgm.read(0xFFFF0, 2) == b"\xff\xff"
    pgm.shadow(0xF0000, 0x10000, ShadowMode.READ_RAM_WRITE_RAM)
    pgm.write(0xFFFF0, b"\x12\x34")
    assert pgm.read(0xFFFF0, 2) == b"\x12\x34"
    assert not pgm.is_valid(0xA0000)


def test_shadow_modes_send_reads_and_writes_where_pam_says(pgm: Pgm) -> None:
    pgm.add(block(pgm, Kind.ROM, 0xF0000, 0x10000, name="bios"))  # filled with 4
    pgm.shadow(0xF0000, 0x10000, ShadowMode.READ_ROM_WRITE_RAM)
    pgm.write(0xF0000, b"\x77")
    assert pgm.read(0xF0000, 1) == b"\x04"
    pgm.shadow(0xF0000, 0x10000, ShadowMode.READ_RAM_WRITE_NONE)
    assert pgm.read(0xF0000, 1) == b"\x77"
    pgm.write(0xF0000, b"\x78")
    assert pgm.read(0xF0000, 1) == b"\x77"
    pgm.shadow(0xF0000, 0x10000, ShadowMode.READ_RAM_WRITE_RAM)
    pgm.write(0xF0000, b"\x79")
    assert pgm.read(0xF0000, 1) == b"\x79"
    pgm.shadow(0xF0000, 0x10000, ShadowMode.READ_ROM_WRITE_NONE)
    pgm.write(0xF0000, b"\x80")
    assert pgm.read(0xF0000, 1) == b"\x04"


def test_write_shadow_without_rom_reads_ones_and_keeps_writes(pgm: Pgm) -> None:
    pgm.shadow(0xE0000, 0x4000, ShadowMode.READ_ROM_WRITE_RAM)
    pgm.write(0xE0001, b"ab")
    assert pgm.read(0xE0000, 4) == b"\xff" * 4
    pgm.shadow(0xE0000, 0x4000, ShadowMode.READ_RAM_WRITE_RAM)
    assert pgm.read(0xE0000, 4) == b"\0ab\0"


@pytest.mark.parametrize(
    ("address", "size"),
    [(0x9F000, 0x2000), (0xFF000, 0x2000), (0xC0001, 0x1000), (0xC0000, 0), (0xC0000, 17)],
)
def test_shadow_outside_the_area_or_its_pages_is_refused(pgm: Pgm, address: int, size: int) -> None:
    with pytest.raises(PdmError) as caught:
        pgm.shadow(address, size, ShadowMode.READ_RAM_WRITE_RAM)
    assert caught.value.status == "VERR_PGM_INVALID_GC_PHYSICAL_RANGE"


def test_fixed_memory_that_overlaps_names_both_owners(pgm: Pgm) -> None:
    pgm.add(block(pgm, Kind.ROM, 0xF0000, 0x10000, name="bios"))
    with pytest.raises(PdmError, match=r"option at 0xff000\.\.0x100fff overlaps bios at 0xf0000") as caught:
        pgm.add(block(pgm, Kind.ROM, 0xFF000, 0x2000, name="option"))
    assert caught.value.status == "VERR_PGM_RAM_CONFLICT"


def test_mapping_that_cannot_move_stays_where_it_was(pgm: Pgm) -> None:
    pgm.add(block(pgm, Kind.ROM, 0xF0000, 0x10000))
    moving = BlockMapping(pgm, block(pgm, Kind.DEVICE_RAM, 0, PAGE, name="vram"))
    moving.move(0xE0000000)
    with pytest.raises(PdmError):
        moving.move(0xF1000)
    assert moving.address == 0xE0000000
    assert pgm.read(0xE0000000, 1) == b"\x04"
    moving.unmap()
    assert moving.address is None
    assert not pgm.is_valid(0xE0000000)


def test_bar_below_ram_and_rom_is_cut_and_comes_back(pgm: Pgm) -> None:
    bar = BlockMapping(pgm, block(pgm, Kind.DEVICE_RAM, 0, 16 * MIB, Rank.BAR, "bar"))
    bar.move(0)
    assert pgm.read(0x1000, 1) == b"\0"
    assert pgm.read(8 * MIB, 1) == b"\x03"
    assert pgm.read(0xA0000, 1) == b"\x03"
    bar.move((1 << 52) - MIB)  # beyond what there is: not seen, never raised
    assert pgm.read(8 * MIB, 1) == b"\xff"
    bar.move(0xE0000000)
    assert pgm.read(0xE0000000, 1) == b"\x03"


_blocks = st.lists(
    st.tuples(
        st.sampled_from([Kind.ROM, Kind.DEVICE_RAM]),
        st.integers(0, 24),
        st.integers(1, 8),
        st.sampled_from([Rank.FIXED, Rank.BAR]),
    ),
    max_size=6,
)
_modes = st.lists(
    st.tuples(st.integers(0, 7), st.integers(1, 8), st.sampled_from(list(ShadowMode))), max_size=4
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(_blocks, _modes), min_size=1, max_size=3))
def test_engine_always_sees_the_layers_as_a_page_by_page_model_does(
    steps: list[tuple[list[Any], list[Any]]],
) -> None:
    """Pages 0xBC000 to 0xD4000: RAM is everywhere below; what the engine maps is compared with a model."""
    base = 0xBC000
    pgm = Pgm(4 * MIB)
    try:
        engine = _Recorder()
        pgm.set_engine(engine)  # type: ignore[arg-type]
        mapped: list[Block] = []
        for blocks, modes in steps:
            for old in mapped:
                pgm.remove(old)
            mapped = []
            for index, (kind, page, pages, rank) in enumerate(blocks):
                made = block(pgm, kind, base + page * PAGE, pages * PAGE, rank, "x" * (index + 1))
                made.order = (index,)
                try:
                    pgm.add(made)
                except PdmError:
                    continue
                mapped.append(made)
            for page, pages, mode in modes:
                pgm.shadow(0xC0000 + page * PAGE, pages * PAGE, mode)
            for address in range(base, base + 32 * PAGE, PAGE):
                assert engine.pages.get(address) == _expected(pgm, mapped, address)
    finally:
        pgm.close()


def _expected(pgm: Pgm, mapped: list[Block], address: int) -> tuple[int, int | None] | None:
    mode = pgm.shadow_modes[(address - 0xA0000) // PAGE]
    ram = pgm.ram.address + address
    bus: tuple[int, int | None] | None = None
    for rank in (Rank.FIXED, Rank.BAR):
        for candidate in mapped:
            if bus is None and candidate.rank is rank and candidate.first <= address < candidate.end:
                assert candidate.memory is not None
                host = candidate.memory.address + address - candidate.first
                bus = (host, None if candidate.kind is Kind.ROM else host)
    if mode is ShadowMode.READ_RAM_WRITE_RAM:
        return (ram, ram)
    if mode is ShadowMode.READ_RAM_WRITE_NONE:
        return (ram, None)
    if mode is ShadowMode.READ_ROM_WRITE_RAM:
        ones = pgm._ones.address + address - 0xA0000 if pgm._ones is not None else 0
        return (bus[0] if bus is not None else ones, ram)
    return bus


class _Recorder:
    def __init__(self) -> None:
        self.pages: dict[int, tuple[int, int | None]] = {}

    def map_ram(self, address: int, size: int, host: int, write_host: int | None) -> None:
        for at in range(0, size, PAGE):
            self.pages[address + at] = (host + at, None if write_host is None else write_host + at)

    def unmap(self, address: int, size: int) -> None:
        for at in range(0, size, PAGE):
            self.pages.pop(address + at, None)

    def set_mmio(self, rows: Any) -> None:
        assert list(rows) == []


_slots = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 6), st.integers(0, 3), st.booleans()), max_size=5
)


def _made(parts: list[tuple[int, int, int, bool]]) -> list[Slot]:
    found: list[Slot] = []
    for first, size, host, writable in sorted(parts):
        if not found or found[-1].end <= first:
            at = host * 1000 + first
            found.append(Slot(first, first + size, at, at if writable else None))
    return found


@given(old=_slots, new=_slots)
def test_differences_turn_one_map_into_the_other_and_touch_no_equal_page(
    old: list[Any], new: list[Any]
) -> None:
    before, after = _made(old), _made(new)

    def pages(slots: list[Slot]) -> dict[int, tuple[int, int | None]]:
        return {p: slot.key for slot in slots for p in range(slot.first, slot.end)}

    now, wanted = pages(before), pages(after)
    for change in differences(before, after):
        if isinstance(change, Slot):
            for page in range(change.first, change.end):
                assert now.get(page) != change.key
                now[page] = change.key
        else:
            for page in range(*change):
                if page in wanted:
                    raise AssertionError("unmapped what stays")
                now.pop(page, None)
    assert now == wanted


# --- the engine


def test_engine_is_told_once_for_many_changes_in_a_batch(vm: Any) -> None:
    engine = vm.with_engine()
    engine.calls.clear()
    with vm.pgm.batch():
        for page in range(16):
            vm.pgm.shadow(0xC0000 + page * 0x4000, 0x4000, ShadowMode.READ_RAM_WRITE_RAM)
        assert engine.calls == []
    assert engine.calls == [("map", 0xC0000, 0x40000)]


def test_unchanged_map_tells_the_engine_nothing(vm: Any) -> None:
    engine = vm.with_engine()
    engine.calls.clear()
    vm.pgm.flush()
    vm.pgm.shadow(0xC0000, 0x4000, ShadowMode.READ_ROM_WRITE_NONE)
    assert engine.calls == []


def test_a20_is_told_to_the_engine_only_when_it_changes(vm: Any) -> None:
    engine = vm.with_engine()
    for enabled in (True, False, False, True):
        vm.pgm.set_a20(enabled)
    assert engine.gate == [False, True]


def test_engine_that_comes_late_learns_of_a_masked_a20(vm: Any) -> None:
    vm.pgm.set_a20(False)
    assert vm.with_engine().gate == [False]


# --- DMA


def test_dma_view_is_guest_memory_and_release_reports_it(vm: Any) -> None:
    engine = vm.with_engine()
    vm.pgm.dirty_pages(0x200000, 4 * PAGE)
    with vm.pgm.dma(0x200FFE, 4, write=True) as (view,):
        view[:] = b"abcd"
    assert vm.pgm.read(0x200FFE, 4) == b"abcd"
    assert engine.invalidated == [(0x200FFE, 4)]
    assert vm.pgm.dirty_pages(0x200000, 4 * PAGE) == b"\1\1\0\0"
    assert vm.pgm.dirty_pages(0x200000, 4 * PAGE) == b"\0\0\0\0"


def test_dma_for_reading_cannot_write_and_is_not_reported(vm: Any) -> None:
    engine = vm.with_engine()
    with vm.pgm.dma(0x200000, 16) as (view,), pytest.raises(TypeError):
        view[0] = 1
    assert engine.invalidated == []


def test_dma_views_end_with_their_handle(pgm: Pgm) -> None:
    handle = pgm.dma(0x200000, 16, write=True)
    (view,) = handle.views
    handle.release()
    handle.release()
    assert handle.views == ()
    with pytest.raises(ValueError, match="released"):
        view[0] = 1


def test_dma_over_a_hole_is_scratch_of_ones_whose_writes_are_lost(pgm: Pgm) -> None:
    with pgm.dma(0x9FFFC, 8) as views:
        assert [len(view) for view in views] == [4, 4]
        assert bytes(views[1]) == b"\xff" * 4
    handle = pgm.dma(0x9FFFC, 8, write=True)
    assert not handle.complete
    assert bytes(handle.views[1]) == b"\xff" * 4
    handle.views[1][:] = b"gone"
    handle.release()
    assert pgm.read(0xA0000, 4) == b"\xff" * 4


def test_dma_into_rom_is_lost(pgm: Pgm) -> None:
    pgm.add(block(pgm, Kind.ROM, 0xE0000000, PAGE, name="rom"))
    handle = pgm.dma(0xE0000000, 8, write=True)
    assert not handle.complete
    handle.views[0][:] = b"\0" * 8
    handle.release()
    assert pgm.read(0xE0000000, 8) == b"\x03" * 8


def test_dma_of_absurd_length_costs_little(pgm: Pgm) -> None:
    handle = pgm.dma(0, 0xFFFFFFFF, write=True)
    assert sum(len(view) for view in handle.views) == 0xFFFFFFFF
    assert not handle.complete
    handle.release()


def test_dma_of_nothing_is_complete_and_of_less_is_refused(pgm: Pgm) -> None:
    assert pgm.dma(0x200000, 0).views == ()
    assert pgm.dma(0x200000, 0).complete
    with pytest.raises(PdmError):
        pgm.dma(0x200000, -1)


@settings(deadline=None)
@given(st.integers(0x9F000, 0x103000), st.integers(0, 0x3000), st.binary(min_size=1, max_size=8))
def test_dma_writes_arrive_exactly_where_ram_is(address: int, length: int, pattern: bytes) -> None:
    pgm = Pgm(4 * MIB)
    try:
        data = (pattern * (length // len(pattern) + 1))[:length]
        with pgm.dma(address, length, write=True) as views:
            at = 0
            for view in views:
                view[:] = data[at : at + len(view)]
                at += len(view)
        assert at == length
        expected = bytes(
            0xFF if 0xA0000 <= address + index < 0x100000 else value for index, value in enumerate(data)
        )
        assert pgm.read(address, length) == expected
    finally:
        pgm.close()


def test_dirty_pages_merge_what_the_cpu_and_devices_wrote(vm: Any) -> None:
    engine = vm.with_engine()
    assert vm.pgm.dirty_pages(0x100000, 4 * PAGE) == b"\1\1\1\1"  # the first call says everything
    vm.pgm.write(0x101000, b"x")
    engine.dirty.add(0x103000)
    assert vm.pgm.dirty_pages(0x100000, 4 * PAGE) == b"\0\1\0\1"
    with pytest.raises(PdmError):
        vm.pgm.dirty_pages(0x100001, PAGE)


def test_dirty_pages_of_device_ram_follow_it(pgm: Pgm) -> None:
    mapping = BlockMapping(pgm, block(pgm, Kind.DEVICE_RAM, 0, 4 * PAGE, Rank.BAR, "vram"))
    mapping.move(0xE0000000)
    pgm.dirty_pages(0xE0000000, 4 * PAGE)
    pgm.write(0xE0002000, b"x")
    mapping.move(0xF0000000)
    assert pgm.dirty_pages(0xF0000000, 4 * PAGE) == b"\0\0\1\0"


# --- the end


def test_close_gives_memory_and_files_back_whoever_holds_views() -> None:
    before = fds()
    pgm = Pgm(64 * MIB)
    pgm.write(0, b"x" * (32 * MIB))
    held = pgm.dma(0x200000, 16, write=True).views[0]
    stale = memoryview(held)
    resident = _resident()
    pgm.close()
    pgm.close()
    assert fds() == before
    assert resident - _resident() > 24 * MIB
    assert bytes(stale) == b"\0" * 16  # harmless, and not what it was
    stale[0] = 1


def test_thousand_memories_leave_nothing_behind() -> None:
    Pgm(4 * MIB).close()
    before_fds, before_maps = fds(), _mappings()
    for _ in range(1000):
        pgm = Pgm(4 * MIB)
        pgm.add(block(pgm, Kind.ROM, 0xF0000, 0x10000))
        pgm.dma(0x1000, 16)  # never released
        pgm.close()
    assert fds() == before_fds
    assert _mappings() - before_maps < 20


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def _mappings() -> int:
    with open("/proc/self/maps") as file:
        return len(file.readlines())


def test_host_memory_that_cannot_be_had_is_an_error() -> None:
    before = fds()
    with pytest.raises(PdmError) as caught:
        HostMemory("x", 1 << 60, shared=True)
    assert caught.value.status == "VERR_NO_MEMORY"
    assert fds() == before


# --- images


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 63), st.binary(min_size=1, max_size=64), max_size=5))
def test_packed_memory_comes_back(pages: dict[int, bytes]) -> None:
    source, target = HostMemory("source", 64 * PAGE, shared=True), HostMemory("target", 64 * PAGE)
    try:
        target.view[:] = b"\x55" * target.size
        for page, data in pages.items():
            source.view[page * PAGE : page * PAGE + len(data)] = data
        packed = pack(source)
        check_packed(packed, 64 * PAGE, "it")
        unpack(target, packed)
        assert bytes(target.view) == bytes(source.view)
    finally:
        source.close()
        target.close()


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (lambda data: data[:-1], "VERR_SSM_LOADED_TOO_MUCH"),
        (lambda data: data + b"\0", "VERR_SSM_LOADED_TOO_LITTLE"),
        (lambda data: b"\x09" + data[1:], "VERR_SSM_LOAD_MEMORY_SIZE_MISMATCH"),
        (lambda data: data[:8] + b"\xff" + data[9:], "VERR_SSM_UNEXPECTED_DATA"),
        (lambda data: b"", "VERR_SSM_LOAD_MEMORY_SIZE_MISMATCH"),
    ],
)
def test_damaged_image_is_refused(damage: Any, status: str) -> None:
    memory = HostMemory("x", 8 * PAGE)
    memory.view[:] = b"\1" * memory.size
    packed = pack(memory)
    memory.close()
    with pytest.raises(PdmError) as caught:
        check_packed(damage(packed), 8 * PAGE, "it")
    assert caught.value.status == status


# --- texts


def test_info_phys_lists_every_range_with_its_owner(pgm: Pgm) -> None:
    pgm.add(block(pgm, Kind.ROM, 0xF0000, 0x10000, name="pcbios#0: system"))
    text = pgm.info_phys()
    assert "0000000000000000 000000000009ffff RAM    yes   RAM" in text
    assert "00000000000f0000 00000000000fffff ROM    no    pcbios#0: system" in text
