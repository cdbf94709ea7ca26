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
from vbox_pdm.drive import ATAPI_SIGNATURE, DriveReset
from vbox_pdm.layers import End, Layer
from vbox_pdm.media import MediaOp
from vbox_pdm.testing.conformance.neighbours import MEDIUM, Disk

Strategy = st.SearchStrategy[Any]


def counting(first: int, length: int) -> bytes:
    """Bytes that differ from their neighbours, so that none can be taken for another."""
    return bytes((first + at) & 0xFF for at in range(length))


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


@frozen
class Burst:
    """Requests one after the other, while the neighbour below is in a mood ("": as it is); then it works
    again.  `settled`: each ends before the next one comes."""

    asks: tuple[MediaAsk, ...] | tuple[DriveAsk, ...]
    mood: str = ""
    settled: bool = False


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


def _looked_at(write: MediaAsk, mood: str) -> Burst:
    """A write between two reads of it and what is around it."""
    first = max(0, write.offset // 512 - 1) * 512
    length = max(512, min(MEDIUM, (-(-(write.offset + sum(write.lengths)) // 512) + 1) * 512) - first)
    read = MediaAsk(MediaOp.READ, first, (length,), 0)
    return Burst((read, write, read), mood, settled=True)


_WRITE_ASK = st.builds(
    MediaAsk,
    st.just(MediaOp.WRITE),
    st.one_of(st.integers(0, 12).map(lambda sector: sector * 512), st.integers(0, 8191)),
    st.lists(_LENGTHS, min_size=1, max_size=2).map(tuple),
    st.integers(0, 255),
)
_MEDIA_MOODS = st.sampled_from(Disk.moods)
_MEDIA_BURST = st.one_of(
    st.builds(_looked_at, _WRITE_ASK, st.sampled_from(["", "", "has bad sectors"])),
    st.builds(Burst, st.lists(_MEDIA_ASK, min_size=2, max_size=4).map(tuple), _MEDIA_MOODS, _BOOL),
)

_LAST = MEDIUM // 512 - 1
_LBA = st.one_of(
    st.integers(0, 7), st.integers(_LAST - 3, _LAST + 2), st.integers(0, _LAST), st.integers(0, (1 << 48) - 1)
)
_COUNT = st.one_of(st.integers(0, 4), st.integers(0, 4), st.integers(0, 0xFFFF))
_DEVICE = st.sampled_from([0x40, 0xE0, 0xA0, 0x00])
_ROOM = st.sampled_from([512, 1024, 4096, 65536, 8, 100, 256])
_SEED = st.integers(0, 255)


def _ask(command: int, lba: int = 0, count: int = 1, **more: Any) -> DriveAsk:
    given = {"features": 0, "device": ata.LBA, "packet": b"", "room": 4096, "seed": 1, **more}
    return DriveAsk(int(command), count=count, lba=lba, **given)


_READS_AND_WRITES = [c for c in ata.Command if c.name.startswith(("READ_", "WRITE_", "IDENTIFY", "SET_"))]
_ATA_ASK = st.builds(
    DriveAsk,
    st.one_of(st.sampled_from(_READS_AND_WRITES), st.sampled_from(list(ata.Command))).map(int)
    | st.integers(0, 255),
    st.one_of(st.integers(0, 3), st.integers(0, 255)),
    _COUNT,
    _LBA,
    _DEVICE,
    st.just(b""),
    _ROOM,
    _SEED,
)
_SETTING = st.builds(
    lambda features, count: _ask(ata.Command.SET_FEATURES, count=count, features=features),
    st.sampled_from([0x03, 0x03, 0x03, 0x02, 0x82, 0x55, 0xAA, 0x66, 0xCC]),
    st.sampled_from([0x08, 0x0C, 0x20, 0x22, 0x40, 0x45]),
)
_TRIM = st.builds(
    lambda count, room, seed: _ask(
        ata.Command.DATA_SET_MANAGEMENT, 0, count, features=1, room=room, seed=seed
    ),
    st.integers(1, 2), _ROOM, _SEED,
)  # fmt: skip
"""`DriveOracle` gives it ranges that lie on the medium."""
_C = ata.Command
_TOGETHER = [
    (_C.WRITE_BUFFER, _C.READ_BUFFER), (_C.READ_NATIVE_MAX, _C.SET_MAX),
    (_C.READ_NATIVE_MAX_EXT, _C.SET_MAX_EXT),
    (_C.SET_MULTIPLE, _C.WRITE_MULTIPLE), (_C.SET_MULTIPLE, _C.READ_MULTIPLE), (_C.SLEEP, _C.IDENTIFY),
    (_C.STANDBY, _C.CHECK_POWER), (_C.WRITE_SECTORS, _C.READ_DMA), (_C.WRITE_DMA_EXT, _C.READ_SECTORS_EXT),
    (_C.IDENTIFY, _C.INITIALIZE_PARAMETERS),
]  # fmt: skip
"""Commands of which the second depends on the first."""
_PAIR = st.builds(
    lambda pair, lba, count, room, seed: tuple(
        _ask(command, lba, count, room=room, seed=seed) for command in pair
    ),
    st.sampled_from(_TOGETHER), _LBA, st.sampled_from([0, 0, 1, 2, 4]), _ROOM, _SEED,
)  # fmt: skip


def _with_range(op: int, lba: int, count: int) -> bytes:
    return bytes([op, 0]) + lba.to_bytes(4, "big") + bytes([0]) + count.to_bytes(2, "big") + bytes(3)


def _with_length(op: int, first: int, length: int) -> bytes:
    return bytes([op, first, 0, 0, length, 0, 0, 0, length, 0, 0, 0])


def _read_cd(lba: int, count: int, flags: int) -> bytes:
    return bytes([0xBE, 0]) + lba.to_bytes(4, "big") + count.to_bytes(3, "big") + bytes([flags, 0, 0])


def _read_cd_msf(first: tuple[int, int], last: tuple[int, int], flags: int) -> bytes:
    return bytes([0xB9, 0, 0, 0, *first, 0, *last, flags, 0, 0])


_FLAGS = st.sampled_from([0x10, 0xF8, 0x00])
_MSF = st.tuples(st.integers(2, 3), st.integers(0, 74))
"""Second and frame: where the blocks of a small disc are."""
_BLOCKS = st.one_of(st.integers(0, 2), st.integers(0, 40))
_PACKETS = st.one_of(
    st.builds(
        _with_range,
        st.sampled_from([0x28, 0x28, 0x25, 0x43, 0x5A, 0x55, 0x46, 0x51]),
        st.integers(0, MEDIUM // 2048 + 1),
        _BLOCKS,
    ),
    st.builds(
        _with_length,
        st.sampled_from([0x00, 0x03, 0x12, 0x1B, 0x1E, 0x4A, 0xBD]),
        st.integers(0, 3),
        st.integers(0, 255),
    ),
    st.one_of(
        st.builds(_read_cd, st.integers(0, MEDIUM // 2048 + 1), _BLOCKS, _FLAGS),
        st.builds(_read_cd_msf, _MSF, _MSF, _FLAGS),
    ),
    st.binary(min_size=12, max_size=12),
)
_ATTENTIONS = (0x00, 0x00)
"""TEST UNIT READY, as often as a drive may have news to tell before it does anything else."""


def _packet_ask(packet: bytes, *, features: int = 0, room: int = 4096, seed: int = 0) -> DriveAsk:
    return DriveAsk(int(ata.Command.PACKET), features, 0, 0xFFFF00, 0xA0, packet, room, seed)


_PACKET_ASK = st.builds(
    lambda packet, features, room, seed: _packet_ask(packet, features=features, room=room, seed=seed),
    _PACKETS, st.integers(0, 1), st.sampled_from([2048, 4096, 65536, 8, 100]), _SEED,
)  # fmt: skip
_READY = tuple(_packet_ask(bytes([op] + [0] * 11)) for op in _ATTENTIONS)
_MODE_PAGES = st.builds(
    lambda room, seed: (
        *_READY,
        _packet_ask(bytes([0x5A, 0, 0x3F, 0, 0, 0, 0, 1, 0, 0, 0, 0])),
        _packet_ask(bytes([0x55, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), room=room, seed=seed),
    ),
    st.sampled_from([8, 100, 4096]), _SEED,
)  # fmt: skip
"""What a drive says of its modes is given back to it, by `DriveOracle`."""
_ONE_PACKET = st.one_of(_PACKET_ASK, st.builds(_ask, st.just(int(ata.Command.PACKET)))).map(
    lambda ask: (*_READY, ask)
)
"""A packet, or the command without one."""
_DRIVE_MOODS = st.sampled_from(["", "", "", "has bad sectors", *Disk.moods[1:]])


def _mixed(asks: list[Strategy], together: list[Strategy]) -> Strategy:
    """Commands alone and several together, of which each kind is as likely as another."""
    bursts = st.builds(Burst, st.one_of(together), _DRIVE_MOODS, st.just(True))
    chosen = [*asks * 2, *[bursts] * 2 * len(asks)]
    return st.sampled_from(range(len(chosen))).flatmap(lambda number: chosen[number])


_FOR_DISKS = _mixed(
    [_ATA_ASK, _ATA_ASK, _SETTING, _TRIM],
    [_PAIR, _PAIR, st.lists(_ATA_ASK, min_size=2, max_size=3).map(tuple)],
)
_FOR_PACKETS = _mixed(
    [_PACKET_ASK, _PACKET_ASK, _ATA_ASK, _SETTING],
    [_MODE_PAGES, _ONE_PACKET, _ONE_PACKET, st.lists(_PACKET_ASK, min_size=2, max_size=3).map(tuple)],
)


def drive_asks(signature: int | None) -> Strategy:
    """Commands for a drive that says what it is."""
    return _FOR_PACKETS if signature == ATAPI_SIGNATURE else _FOR_DISKS


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
    "media_submit": (st.one_of(_MEDIA_ASK, _MEDIA_ASK, _MEDIA_BURST),),
    "drive_submit": (_FOR_DISKS,),
    "drive_reset": (st.sampled_from(DriveReset),),
}
_SILENT = {"drive_phase"}  # asked with each request
_WEIGHTY = ("char_send", "char_received", "media_submit", "drive_submit", "key_event", "mouse_event")


@frozen
class CallOf:
    """A call: a method of a layer and its arguments."""

    method: str
    args: tuple[Any, ...]


def calls(protocol: type[Any], **better: Strategy) -> st.SearchStrategy[CallOf] | None:
    """The calls of one direction of a layer; None when nobody can make up any.  `better`: what the only
    argument of a method should be here."""
    options: list[st.SearchStrategy[CallOf]] = []
    for name, member in _methods(protocol):
        arguments = (better[name],) if name in better else _KNOWN.get(name) or _from_annotations(member)
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
