"""Lines and wires, native and in Python: the same to whoever drives them, and to whoever hears."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_vmm.pdm.wires import PlainLine, PlainWire

native = pytest.importorskip("vbox_vmm.pdm._wires", reason="the native module is not built")

LINES = [PlainLine, native.Line]
WIRES = [PlainWire, native.Wire]
levels = st.sampled_from([True, False, 1, 0, "high", ""])
owners = st.integers(0, 2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), owners, levels),
        st.tuples(st.just("pulse"), owners),
        st.tuples(st.just("load"), owners, levels),
        st.tuples(st.just("break"), st.booleans()),
    ),
    max_size=40,
)


@given(steps)
def test_lines_native_and_plain_report_the_same(todo: list[tuple[Any, ...]]) -> None:
    def play(kind: Callable[..., Any]) -> list[object]:
        broken = False
        seen: list[object] = []

        def heard(*what: object) -> None:
            seen.append(what)
            if broken:
                raise ValueError(f"number {len(seen)}")

        line = kind(5, lambda where, error: seen.append((where, repr(error))))
        line.report = line.report_pulse = heard
        handles = [line.handle() for _ in range(3)]
        for name, number, *level in todo:
            if name == "break":
                broken = number
            else:
                getattr(handles[number], name)(*level)
            seen.append((line.holders, [handle.level for handle in handles]))
        return [*seen, line.number, handles[0].number]

    assert play(native.Line) == play(PlainLine)


@pytest.mark.parametrize("kind", LINES)
def test_line_is_high_while_any_owner_holds_it(kind: Callable[..., Any]) -> None:
    heard: list[tuple[int, bool]] = []
    line = kind(3, pytest.fail)
    line.report = lambda number, level: heard.append((number, level))
    one, two = line.handle(), line.handle()

    one.set(True)
    two.set(True)
    one.set(False)
    before = list(heard)
    two.set(False)

    assert before == [(3, True)]
    assert heard == [(3, True), (3, False)]


@pytest.mark.parametrize("kind", LINES)
def test_line_report_that_ends_the_program_is_not_swallowed(kind: Callable[..., Any]) -> None:
    line = kind(3, pytest.fail)

    def report(number: int, level: bool) -> None:
        raise KeyboardInterrupt

    line.report = report

    with pytest.raises(KeyboardInterrupt):
        line.handle().set(True)


@pytest.mark.parametrize("kind", WIRES)
def test_wire_tells_of_changes_only_and_lets_errors_out(kind: Callable[..., Any]) -> None:
    heard: list[bool] = []
    wire = kind(heard.append)

    for level in (False, True, 1, True, 0, False):
        wire.set(level)
    wire.level = True  # as loaded: nobody hears
    wire.set(True)
    wire.hears = [].index  # which raises for what is not there

    assert heard == [True, False]
    with pytest.raises(ValueError, match="not in list"):
        wire.set(False)
    assert wire.level is False


@pytest.mark.parametrize("kind", [*LINES, *WIRES])
def test_line_and_wire_in_a_circle_with_who_hears_them_are_freed(kind: Callable[..., Any]) -> None:
    class Controller:
        def hear(self, *what: object) -> None: ...

    controller = Controller()
    if kind in WIRES:
        controller.wire = kind(controller.hear)  # type: ignore[attr-defined]
    else:
        line = kind(1, controller.hear)
        line.report = line.report_pulse = controller.hear
        controller.handle = line.handle()  # type: ignore[attr-defined]
        del line
    gone = weakref.ref(controller)

    del controller
    gc.collect()

    assert gone() is None


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2, 3)])
def test_native_line_with_wrong_arguments_raises(arguments: tuple[int, ...]) -> None:
    with pytest.raises(TypeError):
        native.Line(*arguments)


def test_native_handle_with_a_level_that_has_no_truth_raises() -> None:
    class Neither:
        def __bool__(self) -> bool:
            raise ValueError("neither")

    handle, wire = native.Line(1, pytest.fail).handle(), native.Wire(pytest.fail)

    for drive in (handle.set, handle.load, wire.set):
        with pytest.raises(ValueError, match="neither"):
            drive(Neither())
