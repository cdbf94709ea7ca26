"""Layers: the traffic between two neighbours, as a pair of Protocols.

`below` is what the upper neighbour (a device, or a filter) calls downwards; `above` is what the
lower one calls upwards.  The body of a Protocol method is what an open end answers: nobody is
connected there, or the neighbour does not implement the method.

A third party may declare layers of its own in the same way.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from attrs import frozen

B = TypeVar("B")
A = TypeVar("A")


@frozen(eq=False)
class Layer(Generic[B, A]):
    """A named pair of Protocols."""

    name: str
    below: type[B]
    above: type[A]


class End(Protocol):
    """What every end of a link has besides the layer's own methods."""

    @property
    def connected(self) -> bool:
        """Whether a neighbour is there now."""


class CharStreamBelow(End, Protocol):
    """A stream of characters, as a UART's owner calls it."""

    def char_send(self, data: bytes) -> int:
        """Send; returns how many bytes were accepted.  Fewer than given: try the rest again
        after `char_sendable`.  An open end takes all."""
        return len(data)

    def char_ready(self) -> None:
        """The receiver above has room again."""

    def char_parameters(self, baud: int, data_bits: int, parity: str, stop_bits: float) -> None:
        """The line settings; parity is one of N, O, E, M, S."""

    def char_lines(self, dtr: bool, rts: bool) -> None:
        """The modem control outputs."""

    def char_break(self, level: bool) -> None:
        """The break condition begins or ends."""


class CharStreamAbove(End, Protocol):
    """A stream of characters, as its host side calls it."""

    def char_room(self) -> int:
        """How many characters may be delivered now without loss."""
        return 0

    def char_received(self, data: bytes) -> None:
        """Characters arrived; what exceeds `char_room` overruns, as on a wire."""

    def char_sendable(self) -> None:
        """`char_send` accepts again."""

    def char_status(self, cts: bool, dsr: bool, ri: bool, dcd: bool) -> None:
        """The modem status inputs."""

    def char_break_received(self) -> None:
        """A break arrived."""


CharStream = Layer("CharStream", CharStreamBelow, CharStreamAbove)  # type: ignore[type-abstract]


class KeyboardBelow(End, Protocol):
    """A source of keys, as the keyboard controller calls it."""

    def key_leds(self, num: bool, caps: bool, scroll: bool) -> None:
        """The guest set the lamps."""

    def key_ready(self) -> None:
        """There is room for keys again after `key_event` answered False."""


class KeyboardAbove(End, Protocol):
    """A keyboard, as a source of keys calls it."""

    def key_event(self, usage: int, down: bool) -> bool:
        """A key by its HID usage on page 7 (0x04 is A, 0xE0..0xE7 the modifiers).  False when
        the keyboard's buffer has no room: offer it again after `key_ready`."""
        return True

    def key_release_all(self) -> None:
        """Release whatever is held (the source lost its focus)."""


Keyboard = Layer("Keyboard", KeyboardBelow, KeyboardAbove)  # type: ignore[type-abstract]


class MouseBelow(End, Protocol):
    """A source of pointer events, as the mouse calls it."""

    def mouse_modes(self, relative: bool, absolute: bool) -> None:
        """What the guest listens to now."""

    def mouse_ready(self) -> None:
        """There is room for events again after `mouse_event` answered False."""


class MouseAbove(End, Protocol):
    """A mouse, as a source of pointer events calls it."""

    def mouse_event(self, dx: int, dy: int, dz: int, dw: int, buttons: int) -> bool:
        """Relative motion in counts (dx to the right, dy down, dz wheel towards the user, dw wheel
        to the right) and the buttons held (1 left, 2 right, 4 middle, 8 back, 16 forward).
        False when there is no room: offer it again after `mouse_ready`."""
        return True


Mouse = Layer("Mouse", MouseBelow, MouseAbove)  # type: ignore[type-abstract]
