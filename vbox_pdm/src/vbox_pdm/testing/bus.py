"""The bench's bus: accesses as a CPU makes them, to ports and guest-physical addresses.

They follow the engine contract (`vbox_pdm.engine.Exit`): handlers resolved at mapping, width policies
for what is not direct, bytes where an access crosses the end of a row, all ones where nobody answers.
"""

from __future__ import annotations

from collections.abc import Callable

from vbox_pdm.engine import Exit
from vbox_pdm.regions import Ports
from vbox_pdm.tables import RegionTable
from vbox_pdm.testing.memory import Memory
from vbox_pdm.testing.services import describe_row


class Bus:
    """Ports and memory.  `fail(title, where, error)` hears of handlers that raised."""

    def __init__(self, memory: Memory, fail: Callable[[str, str, BaseException], None]) -> None:
        self.memory = memory
        self.ports = RegionTable(Ports)
        self.a20 = True
        self._fail = fail

    def port_read(self, port: int, size: int) -> int:
        """IN; ports wrap at 0x10000."""
        port &= 0xFFFF
        row = self.ports.find(port)
        if row is not None and port + size <= row.first + row.size:
            return self.read(row, port, size, aligned=True)
        if size == 1:
            return 0xFF
        return sum(self.port_read(port + at, 1) << (8 * at) for at in range(size))

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT."""
        port &= 0xFFFF
        row = self.ports.find(port)
        if row is not None and port + size <= row.first + row.size:
            self.write(row, port, size, value & ones(size), aligned=True)
        elif size > 1:
            for at in range(size):
                self.port_write(port + at, 1, value >> (8 * at) & 0xFF)

    def port_row(self, port: int, size: int) -> Exit | None:
        """The row whose string handlers may serve items of `size` at `port`."""
        row = self.ports.find(port)
        inside = row is not None and port + size <= row.first + row.size and size & row.direct
        return row if inside else None

    def load(self, address: int, size: int) -> int:
        """A load of the CPU: A20 applies."""
        at = self._gated(address)
        row = self.memory.row(at, write=False)
        if row is not None and at + size <= row.first + row.size:
            return self.read(row, at, size, aligned=at % size == 0)
        if size == 1:
            return self.memory.read(at, 1)[0]
        return sum(self.load(address + index, 1) << (8 * index) for index in range(size))

    def store(self, address: int, size: int, value: int) -> None:
        """A store of the CPU."""
        at = self._gated(address)
        row = self.memory.row(at, write=True)
        if row is not None and at + size <= row.first + row.size:
            self.write(row, at, size, value & ones(size), aligned=at % size == 0)
        elif size == 1:
            self.memory.write(at, bytes([value & 0xFF]))
        else:
            for index in range(size):
                self.store(address + index, 1, value >> (8 * index) & 0xFF)

    def message(self, address: int, data: int) -> None:
        """A write of a dword by a bus master: A20 does not apply."""
        row = self.memory.row(address, write=True)
        if row is not None and address + 4 <= row.first + row.size:
            self.write(row, address, 4, data, aligned=address % 4 == 0)
        else:
            self.memory.write(address, data.to_bytes(4, "little"))

    def read(self, row: Exit, address: int, size: int, *, aligned: bool) -> int:
        """Call a handler; all ones when it raises."""
        handler = row.read if aligned and size & row.direct else row.adapted_read
        offset = address - row.first + row.start
        try:
            value = handler(offset, size)
            if not isinstance(value, int):
                raise TypeError(f"a read handler returned {value!r}, which is no int")
        except Exception as error:
            title, region = describe_row(row)
            self._fail(title, f"read of {size} at {region}+{offset:#x}", error)
            return ones(size)
        return value & ones(size)

    def write(self, row: Exit, address: int, size: int, value: int, *, aligned: bool) -> None:
        """Call a handler; dropped when it raises."""
        handler = row.write if aligned and size & row.direct else row.adapted_write
        offset = address - row.first + row.start
        try:
            handler(offset, size, value)
        except Exception as error:
            title, region = describe_row(row)
            self._fail(title, f"write of {size} ({value:#x}) at {region}+{offset:#x}", error)

    def _gated(self, address: int) -> int:
        return address if self.a20 else address & ~(1 << 20)


def ones(size: int) -> int:
    """All ones of `size` bytes."""
    return (1 << (8 * size)) - 1
