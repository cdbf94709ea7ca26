"""What the conformance kit cannot guess of the controller, and what must be true of it at any time."""

from __future__ import annotations

import struct
from typing import Any

from vbox_pdm import Direction, ata
from vbox_pdm.testing.conformance import Setup
from vbox_plugin_ide.exercises import BOTH, EXERCISES, MASTER
from vbox_plugin_ide.piix3ide import Piix3Ide
from vbox_plugin_ide.registers import (
    BM_INTERRUPT,
    BM_START,
    BM_TO_MEMORY,
    BSY,
    COMMAND,
    COUNT,
    DEVICE,
    DRQ,
    IDETIM,
    NIEN,
    PCICMD,
)
from vbox_plugin_ide.saved import Recovery, Stage

_TABLE, _MEMORY = 0x1000, 0x8000
_DESCRIPTORS = struct.pack("<IIII", _MEMORY, 512, _MEMORY + 1024, 512 | 1 << 31)


def setup() -> Setup:
    """Firmware switches both channels on.  The guest's driver reads by DMA on the first, where all is
    ready but that the function may be bus master, with a table that ends before the command does; on the
    second it is in the middle of reading by PIO, and has seen the interrupt at the bus master alone."""
    return Setup(
        firmware=((IDETIM, 4, BOTH),),
        prepare=(
            ("memory_write", _TABLE, _DESCRIPTORS),
            ("pci_write", 1, 1, 0x20, 4, MASTER),
            ("pci_write", 1, 1, IDETIM, 4, BOTH),
            ("pci_write", 1, 1, PCICMD, 2, 1),
            ("port_write", MASTER + 4, 4, _TABLE),
            ("port_write", 0x1F0 + DEVICE, 1, 0xE0),
            ("port_write", 0x1F0 + COUNT, 1, 4),
            ("port_write", 0x1F0 + COMMAND, 1, int(ata.Command.READ_DMA)),
            ("port_write", MASTER, 1, BM_START | BM_TO_MEMORY),
            ("port_write", 0x170 + DEVICE, 1, 0xE0),
            ("port_write", 0x170 + COUNT, 1, 4),
            ("port_write", 0x170 + COMMAND, 1, int(ata.Command.READ_SECTORS)),
            ("port_write", MASTER + 10, 1, BM_INTERRUPT),
        ),
        invariants={
            "a line follows the selected device and nIEN": _wrong_line,
            "BSY and DRQ are those of a command or a reset": _wrong_status,
            "the data port moves a block of a command": _wrong_block,
            "a command is of the selected device, and takes the interrupt back": _wrong_device,
            "a request is with a drive that is there": _wrong_drive,
        },
        exercises=EXERCISES,
    )


def _wrong_line(controller: Piix3Ide, bench: Any) -> str | None:
    for number, channel in enumerate(controller.channels):
        wanted = channel.unit.pending and not channel.control & NIEN
        if channel.irq.level != wanted:
            return f"the line of channel {number} is {channel.irq.level}, the device asks for {wanted}"
    return None


def _wrong_status(controller: Piix3Ide, bench: Any) -> str | None:
    for number, channel in enumerate(controller.channels):
        busy = any(unit.status & (BSY | DRQ) for unit in channel.units)
        reset = channel.recovery is not Recovery.NONE and any(unit.present for unit in channel.units)
        if busy != (channel.command is not None or reset):
            return (
                f"a device of channel {number} is {'' if busy else 'not '}busy, and has nothing to be so for"
            )
    return None


def _wrong_block(controller: Piix3Ide, bench: Any) -> str | None:
    for number, channel in enumerate(controller.channels):
        if channel.reading or channel.writing:
            if channel.command is None or not 0 <= channel.at < channel.end <= channel.filled:
                return f"channel {number} is at {channel.at} of a block to {channel.end} of {channel.filled}"
        elif any(unit.status & DRQ for unit in channel.units) and channel.command is None:
            return f"channel {number} asks for data of no command"
    return None


def _wrong_device(controller: Piix3Ide, bench: Any) -> str | None:
    for number, channel in enumerate(controller.channels):
        command = channel.command
        if command is None:
            continue
        if command.unit is not channel.unit:
            return f"another device than that of the command is selected on channel {number}"
        begins = command.stage in (Stage.DRIVE, Stage.DMA) and not command.request.position
        asked = command.packet or command.phase.direction is Direction.OUT  # for the data, before
        if begins and not asked and command.unit.pending:
            return f"a command on channel {number} begins with the interrupt of the one before"
    return None


def _wrong_drive(controller: Piix3Ide, bench: Any) -> str | None:
    for number, channel in enumerate(controller.channels):
        if channel.flying is not None and not channel.flying.unit.drive.connected:
            return f"channel {number} waits for a drive that is gone"
    return None
