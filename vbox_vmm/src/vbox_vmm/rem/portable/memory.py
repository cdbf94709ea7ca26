"""The map of guest-physical memory: which host memory thunks find behind an address, and its dirty log."""

from __future__ import annotations

import ctypes

from attrs import evolve, field, frozen

from .language import lib
from .library import Library
from .structures import SLOT_SIZE, Machine, Slot
from .thunks.memory import LOG_CLEAN, PAGE_BITS


@frozen
class _Mapping:
    """Guest-physical [start, end); stores go to `write_host`, 0 drops them; `log` has a byte a page, once
    asked."""

    start: int
    end: int
    host: int
    write_host: int
    log: ctypes.Array[ctypes.c_char] | None = field(default=None, eq=False)

    def part(self, start: int, end: int) -> _Mapping:
        """What of it lies in [start, end); pages keep their state in the log."""
        skip = start - self.start
        log = self.log
        if log is not None:
            pages = log.raw[skip >> PAGE_BITS : (end - self.start) >> PAGE_BITS]
            log = ctypes.create_string_buffer(pages, len(pages))
        write_host = self.write_host + skip if self.write_host else 0
        return _Mapping(start, end, self.host + skip, write_host, log)


class Slots:
    """The slots of one engine, in order of their addresses, and their image in memory for the thunks."""

    def __init__(self, machine: Machine, library: Library) -> None:
        self._m = machine
        self._all: list[_Mapping] = []
        self._image = ctypes.create_string_buffer(SLOT_SIZE)
        three = (None, *(ctypes.c_uint64,) * 3)
        self._forbid_stores = ctypes.PYFUNCTYPE(*three)(library.forbid_stores)
        self._invalidate_host = ctypes.PYFUNCTYPE(*three)(library.invalidate_host)

    def map(self, address: int, size: int, host: int, write_host: int) -> None:
        """Replace [address, address + size) by host memory, or by nothing (host 0)."""
        end = address + size
        fresh = [_Mapping(address, end, host, write_host)] if host else []
        for s in self._all:
            if s.end <= address or s.start >= end:
                fresh.append(s)
                continue
            if s.start < address:
                fresh.append(s.part(s.start, address))
            if s.end > end:
                fresh.append(s.part(end, s.end))
            gone = s.part(max(s.start, address), min(s.end, end))
            # The host memory may be given to someone else now.
            self._invalidate_host(self._m.address, gone.host, gone.end - gone.start)
        self._all = sorted(fresh, key=lambda s: s.start)
        self._publish()
        # What the CPU has cached of the map is void; running code looks again at its next block.
        lib.tlb_flush(self._m.cpu)
        self._m.env.attention = 1

    def _publish(self) -> None:
        image = ctypes.create_string_buffer(max(len(self._all), 1) * SLOT_SIZE)
        for number, s in enumerate(self._all):
            slot = Slot(ctypes.addressof(image) + number * SLOT_SIZE)
            slot.start, slot.end, slot.host, slot.write_host = s.start, s.end, s.host, s.write_host
            slot.log = ctypes.addressof(s.log) if s.log is not None else 0
        self._m.slot_count = 0
        self._m.slot_hit = 0
        self._m.slots = ctypes.addressof(image)
        self._m.slot_count = len(self._all)
        self._image = image

    def invalidate(self, address: int, size: int) -> None:
        end = address + size
        for s in self._all:
            start, stop = max(address, s.start), min(end, s.end)
            if start < stop:
                for host in {s.host, s.write_host} - {0}:
                    self._invalidate_host(self._m.address, host + (start - s.start), stop - start)
        self._m.env.attention = 1

    def dirty(self, address: int, size: int) -> bytes:
        out = bytearray(b"\1" * (size >> PAGE_BITS))
        for number, s in enumerate(self._all):
            start, end = max(address, s.start), min(address + size, s.end)
            if start >= end:
                continue
            if s.log is None:
                s = self._all[number] = evolve(
                    s, log=ctypes.create_string_buffer((s.end - s.start) >> PAGE_BITS)
                )
                self._publish()
            assert s.log is not None
            first, last = (start - s.start) >> PAGE_BITS, (end - s.start) >> PAGE_BITS
            pages = bytes(page != LOG_CLEAN for page in s.log.raw[first:last])
            ctypes.memset(ctypes.addressof(s.log) + first, LOG_CLEAN, last - first)
            at = (start - address) >> PAGE_BITS
            out[at : at + len(pages)] = pages
            if s.write_host and 1 in pages:
                host = s.write_host + (start - s.start)
                self._forbid_stores(self._m.address, host, host + (end - start))
        return bytes(out)
