"""DMA handles of the kernel: views straight into guest memory.

Traps: a guest chooses the length, so scratch for holes must not cost as much memory as it stands for;
views are released with their handle, or a device could watch memory that it gave back.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from vbox_pdm.dmaviews import SCRATCH

if TYPE_CHECKING:
    from vbox_vmm.pgm import Pgm

_ONES = memoryview(b"\xff" * SCRATCH)


class DmaHandle:
    """Guest memory held for a transfer (`vbox_pdm.helpers.Dma`)."""

    __slots__ = ("_pgm", "_written", "complete", "views")

    def __init__(
        self, pgm: Pgm | None, views: tuple[memoryview, ...], complete: bool, written: list[tuple[int, int]]
    ) -> None:
        self.views = views
        """In order, together as long as the transfer; writable for a write handle only."""
        self.complete = complete
        """Whether every byte is real guest RAM."""
        self._pgm = pgm
        self._written = written

    def release(self) -> None:
        """End the transfer: the views can no longer be used, written pages are dirty and translated
        code in them is stale."""
        views = self.views
        if views:
            self.views = ()
            for view in views:
                try:
                    view.release()
                except BufferError:  # somebody exports it still; it dies with its last user
                    pass
        pgm = self._pgm
        if pgm is not None:
            self._pgm = None
            pgm.released(self._written)

    def __enter__(self) -> tuple[memoryview, ...]:
        return self.views

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def scratch(length: int, write: bool) -> list[memoryview]:
    """Views of `length` bytes of 0xFF in all.  Writes to them are lost."""
    source = memoryview(bytearray(_ONES[:length])) if write else _ONES
    return [source[: min(SCRATCH, length - at)] for at in range(0, length, SCRATCH)]


def scratch_handle(length: int, write: bool) -> DmaHandle:
    """A handle of nothing but scratch: whoever is no bus master gets it."""
    return DmaHandle(None, tuple(scratch(length, write)), False, [])
