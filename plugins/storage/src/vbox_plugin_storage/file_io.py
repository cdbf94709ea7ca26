"""Blocking file I/O for image drivers, straight into and out of the views of requests.

These run on a worker and release the interpreter lock in every system call.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Sequence

IOV_MAX = 1024
"""Views of one system call (Linux)."""
AT_HAND = 128 << 10
"""So many bytes are copied from the host's memory about as fast as a worker is woken up."""
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
_ZEROS = bytes(64 << 10)


class Truncated(OSError):
    """The file ends where it had bytes when it was opened."""


def read_into(descriptor: int, views: Sequence[memoryview], offset: int, end: int) -> None:
    """Fill `views` from byte `offset` on.  Behind `end` zeros are read, whatever the file holds there;
    Truncated when the file ends before `end`.  OSError."""
    wanted = sum(map(len, views))
    if len(views) <= IOV_MAX and offset + wanted <= end:
        got = os.preadv(descriptor, views, offset)
        if got == wanted:
            return
    else:
        got = 0
    _in_pieces(lambda part, at: _read_some(descriptor, part, at, end), views, offset, got)


class AtHand:
    """Reads that need not wait: of what the host has in memory, where its file system can tell."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._flags = getattr(os, "RWF_NOWAIT", 0)

    def read_into(self, views: Sequence[memoryview], offset: int, end: int) -> bool:
        """As `read_into`, if all of it is at hand; False: nothing is known of what `views` hold now."""
        wanted = sum(map(len, views))
        if not self._flags or wanted > AT_HAND or len(views) > IOV_MAX or offset + wanted > end:
            return False
        try:
            return os.preadv(self._descriptor, views, offset, self._flags) == wanted
        except BlockingIOError:
            return False
        except OSError as error:  # a worker will meet it again, unless it is about the flag
            if error.errno == errno.EOPNOTSUPP:
                self._flags = 0
            return False


def write_from(descriptor: int, views: Sequence[memoryview], offset: int) -> None:
    """Store `views` from byte `offset` on.  OSError; then some of it may have been written."""
    wanted = sum(map(len, views))
    if len(views) <= IOV_MAX:
        got = os.pwritev(descriptor, views, offset)
        if got == wanted:
            return
    else:
        got = 0
    _in_pieces(lambda part, at: os.pwritev(descriptor, part, at), views, offset, got)


def punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Give back the room of a range, which reads as zeros afterwards; False where that cannot be done
    (nothing has changed then)."""
    if _fallocate is None or length <= 0:
        return False
    return _fallocate(descriptor, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, length) == 0


def _read_some(descriptor: int, views: Sequence[memoryview], offset: int, end: int) -> int:
    if offset >= end:
        for view in views:
            for at in range(0, len(view), len(_ZEROS)):
                piece = view[at : at + len(_ZEROS)]
                piece[:] = _ZEROS[: len(piece)]
        return sum(map(len, views))
    room = end - offset
    inside: list[memoryview] = []
    for view in views:
        inside.append(view[:room])
        room -= len(inside[-1])
        if not room:
            break
    got = os.preadv(descriptor, inside, offset)
    if not got:
        raise Truncated(errno.EIO, f"the file ends at byte {offset}, where it went on before")
    return got


def _in_pieces(
    transfer: Callable[[Sequence[memoryview], int], int], views: Sequence[memoryview], offset: int, done: int
) -> None:
    """The rest of a transfer of which `done` bytes were moved: short transfers and long lists."""
    index = 0
    offset += done
    while index < len(views):
        if done >= len(views[index]):
            done -= len(views[index])
            index += 1
            continue
        batch = [views[index][done:], *views[index + 1 : index + IOV_MAX]]
        moved = transfer(batch, offset)
        if not moved:
            raise OSError(errno.EIO, "nothing more was transferred")
        offset += moved
        done += moved


def _load_fallocate() -> Callable[[int, int, int, int], int] | None:
    try:
        library = ctypes.CDLL(None, use_errno=True)
        function = getattr(library, "fallocate64", None) or library.fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = function
    return found


_fallocate = _load_fallocate()
