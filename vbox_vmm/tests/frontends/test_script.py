"""The script's filter, on the bench."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import TextScreen
from vbox_vmm.frontends.script import (
    ScreenDriver,
    Script,
    ScriptDriver,
    Step,
    screen_driver,
    script_driver,
    unescape,
)


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


# --- the screen


def screen(*lines: str) -> TextScreen:
    text = "".join(line.ljust(20) for line in lines).ljust(100)
    cells = b"".join(bytes((ord(character), 7)) for character in text)
    return TextScreen(20, 5, cells, None, bytes(48), False)


class Device:
    """A graphics device: `show` changes what it shows, and says so as the contract has it."""

    def __init__(self) -> None:
        self.driver: Any = None
        self.shown: TextScreen | None = None
        self.looked = True
        self.looks = 0

    def show(self, *lines: str) -> None:
        self.shown = screen(*lines)
        if self.looked:
            self.looked = False
            self.driver.display_changed()

    def display_text(self) -> TextScreen | None:
        self.looked = True
        self.looks += 1
        return self.shown


class Shown:
    """What hangs below the filter."""

    def __init__(self) -> None:
        self.changes = 0

    def display_changed(self) -> None:
        self.changes += 1


class LookTimer(Timer):
    def __init__(self, callback: Any) -> None:
        self.callback = callback

    def fire(self) -> None:
        if self.active:
            self.active = False
            self.callback()


class ScreenHelpers(Helpers):
    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, LookTimer] = {}

    def timer(self, name: str, clock: Any, callback: Any) -> Any:
        self.by_name[name] = LookTimer(callback)
        return self.by_name[name]


class ScreenRig:
    """The filter of the screen, perhaps with that of the port besides."""

    def __init__(self, *steps: tuple[str, str], port: bool = False, keyboard: Keyboard | None = None) -> None:
        self.script = Script([Step.parse(*step) for step in steps], lambda: keyboard)
        self.helpers, self.device, self.below = ScreenHelpers(), Device(), Shown()
        self.driver: Any = screen_driver(self.script).driver()
        assert isinstance(self.driver, ScreenDriver)
        self.driver.above, self.driver.below = self.device, self.below  # type: ignore[assignment]
        self.device.driver = self.driver
        self.port: Any = script_driver(self.script).driver() if port else None
        if port:
            self.port.above, self.port.below = Above(), Below()
        for driver in (self.driver, self.port) if port else (self.driver,):
            driver.helpers = self.helpers
            driver.pdm_construct()
        for driver in (self.driver, self.port) if port else (self.driver,):
            driver.pdm_power_on()

    def look(self) -> None:
        self.helpers.by_name["look"].fire()


def test_screen_with_the_text_ends_the_run_once() -> None:
    rig = ScreenRig(("expect_screen", "boot:"))

    rig.device.show("starting")
    rig.look()
    assert rig.helpers.off == []
    rig.device.show("starting", "boot:")
    rig.look()
    rig.device.show("boot: boot:")
    rig.look()

    assert rig.helpers.off == [0]
    assert rig.script.unmet is None


def test_screen_is_looked_at_once_for_many_changes_and_not_without_any() -> None:
    rig = ScreenRig(("expect_screen", "never"))
    before = rig.device.looks

    for count in range(100):
        rig.device.show(f"line {count}")
    rig.look()
    rig.look()
    rig.look()

    assert rig.device.looks == before + 1
    assert rig.script.screen_text is not None
    assert rig.script.screen_text.startswith("line 99")


def test_screen_is_not_looked_at_while_the_script_waits_for_something_else() -> None:
    rig = ScreenRig(("expect", "x"), ("expect_screen", "text"), port=True)

    rig.device.show("text")
    rig.look()
    assert rig.device.looks == 0
    rig.port.char_send(b"x")

    assert rig.device.looks == 1
    assert rig.helpers.off == [0]


def test_change_is_passed_on_to_the_screen_below() -> None:
    rig = ScreenRig(("keys", ""), keyboard=Keyboard())

    rig.device.show("a")

    assert rig.below.changes == 1
    assert rig.driver.display_text() == screen("a")


def test_steps_of_screen_port_and_keyboard_keep_their_order() -> None:
    keyboard = Keyboard()
    rig = ScreenRig(
        ("expect_screen", "login:"), ("keys", "root"), ("expect", "ok"), ("expect_screen", "$"),
        port=True, keyboard=keyboard,
    )  # fmt: skip

    rig.port.char_send(b"ok too early")
    rig.device.show("login:")
    assert keyboard.typed == ""
    rig.look()
    assert keyboard.typed == "root"
    keyboard.pending = 0
    rig.helpers.by_name["keys"].fire()
    rig.port.char_send(b"")
    assert rig.script.current is not None
    assert rig.script.current.text == "$"  # what the port sent meanwhile counted
    rig.device.show("$")
    rig.look()

    assert rig.helpers.off == [0]


def test_text_over_several_rows_is_met() -> None:
    rig = ScreenRig(("expect_screen", r"one\ntwo"))

    rig.device.show("one", "two")
    rig.look()

    assert rig.script.unmet is None


def test_last_screen_of_a_guest_that_ends_counts() -> None:
    rig = ScreenRig(("expect_screen", "power"), ("expect_screen", "down"), ("expect_screen", "more"))

    rig.device.show("power down")
    rig.driver.pdm_power_off()

    assert rig.script.position == 2
    assert rig.script.unmet is not None


def test_description_names_the_last_line_of_the_screen() -> None:
    rig = ScreenRig(("expect_screen", "boot:"))
    assert rig.script.describe() == (
        "step 1 of 1 was waiting for 'boot:' on the screen; the screen shows no text"
    )

    rig.device.show("SeaBIOS", "No bootable device.")
    rig.look()

    assert rig.script.describe().endswith("; the screen ends with 'No bootable device.'")
