"""What a terminal sends, as keys of a US keyboard.

A terminal sends characters, not keys: text as UTF-8, control characters for Ctrl and a letter,
ESC before a character for Alt, and escape sequences for the keys that have no character.  They are
those of xterm (ECMA-48 control sequences, SS3 in application mode, modifiers as a second parameter)
and of the Linux console, which between them all common terminals speak.

Traps
- ESC alone is the Escape key, and the beginning of everything else: only time tells them apart, so
  whoever feeds the decoder calls `flush` when nothing followed for a while.
- Terminals do not say when a key is released: each key is pressed and released at once.
- Enter sends CR in raw mode; Ctrl-I, Ctrl-M, Ctrl-H and Ctrl-[ are Tab, Enter, Backspace and Escape.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from vbox_plugin_host.us_layout import ESCAPE, KEYS, LEFT_CONTROL, LEFT_SHIFT, SPACE, TAB

Stroke = tuple[int, bool]
LEFT_ALT = 0xE2
INSERT, HOME, PAGE_UP, DELETE, END, PAGE_DOWN = 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E
RIGHT, LEFT, DOWN, UP = 0x4F, 0x50, 0x51, 0x52
F1 = 0x3A
KEYPAD_FIVE = 0x5D
LONGEST = 32
"""Characters of a sequence; a longer one is none that a key sends, and is dropped."""

_LETTERS = {"A": UP, "B": DOWN, "C": RIGHT, "D": LEFT, "H": HOME, "F": END, "E": KEYPAD_FIVE}
_LETTERS |= {"P": F1, "Q": F1 + 1, "R": F1 + 2, "S": F1 + 3}
_CONSOLE = {"A": F1, "B": F1 + 1, "C": F1 + 2, "D": F1 + 3, "E": F1 + 4}
"""After ESC [ [: the Linux console's first function keys."""
_NUMBERS = {1: HOME, 2: INSERT, 3: DELETE, 4: END, 5: PAGE_UP, 6: PAGE_DOWN, 7: HOME, 8: END}
_NUMBERS |= {code: F1 + at for at, code in enumerate((11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24))}
_MORE_CONTROLS = {"\0": SPACE, "\x1c": 0x31, "\x1d": 0x30, "\x1e": 0x23, "\x1f": 0x2D}
"""Ctrl with space, backslash, ], 6 and -."""
_ESC = "\x1b"


class KeyDecoder:
    """Bytes of a terminal in, key events out, in order.  Never raises; what is no key is dropped."""

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._sequence = ""  # begins with ESC, is not complete

    @property
    def waiting(self) -> bool:
        """Whether the last byte may be the beginning of something: call `flush` after a while."""
        return bool(self._sequence)

    def feed(self, data: bytes) -> list[Stroke]:
        """The key events of some bytes."""
        events: list[Stroke] = []
        for character in self._text.decode(data):
            events += self._next(character)
        return events

    def flush(self) -> list[Stroke]:
        """Nothing followed: ESC was the Escape key, and what came after it keys of their own."""
        pending, self._sequence = self._sequence, ""
        events: list[Stroke] = []
        if pending in (_ESC + "[", _ESC + "O"):
            return _key(pending[1], alt=True)
        if pending.lstrip(_ESC):
            return events  # half a sequence: a broken line, no key
        for _ in pending:
            events += pressed(ESCAPE)
        return events

    def _next(self, character: str) -> list[Stroke]:
        if not self._sequence:
            if character == _ESC:
                self._sequence = character
                return []
            return _key(character)
        self._sequence += character
        body = self._sequence.lstrip(_ESC)
        alt = len(self._sequence) - len(body) > 1
        if not body:
            if len(self._sequence) > 2:  # a key that repeats
                self._sequence = _ESC * 2
                return pressed(ESCAPE)
            return []
        if body[0] == "[":
            return self._control_sequence(body, alt)
        if body[0] == "O":
            return self._single_shift(body, alt)
        self._sequence = ""
        return (pressed(ESCAPE) if alt else []) + _key(character, alt=True)

    def _control_sequence(self, body: str, alt: bool) -> list[Stroke]:
        if body == "[" or body == "[[":
            return []
        last = body[-1]
        if body.startswith("[["):
            self._sequence = ""
            return _named(_CONSOLE.get(last), 1, alt)
        if "\x20" <= last <= "\x3f":
            if len(body) > LONGEST:
                self._sequence = ""
            return []
        self._sequence = ""
        if not "\x40" <= last <= "\x7e":
            return self._next(last)  # a sequence that was broken off by another key
        numbers = _parameters(body[1:-1])
        if numbers is None:
            return []
        first = numbers[0] if numbers else 1
        modifier = numbers[1] if len(numbers) > 1 else 1
        if last == "~":
            return _named(_NUMBERS.get(first), modifier, alt)
        if last == "Z":
            return pressed(TAB, (LEFT_SHIFT,))
        return _named(_LETTERS.get(last), modifier, alt)

    def _single_shift(self, body: str, alt: bool) -> list[Stroke]:
        if body == "O" or ("0" <= body[-1] <= "9" and len(body) < 4):
            return []
        self._sequence = ""
        if body[-1] < " ":
            return self._next(body[-1])
        modifier = int(body[1:-1]) if body[1:-1].isdecimal() else 1
        return _named(_LETTERS.get(body[-1]), modifier, alt)


def pressed(usage: int, modifiers: Sequence[int] = ()) -> list[Stroke]:
    """A key pressed and released, with modifiers held around it."""
    around: list[Stroke] = [(modifier, True) for modifier in modifiers]
    after: list[Stroke] = [(modifier, False) for modifier in reversed(modifiers)]
    return [*around, (usage, True), (usage, False), *after]


def _key(character: str, alt: bool = False) -> list[Stroke]:
    modifiers = [LEFT_ALT] if alt else []
    if character in _MORE_CONTROLS:
        return pressed(_MORE_CONTROLS[character], [*modifiers, LEFT_CONTROL])
    if character not in KEYS:
        return []  # no key of a US keyboard
    usage, modifier = KEYS[character]
    return pressed(usage, [*modifiers, modifier] if modifier else modifiers)


def _named(usage: int | None, modifier: int, alt: bool) -> list[Stroke]:
    """A key by its usage; `modifier` is 1 and the sum of Shift 1, Alt 2, Ctrl 4."""
    if usage is None:
        return []
    bits = modifier - 1 if 1 <= modifier <= 16 else 0
    held = [
        key
        for key, down in ((LEFT_CONTROL, bits & 4), (LEFT_ALT, alt or bits & 2), (LEFT_SHIFT, bits & 1))
        if down
    ]
    return pressed(usage, held)


def _parameters(text: str) -> list[int] | None:
    """Numbers between semicolons, 1 where there is none; None for anything else."""
    if not text:
        return []
    parts = text.split(";")
    if any(part and not (part.isascii() and part.isdecimal()) for part in parts):
        return None
    return [int(part) if part else 1 for part in parts]
