"""Clocks and timers, as a device sees them."""

from __future__ import annotations

import enum
from typing import Protocol

from vbox_pdm.errors import PdmError

NS_PER_SECOND = 1_000_000_000


class Clock(enum.Enum):
    """TM's clocks.  All count nanoseconds but TSC, which counts ticks."""

    VIRTUAL = "virtual"  # runs while the VM runs
    VIRTUAL_SYNC = "virtual sync"  # like VIRTUAL, but never passes a timer that is due
    REAL = "real"  # the host's monotonic clock; always runs
    TSC = "tsc"  # the guest's time stamp counter


class Timer(Protocol):
    """A one-shot timer made by `helpers.timer`; its callback may arm it again.

    Its state (active, expiry) is saved and loaded by the kernel.
    """

    @property
    def active(self) -> bool:
        """Whether it is armed."""

    @property
    def expires(self) -> int | None:
        """When it fires, in its clock's units; None when it is not armed."""

    def set(self, when: int) -> None:
        """Arm it, or move it, to an absolute time of its clock; the past fires at once."""

    def set_relative(self, delay: int) -> None:
        """Arm it, or move it, `delay` from now."""

    def stop(self) -> None:
        """Disarm it; no effect when it is not armed."""


def check_reader(clock: Clock, hz: int) -> None:
    """For hosts: VERR_INVALID_PARAMETER for what `helpers.reader` refuses."""
    if clock not in (Clock.VIRTUAL, Clock.VIRTUAL_SYNC, Clock.REAL):
        raise PdmError(
            "VERR_INVALID_PARAMETER", f"A reader of {clock!r} is not possible", "Use a clock that counts ns"
        )
    if not isinstance(hz, int) or not 1 <= hz <= NS_PER_SECOND:
        raise PdmError(
            "VERR_INVALID_PARAMETER", f"A reader of {clock.name} at {hz!r} Hz is not possible", "Use 1..10**9"
        )
