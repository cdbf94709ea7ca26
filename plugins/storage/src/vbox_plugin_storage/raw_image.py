"""A raw image: a file, or a block device, whose bytes are the medium's.  ISO images are such files.

What lies behind the end of a file of odd size reads as zeros up to the end of its last sector; a write
there makes the file that much longer.  Other writes never change its size.

A file that became shorter while it is in use is damaged: reads of what is gone fail with
VERR_READ_ERROR (zeros would be taken for data), writes make it longer again.

DISCARD punches a hole: the range reads as zeros then.  Where the file system cannot do that nothing
happens, so nobody may rely on zeros.

The file is locked (flock) as long as it is open: by one writer, or by any number of readers.  The
lock binds those who ask for one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from vbox_pdm import (
    ConfigError,
    DriverType,
    Media,
    MediaAbove,
    MediaInfo,
    MediaOp,
    MediaRequest,
    hookimpl,
    key,
)
from vbox_pdm.media import NOT_MOUNTED
from vbox_plugin_storage.file_io import AtHand, punch_hole, read_into, write_from
from vbox_plugin_storage.image_queue import ImageDriver, ImageQueue
from vbox_plugin_storage.media_steps import total

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup


@frozen
class Config:
    """Configuration of a raw image."""

    path: str = key(help="the image: a file or a block device")
    read_only: bool = key(False, help="open it for reading only; then others may read it, too")
    sector_size: int = key(512, choices=(512, 2048, 4096), help="bytes of a sector of the medium")


class RawImage(ImageDriver[Config]):
    """One open file, and the worker that reads and writes it."""

    above: MediaAbove

    def pdm_construct(self) -> None:
        self.size = 0
        self.ejected = False
        config = self.config
        self.descriptor = _open(config.path, config.read_only)
        status = os.fstat(self.descriptor)
        self.size = _size(self.descriptor, status, config.path)
        self._lock()
        sector = config.sector_size
        self.whole = -(-self.size // sector) * sector
        if self.size % sector:
            self.helpers.log.warning(
                "%s has %d bytes, which are no whole sectors of %d; the last one ends with zeros",
                config.path, self.size, sector,
            )  # fmt: skip
        identity = os.path.realpath(config.path)
        self.info = MediaInfo(self.size, sector, config.read_only, identity)
        self._cached = AtHand(self.descriptor)
        self.queue = ImageQueue(self.helpers, self._carry_out, self._at_hand, config.path)

    def _lock(self) -> None:
        kind = fcntl.LOCK_SH if self.config.read_only else fcntl.LOCK_EX
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                "VERR_SHARING_VIOLATION",
                f"{self.config.path} is in use by another VM or program",
                "Stop that one first; to share an image, open it with read_only=on everywhere, "
                "and with an overlay where the guest writes",
            ) from None
        except OSError as error:
            self.helpers.log.warning("%s cannot be locked: %s", self.config.path, error.strerror)

    # --- the layer

    def media_info(self) -> MediaInfo | None:
        return None if self.ejected else self.info

    def media_submit(self, request: MediaRequest) -> None:
        op, offset = request.op, request.offset
        length = request.length if op is MediaOp.DISCARD else total(request.views)
        error = None
        if self.ejected or self.queue is None:
            error = NOT_MOUNTED
        elif offset < 0 or length < 0 or offset + length > self.whole:
            error = "VERR_OUT_OF_RANGE"
        elif self.info.read_only and op in (MediaOp.WRITE, MediaOp.DISCARD):
            error = "VERR_WRITE_PROTECT"
        if error is not None or self.queue is None:
            request.complete(error, f"{self.config.path}: {length} bytes at {offset:#x}")
        else:
            self.queue.submit(request)

    def media_eject(self) -> None:
        self.ejected = True

    # --- the file

    def _at_hand(self, request: MediaRequest) -> bool:
        return request.op is MediaOp.READ and self._cached.read_into(request.views, request.offset, self.size)

    def _carry_out(self, request: MediaRequest) -> None:
        if request.op is MediaOp.READ:
            read_into(self.descriptor, request.views, request.offset, self.size)
        elif request.op is MediaOp.WRITE:
            write_from(self.descriptor, request.views, request.offset)
            self._grown(request)
        elif request.op is MediaOp.FLUSH:
            if not self.info.read_only:
                os.fdatasync(self.descriptor)
        else:
            punch_hole(self.descriptor, request.offset, request.length)

    def _grown(self, request: MediaRequest) -> None:
        """A write into the last, odd sector made the file longer: that is data now."""
        if self.size < self.whole:
            self.size = max(self.size, request.offset + total(request.views))


def _open(path: str, read_only: bool) -> int:
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)  # not blocking: it may be a named pipe
    except OSError as error:
        raise _open_error(path, read_only, error) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise _open_error(path, read_only, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    raise ConfigError(
        "VERR_VD_RAW_INVALID_TYPE",
        f"{path} is neither a file nor a block device",
        "Give the path of an image",
    )


def _open_error(path: str, read_only: bool, error: OSError) -> ConfigError:
    status, remedy = "VERR_ACCESS_DENIED", "Check the path and its permissions"
    if isinstance(error, FileNotFoundError):
        status, remedy = "VERR_FILE_NOT_FOUND", "Check the path"
    elif isinstance(error, IsADirectoryError):
        status, remedy = "VERR_IS_A_DIRECTORY", "Give the path of an image in it"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and not read_only:
        remedy = "Give yourself the right to write it, or open it with read_only=on"
    purpose = "reading" if read_only else "reading and writing"
    return ConfigError(status, f"Cannot open {path} for {purpose}: {error.strerror}", remedy)


def _size(descriptor: int, status: os.stat_result, path: str) -> int:
    size = status.st_size
    if stat.S_ISBLK(status.st_mode):
        size = os.lseek(descriptor, 0, os.SEEK_END)
    if size > 0:
        return size
    raise ConfigError("VERR_VD_INVALID_SIZE", f"{path} is empty", "Give an image that has content")


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType("raw-image", RawImage, Config, serves=Media, summary="a raw or ISO image, a block device")
    )


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: see `conformance`."""
    from vbox_plugin_storage import conformance

    return conformance.image(folder)
