"""The interval timer: the datasheet's cases by name, and every mode against a model that is clocked."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm.testing import Bench
from vbox_plugin_pc import pit
from vbox_plugin_pc.pit import FREQUENCY, clock_at, time_of
from vbox_plugin_pc.pit_counter import Counter

SECOND = 10**9


class Machine:
    """A bench with the timer, stepped in clocks."""

    def __init__(self) -> None:
        self.bench = Bench(ram=1 << 20)
        self.bench.plugin(pit)
        self.pit = self.bench.add("i8254")
        self.bench.power_on()

    def out(self, port: int, value: int) -> None:
        self.bench.port_write(port, 1, value)

    def read(self, port: int) -> int:
        return self.bench.port_read(port, 1)

    def program(self, counter: int, mode: int, count: int, bcd: int = 0) -> None:
        self.out(0x43, counter << 6 | 0x30 | mode << 1 | bcd)
        self.out(0x40 + counter, count & 0xFF)
        self.out(0x40 + counter, count >> 8)

    def count(self, counter: int) -> int:
        self.out(0x43, counter << 6)
        return self.read(0x40 + counter) | self.read(0x40 + counter) << 8

    def status(self, counter: int) -> int:
        self.out(0x43, 0xE0 | 2 << counter)
        return self.read(0x40 + counter)

    @property
    def clock(self) -> int:
        return clock_at(self.bench.now)

    def clocks(self, number: int) -> None:
        self.bench.advance(time_of(self.clock + number) - self.bench.now)

    def edges(self, level: bool = True) -> list[int]:
        """The clocks at which IRQ 0 went to `level`."""
        return [clock_at(edge.ns) for edge in self.bench.irq_edges if edge.level is level]


@pytest.fixture
def m() -> Machine:
    return Machine()


def test_pit_clock_arithmetic_is_exact() -> None:
    for clock in (0, 1, 2, 17, FREQUENCY, FREQUENCY * 86_400 * 365 + 1):
        assert clock_at(time_of(clock)) == clock
        assert clock == 0 or clock_at(time_of(clock) - 1) == clock - 1
    assert clock_at(SECOND) == FREQUENCY


def test_pit_mode_0_raises_out_n_plus_1_clocks_after_the_count(m: Machine) -> None:
    m.program(0, 0, 5)
    start = m.clock
    assert not m.bench.irq(0)
    m.clocks(5)
    assert not m.bench.irq(0)
    m.clocks(1)
    assert m.bench.irq(0)
    assert m.edges() == [start + 6]
    m.clocks(3)
    assert m.count(0) == 0xFFFD  # it goes on behind zero
    assert m.bench.run_until_idle()


def test_pit_mode_0_first_byte_stops_and_lowers_out(m: Machine) -> None:
    m.program(0, 0, 5)
    m.clocks(10)
    m.out(0x40, 3)
    assert not m.bench.irq(0)
    before = m.count(0)
    m.clocks(10)
    assert m.count(0) == before
    m.out(0x40, 0)
    m.clocks(4)
    assert m.bench.irq(0)


def test_pit_mode_2_ticks_every_n_clocks_and_stays_high(m: Machine) -> None:
    m.program(0, 2, 1193)
    start = m.clock
    m.bench.advance(SECOND)
    ticks = m.edges()[1:]  # the first is the control word, which raises OUT
    assert ticks == [start + 1 + 1193 * n for n in range(1, len(ticks) + 1)]
    assert len(ticks) == (FREQUENCY - 1) // 1193
    assert m.bench.irq(0)


def test_pit_mode_2_does_not_drift_in_ten_minutes(m: Machine) -> None:
    m.program(0, 2, 0)
    m.bench.advance(600 * SECOND)
    assert m.edges()[-1] == 1 + (FREQUENCY * 600 - 1) // 0x10000 * 0x10000


def test_pit_mode_2_new_count_waits_for_the_end_of_the_period(m: Machine) -> None:
    m.program(0, 2, 1000)
    m.clocks(500)
    m.out(0x40, 100)
    m.out(0x40, 0)
    assert m.status(0) & 0x40
    m.clocks(1000)
    assert m.edges()[1:] == [1001, 1101, 1201, 1301, 1401]
    assert not m.status(0) & 0x40


@pytest.mark.parametrize(("count", "high"), [(4, 2), (5, 3), (1000, 500), (1193, 597)])
def test_pit_mode_3_is_high_for_the_longer_half(m: Machine, count: int, high: int) -> None:
    m.program(0, 3, count)
    m.clocks(10 * count)
    assert m.edges(False)[:5] == [1 + high + count * n for n in range(5)]
    assert m.edges(True)[1:6] == [1 + count * n for n in range(1, 6)]


def test_pit_mode_3_counts_by_two(m: Machine) -> None:
    m.program(0, 3, 5)
    m.clocks(1)
    seen = []
    for _ in range(10):
        seen.append(m.count(0))
        m.clocks(1)
    assert seen == [4, 2, 0, 4, 2] * 2
    m.program(0, 3, 4)
    m.clocks(1)
    seen = []
    for _ in range(8):
        seen.append(m.count(0))
        m.clocks(1)
    assert seen == [4, 2] * 4


def test_pit_mode_4_strobes_once(m: Machine) -> None:
    m.program(0, 4, 100)
    m.clocks(1000)
    assert m.edges() == [0, 102]  # the control word; the end of the strobe of clock 101
    assert m.edges(False) == [102]
    assert m.bench.run_until_idle()


@pytest.mark.parametrize("mode", [1, 5])
def test_pit_counter_0_without_gate_edges_never_triggers(m: Machine, mode: int) -> None:
    m.program(0, mode, 10)
    m.clocks(1000)
    assert m.edges() == [0]
    assert m.bench.irq(0)


@pytest.mark.parametrize("count", [0, 1])
def test_pit_extreme_counts_in_mode_3_are_harmless(m: Machine, count: int) -> None:
    m.program(0, 3, count)
    m.clocks(0x10000)
    assert len(m.bench.irq_edges) < 4


def test_pit_latch_holds_the_count_until_it_is_read(m: Machine) -> None:
    m.program(2, 2, 0x1234)
    m.out(0x61, 1)
    m.clocks(2)
    m.out(0x43, 0x80)
    m.clocks(500)
    m.out(0x43, 0x80)  # ignored: something is latched
    assert (m.read(0x42), m.read(0x42)) == (0x33, 0x12)
    assert m.read(0x42) == (0x1234 - 501) & 0xFF


def test_pit_read_back_gives_status_before_the_count(m: Machine) -> None:
    m.program(0, 2, 100)
    m.clocks(11)
    m.out(0x43, 0xC2)
    assert m.read(0x40) == 0x80 | 0x34
    assert (m.read(0x40), m.read(0x40)) == (90, 0)


def test_pit_read_back_of_several_counters_latches_all(m: Machine) -> None:
    m.program(0, 2, 100)
    m.program(1, 3, 18)
    m.clocks(11)
    m.out(0x43, 0xEE)
    m.clocks(50)
    assert m.read(0x40) == 0xB4
    assert m.read(0x41) & 0x3F == 0x36
    assert m.read(0x42) & 0x40  # never loaded: null count


def test_pit_null_count_falls_when_the_count_is_loaded(m: Machine) -> None:
    m.out(0x43, 0x30)
    assert m.status(0) & 0x40
    m.out(0x40, 10)
    m.out(0x40, 0)
    assert m.status(0) & 0x40
    m.clocks(1)
    assert not m.status(0) & 0x40


def test_pit_bcd_counts_in_decimal(m: Machine) -> None:
    m.program(0, 0, 0, bcd=1)  # 10000
    m.clocks(2)
    assert m.count(0) == 0x9999
    m.clocks(9_999)
    assert m.bench.irq(0)
    m.clocks(1)
    assert m.count(0) == 0x9999


def test_pit_msb_only_and_lsb_only_set_the_other_byte_to_zero(m: Machine) -> None:
    m.out(0x43, 0x24)
    m.out(0x40, 0x12)
    m.clocks(1)
    assert m.read(0x40) == 0x12
    m.out(0x43, 0x14)
    m.out(0x40, 0x34)
    m.clocks(1)
    assert m.read(0x40) == 0x34
    m.clocks(0x33)
    assert m.read(0x40) == 1


def test_pit_port_61_gates_the_speaker_counter(m: Machine) -> None:
    m.program(2, 0, 100)
    m.clocks(10)
    assert m.count(2) == 100
    assert not m.read(0x61) & 0x20
    m.out(0x61, 0x01)
    m.clocks(50)
    assert m.count(2) == 50
    m.out(0x61, 0x02)
    m.clocks(50)
    assert m.count(2) == 50
    m.out(0x61, 0x03)
    m.clocks(50)
    assert m.read(0x61) & 0x2F == 0x23


def test_pit_refresh_toggles_every_15_microseconds(m: Machine) -> None:
    bits = []
    for _ in range(100):
        bits.append(m.read(0x61) >> 4 & 1)
        m.clocks(6)
    changes = [a != b for a, b in itertools.pairwise(bits)]
    assert changes == [n % 3 == 2 for n in range(99)]


def test_pit_refresh_toggle_is_0_after_a_reset_at_any_time(m: Machine) -> None:
    for _ in range(40):
        m.clocks(7)
        m.bench.reset()
        assert m.read(0x61) == 0


def test_pit_control_word_leaves_the_count_where_it_was_although_nobody_looked(m: Machine) -> None:
    m.program(2, 0, 0x1234)
    m.out(0x61, 1)
    m.clocks(11)
    m.out(0x43, 0xB0)
    assert m.count(2) == 0x1234 - 10


def test_pit_saved_state_does_not_tell_when_somebody_looked(m: Machine) -> None:
    other = Machine()
    for one in (m, other):
        one.program(0, 2, 1000)
        one.program(2, 3, 77)
    for _ in range(20):
        m.clocks(33)
        m.read(0x61)
    other.clocks(20 * 33)
    assert m.bench.save()["i8254#0"] == other.bench.save()["i8254#0"]


def test_pit_state_of_version_1_is_taken() -> None:
    assert pit.PitState.upgrade(1, {"control": 3}) == {"control": 3, "refresh_from": 0}


def test_pit_reset_stops_everything(m: Machine) -> None:
    m.program(0, 2, 100)
    m.out(0x61, 3)
    m.clocks(10)
    m.bench.reset()
    assert not m.bench.irq(0)
    assert m.bench.run_until_idle()
    assert m.read(0x61) & 0x2F == 0
    m.bench.reset()


def test_pit_unprogrammed_arms_no_timer(m: Machine) -> None:
    assert m.bench.run_until_idle()


# --- the clocked model: one counter, one clock at a time, straight from the mode definitions


class Clocked:
    def __init__(self, gate: bool) -> None:
        self.gate = gate
        self.ce = 0
        self.mode = self.bcd = 0
        self.out = False
        self.cr: int | None = None
        self.running = self.loading = self.stopped = self.armed = False
        self.null = True
        self.odd_half = False

    def control(self, mode: int, bcd: int) -> None:
        self.mode, self.bcd = mode, bcd
        self.cr = None
        self.running = self.loading = self.stopped = self.armed = False
        self.null = True
        self.out = mode != 0

    @property
    def limit(self) -> int:
        return 10_000 if self.bcd else 65_536

    def first_byte(self) -> None:
        if self.mode == 0:
            self.stopped, self.out = True, False

    def count(self, value: int) -> None:
        first = self.cr is None
        if self.bcd:
            value = sum((value >> 4 * n & 15) * 10**n for n in range(4)) % 10_000
        self.cr = value or self.limit
        self.null = True
        self.stopped = False
        if self.mode == 0:
            self.out = False
        if self.mode in (0, 4) or (first and self.mode in (2, 3)):
            self.loading = True

    def set_gate(self, level: bool) -> None:
        if level and not self.gate and self.mode in (1, 2, 3, 5) and self.cr is not None:
            self.loading = True
        if not level and self.mode in (2, 3):
            self.out = True
        self.gate = level

    def load(self) -> None:
        assert self.cr is not None
        self.ce = self.cr
        self.null = False
        if self.mode == 3:
            self.odd_half = self.cr % 2 == 1
            self.ce -= self.odd_half

    def clock(self) -> None:
        if self.mode in (4, 5):
            self.out = True
        if self.loading:
            self.loading, self.running, self.armed = False, True, True
            self.load()
            if self.mode in (1, 2, 3):
                self.out = self.mode != 1
            if self.mode == 3:
                self.long = True
            if self.mode == 2 and self.ce == 1:
                self.out = True
            return
        if not self.running or self.stopped or (not self.gate and self.mode in (0, 2, 3, 4)):
            return
        if self.mode == 2:
            if self.ce == 1:
                self.load()
                self.out = True
            else:
                self.ce -= 1
                self.out = self.ce != 1
        elif self.mode == 3:
            self.square()
        else:
            self.ce = (self.ce - 1) % self.limit
            if self.ce == 0 and self.armed:
                self.armed = False
                self.out = self.mode in (0, 1)

    def square(self) -> None:
        # A high half with an odd count lasts one clock longer: it ends behind 0, others behind 2.
        end = 0 if self.odd_half and self.long else 2
        if self.ce == end:
            self.long = not self.long
            self.out = self.long
            self.load()
        else:
            self.ce -= 2

    def value(self) -> int:
        value = self.ce % self.limit
        return int(str(value), 16) if self.bcd else value


COUNTS = st.one_of(
    st.integers(2, 12), st.integers(2, 40), st.sampled_from([0, 0x10, 0x99, 0x100, 0x1000, 0x9999])
)
COUNTER_STEPS = st.one_of(
    st.tuples(st.just("count"), COUNTS),
    st.tuples(st.just("first byte"), st.integers(0, 255)),
    st.tuples(st.just("gate"), st.booleans()),
    st.tuples(st.just("gate"), st.booleans()),
    st.tuples(st.just("control"), st.tuples(st.integers(0, 5), st.integers(0, 1))),
    st.tuples(st.just("clocks"), st.integers(1, 60)),
    st.tuples(st.just("clocks"), st.integers(1, 3)),
    st.tuples(st.just("clocks"), st.integers(1, 3)),
)


@given(st.integers(0, 5), st.integers(0, 1), st.booleans(), st.lists(COUNTER_STEPS, max_size=30), st.data())
@settings(max_examples=600, deadline=None)
def test_pit_any_history_of_a_counter_equals_the_clocked_model(mode, bcd, gate, steps, data) -> None:
    counter, plain = Counter(gate), Clocked(gate)
    now = 100

    def control(mode: int, bcd: int) -> None:
        counter.program(0x30 | mode << 1 | bcd, now)
        plain.control(mode, bcd)

    control(mode, bcd)
    halfway = False
    for kind, value in steps:
        if kind == "control":
            control(*value)
            halfway = False
        elif kind == "first byte" and not halfway:
            counter.write(value, now)
            plain.first_byte()
            halfway, low = True, value
        elif kind == "count":
            if not halfway:
                counter.write(value & 0xFF, now)
                plain.first_byte()
                low = value & 0xFF
            if low | value & 0xFF00 == 1:
                low = 2
                counter.low_byte = 2
            counter.write(value >> 8, now)
            plain.count(low | value & 0xFF00)
            halfway = False
        elif kind == "gate":
            counter.set_gate(value, now)
            plain.set_gate(value)
        elif kind == "clocks":
            for _ in range(value):
                plain.clock()
            now += value
        # Looking at every step or only at some must not matter.
        if data.draw(st.booleans()):
            assert counter.level(now) == plain.out
            assert counter.value(now) == plain.value() if plain.running else True
            assert counter.null == plain.null
        if data.draw(st.booleans()) and plain.running:
            first, second = counter.read(lambda now=now: now), counter.read(lambda now=now: now)
            assert first | second << 8 == plain.value()
    assert counter.level(now) == plain.out


@given(st.integers(0, 5), COUNTS, st.integers(0, 1), st.integers(1, 10_000))
@settings(max_examples=200, deadline=None)
def test_pit_long_stretches_equal_the_clocked_model(mode: int, count: int, bcd: int, clocks: int) -> None:
    counter, plain = Counter(False), Clocked(False)
    counter.program(0x30 | mode << 1 | bcd, 0)
    plain.control(mode, bcd)
    for byte in (count & 0xFF, count >> 8):
        counter.write(byte, 0)
    plain.count(count)
    counter.set_gate(True, 3)
    for _ in range(3):
        plain.clock()
    plain.set_gate(True)
    for _ in range(clocks):
        plain.clock()
    assert counter.level(clocks + 3) == plain.out
    assert counter.value(clocks + 3) == plain.value()


@given(st.sampled_from([0, 2, 3, 4]), st.integers(2, 40), st.integers(2, 40), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_pit_irq_0_rises_whenever_the_clocked_out_rises(mode: int, count: int, later: int, when: int) -> None:
    machine, plain = Machine(), Clocked(True)
    machine.program(0, mode, count)
    plain.control(mode, 0)
    plain.count(count)
    rises, last = ([0] if plain.out else []), plain.out
    for clock in range(1, 400):
        plain.clock()
        if plain.out and not last:
            rises.append(clock)
        last = plain.out
        if clock == when:
            machine.clocks(when)
            for byte in (later, 0):
                machine.out(0x40, byte)
            plain.first_byte()
            plain.count(later)
            last = plain.out
    machine.clocks(399 - machine.clock)
    assert machine.edges() == rises


ACCESSES = st.lists(
    st.one_of(
        st.tuples(st.just("out"), st.sampled_from([0x40, 0x41, 0x42, 0x43, 0x43, 0x61]), st.integers(0, 255)),
        st.tuples(st.just("in"), st.sampled_from([0x40, 0x41, 0x42, 0x43, 0x61]), st.none()),
        st.tuples(st.just("wait"), st.integers(0, 200_000), st.none()),
    ),
    max_size=25,
)


@given(ACCESSES, ACCESSES)
@settings(max_examples=150, deadline=None)
def test_pit_saved_at_any_moment_goes_on_identically(before: list, after: list) -> None:
    def play(machine: Machine, steps: list) -> list[object]:
        seen: list[object] = []
        for kind, a, b in steps:
            if kind == "out":
                machine.out(a, b)
            elif kind == "in":
                seen.append(machine.read(a))
            else:
                machine.bench.advance(a)
            seen.append((machine.bench.now, machine.bench.irq(0)))
        return seen

    first, second = Machine(), Machine()
    play(first, before)
    second.bench.load(first.bench.save())
    start = len(first.bench.irq_edges)
    assert play(first, after) == play(second, after)
    assert first.bench.irq_edges[start:] == second.bench.irq_edges


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x40, 0x41, 0x42, 0x43, 0x61]),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 0xFFFFFFFF),
        ),
        max_size=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_pit_nonsense_of_any_width_never_raises(accesses: list) -> None:
    machine = Machine()
    for port, size, value in accesses:
        machine.bench.port_write(port, size, value)
        machine.bench.advance(5_000)
        machine.bench.port_read(port, size)
