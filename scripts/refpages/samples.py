"""What pages show by example; the examples are carried out when the pages are made."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import Any

import attrs
from attrs import frozen

from refpages.markdown import code
from vbox_pdm import config
from vbox_pdm import state as states
from vbox_pdm.config import key
from vbox_pdm.engine import Exit
from vbox_pdm.errors import PdmError
from vbox_pdm.regions import Mmio, ReadWidth, Width, WriteWidth, resolve
from vbox_pdm.state import State

READS = ("Policy", "1 byte at 1", "2 bytes at 2", "4 bytes at 0", "8 bytes at 0")
WRITES = ("Policy", "1 byte at 1", "2 bytes at 2", "4 bytes at 0", "8 bytes at 0")
_ACCESSES = ((1, 1), (2, 2), (0, 4), (0, 8))
FIELD_TYPES = ("Type", "Given", "Value")
REFUSED = ("Configuration", "Status", "What the user reads")
ENCODED = ("Type", "Tag", "Value", "Bytes")
UNREADABLE = ("What is loaded", "Status")


# --- widths


def named_widths() -> list[tuple[str, str, str]]:
    """The policies that `Width` has names for."""
    return [
        (
            code(f"Width.{name}"),
            code(f"ReadWidth.{value.reads.name}"),
            code(f"WriteWidth.{value.writes.name}"),
        )
        for name, value in vars(Width).items()
        if isinstance(value, Width)
    ]


def reads() -> list[tuple[str, ...]]:
    """What a read handler is called with."""
    return [
        (
            code(f"ReadWidth.{policy.name}"),
            *(_calls(Width(policy, WriteWidth.ANY), *at, None) for at in _ACCESSES),
        )
        for policy in ReadWidth
    ]


def writes() -> list[tuple[str, ...]]:
    """What a write handler is called with, for values whose every byte is 0xAA."""
    return [
        (
            code(f"WriteWidth.{policy.name}"),
            *(_calls(Width(ReadWidth.ANY, policy), *at, 0xAA) for at in _ACCESSES),
        )
        for policy in WriteWidth
    ]


def _calls(width: Width, offset: int, size: int, byte: int | None) -> str:
    """The calls that an access leads to, as text."""
    seen: list[str] = []

    def read(offset: int, size: int) -> int:
        seen.append(f"({offset}, {size})")
        return 0

    def write(offset: int, size: int, value: int) -> None:
        seen.append(f"({offset}, {size}, {value:#x})")

    row = resolve(Mmio("sample", 16, read, write, width=width), 0, None)
    direct = bool(size & row.direct) and offset % size == 0
    if byte is None:
        (row.read if direct else row.adapted_read)(offset, size)
    else:
        _write(row, direct)(offset, size, int.from_bytes(bytes([byte]) * size, "little"))
    return ", ".join(seen) or "none"


def _write(row: Exit, direct: bool) -> Callable[[int, int, int], None]:
    return row.write if direct else row.adapted_write


# --- configuration


class _Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def field_types() -> list[tuple[str, str, str]]:
    """What fields of each type are given, and the values that they become."""
    samples: tuple[tuple[Any, tuple[str | bytes, ...]], ...] = (
        (int, ("10", "0x10", "0b11")),
        (bool, ("on", "off", "true", "no", "1")),
        (float, ("0.5", "2")),
        (str, ("any text",)),
        (bytes, (b"\x01\x02",)),
        (_Colour, ("red",)),
        (int | None, ("", "7")),
    )
    found = []
    for kind, given in samples:
        sample: Any = attrs.make_class("Sample", {"value": key()})
        sample.__annotations__ = {"value": kind}
        info = config.keys(sample)[0]
        values = [config.parse(sample, {"value": one}, "sample#0").value for one in given]
        name = f"an enum of str ({info.range_text})" if kind is _Colour else info.type_name
        found.append((name, ", ".join(map(_given, given)), ", ".join(map(_taken, values))))
    return found


def _given(value: str | bytes) -> str:
    return code(value if isinstance(value, str) and value else repr(value))


def _taken(value: object) -> str:
    return code(f"Colour.{value.name}" if isinstance(value, _Colour) else repr(value))


@frozen
class _Config:
    path: str = key(help="the file to read")
    irq: int = key(5, span=(0, 15), help="ISA interrupt line")
    mode: str = key("slow", choices=("slow", "fast"), help="how it goes")
    quiet: bool = key(False, help="says nothing")


SHOWN_CONFIG = inspect.getsource(_Config).replace("_Config", "Config")


def refused() -> list[tuple[str, str, str]]:
    """Configurations that are refused, and what the error says."""
    found = []
    for given in (
        "path=x,irk=5",
        "irq=5",
        "path=x,irq=five",
        "path=x,irq=16",
        "path=x,mode=medium",
        "path=x,quiet=maybe",
    ):
        try:
            config.parse(_Config, dict(part.split("=") for part in given.split(",")), "sample#0")
        except PdmError as error:
            found.append((code(given), code(error.status), f"{error.message}. {error.remedy}"))
    return found


# --- states


@frozen
class _Inner(State, version=1):
    level: int


def encoded() -> list[tuple[str, str, str, str]]:
    """A value of each type, and its bytes."""
    names = {value: name for name, value in vars(states).items() if name in _TAGS}
    found = []
    for kind, value in (
        ("`None`", None),
        ("bool", False),
        ("bool", True),
        ("int", -2),
        ("int", 0x1234),
        ("float", 0.5),
        ("str", "ok"),
        ("bytes", b"\x01\x02"),
        ("tuple", (1, True)),
        ("a `State`", _Inner(3)),
    ):
        sample = attrs.make_class("Sample", ["x"], bases=(State,), frozen=True)
        data = states.encode(sample(value))[len(b"vvvvnn\x01x") :]
        shown = "Inner(level=3)" if isinstance(value, State) else repr(value)
        tag = names[data[0]].strip("_")
        found.append((kind, f"{data[0]} {tag}", code(shown), code(data.hex(" "))))
    return found


_TAGS = ("_NONE", "_FALSE", "_TRUE", "_INT", "_FLOAT", "_STR", "_BYTES", "_TUPLE", "_STATE")


@frozen
class _Now(State, version=2):
    count: int
    name: str


def unreadable() -> list[tuple[str, str]]:
    """States that nobody can load, and the status of the error."""

    def state(version: int, **fields: object) -> bytes:
        made: Any = attrs.make_class("Sample", list(fields), bases=(State,), frozen=True)
        made.state_version = version
        return states.encode(made(**fields))

    good = state(2, count=1, name="x")
    cases = (
        ("A newer version than the class has", state(3, count=1, name="x")),
        ("An older version, where the class has no `upgrade`", state(1, count=1, name="x")),
        ("A field too few", state(2, count=1)),
        ("A field of another name", state(2, count=1, title="x")),
        ("A value of another type", state(2, count="1", name="x")),
        ("Fewer bytes", good[:-1]),
        ("More bytes", good + b"\0"),
    )
    found = []
    for what, data in cases:
        try:
            states.decode(_Now, data)
        except PdmError as error:
            found.append((what, code(error.status)))
    return found
