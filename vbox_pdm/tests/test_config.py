"""Configuration classes: parsing, defaults, ranges, and errors that name the thing."""

from __future__ import annotations

import enum

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import ConfigError, NoConfig, key
from vbox_pdm.config import keys, parse


class Parity(enum.Enum):
    NONE = "none"
    EVEN = "even"


@frozen
class Config:
    base: int = key(0x3F8, span=(0, 0xFFF8), help="first port")
    irq: int = key(4, choices=(3, 4))
    fast: bool = key(False)
    name: str | None = key(None)
    rate: float = key(1.5, span=(0.5, 9.0))
    parity: Parity = key(Parity.NONE)
    blob: bytes = key(b"")


@frozen
class Required:
    path: str = key(help="a file")


def fails(config: type, **values: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(config, values, "serial instance #0")
    assert "serial instance #0" in str(caught.value)
    return caught.value


def test_parse_nothing_gives_defaults() -> None:
    assert parse(Config, {}, "x") == Config()
    assert parse(NoConfig, {}, "x") == NoConfig()


@given(st.integers(0, 0xFFF8), st.sampled_from(["{}", "{:#x}", "{:#o}", "{:#b}"]))
def test_parse_text_of_an_integer_gives_the_integer(value: int, form: str) -> None:
    assert parse(Config, {"base": form.format(value)}, "x").base == value
    assert parse(Config, {"base": value}, "x").base == value


@given(st.integers().filter(lambda value: not 0 <= value <= 0xFFF8))
def test_parse_outside_the_span_is_out_of_range(value: int) -> None:
    error = fails(Config, base=value)
    assert error.status == "VERR_OUT_OF_RANGE"
    assert "base" in str(error)
    assert "0x0..0xfff8" in str(error)


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"irq": 5}, "VERR_OUT_OF_RANGE"),
        ({"base": "ten"}, "VERR_CFGM_NOT_INTEGER"),
        ({"base": None}, "VERR_CFGM_NOT_INTEGER"),
        ({"fast": "maybe"}, "VERR_CFGM_NOT_INTEGER"),
        ({"name": 5}, "VERR_CFGM_NOT_STRING"),
        ({"rate": "x"}, "VERR_CFGM_NOT_STRING"),
        ({"rate": "nan"}, "VERR_OUT_OF_RANGE"),
        ({"rate": 0.1}, "VERR_OUT_OF_RANGE"),
        ({"parity": "odd"}, "VERR_OUT_OF_RANGE"),
        ({"blob": "text"}, "VERR_CFGM_NOT_BYTES"),
    ],
)
def test_parse_of_a_wrong_value_names_key_and_status(values: dict[str, object], status: str) -> None:
    error = fails(Config, **values)
    assert error.status == status
    assert next(iter(values)) in error.message


@pytest.mark.parametrize(
    ("text", "value"),
    [("on", True), ("YES", True), ("1", True), ("off", False), ("false", False), (0, False)],
)
def test_parse_of_booleans_takes_the_usual_words(text: object, value: bool) -> None:
    assert parse(Config, {"fast": text}, "x").fast is value


def test_parse_of_optional_and_enum_values() -> None:
    parsed = parse(Config, {"name": "", "parity": "even", "rate": "2"}, "x")
    assert parsed.name is None
    assert parsed.parity is Parity.EVEN
    assert parsed.rate == 2.0
    assert parse(Config, {"parity": Parity.EVEN}, "x").parity is Parity.EVEN


def test_parse_of_an_unknown_key_names_it_and_the_closest() -> None:
    error = fails(Config, bas=1)
    assert error.status == "VERR_CFGM_CONFIG_UNKNOWN_VALUE"
    assert "Unknown configuration value '/bas' found in the configuration of serial instance #0" in str(error)
    assert "Did you mean 'base'?" in error.remedy


def test_parse_without_a_required_key_says_what_it_is_for() -> None:
    error = fails(Required)
    assert error.status == "VERR_CFGM_VALUE_NOT_FOUND"
    assert "path" in error.message
    assert "a file" in error.remedy


def test_keys_describe_type_range_and_default() -> None:
    found = {info.name: info for info in keys(Config)}
    assert list(found) == ["base", "irq", "fast", "name", "rate", "parity", "blob"]
    assert (found["base"].type_name, found["base"].range_text, found["base"].default) == (
        "int",
        "0x0..0xfff8",
        0x3F8,
    )
    assert found["irq"].range_text == "3 | 4"
    assert found["name"].type_name == "str or none"
    assert found["parity"].range_text == "none | even"
    assert found["rate"].range_text == "0.5..9.0"
    assert keys(Required)[0].required
