"""DMA handles: guest memory as views, with scratch bytes where there is none.

A host looks an address range up, piece by piece, and hands the pieces to `DmaHandle`, which is what
`helpers.dma` and `PciFunction.dma` return.

Traps: a guest chooses the length, so scratch must not cost as much memory as it stands for; a view
that outlives its handle would see memory change below it, so views are released with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

Piece = tuple[int, int, memoryview | None]
"""(address, length, view of exactly that length, or None where no RAM is)."""

SCRATCH = 64 << 10
"""Scratch pieces are at most this long; longer gaps are covered by several views."""
_ONES = b"\xff" * SCRATCH


class DmaHandle:
    """Guest memory held for a transfer.  `written(address, length)` is called at the release of a
    write handle for each piece of real RAM."""

    def __init__(self, pieces: Iterable[Piece], *, write: bool, written: Callable[[int, int], None]) -> None:
        self.write = write
        self._written = written
        self._real: list[tuple[int, int]] = []
        self._complete = True
        self._released = False
        views: list[memoryview] = []
        scratch: memoryview | None = None
        for address, length, view in pieces:
            if view is not None:
                views.append(view[:length] if write else view[:length].toreadonly())
                self._real.append((address, length))
                continue
            self._complete = False
            if scratch is None:
                scratch = memoryview(bytearray(_ONES) if write else _ONES)
            views.extend(scratch[: min(SCRATCH, length - at)] for at in range(0, length, SCRATCH))
        self._views = tuple(views)

    @property
    def views(self) -> tuple[memoryview, ...]:
        """In order, together as long as the transfer; writable for a write handle only."""
        return self._views

    @property
    def complete(self) -> bool:
        """Whether every byte is real guest RAM."""
        return self._complete

    @property
    def held(self) -> bool:
        """Whether it has not been released."""
        return not self._released

    def release(self) -> None:
        """End the transfer: the views can no longer be used, written pages are reported."""
        if self._released:
            return
        self._released = True
        for view in self._views:
            try:
                view.release()
            except BufferError:  # somebody exports it still; it dies with its last user
                pass
        self._views = ()
        if self.write:
            for address, length in self._real:
                self._written(address, length)

    def __enter__(self) -> tuple[memoryview, ...]:
        return self._views

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
