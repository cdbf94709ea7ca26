"""The script's filter, on the bench."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_vmm.frontends.script import Script, ScriptDriver, Step, script_driver, unescape


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (r"a\nb", b"a\nb"),
        (r"\r\t\e\a\b\0", b"\r\t\x1b\a\b\0"),
        (r"\\n", b"\\n"),
        (r"\x41\xff", b"A\xff"),
        (r"\u00e4", "ä".encode()),
        (r"\q C:\>", rb"\q C:\>"),
        ("end\\", b"end\\"),
        (r"\x4", rb"\x4"),
    ],
)
def test_unescape_resolves_what_it_knows(text: str, data: bytes) -> None:
    assert unescape(text) == data


@given(st.text(st.characters(exclude_characters="\\", exclude_categories=["Cs"])))
def test_unescape_without_backslash_is_the_text(text: str) -> None:
    assert unescape(text) == text.encode()


class Above:
    """A port that takes what there is room for."""

    def __init__(self) -> None:
        self.room = 0
        self.received = bytearray()
        self.answers: dict[bytes, bytes] = {}
        self.driver: Any = None

    def char_room(self) -> int:
        return self.room

    def char_received(self, data: bytes) -> None:
        assert len(data) <= self.room
        self.room -= len(data)
        self.received += data
        for question, answer in self.answers.items():
            if self.received.endswith(question):
                self.driver.char_send(answer)


class Below:
    """What hangs below: notes, and takes `room` characters a time."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.readies = 0
        self.takes = 1 << 30

    def char_send(self, data: bytes) -> int:
        taken = data[: self.takes]
        self.sent += taken
        return len(taken)

    def char_ready(self) -> None:
        self.readies += 1


class Timer:
    active = False

    def set_relative(self, delay: int) -> None:
        self.active = True


class Queue:
    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer

    def put(self, item: Any) -> bool:
        self.consumer(item)
        return True


class Helpers:
    """What the filter uses of its host."""

    def __init__(self) -> None:
        self.off: list[int] = []
        self.timers: list[tuple[Timer, Any]] = []

    def queue(self, name: str, consumer: Any, capacity: int) -> Queue:
        return Queue(consumer)

    def timer(self, name: str, clock: Any, callback: Any) -> Timer:
        self.timers.append((Timer(), callback))
        return self.timers[-1][0]

    def power_off_vm(self, code: int = 0) -> None:
        self.off.append(code)


class Keyboard:
    def __init__(self) -> None:
        self.typed = ""
        self.pending = 0

    def type_text(self, text: str) -> None:
        self.typed += text
        self.pending = len(text)


class Rig:
    def __init__(self, *steps: tuple[str, str], keyboard: Keyboard | None = None) -> None:
        self.script = Script([Step.parse(*step) for step in steps], lambda: keyboard)
        kind = script_driver(self.script)
        self.driver = kind.driver()
        assert isinstance(self.driver, ScriptDriver)
        self.above, self.below, self.helpers = Above(), Below(), Helpers()
        self.above.driver = self.driver
        self.driver.above, self.driver.below = self.above, self.below  # type: ignore[assignment]
        self.driver.helpers = self.helpers  # type: ignore[assignment]
        self.driver.pdm_construct()
        self.driver.pdm_power_on()

    def read(self, room: int) -> None:
        """The guest empties its receiver."""
        self.above.room = room
        self.driver.char_ready()


def test_expect_in_pieces_ends_the_run_once() -> None:
    rig = Rig(("expect", "login:"))

    for piece in (b"boot", b"ing\nlog", b"in", b": and more", b" login: "):
        rig.driver.char_send(piece)

    assert rig.helpers.off == [0]
    assert rig.script.unmet is None
    assert rig.below.sent == b"booting\nlogin: and more login: "


def test_expect_twice_needs_the_text_twice() -> None:
    rig = Rig(("expect", "aa"), ("expect", "aa"))

    rig.driver.char_send(b"aaa")
    assert rig.script.position == 1
    rig.driver.char_send(b"a")
    assert rig.script.position == 2


def test_expect_counts_what_was_sent_while_typing() -> None:
    rig = Rig(("expect", "$"), ("type", "ab"), ("expect", "done"))
    rig.driver.char_send(b"$")

    rig.driver.char_send(b"done")
    assert rig.helpers.off == []
    rig.read(16)

    assert rig.helpers.off == [0]


def test_expect_of_what_below_did_not_take_is_not_met() -> None:
    rig = Rig(("expect", "abc"))
    rig.below.takes = 2

    assert rig.driver.char_send(b"abc") == 2
    assert rig.script.unmet is not None
    assert rig.driver.char_send(b"c") == 1
    assert rig.script.unmet is None


@given(st.binary(min_size=1, max_size=3000), st.lists(st.integers(1, 16), min_size=1, max_size=20))
def test_typed_text_arrives_whole_and_in_order(data: bytes, rooms: list[int]) -> None:
    text = "".join(f"\\x{byte:02x}" for byte in data)
    rig = Rig(("type", text))

    for index in range(len(data)):
        rig.read(rooms[index % len(rooms)])

    assert rig.above.received == data
    assert rig.script.current is None
    assert rig.helpers.off == []


def test_typing_holds_back_what_comes_from_below() -> None:
    rig = Rig(("type", "abc"))
    rig.above.room = 2

    assert rig.driver.char_room() == 0
    rig.read(2)
    assert rig.below.readies == 0
    rig.read(2)

    assert rig.below.readies == 1
    assert rig.driver.char_room() == 1
    assert rig.above.received == b"abc"


def test_answer_while_typing_is_seen() -> None:
    rig = Rig(("type", "ask\\n"), ("expect", "answer"), ("type", "more"), ("expect", "end"))
    rig.above.answers = {b"ask\n": b"answer", b"more": b"end"}

    rig.read(100)

    assert rig.helpers.off == [0]
    assert rig.above.received == b"ask\nmore"


def test_keys_are_waited_for() -> None:
    keyboard = Keyboard()
    rig = Rig(("keys", "ab"), ("type", "c"), keyboard=keyboard)
    rig.read(4)
    assert (keyboard.typed, bytes(rig.above.received)) == ("ab", b"")

    keyboard.pending = 0
    timer, callback = rig.helpers.timers[0]
    assert timer.active
    callback()

    assert rig.above.received == b"c"


def test_keys_without_keyboard_are_an_error() -> None:
    rig = Rig(("keys", "ab"))

    assert rig.script.error is not None
    assert rig.script.error.status == "VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN"
    assert rig.helpers.off == [0]


def test_output_without_script_left_is_not_kept() -> None:
    rig = Rig(("expect", "x"), ("type", ""))

    for _ in range(100):
        rig.driver.char_send(b"x" * 1000)

    assert len(rig.driver._output) == 0


def test_description_names_step_and_last_output() -> None:
    rig = Rig(("expect", "$ "), ("expect", "login:"))
    rig.driver.char_send(b"$ panic\nhelp me\n")

    assert rig.script.describe() == "step 2 of 2 was waiting for 'login:'; the last output is 'help me'"
