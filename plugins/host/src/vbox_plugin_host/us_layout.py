"""Text as keys of a US keyboard: characters to HID usages (HID Usage Tables, page 7)."""

from __future__ import annotations

from vbox_pdm import PdmError

LEFT_CONTROL, LEFT_SHIFT = 0xE0, 0xE1
ENTER, ESCAPE, BACKSPACE, TAB, SPACE = 0x28, 0x29, 0x2A, 0x2B, 0x2C


def _table() -> dict[str, tuple[int, int]]:
    keys: dict[str, tuple[int, int]] = {}
    for index in range(26):
        keys[chr(ord("a") + index)] = (4 + index, 0)
        keys[chr(ord("A") + index)] = (4 + index, LEFT_SHIFT)
        keys[chr(1 + index)] = (4 + index, LEFT_CONTROL)
    rows = (
        ("1234567890", "!@#$%^&*()", 0x1E),
        ("-=[]\\", "_+{}|", 0x2D),
        (";'`,./", ':"~<>?', 0x33),
    )
    for plain, shifted, first in rows:
        for index, (low, high) in enumerate(zip(plain, shifted, strict=True)):
            keys[low] = (first + index, 0)
            keys[high] = (first + index, LEFT_SHIFT)
    # After the control characters: these keys have characters of their own.
    keys["\n"] = keys["\r"] = (ENTER, 0)
    keys["\t"], keys["\b"], keys["\x7f"] = (TAB, 0), (BACKSPACE, 0), (BACKSPACE, 0)
    keys["\x1b"], keys[" "] = (ESCAPE, 0), (SPACE, 0)
    return keys


KEYS = _table()
"""Character to (usage, modifier usage or 0)."""


def strokes(text: str) -> list[tuple[int, bool]]:
    """(usage, down) for each event of typing `text`.

    Raises PdmError VERR_INVALID_PARAMETER for a character that a US keyboard has not."""
    events: list[tuple[int, bool]] = []
    for position, character in enumerate(text):
        if character not in KEYS:
            raise PdmError(
                "VERR_INVALID_PARAMETER",
                f"A US keyboard has no key for {character!r} (character {position} of the text)",
                "Leave it out, or press keys by their HID usages",
            )
        usage, modifier = KEYS[character]
        if modifier:
            events.append((modifier, True))
        events += [(usage, True), (usage, False)]
        if modifier:
            events.append((modifier, False))
    return events
