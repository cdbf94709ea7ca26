"""Saved states: exact round trips, and an error for everything that does not fit."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import State, StateError
from vbox_pdm.state import decode, encode


class Mode(enum.IntEnum):
    IDLE = 0
    BUSY = 3


@frozen
class Inner(State, version=1):
    value: int
    text: str


@frozen
class Whole(State, version=2):
    number: int
    flag: bool
    ratio: float
    data: bytes
    maybe: int | None
    mode: Mode
    inner: Inner | None
    many: tuple[int, ...]
    pair: tuple[bool, str]
    inners: tuple[Inner, ...]

    @classmethod
    def upgrade(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        if version != 1:
            return super().upgrade(version, fields)
        return {**fields, "mode": Mode.IDLE}


inners = st.builds(Inner, st.integers(), st.text())
wholes = st.builds(
    Whole,
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.binary(),
    st.none() | st.integers(),
    st.sampled_from(Mode),
    st.none() | inners,
    st.lists(st.integers(), max_size=4).map(tuple),
    st.tuples(st.booleans(), st.text()),
    st.lists(inners, max_size=3).map(tuple),
)
SAMPLE = Whole(-5, True, 0.5, b"\0\xff", None, Mode.BUSY, Inner(1, "x"), (1, 2), (False, "y"), ())


@given(wholes)
def test_decode_of_encode_is_the_same_state_and_bytes(state: Whole) -> None:
    data = encode(state)
    again = decode(Whole, data)
    assert again == state
    assert type(again.mode) is Mode
    assert encode(again) == data


@given(wholes, st.data())
def test_decode_of_truncated_bytes_is_a_state_error(state: Whole, data: st.DataObject) -> None:
    whole = encode(state)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(StateError):
        decode(Whole, whole[:cut])


@given(wholes, st.data())
def test_decode_of_damaged_bytes_is_a_state_or_a_state_error(state: Whole, data: st.DataObject) -> None:
    whole = bytearray(encode(state))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(Whole, bytes(whole))
    except StateError:
        return
    assert isinstance(found, Whole)
    assert decode(Whole, encode(found)) == found or found.ratio != found.ratio


@given(st.binary(max_size=64))
def test_decode_of_noise_is_a_state_error(noise: bytes) -> None:
    with pytest.raises(StateError):
        decode(Whole, noise)


def test_decode_with_bytes_left_over_says_how_many() -> None:
    with pytest.raises(StateError, match="3 bytes are left over") as caught:
        decode(Whole, encode(SAMPLE) + b"abc")
    assert caught.value.status == "VERR_SSM_LOADED_TOO_LITTLE"


def test_decode_of_an_older_version_upgrades() -> None:
    @frozen
    class Old(State, version=1):
        number: int
        flag: bool
        ratio: float
        data: bytes
        maybe: int | None
        inner: Inner | None
        many: tuple[int, ...]
        pair: tuple[bool, str]
        inners: tuple[Inner, ...]

    old = Old(1, False, 1.0, b"", 7, Inner(1, "a"), (), (True, ""), (Inner(2, "b"),))
    found = decode(Whole, encode(old))
    assert found == Whole(1, False, 1.0, b"", 7, Mode.IDLE, Inner(1, "a"), (), (True, ""), (Inner(2, "b"),))


@pytest.mark.parametrize("version", [0, 3, 99])
def test_decode_of_another_version_is_unsupported(version: int) -> None:
    data = version.to_bytes(4, "little") + encode(SAMPLE)[4:]
    with pytest.raises(StateError) as caught:
        decode(Whole, data)
    assert caught.value.status == "VERR_SSM_UNSUPPORTED_DATA_UNIT_VERSION"


def test_decode_of_other_fields_names_them() -> None:
    @frozen
    class Other(State, version=1):
        value: int
        txt: str

    with pytest.raises(StateError, match="text, txt"):
        decode(Inner, encode(Other(1, "x")))


@pytest.mark.parametrize("value", ["1", b"1", 1.0, None, (1,), Inner(1, "")])
def test_decode_of_another_type_is_an_error(value: Any) -> None:
    @frozen
    class Loose(State, version=1):
        value: Any
        text: str

    with pytest.raises(StateError):
        decode(Inner, encode(Loose(value, "x")))


def test_decode_of_a_bool_where_an_int_belongs_is_that_int() -> None:
    found = decode(Inner, encode(Inner(True, "")))
    assert found == Inner(1, "")
    assert type(found.value) is int


def test_decode_of_a_fixed_tuple_of_other_length_is_an_error() -> None:
    with pytest.raises(StateError, match="tuple of 3"):
        decode(Whole, encode(evolve(SAMPLE, pair=(False, "y", 1))))  # type: ignore[arg-type]


def test_decode_of_an_unknown_enum_value_is_an_error() -> None:
    with pytest.raises(StateError):
        decode(Whole, encode(evolve(SAMPLE, mode=1)))  # type: ignore[arg-type]


def test_encode_of_what_a_state_cannot_hold_names_the_field() -> None:
    with pytest.raises(StateError, match=r"Inner\.text holds a list"):
        encode(Inner(1, []))  # type: ignore[arg-type]
