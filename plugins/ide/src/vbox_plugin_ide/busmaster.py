"""The bus master of one channel: its registers, and the guest memory that it lends to a transfer.
SFF-8038i 1.0; Intel 290550 (PIIX3), "PCI Bus Master IDE Registers".

What the status says after a command: ACTIVE 0, INTERRUPT 1: the transfer and the table had the same
length.  ACTIVE 1, INTERRUPT 1: the table has more.  ACTIVE 0, INTERRUPT 0: the table ended first; the
device still waits for the rest, which a table that is started next may take.

Traps
- INTERRUPT notes that the line of the channel rose, for whatever reason, PIO included; with nIEN
  there is nothing to note.
- START 0 -> 1 begins at the head of the table; it cannot be stopped and resumed.  Stopping takes
  nothing back: a request that is under way keeps its memory, and ends as if nothing were.
- A direction that is not the command's moves nothing, and neither does a function that is no bus
  master: the device waits.
- What a table has behind the last whole sector of a write is dropped when it ends before the command:
  the disk would wait for the rest of that sector.
- A region without RAM takes part all the same (ones, or lost) and sets ERROR, a master abort.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import define, evolve

from vbox_pdm import Dma, PciFunction
from vbox_plugin_ide import prd
from vbox_plugin_ide.registers import (
    BM_ACTIVE,
    BM_CAPABLE,
    BM_ERROR,
    BM_INTERRUPT,
    BM_START,
    BM_TO_MEMORY,
    MASTER_ABORT,
    PCISTS,
)

MOST = 4 << 20
"""Bytes that are lent at once; longer transfers take several steps."""


class Memory(Protocol):
    """`helpers.dma_list`."""

    def __call__(self, pieces: Sequence[tuple[int, int]], *, write: bool = False) -> Dma: ...


@define(eq=False)
class Loan:
    """Guest memory that a request has until it is done.  `ended`: the table has no more behind it."""

    handle: Dma
    views: tuple[memoryview, ...]
    pieces: tuple[tuple[int, int], ...]
    length: int
    ended: bool
    run: object  # which START it belongs to


def _loan(
    memory: Memory, pieces: tuple[tuple[int, int], ...], to_memory: bool, ended: bool, run: object
) -> Loan:
    handle = memory(pieces, write=to_memory)
    return Loan(handle, handle.views, pieces, sum(size for _, size in pieces), ended, run)


class BusMaster:
    """BMICX, BMISX, BMIDTPX of a channel."""

    def __init__(self, pci: PciFunction, memory: Memory) -> None:
        self._pci = pci
        self._memory = memory
        self.reset()

    def reset(self) -> None:
        """Power-on values; what is lent stays lent."""
        self.command = 0
        self.status = 0
        self.pointer = 0
        self.table = 0  # the pointer when it was started
        self.used = 0  # bytes of the table that were transferred since
        self._run = object()  # another for each START and each stop, so that a loan knows its own

    # --- registers

    def read(self, offset: int) -> int:
        """A byte, offset 0..7."""
        if offset >= 4:
            return self.pointer >> 8 * (offset - 4) & 0xFF
        return (self.command, 0, self.status, 0)[offset]

    def write_pointer(self, offset: int, value: int) -> None:
        """A byte of BMIDTPX, offset 0..3."""
        shift = 8 * offset
        self.pointer = (self.pointer & ~(0xFF << shift) | value << shift) & ~3

    def write_status(self, value: int) -> None:
        """BMISX: ones clear, the capable bits are kept."""
        self.status = self.status & ~(value & (BM_ERROR | BM_INTERRUPT) | BM_CAPABLE) | value & BM_CAPABLE

    def write_command(self, value: int) -> None:
        """BMICX: an edge of START starts, zero stops."""
        before, self.command = self.command, value & (BM_START | BM_TO_MEMORY)
        if self.command & ~before & BM_START:
            self.status |= BM_ACTIVE
            self.table = self.pointer
            self.used = 0
            self._run = object()
        elif before & ~self.command & BM_START:
            self.status &= ~BM_ACTIVE
            self._run = object()

    def interrupt(self) -> None:
        """The interrupt line of the channel rose."""
        self.status |= BM_INTERRUPT

    # --- memory

    def lend(self, to_memory: bool, length: int, unit: int = 1) -> Loan | None:
        """Memory for the next bytes of a transfer, at most `length`; None while it does not run.

        A table that ends before `length` is used in whole `unit`s of bytes."""
        if (
            not self.status & BM_ACTIVE
            or bool(self.command & BM_TO_MEMORY) != to_memory
            or not self._pci.bus_master
        ):
            return None
        wanted = min(length, MOST)
        found = prd.walk(self._fetch, self.table, self.used, wanted)
        odd = found.length % unit if found.length < wanted else 0
        if odd:
            found = evolve(prd.walk(self._fetch, self.table, self.used, found.length - odd), ended=True)
        if not found.length:
            self.status &= ~BM_ACTIVE
            return None
        return _loan(self._pci.dma_list, found.pieces, to_memory, found.ended, self._run)

    def lend_again(
        self, pieces: tuple[tuple[int, int], ...], to_memory: bool, ended: bool, counts: bool
    ) -> Loan:
        """What a request had when the state was saved, whatever was done to the registers since."""
        return _loan(self._memory, pieces, to_memory, ended, self._run if counts else object())

    def counts(self, loan: Loan) -> bool:
        """Whether nobody has stopped or started the bus master since."""
        return loan.run is self._run

    def settle(self, loan: Loan, moved: int, *, counts: bool = True) -> None:
        """The request is done with its memory, of which `moved` bytes were transferred.  It does not
        count when a reset cut it off: then the memory is given back, and no register changes."""
        if counts and not loan.handle.complete:
            self._aborted()
        loan.handle.release()
        if counts and self.counts(loan):
            self.used += moved
            if loan.ended and moved >= loan.length:
                self.status &= ~BM_ACTIVE

    def _aborted(self) -> None:
        self.status |= BM_ERROR
        status = self._pci.config_read(PCISTS, 2) | MASTER_ABORT
        self._pci.set_config(PCISTS, status.to_bytes(2, "little"))

    def _fetch(self, address: int, length: int) -> bytes:
        with self._pci.dma(address, length) as views:
            return bytes(views[0]) if len(views) == 1 else b"".join(views)
