"""Media: what lies in a drive, as its driver asks for it: an image, a filter, a host device.

There is one way in: submit a request, be called when it is done, in any order.  Requests that
overlap are carried out in the order of their submission; a FLUSH ends when all writes that ended
before it was submitted are on stable storage.

The memory of a request (its views) belongs to the request from submission until `done` is called.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen

from vbox_pdm.layers import End, Layer

NOT_MOUNTED = "VERR_PDM_MEDIA_NOT_MOUNTED"


class MediaOp(enum.Enum):
    """What a request does."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"


@frozen
class MediaInfo:
    """A medium.  `size` in bytes; what lies behind the last whole sector of `sector_size` bytes reads
    as zeros up to its end.  `identity` tells media apart (a path, a UUID)."""

    size: int
    sector_size: int = 512
    read_only: bool = False
    identity: str = ""


@define(eq=False)
class MediaRequest:
    """READ fills `views` from byte `offset` on, WRITE stores them; DISCARD forgets `length` bytes.

    `done(request)` is called exactly once, under the VM's lock, perhaps before `media_submit`
    returns.  `error` is then None or a VirtualBox status name (VERR_PDM_MEDIA_NOT_MOUNTED,
    VERR_READ_ERROR, VERR_WRITE_PROTECT, VERR_OUT_OF_RANGE ...), and `text` says more for the log."""

    op: MediaOp
    done: Callable[[MediaRequest], None]
    offset: int = 0
    views: tuple[memoryview, ...] = ()
    length: int = 0
    error: str | None = field(default=None, kw_only=True)
    text: str = field(default="", kw_only=True)

    def complete(self, error: str | None = None, text: str = "") -> None:
        """For whoever carries it out: it is over."""
        self.error, self.text = error, text
        self.done(self)


class MediaBelow(End, Protocol):
    """A medium, as a drive calls it."""

    def media_info(self) -> MediaInfo | None:
        """The medium; None when there is none."""
        return None

    def media_submit(self, request: MediaRequest) -> None:
        """Carry out a request."""
        request.complete(NOT_MOUNTED)

    def media_lock(self, locked: bool) -> None:
        """The guest forbids, or allows again, that people take the medium out."""

    def media_eject(self) -> None:
        """The guest ejects the medium: `media_info` is None from now on."""


class MediaAbove(End, Protocol):
    """A drive, as what holds its medium calls it."""

    def media_changed(self) -> None:
        """Another medium was put in, or the one that was there is gone.  (Attaching or detaching a
        driver below a drive tells it by `pdm_attach` and `pdm_detach` instead.)"""


Media = Layer("Media", MediaBelow, MediaAbove)  # type: ignore[type-abstract]
