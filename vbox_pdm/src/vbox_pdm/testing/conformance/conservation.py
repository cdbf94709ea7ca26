"""A filter that is transparent: what goes in at one end comes out at the other, in order.

Characters, keys and pointer motion are followed by what the neighbours were told (the trace of a rig)
and what they accepted.  A filter may hold things back while its neighbour has no room; once that is
over, and time has passed, nothing may be missing.  Pointer motion may be added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vbox_pdm.layers import CharStream, Keyboard, Layer, Mouse
from vbox_pdm.testing.conformance.setup import FarEnd
from vbox_pdm.testing.conformance.violations import Violation

FOLLOWED = (CharStream.name, Keyboard.name, Mouse.name)
_BOTH_WAYS = ("char_parameters", "char_lines", "char_break", "char_status", "key_leds", "mouse_modes")
"""Facts: the last one told must be the last one that arrives."""


class Ledger:
    """What went into a filter and what came out, by way: "up" and "down"."""

    def __init__(self, layer: Layer[Any, Any]) -> None:
        self.layer = layer
        self.sent: dict[str, bytearray] = {"up": bytearray(), "down": bytearray()}
        self.came: dict[str, bytearray] = {"up": bytearray(), "down": bytearray()}
        self.facts: dict[str, Any] = {}
        self.arrived: dict[str, Any] = {}
        self.keys_in: list[Any] = []
        self.keys_out: list[Any] = []

    def went_in(self, method: str, args: tuple[Any, ...], answer: Any) -> None:
        """A neighbour called the filter."""
        if method == "char_send":
            self.sent["down"] += bytes(args[0][: answer if isinstance(answer, int) else 0])
        elif method == "char_received":
            self.sent["up"] += bytes(args[0])
        elif method in ("key_event", "mouse_event") and answer:
            self.keys_in.append(args)
        elif method in _BOTH_WAYS:
            self.facts[method] = args

    def came_out(self, method: str, args: tuple[Any, ...], answer: Any) -> None:
        """The filter called a neighbour."""
        if method == "char_send":
            self.came["down"] += bytes(args[0][: answer if isinstance(answer, int) else 0])
        elif method == "char_received":
            self.came["up"] += bytes(args[0])
        elif method in ("key_event", "mouse_event") and answer:
            self.keys_out.append(args)
        elif method in _BOTH_WAYS:
            self.arrived[method] = args

    def check(self, *, settled: bool) -> None:
        """Nothing came out that did not go in; when all is `settled` nothing is missing."""
        for way in ("up", "down"):
            sent, came = bytes(self.sent[way]), bytes(self.came[way])
            whole = came == sent if settled else sent.startswith(came)
            if not whole:
                raise Violation("transparent", f"characters going {way}: {sent!r:.120} became {came!r:.120}")
        if self.layer is Mouse:
            self._check_motion(settled=settled)
        elif self.keys_out != self.keys_in[: len(self.keys_out)] or (
            settled and len(self.keys_out) != len(self.keys_in)
        ):
            raise Violation("transparent", f"keys {self.keys_in[-8:]} became {self.keys_out[-8:]}")
        if settled:
            for method, told in self.facts.items():
                if self.arrived.get(method) != told:
                    raise Violation("transparent", f"{method}{told} did not arrive")

    def _check_motion(self, *, settled: bool) -> None:
        if not settled:
            return
        for axis, name in enumerate(("dx", "dy", "dz", "dw")):
            went, came = (sum(event[axis] for event in events) for events in (self.keys_in, self.keys_out))
            if went != came:
                raise Violation("transparent", f"{name} of {went} became {came}")
        if self.keys_in and (not self.keys_out or self.keys_in[-1][4] != self.keys_out[-1][4]):
            raise Violation("transparent", f"buttons {self.keys_in[-1][4]} did not arrive")


class Line:
    """Characters between the neighbour above a driver and its far end."""

    def __init__(self, end: FarEnd, config: Mapping[str, Any]) -> None:
        self._end = end
        self._config = config
        self._before = end.arrived(config)
        self._sent = bytearray()
        self._came = bytearray()
        self._refused = False

    def went_in(self, method: str, args: tuple[Any, ...], answer: Any, *, told: bool) -> None:
        """The neighbour above called the driver, and perhaps was `told` meanwhile that there is room."""
        if method == "char_send" and isinstance(answer, int):
            self._sent += args[0][:answer]
            self._refused = answer < len(args[0]) and not told

    def came_out(self, method: str, args: tuple[Any, ...], answer: Any) -> None:
        """The driver called the neighbour above."""
        if method == "char_received":
            self._came += args[0]
        elif method == "char_sendable":
            self._refused = False

    @property
    def complete(self) -> bool:
        """Whether all has come that will come."""
        expected = self._end.sends(self._config, bytes(self._sent))
        return expected is None or (not self._refused and len(self._came) >= len(expected))

    def check_coming(self, *, settled: bool) -> None:
        """Only what was sent came up, and all of it when it is `settled`."""
        came, expected = bytes(self._came), self._end.sends(self._config, bytes(self._sent))
        if expected is not None and settled and self._refused:
            raise Violation("carried", "characters were refused, and char_sendable does not come")
        if expected is not None and not (came == expected if settled else expected.startswith(came)):
            raise Violation("carried", f"to come up: {_odds(expected, came)}")

    def check_arrived(self, *, told: bool) -> None:
        """All that was accepted is at the other end; a part of it when an error was `told`."""
        arrived, sent = self._end.arrived(self._config), bytes(self._sent)
        if arrived is None or self._before is None:
            return
        more = arrived[len(self._before) :] if arrived.startswith(self._before) else arrived
        if arrived != sent and more != sent and not (told and sent.startswith(more)):
            raise Violation("carried", f"sent down: {_odds(sent, more)}")


def _odds(expected: bytes, found: bytes) -> str:
    """Where two streams part."""
    pairs = zip(expected, found, strict=False)
    at = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(expected), len(found)))
    return (
        f"{len(expected)} characters became {len(found)}; from number {at} on {expected[at : at + 16]!r} "
        f"became {found[at : at + 16]!r}"
    )
