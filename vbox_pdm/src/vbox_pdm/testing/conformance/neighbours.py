"""What stands below a LUN, or above and below a driver, while it is checked.

Fakes of the bench that record what is said to them, have moods (a line that accepts nothing, a disk
that fails, a request that takes its time), and can be copied, so that a twin has the same neighbour.
"""

from __future__ import annotations

import copy
import enum
import functools
import inspect
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from vbox_pdm import ata
from vbox_pdm.display import Display, Picture, TextScreen
from vbox_pdm.drive import ATA_SIGNATURE, ATAPI_SIGNATURE, Direction, Drive, DriveRequest, Phase, TaskFile
from vbox_pdm.layers import CharStream, End, Keyboard, Layer, Mouse
from vbox_pdm.media import Media, MediaOp, MediaRequest
from vbox_pdm.testing.conformance.violations import Violation
from vbox_pdm.testing.fake_drive import ABORTED, Answer, FakeDrive
from vbox_pdm.testing.fake_media import FakeMedia
from vbox_pdm.testing.fakes import Fake, FakeStream, fake, fake_above

MEDIUM = 256 << 10
"""Bytes of the medium that the kit puts into a drive."""
_BAD = (4 * 512, 2 * 512)
"""Offset and length of the bad sectors of a medium that has some."""
_LINKS = ("above", "below", "around", "trace", "told", "layer", "mood", "moods", "thread")


def medium(length: int = MEDIUM, seed: int = 1) -> bytes:
    """The content of a medium: reproducible noise, whose first and last sectors are zeros."""
    noise = random.Random(seed).randbytes(length)
    return bytes(512) + noise[512:-512] + bytes(512)


class Stream(FakeStream):
    """A line that accepts all, nothing, one character at a time, or takes its time: then it refuses, has
    room again when it is asked next, and says so at the end of the step, where it takes one character
    first."""

    moods = ("accepts all", "accepts nothing", "accepts one", "takes its time")

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self.rest = b""
        """Of what was offered last, what was not accepted."""
        self.relents = False
        """Whether somebody calls `relent` at the end of a step."""
        self.owes = False
        """Whether somebody who was refused waits to hear of room."""

    def mood(self, name: str) -> None:
        """Change it."""
        self.accept = {"accepts nothing": 0, "accepts one": 1}.get(name)
        self.slow = name == "takes its time"
        if self.slow:
            self.accept = 0
        self.rest, self.owes = b"", False  # what was refused before, the guest may have taken back

    def char_send(self, data: bytes) -> int:
        if self.slow and self.relents and self.rest and data:
            self._expect(bytes(data), self.rest[: len(data)])
            self._accept = None  # and nobody was told yet
        taken = super().char_send(data)
        self.rest = bytes(data[taken:])
        self.owes = self.owes or bool(self.rest)
        if self.slow:
            self._accept = 0
        return taken

    def relent(self, *, alone: bool) -> None:
        """The end of a step.  Violation unless what was refused comes again; `alone`: nothing in the step
        can have taken it back."""
        if not self.slow or not self.owes:
            return
        self.owes, self._refused = False, True
        self._take(1, self.rest[:1] if alone else b"")
        if self.rest:
            self._take(None, self.rest)
        self._accept, self.owes = 0, False

    def _take(self, more: int | None, expected: bytes) -> None:
        before, self.rest, self.slow = len(self.sent), b"", False
        self.accept = more
        self.slow = True
        self._expect(bytes(self.sent[before:]), expected)

    def _expect(self, came: bytes, expected: bytes) -> None:
        if not came.startswith(expected):
            raise Violation(
                "carried", f"a stream refused {expected!r:.80}, and was given {came!r:.80} instead"
            )

    def calm(self) -> None:
        """Nothing is ever under way."""


class Disk(FakeMedia):
    """A medium that works, holds its requests back, fails them, is full, or is not there."""

    moods = (
        "works", "holds", "fails", "cannot be read", "has bad sectors", "is full", "is read only", "is gone",
        "is another",
    )  # fmt: skip
    facts = ("locked",)

    def __init__(self) -> None:
        super().__init__(medium())
        self.refused = 0
        """How many requests ended with an error."""
        self.strict = False
        """Whether who is above it knows its size: a filter is not to blame for what it passes on."""

    def media_submit(self, request: MediaRequest) -> None:
        """Whoever knows what lies in the drive asks for nothing else."""
        length = request.length or sum(view.nbytes for view in request.views)
        if self.strict and self.data is not None and request.op is not MediaOp.FLUSH:
            if request.offset + length > len(self.data):
                raise Violation("layer", f"{length} bytes at {request.offset:#x} lie behind the medium's end")
            if self.read_only and request.op is not MediaOp.READ:
                raise Violation("layer", f"a medium that is read only gets a request to {request.op.value}")
        super().media_submit(request)

    def _error(self, request: MediaRequest) -> str | None:
        error = super()._error(request)
        self.refused += error is not None
        return error

    def mood(self, name: str) -> None:
        """Change it."""
        self.calm()
        self.mend()
        self.hold = name == "holds"
        if self.read_only != (name == "is read only"):
            self.read_only = not self.read_only
            self.change(medium(seed=3 + self.read_only), identity=f"{self.identity}*")
        if name == "fails":
            for op in MediaOp:
                self.fail(op, "VERR_READ_ERROR" if op is MediaOp.READ else "VERR_WRITE_ERROR")
        elif name == "cannot be read":
            self.fail(MediaOp.READ, "VERR_READ_ERROR")
        elif name == "has bad sectors":
            self.fail(MediaOp.READ, "VERR_READ_ERROR", *_BAD)
            self.fail(MediaOp.WRITE, "VERR_WRITE_ERROR", *_BAD)
        elif name == "is full":
            self.fail(MediaOp.WRITE, "VERR_DISK_FULL")
        elif name == "is gone" and self.data is not None:
            self.change(None)
        elif name == "is another" or (name == "works" and self.data is None):
            self.change(medium(seed=2), identity=f"{self.identity}+")

    def calm(self) -> None:
        """Carry out what is held."""
        self.release_all()


class AtaDrive(FakeDrive):
    """A drive whose answers depend on the command alone."""

    moods = ("works", "holds", "fails", "is gone", "takes packets", "gives little")

    def __init__(self) -> None:
        super().__init__()
        self.failing = False

    def mood(self, name: str) -> None:
        """Change it."""
        self.calm()
        before = self.signature
        self.hold = name == "holds"
        self.failing = name == "fails"
        self.most = 700 if name == "gives little" else None
        self.signature = {"is gone": None, "takes packets": ATAPI_SIGNATURE}.get(name, ATA_SIGNATURE)
        if self.signature != before:
            self.notify()

    def calm(self) -> None:
        """Carry out what is held."""
        while self.held is not None:
            self.complete()

    def _answer(self, task: TaskFile, packet: bytes) -> Answer:
        phase = _packet_phase(packet) if packet else _command_phase(task)
        if phase is None:
            return ABORTED
        if self.failing:
            return Answer(phase, _pattern(phase, phase.length // 2), status=0x51, error=0x40)
        return Answer(phase, _pattern(phase, phase.length), lambda at, data: None)


def _command_phase(task: TaskFile) -> Phase | None:
    try:
        command = ata.Command(task.command)
    except ValueError:
        return None
    name = command.name
    if command is ata.Command.PACKET:
        return None  # without a packet there is nothing to do
    length = (task.count & 0xFF or 256) * 512
    if name.startswith("IDENTIFY"):
        return Phase(Direction.IN, 512)
    if name.startswith("READ") and "VERIFY" not in name and "NATIVE" not in name:
        return Phase(Direction.IN, length, dma="DMA" in name)
    if name.startswith("WRITE"):
        return Phase(Direction.OUT, length, dma="DMA" in name)
    return Phase()


def _packet_phase(packet: bytes) -> Phase | None:
    if packet[0] in (0x28, 0xA8):
        length = int.from_bytes(packet[7:9] if packet[0] == 0x28 else packet[6:10], "big") % 64 * 2048
        return Phase(Direction.IN, length, 2048)
    if packet[0] in (0x12, 0x03, 0x5A):
        return Phase(Direction.IN, packet[4] or packet[8], 2048)
    return Phase() if packet[0] in (0x00, 0x1B, 0x1E) else None


def _pattern(phase: Phase, length: int) -> bytes:
    return bytes(range(256)) * (length // 256 + 1) if phase.direction is Direction.IN else b""


# --- recording


def below(layer: Layer[Any, Any], trace: list[Any]) -> Any:
    """A neighbour to stand below."""
    kinds: Mapping[str, Callable[[], Fake]] = {
        Drive.name: AtaDrive,
        Media.name: Disk,
        CharStream.name: Stream,
    }
    made = kinds[layer.name]() if layer.name in kinds else fake(layer)
    return recorded(made, layer.below, trace)


def above(layer: Layer[Any, Any], trace: list[Any]) -> Any:
    """A neighbour to stand above a driver.  Where its layer knows of room it has moods, too."""
    made = recorded(fake_above(layer), layer.above, trace)
    if layer.name in _ABOVE:
        made.moods = tuple(_ABOVE[layer.name])
        made.mood = functools.partial(_upper_mood, made)
        made.answers.update(_ABOVE[layer.name][made.moods[0]])
    return made


_TEXT = TextScreen(4, 2, b"k\x07i\x07t\x07!\x07" * 2, (1, 1), bytes(range(48)), False)
_ABOVE: dict[str, dict[str, dict[str, Any]]] = {
    CharStream.name: {
        "has room": {"char_room": 64},
        "has no room": {"char_room": 0},
        "has little room": {"char_room": 16},
        "asks for more while it takes some": {"char_room": 23},
    },
    Keyboard.name: {
        "takes keys": {"key_event": True},
        "takes no keys": {"key_event": False},
        "asks for more while it takes keys": {"key_event": True},
    },
    Mouse.name: {
        "takes events": {"mouse_event": True},
        "takes no events": {"mouse_event": False},
        "asks for more while it takes events": {"mouse_event": True},
    },
    Display.name: {
        "shows text": {"display_text": _TEXT, "display_picture": Picture(2, 1, b"\0\x80\xff\xff\x80\0")},
        "shows a picture": {"display_text": None, "display_picture": Picture(1, 2, b"\x10\x20\x30" * 2)},
        "shows nothing": {"display_text": None, "display_picture": None},
    },
}
_TAKING = {"char_received": "char_ready", "key_event": "key_ready", "mouse_event": "mouse_ready"}
_READY = {CharStream.name: "char_ready", Keyboard.name: "key_ready", Mouse.name: "mouse_ready"}


def _upper_mood(neighbour: Any, name: str) -> None:
    """Change it; who has room again says so."""
    layer = neighbour.layer.name
    neighbour.answers.update(_ABOVE[layer][name])
    neighbour.eager = name.startswith("asks")
    if layer in _READY and "no " not in name:
        neighbour.traffic(lambda: getattr(neighbour.below, _READY[layer])())


def recorded(neighbour: Any, protocol: type[Any], trace: list[Any]) -> Any:
    """`neighbour`, whose methods of `protocol` from now on tell `trace` what they were given."""
    neighbour.__class__ = _recorded(type(neighbour), protocol)  # type: ignore[arg-type]  # a class is hashable
    neighbour.trace = trace
    neighbour.told = None
    neighbour.thread = threading.get_ident()
    neighbour.eager = False
    return neighbour


@functools.cache
def _recorded(kind: type[Any], protocol: type[Any]) -> type[Any]:
    members = {}
    for base in protocol.__mro__:
        if base in (object, End) or not getattr(base, "_is_protocol", False):
            continue
        for name, member in vars(base).items():
            own = getattr(kind, name, None)
            if inspect.isfunction(member) and not name.startswith("_") and own is not None:
                members[name] = _recording(name, own)
    return type(f"Recorded{kind.__name__}", (kind,), members)


def _recording(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if threading.get_ident() != self.thread:
            raise Violation("thread", f"{name} was called by a worker, and not by way of a queue")
        if name == "char_received":
            _take(self, given[0])
        self.trace.append((name, *(summary(arg) for arg in given)))
        answer = own(self, *args, **kwargs)
        if self.told is not None:
            self.told(name, given, answer)
        if self.eager and name in _TAKING:
            self.eager = False  # once: what it gets by asking is taken as it is
            getattr(self.below, _TAKING[name])()
            self.eager = True
        return answer

    for mark in [key for key in vars(method) if key.startswith("vbox_")]:
        delattr(method, mark)
    return method


def _take(neighbour: Any, data: bytes) -> None:
    """Nobody above a driver is given more than there is room for.  There is more of it each time, until
    the mood changes: much is not taken in so many pieces that it takes for ever."""
    answers = getattr(neighbour, "answers", {})
    room = answers.get("char_room")
    if isinstance(room, int):
        if len(data) > room:
            raise Violation("layer", f"{len(data)} characters came where there is room for {room}")
        answers["char_room"] = min(room + room // 4, 1 << 16)


def summary(value: Any) -> Any:
    """What two runs can be compared by."""
    if isinstance(value, MediaRequest):
        data = b"".join(bytes(v) for v in value.views) if value.op is MediaOp.WRITE else b""
        room = sum(v.nbytes for v in value.views)
        return ("request", value.op.value, value.offset, value.length, room, data)
    if isinstance(value, DriveRequest):
        room = sum(v.nbytes for v in value.views)
        return ("request", value.task, value.packet, value.position, room)
    if isinstance(value, (memoryview, bytearray)):
        return bytes(value)
    if isinstance(value, enum.Enum) or attrs.has(type(value)):
        return repr(value)
    return value if isinstance(value, (int, str, bytes, float, type(None))) else type(value).__name__


def moods(neighbour: Any) -> tuple[str, ...]:
    """The names that `set_mood` takes."""
    if hasattr(neighbour, "moods"):
        found: tuple[str, ...] = neighbour.moods
        return found
    return (
        ("answers as an open end", "answers nothing", "answers a lot")
        if hasattr(neighbour, "answers")
        else ()
    )


def set_mood(neighbour: Any, name: str) -> None:
    """Change how a neighbour answers."""
    if hasattr(neighbour, "mood"):
        neighbour.mood(name)
        return
    neighbour.answers.clear()
    if name == "answers as an open end":
        return
    little = name == "answers nothing"
    for method in vars(type(neighbour)):
        kind = (
            inspect.get_annotations(getattr(type(neighbour), method), eval_str=True).get("return")
            if not (method.startswith("_")) and callable(getattr(type(neighbour), method))
            else None
        )
        if kind in (int, bool, bytes):
            neighbour.answers[method] = (
                kind() if little else {int: 255, bool: True, bytes: b"\xff" * 64}[kind]
            )


def calm(neighbour: Any) -> None:
    """Whatever it holds back is done now."""
    if hasattr(neighbour, "calm"):
        neighbour.calm()


def become(neighbour: Any, model: Any) -> None:
    """Make a neighbour of a twin what `model` is, but for what only the one above tells it."""
    skip = (*_LINKS, *getattr(neighbour, "facts", ()))
    neighbour.__dict__.update(
        {name: copy.deepcopy(value) for name, value in vars(model).items() if name not in skip}
    )


def told_otherwise(neighbour: Any, model: Any) -> str:
    """What two neighbours were told differently; empty when nothing was."""
    for name in getattr(neighbour, "facts", ()):
        one, other = getattr(model, name), getattr(neighbour, name)
        if one != other:
            return f"'{name}' of what hangs below is {one!r}, and {other!r}"
    return ""
