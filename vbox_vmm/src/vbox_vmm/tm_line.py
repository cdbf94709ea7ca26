"""The line on which TM's virtual clocks run from one decision of TM's to the next.

Devices read the time at nearly every access, so there is a native twin, `_tm_line`, which does the same
without a frame of Python; `make_line` takes it where it was built.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from vbox_vmm.tm_config import NS_PER_SECOND

Source = Callable[[], int]


class Line(Protocol):
    """VIRTUAL and VIRTUAL_SYNC as functions of a source of time.  All times are ns.

    VIRTUAL was `base` at the source's time `anchor` and runs at `warp` per cent of the source's speed (0: it
    stands).  VIRTUAL_SYNC was `s0` when VIRTUAL was `v0` and runs with it, `rate` per cent faster until
    VIRTUAL is `v_end`; it stops at `limit`.
    """

    def set(
        self, anchor: int, base: int, warp: int, v0: int, s0: int, rate: int, v_end: int, limit: int, /
    ) -> None:
        """The line is another one."""

    def hold(self, limit: int, /) -> None:
        """VIRTUAL_SYNC stops elsewhere; the rest stays."""

    def virtual(self) -> int:
        """VIRTUAL's time."""

    def sync(self) -> int:
        """VIRTUAL_SYNC's."""

    def unlimited(self, virtual: int, /) -> int:
        """VIRTUAL_SYNC at a time of VIRTUAL, were there no limit."""

    def reader(self, sync: bool, hz: int, /) -> Callable[[], int]:
        """What gives the time of VIRTUAL_SYNC or VIRTUAL in periods of `hz` (1..10**9), rounded down."""


class PlainLine:
    """A line in Python."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._anchor = self._base = self._warp = 0
        self._v0 = self._s0 = self._rate = self._v_end = self._limit = 0

    def set(
        self, anchor: int, base: int, warp: int, v0: int, s0: int, rate: int, v_end: int, limit: int, /
    ) -> None:
        """The line is another one."""
        self._anchor, self._base, self._warp = anchor, base, warp
        self._v0, self._s0, self._rate, self._v_end, self._limit = v0, s0, rate, v_end, limit

    def hold(self, limit: int, /) -> None:
        """VIRTUAL_SYNC stops elsewhere."""
        self._limit = limit

    def virtual(self) -> int:
        """VIRTUAL's time."""
        if not self._warp:
            return self._base
        return self._base + (self._source() - self._anchor) * self._warp // 100

    def sync(self) -> int:
        """VIRTUAL_SYNC's."""
        return min(self.unlimited(self.virtual()), self._limit)

    def unlimited(self, virtual: int, /) -> int:
        """VIRTUAL_SYNC, were there no limit."""
        sync = self._s0 + virtual - self._v0
        if self._rate:
            sync += (min(virtual, self._v_end) - self._v0) * self._rate // 100
        return sync

    def reader(self, sync: bool, hz: int, /) -> Callable[[], int]:
        """What gives the time in periods of `hz`."""
        read = self.sync if sync else self.virtual
        return read if hz == NS_PER_SECOND else lambda: read() * hz // NS_PER_SECOND


def make_line(source: Source) -> Line:
    """A line that stands at 0."""
    try:
        from vbox_vmm._tm_line import Line as NativeLine
    except ImportError:  # there was no compiler
        return PlainLine(source)
    return NativeLine(None if source is time.monotonic_ns else source)
