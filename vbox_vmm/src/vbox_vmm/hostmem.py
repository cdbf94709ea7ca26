"""Host memory behind guest-physical memory: pages with a fixed address, given back for sure.

Guest RAM is a memfd, so that other processes can share it and saved states can write it.  Pages are
made when they are touched.

Trap: a Python buffer cannot be unmapped while somebody holds a view of it, and a device may hold one
for ever.  So the pages are put into place over an anonymous mapping that Python knows, and `close`
puts fresh anonymous pages over them: the memory and the file are gone at once, a stale view sees
zeros, and the address range goes with the last view.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

from vbox_pdm.errors import PdmError, StateError

PAGE = 4096
_CHUNK = 16 * PAGE
_ZEROS = bytes(_CHUNK)
_INVERT = bytes([1, 0]) + bytes(254)
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip


class HostMemory:
    """`size` zeroed bytes (whole pages) at host address `address`.

    `view` is writable, `read_only` is not.  `clean` has a byte per page: 1 when nothing but the CPU
    wrote to it since somebody asked (`take_dirty`).  `fd` is -1 for memory that is not shared.
    Raises PdmError VERR_NO_MEMORY.
    """

    def __init__(self, name: str, size: int, *, shared: bool = False) -> None:
        assert size > 0
        assert size % PAGE == 0
        self.name = name
        self.size = size
        self.fd = -1
        try:
            self._map = mmap.mmap(
                -1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE,
                mmap.PROT_READ | mmap.PROT_WRITE,
            )  # fmt: skip
            self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
            if shared:
                self.fd = os.memfd_create(f"vbox-{name}", os.MFD_CLOEXEC)
                os.ftruncate(self.fd, size)
                self._replace(mmap.MAP_SHARED, self.fd)
            self.clean = bytearray(size // PAGE)  # zeros cost nothing until they are touched
        except (OSError, OverflowError, MemoryError, ValueError) as error:
            if self.fd >= 0:
                os.close(self.fd)
            raise PdmError(
                "VERR_NO_MEMORY", f"The host cannot give {size >> 20} MiB for '{name}': {error}",
                "Make it smaller",
            ) from None  # fmt: skip
        self.view = memoryview(self._map)
        self.read_only = self.view.toreadonly()

    def _replace(self, flags: int, fd: int) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        found = _libc.mmap(self.address, self.size, protection, flags | _MAP_FIXED, fd, 0)
        if found == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    @property
    def closed(self) -> bool:
        """Whether the memory was given back."""
        return self._map.closed or self.address == 0

    def take_dirty(self, first: int, count: int) -> bytes:
        """A byte per page from page `first` on: 1 when it was written to; they count as clean then."""
        found = bytes(self.clean[first : first + count]).translate(_INVERT)
        self.clean[first : first + count] = b"\1" * len(found)
        return found

    def mark_dirty(self, at: int, length: int) -> None:
        """Bytes [at, at+length) were written."""
        first, last = at >> 12, (at + length - 1) >> 12
        if first == last:
            self.clean[first] = 0
        else:
            self.clean[first : last + 1] = bytes(last + 1 - first)

    def extents(self) -> list[tuple[int, int]]:
        """Where there may be anything but zeros: (first, end) in whole pages."""
        if self.fd < 0:
            return [(0, self.size)]
        found, at = [], 0
        while at < self.size:
            try:
                first = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:  # no data up to the end
                break
            at = os.lseek(self.fd, first, os.SEEK_HOLE)
            found.append((first // PAGE * PAGE, -(-at // PAGE) * PAGE))
        return found

    def close(self) -> None:
        """Give memory and file back, whoever holds views; no effect the second time."""
        if self.closed:
            return
        self._replace(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1)
        self.address = 0
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.clean = bytearray(0)
        for view in (self.read_only, self.view):
            try:
                view.release()
            except BufferError:
                pass
        try:
            self._map.close()
        except BufferError:  # the address range goes with the last view
            pass


def pack(memory: HostMemory) -> bytes:
    """The content: its size in pages, how many are not all zeros, and each of those behind its number."""
    count = 0
    out = bytearray(8)
    for page in _touched(memory):
        out += page.to_bytes(4, "little")
        out += memory.read_only[page * PAGE : page * PAGE + PAGE]
        count += 1
    out[:8] = (memory.size // PAGE).to_bytes(4, "little") + count.to_bytes(4, "little")
    return bytes(out)


def check_packed(data: bytes, size: int, what: str) -> None:
    """Raise StateError unless `data` is what `pack` makes of `size` bytes.

    VERR_SSM_LOAD_MEMORY_SIZE_MISMATCH, VERR_SSM_LOADED_TOO_MUCH (it ends early),
    VERR_SSM_LOADED_TOO_LITTLE (something is left over)."""
    pages, count = size // PAGE, int.from_bytes(data[4:8], "little")
    if len(data) < 8 or int.from_bytes(data[:4], "little") != pages:
        raise StateError("VERR_SSM_LOAD_MEMORY_SIZE_MISMATCH", f"{what} has {size} bytes, saved were others")
    wanted = 8 + count * (4 + PAGE)
    if len(data) != wanted:
        status = "VERR_SSM_LOADED_TOO_MUCH" if len(data) < wanted else "VERR_SSM_LOADED_TOO_LITTLE"
        raise StateError(status, f"The saved state of {what} has {len(data)} bytes instead of {wanted}")
    if any(int.from_bytes(data[at : at + 4], "little") >= pages for at in range(8, wanted, 4 + PAGE)):
        raise StateError("VERR_SSM_UNEXPECTED_DATA", f"The saved state of {what} names a page outside it")


def unpack(memory: HostMemory, data: bytes) -> None:
    """The opposite of `pack`, for data that `check_packed` accepts."""
    saved = {int.from_bytes(data[at : at + 4], "little"): at + 4 for at in range(8, len(data), 4 + PAGE)}
    view = memory.view
    for page in list(_touched(memory)):
        if page not in saved:
            view[page * PAGE : page * PAGE + PAGE] = _ZEROS[:PAGE]
    for page, at in saved.items():
        view[page * PAGE : page * PAGE + PAGE] = data[at : at + PAGE]
    memory.mark_dirty(0, memory.size)


def _touched(memory: HostMemory) -> Iterator[int]:
    """The pages that are not all zeros.  What nobody ever touched is not even looked at."""
    view = memory.read_only
    for first, end in memory.extents():
        for chunk in range(first, end, _CHUNK):
            stop = min(chunk + _CHUNK, end)
            if bytes(view[chunk:stop]) == _ZEROS[: stop - chunk]:
                continue
            for at in range(chunk, stop, PAGE):
                if bytes(view[at : at + PAGE]) != _ZEROS[:PAGE]:
                    yield at // PAGE
