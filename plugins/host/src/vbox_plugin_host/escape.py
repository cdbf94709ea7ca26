"""The escape character of a console: what it starts is for the VMM, all else is the guest's.

After the escape character: x powers off, h (and whatever is no command) tells the commands, the
escape character itself or its letter sends the escape character once.  A console that shows a screen
adds r, which draws it again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from vbox_pdm import ConfigError


class Command(enum.Enum):
    """What a user asks of the VMM."""

    POWER_OFF = "x"
    HELP = "h"
    REDRAW = "r"


class Escapes:
    """Takes commands out of a stream of bytes.  `escape` is a byte, None for a stream without."""

    def __init__(self, escape: int | None, extra: Iterable[Command] = ()) -> None:
        self.escape = escape
        self._commands = {command.value: command for command in (Command.POWER_OFF, *extra)}
        self._escaped = False

    def feed(self, data: bytes) -> tuple[bytes, list[Command]]:
        """What is the guest's, and the commands that were in between."""
        if self.escape is None:
            return data, []
        passed, commands = bytearray(), []
        for byte in data:
            if not self._escaped:
                self._escaped = byte == self.escape
                if not self._escaped:
                    passed.append(byte)
                continue
            self._escaped = False
            letter = chr(byte).lower()
            if byte == self.escape or (letter not in self._commands and ord(letter) - 96 == self.escape):
                passed.append(self.escape)
            else:
                commands.append(self._commands.get(letter, Command.HELP))
        return bytes(passed), commands

    def help(self, name: str) -> str:
        """The commands in a line; `name` is how the escape character is written ("^A")."""
        letter = name[-1:].lower()
        again = letter if letter.isalpha() and letter not in self._commands else name
        redraw = f"   {name} r  draw again" if Command.REDRAW.value in self._commands else ""
        return f"{name} x  power off   {name} {again}  send {name}{redraw}   {name} h  this"


def parse_escape(text: str) -> int | None:
    """The byte of `^A`; None for `none`.  ConfigError for anything else."""
    if text == "none":
        return None
    if len(text) == 2 and text[0] == "^" and "A" <= text[1].upper() <= "_":
        return ord(text[1].upper()) - 64
    raise ConfigError(
        "VERR_OUT_OF_RANGE",
        f"The escape character {text!r} is no control character",
        "Give ^A..^Z, ^] or none",
    )
