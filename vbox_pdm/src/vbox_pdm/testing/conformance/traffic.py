"""What neighbours say: strategies for the calls of a layer, down and up.

The layers of vbox-pdm have arguments whose range their docstrings give; those of any other layer
are made up from the annotations of its methods.  A call is data (`Call`, and `MediaAsk` or `DriveAsk`
in place of a request), so that it can be shown, repeated and given to a twin.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import Any

import attrs
from attrs import frozen
from hypothesis import strategies as st

from vbox_pdm import ata
from vbox_pdm.drive import DriveReset
from vbox_pdm.layers import End, Layer
from vbox_pdm.media import MediaOp
from vbox_pdm.testing.conformance.neighbours import MEDIUM

Strategy = st.SearchStrategy[Any]


@frozen
class MediaAsk:
    """A request to a medium; WRITE stores the byte pattern of `seed`."""

    op: MediaOp
    offset: int
    lengths: tuple[int, ...]
    seed: int


@frozen
class DriveAsk:
    """A command to a drive: what goes into the task file, the packet, and the memory of each step."""

    command: int
    features: int
    count: int
    lba: int
    device: int
    packet: bytes
    room: int
    seed: int


_BOOL = st.booleans()
_SMALL = st.one_of(st.integers(-3, 3), st.integers(-300, 300), st.sampled_from([-32768, 32767]))
_DATA = st.binary(max_size=40)


class _Bulk(bytes):
    """Many bytes with a short name: failures show them, and hypothesis asks for the name of all it draws."""

    def __repr__(self) -> str:
        return "bytes(range(251)) * 300"


BULK = _Bulk(bytes(range(251)) * 300)
"""More than a buffer is likely to hold."""
_SECTORS = st.one_of(
    st.integers(0, 15).map(lambda sector: sector * 512),
    st.integers(0, MEDIUM // 512 + 2).map(lambda sector: sector * 512),
    st.sampled_from([MEDIUM - 512, MEDIUM, 1 << 40]),
)
_MEDIUM_AT = st.one_of(_SECTORS, _SECTORS, _SECTORS, st.integers(0, 8191))
"""Mostly near the beginning, so that requests meet; a drive asks for whole sectors, others need not."""
_LENGTHS = st.one_of(st.sampled_from([512, 1024, 2048, 4096]), st.sampled_from([512, 1024, 0, 1, 100, 700]))
_MEDIA_ASK = st.builds(
    MediaAsk,
    st.sampled_from([*[MediaOp.READ, MediaOp.WRITE] * 2, MediaOp.FLUSH, MediaOp.DISCARD]),
    _MEDIUM_AT,
    st.lists(_LENGTHS, min_size=1, max_size=3).map(tuple),
    st.integers(0, 255),
)
_READS_AND_WRITES = [c for c in ata.Command if c.name.startswith(("READ_", "WRITE_", "IDENTIFY", "SET_"))]
_LBA = st.one_of(st.integers(0, 7), st.integers(0, MEDIUM // 512 + 1), st.integers(0, (1 << 48) - 1))
_ATA_ASK = st.builds(
    DriveAsk,
    st.one_of(st.sampled_from(_READS_AND_WRITES), st.sampled_from(list(ata.Command))).map(int)
    | st.integers(0, 255),
    st.one_of(st.integers(0, 3), st.integers(0, 255)),
    st.one_of(st.integers(0, 4), st.integers(0, 0xFFFF)),
    _LBA,
    st.sampled_from([0x40, 0xE0, 0xA0, 0x00]),
    st.just(b""),
    st.sampled_from([512, 1024, 4096, 65536]),
    st.integers(0, 255),
)
_PACKETS = st.one_of(
    st.builds(
        lambda op, lba, count: (
            bytes([op, 0]) + lba.to_bytes(4, "big") + bytes([0]) + count.to_bytes(2, "big") + bytes(3)
        ),
        st.sampled_from([0x28, 0x25, 0x43, 0x5A, 0x55, 0x46, 0x51]),
        st.integers(0, MEDIUM // 2048 + 1),
        st.integers(0, 40),
    ),
    st.builds(
        lambda op, a, length: bytes([op, a, 0, 0, length, 0, 0, 0, length, 0, 0, 0]),
        st.sampled_from([0x00, 0x03, 0x12, 0x1B, 0x1E, 0x4A, 0xBD]),
        st.integers(0, 3),
        st.integers(0, 255),
    ),
    st.binary(min_size=12, max_size=12),
)
_PACKET_ASK = st.builds(
    DriveAsk, st.just(0xA0), st.integers(0, 1), st.just(0), st.integers(0, 0xFFFFFF), st.just(0xA0),
    _PACKETS, st.sampled_from([2048, 4096, 65536]), st.just(0),
)  # fmt: skip
_DRIVE_ASK = st.one_of(_ATA_ASK, _PACKET_ASK)

_KNOWN: dict[str, tuple[Strategy, ...]] = {
    "char_received": (_DATA,),
    "char_status": (_BOOL, _BOOL, _BOOL, _BOOL),
    "char_send": (st.one_of([_DATA] * 7 + [st.just(BULK)]),),
    "char_parameters": (
        st.sampled_from([50, 9600, 115200, 1_500_000]),
        st.integers(5, 8),
        st.sampled_from("NOEMS"),
        st.sampled_from([1.0, 1.5, 2.0]),
    ),
    "key_event": (st.one_of(st.integers(0x04, 0x65), st.integers(0xE0, 0xE7), st.integers(0, 0xFF)), _BOOL),
    "mouse_event": (_SMALL, _SMALL, st.integers(-8, 8), st.integers(-8, 8), st.integers(0, 31)),
    "media_submit": (_MEDIA_ASK,),
    "drive_submit": (_DRIVE_ASK,),
    "drive_reset": (st.sampled_from(DriveReset),),
}
_SILENT = {"drive_phase"}  # asked with each request
_WEIGHTY = ("char_send", "char_received", "media_submit", "drive_submit", "key_event", "mouse_event")


@frozen
class CallOf:
    """A call: a method of a layer and its arguments."""

    method: str
    args: tuple[Any, ...]


def calls(protocol: type[Any]) -> st.SearchStrategy[CallOf] | None:
    """The calls of one direction of a layer; None when nobody can make up any."""
    options: list[st.SearchStrategy[CallOf]] = []
    for name, member in _methods(protocol):
        arguments = _KNOWN.get(name) or _from_annotations(member)
        if arguments is None or name in _SILENT:
            continue
        strategy = st.builds(CallOf, st.just(name), st.tuples(*arguments))
        options += [strategy] * (8 if name in _WEIGHTY else 1)
    return st.one_of(options) if options else None


def _methods(protocol: type[Any]) -> list[tuple[str, Callable[..., Any]]]:
    return [
        (name, member)
        for base in protocol.__mro__
        if base not in (object, End) and getattr(base, "_is_protocol", False)
        for name, member in vars(base).items()
        if inspect.isfunction(member) and not name.startswith("_")
    ]


def _from_annotations(method: Callable[..., Any]) -> tuple[Strategy, ...] | None:
    found = []
    hints = inspect.get_annotations(method, eval_str=True)
    for name in list(inspect.signature(method).parameters)[1:]:
        strategy = _of_type(hints.get(name))
        if strategy is None:
            return None
        found.append(strategy)
    return tuple(found)


def _of_type(hint: Any) -> Strategy | None:
    plain: dict[Any, Strategy] = {
        bool: _BOOL,
        int: st.one_of(st.integers(0, 3), st.integers(0, 0xFFFF)),
        bytes: _DATA,
        str: st.text(max_size=20),
        float: st.floats(0, 1000),
    }
    if hint in plain:
        return plain[hint]
    if isinstance(hint, type) and (issubclass(hint, enum.Enum) or attrs.has(hint)):
        return st.from_type(hint)
    return None


def layer_calls(layer: Layer[Any, Any]) -> tuple[st.SearchStrategy[CallOf] | None, ...]:
    """(down, up)."""
    return calls(layer.below), calls(layer.above)
