"""The mouse queue: order, buttons, motion that is added up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import Mouse, PdmError
from vbox_pdm.testing import Bench, fake_above
from vbox_plugin_host import mouse_queue


def make(bench: Bench, **config: int):  # type: ignore[no-untyped-def]
    bench.plugin(mouse_queue)
    above = fake_above(Mouse)
    driver = bench.add_driver("mouse-queue", above=above, **config)
    bench.power_on()
    return driver, above


def test_move_and_click_arrive_in_order() -> None:
    with Bench() as bench:
        driver, above = make(bench)

        driver.move(3, -4, 1)
        driver.click(1)
        bench.advance(0)

        assert above.named("mouse_event") == [(3, -4, 1, 0, 0), (0, 0, 0, 0, 1), (0, 0, 0, 0, 0)]


def test_waiting_motion_is_added_up_but_not_across_a_button() -> None:
    with Bench() as bench:
        driver, above = make(bench)
        above.answers["mouse_event"] = False
        for _ in range(3):
            driver.move(1, 2)
        driver.press(2)
        driver.move(5, 0)
        bench.advance(0)
        above.calls.clear()
        above.answers["mouse_event"] = True

        above.below.mouse_ready()

        assert above.named("mouse_event") == [(3, 6, 0, 0, 0), (5, 0, 0, 0, 2)]
        assert driver.pending == 0


def test_modes_are_told_to_the_front_end() -> None:
    with Bench() as bench:
        driver, above = make(bench)

        above.below.mouse_modes(False, True)

        assert (driver.relative, driver.absolute) == (False, True)


@pytest.mark.parametrize("button", [0, 32, -1])
def test_what_is_no_button_is_refused(button: int) -> None:
    with Bench() as bench:
        driver, _ = make(bench)

        with pytest.raises(PdmError, match="no mouse button"):
            driver.press(button)


def test_full_queue_says_so() -> None:
    with Bench() as bench:
        driver, above = make(bench, queue_size=4)
        above.answers["mouse_event"] = False
        for number in range(4):
            (driver.press if number % 2 else driver.release)(1)

        with pytest.raises(PdmError, match="VERR_PDM_NO_QUEUE_ITEMS"):
            driver.move(1, 1)


def test_click_without_room_for_both_halves_presses_nothing() -> None:
    with Bench() as bench:
        driver, above = make(bench, queue_size=4)
        above.answers["mouse_event"] = False
        for number in range(3):
            (driver.release if number % 2 else driver.press)(1)

        with pytest.raises(PdmError, match="VERR_PDM_NO_QUEUE_ITEMS"):
            driver.click(2)

        assert driver.pending == 3
        assert driver._buttons == 1


steps = st.lists(
    st.one_of(
        st.tuples(st.just("move"), st.integers(-300, 300), st.integers(-300, 300)),
        st.tuples(st.sampled_from(["press", "release"]), st.sampled_from([1, 2, 4, 8, 16])),
        st.tuples(st.just("take"), st.integers(1, 3)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=40)
@given(steps)
def test_the_whole_way_and_all_buttons_arrive(steps: list[tuple[str, *tuple[int, ...]]]) -> None:
    with Bench() as bench:
        driver, above = make(bench)
        room = 0
        seen: list[tuple[int, ...]] = []

        def take(*event: int) -> bool:
            nonlocal room
            if not room:
                return False
            room -= 1
            seen.append(event)
            return True

        above.answers["mouse_event"] = take
        way, buttons, changes = [0, 0], 0, [0]
        for step, *numbers in steps:
            if step == "take":
                room += numbers[0]
                above.below.mouse_ready()
                continue
            getattr(driver, step)(*numbers)
            bench.advance(0)
            if step == "move":
                way = [way[0] + numbers[0], way[1] + numbers[1]]
            else:
                buttons = buttons | numbers[0] if step == "press" else buttons & ~numbers[0]
                if changes[-1] != buttons:
                    changes.append(buttons)
        room = 1000
        above.below.mouse_ready()

        assert [sum(event[0] for event in seen), sum(event[1] for event in seen)] == way
        held = [0]
        for event in seen:
            if event[4] != held[-1]:
                held.append(event[4])
        assert held == changes
        assert driver.pending == 0
