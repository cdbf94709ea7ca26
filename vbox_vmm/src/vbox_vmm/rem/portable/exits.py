"""Port and MMIO tables, and the callbacks through which a guest's accesses reach their handlers.

Thunks call with the engine's number; nothing that raises a guest exception is on the stack.
Handlers may replace the tables while they run: nothing found before the call is looked at after it.
"""

from __future__ import annotations

import ctypes
import traceback
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import count

from attrs import frozen

from vbox_pdm.engine import EngineHost, Exit, ReadHandler, WriteHandler

_MASKS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}
_NO_VECTOR = 256
_PORTS = 0x10000


@frozen(eq=False)
class _Row:
    """An Exit as accesses look at it."""

    last: int
    base: int  # what an address is more than the handler's offset
    direct: int
    read: ReadHandler
    write: WriteHandler
    answers: memoryview | None
    keeps: memoryview | None
    exit: Exit


def _rows(exits: Sequence[Exit], highest: int) -> list[_Row]:
    rows: list[_Row] = []
    previous = -1
    for each in exits:
        last = each.first + each.size - 1
        if each.size <= 0 or each.first <= previous or last > highest:
            raise ValueError(f"exit rows must be sorted, not empty and apart; wrong at {each.first:#x}")
        answers, keeps = _bytes(each, "answers"), _bytes(each, "keeps")
        if keeps is not None and keeps.readonly:
            raise BufferError(f"'keeps' of the exit row at {each.first:#x} cannot be written")
        base = each.first - each.start
        rows.append(_Row(last, base, each.direct, each.read, each.write, answers, keeps, each))
        previous = last
    return rows


def _bytes(row: Exit, name: str) -> memoryview | None:
    """What serves a row instead of a handler, if there is something."""
    value: memoryview | None = getattr(row, name)
    if value is None:
        return None
    end = row.start + row.size
    if value.nbytes < end:
        raise ValueError(f"'{name}' of an exit row has {value.nbytes} bytes, its last offset is {end - 1}")
    return value.cast("B")


class Exits:
    """The exit tables of one engine."""

    def __init__(self, host: EngineHost) -> None:
        self.host = host
        self.count = 0  # handlers called
        self._rows: list[_Row | None] = [None]  # of ports; number 0 is none
        self._index = array("H", bytes(2 * _PORTS))  # of each port: its row's number
        self._mmio: list[_Row] = []
        self._mmio_starts: list[int] = []
        self._mmio_hit: _Row | None = None

    def set_ports(self, exits: Sequence[Exit]) -> bytes:
        """Returns a byte for each port: sizes that a string handler serves, reads from bit 0, writes from
        4."""
        rows = _rows(exits, 0xFFFF)
        index = array("H", bytes(2 * _PORTS))
        strings = bytearray(_PORTS)
        for number, row in enumerate(rows, 1):
            first, count = row.exit.first, row.exit.size
            index[first : first + count] = array("H", [number]) * count
            shift = (0 if row.exit.read_string else None, 4 if row.exit.write_string else None)
            for port in range(first, first + count if any(s is not None for s in shift) else first):
                sizes = row.direct & sum(size for size in (1, 2, 4) if port + size - 1 <= row.last)
                strings[port] = sum(sizes << s for s in shift if s is not None)
        self._rows, self._index = [None, *rows], index
        return bytes(strings)

    def set_mmio(self, exits: Sequence[Exit]) -> None:
        rows = _rows(exits, (1 << 64) - 1)
        self._mmio, self._mmio_starts, self._mmio_hit = rows, [row.exit.first for row in rows], None

    def clear(self) -> None:
        self.set_ports(())
        self.set_mmio(())

    # --- accesses

    def port_read(self, port: int, size: int) -> int:
        row = self._rows[self._index[port]]
        if row is not None and port + size - 1 <= row.last:
            return self._read(row, size & row.direct, port - row.base, size)
        if size == 1:
            return 0xFF
        return sum(self.port_read((port + i) & 0xFFFF, 1) << i * 8 for i in range(size))

    def port_write(self, port: int, size: int, value: int) -> None:
        row = self._rows[self._index[port]]
        if row is not None and port + size - 1 <= row.last:
            self._write(row, size & row.direct, port - row.base, size, value)
        elif size > 1:
            for i in range(size):
                self.port_write((port + i) & 0xFFFF, 1, value >> i * 8)

    def _find(self, address: int) -> tuple[_Row | None, int]:
        """The row that holds an address; else None and where the next one begins."""
        hit = self._mmio_hit
        if hit is not None and hit.exit.first <= address <= hit.last:
            return hit, 0
        number = bisect_right(self._mmio_starts, address)
        if number and address <= self._mmio[number - 1].last:
            self._mmio_hit = self._mmio[number - 1]
            return self._mmio_hit, 0
        return None, self._mmio_starts[number] if number < len(self._mmio_starts) else 1 << 64

    def mmio_read(self, address: int, size: int) -> int:
        row, following = self._find(address)
        if row is not None and address + size - 1 <= row.last:
            direct = 0 if address & (size - 1) else size & row.direct
            return self._read(row, direct, address - row.base, size)
        if size == 1 or (row is None and address + size - 1 < following):
            return _MASKS[size]
        return sum(self.mmio_read(address + i, 1) << i * 8 for i in range(size))

    def mmio_write(self, address: int, size: int, value: int) -> None:
        row, following = self._find(address)
        if row is not None and address + size - 1 <= row.last:
            direct = 0 if address & (size - 1) else size & row.direct
            self._write(row, direct, address - row.base, size, value)
        elif size > 1 and not (row is None and address + size - 1 < following):
            for i in range(size):
                self.mmio_write(address + i, 1, value >> i * 8)

    # --- handlers

    def _read(self, row: _Row, direct: int, offset: int, size: int) -> int:
        if direct and row.answers is not None:
            return int.from_bytes(row.answers[offset : offset + size], "little")
        handler = row.read if direct else row.exit.adapted_read
        self.count += 1
        try:
            value = handler(offset, size)
            if not isinstance(value, int):
                raise TypeError(f"a handler must not return {type(value)}")
            return value & _MASKS[size]
        except BaseException as error:
            self._failed(row, offset, size, None, error)
            return _MASKS[size]

    def _write(self, row: _Row, direct: int, offset: int, size: int, value: int) -> None:
        value &= _MASKS[size]
        if direct and row.keeps is not None:
            row.keeps[offset : offset + size] = value.to_bytes(size, "little")
            return
        handler = row.write if direct else row.exit.adapted_write
        self.count += 1
        try:
            handler(offset, size, value)
        except BaseException as error:
            self._failed(row, offset, size, value, error)

    def _failed(self, row: _Row, offset: int, size: int, value: int | None, error: BaseException) -> None:
        try:
            self.host.handler_failed(row.exit.owner, offset, size, value, error)
        except BaseException:
            traceback.print_exc()

    def read_string(self, port: int, size: int, count: int) -> bytes:
        """What the row's string handler gives: up to so many whole items, or nothing."""
        row = self._rows[self._index[port]]
        assert row is not None, "only ports with string handlers come here"
        offset = port - row.base
        self.count += 1
        try:
            assert row.exit.read_string is not None
            data = row.exit.read_string(offset, size, count)
            if not isinstance(data, bytes) or len(data) % size or len(data) > count * size:
                raise TypeError(f"a handler must not return {type(data)}")
            return data
        except BaseException as error:
            self._failed(row, offset, size, None, error)
            return b""

    def write_string(self, port: int, size: int, items: bytes) -> int:
        """How many items the row's string handler took."""
        row = self._rows[self._index[port]]
        assert row is not None, "only ports with string handlers come here"
        offset = port - row.base
        self.count += 1
        try:
            assert row.exit.write_string is not None
            taken = row.exit.write_string(offset, size, items)
            if not isinstance(taken, int) or not 0 <= taken <= len(items) or taken % size:
                raise TypeError(f"a handler must not return {type(taken)}")
            return taken // size
        except BaseException as error:
            self._failed(row, offset, size, None, error)
            return 0

    def acknowledge(self) -> int:
        try:
            vector = self.host.acknowledge_interrupt()
            return _NO_VECTOR if vector == -1 else vector & 0xFF
        except BaseException as error:
            try:
                self.host.acknowledge_failed(error)
            except BaseException:
                traceback.print_exc()
            return _NO_VECTOR

    def fpu_error(self) -> None:
        try:
            self.host.fpu_error()
        except BaseException:
            traceback.print_exc()


# --- callbacks ------------------------------------------------------------------------------------

# An engine that runs has its tables: none of these is gone when a callback looks.
_exits: dict[int, weakref.ref[Exits]] = {}
_numbers = count(1)


def attach(exits: Exits) -> int:
    """The number by which thunks name the engine that these tables belong to."""
    number = next(_numbers)
    _exits[number] = weakref.ref(exits)
    return number


def detach(number: int) -> None:
    _exits.pop(number, None)


def _port_read(engine: int, port: int, size: int) -> int:
    return _exits[engine]().port_read(port, size)  # type: ignore[union-attr]


def _port_write(engine: int, port: int, size: int, value: int) -> int:
    _exits[engine]().port_write(port, size, value)  # type: ignore[union-attr]
    return 0


def _mmio_read(engine: int, address: int, size: int) -> int:
    return _exits[engine]().mmio_read(address, size)  # type: ignore[union-attr]


def _mmio_write(engine: int, address: int, size: int, value: int) -> int:
    _exits[engine]().mmio_write(address, size, value)  # type: ignore[union-attr]
    return 0


def _port_read_string(engine: int, port: int, size: int, count: int, transfer: int) -> int:
    """Items; the first goes before the transfer page, the others into it."""
    data = _exits[engine]().read_string(port, size, count)  # type: ignore[union-attr]
    ctypes.memmove(transfer - 8, data[:size].ljust(8, b"\0"), 8)
    ctypes.memmove(transfer, data[size:], max(len(data) - size, 0))
    return len(data) // size


def _port_write_string(engine: int, port: int, size: int, count: int, host: int) -> int:
    items = ctypes.string_at(host, count * size)
    return _exits[engine]().write_string(port, size, items)  # type: ignore[union-attr]


def _acknowledge(engine: int) -> int:
    return _exits[engine]().acknowledge()  # type: ignore[union-attr]


def _fpu_error(engine: int) -> int:
    _exits[engine]().fpu_error()  # type: ignore[union-attr]
    return 0


_Narrow, _Wide = ctypes.c_uint32, ctypes.c_uint64  # narrow ones are quicker
_CALLBACKS = {
    "port_read": ctypes.CFUNCTYPE(_Narrow, *[_Narrow] * 3)(_port_read),
    "port_write": ctypes.CFUNCTYPE(_Narrow, *[_Narrow] * 4)(_port_write),
    "mmio_read": ctypes.CFUNCTYPE(_Wide, _Narrow, _Wide, _Narrow)(_mmio_read),
    "mmio_write": ctypes.CFUNCTYPE(_Narrow, _Narrow, _Wide, _Narrow, _Wide)(_mmio_write),
    "port_read_string": ctypes.CFUNCTYPE(_Narrow, *[_Narrow] * 4, _Wide)(_port_read_string),
    "port_write_string": ctypes.CFUNCTYPE(_Narrow, *[_Narrow] * 4, _Wide)(_port_write_string),
    "acknowledge": ctypes.CFUNCTYPE(_Narrow, _Narrow)(_acknowledge),
    "fpu_error": ctypes.CFUNCTYPE(_Narrow, _Narrow)(_fpu_error),
}


def callbacks() -> dict[str, int]:
    """The addresses of what thunks call by `python`."""
    return {name: ctypes.cast(f, ctypes.c_void_p).value or 0 for name, f in _CALLBACKS.items()}
