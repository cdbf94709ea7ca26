"""The line of the virtual clocks, native and in Python: the same numbers, and their errors."""

from __future__ import annotations

import gc
import sys
import time
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_vmm import tm_line
from vbox_vmm.tm_line import PlainLine

native = pytest.importorskip("vbox_vmm._tm_line", reason="the native module is not built")

SECOND = 1_000_000_000
times, spans = st.integers(0, 1 << 60), st.integers(0, 1 << 50)
warps = st.just(0) | st.just(100) | st.integers(2, 20_000)
rates = st.just(0) | st.integers(1, 2000)
limits = st.just(1 << 62) | times


@given(times, spans, spans, warps, times, times, rates, spans, limits, limits, st.integers(1, SECOND))
def test_lines_native_and_plain_give_the_same_times(
    anchor: int, passed: int, since: int, warp: int, v0: int, s0: int, rate: int, span: int, limit: int,
    later_limit: int, hz: int,
) -> None:  # fmt: skip
    def source() -> int:
        return anchor + passed

    ours, theirs = PlainLine(source), native.Line(source)
    for each in (ours, theirs):
        each.set(anchor, v0 + since, warp, v0, s0, rate, v0 + span, limit)

    assert theirs.virtual() == ours.virtual()
    assert theirs.unlimited(v0 + passed) == ours.unlimited(v0 + passed)
    assert theirs.sync() == ours.sync() <= limit
    for sync in (False, True):
        assert theirs.reader(sync, hz)() == ours.reader(sync, hz)()
        assert theirs.reader(sync, SECOND)() == ours.reader(sync, SECOND)()
    for each in (ours, theirs):
        each.hold(later_limit)
    assert theirs.sync() == ours.sync() <= later_limit


@given(
    times,
    spans,
    warps,
    times,
    times,
    rates,
    spans,
    limits,
    limits,
    limits,
    times,
    st.integers(1, 1 << 40),
)
def test_lines_native_and_plain_tell_the_same_moments_and_tsc(
    anchor: int, passed: int, warp: int, v0: int, s0: int, rate: int, span: int, limit: int, sync: int,
    virtual: int, offset: int, hz: int,
) -> None:  # fmt: skip
    def source() -> int:
        return anchor + passed

    ours, theirs = PlainLine(source), native.Line(source)
    for each in (ours, theirs):
        each.set(anchor, v0, warp, v0, s0, rate, v0 + span, limit)

    assert theirs.virtual_of(sync) == ours.virtual_of(sync)
    assert theirs.deadline(virtual) == ours.deadline(virtual)
    assert theirs.mapping(offset, hz) == ours.mapping(offset, hz)


@pytest.mark.parametrize("kind", [PlainLine, native.Line])
@given(warp=warps, rate=rates, span=spans, ahead=spans)
def test_line_moments_are_the_first_at_which_the_clock_has_come_so_far(
    kind: Callable[..., tm_line.Line], warp: int, rate: int, span: int, ahead: int
) -> None:
    now = 0
    line = kind(lambda: now)
    line.set(0, 1000, warp or 100, 1000, 500, rate, 1000 + span, 1 << 62)

    virtual = line.virtual_of(500 + ahead)
    now = line.deadline(virtual)

    first = min(virtual, 1000 + span) if rate else virtual  # or when it has caught up
    assert line.unlimited(virtual) >= 500 + ahead > line.unlimited(virtual - 1) or not ahead
    assert line.virtual() >= first
    now -= 1
    assert line.virtual() < first


@pytest.mark.parametrize("kind", [PlainLine, native.Line])
@given(warp=warps, rate=rates, span=spans, ahead=spans)
def test_line_deadline_comes_when_the_clock_is_at_its_limit(
    kind: Callable[..., tm_line.Line], warp: int, rate: int, span: int, ahead: int
) -> None:
    now = 0
    line = kind(lambda: now)
    line.set(0, 1000, warp or 100, 1000, 500, rate, 1000 + span, 500 + ahead)

    now = line.deadline(1 << 62)

    assert line.sync() == 500 + ahead or line.virtual() >= 1000 + span
    now -= 1
    assert line.sync() < 500 + ahead or not ahead


def test_native_line_without_a_source_follows_the_hosts_monotonic_clock() -> None:
    line = native.Line(None)
    line.set(0, 0, 100, 0, 0, 0, 0, 1 << 62)

    before = time.monotonic_ns()
    seen = line.virtual()

    assert before <= seen <= time.monotonic_ns()


@pytest.mark.parametrize("kind", [PlainLine, native.Line])
def test_line_source_that_raises_raises_from_each_reading(kind: Callable[..., tm_line.Line]) -> None:
    def source() -> int:
        raise RuntimeError("no time")

    line = kind(source)
    line.set(0, 0, 100, 0, 0, 0, 0, 1 << 62)

    for read in (line.virtual, line.sync, line.reader(True, SECOND), line.reader(False, 7)):
        with pytest.raises(RuntimeError, match="no time"):
            read()


@pytest.mark.parametrize("kind", [PlainLine, native.Line])
def test_line_that_stands_does_not_ask_its_source(kind: Callable[..., tm_line.Line]) -> None:
    asked: list[int] = []
    line = kind(lambda: asked.append(1) or 5)
    line.set(0, 42, 0, 0, 0, 0, 0, 1 << 62)

    assert (line.virtual(), line.sync(), asked) == (42, 42, [])


@pytest.mark.parametrize("numbers", [(), (0,) * 7, (0,) * 9])
def test_native_line_set_wrong_number_of_numbers_is_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match="8 numbers"):
        native.Line(None).set(*numbers)


def test_native_line_number_beyond_64_bits_is_refused_and_nothing_changes() -> None:
    line = native.Line(None)
    line.set(0, 42, 0, 0, 0, 0, 0, 1 << 62)

    with pytest.raises(OverflowError):
        line.set(0, 43, 0, 0, 0, 0, 0, 1 << 63)
    with pytest.raises(OverflowError):
        line.hold(1 << 63)

    assert line.sync() == 42


def test_native_line_in_a_circle_with_its_source_is_collected() -> None:
    class Source:
        def __call__(self) -> int:
            return 0

    source = Source()
    source.line = native.Line(source)  # type: ignore[attr-defined]
    source.read = source.line.reader(True, 7)  # type: ignore[attr-defined]
    gone = weakref.ref(source)
    del source
    gc.collect()

    assert gone() is None


def test_make_line_native_module_missing_gives_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vbox_vmm._tm_line", None)

    assert isinstance(tm_line.make_line(time.monotonic_ns), PlainLine)
