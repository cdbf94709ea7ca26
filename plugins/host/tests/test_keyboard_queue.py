"""The keyboard queue: typed text, order, a keyboard that is full."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import Keyboard, PdmError
from vbox_pdm.testing import Bench, fake_above
from vbox_plugin_host import keyboard_queue, us_layout

A, SHIFT, CONTROL, ENTER = 0x04, 0xE1, 0xE0, 0x28


def make(bench: Bench, **config: int):  # type: ignore[no-untyped-def]
    bench.plugin(keyboard_queue)
    above = fake_above(Keyboard)
    driver = bench.add_driver("keyboard-queue", above=above, **config)
    bench.power_on()
    return driver, above


def typed(above: object) -> list[tuple[int, bool]]:
    return above.named("key_event")  # type: ignore[attr-defined, no-any-return]


def test_type_text_presses_shift_around_capitals_only() -> None:
    with Bench() as bench:
        driver, above = make(bench)

        driver.type_text("aA\n")
        bench.wait(lambda: driver.pending == 0)

        assert typed(above) == [
            (A, True), (A, False),
            (SHIFT, True), (A, True), (A, False), (SHIFT, False),
            (ENTER, True), (ENTER, False),
        ]  # fmt: skip


def test_control_characters_are_control_and_a_letter() -> None:
    assert us_layout.strokes("\x03") == [(CONTROL, True), (6, True), (6, False), (CONTROL, False)]


def test_every_printable_character_has_a_key_of_its_own() -> None:
    keys = [us_layout.KEYS[chr(code)] for code in range(0x20, 0x7F)]

    assert len(set(keys)) == 95


def test_character_without_a_key_is_named_and_nothing_is_typed() -> None:
    with Bench() as bench:
        driver, above = make(bench)

        with pytest.raises(PdmError, match=r"'ä' .character 1"):
            driver.type_text("aä")
        bench.advance(0)

        assert typed(above) == []


def test_full_keyboard_gets_the_rest_after_key_ready() -> None:
    with Bench() as bench:
        driver, above = make(bench)
        room = [3]

        def take(usage: int, down: bool) -> bool:
            room[0] -= 1
            return room[0] >= 0

        above.answers["key_event"] = take
        driver.type_text("abcd")
        bench.advance(0)
        assert driver.pending == 5
        room[0] = 100
        above.below.key_ready()

        assert driver.pending == 0
        taken = typed(above)
        assert taken[:3] + taken[4:] == us_layout.strokes("abcd")  # the fourth was refused once


def test_queue_that_is_full_refuses_a_text_as_a_whole() -> None:
    with Bench() as bench:
        driver, above = make(bench, queue_size=4)
        above.answers["key_event"] = False
        driver.type_text("ab")

        with pytest.raises(PdmError) as caught:
            driver.press(A)

        assert caught.value.status == "VERR_PDM_NO_QUEUE_ITEMS"
        assert "queue_size" in caught.value.remedy
        assert driver.pending == 4


def test_tap_releases_in_reverse_order() -> None:
    with Bench() as bench:
        driver, above = make(bench)

        driver.tap(CONTROL, 0xE2, 0x4C)
        bench.advance(0)

        assert typed(above) == [
            (CONTROL, True), (0xE2, True), (0x4C, True), (0x4C, False), (0xE2, False), (CONTROL, False),
        ]  # fmt: skip


@pytest.mark.parametrize("usage", [0, 3, 0xE8, -1])
def test_press_of_what_is_no_key_is_refused(usage: int) -> None:
    with Bench() as bench:
        driver, _ = make(bench)

        with pytest.raises(PdmError, match="HID usage page 7"):
            driver.press(usage)


def test_lamps_are_told_to_the_front_end() -> None:
    with Bench() as bench:
        driver, above = make(bench)

        above.below.key_leds(True, False, True)

        assert (driver.leds.num, driver.leds.caps, driver.leds.scroll) == (True, False, True)


def test_other_threads_type_and_wait() -> None:
    with Bench() as bench:
        driver, above = make(bench)
        done: list[bool] = []

        def front_end() -> None:
            driver.type_text("x" * 100)
            done.append(driver.wait_until_typed(5))

        thread = threading.Thread(target=front_end)
        thread.start()
        assert bench.wait(lambda: done)
        thread.join()

        assert done == [True]
        assert typed(above) == us_layout.strokes("x" * 100)


@settings(deadline=None, max_examples=40)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30), st.data())
def test_any_text_arrives_whole_and_in_order_however_slow_the_keyboard(
    text: str, data: st.DataObject
) -> None:
    with Bench() as bench:
        driver, above = make(bench)
        taken: list[tuple[int, bool]] = []
        room = 0

        def take(usage: int, down: bool) -> bool:
            nonlocal room
            if not room:
                return False
            room -= 1
            taken.append((usage, down))
            return True

        above.answers["key_event"] = take
        driver.type_text(text)
        bench.advance(0)
        while driver.pending:
            room = data.draw(st.integers(1, 10))
            above.below.key_ready()

        assert taken == us_layout.strokes(text)
