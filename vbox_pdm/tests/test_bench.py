"""The bench: accesses, time, memory, taps and roles, with small devices that use each helper."""

from __future__ import annotations

import os
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import (
    Clock,
    ConfigError,
    Device,
    DeviceType,
    Mmio,
    PdmError,
    Ports,
    Ram,
    ResetSource,
    Rom,
    RuntimeErrorFlags,
    ShadowMode,
    Width,
    hookimpl,
    key,
)
from vbox_pdm.testing import Bench
from vbox_pdm.testing.clock import MAX_RUNS

OTHER_BACKEND = os.environ.get("VBOX_BENCH", "bench") != "bench"


@frozen
class Config:
    base: int = key(0x300, span=(0, 0xFFF8), help="first port")


class Latch(Device[Config]):
    """Four ports that keep what is written; the fifth raises, the sixth answers nonsense."""

    def pdm_construct(self) -> None:
        self.bytes = bytearray(4)
        self.accesses: list[tuple[str, int, int]] = []
        self.helpers.map_ports(self.config.base, Ports("latch", 6, self.read, self.write, width=Width.BYTE))

    def read(self, offset: int, size: int) -> Any:
        self.accesses.append(("read", offset, size))
        if offset == 4:
            raise RuntimeError("latch is stuck")
        return "nonsense" if offset == 5 else self.bytes[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append(("write", offset, size))
        self.bytes[offset] = value


class Quiet(Latch):
    """The four ports alone."""

    def pdm_construct(self) -> None:
        self.bytes, self.accesses = bytearray(4), []
        self.helpers.map_ports(0x300, Ports("latch", 4, self.read, self.write, width=Width.BYTE))


LATCH = DeviceType("latch", Latch, Config, max_instances=3)


def made(construct: Any, **methods: Any) -> DeviceType:
    """A device type from functions."""
    return DeviceType("thing", type("Thing", (Device,), {"pdm_construct": construct, **methods}))


# --- building


def test_add_returns_the_object_with_config_and_number() -> None:
    with Bench() as bench:
        bench.register(LATCH)
        first, second = bench.add("latch"), bench.add(LATCH, 7, base="0x308")
        third = bench.add(Latch, config={"base": 0x310})
        assert (first.instance, first.config.base) == (0, 0x300)
        assert (second.instance, second.config.base) == (7, 0x308)
        assert third.config.base == 0x310
        assert bench.instance(second).title == "latch#7"
        assert bench.instance("latch#7").object is second


@pytest.mark.parametrize(
    ("action", "status"),
    [
        (lambda bench: bench.add("no such device"), "VERR_PDM_DEVICE_NOT_FOUND"),
        (lambda bench: bench.add(LATCH, bas=1), "VERR_CFGM_CONFIG_UNKNOWN_VALUE"),
        (lambda bench: bench.add(LATCH, base=-1), "VERR_OUT_OF_RANGE"),
        (lambda bench: bench.add(LATCH, base=0x304), "VERR_IOM_IOPORT_RANGE_CONFLICT"),
        (lambda bench: bench.add(LATCH, 0, base=0x400), "VERR_INVALID_PARAMETER"),
        (lambda bench: bench.add(LATCH, base=0x400, lun3=object()), "VERR_PDM_LUN_NOT_FOUND"),
        (
            lambda bench: [bench.add(LATCH, base=at) for at in (0x400, 0x500, 0x600)],
            "VERR_PDM_TOO_MANY_DEVICE_INSTANCES",
        ),
        (lambda bench: bench.register(DeviceType("latch", Device)), "VERR_PDM_DEVICE_NAME_CLASH"),
        (lambda bench: bench.instance("latch#9"), "VERR_PDM_DEVICE_INSTANCE_NOT_FOUND"),
        (lambda bench: bench.port_read(0, 8), "VERR_INVALID_PARAMETER"),
        (lambda bench: bench.advance(-1), "VERR_INVALID_PARAMETER"),
        (lambda bench: bench.resume(), "VERR_VM_INVALID_VM_STATE"),
    ],
)
def test_misuse_is_an_error_and_the_bench_goes_on(action: Any, status: str) -> None:
    with Bench() as bench:
        bench.register(LATCH)
        latch = bench.add("latch")
        with pytest.raises(PdmError) as caught:
            action(bench)
        assert caught.value.status == status
        bench.port_write(0x300, 1, 9)
        assert latch.bytes[0] == 9


def test_add_after_power_on_is_an_error() -> None:
    with Bench() as bench:
        bench.power_on()
        with pytest.raises(PdmError) as caught:
            bench.add(LATCH)
        assert caught.value.status == "VERR_VM_INVALID_VM_STATE"


def test_backend_of_unknown_name_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VBOX_BENCH", "nowhere")
    with pytest.raises(PdmError, match="No bench backend is named 'nowhere'"):
        Bench()


@pytest.mark.parametrize("ram", [0, -1, 1000, (1 << 20) + 1])
def test_ram_that_is_no_whole_mebibytes_is_refused(ram: int) -> None:
    with pytest.raises(PdmError):
        Bench(ram=ram)


def test_failed_construct_destructs_frees_and_names_the_device() -> None:
    destructed: list[int] = []

    def construct(self: Any) -> None:
        self.helpers.map_ports(0x300, Ports("a", 4))
        self.helpers.isa_irq(3).set(True)
        raise ValueError("no luck")

    kind = made(construct, pdm_destruct=lambda self: destructed.append(self.instance))
    with Bench() as bench:
        with pytest.raises(
            PdmError, match="Failed to construct device 'thing' instance #0: ValueError: no luck"
        ):
            bench.add(kind)
        assert destructed == [0]
        assert not bench.irq(3)
        assert bench.add(LATCH).config.base == 0x300
    assert destructed == [0]


def test_failed_construct_keeps_kind_and_status_of_a_pdm_error() -> None:
    def construct(self: Any) -> None:
        raise ConfigError("VERR_OUT_OF_RANGE", "base is odd", "Make it even")

    with Bench() as bench:
        with pytest.raises(ConfigError, match="'thing' instance #0: base is odd") as caught:
            bench.add(made(construct))
        assert (caught.value.status, caught.value.remedy) == ("VERR_OUT_OF_RANGE", "Make it even")


def test_helpers_that_create_are_refused_once_it_runs() -> None:
    with Bench() as bench:
        latch = bench.add(LATCH)
        bench.power_on()
        for action in (
            lambda: latch.helpers.isa_irq(1),
            lambda: latch.helpers.timer("x", Clock.VIRTUAL, lambda: None),
            lambda: latch.helpers.map_ports(0x400, Ports("x", 1)),
            lambda: latch.helpers.queue("x", print),
        ):
            with pytest.raises(PdmError) as caught:
                action()
            assert caught.value.status == "VERR_WRONG_ORDER"


# --- ports and MMIO


def test_unclaimed_reads_ones_and_drops_writes() -> None:
    with Bench() as bench:
        assert [bench.port_read(0x80, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFFFFFF]
        assert bench.mmio_read(0xE0000000, 8) == (1 << 64) - 1
        bench.port_write(0x80, 4, 5)
        bench.mmio_write(0xE0000000, 8, 5)


def test_access_across_the_end_is_split_into_bytes() -> None:
    with Bench() as bench:
        latch = bench.add(LATCH)
        bench.port_write(0x2FE, 4, 0x44332211)
        assert latch.bytes == b"\x33\x44\0\0"
        assert bench.port_read(0x2FF, 2) == 0x33FF
        assert [offset for _, offset, _ in latch.accesses] == [0, 1, 0]


def test_values_are_cut_to_their_size() -> None:
    with Bench() as bench:
        latch = bench.add(LATCH)
        bench.port_write(0x300, 1, 0x1FF)
        assert latch.bytes[0] == 0xFF
        assert bench.port_read(0x300, 4) == 0xFF


@given(st.lists(st.tuples(st.booleans(), st.integers(0x2FC, 0x304), st.sampled_from([1, 2, 4])), max_size=12))
@settings(max_examples=50)
def test_any_accesses_agree_with_a_model_of_bytes(accesses: list[tuple[bool, int, int]]) -> None:
    kept = {0x300 + at: 0 for at in range(4)}
    with Bench(ram=1 << 20) as bench:
        bench.add(Quiet)
        for index, (is_write, port, size) in enumerate(accesses):
            if is_write:
                value = (0x01010101 * (index + 1)) & ((1 << (8 * size)) - 1)
                bench.port_write(port, size, value)
                for at in range(size):
                    if port + at in kept:
                        kept[port + at] = value >> (8 * at) & 0xFF
            else:
                expected = sum(kept.get(port + at, 0xFF) << (8 * at) for at in range(size))
                assert bench.port_read(port, size) == expected


def test_mmio_policies_and_splits_apply() -> None:
    seen: list[tuple[int, int]] = []

    def construct(self: Any) -> None:
        self.helpers.map_mmio(0xD0000000, Mmio("m", 8, self.read, width=Width.DWORD))

    def read(self: Any, offset: int, size: int) -> int:
        seen.append((offset, size))
        return 0x11223344 + offset

    with Bench() as bench:
        bench.add(made(construct, read=read))
        assert bench.mmio_read(0xD0000000, 4) == 0x11223344
        assert bench.mmio_read(0xD0000001, 1) == 0x33
        assert bench.mmio_read(0xD0000000, 8) == 0x1122334811223344
        assert bench.mmio_read(0xD0000006, 4) == 0xFFFF1122
        assert {size for _, size in seen} == {4}


# --- failures


def test_handler_that_raises_answers_ones_and_raises_in_the_test() -> None:
    with Bench() as bench:
        bench.add(LATCH)
        with pytest.raises(RuntimeError, match="latch is stuck") as caught:
            bench.port_read(0x304)
        assert caught.value.__notes__ == ["raised by latch#0 in read of 1 at latch+0x4"]
        with pytest.raises(TypeError, match="nonsense"):
            bench.port_read(0x305)
        assert bench.port_read(0x300) == 0


def test_lenient_bench_records_failures_only() -> None:
    with Bench(strict=False) as bench:
        bench.add(LATCH)
        assert bench.port_read(0x302, 4) == 0xFFFFFFFF
        assert bench.port_read(0x304, 4) == 0xFFFFFFFF
        bench.port_write(0x304, 1, 1)
        assert [(f.title, f.where) for f in bench.failures] == [
            ("latch#0", "read of 4 at latch+0x2"),
            ("latch#0", "read of 1 at latch+0x4"),
            ("latch#0", "read of 1 at latch+0x5"),
            ("latch#0", "write of 1 (0x1) at latch+0x4"),
        ]


# --- memory


def mapped(self: Any) -> None:
    self.ram = self.helpers.ram(Ram("vram", 0x2000))
    self.helpers.map_ram(0xF0000000, self.ram)
    self.helpers.map_rom(0xF0000, Rom("bios", b"\x55\xaa" + bytes(0x0FF0)))
    self.helpers.map_mmio(0xA0000, Mmio("window", 0x1000, lambda o, s: 0x77, self.write))
    self.written = []


def note(self: Any, offset: int, size: int, value: int) -> None:
    self.written.append((offset, size, value))


MAPPED = made(mapped, write=note)


def test_memory_is_ram_rom_and_device_ram_and_ones_elsewhere() -> None:
    with Bench() as bench:
        thing = bench.add(MAPPED)
        bench.memory_write(0x1000, b"abc")
        assert bench.memory_read(0xFFF, 5) == b"\0abc\0"
        assert bench.mmio_read(0x1000, 2) == 0x6261
        assert bench.memory_read(0xF0000, 3) == b"\x55\xaa\0"
        assert bench.memory_read(0xF0FEE, 4) == b"\0\0\0\0"
        assert bench.memory_read(0xF0FF2, 1) == b"\xff"
        bench.memory_write(0xF0000, b"xx")
        assert bench.memory_read(0xF0000, 2) == b"\x55\xaa"
        thing.ram.view[0x1FFF] = 9
        assert bench.memory_read(0xF0001FFE, 4) == b"\0\x09\xff\xff"
        bench.mmio_write(0xF0000000, 4, 0x01020304)
        assert bytes(thing.ram.view[:4]) == b"\x04\x03\x02\x01"
        assert bench.memory_read((16 << 20) - 2, 4) == b"\0\0\xff\xff"


def test_mmio_lies_before_ram_for_cpu_and_dma() -> None:
    with Bench() as bench:
        thing = bench.add(MAPPED)
        assert bench.mmio_read(0xA0010, 1) == 0x77
        assert bench.mmio_read(0x9FFFF, 2) == 0x7700
        bench.mmio_write(0xA0FFF, 2, 0x1234)
        assert thing.written == [(0xFFF, 1, 0x34)]
        assert bench.memory_read(0xA1000, 1) == b"\xff"  # no RAM there
        with thing.helpers.dma(0x9FFFE, 4) as views:
            assert b"".join(views) == b"\0\0\xff\xff"


@pytest.mark.parametrize(
    ("mode", "reads", "writes"),
    [
        (ShadowMode.READ_ROM_WRITE_NONE, b"\x55", False),
        (ShadowMode.READ_RAM_WRITE_NONE, b"\x01", False),
        (ShadowMode.READ_ROM_WRITE_RAM, b"\x55", True),
        (ShadowMode.READ_RAM_WRITE_RAM, b"\x01", True),
    ],
)
def test_shadow_mode_says_where_reads_and_writes_go(mode: ShadowMode, reads: bytes, writes: bool) -> None:
    with Bench() as bench:
        thing = bench.add(MAPPED)
        thing.helpers.shadow(0xF0000, 0x1000, ShadowMode.READ_RAM_WRITE_RAM)
        bench.memory_write(0xF0000, b"\x01")
        thing.helpers.shadow(0xF0000, 0x1000, mode)
        assert bench.memory_read(0xF0000, 1) == reads
        bench.mmio_write(0xF0000, 1, 2)
        thing.helpers.shadow(0xF0000, 0x1000, ShadowMode.READ_RAM_WRITE_RAM)
        assert bench.memory_read(0xF0000, 1) == (b"\x02" if writes else b"\x01")


@pytest.mark.parametrize(("address", "size"), [(0xF0001, 0x1000), (0xF0000, 5), (0xFF000, 0x2000)])
def test_shadow_range_that_is_not_in_pages_below_1_mib_is_refused(address: int, size: int) -> None:
    with Bench() as bench, pytest.raises(PdmError):
        bench.add(MAPPED).helpers.shadow(address, size, ShadowMode.READ_RAM_WRITE_RAM)


@pytest.mark.parametrize(
    "construct",
    [
        lambda self: self.helpers.map_rom(0xF0800, Rom("r", b"x")),
        lambda self: [
            self.helpers.map_rom(0xF0000, Rom("r", bytes(8192))),
            self.helpers.map_rom(0xF1000, Rom("s", b"x")),
        ],
        lambda self: [
            self.helpers.map_rom(0xF0000, Rom("r", b"x")),
            self.helpers.map_mmio(0xF0000, Mmio("m", 1)),
        ],
        lambda self: self.helpers.ram(Ram("r", 100)),
        lambda self: self.helpers.map_ram(0xF0000000, Ram("r", 4096)),
    ],
)
def test_memory_that_is_not_possible_is_refused(construct: Any) -> None:
    with Bench() as bench, pytest.raises(PdmError, match="Failed to construct device 'thing'"):
        bench.add(made(construct))


def test_a20_masks_the_cpu_and_not_dma() -> None:
    with Bench() as bench:
        thing = bench.add(MAPPED)
        bench.memory_write(0x100000, b"H")
        bench.memory_write(0, b"L")
        assert bench.a20
        assert bench.mmio_read(0x100000, 1) == ord("H")
        thing.helpers.set_a20(False)
        assert not bench.a20
        assert bench.mmio_read(0x100000, 1) == ord("L")
        assert thing.helpers.memory_read(0x100000, 1) == b"H"
        bench.reset()
        assert bench.a20


def test_dma_reads_and_writes_guest_memory_and_marks_it() -> None:
    with Bench(ram=2 << 20) as bench:
        helpers = bench.add(LATCH).helpers
        with helpers.dma(0x1FFFF0, 0x20, write=True) as views:
            assert [len(view) for view in views] == [0x10, 0x10]
            for view in views:
                view[:] = b"z" * len(view)
        assert bench.memory_read(0x1FFFF0, 0x20) == b"z" * 16 + b"\xff" * 16
        assert bench.dma_written == [(0x1FFFF0, 0x10)]
        assert not helpers.dma(0x1FFFF0, 0x20).complete
        assert helpers.dma(0, 16).complete
        assert helpers.ram_size == helpers.ram_below_4g == 2 << 20


# --- time


class Ticker(Device[None]):
    def pdm_construct(self) -> None:
        self.fired: list[tuple[str, int]] = []
        self.timers = {
            name: self.helpers.timer(name, clock, lambda name=name, clock=clock: self.fire(name, clock))
            for name, clock in (("a", Clock.VIRTUAL_SYNC), ("b", Clock.VIRTUAL), ("r", Clock.REAL))
        }
        self.again = 0

    def fire(self, name: str, clock: Clock) -> None:
        self.fired.append((name, self.helpers.now(clock)))
        if self.again:
            self.timers[name].set_relative(self.again)


TICKER = DeviceType("ticker", Ticker)


def test_timers_fire_in_order_with_the_clock_at_their_expiry() -> None:
    with Bench() as bench:
        ticker = bench.add(TICKER)
        ticker.timers["a"].set(300)
        ticker.timers["b"].set(100)
        ticker.timers["r"].set_relative(300)
        assert (ticker.timers["a"].active, ticker.timers["a"].expires) == (True, 300)
        bench.advance(299)
        assert ticker.fired == [("b", 100)]
        bench.advance(1)
        assert ticker.fired == [("b", 100), ("a", 300), ("r", bench.clock(Clock.REAL))]
        assert bench.now == 300
        assert not ticker.timers["a"].active


def test_reader_gives_the_time_of_its_clock_in_its_periods() -> None:
    with Bench() as bench:
        helpers = bench.add(TICKER).helpers
        ns = {clock: helpers.reader(clock) for clock in (Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.REAL)}
        slow = {clock: helpers.reader(clock, 1_193_182) for clock in ns}
        bench.advance(10**9 + 838)
        assert {clock: read() for clock, read in ns.items()} == {clock: helpers.now(clock) for clock in ns}
        assert slow[Clock.VIRTUAL]() == slow[Clock.VIRTUAL_SYNC]() == 1_193_182
        assert slow[Clock.REAL]() == helpers.now(Clock.REAL) * 1_193_182 // 10**9
        bench.advance(1)
        assert slow[Clock.VIRTUAL_SYNC]() == 1_193_183


@pytest.mark.parametrize(
    ("clock", "hz"),
    [(Clock.TSC, 1), (None, 1), (Clock.VIRTUAL, 0), (Clock.REAL, 10**9 + 1), (Clock.REAL, 0.5)],
)
def test_reader_of_what_makes_no_sense_is_refused(clock: Any, hz: Any) -> None:
    with Bench() as bench, pytest.raises(PdmError, match=r"A reader of .*VERR_INVALID_PARAMETER"):
        bench.add(TICKER).helpers.reader(clock, hz)


def test_timer_of_the_past_fires_at_once_and_stopped_ones_never() -> None:
    with Bench() as bench:
        ticker = bench.add(TICKER)
        bench.advance(1000)
        ticker.timers["a"].set(10)
        ticker.timers["b"].set_relative(5)
        ticker.timers["b"].stop()
        bench.advance(0)
        assert ticker.fired == [("a", 1000)]
        bench.advance(100)
        assert len(ticker.fired) == 1


def test_periodic_timer_fires_once_a_period() -> None:
    with Bench() as bench:
        ticker = bench.add(TICKER)
        ticker.again = 7
        ticker.timers["a"].set(7)
        bench.advance(100)
        assert ticker.fired == [("a", at) for at in range(7, 100, 7)]
        assert not bench.run_until_idle(limit=50)
        assert bench.now == 150
        ticker.again = 0
        assert bench.run_until_idle(limit=50)
        assert bench.now == 154


@pytest.mark.skipif(OTHER_BACKEND, reason="each host treats runaways in its own way")
def test_timer_that_arms_itself_for_now_is_stopped_and_reported() -> None:
    with Bench() as bench:
        ticker = bench.add(TICKER)
        ticker.timers["a"].set(10)
        ticker.fire = None
        ticker.timers["a"].callback = lambda: ticker.timers["a"].set_relative(0)
        with pytest.raises(PdmError, match=f"armed for now {MAX_RUNS} times"):
            bench.advance(100)
        assert bench.now == 100


def test_virtual_clocks_stand_while_suspended() -> None:
    with Bench() as bench:
        ticker = bench.add(TICKER)
        start = bench.clock(Clock.REAL)
        ticker.timers["a"].set(50)
        ticker.timers["r"].set_relative(50)
        bench.suspend()
        bench.advance(100)
        assert ticker.fired == [("r", start + 50)]
        assert (bench.now, bench.clock(Clock.REAL)) == (0, start + 100)
        bench.resume()
        bench.advance(50)
        assert ticker.fired == [("r", start + 50), ("a", 50)]


def test_wall_clock_starts_where_told_and_goes_on() -> None:
    with Bench(utc=5 * 10**9) as bench:
        helpers = bench.add(TICKER).helpers
        bench.advance(7)
        assert helpers.utc_now() == 5 * 10**9 + 7


def test_randomness_comes_from_the_seed() -> None:
    def draw(seed: int) -> tuple[float, bytes]:
        with Bench(seed=seed) as bench:
            helpers = bench.add(TICKER).helpers
            return helpers.random(), helpers.random_bytes(8)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_two_timers_of_one_name_are_refused() -> None:
    def construct(self: Any) -> None:
        for _ in range(2):
            self.helpers.timer("t", Clock.VIRTUAL, lambda: None)

    with Bench() as bench, pytest.raises(PdmError, match="two timers named 't'"):
        bench.add(made(construct))


# --- queues


def test_queue_hands_on_in_order_and_says_when_it_is_full() -> None:
    got: list[int] = []

    def construct(self: Any) -> None:
        self.queue = self.helpers.queue("in", got.append, capacity=2)

    with Bench() as bench:
        queue = bench.add(made(construct)).queue
        bench.power_on()
        assert [queue.put(at) for at in range(3)] == [True, True, False]
        assert got == []
        bench.advance(0)
        assert got == [0, 1]
        bench.suspend()
        assert queue.put(9)
        bench.advance(5)
        assert got == [0, 1]
        bench.resume()
        assert got == [0, 1, 9]
    assert not queue.put(1)


def test_queue_consumer_that_raises_is_a_failure_and_the_rest_is_handed_on() -> None:
    got: list[int] = []

    def consume(item: int) -> None:
        got.append(item)
        if item == 0:
            raise OSError("bad item")

    def construct(self: Any) -> None:
        self.queue = self.helpers.queue("in", consume)

    with Bench() as bench:
        queue = bench.add(made(construct)).queue
        bench.power_on()
        queue.put(0)
        queue.put(1)
        with pytest.raises(OSError, match="bad item") as caught:
            bench.advance(0)
        assert "thing#0 in queue in" in caught.value.__notes__[0]
        assert got == [0, 1]


# --- taps and roles


def test_isa_line_is_the_or_of_its_owners_and_low_after_reset() -> None:
    def construct(self: Any) -> None:
        self.irq = self.helpers.isa_irq(5)

    kind = made(construct)
    with Bench() as bench:
        first, second = bench.add(kind), bench.add(kind)
        bench.advance(10)
        first.irq.set(True)
        second.irq.set(True)
        first.irq.set(False)
        assert bench.irq(5)
        assert bench.irq_edges == [(10, 5, True)]
        bench.reset()
        assert not bench.irq(5)
        assert not second.irq.level
        first.irq.pulse()
        assert bench.irq_edges[1:] == [(10, 5, False), (10, 5, True), (10, 5, False)]


def test_requests_are_recorded_and_not_carried_out() -> None:
    with Bench() as bench:
        helpers = bench.add(LATCH).helpers
        helpers.reset_vm(ResetSource.KEYBOARD)
        helpers.reset_vm(ResetSource.PORT92, soft=True)
        helpers.power_off_vm(3)
        helpers.nmi()
        helpers.mask_nmi(True)
        helpers.nmi()
        helpers.set_runtime_error(RuntimeErrorFlags.SUSPEND, "DiskFull", "no room")
        helpers.log.info("hello %d", 5)
        assert bench.resets == [(ResetSource.KEYBOARD, False), (ResetSource.PORT92, True)]
        assert bench.exit_code == 3
        assert bench.nmis == 1
        assert bench.runtime_errors == [("latch#0", RuntimeErrorFlags.SUSPEND, "DiskFull", "no room")]
        assert bench.log_lines == ["latch#0: hello 5"]
        assert bench.state == "created"
        assert helpers.current_cpu() == 0


class Pic(Device[None]):
    """A controller that latches the lowest line and vectors from 0x20."""

    def pdm_construct(self) -> None:
        self.lines: set[int] = set()
        self.out = self.helpers.provide_pic(self)
        self.routed: list[tuple[int, int, bool]] = []

    def set_irq(self, line: int, level: bool) -> None:
        (self.lines.add if level else self.lines.discard)(line)
        self.out.interrupt(bool(self.lines))

    def acknowledge(self) -> int:
        return 0x20 + min(self.lines, default=7)


def test_interrupt_controller_gets_the_lines_and_drives_intr() -> None:
    def construct(self: Any) -> None:
        self.irq = self.helpers.isa_irq(3)

    with Bench() as bench:
        bench.add(Pic)
        thing = bench.add(made(construct))
        bench.advance(5)
        thing.irq.set(True)
        assert bench.intr
        assert bench.acknowledge() == 0x23
        thing.irq.set(False)
        assert bench.intr_edges == [(5, True), (5, False)]
    with Bench() as other:
        other.add(Pic)
        with pytest.raises(PdmError, match="Pic#0") as caught:
            other.add(Pic)
        assert caught.value.status == "VERR_ALREADY_EXISTS"


def test_acknowledge_without_a_controller_is_an_error() -> None:
    with Bench() as bench, pytest.raises(PdmError) as caught:
        bench.acknowledge()
    assert caught.value.status == "VERR_PDM_NO_PIC_INSTANCE"


def test_cmos_is_a_dict_until_a_device_plays_the_rtc() -> None:
    class Rtc(Device[None]):
        def pdm_construct(self) -> None:
            self.bytes = bytearray(128)
            self.helpers.provide_rtc(self)

        def cmos_read(self, index: int) -> int:
            return self.bytes[index]

        def cmos_write(self, index: int, value: int) -> None:
            self.bytes[index] = value

    with Bench() as bench:
        helpers = bench.add(LATCH).helpers
        bench.cmos[0x10] = 0x42
        helpers.cmos_write(0x11, 0x1FF)
        assert (helpers.cmos_read(0x10), helpers.cmos_read(0x12), bench.cmos[0x11]) == (0x42, 0, 0xFF)
        rtc = bench.add(Rtc)
        helpers.cmos_write(0x10, 7)
        assert rtc.bytes[0x10] == 7
        assert bench.cmos[0x10] == 0x42


class Floppy(Device[None]):
    """Takes DMA channel 2 and moves what it holds, at most 4 bytes a call."""

    def pdm_construct(self) -> None:
        self.data = bytearray(b"0123456789")
        self.channel = self.helpers.dma_channel(2, self.transfer)
        self.timer = self.helpers.timer("spin", Clock.VIRTUAL, lambda: self.channel.request(True))
        self.calls: list[int] = []

    def transfer(self, position: int, length: int) -> int:
        self.calls.append(position)
        count = min(4, length - position)
        if self.channel.mode() & 4:
            self.channel.write_memory(position, bytes(self.data[position : position + count]))
        else:
            self.data[position : position + count] = self.channel.read_memory(position, count)
        if position + count == length:
            self.channel.request(False)
        return position + count


def test_dma_stand_in_moves_the_programmed_block() -> None:
    with Bench() as bench:
        floppy = bench.add(Floppy)
        bench.dma_program(2, 0x5000, 10, mode=4)
        floppy.timer.set(100)
        bench.advance(99)
        assert bench.dma_position(2) == 0
        bench.advance(1)
        assert bench.memory_read(0x5000, 11) == b"0123456789\0"
        assert floppy.calls == [0, 4, 8]
        assert bench.dma_position(2) == 10
        bench.memory_write(0x6000, b"abcdefghij")
        bench.dma_program(2, 0x6009, 10, mode=8 | 0x20)
        floppy.channel.request(True)
        bench.advance(0)
        assert floppy.data == b"jihgfedcba"
        assert floppy.channel.mode() == 0x2A


def test_dma_stand_in_runs_between_timers_of_one_advance() -> None:
    with Bench() as bench:
        floppy = bench.add(Floppy)
        seen: list[int] = []
        bench.dma_program(2, 0x5000, 10, mode=4)
        floppy.timer.set(100)
        original = floppy.transfer
        floppy.channel.transfer = lambda p, n: (seen.append(bench.now), original(p, n))[1]
        bench.advance(1000)
        assert seen == [100, 100, 100]


def test_dma_program_of_a_channel_nobody_took_is_an_error() -> None:
    with Bench() as bench, pytest.raises(PdmError) as caught:
        bench.dma_program(1, 0, 1, 4)
    assert caught.value.status == "VERR_PDM_NO_DMAC_INSTANCE"


# --- plugins


def test_plugin_wraps_regions_when_they_are_mapped() -> None:
    class Tracer:
        seen: list[tuple[str, str, int]] = []

        @hookimpl
        def pdm_wrap_region(self, instance: Any, region: Any) -> Any:
            def read(offset: int, size: int) -> int:
                self.seen.append((f"{instance.name}#{instance.number}", region.name, offset))
                return int(region.read(offset, size))

            return region.with_handlers(read=read)

    with Bench() as bench:
        bench.plugin(Tracer())
        bench.add(LATCH)
        bench.port_write(0x301, 1, 5)
        assert bench.port_read(0x301) == 5
        assert Tracer.seen == [("latch#0", "latch", 1)]


def test_plugin_file_registers_its_types(tmp_path: Any) -> None:
    path = tmp_path / "thing_of_a_file.py"
    path.write_text(
        "from vbox_pdm import Device, DeviceType, Ports, hookimpl\n"
        "contract = '1.0'\n"
        "class Thing(Device):\n"
        "    def pdm_construct(self): self.helpers.map_ports(0x10, Ports('p', 1, lambda o, s: 0x5A))\n"
        "@hookimpl\n"
        "def vbox_register_devices(register): register(DeviceType('filed', Thing))\n"
    )
    with Bench() as bench:
        bench.plugin(path)
        bench.add("filed")
        assert bench.port_read(0x10) == 0x5A


def test_plugin_module_registers_its_types() -> None:
    class Module:
        @hookimpl
        def vbox_register_devices(self, register: Any) -> None:
            register(LATCH)

    with Bench() as bench:
        bench.plugin(Module())
        assert bench.add("latch").instance == 0
