"""A readout, native and in Python: the same answers, and their errors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import Clock, PdmError
from vbox_pdm.readout import FOREVER, Readout
from vbox_vmm.tm import TimeManager
from vbox_vmm.tm_line import PlainLine

native = pytest.importorskip("vbox_vmm._tm_line", reason="the native module is not built")

SECOND = 1_000_000_000
KINDS = [PlainLine, native.Line]
numbers = st.integers(-(1 << 70), 1 << 70)
offsets = st.sampled_from([0, 1, 63])
sizes = st.sampled_from([1, 2, 4, 8])


@st.composite
def holds(draw: st.DrawFn) -> tuple[Any, ...]:
    size = draw(sizes)
    parts = draw(st.integers(1, 8 // size))
    rest = (draw(numbers), parts, draw(st.integers(0, parts - 1)))
    until = draw(st.integers(0, 3000) | st.sampled_from([-1, FOREVER, 1 << 80]))
    return ("hold", draw(offsets), size, draw(numbers), until, *rest[: draw(st.integers(0, 3))])


steps = st.lists(
    st.one_of(
        holds(),
        st.tuples(st.just("read"), offsets | st.just(64) | st.just(1 << 70), sizes),
        st.tuples(st.just("drop"), offsets | st.just(64) | st.just(-1)),
        st.tuples(st.just("pass"), st.integers(0, 1000)),
    ),
    max_size=60,
)


@given(steps, st.sampled_from([SECOND, SECOND // 3, 7]), st.booleans())
def test_readouts_native_and_plain_answer_the_same(todo: list[tuple[Any, ...]], hz: int, sync: bool) -> None:
    def play(kind: Callable[..., Any]) -> list[object]:
        now = 0
        line = kind(lambda: now)
        line.set(0, 1000, 100, 1000, 500, 0, 0, 1 << 62)
        asked: list[tuple[int, int]] = []
        readout: Readout = line.readout(lambda offset, size: asked.append((offset, size)) or 77, sync, hz)
        seen: list[object] = []
        for name, *arguments in todo:
            if name == "pass":
                now += arguments[0]
            else:
                seen.append(getattr(readout, name)(*arguments))
        return [*seen, asked]

    assert play(native.Line) == play(PlainLine)


def standing(kind: Callable[..., Any], now: int, look: Callable[[int, int], int]) -> Readout:
    line = kind(lambda: 0)
    line.set(0, now, 0, 0, 0, 0, 0, 1 << 62)
    return line.readout(look, False, SECOND)


@pytest.mark.parametrize("kind", KINDS)
def test_readout_holds_a_line_in_parts_until_its_time(kind: Callable[..., Any]) -> None:
    now = 100
    line = kind(lambda: now)
    line.set(0, 0, 100, 0, 0, 0, 0, 1 << 62)
    readout = line.readout(lambda offset, size: 0xEE, False, SECOND)
    readout.hold(0, 1, 2 * 0x1234, 0x1234, -2, 2)

    left = 2 * (0x1234 - 100)
    assert [readout.read(0, 1) for _ in range(3)] == [left & 0xFF, left >> 8, left & 0xFF]
    assert readout.read(0, 2) == readout.read(1, 1) == 0xEE
    now = 0x1234
    assert readout.read(0, 1) == 0xEE
    assert (readout.drop(0), readout.drop(0)) == (1, -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "arguments",
    [
        *((-1, 1, 0, 9), (64, 1, 0, 9), (1 << 70, 1, 0, 9), (0, 0, 0, 9), (0, 3, 0, 9), (0, 16, 0, 9)),
        *((0, 1, 0, 9, 0, 0), (0, 1, 0, 9, 0, 9), (0, 4, 0, 9, 0, 3)),
        *((0, 1, 0, 9, 0, 2, 2), (0, 1, 0, 9, 0, 2, -1)),
    ],
)  # fmt: skip
def test_readout_hold_of_what_makes_no_sense_is_refused_and_changes_nothing(
    kind: Callable[..., Any], arguments: tuple[int, ...]
) -> None:
    readout = standing(kind, 5, lambda offset, size: 0xEE)
    readout.hold(0, 1, 0x55, 9)

    with pytest.raises(ValueError, match="a readout cannot hold"):
        readout.hold(*arguments)

    assert readout.read(0, 1) == 0x55


@pytest.mark.parametrize("kind", KINDS)
def test_readout_handler_that_raises_raises_from_the_reading(kind: Callable[..., Any]) -> None:
    def look(offset: int, size: int) -> int:
        raise RuntimeError(f"{offset} {size}")

    readout = standing(kind, 5, look)

    with pytest.raises(RuntimeError, match="3 4"):
        readout.read(3, 4)
    with pytest.raises(TypeError):
        readout.read(3)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", KINDS)
def test_readout_clock_that_raises_raises_from_the_reading_of_what_is_held(kind: Callable[..., Any]) -> None:
    def source() -> int:
        raise RuntimeError("no time")

    line = kind(source)
    line.set(0, 0, 100, 0, 0, 0, 0, 1 << 62)
    readout = line.readout(lambda offset, size: 0xEE, False, SECOND)
    readout.hold(0, 1, 0x55, 9)

    assert readout.read(1, 1) == 0xEE
    with pytest.raises(RuntimeError, match="no time"):
        readout.read(0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_readout_in_a_circle_with_its_device_is_collected(kind: Callable[..., Any]) -> None:
    class Device:
        def __init__(self) -> None:
            self.readout = standing(kind, 5, self.look)

        def look(self, offset: int, size: int) -> int:
            return 0

    gone = weakref.ref(Device())
    gc.collect()

    assert gone() is None


def test_time_managers_readout_goes_by_the_clock_that_is_named() -> None:
    host = 10
    tm = TimeManager(host_clock=lambda: host)
    tm.resume()
    readouts = {
        clock: tm.readout(lambda offset, size: -1, clock) for clock in Clock if clock is not Clock.TSC
    }
    for readout in readouts.values():
        readout.hold(0, 8, 0, 1000, 1)
    host = 510

    seen = {clock: readout.read(0, 8) for clock, readout in readouts.items()}

    assert seen == {Clock.VIRTUAL: 500, Clock.VIRTUAL_SYNC: 500, Clock.REAL: 510}
    with pytest.raises(PdmError, match="VERR_INVALID_PARAMETER"):
        tm.readout(lambda offset, size: 0, Clock.TSC)
