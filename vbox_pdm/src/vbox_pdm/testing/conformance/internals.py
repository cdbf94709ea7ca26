"""What a device remembers: its attributes, and those of the plugin's objects that it holds, as plain data.

Two devices in the same state must remember the same, whatever they went through: what is neither
saved nor reset is a mistake, or is named in `transient`.
"""

from __future__ import annotations

import enum
import types
import zlib
from collections import deque
from typing import Any

import attrs

_PLAIN = (int, float, str, bytes, bool, type(None), enum.Enum)
_CALLABLE = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.GeneratorType,
)
_HOST = ("config", "helpers", "instance", "above", "below")
_DEEPEST = 8


def internals(device: Any) -> dict[str, Any]:
    """Name (dotted) -> value, for all that is plain data."""
    found: dict[str, Any] = {}
    package = type(device).__module__.partition(".")[0]
    _object(device, "", package, found, {id(device)}, 0)
    return found


def difference(one: dict[str, Any], other: dict[str, Any], skip: set[str] | None = None) -> str:
    """The first attributes that differ, for people; empty when none does.  `skip` are last parts of
    names, a leading underscore aside."""
    texts = []
    for name in sorted(one.keys() | other.keys()):
        parts = {part.lstrip("_") for part in name.replace("[", ".").split(".")}
        if skip and parts & skip:
            continue
        a, b = one.get(name, _Nothing), other.get(name, _Nothing)
        if a != b and not (_is_nan(a) and _is_nan(b)):
            texts.append(f"{name}: {_show(a)} and {_show(b)}")
    return "; ".join(texts[:3])


class _Nothing:
    """Stands for an attribute that is not there."""


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _show(value: Any) -> str:
    text = "nothing" if value is _Nothing else repr(value)
    return text if len(text) < 100 else text[:100] + "..."


def _object(thing: Any, prefix: str, package: str, found: dict[str, Any], seen: set[int], depth: int) -> None:
    transient: frozenset[str] = getattr(type(thing), "transient", frozenset())
    for name, value in _attributes(thing):
        if name in transient or (depth == 0 and name in _HOST):
            continue
        _value(value, f"{prefix}{name}", package, found, seen, depth)


def _attributes(thing: Any) -> list[tuple[str, Any]]:
    if attrs.has(type(thing)) and not hasattr(thing, "__dict__"):
        names = [attribute.name for attribute in attrs.fields(type(thing))]
    else:
        names = list(getattr(thing, "__dict__", ()))
        for base in type(thing).__mro__:
            slots = base.__dict__.get("__slots__", ())
            names += [slots] if isinstance(slots, str) else list(slots)
    return [(name, getattr(thing, name)) for name in names if name != "__weakref__" and hasattr(thing, name)]


def _value(value: Any, name: str, package: str, found: dict[str, Any], seen: set[int], depth: int) -> None:
    if isinstance(value, _PLAIN):
        found[name] = value
    elif isinstance(value, bytearray):
        found[name] = bytes(value) if len(value) <= 256 else zlib.crc32(value)
    elif isinstance(value, memoryview):
        return  # of something else, or of scratch
    elif depth >= _DEEPEST or id(value) in seen or isinstance(value, _CALLABLE):
        return
    elif isinstance(value, (list, tuple, deque)):
        seen.add(id(value))
        if all(isinstance(item, _PLAIN) for item in value):
            found[name] = tuple(value)
            return
        found[f"{name}.length"] = len(value)
        for index, item in enumerate(value):
            _value(item, f"{name}[{index}]", package, found, seen, depth + 1)
    elif isinstance(value, (set, frozenset)):
        if all(isinstance(item, _PLAIN) for item in value):
            found[name] = tuple(sorted(map(repr, value)))
    elif isinstance(value, dict):
        seen.add(id(value))
        for key, item in value.items():
            if isinstance(key, _PLAIN):
                _value(item, f"{name}[{key!r}]", package, found, seen, depth + 1)
    elif type(value).__module__.partition(".")[0] == package and not isinstance(value, type):
        seen.add(id(value))
        _object(value, f"{name}.", package, found, seen, depth + 1)
