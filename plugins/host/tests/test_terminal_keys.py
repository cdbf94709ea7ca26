"""Standard input as a keyboard where it is a pipe; at a terminal see test_terminal_screen.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from vbox_pdm import ConfigError, Keyboard, PdmError
from vbox_pdm.testing import Bench, fake_above
from vbox_plugin_host import terminal_keys, us_layout


@pytest.fixture
def pipe() -> Iterator[int]:
    """The end of standard input that the test writes to."""
    read, write = os.pipe()
    before = os.dup(0)
    os.dup2(read, 0)
    os.close(read)
    yield write
    os.dup2(before, 0)
    os.close(before)


def make(bench: Bench, **config: Any) -> tuple[Any, Any]:
    bench.plugin(terminal_keys)
    above = fake_above(Keyboard)
    driver = bench.add_driver("terminal-keys", above=above, **config)
    bench.power_on()
    return driver, above


def test_pipe_is_typed_whole_and_its_end_is_not_the_vms(pipe: int) -> None:
    text = "Hello, world\n" * 300
    with Bench() as bench:
        _, above = make(bench)

        os.write(pipe, text.encode())
        os.close(pipe)
        assert bench.wait(lambda: len(above.named("key_event")) == len(us_layout.strokes(text)))

        assert above.named("key_event") == us_layout.strokes(text)
        assert bench.exit_code is None


def test_keyboard_that_takes_nothing_holds_back_a_pipe_and_loses_nothing(pipe: int) -> None:
    text = "abc" * 1000
    with Bench() as bench:
        driver, above = make(bench, queue_size=64)
        above.answers["key_event"] = False
        os.write(pipe, text.encode())
        assert bench.wait(lambda: driver.pending == 64)

        above.answers["key_event"] = True
        above.calls.clear()
        above.below.key_ready()
        assert bench.wait(lambda: len(above.named("key_event")) == 6000)

        assert above.named("key_event") == us_layout.strokes(text)
    os.close(pipe)


def test_front_end_types_as_into_a_keyboard_queue(pipe: int) -> None:
    with Bench() as bench:
        driver, above = make(bench)

        driver.type_text("aB")
        assert bench.wait(lambda: driver.pending == 0)

        assert above.named("key_event") == us_layout.strokes("aB")
    os.close(pipe)


def test_escape_that_is_no_control_character_is_refused(pipe: int) -> None:
    with Bench() as bench, pytest.raises((ConfigError, PdmError), match="VERR_OUT_OF_RANGE"):
        make(bench, escape="x")
    os.close(pipe)
