"""The keyboard controller with its keyboard and mouse."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import StateError
from vbox_pdm import state as states
from vbox_pdm.helpers import ResetSource
from vbox_pdm.testing import Bench, FakeKeyboard, FakeMouse
from vbox_plugin_pc import kbc, ps2_keyboard, ps2_mouse
from vbox_plugin_pc.ps2_keyboard import PAUSE, PRINT_SCREEN, SET2, SET3, TRANSLATION, translate

ACK = 0xFA
FULL, SYSTEM, LAST_WAS_COMMAND, AUX = 1, 4, 8, 0x20
CTRL, SHIFT, ALT, RIGHT_SHIFT, UP, A, NUM_LOCK = 0xE0, 0xE1, 0xE2, 0xE5, 0x52, 0x04, 0x53
PLAIN_KEYS = sorted(set(SET2) - {0x90, 0x91} - ps2_keyboard.GREY_KEYS)


class Pc:
    """A keyboard controller on a bench, as a guest's drivers see it."""

    def __init__(self, **config: Any) -> None:
        self.keys, self.mouse = FakeKeyboard(), FakeMouse()
        self.bench = Bench()
        self.bench.plugin(kbc)
        self.device = self.bench.add("pckbd", lun0=self.keys, lun1=self.mouse, **config)

    @property
    def status(self) -> int:
        return self.bench.port_read(0x64)

    def command(self, command: int, *arguments: int) -> None:
        self.bench.port_write(0x64, 1, command)
        for argument in arguments:
            self.data(argument)

    def data(self, value: int) -> None:
        self.bench.port_write(0x60, 1, value)

    def answer(self) -> int:
        """A byte, which must be there now."""
        assert self.status & FULL
        return self.bench.port_read(0x60)

    def read(self) -> list[int]:
        """All that comes, from either device, until the wire is idle."""
        got = []
        for _ in range(100_000):
            if self.status & FULL:
                got.append(self.bench.port_read(0x60))
            elif self.device.wire_timer.active:
                self.bench.advance(kbc.BYTE_TIME)
            else:
                return got
        raise AssertionError("the wire never becomes idle")

    def keyboard(self, *values: int) -> list[int]:
        """Bytes to the keyboard, and what comes back."""
        got = []
        for value in values:
            self.data(value)
            got += self.read()
        return got

    def to_mouse(self, *values: int) -> list[int]:
        """Bytes to the mouse, and what comes back."""
        got = []
        for value in values:
            self.command(0xD4, value)
            got += self.read()
        return got

    def raw(self) -> None:
        """No translation, interrupts on."""
        self.command(0x60, 0x07)


# --- the controller


def test_kbc_self_test_answers_55_and_sets_system_flag() -> None:
    pc = Pc()
    assert not pc.status & SYSTEM
    pc.command(0xAA)
    assert pc.answer() == 0x55
    assert pc.status & SYSTEM
    pc.command(0x20)
    assert pc.answer() & 4


@pytest.mark.parametrize(
    ("command", "expected"), [(0xA4, 0xF1), (0xA9, 0), (0xAB, 0), (0xC0, 0xB0), (0xE0, 3), (0xA1, 0x48)]
)
def test_kbc_query_commands_answer(command: int, expected: int) -> None:
    pc = Pc()
    pc.command(command)
    assert pc.answer() == expected


@settings(deadline=None)
@given(st.integers(0, 255))
def test_kbc_command_byte_reads_back_without_bit_7(value: int) -> None:
    pc = Pc()
    pc.command(0x60, value)
    pc.command(0x20)
    assert pc.answer() == value & 0x7F
    assert bool(pc.status & SYSTEM) == bool(value & 4)


@settings(deadline=None)
@given(st.integers(1, 31), st.integers(0, 255))
def test_kbc_ram_keeps_bytes(index: int, value: int) -> None:
    pc = Pc()
    pc.command(0x60 + index, value)
    pc.command(0x20 + index)
    assert pc.answer() == value


def test_kbc_interface_commands_change_the_command_byte() -> None:
    pc = Pc()
    for command, bit, level in ((0xA7, 0x20, 1), (0xA8, 0x20, 0), (0xAD, 0x10, 1), (0xAE, 0x10, 0)):
        pc.command(command)
        pc.command(0x20)
        assert bool(pc.answer() & bit) == bool(level)


def test_kbc_status_tells_command_from_data() -> None:
    pc = Pc()
    pc.command(0xD1)
    assert pc.status & LAST_WAS_COMMAND
    pc.data(0xDF)
    assert not pc.status & LAST_WAS_COMMAND


def test_kbc_a20_follows_output_port_and_its_commands() -> None:
    pc = Pc()
    for command, arguments, expected in (
        (0xDD, (), False), (0xDF, (), True), (0xD1, (0xDD,), False), (0xD1, (0xDF,), True),
    ):  # fmt: skip
        pc.command(command, *arguments)
        assert pc.bench.a20 is expected
        pc.command(0xD0)
        assert bool(pc.answer() & 2) is expected
    assert pc.bench.resets == []


@pytest.mark.parametrize("command", range(0xF0, 0x100))
def test_kbc_pulse_resets_when_bit_0_is_low(command: int) -> None:
    pc = Pc()
    pc.command(command)
    expected = [] if command & 1 else [(ResetSource.KEYBOARD, False)]
    assert pc.bench.resets == expected


def test_kbc_output_port_bit_0_low_resets() -> None:
    pc = Pc()
    pc.command(0xD1, 0xDE)
    assert pc.bench.resets == [(ResetSource.KEYBOARD, False)]


def test_kbc_loops_bytes_as_if_from_either_device() -> None:
    pc = Pc()
    pc.command(0xD2, 0x5A)
    assert pc.status & (FULL | AUX) == FULL
    assert pc.bench.irq(1)
    assert pc.answer() == 0x5A
    pc.command(0xD3, 0xA5)
    assert pc.status & (FULL | AUX) == FULL | AUX
    assert pc.bench.irq(12)
    assert pc.answer() == 0xA5
    assert not pc.bench.irq(1)
    assert not pc.bench.irq(12)


def test_kbc_interrupt_is_a_level_of_full_and_enabled() -> None:
    pc = Pc()
    pc.command(0x60, 0)
    pc.keys.press(A)
    assert not pc.bench.irq(1)
    pc.command(0x60, 1)
    assert pc.bench.irq(1)
    pc.command(0x60, 0)
    assert not pc.bench.irq(1)
    pc.command(0x60, 1)
    pc.answer()
    assert not pc.bench.irq(1)


def test_kbc_byte_can_be_read_twice_before_the_next_comes() -> None:
    pc = Pc()
    pc.keys.press(A)
    pc.keys.press(0x05)
    assert [pc.bench.port_read(0x60) for _ in range(2)] == [0x1C, 0x1C]
    assert not pc.status & FULL
    pc.bench.advance(kbc.BYTE_TIME)
    assert pc.answer() == 0x32


def test_kbc_without_throttle_bytes_follow_at_once() -> None:
    pc = Pc(throttle=False)
    pc.keys.press(A)
    pc.keys.press(0x05)
    assert [pc.answer(), pc.answer()] == [0x1C, 0x32]


def test_kbc_unread_byte_is_not_overwritten() -> None:
    pc = Pc()
    pc.keys.press(A)
    pc.keys.press(0x05)
    pc.command(0xD4, 0xF2)
    pc.command(0x20)
    assert pc.answer() == 0x1C
    assert pc.answer() == 3  # what the controller says goes before the devices
    assert pc.read() == [0x32, ACK, 0]


def test_kbc_disabled_keyboard_keeps_its_codes() -> None:
    pc = Pc()
    pc.command(0xAD)
    pc.keys.press(A)
    assert pc.read() == []
    pc.command(0xAE)
    assert pc.read() == [0x1C]


def test_kbc_writing_to_a_device_enables_its_interface() -> None:
    pc = Pc()
    pc.command(0x60, 0x30)
    assert pc.keyboard(0xF4) == [ACK]
    assert pc.to_mouse(0xF4) == [ACK]
    pc.command(0x20)
    assert pc.answer() == 0


def test_kbc_password_is_swallowed() -> None:
    pc = Pc()
    pc.command(0xA5, 0x1C, 0x32, 0)
    assert pc.read() == []
    assert pc.keyboard(0xEE) == [0xEE]


def test_kbc_input_port_polls_into_the_status() -> None:
    pc = Pc()
    pc.command(0xC2)
    assert pc.status & 0xF0 == 0xB0
    pc.command(0xC1)
    assert pc.status & 0xF0 == 0
    pc.command(0x00)
    assert pc.status & 0xF0 == 0x10


def test_kbc_reset_returns_to_power_on() -> None:
    pc = Pc()
    before = pc.bench.save()["pckbd#0"]
    pc.command(0x60, 0x77)
    pc.keyboard(0xF0, 1, 0xED, 7)
    pc.to_mouse(0xF4, 0xE8, 1)
    pc.keys.press(A)
    pc.mouse.move(3, 4, buttons=1)
    pc.bench.reset()
    once = pc.bench.save()["pckbd#0"]
    pc.bench.reset()
    assert once == pc.bench.save()["pckbd#0"] == before
    assert not pc.bench.irq(1)
    assert pc.keys.leds == (False, False, False)


def test_kbc_reset_gives_refused_sources_room_again() -> None:
    pc = Pc()
    pc.command(0xAD)
    for usage in range(A, A + 10):
        pc.keys.press(usage)
    pc.to_mouse(0xF4)
    pc.command(0xA7)
    for number in range(70):
        pc.mouse.move(buttons=number & 1)
    assert pc.keys.pending
    assert pc.mouse.pending
    pc.bench.reset()
    assert not pc.keys.pending
    assert not pc.mouse.pending


def test_kbc_status_shows_no_more_than_its_bits() -> None:
    register = kbc.CommandRegisters.STATUS
    seen = 0
    for command in (0x00, 0xC0, 0xC1, 0xC2, 0xAA, 0xA9):
        pc = Pc()
        pc.to_mouse(0xF4)
        pc.command(command)
        seen |= pc.status ^ register.reset
        pc.mouse.move(1)
        pc.data(0xEE)
        seen |= pc.status ^ register.reset
    assert seen == register.bits


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("", {"ram": bytes(31)}),
        ("keyboard", {"scan_set": 4}),
        ("keyboard", {"types": b""}),
        ("keyboard", {"codes": bytes(18)}),
        ("keyboard", {"held": (0xFF,)}),
        ("keyboard", {"releases": (0,)}),
        ("keyboard", {"repeating": 0x46 << 8}),
        ("mouse", {"rate": 0}),
        ("mouse", {"events": (1, 2, 3)}),
    ],
)
def test_kbc_impossible_state_is_refused(part: str, wrong: dict[str, Any]) -> None:
    pc = Pc()
    saved = pc.bench.save()
    state = states.decode(kbc.KbcState, saved["pckbd#0"])
    changed = evolve(state, **({part: evolve(getattr(state, part), **wrong)} if part else wrong))
    with pytest.raises(StateError, match="pckbd"):
        pc.bench.load({**saved, "pckbd#0": states.encode(changed)})


# --- the keyboard


def test_keyboard_whose_source_goes_releases_its_keys() -> None:
    pc = Pc()
    pc.raw()
    pc.keys.press(A)
    assert pc.read() == [0x1C]
    pc.bench.detach(pc.device, 0)
    assert pc.read() == [0xF0, 0x1C]
    pc.bench.advance(10**9)
    assert pc.read() == []


def test_keyboard_tells_a_new_source_the_lamps() -> None:
    pc = Pc()
    pc.keyboard(0xED, 2)
    pc.bench.detach(pc.device, 0)
    pc.bench.attach(pc.device, 0, late := FakeKeyboard())
    assert late.leds == (True, False, False)


def test_keyboard_translation_table_is_a_bijection_of_make_codes() -> None:
    assert sorted(TRANSLATION[:0x80]) == [*range(1, 0x80), 0xFF]
    assert (TRANSLATION[0x83], TRANSLATION[0x84]) == (0x41, 0x54)
    assert all(TRANSLATION[code] == code for code in range(0x85, 0x100))


@pytest.mark.parametrize(
    ("usage", "set1", "set2", "set3"),
    [
        (0x04, "1E 9E", "1C F0 1C", "1C"),
        (0x28, "1C 9C", "5A F0 5A", "5A"),
        (0x29, "01 81", "76 F0 76", "08"),
        (0x3A, "3B BB", "05 F0 05", "07"),
        (0x40, "41 C1", "83 F0 83", "37"),
        (0x45, "58 D8", "07 F0 07", "5E"),
        (0x46, "E0 2A E0 37 E0 B7 E0 AA", "E0 12 E0 7C E0 F0 7C E0 F0 12", "57"),
        (0x48, "E1 1D 45 E1 9D C5", "E1 14 77 E1 F0 14 F0 77", "62"),
        (0x52, "E0 48 E0 C8", "E0 75 E0 F0 75", "63"),
        (0x54, "E0 35 E0 B5", "E0 4A E0 F0 4A", "77"),
        (0x58, "E0 1C E0 9C", "E0 5A E0 F0 5A", "79"),
        (0x64, "56 D6", "61 F0 61", "13"),
        (0x65, "E0 5D E0 DD", "E0 2F E0 F0 2F", "8D"),
        (0x87, "73 F3", "51 F0 51", "51"),
        (0x90, "F2", "F2", ""),
        (0xE1, "2A AA", "12 F0 12", "12 F0 12"),
        (0xE4, "E0 1D E0 9D", "E0 14 E0 F0 14", "58"),
        (0xE6, "E0 38 E0 B8", "E0 11 E0 F0 11", "39"),
        (0x80, "E0 30 E0 B0", "E0 32 E0 F0 32", ""),
    ],
)
def test_keyboard_codes_of_well_known_keys(usage: int, set1: str, set2: str, set3: str) -> None:
    for number, expected in ((1, set1), (2, set2), (3, set3)):
        pc = Pc()
        pc.raw()
        pc.keyboard(0xF0, number)
        pc.keys.press(usage)
        pc.keys.release(usage)
        assert bytes(pc.read()) == bytes.fromhex(expected)


SET1_MAKE = {
    0x04: "1E 30 2E 20 12 21 22 23 17 24 25 26 32 31 18 19 10 13 1F 14 16 2F 11 2D 15 2C",  # A..Z
    0x1E: "02 03 04 05 06 07 08 09 0A 0B 1C 01 0E 0F 39 0C 0D 1A 1B 2B 2B 27 28 29 33 34 35 3A",
    0x3A: "3B 3C 3D 3E 3F 40 41 42 43 44 57 58",  # F1..F12
    0x47: "46",
    0x49: "E052 E047 E049 E053 E04F E051 E04D E04B E050 E048 45 E035 37 4A 4E E01C",
    0x59: "4F 50 51 4B 4C 4D 47 48 49 52 53 56 E05D",
    0x67: "59 64 65 66 67 68 69 6A 6B 6C 6D 6E 76",  # keypad =, F13..F24
    0x7F: "E020 E030 E02E",
    0x87: "73 70 7D 79 7B 5C",
    0xE0: "1D 2A 38 E05B E01D 36 E038 E05C",
}
"""The make codes of set 1, known from the first PC on."""


@pytest.mark.parametrize(
    ("usage", "code"),
    [(first + at, code) for first, row in SET1_MAKE.items() for at, code in enumerate(row.split())],
)
def test_keyboard_set_1_make_codes_are_the_pc_s(usage: int, code: str) -> None:
    pc = Pc()
    pc.command(0x60, 0x47)
    pc.keys.press(usage)
    assert bytes(pc.read()) == bytes.fromhex(code)


@pytest.mark.parametrize("usage", [*sorted(SET2), PRINT_SCREEN, PAUSE])
def test_keyboard_set_1_is_what_the_controller_makes_of_set_2(usage: int) -> None:
    streams = []
    for mode, number in ((0x47, 2), (0x07, 1)):
        pc = Pc()
        pc.command(0x60, mode)
        if number == 1:
            pc.keyboard(0xF0, 1)
        pc.keys.press(usage)
        pc.keys.release(usage)
        streams.append(pc.read())
    assert streams[0] == streams[1] != []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_keyboard_keys_of_a_set_have_distinct_codes(number: int) -> None:
    named: dict[tuple[int, ...], set[int]] = {}
    for usage in [*SET2, PRINT_SCREEN, PAUSE]:
        pc = Pc()
        pc.raw()
        pc.keyboard(0xF0, number)
        pc.keys.press(usage)
        named.setdefault(tuple(pc.read()), set()).add(usage)
    named.pop((), None)
    # Two usages that name the same place of different keyboards.
    twins = [] if number == 3 else [{0x31, 0x32}, {0x73, 0x94}]
    assert [usages for usages in named.values() if len(usages) > 1] == twins


def test_keyboard_has_every_key_of_a_pc() -> None:
    wanted = {*range(0x04, 0x66), *range(0x68, 0x74), *range(0xE0, 0xE8), *range(0x87, 0x8C)}
    assert wanted <= {*SET2, PRINT_SCREEN, PAUSE}
    assert {*range(0x04, 0x64), *range(0xE0, 0xE8)} <= set(SET3)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ((CTRL,), "E0 7C E0 F0 7C"),
        ((SHIFT,), "E0 7C E0 F0 7C"),
        ((ALT,), "84 F0 84"),
    ],
)
def test_keyboard_print_screen_depends_on_modifiers(held: tuple[int, ...], expected: str) -> None:
    pc = Pc()
    pc.raw()
    for usage in held:
        pc.keys.press(usage)
    pc.read()
    pc.keys.press(PRINT_SCREEN)
    pc.keys.release(PRINT_SCREEN)
    assert bytes(pc.read()) == bytes.fromhex(expected)


def test_keyboard_ctrl_pause_is_break() -> None:
    pc = Pc()
    pc.raw()
    pc.keys.press(CTRL)
    pc.read()
    pc.keys.press(PAUSE)
    pc.keys.release(PAUSE)
    assert bytes(pc.read()) == bytes.fromhex("E0 7E E0 F0 7E")


@pytest.mark.parametrize(
    ("leds", "held", "expected"),
    [
        (0, (), "E0 75 E0 F0 75"),
        (0, (SHIFT,), "E0 F0 12 E0 75 E0 F0 75 E0 12"),
        (0, (SHIFT, RIGHT_SHIFT), "E0 F0 12 E0 F0 59 E0 75 E0 F0 75 E0 59 E0 12"),
        (2, (), "E0 12 E0 75 E0 F0 75 E0 F0 12"),
        (2, (SHIFT,), "E0 75 E0 F0 75"),
    ],
)
def test_keyboard_grey_keys_come_with_fake_shifts(leds: int, held: tuple[int, ...], expected: str) -> None:
    pc = Pc()
    pc.raw()
    pc.keyboard(0xED, leds)
    for usage in held:
        pc.keys.press(usage)
    pc.read()
    pc.keys.press(UP)
    pc.keys.release(UP)
    assert bytes(pc.read()) == bytes.fromhex(expected)


def test_keyboard_typematic_repeats_the_last_key_until_released() -> None:
    pc = Pc(throttle=False)
    pc.raw()
    pc.keyboard(0xF3, 0x00)  # 250 ms, 30 a second
    pc.keys.press(A)
    pc.keys.press(0x05)
    assert pc.read() == [0x1C, 0x32]
    pc.bench.advance(249_000_000)
    assert pc.read() == []
    pc.bench.advance(2_000_000)
    assert pc.read() == [0x32]
    for _ in range(3):
        pc.bench.advance(33_360_000)
        assert pc.read() == [0x32]
    pc.keys.release(A)
    pc.bench.advance(40_000_000)
    assert pc.read() == [0xF0, 0x1C, 0x32]
    pc.keys.release(0x05)
    pc.read()
    pc.bench.advance(10**9)
    assert pc.read() == []


def test_keyboard_default_rate_is_10_9_after_500_ms() -> None:
    pc = Pc(throttle=False)
    pc.keys.press(A)
    pc.read()
    pc.bench.advance(499_000_000)
    assert pc.read() == []
    count = 0
    for _ in range(1000):
        pc.bench.advance(1_000_000)
        count += len(pc.read())
    assert count in (11, 12)


def test_keyboard_repetition_into_a_full_buffer_overruns_once() -> None:
    pc = Pc()
    pc.raw()
    pc.keys.press(A)
    pc.bench.advance(5 * 10**9)
    codes = pc.read()
    assert codes == [0x1C] * 17 + [0x00]


def test_keyboard_commands_are_acknowledged() -> None:
    pc = Pc()
    assert pc.keyboard(0xEE) == [0xEE]
    assert pc.keyboard(0xF2) == [ACK, 0xAB, 0x83]
    assert pc.keyboard(0xED, 0x05) == [ACK, ACK]
    assert pc.keys.leds == (False, True, True)
    assert pc.keyboard(0xF3, 0x7F) == [ACK, ACK]
    assert pc.keyboard(0xF0, 0) == [ACK, ACK, 2]
    assert pc.keyboard(0xF0, 3, 0xF0, 0) == [ACK, ACK, ACK, ACK, 3]
    assert pc.keyboard(0xFF) == [ACK, 0xAA]
    assert pc.keyboard(0xFE) == [0xAA]
    assert pc.keyboard(0x12) == [0xFE]
    assert pc.keyboard(0xFC, 0x1C, 0x32, 0xF4) == [ACK] * 4
    for command in range(0xF4, 0xFB):
        assert pc.keyboard(command) == [ACK]


def test_keyboard_identity_is_translated_as_every_byte() -> None:
    pc = Pc()
    pc.command(0x60, 0x47)
    assert pc.keyboard(0xF2) == [ACK, 0xAB, 0x41]


def test_keyboard_command_in_place_of_an_argument_counts() -> None:
    pc = Pc()
    assert pc.keyboard(0xED, 0xF2) == [ACK, ACK, 0xAB, 0x83]


def test_keyboard_disabled_scans_nothing() -> None:
    pc = Pc()
    assert pc.keyboard(0xF5) == [ACK]
    pc.keys.press(A)
    assert pc.read() == []
    assert pc.keys.pending == []
    assert pc.keyboard(0xF4) == [ACK]
    pc.keys.release(A)
    assert pc.read() == [0xF0, 0x1C]


def test_keyboard_set_3_key_types_rule_break_and_repeat() -> None:
    pc = Pc(throttle=False)
    pc.raw()
    pc.keyboard(0xF0, 3, 0xF8)
    pc.keys.press(A)
    pc.bench.advance(10**9)
    pc.keys.release(A)
    assert pc.read() == [0x1C, 0xF0, 0x1C]
    pc.keyboard(0xFB, 0x1C, 0xF4)
    pc.keys.press(A)
    pc.bench.advance(550_000_000)
    pc.keys.release(A)
    assert pc.read() == [0x1C, 0x1C]


def test_keyboard_release_all_reaches_the_guest_completely() -> None:
    pc = Pc()
    pc.raw()
    usages = list(range(0x04, 0x0E))
    for usage in usages:
        pc.keys.press(usage)
        pc.read()
    pc.bench.advance(kbc.BYTE_TIME)
    pc.keys.release_all()
    pc.answer()  # room for a key, but all releases come first
    pc.keys.press(A)
    codes = [0xF0, *pc.read()]
    assert codes == [code for usage in reversed(usages) for code in (0xF0, SET2[usage])] + [0x1C]


def test_keyboard_thousand_keys_arrive_complete_and_in_order() -> None:
    pc = Pc()
    pc.command(0x60, 0x47)
    text = "".join(chr(ord("a") + index * 7 % 26) for index in range(1000))
    pc.keys.type(text)
    assert pc.keys.pending
    codes = pc.read()
    assert pc.keys.pending == []
    expected = [code for key in text for code in translate((SET2[4 + ord(key) - 97],))]
    assert codes[0::2] == expected
    assert codes[1::2] == [code | 0x80 for code in expected]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(PLAIN_KEYS), st.booleans()), max_size=60),
    st.integers(1, 3),
)
def test_keyboard_stream_decodes_to_the_keys_pressed(events: list[tuple[int, bool]], number: int) -> None:
    pc = Pc()
    pc.raw()
    pc.keyboard(0xF0, number, 0xFA)
    for usage, down in events:
        (pc.keys.press if down else pc.keys.release)(usage)
        # A guest that reads now and then; the rest waits in the fake.
        pc.bench.advance(kbc.BYTE_TIME)
    codes = bytes(pc.read())
    held: set[int] = set()
    expected = bytearray()
    for usage, down in events:
        if down == (usage in held):
            continue
        (held.add if down else held.discard)(usage)
        if number == 3:
            code = SET3.get(usage)
            expected += b"" if code is None else bytes((code,) if down else (0xF0, code))
            continue
        code = SET2[usage]
        prefix = (0xE0,) if code & 0x100 else ()
        if usage == 0x54 and held & {SHIFT, RIGHT_SHIFT}:
            return  # keypad / comes with fake shifts; its own test has them
        sequence = (*prefix, code & 0xFF) if down else (*prefix, 0xF0, code & 0xFF)
        expected += translate(sequence) if number == 1 else bytes(sequence)
    assert codes == expected


# --- the mouse


def decode(packet: list[int]) -> tuple[int, int, int]:
    """Motion and the first three buttons of a packet; y counts down."""
    head, x, y = packet[:3]
    assert head & 8
    return x - (head << 4 & 0x100), -(y - (head << 3 & 0x100)), head & 7


def knock(pc: Pc, *rates: int) -> int:
    for rate in rates:
        assert pc.to_mouse(0xF3, rate) == [ACK, ACK]
    answer = pc.to_mouse(0xF2)
    assert answer[0] == ACK
    return answer[1]


def packets(pc: Pc, size: int) -> list[list[int]]:
    """All packets until the mouse has no more."""
    got: list[int] = []
    while True:
        got += pc.read()
        if not pc.device.mouse.timer.active:
            break
        pc.bench.advance(10**8)
    assert len(got) % size == 0
    return [got[at : at + size] for at in range(0, len(got), size)]


def test_mouse_reset_answers_with_identity() -> None:
    pc = Pc()
    assert pc.to_mouse(0xFF) == [ACK, 0xAA, 0x00]
    assert pc.to_mouse(0xE9) == [ACK, 0x00, 2, 100]


def test_mouse_whose_source_goes_releases_its_buttons() -> None:
    pc = Pc()
    pc.to_mouse(0xF4)
    pc.mouse.move(buttons=1)
    assert packets(pc, 3) == [[0x09, 0, 0]]
    pc.bench.detach(pc.device, 1)
    assert packets(pc, 3) == [[0x08, 0, 0]]


def test_mouse_tells_a_new_source_what_the_guest_listens_to() -> None:
    pc = Pc()
    pc.to_mouse(0xF4)
    pc.bench.detach(pc.device, 1)
    pc.bench.attach(pc.device, 1, late := FakeMouse())
    assert late.modes == (True, False)


def test_mouse_knocks_turn_on_wheel_and_buttons() -> None:
    pc = Pc()
    assert knock(pc, 200, 100) == 0
    assert knock(pc, 80) == 0x03
    assert knock(pc, 200, 200, 80) == 4
    assert pc.to_mouse(0xFF) == [ACK, 0xAA, 0]
    assert knock(pc) == 0


def test_mouse_commands_are_answered() -> None:
    pc = Pc()
    assert pc.to_mouse(0xE8, 3) == [ACK, ACK]
    assert pc.to_mouse(0xE7) == [ACK]
    assert pc.to_mouse(0xF3, 40) == [ACK, ACK]
    assert pc.to_mouse(0xF4) == [ACK]
    assert pc.mouse.modes == (True, False)
    assert pc.to_mouse(0xE9) == [ACK, 0x30, 3, 40]
    assert pc.to_mouse(0xE6) == [ACK]
    assert pc.to_mouse(0xF0) == [ACK]
    assert pc.to_mouse(0xE9) == [ACK, 0x60, 3, 40]
    assert pc.to_mouse(0xEA) == [ACK]
    assert pc.to_mouse(0xF6) == [ACK]
    assert pc.to_mouse(0xE9) == [ACK, 0, 2, 100]
    assert pc.mouse.modes == (False, False)
    assert pc.to_mouse(0x00) == [0xFE]
    assert pc.to_mouse(0xE8, 9) == [ACK, 0xFE]
    assert pc.to_mouse(1) == [ACK]


def test_mouse_wrap_mode_echoes() -> None:
    pc = Pc()
    assert pc.to_mouse(0xEE) == [ACK]
    assert pc.to_mouse(0xF4, 0x55, 0xE9) == [0xF4, 0x55, 0xE9]
    assert pc.to_mouse(0xEC) == [ACK]
    assert pc.to_mouse(0xE9)[1] == 0
    pc.to_mouse(0xEE)
    assert pc.to_mouse(0xFF) == [ACK, 0xAA, 0]


def test_mouse_resend_repeats_the_last_answer() -> None:
    pc = Pc()
    pc.to_mouse(0xE9)
    assert pc.to_mouse(0xFE) == [ACK, 0, 2, 100]


def test_mouse_remote_mode_reports_when_asked() -> None:
    pc = Pc()
    pc.to_mouse(0xF0)
    pc.mouse.move(5, -3)
    pc.mouse.move(1, 0, buttons=1)
    assert pc.read() == []
    answer = pc.to_mouse(0xEB)
    assert answer[0] == ACK
    assert decode(answer[1:]) == (6, -3, 1)
    assert decode(pc.to_mouse(0xEB)[1:]) == (0, 0, 1)


def test_mouse_bytes_are_marked_and_interrupt_12() -> None:
    pc = Pc()
    pc.raw()
    pc.to_mouse(0xF4)
    pc.bench.advance(kbc.BYTE_TIME)
    pc.mouse.move(1, 1)
    assert pc.status & (FULL | AUX) == FULL | AUX
    assert pc.bench.irq(12)
    assert not pc.bench.irq(1)


def test_mouse_disabled_reports_nothing() -> None:
    pc = Pc()
    pc.mouse.move(5, 5, buttons=1)
    assert pc.read() == []
    assert pc.to_mouse(0xE9)[1] & 4


def test_mouse_sample_rate_limits_packets() -> None:
    pc = Pc(throttle=False)
    pc.to_mouse(0xF3, 10, 0xF4)
    count = 0
    for _ in range(1000):
        pc.mouse.move(1, 0)
        pc.bench.advance(1_000_000)
        count += len(pc.read()) // 3
    assert 10 <= count <= 11


def test_mouse_click_between_two_samples_is_seen() -> None:
    pc = Pc()
    pc.to_mouse(0xF4)
    pc.mouse.move(1, 0)
    pc.mouse.move(0, 0, buttons=1)
    pc.mouse.move(0, 0, buttons=0)
    assert [decode(packet)[2] for packet in packets(pc, 3)] == [0, 1, 0]


def test_mouse_tilt_wheel_has_packets_of_its_own() -> None:
    pc = Pc()
    assert knock(pc, 200, 200, 80, 200, 80, 40) == 4
    pc.to_mouse(0xF4)
    pc.mouse.move(0, 0, dz=2, dw=-3, buttons=8)
    assert [packet[3] for packet in packets(pc, 4)] == [0x10, 0x82, 0x43]


@pytest.mark.parametrize(("count", "scaled"), [(0, 0), (1, 1), (2, 1), (3, 3), (4, 6), (5, 9), (7, 14)])
def test_mouse_scaling_2_to_1_by_the_table(count: int, scaled: int) -> None:
    assert ps2_mouse.scale_2_to_1(count) == scaled
    assert ps2_mouse.scale_2_to_1(-count) == -scaled


def test_mouse_counters_overflow_at_their_limit() -> None:
    pc = Pc()
    pc.to_mouse(0xF4)
    pc.mouse.move(10**6, -(10**6))
    got = packets(pc, 3)
    assert got[0][0] & 0xC0 == 0xC0
    assert sum(decode(packet)[0] for packet in got) == ps2_mouse.COUNTER_LIMIT


motions = st.tuples(
    st.integers(-700, 700),
    st.integers(-700, 700),
    st.integers(-20, 20),
    st.integers(0, 0),
    st.integers(0, 31),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(motions, max_size=25), st.sampled_from([0, 3, 4]), st.integers(0, 10))
def test_mouse_packets_conserve_motion_and_clicks(
    events: list[tuple[int, int, int, int, int]], identity: int, pause: int
) -> None:
    pc = Pc()
    if identity == 3:
        assert knock(pc, 200, 100, 80) == 3
    elif identity == 4:
        assert knock(pc, 200, 200, 80) == 4
    pc.to_mouse(0xF4)
    size = 3 if identity == 0 else 4
    got: list[int] = []
    for event in events:
        pc.mouse.move(*event)
        pc.bench.advance(pause * 1_000_000)
        got += pc.read() if pause & 1 else []
    got += [byte for packet in packets(pc, size) for byte in packet]
    assert pc.mouse.pending == []
    found = [got[at : at + size] for at in range(0, len(got), size)]
    assert sum(decode(packet)[0] for packet in found) == sum(event[0] for event in events)
    assert sum(decode(packet)[1] for packet in found) == sum(event[1] for event in events)
    mask = 7
    buttons = [decode(packet)[2] for packet in found]
    if identity == 3:
        assert sum((packet[3] ^ 0x80) - 0x80 for packet in found) == sum(event[2] for event in events)
    elif identity == 4:
        assert sum((packet[3] & 15 ^ 8) - 8 for packet in found) == sum(event[2] for event in events)
        buttons = [low | packet[3] >> 1 & 0x18 for low, packet in zip(buttons, found, strict=True)]
        mask = 31
    assert squeezed([0, *buttons]) == squeezed([0, *(event[4] & mask for event in events)])


def squeezed(values: list[int]) -> list[int]:
    """Without repetitions."""
    return [value for at, value in enumerate(values) if at == 0 or values[at - 1] != value]


# --- all together

byte = st.integers(0, 255)
operations = st.one_of(
    st.tuples(st.just("data"), st.one_of(byte, st.integers(0xE6, 0xFF))),
    st.tuples(st.just("command"), st.one_of(byte, st.sampled_from([0x20, 0x60, 0xD2, 0xD3, 0xD4, 0xD4]))),
    st.tuples(st.just("read")),
    st.tuples(st.just("read")),
    st.tuples(st.just("key"), st.sampled_from([*PLAIN_KEYS, UP, PAUSE, PRINT_SCREEN]), st.booleans()),
    st.tuples(st.just("release all")),
    st.tuples(st.just("move"), motions),
    st.tuples(st.just("wait"), st.sampled_from([10_000, 600_000, 20_000_000, 700_000_000])),
)


def apply(pc: Pc, operation: tuple[Any, ...]) -> Any:
    match operation:
        case ("data", value):
            pc.data(value)
        case ("command", value):
            pc.command(value)
        case ("read",):
            return pc.status, pc.bench.port_read(0x60)
        case ("key", usage, down):
            (pc.keys.press if down else pc.keys.release)(usage)
        case ("release all",):
            pc.keys.release_all()
        case ("move", motion):
            pc.mouse.move(*motion)
        case ("wait", ns):
            pc.bench.advance(ns)
    return pc.status, pc.bench.irq(1), pc.bench.irq(12), pc.bench.a20


@settings(max_examples=60, deadline=None)
@given(st.lists(operations, max_size=60))
def test_kbc_lines_always_follow_the_buffer(script: list[tuple[Any, ...]]) -> None:
    pc = Pc()
    for operation in script:
        apply(pc, operation)
        full = pc.device.status & (FULL | AUX)
        assert pc.bench.irq(1) == (full == FULL and bool(pc.device.mode & 1))
        assert pc.bench.irq(12) == (full == FULL | AUX and bool(pc.device.mode & 2))
        assert len(pc.device.keyboard.codes) <= ps2_keyboard.BUFFER_SIZE + 1
        assert len(pc.device.mouse.packet) <= 4


@settings(max_examples=40, deadline=None)
@given(st.lists(operations, max_size=40), st.lists(operations, max_size=40))
def test_kbc_saved_state_goes_on_identically(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    first, second = Pc(), Pc()
    for operation in before:
        apply(first, operation)
    second.keys.pending = list(first.keys.pending)
    second.mouse.pending = list(first.mouse.pending)
    edges = len(second.bench.irq_edges)
    state = first.bench.save()
    second.bench.load(state)
    assert len(second.bench.irq_edges) == edges
    for operation in after:
        assert apply(first, operation) == apply(second, operation), operation
    assert first.bench.save()["pckbd#0"] == second.bench.save()["pckbd#0"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0x5F, 0x65), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)), max_size=60
    )
)
def test_kbc_nonsense_never_raises(accesses: list[tuple[int, int, int]]) -> None:
    pc = Pc()
    for port, size, value in accesses:
        pc.bench.port_write(port, size, value & ((1 << 8 * size) - 1))
        assert 0 <= pc.bench.port_read(port, size) < 1 << 8 * size
    pc.bench.advance(10**9)
