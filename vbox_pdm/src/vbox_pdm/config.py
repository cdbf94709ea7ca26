"""Configuration of a type: an attrs class whose fields say range, choices, default and help.

    @frozen
    class Config:
        io_base: int = key(0x3F8, span=(0, 0xFFF8), help="first of eight I/O ports")
        path: str = key(help="file that receives what the guest sends")

From the class follow validation (an unknown key is an error that names it), the CLI's options,
the documentation and the settings file.  Field types: int, bool, str, bytes, float, enums whose
values are str, and each of these with `| None`.
"""

from __future__ import annotations

import difflib
import enum
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union

import attrs
from attrs import NOTHING, frozen

from vbox_pdm.errors import ConfigError

C = TypeVar("C")
_METADATA = "vbox_pdm.key"


@frozen
class KeyInfo:
    """What a configuration class says about one key.  `span` is inclusive."""

    name: str
    type: Any
    default: Any
    span: tuple[float, float] | None
    choices: tuple[Any, ...] | None
    help: str
    required: bool

    @property
    def type_name(self) -> str:
        """For people: int, bool, str, bytes, float."""
        inner, optional = _strip_optional(self.type)
        name = "str" if isinstance(inner, type) and issubclass(inner, enum.Enum) else inner.__name__
        return f"{name} or none" if optional else str(name)

    @property
    def range_text(self) -> str:
        """`0x0..0xfff8`, `a | b`, or nothing."""
        if self.choices is not None:
            return " | ".join(str(choice) for choice in self.choices)
        if self.span is not None:
            low, high = self.span
            if isinstance(low, int) and isinstance(high, int) and high > 255:
                return f"{low:#x}..{high:#x}"
            return f"{low}..{high}"
        return ""


def key(
    default: Any = NOTHING,
    *,
    span: tuple[float, float] | None = None,
    choices: tuple[Any, ...] | None = None,
    help: str = "",
) -> Any:
    """One configuration key; without a default it must be given.  `span` is the least and the greatest
    value allowed, `choices` are the only ones; an enum needs neither.  `help` is one line for people."""
    return attrs.field(default=default, kw_only=True, metadata={_METADATA: (span, choices, help)})


@frozen
class NoConfig:
    """The configuration of a type that has no keys."""


def keys(config_class: type[Any]) -> tuple[KeyInfo, ...]:
    """The keys of a configuration class, in the order of declaration."""
    return _keys(config_class)  # type: ignore[arg-type]  # mypy: a class is hashable


@functools.cache
def _keys(config_class: type[Any]) -> tuple[KeyInfo, ...]:
    hints = typing.get_type_hints(config_class)
    found = []
    for attribute in attrs.fields(config_class):
        span, choices, text = attribute.metadata.get(_METADATA, (None, None, ""))
        hint = hints[attribute.name]
        inner, _ = _strip_optional(hint)
        if choices is None and isinstance(inner, type) and issubclass(inner, enum.Enum):
            choices = tuple(member.value for member in inner)
        default = attribute.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        found.append(KeyInfo(attribute.name, hint, default, span, choices, text, required=default is NOTHING))
    return tuple(found)


def parse(config_class: type[C], values: Mapping[str, object], where: str) -> C:
    """An instance of `config_class` from plain values or their text (as a CLI or XML has them).

    `where` names the owner ("serial instance #0").  Raises ConfigError: an unknown key
    (VERR_CFGM_CONFIG_UNKNOWN_VALUE), a missing one (VERR_CFGM_VALUE_NOT_FOUND), a wrong type
    (VERR_CFGM_NOT_INTEGER and others), a value out of range (VERR_OUT_OF_RANGE).
    """
    known = {info.name: info for info in keys(config_class)}
    arguments: dict[str, object] = {}
    for name, value in values.items():
        info = known.get(name)
        if info is None:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean '{close[0]}'? " if close else ""
            listed = ", ".join(known) or "none"
            raise ConfigError(
                "VERR_CFGM_CONFIG_UNKNOWN_VALUE",
                f"Unknown configuration value '/{name}' found in the configuration of {where}",
                f"{hint}Known keys: {listed}",
            )
        arguments[name] = _convert(info, value, where)
    for info in known.values():
        if info.required and info.name not in arguments:
            raise ConfigError(
                "VERR_CFGM_VALUE_NOT_FOUND",
                f"Configuration value '/{info.name}' of {where} is required and missing",
                f"Give {info.name}=...: {info.help or info.type_name}",
            )
    return config_class(**arguments)


def _strip_optional(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        return inner[0], len(inner) < len(typing.get_args(hint))
    return hint, False


_TRUE = {"1", "true", "on", "yes"}
_FALSE = {"0", "false", "off", "no"}


def _convert(info: KeyInfo, value: object, where: str) -> object:
    inner, optional = _strip_optional(info.type)
    if optional and (value is None or value == ""):
        return None
    result: object
    if inner is bool:
        result = _to_bool(info, value, where)
    elif inner is int:
        result = _to_int(info, value, where)
    elif inner is float:
        try:
            result = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise _wrong(info, value, where, "VERR_CFGM_NOT_STRING", "a number") from None
        if result != result:
            raise _wrong(info, value, where, "VERR_OUT_OF_RANGE", "a number")
    elif inner is bytes:
        if not isinstance(value, bytes):
            raise _wrong(info, value, where, "VERR_CFGM_NOT_BYTES", "bytes")
        result = value
    else:
        if not isinstance(value, (str, enum.Enum)):
            raise _wrong(info, value, where, "VERR_CFGM_NOT_STRING", "text")
        result = value
        if issubclass(inner, enum.Enum):
            try:
                result = inner(value)
            except ValueError:
                raise _out_of_range(info, value, where) from None
            return result
    if info.span is not None and isinstance(result, (int, float)):
        low, high = info.span
        if not low <= result <= high:
            raise _out_of_range(info, value, where)
    if info.choices is not None and result not in info.choices:
        raise _out_of_range(info, value, where)
    return result


def _to_bool(info: KeyInfo, value: object, where: str) -> bool:
    if isinstance(value, (bool, int)):
        return bool(value)
    if isinstance(value, str) and value.lower() in _TRUE:
        return True
    if isinstance(value, str) and value.lower() in _FALSE:
        return False
    raise _wrong(info, value, where, "VERR_CFGM_NOT_INTEGER", "on or off")


def _to_int(info: KeyInfo, value: object, where: str) -> int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        try:
            return int(value, 0)
        except ValueError:
            pass
    raise _wrong(info, value, where, "VERR_CFGM_NOT_INTEGER", "an integer")


def _wrong(info: KeyInfo, value: object, where: str, status: str, wanted: str) -> ConfigError:
    return ConfigError(
        status,
        f"Configuration value '/{info.name}' of {where} is {value!r}, which is not {wanted}",
        f"{info.name}: {info.help} {info.range_text}".strip(),
    )


def _out_of_range(info: KeyInfo, value: object, where: str) -> ConfigError:
    return ConfigError(
        "VERR_OUT_OF_RANGE",
        f"Configuration value '/{info.name}' of {where} is {value!r}, which is out of range",
        f"{info.name} takes {info.range_text}",
    )
