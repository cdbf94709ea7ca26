"""Saved state of the UART."""

from __future__ import annotations

from attrs import frozen

from vbox_pdm import State


@frozen
class SerialState(State, version=1):
    """All registers, and the characters in the chip."""

    ier: int
    iir: int
    fifo_enabled: bool
    trigger: int
    lcr: int
    word_mask: int
    mcr: int
    lsr: int
    msr: int
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
