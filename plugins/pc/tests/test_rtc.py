"""The real-time clock: calendar arithmetic against datetime, and the chip's rules by name."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm.state import decode, encode
from vbox_pdm.testing import Bench
from vbox_plugin_pc import rtc
from vbox_plugin_pc.rtc_calendar import CENTURY, Format, date_of, days_of

SECOND = 10**9
EPOCH = datetime(1970, 1, 1)
A, B, C, D = 10, 11, 12, 13


class Machine:
    """A bench with the clock, started at a wall-clock time."""

    def __init__(self, start: datetime = datetime(2000, 1, 1), **config: object) -> None:
        utc = (start - EPOCH) // timedelta(microseconds=1) * 1000
        self.bench = Bench(ram=1 << 20, utc=utc)
        self.bench.plugin(rtc)
        self.rtc = self.bench.add("mc146818", **config)
        self.bench.power_on()

    def get(self, index: int) -> int:
        self.bench.port_write(0x70, 1, index)
        return self.bench.port_read(0x71, 1)

    def put(self, index: int, value: int) -> None:
        self.bench.port_write(0x70, 1, index)
        self.bench.port_write(0x71, 1, value)

    def advance(self, seconds: float) -> None:
        self.bench.advance(round(seconds * SECOND))

    @property
    def irq(self) -> bool:
        return self.bench.irq(8)

    def time(self) -> datetime:
        """What a guest reads in 24 hours."""
        raw = [self.get(i) for i in (CENTURY, 9, 8, 7, 4, 2, 0)]
        if not self.get(B) & 0x04:
            raw = [byte // 16 * 10 + byte % 16 for byte in raw]
        return datetime(raw[0] * 100 + raw[1], *raw[2:])

    def set_time(self, when: datetime) -> None:
        """What a guest does, in BCD."""
        self.put(B, self.get(B) | 0x80)
        for index, value in (
            (0, when.second), (2, when.minute), (4, when.hour), (6, when.isoweekday() % 7 + 1),
            (7, when.day), (8, when.month), (9, when.year % 100), (CENTURY, when.year // 100),
        ):  # fmt: skip
            self.put(index, int(str(value), 16))
        self.put(B, self.get(B) & 0x7F)


@pytest.fixture
def m() -> Machine:
    return Machine()


# --- the calendar

DATES = st.datetimes(datetime(1, 1, 1), datetime(9998, 12, 31)).map(lambda when: when.replace(microsecond=0))
FORMATS = st.builds(Format, st.booleans(), st.booleans())


def clock_bytes(form: Format, when: datetime) -> bytearray:
    cmos = bytearray(256)
    form.put_time(cmos, (when - EPOCH) // timedelta(seconds=1))
    return cmos


@given(DATES)
def test_rtc_dates_equal_datetime(when: datetime) -> None:
    days = (when - EPOCH).days
    assert days_of(when.year, when.month, when.day) == days
    assert date_of(days) == (when.year, when.month, when.day)


@given(FORMATS, DATES)
def test_rtc_bytes_are_encoded_as_the_data_sheet_says(form: Format, when: datetime) -> None:
    cmos = clock_bytes(form, when)
    wanted = [when.second, when.minute, when.day, when.month, when.year % 100, when.year // 100]
    found = [cmos[i] for i in (0, 2, 7, 8, 9, CENTURY)]
    assert found == (wanted if form.binary else [int(str(value), 16) for value in wanted])
    hour = when.hour if form.hours24 else int(when.strftime("%I"))
    hour = hour if form.binary else int(str(hour), 16)
    assert cmos[4] == hour + (0x80 if when.hour > 11 and not form.hours24 else 0)
    assert cmos[6] == when.isoweekday() % 7 + 1


@given(FORMATS, DATES, st.one_of(st.integers(0, 100), st.integers(0, 10**6), st.integers(-(10**6), 10**8)))
def test_rtc_counting_on_equals_datetime(form: Format, when: datetime, seconds: int) -> None:
    try:
        later = when + timedelta(seconds=seconds)
    except OverflowError:
        return
    cmos = clock_bytes(form, when)
    form.advance(cmos, seconds)
    assert cmos == clock_bytes(form, later)


@given(FORMATS, st.binary(min_size=256, max_size=256), st.integers(-(10**12), 10**12))
def test_rtc_nonsense_bytes_count_on_to_something(form: Format, raw: bytes, seconds: int) -> None:
    cmos = bytearray(raw)
    form.advance(cmos, seconds)
    form.advance(cmos, 86_400)
    wait = form.seconds_to_alarm(cmos)
    assert wait is None or 1 <= wait <= 86_400


def test_rtc_day_behind_the_end_of_its_month_goes_on_to_the_first() -> None:
    form = Format(False, True)
    cmos = clock_bytes(form, datetime(2023, 2, 28, 23, 59, 59))
    cmos[7] = 0x31
    form.advance(cmos, 1)
    assert (cmos[7], cmos[8]) == (0x01, 0x03)


ALARM_PART = st.one_of(st.none(), st.integers(0, 59), st.integers(0, 59))


@given(FORMATS, st.integers(0, 86_399), st.one_of(st.none(), st.integers(0, 23)), ALARM_PART, ALARM_PART)
@settings(max_examples=200, deadline=None)
def test_rtc_alarm_is_the_first_second_that_matches(form, start, hour, minute, second) -> None:
    cmos = clock_bytes(form, EPOCH + timedelta(seconds=start))
    cmos[5] = 0xC0 if hour is None else form.encode_hour(hour)
    cmos[3] = 0xFF if minute is None else form.encode(minute)
    cmos[1] = 0xD5 if second is None else form.encode(second)

    def matches(time: int) -> bool:
        return (
            (second is None or time % 60 == second)
            and (minute is None or time // 60 % 60 == minute)
            and (hour is None or time // 3600 % 24 == hour)
        )

    assert form.seconds_to_alarm(cmos) == next(n for n in range(1, 86_401) if matches(start + n))


@pytest.mark.parametrize("byte", [0x60, 0x75, 0x5A, 0xBF])
def test_rtc_impossible_alarm_never_comes(byte: int) -> None:
    cmos = clock_bytes(Format(False, True), EPOCH)
    cmos[3] = byte
    assert Format(False, True).seconds_to_alarm(cmos) is None


# --- the chip


def test_rtc_starts_at_the_wall_clock_and_follows_it() -> None:
    m = Machine(datetime(2023, 12, 31, 23, 59, 58))
    assert m.time() == datetime(2023, 12, 31, 23, 59, 58)
    m.advance(3)
    assert m.time() == datetime(2024, 1, 1, 0, 0, 1)
    assert m.get(6) == 2  # a Monday


def test_rtc_in_local_time_adds_the_offset() -> None:
    m = Machine(datetime(2024, 2, 29, 23), utc=False, utc_offset=7200)
    assert m.time() == datetime(2024, 3, 1, 1)


def test_rtc_power_on_values(m: Machine) -> None:
    assert (m.get(A) & 0x7F, m.get(B), m.get(D)) == (0x26, 0x02, 0x80)
    m.put(D, 0)
    assert m.get(D) == 0x80
    assert m.bench.port_read(0x70, 1) == 0xFF
    assert m.bench.run_until_idle()  # nobody looks, nothing runs


def test_rtc_keeps_what_the_guest_set(m: Machine) -> None:
    m.set_time(datetime(1999, 12, 31, 23, 59, 50))
    m.advance(15)
    assert m.time() == datetime(2000, 1, 1, 0, 0, 5)
    m.bench.reset()
    assert m.time() == datetime(2000, 1, 1, 0, 0, 5)


def test_rtc_set_freezes_the_bytes_and_keeps_the_phase(m: Machine) -> None:
    m.advance(0.5)
    m.put(B, 0x92)
    assert m.get(B) == 0x82  # SET takes UIE with it
    m.advance(10.2)
    assert m.get(0) == 0
    m.put(B, 0x02)
    m.advance(0.2)
    assert m.get(0) == 0
    m.advance(0.2)
    assert m.get(0) == 1


def test_rtc_uip_rises_244_microseconds_before_the_update(m: Machine) -> None:
    m.bench.advance(SECOND - 245_000)
    assert not m.get(A) & 0x80
    m.bench.advance(1_000)
    assert m.get(A) & 0x80
    assert m.get(0) == 0
    m.bench.advance(244_000)
    assert not m.get(A) & 0x80
    assert m.get(0) == 1


def test_rtc_divider_reset_delays_the_first_update_by_half_a_second(m: Machine) -> None:
    m.advance(0.9)
    m.put(A, 0x76)
    m.advance(5)
    assert m.get(0) == 0
    m.put(A, 0x26)
    m.bench.advance(SECOND // 2 - 1)
    assert m.get(0) == 0
    m.bench.advance(1)
    assert m.get(0) == 1
    m.advance(1)
    assert m.get(0) == 2


def test_rtc_12_hours_in_binary() -> None:
    m = Machine(datetime(2000, 1, 1))
    m.put(B, 0x84)
    for index, value in ((4, 0x80 | 11), (2, 59), (0, 59)):
        m.put(index, value)
    m.put(B, 0x04)
    m.advance(1)
    assert [m.get(i) for i in (4, 2, 0)] == [12, 0, 0]  # midnight is 12 AM
    assert m.get(7) == 2


@pytest.mark.parametrize(("select", "rate"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)])
def test_rtc_periodic_interrupt_has_the_chosen_rate(m: Machine, select: int, rate: int) -> None:
    m.put(A, 0x20 | select)
    m.put(B, 0x42)
    for _ in range(60):
        m.bench.advance(SECOND // rate + 1)
        assert m.irq
        assert m.get(C) & 0xC0 == 0xC0
        assert not m.irq
    m.bench.advance(SECOND // rate - 100)
    assert not m.irq


def test_rtc_periodic_interrupt_does_not_drift(m: Machine) -> None:
    m.put(A, 0x26)
    m.put(B, 0x42)
    for _ in range(3_000):
        m.bench.advance(700_000)
        m.get(C)
    rises = [edge.ns for edge in m.bench.irq_edges if edge.level]
    assert all(ns == -(-(ns * 1024 // SECOND) * SECOND // 1024) for ns in rises)
    assert len(rises) == len({ns * 1024 // SECOND for ns in rises}) > 1_500


def test_rtc_unread_interrupt_arms_no_more_timers(m: Machine) -> None:
    m.put(A, 0x23)
    m.put(B, 0x72)
    assert m.bench.run_until_idle()
    assert m.irq
    assert m.get(C) & 0xC0 == 0xC0


def test_rtc_update_ended_interrupt_comes_every_second(m: Machine) -> None:
    m.advance(0.25)
    m.put(B, 0x12)
    m.get(C)
    for second in (1, 2, 3):
        m.advance(0.74)
        assert not m.irq
        m.advance(0.26)
        assert m.irq
        assert m.get(0) == second
        assert m.get(C) & 0x90 == 0x90
        assert not m.irq


def test_rtc_flags_rise_without_their_interrupts_and_clear_on_read(m: Machine) -> None:
    m.get(C)
    m.advance(2.5)
    assert m.get(C) & 0xD0 == 0x50
    assert m.get(C) == 0
    assert not m.irq


def test_rtc_enabling_an_interrupt_whose_flag_is_set_raises_it_at_once(m: Machine) -> None:
    m.advance(1)
    m.put(B, 0x12)
    assert m.irq


def test_rtc_alarm_interrupts_at_its_time_with_one_timer(m: Machine) -> None:
    for index, value in ((1, 0x30), (3, 0x15), (5, 0x06)):
        m.put(index, value)
    m.put(B, 0x22)
    m.get(C)
    m.bench.advance((6 * 3600 + 15 * 60 + 30) * SECOND - 1)
    assert not m.irq
    m.bench.advance(1)
    assert m.irq
    assert m.get(C) & 0xA0 == 0xA0
    m.advance(86_399)
    assert not m.irq
    m.advance(1)
    assert m.irq


def test_rtc_alarm_with_dont_care_comes_every_minute(m: Machine) -> None:
    for index, value in ((1, 0x30), (3, 0xC0), (5, 0xFF)):
        m.put(index, value)
    m.put(B, 0x22)
    for _ in range(3):
        m.advance(60)
        assert m.irq
        m.get(C)
    rises = [edge.ns for edge in m.bench.irq_edges if edge.level]
    assert rises == [30 * SECOND, 90 * SECOND, 150 * SECOND]


def test_rtc_reset_clears_enables_and_flags_but_not_time_or_ram(m: Machine) -> None:
    m.put(B, 0x7E)
    m.put(A, 0x2A)
    m.put(0x40, 0xA5)
    m.advance(1.5)
    assert m.irq
    m.bench.reset()
    assert not m.irq
    assert m.get(C) & 0x30 == 0
    assert (m.get(B), m.get(A) & 0x7F, m.get(0x40)) == (0x06, 0x2A, 0xA5)


def test_rtc_second_bank_is_separate(m: Machine) -> None:
    m.put(0x20, 1)
    m.bench.port_write(0x72, 1, 0x20)
    m.bench.port_write(0x73, 1, 2)
    assert (m.get(0x20), m.bench.port_read(0x73, 1)) == (1, 2)
    assert (m.rtc.cmos_read(0x20), m.rtc.cmos_read(0xA0)) == (1, 2)
    m.rtc.cmos_write(0xFF, 3)
    m.bench.port_write(0x72, 1, 0x7F)
    assert m.bench.port_read(0x73, 1) == 3


def test_rtc_role_reads_c_without_clearing_it(m: Machine) -> None:
    m.advance(1)
    assert m.rtc.cmos_read(C) & 0x10
    assert m.get(C) & 0x10


def test_rtc_index_bit_7_masks_nmi(m: Machine) -> None:
    m.bench.port_write(0x70, 1, 0x80)
    m.rtc.helpers.nmi()
    assert m.bench.nmis == 0
    m.bench.port_write(0x70, 1, 0x00)
    m.rtc.helpers.nmi()
    assert m.bench.nmis == 1


def test_rtc_catches_up_after_a_pause_but_not_after_a_load() -> None:
    m = Machine()
    m.bench.suspend()
    m.bench.advance(100 * SECOND)  # only the wall clock runs
    m.bench.resume()
    assert m.time() == datetime(2000, 1, 1, 0, 1, 40)
    saved = m.bench.save()
    m.advance(50)
    m.bench.load(saved)
    assert m.time() == datetime(2000, 1, 1, 0, 1, 40)


def test_rtc_part_of_a_second_of_a_pause_is_not_lost_by_a_load() -> None:
    first, second = Machine(), Machine()
    for _ in range(2):
        first.bench.suspend()
        first.bench.advance(SECOND // 2)
        saved = first.bench.save()
        assert saved == first.bench.save()
        first.bench.resume()
        saved = first.bench.save()
        second.bench.load(saved)
        first, second = second, first
    assert first.time() == datetime(2000, 1, 1, 0, 0, 1)


def test_rtc_save_while_suspended_does_not_follow_the_wall_clock(m: Machine) -> None:
    m.bench.suspend()
    before = m.bench.save()["mc146818#0"]
    m.bench.advance(100 * SECOND)
    assert m.bench.save()["mc146818#0"] == before


def test_rtc_state_has_the_enables_apart_from_what_the_battery_keeps(m: Machine) -> None:
    m.put(B, 0x7A)
    saved = m.bench.save()
    state = decode(rtc.RtcState, saved["mc146818#0"])
    assert (state.enables, state.cmos[B]) == (0x78, 0x02)
    m.put(B, 0x02)
    m.bench.load(saved)
    assert m.get(B) == 0x7A


def test_rtc_state_of_version_1_is_taken(m: Machine) -> None:
    m.put(B, 0x7A)
    saved = m.bench.save()
    state = decode(rtc.RtcState, saved["mc146818#0"])
    old = {"cmos": bytes(m.rtc.cmos), "index": 0}
    new = rtc.RtcState.upgrade(1, {**old, "second": 1, "ticks": 2})
    assert new == {**old, "enables": 0, "behind": 0}
    m.bench.load({**saved, "mc146818#0": encode(evolve(state, cmos=new["cmos"], enables=0))})
    assert m.get(B) == 0x7A


def test_rtc_alarm_that_fell_into_a_pause_comes_at_resume(m: Machine) -> None:
    for index, value in ((1, 0x30), (3, 0x00), (5, 0x00)):
        m.put(index, value)
    m.put(B, 0x22)
    m.bench.suspend()
    m.bench.advance(100 * SECOND)
    m.bench.resume()
    assert m.irq


ACCESSES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 13), st.integers(0, 255)),
        st.tuples(
            st.just("put"),
            st.sampled_from([A, B]),
            st.sampled_from([0x26, 0x2F, 0x76, 0x02, 0x12, 0x42, 0x72]),
        ),
        st.tuples(st.just("put"), st.sampled_from([1, 3, 5]), st.sampled_from([0xC0, 0xFF, 0, 1, 5])),
        st.tuples(st.just("get"), st.integers(0, 13), st.none()),
        st.tuples(st.just("get"), st.just(C), st.none()),
        st.tuples(st.just("wait"), st.integers(0, 3 * SECOND), st.none()),
        st.tuples(st.just("wait"), st.integers(0, 2_000_000), st.none()),
    ),
    max_size=25,
)


def play(m: Machine, steps: list) -> list[object]:
    seen: list[object] = []
    for kind, a, b in steps:
        if kind == "put":
            m.put(a, b)
        elif kind == "get":
            seen.append(m.get(a))
        else:
            m.bench.advance(a)
        seen.append(m.irq)
    return seen


@given(ACCESSES, ACCESSES)
@settings(max_examples=100, deadline=None)
def test_rtc_saved_at_any_moment_goes_on_identically(before: list, after: list) -> None:
    first, second = Machine(), Machine()
    play(first, before)
    second.bench.load(first.bench.save())
    start = len(first.bench.irq_edges)
    assert play(first, after) == play(second, after)
    assert first.bench.irq_edges[start:] == second.bench.irq_edges


@given(ACCESSES, st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_rtc_looking_at_it_changes_nothing(steps: list, pieces: int) -> None:
    """Bytes and flags are computed when somebody looks: looking more often must not matter."""
    lazy, watched = Machine(), Machine()
    for kind, a, b in steps:
        if kind == "wait":
            lazy.bench.advance(a)
            for n in range(7):
                watched.bench.advance(a * (n + 1) // 7 - a * n // 7)
                watched.get(0)
                watched.rtc.cmos_read(C)
        else:
            assert play(lazy, [(kind, a, b)]) == play(watched, [(kind, a, b)])
        assert lazy.irq == watched.irq
    assert lazy.bench.irq_edges == watched.bench.irq_edges


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x70, 0x71, 0x72, 0x73]), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFFFFFF)
        ),
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_rtc_nonsense_of_any_width_never_raises(accesses: list) -> None:
    machine = Machine()
    for port, size, value in accesses:
        machine.bench.port_write(port, size, value)
        machine.bench.advance(value)
        machine.bench.port_read(port, size)
