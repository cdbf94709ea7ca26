"""What must work whatever happened to the controller before, for the conformance kit (`Setup.exercises`):
a guest's driver finds device 0 of the first channel and reads from it by PIO and by DMA.  The drives of the
kit give bytes that count up.

Each is a function of the device and its bench, and answers what did not come out; None when all is well.
"""

from __future__ import annotations

import struct
from typing import Any

from vbox_pdm import ata
from vbox_plugin_ide.piix3ide import Piix3Ide
from vbox_plugin_ide.registers import (
    BM_ACTIVE,
    BM_ERROR,
    BM_INTERRUPT,
    BM_START,
    BM_TO_MEMORY,
    COMMAND,
    COUNT,
    DATA,
    DECODE_ENABLE,
    DEVICE,
    DIAGNOSTIC,
    ERROR,
    IDETIM,
    NIEN,
    PCICMD,
    READY,
    SRST,
    STATUS,
)

MASTER = 0xC000
"""Where the ports of the bus master are."""
BOTH = DECODE_ENABLE << 16 | DECODE_ENABLE
"""IDETIM: both channels are decoded."""
_PORTS, _CONTROL = 0x1F0, 0x3F6
_TABLE, _TARGET = 0x1_0000, 0x2_0000
_NOWHERE = 0x9000_0000  # no memory
_MILLISECOND = 1_000_000
_END = 1 << 31  # of a table


def _given(length: int) -> bytes:
    return bytes(range(256)) * (length // 256)


def _found(device: Piix3Ide, bench: Any) -> bool:
    """The driver resets the devices of the first channel; whether device 0 is there."""
    bench.pci_write(1, 1, 0x20, 4, MASTER)
    bench.pci_write(1, 1, IDETIM, 4, BOTH)
    bench.pci_write(1, 1, PCICMD, 2, 5)
    bench.port_write(MASTER, 1, 0)
    bench.port_write(MASTER + 2, 1, BM_ERROR | BM_INTERRUPT)
    bench.port_write(_CONTROL, 1, SRST)
    bench.port_write(_CONTROL, 1, 0)
    bench.advance(_MILLISECOND)
    bench.port_write(_PORTS + DEVICE, 1, 0xE0)
    return device.channels[0].units[0].present


def _command(bench: Any, command: int, count: int = 0) -> None:
    bench.port_write(_PORTS + COUNT, 1, count)
    bench.port_write(_PORTS + COMMAND, 1, command)


def diagnostic(device: Any, bench: Any) -> str | None:
    """EXECUTE DEVICE DIAGNOSTIC finds a device that is well."""
    if not _found(device, bench):
        return None
    _command(bench, DIAGNOSTIC)
    bench.advance(_MILLISECOND)
    found = bench.port_read(_PORTS + STATUS, 1), bench.port_read(_PORTS + ERROR, 1)
    return None if found == (READY, 1) else f"status {found[0]:#x}, error {found[1]:#x}"


def string_over_blocks(device: Any, bench: Any) -> str | None:
    """Each block of a read is announced by an interrupt, also when REP INS is longer than the one before."""
    if not _found(device, bench):
        return None
    _command(bench, ata.Command.READ_SECTORS, 2)
    bench.port_read(_PORTS + STATUS, 1)
    data = bench.port_read_string(_PORTS + DATA, 2, 300)
    if not device.channels[0].irq.level:
        return "no interrupt for the second block"
    bench.port_read(_PORTS + STATUS, 1)
    for _ in range(512 - 300):
        data += bench.port_read(_PORTS + DATA, 2).to_bytes(2, "little")
    status = bench.port_read(_PORTS + STATUS, 1)
    if data != _given(1024):
        return "other data than the drive gave"
    return None if status == READY else f"status {status:#x} behind the last block"


def _read_dma(
    bench: Any, entries: bytes, sectors: int, command: int = BM_START | BM_TO_MEMORY, table: int = _TABLE
) -> int:
    """The bus master's status behind a read."""
    bench.memory_write(table, entries)
    bench.port_write(MASTER + 4, 4, table)
    _command(bench, ata.Command.READ_DMA, sectors)
    bench.port_write(MASTER, 1, command)
    bench.advance(_MILLISECOND)
    status: int = bench.port_read(MASTER + 2, 1)
    bench.port_write(MASTER, 1, 0)
    return status & (BM_ACTIVE | BM_ERROR | BM_INTERRUPT)


def dma(device: Any, bench: Any) -> str | None:
    """A region of 64 KiB, whose count is 0, and one sector behind it arrive where the table says."""
    if not _found(device, bench):
        return None
    other = _TARGET + (0x2 << 16)
    bench.memory_write(other, b"\x55" * 1024)
    status = _read_dma(bench, struct.pack("<IIII", _TARGET, 0, other, 512 | _END), 129)
    if status != BM_INTERRUPT:
        return f"the bus master's status is {status:#x}"
    if bench.memory_read(_TARGET, 0x1_0000) != _given(0x1_0000):
        return "other data than the drive gave"
    return None if bench.memory_read(other, 1024) == _given(512) + b"\x55" * 512 else "the last sector"


def last_descriptor(device: Any, bench: Any) -> str | None:
    """A descriptor may be the last 8 bytes of 64 KiB."""
    if not _found(device, bench):
        return None
    bench.memory_write(_TARGET, bytes(512))
    status = _read_dma(bench, struct.pack("<II", _TARGET, 512), 1, table=_TABLE + 0xFFF8)
    same = bench.memory_read(_TARGET, 512) == _given(512)
    return None if same and status & BM_INTERRUPT else f"it ends early, status {status:#x}"


def wrong_direction(device: Any, bench: Any) -> str | None:
    """A bus master that is to read memory does not write it."""
    if not _found(device, bench):
        return None
    bench.memory_write(_TARGET, b"\x55" * 512)
    status = _read_dma(bench, struct.pack("<II", _TARGET, 512 | _END), 1, BM_START)
    if bench.memory_read(_TARGET, 512) != b"\x55" * 512:
        return "it moved memory"
    return None if status == BM_ACTIVE else f"the bus master's status is {status:#x}"


def master_abort(device: Any, bench: Any) -> str | None:
    """A transfer to where no memory is sets ERROR."""
    if not _found(device, bench):
        return None
    status = _read_dma(bench, struct.pack("<II", _NOWHERE, 512 | _END), 1)
    return None if status & BM_ERROR else f"the bus master's status is {status:#x}"


def switched_off(device: Any, bench: Any) -> str | None:
    """A channel that is switched off takes nothing: nIEN stays as it was."""
    if not _found(device, bench):
        return None
    bench.pci_write(1, 1, IDETIM, 4, 0)
    bench.port_write(_CONTROL, 1, NIEN)
    bench.pci_write(1, 1, IDETIM, 4, BOTH)
    _command(bench, ata.Command.IDENTIFY)
    return None if device.channels[0].irq.level else "no interrupt"


EXERCISES = {
    "EXECUTE DEVICE DIAGNOSTIC": diagnostic,
    "REP INS over the end of a block": string_over_blocks,
    "a read by DMA": dma,
    "a table at the end of 64 KiB": last_descriptor,
    "a bus master of the wrong direction": wrong_direction,
    "DMA to where no memory is": master_abort,
    "a channel that is switched off": switched_off,
}
