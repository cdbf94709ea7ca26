"""Neighbours for tests: what stands below a LUN or above a driver instead of the real thing.

A fake that stands below has `above`, the end of the link through which it talks up; the host sets
it.  Traffic from a fake powers the bench on, if need be, and returns when all is done that is due.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from vbox_pdm.layers import (
    CharStreamAbove,
    End,
    KeyboardAbove,
    Layer,
    MouseAbove,
)


class Fake:
    """Base of the fakes.  A bench sets `around`, which carries out traffic that a test starts."""

    around: Callable[[Callable[[], Any]], Any] | None = None

    def traffic(self, call: Callable[[], Any]) -> Any:
        """Carry out `call`, which talks to the neighbour, as the bench wants it."""
        return call() if self.around is None else self.around(call)


class Parameters(NamedTuple):
    """Line settings of a character stream."""

    baud: int
    data_bits: int
    parity: str
    stop_bits: float


class Lines(NamedTuple):
    """Modem control outputs."""

    dtr: bool
    rts: bool


class FakeStream(Fake):
    """The neighbour below a CharStream LUN.

    `accept` is how many bytes it takes before it refuses (None: all); set it anew to let more
    through, which also tells the sender (`char_sendable`) when it had been refused.
    """

    above: CharStreamAbove | None = None

    def __init__(self, accept: int | None = None) -> None:
        self.sent = bytearray()
        """What came down."""
        self.parameters: Parameters | None = None
        """The line settings last told."""
        self.lines: Lines | None = None
        """The modem control outputs last told."""
        self.breaks: list[bool] = []
        """The break levels told."""
        self.pending = bytearray()
        """What was offered and has not been taken yet."""
        self._accept = accept
        self._refused = False
        self._status = {"cts": False, "dsr": False, "ri": False, "dcd": False}

    # --- what a test does

    def feed(self, data: bytes) -> None:
        """Deliver `data` at once whether there is room or not: the rest overruns."""
        if self.above is not None:
            above = self.above
            self.traffic(lambda: above.char_received(bytes(data)))

    def offer(self, data: bytes) -> int:
        """Deliver as much of `data` as there is room for, now and whenever `char_ready` is called.
        Returns how many bytes were delivered by now."""
        before = len(self.pending)
        self.pending += data
        self.traffic(self._deliver)
        return max(0, before + len(data) - len(self.pending))

    def set_status(
        self,
        cts: bool | None = None,
        dsr: bool | None = None,
        ri: bool | None = None,
        dcd: bool | None = None,
    ) -> None:
        """Change modem status inputs; what is not given stays."""
        given = {"cts": cts, "dsr": dsr, "ri": ri, "dcd": dcd}
        self._status.update({name: value for name, value in given.items() if value is not None})
        if self.above is not None:
            above = self.above
            self.traffic(lambda: above.char_status(**self._status))

    def send_break(self) -> None:
        """A break arrives."""
        if self.above is not None:
            self.traffic(self.above.char_break_received)

    def take(self) -> bytes:
        """What was sent since the last call; `sent` is emptied."""
        data = bytes(self.sent)
        self.sent.clear()
        return data

    @property
    def accept(self) -> int | None:
        """How many more bytes are accepted; None for any number."""
        return self._accept

    @accept.setter
    def accept(self, more: int | None) -> None:
        self._accept = more
        if self._refused and more != 0 and self.above is not None:
            self._refused = False
            self.traffic(self.above.char_sendable)

    # --- the layer

    def char_send(self, data: bytes) -> int:
        taken = len(data) if self._accept is None else min(len(data), self._accept)
        self.sent += data[:taken]
        if self._accept is not None:
            self._accept -= taken
        self._refused = taken < len(data)
        return taken

    def char_ready(self) -> None:
        self._deliver()

    def char_parameters(self, baud: int, data_bits: int, parity: str, stop_bits: float) -> None:
        self.parameters = Parameters(baud, data_bits, parity, stop_bits)

    def char_lines(self, dtr: bool, rts: bool) -> None:
        self.lines = Lines(dtr, rts)

    def char_break(self, level: bool) -> None:
        self.breaks.append(level)

    def _deliver(self) -> None:
        while self.pending and self.above is not None:
            room = self.above.char_room()
            if room <= 0:
                return
            chunk = bytes(self.pending[:room])
            del self.pending[:room]
            self.above.char_received(chunk)


class Leds(NamedTuple):
    """The lamps of a keyboard."""

    num: bool
    caps: bool
    scroll: bool


LEFT_SHIFT = 0xE1
_PLAIN = {" ": 0x2C, "\n": 0x28, "\t": 0x2B, "\b": 0x2A, "\x1b": 0x29}
_PLAIN |= {chr(ord("a") + at): 0x04 + at for at in range(26)}
_PLAIN |= {digit: 0x1E + at for at, digit in enumerate("1234567890")}
_SIGNS = {0x2D: "-_", 0x2E: "=+", 0x2F: "[{", 0x30: "]}", 0x31: "\\|", 0x33: ";:", 0x34: "'\"", 0x35: "`~"}
_SIGNS |= {0x36: ",<", 0x37: ".>", 0x38: "/?"}
_PLAIN |= {signs[0]: usage for usage, signs in _SIGNS.items()}
_SHIFTED = {signs[1]: usage for usage, signs in _SIGNS.items()}
_SHIFTED |= {chr(ord("A") + at): 0x04 + at for at in range(26)}
_SHIFTED |= {sign: 0x1E + at for at, sign in enumerate("!@#$%^&*()")}


class FakeKeyboard(Fake):
    """The neighbour below a Keyboard LUN.  Keys are HID usages of page 7; what the keyboard has no
    room for waits in `pending` until `key_ready`."""

    above: KeyboardAbove | None = None

    def __init__(self) -> None:
        self.leds: Leds | None = None
        """The lamps last told."""
        self.pending: list[tuple[int, bool]] = []
        """(usage, down) of the keys that have found no room yet."""

    def press(self, usage: int) -> None:
        """A key goes down."""
        self.pending.append((usage, True))
        self.traffic(self._deliver)

    def release(self, usage: int) -> None:
        """A key comes up."""
        self.pending.append((usage, False))
        self.traffic(self._deliver)

    def release_all(self) -> None:
        """Whatever is held comes up."""
        if self.above is not None:
            self.traffic(self.above.key_release_all)

    def type(self, text: str) -> None:
        """Type `text` on a US layout.  ValueError for a character that has no key there."""
        for character in text:
            shifted = character in _SHIFTED
            usage = (_SHIFTED if shifted else _PLAIN).get(character)
            if usage is None:
                raise ValueError(f"{character!r} is on no key of a US keyboard")
            keys = [(usage, True), (usage, False)]
            self.pending += [(LEFT_SHIFT, True), *keys, (LEFT_SHIFT, False)] if shifted else keys
        self.traffic(self._deliver)

    def key_leds(self, num: bool, caps: bool, scroll: bool) -> None:
        self.leds = Leds(num, caps, scroll)

    def key_ready(self) -> None:
        self._deliver()

    def _deliver(self) -> None:
        while self.pending and self.above is not None:
            usage, down = self.pending[0]
            if not self.above.key_event(usage, down):
                return
            del self.pending[0]


class Modes(NamedTuple):
    """What a guest's mouse driver listens to."""

    relative: bool
    absolute: bool


class FakeMouse(Fake):
    """The neighbour below a Mouse LUN; what the mouse has no room for waits in `pending`."""

    above: MouseAbove | None = None

    def __init__(self) -> None:
        self.modes: Modes | None = None
        """What the guest was last said to listen to."""
        self.pending: list[tuple[int, int, int, int, int]] = []
        """The events that have found no room yet."""

    def move(self, dx: int = 0, dy: int = 0, dz: int = 0, dw: int = 0, buttons: int = 0) -> None:
        """Relative motion (right, down, wheel towards the user, wheel right) and buttons held."""
        self.pending.append((dx, dy, dz, dw, buttons))
        self.traffic(self._deliver)

    def mouse_modes(self, relative: bool, absolute: bool) -> None:
        self.modes = Modes(relative, absolute)

    def mouse_ready(self) -> None:
        self._deliver()

    def _deliver(self) -> None:
        while self.pending and self.above is not None:
            if not self.above.mouse_event(*self.pending[0]):
                return
            del self.pending[0]


class Recorder(Fake):
    """A neighbour of any layer that records calls: made by `fake` and `fake_above`.

    `calls` is a list of (method, arguments).  `answers` maps a method to what it answers: a value,
    or a callable that is given the arguments; without one it answers as an open end does.  `above`
    (of a fake below) or `below` (of one above) talks to the other side.
    """

    layer: Layer[Any, Any]

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, Any] = {}
        self.above: Any = None
        self.below: Any = None
        self.connected = True  # what the body of a Protocol's method may ask

    def named(self, method: str) -> list[tuple[Any, ...]]:
        """The arguments of all calls of one method."""
        return [arguments for name, arguments in self.calls if name == method]


def fake(layer: Layer[Any, Any]) -> Any:
    """A Recorder to stand below a LUN, or below a driver, of any layer."""
    made: Recorder = _recorder(layer, above=False)()
    return made


def fake_above(layer: Layer[Any, Any]) -> Any:
    """A Recorder to stand above a driver."""
    made: Recorder = _recorder(layer, above=True)()
    return made


@functools.cache
def _recorder(layer: Layer[Any, Any], *, above: bool) -> type[Recorder]:
    protocol = layer.above if above else layer.below
    members: dict[str, Any] = {"layer": layer}
    for base in reversed(protocol.__mro__):
        if base in (object, End) or not getattr(base, "_is_protocol", False):
            continue
        for name, member in vars(base).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                members[name] = _recording(name, member)
    return type(f"Fake{layer.name}", (Recorder,), members)


def _recording(name: str, spec: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(spec)

    @functools.wraps(spec)
    def method(self: Recorder, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(self, *args, **kwargs).args[1:]
        self.calls.append((name, arguments))
        if name not in self.answers:
            return spec(self, *arguments)
        answer = self.answers[name]
        return answer(*arguments) if callable(answer) else answer

    # Links find their hook specifications by marks in __dict__, which a copy must not carry on.
    for mark in [key for key in vars(method) if key.startswith("vbox_")]:
        delattr(method, mark)
    return method
