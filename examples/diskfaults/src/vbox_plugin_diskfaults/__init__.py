"""Disk faults: a filter between a drive and its medium, for tests of what a guest does when a disk goes bad.

Of the requests that pass some fail: those that touch a bad range, and a share of all others.  What fails
never reaches the medium, so a write that failed has changed nothing.  Each request may take longer, too.

Traps
- A request ends exactly once, and its memory is its submitter's from then on: whoever delays it must
  give it back even when the VM is suspended, reset or closed meanwhile.
- Virtual clocks stand still while the VM is suspended, and who waits for the end of a request would wait
  for ever: from a suspend, a reset or a power off on nothing is delayed, until the machine goes on.
- Requests that overlap keep their order: all are delayed by the same time, and a failure waits in the same
  row as a success.
- The fate of a request is decided when it is submitted: the same seed gives the same faults, whatever the
  medium does in between.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from vbox_pdm import (
    Clock,
    ConfigError,
    Driver,
    DriverType,
    Media,
    MediaAbove,
    MediaBelow,
    MediaInfo,
    MediaOp,
    MediaRequest,
    hookimpl,
    key,
)
from vbox_pdm.media import NOT_MOUNTED

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

contract = "1.0"  # for `vbox run --plugin` with this file; a wheel says it in its requirements

SECTOR = 512
MICROSECOND = 1000
FOREVER = 1 << 63


class Fault(enum.Enum):
    """What a drive is told."""

    MEDIUM = "medium"
    PROTECTED = "protected"
    MISSING = "missing"


STATUS = {
    Fault.PROTECTED: "VERR_WRITE_PROTECT",
    Fault.MISSING: NOT_MOUNTED,
}
"""Of a MEDIUM fault the status depends on the request: VERR_READ_ERROR or VERR_WRITE_ERROR."""


@frozen
class Config:
    """Configuration of disk faults; without any key all requests pass as they are."""

    read_errors: float = key(0.0, span=(0, 1), help="share of the reads that fail")
    write_errors: float = key(0.0, span=(0, 1), help="share of the writes and discards that fail")
    flush_errors: float = key(0.0, span=(0, 1), help="share of the flushes that fail")
    bad: str = key(
        "", help="bad sectors of 512 bytes, as 2048+4096-4103: reads, writes and discards of them fail"
    )
    error: Fault = key(Fault.MEDIUM, help="what a request that fails ends with")
    latency: int = key(0, span=(0, 10_000_000), help="microseconds that each request takes longer")


class DiskFaults(Driver[Config]):
    """The filter."""

    above: MediaAbove
    below: MediaBelow
    transient = frozenset({"passed", "failed"})  # counts for people

    def pdm_construct(self) -> None:
        config = self.config
        self.delayed: deque[tuple[int, MediaRequest, str | None]] = deque()  # (when, what, its error)
        self.bad = parse_ranges(config.bad)
        self.shares = {
            MediaOp.READ: config.read_errors,
            MediaOp.WRITE: config.write_errors,
            MediaOp.DISCARD: config.write_errors,
            MediaOp.FLUSH: config.flush_errors,
        }
        self.passed = self.failed = 0
        self.latency = config.latency * MICROSECOND
        self.delaying = True
        self.timer = self.helpers.timer("latency", Clock.VIRTUAL, self.due)

    # --- the layer

    def media_info(self) -> MediaInfo | None:
        return self.below.media_info()

    def media_lock(self, locked: bool) -> None:
        self.below.media_lock(locked)

    def media_eject(self) -> None:
        self.serve(FOREVER)  # what was asked of this medium must not reach the next one
        self.below.media_eject()

    def media_changed(self) -> None:
        self.timer.stop()
        lost, self.delayed = self.delayed, deque()
        for _, request, _ in lost:
            request.complete(NOT_MOUNTED, "the medium was changed")
        self.above.media_changed()

    def media_submit(self, request: MediaRequest) -> None:
        error = self.fate(request)
        if not self.latency or not self.delaying:
            self.finish(request, error)
            return
        due = self.helpers.now(Clock.VIRTUAL) + self.latency
        self.delayed.append((due, request, error))
        if not self.timer.active:
            self.timer.set(due)

    # --- faults

    def fate(self, request: MediaRequest) -> str | None:
        """The error that a request will end with; None when it goes to the medium."""
        share = self.shares[request.op]
        if not self.touches_bad(request) and not (share and self.helpers.random() < share):
            return None
        medium = "VERR_READ_ERROR" if request.op is MediaOp.READ else "VERR_WRITE_ERROR"
        return STATUS.get(self.config.error, medium)

    def touches_bad(self, request: MediaRequest) -> bool:
        """Whether a bad sector is among those of a request."""
        length = sum(view.nbytes for view in request.views) or request.length
        first, end = request.offset, request.offset + length
        return request.op is not MediaOp.FLUSH and any(first < last and low < end for low, last in self.bad)

    def finish(self, request: MediaRequest, error: str | None) -> None:
        """Let a request pass, or end it."""
        if error is None:
            self.passed += 1
            self.below.media_submit(request)
        else:
            self.failed += 1
            request.complete(error, "injected")

    # --- latency

    def due(self) -> None:
        """The timer: the first that is delayed may go on."""
        self.serve(self.helpers.now(Clock.VIRTUAL))

    def serve(self, until: int) -> None:
        """All that is due by then goes on."""
        try:
            while self.delayed and self.delayed[0][0] <= until:
                _, request, error = self.delayed.popleft()
                self.finish(request, error)
        finally:  # also when whoever is above or below raises: the others must get their turn
            if self.delayed:
                self.timer.set(self.delayed[0][0])
            else:
                self.timer.stop()

    # --- life

    def stop_delaying(self) -> None:
        """Somebody waits for the ends of all requests, and perhaps no time passes."""
        self.delaying = False
        self.serve(FOREVER)

    def pdm_suspend(self) -> None:
        self.stop_delaying()

    def pdm_resume(self) -> None:
        self.delaying = True

    def pdm_reset(self) -> None:
        self.stop_delaying()

    def pdm_mem_setup(self, at_reset: bool) -> None:
        self.delaying = True

    def pdm_power_off(self) -> None:
        self.stop_delaying()

    def pdm_destruct(self) -> None:
        while self.delayed:
            self.delayed.popleft()[1].complete(NOT_MOUNTED, "the machine is gone")

    def pdm_info(self, arguments: str) -> str:
        return f"{self.passed} requests passed, {self.failed} failed, {len(self.delayed)} are delayed"


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """(first byte, byte behind the last) of `2048+4096-4103`, sectors of 512 bytes.  ConfigError."""
    found = []
    for part in text.split("+") if text else ():
        first, dash, last = part.partition("-")
        try:
            low = int(first, 0)
            high = int(last, 0) if dash else low
        except ValueError:
            low, high = 0, -1
        if not 0 <= low <= high:
            raise ConfigError(
                "VERR_INVALID_PARAMETER",
                f"bad={text} has '{part}', which is neither a sector nor a range of sectors",
                "Write FIRST or FIRST-LAST, with + between them: bad=2048+4096-4103",
            )
        found.append((low * SECTOR, (high + 1) * SECTOR))
    return found


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType(
            "diskfaults", DiskFaults, Config,
            serves=Media, wants=Media, needs_below=True, transparent=False,
            summary="a disk that goes bad: errors, bad sectors, latency",
        )
    )  # fmt: skip


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: faults that happen, times that pass soon, and texts that are no ranges."""
    from vbox_pdm.testing.conformance import Setup

    return Setup(
        keys={"bad": ("3-5+9", "0-1"), "latency": (0, 2000), "read_errors": (0.0, 0.5, 1.0)},
        refuses=[{"bad": text} for text in ("x", "5-1", "-1", "3-", "1+", "1-2-3")],
        invariants={"a range is bad from its first sector to its last": _wrong_range},
    )


def _wrong_range(driver: DiskFaults, bench: object) -> str | None:
    for part in driver.config.bad.split("+") if driver.config.bad else ():
        first, _, last = part.partition("-")
        for sector in (int(first, 0), int(last or first, 0)):
            request = MediaRequest(MediaOp.DISCARD, lambda request: None, sector * SECTOR, length=SECTOR)
            if not driver.touches_bad(request):
                return f"sector {sector} of bad={driver.config.bad} is good"
    return None
