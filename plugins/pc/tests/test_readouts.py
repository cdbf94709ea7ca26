"""What devices say ahead of their registers: nobody can tell that the host answers instead of them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm.readout import PlainReadout
from vbox_pdm.testing import Bench
from vbox_plugin_pc import pit, rtc

PIT_PORTS = (0x40, 0x41, 0x42, 0x43, 0x61)
# Few registers, so that the same one is read several times in a row: A, B, a byte of storage, the second.
RTC_VALUES = st.sampled_from([0x0A, 0x0B, 0x10, 0x00]) | st.integers(0, 255)


def steps(ports: tuple[int, ...], values: st.SearchStrategy[int], longest: int) -> st.SearchStrategy:
    """Accesses, the time between them, and what else may happen to a machine."""
    return st.lists(
        st.one_of(
            st.tuples(st.just("in"), st.sampled_from(ports), st.just(0)),
            st.tuples(st.just("in"), st.sampled_from(ports), st.just(0)),
            st.tuples(st.just("out"), st.sampled_from(ports), values),
            st.tuples(st.just("wait"), st.just(0), st.integers(0, 2000) | st.integers(0, longest)),
            st.tuples(st.sampled_from(["reset", "load"]), st.just(0), st.just(0)),
        ),
        max_size=40,
    )


def play(plugin: ModuleType, name: str, accesses: list[tuple[str, int, int]]) -> list[object]:
    seen: list[object] = []
    with Bench(ram=1 << 20, utc=10**18) as bench:
        bench.plugin(plugin)
        bench.add(name)
        bench.power_on()
        for kind, port, value in accesses:
            if kind == "in":
                seen.append((bench.now, hex(port), bench.port_read(port, 1)))
            elif kind == "out":
                bench.port_write(port, 1, value)
            elif kind == "wait":
                bench.advance(value)
            elif kind == "reset":
                bench.reset()
            else:
                saved = bench.save()
                seen.append(saved)
                bench.load(saved)
    return seen


def both(plugin: ModuleType, name: str, accesses: list[tuple[str, int, int]]) -> tuple[list, list]:
    """What is seen of a device whose registers the host answers for, and of one that is asked each time."""
    answered = play(plugin, name, accesses)
    with pytest.MonkeyPatch.context() as patch:
        nothing: Callable[..., None] = lambda self, *arguments: None  # noqa: E731
        patch.setattr(PlainReadout, "hold", nothing)
        return answered, play(plugin, name, accesses)


@given(steps(PIT_PORTS, st.integers(0, 255), 100_000_000))
@settings(max_examples=400, deadline=None)
def test_pit_whoever_answers_reads_the_same(accesses: list[tuple[str, int, int]]) -> None:
    answered, asked = both(pit, "i8254", accesses)

    assert answered == asked


@given(steps((0x70, 0x71, 0x71, 0x72, 0x73), RTC_VALUES, 1_200_000_000))
@settings(max_examples=400, deadline=None)
def test_rtc_whoever_answers_reads_the_same(accesses: list[tuple[str, int, int]]) -> None:
    answered, asked = both(rtc, "mc146818", accesses)

    assert answered == asked


@pytest.mark.parametrize(
    ("plugin", "name", "before", "port"),
    [
        (pit, "i8254", [(0x43, 0x34), (0x40, 0), (0x40, 0)], 0x40),
        (pit, "i8254", [], 0x61),
        (rtc, "mc146818", [(0x70, 0x0A)], 0x71),
        (rtc, "mc146818", [(0x70, 0x10)], 0x71),
    ],
)
def test_register_that_is_polled_asks_its_device_once(
    plugin: ModuleType, name: str, before: list[tuple[int, int]], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    device = plugin.Pit if plugin is pit else plugin.RealTimeClock
    reads = {pit: ("read", "read_control"), rtc: ("read",)}[plugin]
    for each in reads:
        own = getattr(device, each)

        def counted(self: object, offset: int, size: int, own: Callable[..., int] = own) -> int:
            asked.append(offset)
            return own(self, offset, size)

        monkeypatch.setattr(device, each, counted)
    with Bench(ram=1 << 20, utc=10**18) as bench:
        bench.plugin(plugin)
        bench.add(name)
        bench.power_on()
        for at, value in before:
            bench.port_write(at, 1, value)
        bench.advance(2000)

        for _ in range(10):
            bench.port_read(port, 1)

    assert len(asked) == 1
