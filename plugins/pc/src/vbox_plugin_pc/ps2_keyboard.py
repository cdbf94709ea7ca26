"""PS/2 keyboard, 101 to 106 keys, scan code sets 1, 2 and 3: a part of the device `pckbd`.

References: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboards (101- and
102-key)"; USB HID Usage Tables 1.12, page 7, for the names of keys.

Modelled: all commands, the 16-byte buffer with its overrun code, typematic repeat with rate and
delay, key types of set 3, the fake shifts around the grey keys, Pause, Print Screen and SysRq.

Not modelled: the completion code that a keyboard sends by itself after power on, half a second
after everybody stopped waiting for it; parity and time-out errors of the wire.

Traps
- Set 1 is set 2 as the controller translates it: one table serves both.
- Pause and the Hangul keys have no break code in sets 1 and 2.
- With Alt held, Print Screen is SysRq (one code); with Ctrl held, Pause is Break.
- F7..FD change set 3 only, though they are accepted in any set.
- An argument byte of ED, F0 or F3 that is itself a command is taken as that command.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from attrs import frozen

from vbox_pdm import Clock, DeviceHelpers, KeyboardBelow, State, StateError

BUFFER_SIZE = 16
LONGEST_SEQUENCE = 8  # Pause, or a grey key between fake shifts of both hands
ACK, RESEND, ECHO, BAT_OK = 0xFA, 0xFE, 0xEE, 0xAA
IDENTITY = (0xAB, 0x83)
DEFAULT_RATE = 0x2B  # 500 ms, 10.9 a second
NUM_LOCK_LED, CAPS_LOCK_LED, SCROLL_LOCK_LED = 2, 4, 1
TYPEMATIC, MAKE_BREAK = 1, 2

PRINT_SCREEN, PAUSE, HANGUL, HANJA = 0x46, 0x48, 0x90, 0x91
LEFT_CTRL, LEFT_SHIFT, LEFT_ALT, RIGHT_CTRL, RIGHT_SHIFT, RIGHT_ALT = 0xE0, 0xE1, 0xE2, 0xE4, 0xE5, 0xE6
GREY_KEYS = frozenset(range(0x49, 0x53))  # Insert .. Up, the block that the keypad doubles
EXTENDED = 0x100


def _set2_codes() -> dict[int, int]:
    """Usage -> code of set 2, with EXTENDED for an E0 before it."""
    codes: dict[int, int] = {}

    def run(first: int, text: str, extended: int = 0) -> None:
        for index, word in enumerate(text.split()):
            codes[first + index] = int(word, 16) | extended

    run(0x04, "1C 32 21 23 24 2B 34 33 43 3B 42 4B 3A 31 44 4D 15 2D 1B 2C 3C 2A 1D 22 35 1A")  # A..Z
    run(0x1E, "16 1E 26 25 2E 36 3D 3E 46 45")  # 1..9, 0
    run(0x28, "5A 76 66 0D 29 4E 55 54 5B 5D 5D 4C 52 0E 41 49 4A 58")  # Enter .. / , Caps Lock
    run(0x3A, "05 06 04 0C 03 0B 83 0A 01 09 78 07")  # F1..F12
    run(0x47, "7E")  # Scroll Lock
    run(0x49, "70 6C 7D 71 69 7A 74 6B 72 75", EXTENDED)  # Insert .. Up
    run(0x53, "77")  # Num Lock
    run(0x54, "4A", EXTENDED)  # keypad /
    run(0x55, "7C 7B 79")  # keypad * - +
    run(0x58, "5A", EXTENDED)  # keypad Enter
    run(0x59, "69 72 7A 6B 73 74 6C 75 7D 70 71")  # keypad 1..9, 0, .
    run(0x64, "61")  # the key beside the left Shift of 102-key keyboards
    run(0x65, "2F 37", EXTENDED)  # Menu, Power
    run(0x67, "0F 08 10 18 20 28 30 38 40 48 50 57 5F")  # keypad =, F13..F24
    run(0x7F, "23 32 21", EXTENDED)  # mute, volume up, volume down
    run(0x85, "6D")  # keypad . of Brazil
    run(0x87, "51 13 6A 64 67 27")  # Ro, Katakana/Hiragana, Yen, Henkan, Muhenkan, keypad comma
    run(0x90, "F2 F1 63 62 5F")  # Hangul, Hanja, Katakana, Hiragana, Zenkaku/Hankaku
    run(0xE0, "14 12 11")
    run(0xE3, "1F 14", EXTENDED)
    run(0xE5, "59")
    run(0xE6, "11 27", EXTENDED)
    return codes


def _set3_codes() -> dict[int, int]:
    """Usage -> code of set 3; keys that a keyboard with set 3 does not have are missing."""
    codes = {usage: code for usage, code in SET2.items() if usage < 0x28 or 0x59 <= usage <= 0x63}

    def run(first: int, text: str) -> None:
        for index, word in enumerate(text.split()):
            codes[first + index] = int(word, 16)

    run(0x28, "5A 08 66 0D 29 4E 55 54 5B 5C 53 4C 52 0E 41 49 4A 14")
    run(0x3A, "07 0F 17 1F 27 2F 37 3F 47 4F 56 5E 57 5F 62")  # F1..F12, Print Screen, Scroll Lock, Pause
    run(0x49, "67 6E 6F 64 65 6D 6A 61 60 63")
    run(0x53, "76 77 7E 84 7C 79")
    run(0x64, "13 8D")
    run(0x87, "51 87 5D 86 85")
    run(0xE0, "11 12 19 8B 58 59 39 8C")
    return codes


SET2 = _set2_codes()
SET3 = _set3_codes()
_SET3_MAKE_BREAK = (LEFT_CTRL, LEFT_SHIFT, LEFT_ALT, RIGHT_SHIFT, 0x39)
_SET3_TYPEMATIC = (
    *range(0x04, 0x28), 0x28, *range(0x2A, 0x39), 0x4C, 0x4F, 0x50, 0x51, 0x52, 0x57, 0x64,
)  # fmt: skip


def translation_table() -> bytes:
    """What the keyboard controller makes of a byte of set 2 (its ROM's table)."""
    low = bytes.fromhex(
        "FF43413F3D3B3C58644442403E0F2959"
        "65382A701D10025A66712C1F1E11035B"
        "672E2D201205045C68392F211413065D"
        "693130232215075E6A7232241608095F"
        "6B332517180B0A606C34352627190C61"
        "6D7328741A0D626E3A361C1B752B6376"
        "55567778797A0E7B7C4F7D4B477E7F6F"
        "5253504C4D480145574E514A37494654"
    )
    table = bytearray(range(256))
    table[: len(low)] = low
    table[0x83], table[0x84] = 0x41, 0x54
    return bytes(table)


TRANSLATION = translation_table()


def translate(codes: Iterable[int]) -> bytes:
    """A sequence of set 2 as set 1: codes by the table, F0 as bit 7 of the code behind it."""
    out = bytearray()
    broken = 0
    for code in codes:
        if code == 0xF0:
            broken = 0x80
        else:
            out.append(TRANSLATION[code] | broken)
            broken = 0
    return bytes(out)


def _make(code: int) -> tuple[int, ...]:
    return (0xE0, code & 0xFF) if code & EXTENDED else (code,)


def _break(code: int) -> tuple[int, ...]:
    return (0xE0, 0xF0, code & 0xFF) if code & EXTENDED else (0xF0, code)


class Wire(Protocol):
    """What a PS/2 device needs of its controller."""

    def data_available(self) -> None:
        """The device has a byte to send."""


@frozen
class KeyboardState(State, version=1):
    """Everything in the keyboard."""

    enabled: bool
    scan_set: int
    rate: int
    leds: int
    command: int
    answers: bytes
    codes: bytes
    overrun: bool
    last_sent: int
    types: bytes
    held: tuple[int, ...]
    releases: tuple[int, ...]
    repeating: int | None
    refused: bool


class Ps2Keyboard:
    """A keyboard on a PS/2 wire; also the upper end of LUN 0."""

    enabled: bool  # scanning
    scan_set: int
    rate: int  # the argument of F3
    leds: int
    command: int  # waits for its argument; 0 for none
    answers: deque[int]
    codes: deque[int]  # the buffer
    overrun: bool  # the buffer ends with the overrun code
    last_sent: int
    types: bytearray  # of each code of set 3: TYPEMATIC, MAKE_BREAK
    held: dict[int, None]  # usages, in the order in which they were pressed
    releases: deque[int]  # keys that went up while the buffer had no room
    repeating: int | None  # the usage that the typematic timer repeats
    refused: bool  # the source waits for key_ready

    def __init__(self, helpers: DeviceHelpers, wire: Wire) -> None:
        self.wire = wire
        self.stream: KeyboardBelow | None = None
        self.timer = helpers.timer("typematic", Clock.VIRTUAL_SYNC, self._repeat)
        self.held = {}
        self.releases = deque()
        self.refused = False
        self.leds = 0
        self._power_on_values()
        self.commands: dict[int, Callable[[], None]] = {
            0xED: lambda: self._wait_for(0xED),
            0xEE: lambda: self._answer(ECHO),
            0xF0: self._expect_scan_set,
            0xF2: lambda: self._answer(ACK, *IDENTITY),
            0xF3: lambda: self._wait_for(0xF3),
            0xF4: lambda: self._enable(True),
            0xF5: lambda: self._defaults(False),
            0xF6: lambda: self._defaults(True),
            0xF7: lambda: self._all_types(TYPEMATIC),
            0xF8: lambda: self._all_types(MAKE_BREAK),
            0xF9: lambda: self._all_types(0),
            0xFA: lambda: self._all_types(TYPEMATIC | MAKE_BREAK),
            0xFB: lambda: self._wait_for(0xFB),
            0xFC: lambda: self._wait_for(0xFC),
            0xFD: lambda: self._wait_for(0xFD),
            0xFE: lambda: self._answer(self.last_sent),
            0xFF: self._reset,
        }

    def reset(self) -> None:
        """Power on, nothing held."""
        self.timer.stop()
        self.held.clear()
        self.releases.clear()
        self._set_leds(0)
        self._power_on_values()

    # --- what the source of keys calls

    def key_event(self, usage: int, down: bool) -> bool:
        """A key goes down or up.  What is no change, or no key of this keyboard, is accepted and
        does nothing."""
        if down == (usage in self.held) or (usage not in SET2 and usage not in (PRINT_SCREEN, PAUSE)):
            return True
        if self.releases or not self._room():
            self.refused = True
            return False
        if down:
            self.held[usage] = None
        else:
            del self.held[usage]
        self._changed(usage, down)
        return True

    def key_release_all(self) -> None:
        """All keys go up, the last pressed first; what the buffer does not take follows later."""
        self.releases.extend(reversed(self.held))
        self.held.clear()
        self._release_pending()

    # --- what the controller calls

    @property
    def has_data(self) -> bool:
        """Whether `take` has a byte."""
        return bool(self.answers or (self.codes and not self.command))

    def take(self) -> int:
        """The next byte on the wire.  Call `taken` once it is delivered."""
        if self.answers:
            value = self.answers.popleft()
        else:
            value = self.codes.popleft()
            if not self.codes:
                self.overrun = False
        self.last_sent = value
        return value

    def taken(self) -> None:
        """There may be room in the buffer again."""
        if self.releases:
            self._release_pending()
        if self.refused and not self.releases and self._room():
            self.refused = False
            if self.stream is not None:
                self.stream.key_ready()

    def receive(self, value: int) -> None:
        """A byte from the host: an argument or a command."""
        command, self.command = self.command, 0
        handler = self.commands.get(value)
        if handler is not None:
            handler()
        elif command:
            self._argument(command, value)
        else:
            self._answer(RESEND)
        if self.has_data:
            self.wire.data_available()
        self.taken()

    # --- commands

    def _argument(self, command: int, value: int) -> None:
        """An argument of `command`."""
        if command in (0xFB, 0xFC, 0xFD):
            self.types[value] = (TYPEMATIC, MAKE_BREAK, 0)[command - 0xFB]
            self._answer(ACK)
            self.command = command  # more codes may follow
        elif command == 0xED:
            self._answer(ACK)
            self._set_leds(value & 7)
        elif command == 0xF0 and value == 0:
            self._answer(ACK, self.scan_set)
        elif command == 0xF0 and value <= 3:
            self.scan_set = value
            self._answer(ACK)
        elif command == 0xF3 and value < 0x80:
            self.rate = value
            self._answer(ACK)
        else:
            self._answer(RESEND)
            self.command = command

    def _wait_for(self, command: int) -> None:
        self._answer(ACK)
        self.command = command

    def _expect_scan_set(self) -> None:
        self._clear_codes()
        self._wait_for(0xF0)

    def _enable(self, enabled: bool) -> None:
        self._clear_codes()
        self.enabled = enabled
        self._answer(ACK)

    def _defaults(self, enabled: bool) -> None:
        self._clear_codes()
        self._default_values()
        self.enabled = enabled
        self._answer(ACK)

    def _all_types(self, kind: int) -> None:
        self._clear_codes()
        self.types = bytearray([kind]) * 256
        self._answer(ACK)

    def _reset(self) -> None:
        self._set_leds(0)
        self._power_on_values()
        self._answer(ACK, BAT_OK)

    def _answer(self, *values: int) -> None:
        """What answered an earlier command, and was not read, is gone."""
        self.answers.clear()
        self.answers.extend(values)

    def _set_leds(self, leds: int) -> None:
        if leds != self.leds:
            self.leds = leds
            self._tell_leds()

    def _tell_leds(self) -> None:
        if self.stream is not None:
            leds = self.leds
            self.stream.key_leds(
                bool(leds & NUM_LOCK_LED), bool(leds & CAPS_LOCK_LED), bool(leds & SCROLL_LOCK_LED)
            )

    # --- keys

    def _room(self) -> bool:
        return len(self.codes) + LONGEST_SEQUENCE <= BUFFER_SIZE

    def _release_pending(self) -> None:
        while self.releases and self._room():
            self._changed(self.releases.popleft(), False)

    def _changed(self, usage: int, down: bool) -> None:
        """A key changed and there is room for what that says."""
        if down:
            self.repeating = usage if self._is_typematic(usage) else None
            if self.repeating is not None:
                self.timer.set_relative((1 + (self.rate >> 5 & 3)) * 250_000_000)
            else:
                self.timer.stop()
        elif usage == self.repeating:
            self.repeating = None
            self.timer.stop()
        if self.enabled:
            codes = self._codes(usage, down, first=True)
            self.codes.extend(codes)
            if codes and self.has_data:
                self.wire.data_available()

    def _repeat(self) -> None:
        """The typematic timer."""
        usage = self.repeating
        if usage is None or usage not in self.held:
            return
        mantissa, exponent = 8 + (self.rate & 7), self.rate >> 3 & 3
        self.timer.set_relative((mantissa << exponent) * 4_170_000)
        if not self.enabled:
            return
        codes = self._codes(usage, True, first=False)
        if len(self.codes) + len(codes) <= BUFFER_SIZE:
            self.codes.extend(codes)
        elif not self.overrun:
            self.overrun = True
            self.codes.append(0xFF if self.scan_set == 1 else 0x00)
        if self.has_data:
            self.wire.data_available()

    def _is_typematic(self, usage: int) -> bool:
        if self.scan_set == 3:
            code = SET3.get(usage)
            return code is not None and bool(self.types[code] & TYPEMATIC)
        return usage not in (PAUSE, HANGUL, HANJA)

    def _codes(self, usage: int, down: bool, first: bool) -> bytes:
        """What the wire carries for a change of a key, or for a repetition (not `first`)."""
        if self.scan_set == 3:
            code = SET3.get(usage)
            if code is None:
                return b""
            if down:
                return bytes((code,))
            return bytes((0xF0, code)) if self.types[code] & MAKE_BREAK else b""
        if usage == PAUSE:
            sequence = self._pause(down)
        elif usage == PRINT_SCREEN:
            sequence = self._print_screen(down, first)
        elif usage in (HANGUL, HANJA):
            sequence = (SET2[usage],) if down else ()
        else:
            code = SET2[usage]
            sequence = _make(code) if down else _break(code)
            if first and (usage in GREY_KEYS or usage == 0x54):
                sequence = self._with_fake_shifts(usage, sequence, down)
        return translate(sequence) if self.scan_set == 1 else bytes(sequence)

    def _pause(self, down: bool) -> tuple[int, ...]:
        if not down:
            return ()
        if LEFT_CTRL in self.held or RIGHT_CTRL in self.held:
            return (0xE0, 0x7E, 0xE0, 0xF0, 0x7E)
        return (0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77)

    def _print_screen(self, down: bool, first: bool) -> tuple[int, ...]:
        held = self.held
        if LEFT_ALT in held or RIGHT_ALT in held:
            return (0x84,) if down else (0xF0, 0x84)
        plain = (0xE0, 0x7C) if down else (0xE0, 0xF0, 0x7C)
        if not first or any(key in held for key in (LEFT_CTRL, RIGHT_CTRL, LEFT_SHIFT, RIGHT_SHIFT)):
            return plain
        return (0xE0, 0x12, *plain) if down else (*plain, 0xE0, 0xF0, 0x12)

    def _with_fake_shifts(self, usage: int, sequence: tuple[int, ...], down: bool) -> tuple[int, ...]:
        """Old software knows only the keypad's codes: a grey key shows it the shift state in which
        that key of the keypad means the same."""
        shifts = [code for key, code in ((LEFT_SHIFT, 0x12), (RIGHT_SHIFT, 0x59)) if key in self.held]
        num_lock = bool(self.leds & NUM_LOCK_LED) and usage != 0x54
        if num_lock and not shifts:
            return (0xE0, 0x12, *sequence) if down else (*sequence, 0xE0, 0xF0, 0x12)
        if num_lock or not shifts:
            return sequence
        if down:
            return (*(byte for code in shifts for byte in (0xE0, 0xF0, code)), *sequence)
        return (*sequence, *(byte for code in reversed(shifts) for byte in (0xE0, code)))

    # --- state

    def _clear_codes(self) -> None:
        self.codes.clear()
        self.overrun = False
        self.repeating = None
        self.timer.stop()

    def _default_values(self) -> None:
        self.rate = DEFAULT_RATE
        self.types = bytearray(256)
        for usages, kind in ((_SET3_MAKE_BREAK, MAKE_BREAK), (_SET3_TYPEMATIC, TYPEMATIC)):
            for usage in usages:
                self.types[SET3[usage]] = kind

    def _power_on_values(self) -> None:
        self.answers = deque()
        self.codes = deque()
        self.overrun = False
        self.repeating = None
        self.timer.stop()
        self.enabled = True
        self.scan_set = 2
        self.command = 0
        self.last_sent = BAT_OK
        self._default_values()

    def save(self) -> KeyboardState:
        """Everything but the timer, which the host saves."""
        return KeyboardState(
            enabled=self.enabled,
            scan_set=self.scan_set,
            rate=self.rate,
            leds=self.leds,
            command=self.command,
            answers=bytes(self.answers),
            codes=bytes(self.codes),
            overrun=self.overrun,
            last_sent=self.last_sent,
            types=bytes(self.types),
            held=tuple(self.held),
            releases=tuple(self.releases),
            repeating=self.repeating,
            refused=self.refused,
        )

    def load(self, state: KeyboardState) -> None:
        """The opposite of `save`."""
        keys = (*state.held, *state.releases, *(() if state.repeating is None else (state.repeating,)))
        if (
            not 1 <= state.scan_set <= 3
            or len(state.types) != 256
            or len(state.codes) > BUFFER_SIZE + 1  # the overrun code may come on top
            or not all(usage in SET2 or usage in (PRINT_SCREEN, PAUSE) for usage in keys)
        ):
            raise StateError("VERR_SSM_UNEXPECTED_DATA", "pckbd: the keyboard's state is impossible")
        self.enabled = state.enabled
        self.scan_set = state.scan_set
        self.rate = state.rate & 0x7F
        self.leds = state.leds
        self.command = state.command
        self.answers = deque(state.answers)
        self.codes = deque(state.codes)
        self.overrun = state.overrun
        self.last_sent = state.last_sent
        self.types = bytearray(state.types)
        self.held = dict.fromkeys(state.held)
        self.releases = deque(state.releases)
        self.repeating = state.repeating
        self.refused = state.refused

    # --- another source of keys

    def greet(self) -> None:
        """The source may be another one than before: a new one, or after a load."""
        self._tell_leds()
        self.taken()

    def let_go(self) -> None:
        """The source goes, and nobody else will release what it held."""
        self.refused = False
        self.key_release_all()
