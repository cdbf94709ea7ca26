"""Saved state of a device: a frozen attrs class with a version, and its fixed encoding.

The kernel saves what helpers made (timers, PCI configuration, RAM regions, interrupt levels);
the device saves the rest:

    @frozen
    class SerialState(State, version=2):
        ier: int
        fifo: bytes
        @classmethod
        def upgrade(cls, version, fields): ...

Field types: int, bool, float, str, bytes, None, enums, nested State classes, and tuples of these.

Encoding, little endian: the version (32 bits), the number of fields (16), and for each field the length
of its name (8), the name in UTF-8, a type tag (8) and the value.  So a state can be read without the
class, and a field that is missing or extra is noticed by name.
"""

from __future__ import annotations

import enum
import functools
import struct
import types
import typing
from typing import Any, ClassVar, TypeVar, Union

import attrs
from attrs import frozen

from vbox_pdm.errors import StateError

S = TypeVar("S", bound="State")
_NONE, _FALSE, _TRUE, _INT, _FLOAT, _STR, _BYTES, _TUPLE, _STATE = range(9)
_MAX_DEPTH = 16


@frozen
class State:
    """Base of all saved states."""

    state_version: ClassVar[int] = 1
    across_reset: ClassVar[frozenset[str]] = frozenset()
    """Fields that a hard reset leaves as they are (CMOS, what lies in a drive, what a neighbour told).
    The conformance kit expects of all others that a reset makes them what they are in a new device."""

    def __init_subclass__(cls, *, version: int | None = None) -> None:
        # attrs makes a slotted twin of the class and calls this again without the keyword.
        if version is not None:
            cls.state_version = version

    @classmethod
    def upgrade(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields of an older `version` turned into today's.  Raises StateError by default."""
        raise unsupported_version(cls.__name__, version)


def unsupported_version(unit: str, version: int) -> StateError:
    """The error for a state that nobody can read any more."""
    return StateError(
        "VERR_SSM_UNSUPPORTED_DATA_UNIT_VERSION",
        f"Unsupported version {version} of data unit '{unit}'",
        "Load it with the version of the plugin that saved it",
    )


def encode(state: State) -> bytes:
    """The bytes of `state`; equal states give equal bytes."""
    out = bytearray()
    _put_state(out, state)
    return bytes(out)


def decode(state_class: type[S], data: bytes) -> S:
    """The state in `data`.  Raises StateError (VERR_SSM_*) on anything that does not fit."""
    reader = _Reader(data)
    state = reader.state(state_class, 0)
    if reader.position != len(data):
        raise StateError(
            "VERR_SSM_LOADED_TOO_LITTLE",
            f"{len(data) - reader.position} bytes are left over behind the state of {state_class.__name__}",
        )
    return state


def _put_state(out: bytearray, state: State) -> None:
    cls = type(state)
    head, names = _frame(cls)  # type: ignore[arg-type]  # mypy: a class is hashable
    out += struct.pack("<I", state.state_version) + head
    for name, label in names:
        out += label
        value = getattr(state, name)
        if type(value) is int and 0 <= value < 256:  # most of them
            out += _SMALL[value]
        else:
            _put(out, value, cls, name)


@functools.cache
def _frame(cls: type[State]) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """The number of fields as it is stored, and each field's name, plain and as it is stored."""
    names = [attribute.name for attribute in attrs.fields(cls)]
    labels = tuple((name, bytes([len(name.encode())]) + name.encode()) for name in names)
    return struct.pack("<H", len(names)), labels


def _integer(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return struct.pack("<BI", _INT, len(raw)) + raw


_SMALL = [_integer(value) for value in range(256)]


def _put(out: bytearray, value: Any, cls: type[State], name: str) -> None:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        out.append(_NONE)
    elif isinstance(value, bool):
        out.append(_TRUE if value else _FALSE)
    elif isinstance(value, int):
        out += _integer(value)
    elif isinstance(value, float):
        out += struct.pack("<Bd", _FLOAT, value)
    elif isinstance(value, str):
        raw = value.encode()
        out += struct.pack("<BI", _STR, len(raw)) + raw
    elif isinstance(value, bytes):
        out += struct.pack("<BI", _BYTES, len(value)) + value
    elif isinstance(value, tuple):
        out += struct.pack("<BI", _TUPLE, len(value))
        for item in value:
            if type(item) is int and 0 <= item < 256:
                out += _SMALL[item]
            else:
                _put(out, item, cls, name)
    elif isinstance(value, State):
        out.append(_STATE)
        _put_state(out, value)
    else:
        raise StateError(
            "VERR_SSM_UNEXPECTED_DATA",
            f"{cls.__name__}.{name} holds a {type(value).__name__}, which a state cannot hold",
            "Use int, bool, float, str, bytes, None, an enum, a State, or a tuple of these",
        )


@functools.cache
def _hints(state_class: type[State]) -> dict[str, Any]:
    """The types of the fields; looked up once, since evaluating annotations takes long."""
    return typing.get_type_hints(state_class)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise StateError("VERR_SSM_LOADED_TOO_MUCH", "The state ends in the middle of a value")
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def state(self, cls: type[S], depth: int) -> S:
        version, count = struct.unpack("<IH", self.take(6))
        fields: dict[str, Any] = {}
        hints = _hints(cls)  # type: ignore[arg-type]  # mypy: a class is hashable
        for _ in range(count):
            try:
                name = self.take(self.take(1)[0]).decode()
            except UnicodeDecodeError:
                raise StateError("VERR_SSM_UNEXPECTED_DATA", "A field name is not text") from None
            fields[name] = self.value(hints.get(name, Any), depth)
        if version != cls.state_version:
            if version > cls.state_version:
                raise unsupported_version(cls.__name__, version)
            fields = cls.upgrade(version, fields)
        wanted = {attribute.name for attribute in attrs.fields(cls)}
        if fields.keys() != wanted:
            odd = ", ".join(sorted(fields.keys() ^ wanted))
            raise StateError(
                "VERR_SSM_UNEXPECTED_DATA", f"The state of {cls.__name__} has other fields: {odd}"
            )
        return cls(**fields)

    def value(self, hint: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise StateError("VERR_SSM_UNEXPECTED_DATA", "The state is nested too deeply")
        tag = self.take(1)[0]
        if tag == _STATE:
            inner = _state_class(hint)
            if inner is None:
                raise StateError("VERR_SSM_UNEXPECTED_DATA", f"A nested state stands where {hint} belongs")
            return self.state(inner, depth + 1)
        if tag == _TUPLE:
            (count,) = struct.unpack("<I", self.take(4))
            if count > len(self.data) - self.position:
                raise StateError("VERR_SSM_LOADED_TOO_MUCH", "The state ends in the middle of a tuple")
            if not _takes_tuple(hint, count):
                text = f"A tuple of {count} stands where {hint} belongs"
                raise StateError("VERR_SSM_UNEXPECTED_DATA", text)
            return tuple(self.value(_item_hint(hint, index), depth + 1) for index in range(count))
        value = self._plain(tag)
        return _checked(hint, value)

    def _plain(self, tag: int) -> Any:
        if tag in (_NONE, _FALSE, _TRUE):
            return {_NONE: None, _FALSE: False, _TRUE: True}[tag]
        if tag == _FLOAT:
            return struct.unpack("<d", self.take(8))[0]
        if tag not in (_INT, _STR, _BYTES):
            raise StateError("VERR_SSM_UNEXPECTED_DATA", f"Unknown type tag {tag} in a state")
        raw = self.take(struct.unpack("<I", self.take(4))[0])
        if tag == _INT:
            return int.from_bytes(raw, "little", signed=True)
        if tag == _BYTES:
            return raw
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise StateError("VERR_SSM_UNEXPECTED_DATA", "A text value is not UTF-8") from None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _state_class(hint: Any) -> type[State] | None:
    for part in _alternatives(hint):
        if isinstance(part, type) and issubclass(part, State):
            return part
    return None


def _item_hint(hint: Any, index: int) -> Any:
    for part in _alternatives(hint):
        if typing.get_origin(part) is tuple:
            items = typing.get_args(part)
            if len(items) == 2 and items[1] is Ellipsis:
                return items[0]
            return items[index] if index < len(items) else Any
    return Any


def _takes_tuple(hint: Any, count: int) -> bool:
    for part in _alternatives(hint):
        if part is Any or part is tuple:
            return True
        if typing.get_origin(part) is tuple:
            items = typing.get_args(part)
            if (len(items) == 2 and items[1] is Ellipsis) or len(items) == count:
                return True
    return False


def _checked(hint: Any, value: Any) -> Any:
    for part in _alternatives(hint):
        if part is Any or (value is None and part is type(None)):
            return value
        if isinstance(part, type):
            if issubclass(part, enum.Enum):
                try:
                    return part(value)
                except ValueError:
                    continue
            if type(value) is part or (part is float and type(value) is int):
                return value
            if part is int and type(value) is bool:
                return int(value)
    raise StateError("VERR_SSM_UNEXPECTED_DATA", f"{value!r} stands where {hint} belongs")
