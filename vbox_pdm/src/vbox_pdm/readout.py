"""Registers that are read over and over and follow from a clock: the answer is known ahead.

A guest that waits polls: bit 4 of port 61h, the RTC's update in progress, a counter's value.  Each read is a
call of the device's handler, which reads a clock and computes what it computed a moment ago.  A readout
(`helpers.readout`) stands in front of that handler: as long as the device has said ahead what a register
reads, and until when, the host answers, without Python where it can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

FOREVER = 1 << 62
"""As `until`: as long as nothing happens."""
_MASK = (1 << 64) - 1


class Readout(Protocol):
    """What `helpers.readout` gives; `read` is the handler to be mapped.

    What is held follows from the clock alone: whoever changes what else it follows from (by a write, a reset,
    a loaded state) drops it or holds it anew.  Nothing of it is saved.
    """

    def read(self, offset: int, size: int, /) -> int:
        """The read handler of a region: what is held, else what the device's own handler says."""

    def hold(
        self,
        offset: int,
        size: int,
        value: int,
        until: int,
        step: int = 0,
        parts: int = 1,
        part: int = 0,
        /,
    ) -> None:
        """A read of `size` bytes (1, 2, 4, 8) at `offset` (0..63) gives `value + step * clock`, cut to size,
        as long as the clock is before `until`; no other read is concerned.

        With `parts` (up to `8 // size`) the register is so many times as wide as the access: reads give its
        parts in turn, the low one first; `part` comes next.  ValueError when one of these makes no sense.
        """

    def drop(self, offset: int, /) -> int:
        """Hold nothing there any more.  The part that would have come next, or -1 if nothing was held."""


class PlainReadout:
    """A readout in Python, for hosts; `now` gives the clock, `look` is the device's handler."""

    def __init__(self, now: Callable[[], int], look: Callable[[int, int], int]) -> None:
        self._now = now
        self._look = look
        self._held: dict[int, list[int]] = {}

    def read(self, offset: int, size: int, /) -> int:
        """See Readout."""
        held = self._held.get(offset)
        if held is not None and held[0] == size:
            now = self._now()
            if now < held[2]:
                _, value, _, step, parts, part = held
                held[5] = (part + 1) % parts
                return ((value + step * now & _MASK) >> 8 * size * part) & ((1 << 8 * size) - 1)
        return self._look(offset, size)

    def hold(
        self,
        offset: int,
        size: int,
        value: int,
        until: int,
        step: int = 0,
        parts: int = 1,
        part: int = 0,
        /,
    ) -> None:
        """See Readout."""
        if not (0 <= offset < 64 and size in (1, 2, 4, 8) and 1 <= parts <= 8 // size and 0 <= part < parts):
            raise ValueError(
                f"a readout cannot hold {parts} parts of {size} bytes at {offset}, part {part} next"
            )
        self._held[offset] = [size, value, until, step, parts, part]

    def drop(self, offset: int, /) -> int:
        """See Readout."""
        held = self._held.pop(offset, None)
        return -1 if held is None else held[5]
