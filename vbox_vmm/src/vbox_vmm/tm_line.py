"""The line on which TM's virtual clocks run from one decision of TM's to the next.

Devices read the time at nearly every access, so there is a native twin, `_tm_line`, which does the same
without a frame of Python; `make_line` takes it where it was built.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from vbox_pdm.readout import PlainReadout, Readout
from vbox_vmm.tm_config import NS_PER_SECOND
from vbox_vmm.tm_timer import FAR

NO_LIMIT = (1 << 64) - 1
"""As the limit of the TSC: none."""

TscMapping = tuple[int, int, int, int]
"""(ticks, time, hz, limit), as `Engine.set_tsc` takes them: at `now` of the source the TSC is
min(ticks + (now - time) * hz / 10**9, limit)."""
Source = Callable[[], int]
Look = Callable[[int, int], int]
"""A read handler."""


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

    def virtual_of(self, sync: int, /) -> int:
        """The first time of VIRTUAL at which VIRTUAL_SYNC is `sync` or more, were there no limit; FAR
        stays FAR."""

    def deadline(self, virtual: int, /) -> int:
        """The first time of the source at which VIRTUAL is `virtual`, VIRTUAL_SYNC at its limit, or catching
        up is over; FAR when none of these comes."""

    def mapping(self, offset: int, hz: int, /) -> TscMapping:
        """The line, from now on, of a TSC of `hz` (1..2**63), `offset` ticks (63 bits, signed) ahead of
        VIRTUAL_SYNC and never below 0."""

    def reader(self, sync: bool, hz: int, /) -> Callable[[], int]:
        """What gives the time of VIRTUAL_SYNC or VIRTUAL in periods of `hz` (1..10**9), rounded down."""

    def readout(self, look: Look, sync: bool, hz: int, /) -> Readout:
        """What answers by such a reader in front of the read handler `look`."""


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

    def virtual_of(self, sync: int, /) -> int:
        """The first time of VIRTUAL at which VIRTUAL_SYNC has come so far."""
        if sync >= FAR:
            return FAR
        need = sync - self._s0
        if not self._rate or need <= 0:
            return self._v0 + need
        span = self._v_end - self._v0
        fast = span + span * self._rate // 100
        if need <= fast:
            return self._v0 - (-need * 100 // (100 + self._rate))
        return self._v_end + need - fast

    def deadline(self, virtual: int, /) -> int:
        """The first time of the source at which something is to be done."""
        virtual = min(virtual, self.virtual_of(self._limit))
        if self._rate:
            virtual = min(virtual, self._v_end)
        if virtual >= FAR or not self._warp:
            return FAR
        return min(self._anchor - ((self._base - virtual) * 100 // self._warp), FAR)

    def mapping(self, offset: int, hz: int, /) -> TscMapping:
        """The line of a TSC."""

        def ticks(sync: int) -> int:
            return min(offset + sync * hz // NS_PER_SECOND, NO_LIMIT)

        now = self._source()
        virtual = self._base + (now - self._anchor) * self._warp // 100 if self._warp else self._base
        at = ticks(min(self.unlimited(virtual), self._limit))
        if not self._warp:
            return at, now, 0, NO_LIMIT
        rate = self._rate if virtual < self._v_end else 0
        limit = NO_LIMIT if self._limit == FAR else ticks(self._limit)
        return at, now, hz * self._warp * (100 + rate) // 10_000, limit

    def reader(self, sync: bool, hz: int, /) -> Callable[[], int]:
        """What gives the time in periods of `hz`."""
        read = self.sync if sync else self.virtual
        return read if hz == NS_PER_SECOND else lambda: read() * hz // NS_PER_SECOND

    def readout(self, look: Look, sync: bool, hz: int, /) -> Readout:
        """What answers by such a reader."""
        return PlainReadout(self.reader(sync, hz), look)


def make_line(source: Source) -> Line:
    """A line that stands at 0."""
    try:
        from vbox_vmm._tm_line import Line as NativeLine
    except ImportError:  # there was no compiler
        return PlainLine(source)
    return NativeLine(None if source is time.monotonic_ns else source)
