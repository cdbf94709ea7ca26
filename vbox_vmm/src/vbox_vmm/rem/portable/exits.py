"""Port and MMIO tables, and the callbacks through which a guest's accesses reach their handlers.

Thunks call with the address of the engine's `Machine`; nothing that raises a guest exception is on the stack.
Handlers may replace the tables while they run: nothing found before the call is looked at after it.
"""

from __future__ import annotations

import ctypes
import traceback
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence

from attrs import frozen

from vbox_pdm.engine import EngineHost, Exit, ReadHandler, WriteHandler

from .structures import Machine

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
    exit: Exit


def _rows(exits: Sequence[Exit], highest: int) -> list[_Row]:
    rows: list[_Row] = []
    previous = -1
    for each in exits:
        last = each.first + each.size - 1
        if each.size <= 0 or each.first <= previous or last > highest:
            raise ValueError(f"exit rows must be sorted, not empty and apart; wrong at {each.first:#x}")
        rows.append(_Row(last, each.first - each.start, each.direct, each.read, each.write, each))
        previous = last
    return rows


class Exits:
    """The exit tables of one engine."""

    def __init__(self, host: EngineHost) -> None:
        self.host = host
        self.count = 0  # handlers called
        self._rows: list[_Row] = []  # of ports
        self._index = array("H", bytes(2 * _PORTS))  # of each port: the row's number from 1, or 0
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
        self._rows, self._index = rows, index
        return bytes(strings)

    def set_mmio(self, exits: Sequence[Exit]) -> None:
        rows = _rows(exits, (1 << 64) - 1)
        self._mmio, self._mmio_starts, self._mmio_hit = rows, [row.exit.first for row in rows], None

    def clear(self) -> None:
        self.set_ports(())
        self.set_mmio(())

    # --- accesses

    def _row(self, port: int) -> _Row | None:
        number = self._index[port]
        return self._rows[number - 1] if number else None

    def port_read(self, port: int, size: int) -> int:
        row = self._row(port)
        if row is not None and port + size - 1 <= row.last:
            handler = row.read if size & row.direct else row.exit.adapted_read
            return self._read(row, handler, port - row.base, size)
        if size == 1:
            return 0xFF
        return sum(self.port_read((port + i) & 0xFFFF, 1) << i * 8 for i in range(size))

    def port_write(self, port: int, size: int, value: int) -> None:
        row = self._row(port)
        if row is not None and port + size - 1 <= row.last:
            handler = row.write if size & row.direct else row.exit.adapted_write
            self._write(row, handler, port - row.base, size, value)
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
            direct = size & row.direct and not address & (size - 1)
            handler = row.read if direct else row.exit.adapted_read
            return self._read(row, handler, address - row.base, size)
        if size == 1 or (row is None and address + size - 1 < following):
            return _MASKS[size]
        return sum(self.mmio_read(address + i, 1) << i * 8 for i in range(size))

    def mmio_write(self, address: int, size: int, value: int) -> None:
        row, following = self._find(address)
        if row is not None and address + size - 1 <= row.last:
            direct = size & row.direct and not address & (size - 1)
            handler = row.write if direct else row.exit.adapted_write
            self._write(row, handler, address - row.base, size, value)
        elif size > 1 and not (row is None and address + size - 1 < following):
            for i in range(size):
                self.mmio_write(address + i, 1, value >> i * 8)

    # --- handlers

    def _read(self, row: _Row, handler: ReadHandler, offset: int, size: int) -> int:
        self.count += 1
        try:
            value = handler(offset, size)
            if not isinstance(value, int):
                raise TypeError(f"a handler must not return {type(value)}")
            return value & _MASKS[size]
        except BaseException as error:
            self._failed(row, offset, size, None, error)
            return _MASKS[size]

    def _write(self, row: _Row, handler: WriteHandler, offset: int, size: int, value: int) -> None:
        self.count += 1
        value &= _MASKS[size]
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
        row = self._rows[self._index[port] - 1]
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
        row = self._rows[self._index[port] - 1]
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
            return vector if 0 <= vector < _NO_VECTOR else _NO_VECTOR
        except BaseException:
            traceback.print_exc()
            return _NO_VECTOR


# --- callbacks ------------------------------------------------------------------------------------

_exits: dict[int, weakref.ref[Exits]] = {}


def attach(machine: Machine, exits: Exits) -> None:
    _exits[machine.address] = weakref.ref(exits)


def detach(machine: Machine) -> None:
    _exits.pop(machine.address, None)


def _of(machine: int) -> Exits:
    found = _exits[machine]()
    assert found is not None, "an engine that runs has its tables"
    return found


def _port_read(machine: int, port: int, size: int) -> int:
    return _of(machine).port_read(port, size)


def _port_write(machine: int, port: int, size: int, value: int) -> int:
    _of(machine).port_write(port, size, value)
    return 0


def _mmio_read(machine: int, address: int, size: int) -> int:
    return _of(machine).mmio_read(address, size)


def _mmio_write(machine: int, address: int, size: int, value: int) -> int:
    _of(machine).mmio_write(address, size, value)
    return 0


def _port_read_string(machine: int, port: int, size: int, count: int) -> int:
    """Items; the first goes before the transfer page, the others into it."""
    data = _of(machine).read_string(port, size, count)
    transfer = Machine(machine).transfer
    ctypes.memmove(transfer - 8, data[:size].ljust(8, b"\0"), 8)
    ctypes.memmove(transfer, data[size:], max(len(data) - size, 0))
    return len(data) // size


def _port_write_string(machine: int, port: int, size: int, count: int, host: int) -> int:
    return _of(machine).write_string(port, size, ctypes.string_at(host, count * size))


def _acknowledge(machine: int) -> int:
    return _of(machine).acknowledge()


def _callback(function: Callable[..., int], arguments: int) -> ctypes._CFunctionType:
    return ctypes.CFUNCTYPE(*[ctypes.c_uint64] * (arguments + 1))(function)


_CALLBACKS = {
    "port_read": _callback(_port_read, 3),
    "port_write": _callback(_port_write, 4),
    "mmio_read": _callback(_mmio_read, 3),
    "mmio_write": _callback(_mmio_write, 4),
    "port_read_string": _callback(_port_read_string, 4),
    "port_write_string": _callback(_port_write_string, 5),
    "acknowledge": _callback(_acknowledge, 1),
}


def callbacks() -> dict[str, int]:
    """The addresses of what thunks call by `python`."""
    return {name: ctypes.cast(f, ctypes.c_void_p).value or 0 for name, f in _CALLBACKS.items()}
