"""Saved state of the UART."""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import frozen

from vbox_pdm import State, StateError


@frozen
class SerialState(State, version=2):
    """All registers, and the characters in the chip.

    Of MSR these are the deltas: its upper half is what MCR, `reported_lines` and the presence of a
    neighbour make of it.  What the neighbour said of its lines is not the chip's, so a reset leaves it.
    IIR follows from the rest.
    """

    across_reset: ClassVar[frozenset[str]] = frozenset({"reported_lines"})

    ier: int
    fifo_enabled: bool
    trigger: int
    lcr: int
    word_mask: int
    mcr: int
    lsr: int
    deltas: int
    scratch: int
    divisor: int
    received: bytes
    received_errors: bytes
    last_received: int
    timed_out: bool
    thre_pending: bool
    waiting: bytes
    shifting: int | None
    stalled: bool
    room_wanted: bool
    reported_lines: int | None

    @classmethod
    def upgrade(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had all of MSR, and IIR."""
        rest = {name: value for name, value in fields.items() if name not in ("msr", "iir")}
        return {**rest, "deltas": fields["msr"] & 0x0F}

    def check(self, fifo_size: int) -> None:
        """StateError for what no UART saved."""
        characters = (self.shifting or 0, self.last_received)
        if (
            len(self.received) != len(self.received_errors)
            or max(len(self.received), len(self.waiting)) > fifo_size
            or not all(0 <= character <= 0xFF for character in characters)
            or not 1 <= self.trigger <= fifo_size
        ):
            raise StateError("VERR_SSM_UNEXPECTED_DATA", "serial: the FIFOs in the state are impossible")
