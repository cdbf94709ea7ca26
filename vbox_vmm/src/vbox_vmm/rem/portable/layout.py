"""Where things lie inside Unicorn: the constants of `native/layout.h`, which both engines go by.

`from .layout import ENV_EIP` gives the number that the header has under this name.  The header is part of the
package whether or not the native module is built.
"""

from __future__ import annotations

import re
from pathlib import Path

HEADER = Path(__file__).parent.parent / "native" / "layout.h"

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_ENUM = re.compile(r"^enum \{(.*?)\};", re.DOTALL | re.MULTILINE)
_DEFINE = re.compile(r"^#define (\w+) (\(.+\))[ ]*$", re.MULTILINE)
_INTEGER = re.compile(r"\((?:u?int64_t|int)\)|(?<=\d)[uU]?[lL]{0,2}\b")


def constants(text: str) -> dict[str, int]:
    """The enumerators of a C header, and the macros that stand for a number in parentheses."""
    text = _COMMENT.sub("", text)
    found: dict[str, int] = {}
    for body in _ENUM.findall(text):
        value = -1
        for entry in filter(None, (part.strip() for part in body.split(","))):
            name, _, expression = entry.partition("=")
            value = _evaluate(expression, found) if expression else value + 1
            found[name.strip()] = value
    for name, expression in _DEFINE.findall(text):
        found[name] = _evaluate(expression, found)
    return found


def _evaluate(expression: str, names: dict[str, int]) -> int:
    return int(eval(_INTEGER.sub("", expression), {"__builtins__": {}}, names))


_constants = constants(HEADER.read_text(encoding="ascii"))


def __getattr__(name: str) -> int:
    try:
        return _constants[name]
    except KeyError:
        raise AttributeError(f"{HEADER.name} has no {name}") from None
