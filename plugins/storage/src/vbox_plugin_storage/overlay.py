"""A throw-away overlay: writes go to a temporary file, and nothing below it is ever written.

The file has no name any more when the driver begins to use it, so it is gone with the driver, however
that ends.  It is sparse and laid out as the medium below; which sectors (of 512 bytes) it holds is kept
in memory, so a write copies nothing up and a read is put together from both.

A FLUSH ends at once: nothing here outlives the VM anyway.  DISCARD gives back the room of sectors that
were written, which read as zeros then where the file system can do that; others keep what lies below.
What a write that failed covered is undefined, as on a disk.  Another medium below empties the overlay.

Traps
- The map changes when a write is submitted, not when it is done: all later reads of those sectors go
  through the same worker, behind it.
- A write that does not fill its first or last sector needs what is around it; until that was read,
  everything that is submitted waits, or the order would be lost.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from attrs import define, frozen

from vbox_pdm import (
    ConfigError,
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
from vbox_plugin_storage.file_io import AtHand, punch_hole, read_into, write_from
from vbox_plugin_storage.image_queue import ImageDriver, ImageQueue
from vbox_plugin_storage.media_steps import fill, gather, part, total

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

SECTOR = 512
CLUSTER = 64 << 10
"""The map has an entry, a mask of sectors, for each piece of this size that was written to."""
_SECTORS = CLUSTER // SECTOR
_FULL = (1 << _SECTORS) - 1
_NO_END = 1 << 62
Run = tuple[bool, int, int]
"""(whether the overlay has it, first byte, length)."""


@frozen
class Config:
    """Configuration of an overlay."""

    folder: str | None = key(
        None, help="where the temporary file is made; by default where the system has such"
    )


class SectorMap:
    """Which sectors the overlay holds."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def add(self, offset: int, length: int) -> None:
        """Whole sectors: they are in the overlay from now on."""
        end = offset + length
        while offset < end:
            cluster, inside = divmod(offset, CLUSTER)
            stop = min(end, (cluster + 1) * CLUSTER)
            count = (stop - offset) // SECTOR
            mask = (1 << count) - 1 << inside // SECTOR
            self._masks[cluster] = self._masks.get(cluster, 0) | mask
            offset = stop

    def clear(self) -> None:
        """The overlay is empty."""
        self._masks.clear()

    @property
    def size(self) -> int:
        """Bytes in the overlay."""
        return SECTOR * sum(mask.bit_count() for mask in self._masks.values())

    def runs(self, offset: int, length: int) -> list[Run]:
        """A range, as runs that lie in the overlay or below it."""
        found: list[Run] = []
        end = offset + length
        while offset < end:
            mine, stop = self._run(offset, end)
            if found and found[-1][0] is mine:
                _, first, before = found[-1]
                found[-1] = (mine, first, before + stop - offset)
            else:
                found.append((mine, offset, stop - offset))
            offset = stop
        return found

    def _run(self, offset: int, end: int) -> tuple[bool, int]:
        cluster, inside = divmod(offset, CLUSTER)
        end = min(end, (cluster + 1) * CLUSTER)
        mask = self._masks.get(cluster, 0)
        if mask in (0, _FULL):
            return bool(mask), end
        sector = inside // SECTOR
        mine = bool(mask >> sector & 1)
        others = (~mask & _FULL if mine else mask) >> sector
        if others:
            same = (others & -others).bit_length() - 1
            end = min(end, cluster * CLUSTER + (sector + same) * SECTOR)
        return mine, end


@define(eq=False)
class _Joined:
    """A request that was split; it is done when all its parts are."""

    request: MediaRequest
    left: int
    error: str | None = None
    text: str = ""

    def done(self, part: MediaRequest) -> None:
        if part.error is not None and self.error is None:
            self.error, self.text = part.error, part.text
        self.left -= 1
        if not self.left:
            self.request.complete(self.error, self.text)


class Overlay(ImageDriver[Config]):
    """A medium whose changes are forgotten."""

    above: MediaAbove
    below: MediaBelow
    info: MediaInfo | None

    def pdm_construct(self) -> None:
        self.map = SectorMap()
        self._filling = False  # a write waits for what is around it, and all others for it
        self._waiting: deque[MediaRequest] = deque()
        folder = self.config.folder or tempfile.gettempdir()
        self.descriptor = _temporary(folder)
        self._cached = AtHand(self.descriptor)
        self._take_medium()
        self.queue = ImageQueue(
            self.helpers,
            self._carry_out,
            self._at_hand,
            f"the overlay in {folder}",
            lambda: self._filling,
        )

    # --- life

    def pdm_destruct(self) -> None:
        super().pdm_destruct()
        while self._waiting:
            self._waiting.popleft().complete(NOT_MOUNTED, "the overlay was closed")

    def pdm_attach(self, lun: int) -> None:
        self.media_changed()

    def pdm_detach(self, lun: int) -> None:
        self.map.clear()
        self.info = None
        self.above.media_changed()

    # --- the medium below

    def media_changed(self) -> None:
        """Another medium: what was written belonged to the old one.  Only where it is known to be the
        same again, it is kept."""
        before = self.info
        self._take_medium()
        if self.info is None or self.info != before or not self.info.identity:
            self.map.clear()
        self.above.media_changed()

    def _take_medium(self) -> None:
        below = self.below.media_info()
        self.info = None if below is None else attrs.evolve(below, read_only=False)
        self.whole = 0 if below is None else -(-below.size // below.sector_size) * below.sector_size

    # --- the layer

    def media_info(self) -> MediaInfo | None:
        return self.info

    def media_lock(self, locked: bool) -> None:
        self.below.media_lock(locked)

    def media_eject(self) -> None:
        self.info = None
        self.below.media_eject()

    def media_submit(self, request: MediaRequest) -> None:
        if self._filling:
            self._waiting.append(request)
            return
        op, offset = request.op, request.offset
        length = request.length if op is MediaOp.DISCARD else total(request.views)
        if self.info is None or self.queue is None:
            request.complete(NOT_MOUNTED)
        elif offset < 0 or length < 0 or offset + length > self.whole:
            request.complete("VERR_OUT_OF_RANGE", f"{length} bytes at {offset:#x} of {self.whole}")
        elif op is MediaOp.FLUSH or not length:
            request.complete()
        elif op is MediaOp.READ:
            self._read(request, offset, length)
        elif op is MediaOp.DISCARD:
            self.queue.submit(request)
        elif offset % SECTOR or length % SECTOR:
            self._fill_up(request, offset, length)
        else:
            self.map.add(offset, length)
            self.queue.submit(request)

    def _read(self, request: MediaRequest, offset: int, length: int) -> None:
        assert self.queue is not None
        runs = self.map.runs(offset, length)
        if len(runs) == 1:
            if runs[0][0]:
                self.queue.submit(request)
            else:
                self.below.media_submit(request)
            return
        joined = _Joined(request, len(runs))
        for mine, first, size in runs:
            views = part(request.views, first - offset, size)
            piece = MediaRequest(MediaOp.READ, joined.done, first, views)
            if mine:
                self.queue.submit(piece)
            else:
                self.below.media_submit(piece)

    # --- writes that do not fill their sectors

    def _fill_up(self, request: MediaRequest, offset: int, length: int) -> None:
        first = offset - offset % SECTOR
        end = -(-(offset + length) // SECTOR) * SECTOR
        buffer = memoryview(bytearray(end - first))
        self._filling = True

        def written(whole: MediaRequest) -> None:
            request.complete(whole.error, whole.text)

        def found(old: MediaRequest) -> None:
            self._filling = False
            if old.error is not None:
                request.complete(old.error, old.text)
            else:
                fill((buffer[offset - first :],), gather(request.views))
                self.media_submit(MediaRequest(MediaOp.WRITE, written, first, (buffer,)))
            while self._waiting and not self._filling:
                self.media_submit(self._waiting.popleft())

        self._read(MediaRequest(MediaOp.READ, found, first, (buffer,)), first, end - first)

    # --- the file

    def _at_hand(self, request: MediaRequest) -> bool:
        return request.op is MediaOp.READ and self._cached.read_into(request.views, request.offset, _NO_END)

    def _carry_out(self, request: MediaRequest) -> None:
        if request.op is MediaOp.READ:
            read_into(self.descriptor, request.views, request.offset, _NO_END)
        elif request.op is MediaOp.WRITE:
            write_from(self.descriptor, request.views, request.offset)
        else:
            punch_hole(self.descriptor, request.offset, request.length)

    def pdm_info(self, arguments: str) -> str:
        return f"{self.map.size} bytes written over {self.info.identity if self.info else 'no medium'}"


def _temporary(folder: str) -> int:
    """A file without a name, open for reading and writing."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.dup(file.fileno())
    except OSError as error:
        status = {
            errno.ENOENT: "VERR_PATH_NOT_FOUND",
            errno.ENOTDIR: "VERR_PATH_NOT_FOUND",
            errno.ENOSPC: "VERR_DISK_FULL",
        }.get(error.errno or 0, "VERR_ACCESS_DENIED")
        raise ConfigError(
            status,
            f"Cannot make a temporary file in {folder}: {error.strerror}",
            "Give another folder=..., one that exists and may be written to",
        ) from None


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType(
            "overlay", Overlay, Config,
            serves=Media, wants=Media, needs_below=True, transparent=False,
            summary="changes that are thrown away at the end",
        )
    )  # fmt: skip


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: see `conformance`."""
    from vbox_plugin_storage import conformance

    return conformance.overlay(folder)
