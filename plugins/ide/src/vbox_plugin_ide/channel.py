"""One channel: two devices on a cable, and the protocols by which the host talks to them.
ATA/ATAPI-7 (T13 1532D): volume 1 clauses 7 and 9, volume 2 clause 11 (device protocols).

Modelled: the command and control blocks of both devices; PIO in and out, with several sectors a
block; non-data; DMA through the bus master; PACKET with PIO and DMA; software reset, DEVICE RESET,
EXECUTE DEVICE DIAGNOSTIC; one device missing, or both; devices that come and go.

Not modelled: overlapped and queued commands (PACKET with OVL is aborted); timing, so transfer modes
are the drives' alone.  A channel without devices reads 00, its data port ones.

Traps
- Reading status takes the interrupt back, reading alternate status does not.  The line follows the
  selected device, and nIEN floats it without forgetting.
- PIO in: an interrupt announces each block, and none follows the last.  PIO out: no interrupt for the
  first block, one for each other and for the end.  PACKET: one for each block of data, in or out, and
  for the end; none for the packet itself.
- While the selected device has BSY or DRQ its registers take nothing, so no other can be selected;
  only SRST, and DEVICE RESET for a packet device, get through.
- A request that a reset cut off still owns its memory: the devices stay busy until it is done.
"""

from __future__ import annotations

import logging

from vbox_pdm import DriveRequest, DriveReset, IrqLine, TaskFile
from vbox_pdm.drive import Direction, DriveBelow, Phase
from vbox_plugin_ide.busmaster import BusMaster
from vbox_plugin_ide.command import Command, packet_block
from vbox_plugin_ide.registers import (
    ABRT,
    BSY,
    COMMAND,
    DATA,
    DEV,
    DEVICE,
    DEVICE_RESET,
    DF,
    DIAGNOSTIC,
    DRQ,
    ERR,
    HOB,
    NIEN,
    PACKET,
    PACKET_DMA,
    PACKET_LENGTH,
    PACKET_OVERLAP,
    READY,
    REASON_CD,
    REASON_IO,
    SRST,
    STATUS,
)
from vbox_plugin_ide.saved import Recovery, Stage
from vbox_plugin_ide.taskfile import Unit

BUFFER = 128 << 10
"""Bytes of PIO data that are buffered: a command of 256 sectors."""
SECTOR = 512
"""Disks write whole sectors."""
_ONES = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF}


class Channel:
    """Primary or secondary.  `enabled`: whether its ports are decoded."""

    transient = frozenset({"view"})
    """What counts of the buffer is saved with the command."""
    view: memoryview  # the buffer
    reading: bool  # the data port gives
    writing: bool  # the data port takes
    at: int  # where in the buffer
    end: int  # of the block
    filled: int  # the end of all blocks that the buffer has data or room for

    def __init__(
        self,
        drives: tuple[DriveBelow, DriveBelow],
        irq: IrqLine,
        master: BusMaster,
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self.units = (Unit(0, drives[0]), Unit(1, drives[1]))
        self.unit = self.units[0]  # the selected one
        self.irq = irq
        self.master = master
        self.log = log
        self.enabled = False
        self.control = 0
        self.recovery = Recovery.NONE
        self.command: Command | None = None
        self.flying: Command | None = None  # whose request is with the drive; a reset may have cut it off
        self._submitting = False
        self._level = False
        self.new_buffer()
        self.close_block()

    # --- ports

    def read(self, offset: int, size: int) -> int:
        """The command block."""
        if not self.enabled:
            return _ONES[size]
        if offset == DATA:
            return self._read_data(size)
        if size != 1:
            parts = (self.read(at, 1) << 8 * (at - offset) for at in range(offset, offset + size))
            return sum(parts)
        unit = self.unit
        if offset == STATUS:
            if unit.pending:
                unit.pending = False
                self.update_line()
            return unit.status
        if not unit.present:
            unit = self.units[0]
            if unit.packet or not unit.present:
                return 0
        return unit.read(offset, bool(self.control & HOB))

    def write(self, offset: int, size: int, value: int) -> None:
        """The command block."""
        if not self.enabled:
            return
        if offset == DATA:
            self._write_data(size, value)
        elif size != 1:
            for at in range(size):
                self.write(offset + at, 1, value >> 8 * at & 0xFF)
        elif offset == COMMAND:
            self._write_command(value)
        elif not self._busy():
            self.control &= ~HOB
            for unit in self.units:
                if unit.present:
                    unit.write(offset, value)
            if offset == DEVICE:
                self._select(value)

    def read_control(self, offset: int, size: int) -> int:
        """Alternate status."""
        return self.unit.status if self.enabled else 0xFF

    def write_control(self, offset: int, size: int, value: int) -> None:
        """Device control."""
        if not self.enabled:
            return
        before, self.control = self.control, value & (HOB | SRST | NIEN)
        if value & ~before & SRST:
            self._software_reset()
        elif before & ~value & SRST:
            self.recover()
        self.update_line()

    def read_string(self, offset: int, size: int, count: int) -> bytes:
        """What is left of the block, in whole items."""
        if offset or size == 1 or not self.reading or not self.enabled:
            return b""
        at = self.at
        stop = at + min(count * size, (self.end - at) // size * size)
        data = bytes(self.view[at:stop])
        self.at = stop
        if stop == self.end and data:
            self._block_read()
        return data

    def write_string(self, offset: int, size: int, items: bytes) -> int:
        """What the block still takes, in whole items."""
        if offset or size == 1 or not self.writing or not self.enabled:
            return 0
        at = self.at
        taken = min(len(items), self.end - at) // size * size
        self.view[at : at + taken] = items[:taken]
        self.at = at + taken
        if self.at == self.end and taken:
            self._block_written()
        return taken

    def _read_data(self, size: int) -> int:
        if not self.reading:
            return _ONES[size]
        at, stop = self.at, min(self.at + size, self.end)
        value = int.from_bytes(self.view[at:stop], "little")
        self.at = stop
        if stop == self.end:
            self._block_read()
        return value

    def _write_data(self, size: int, value: int) -> None:
        if not self.writing:
            return
        at, stop = self.at, min(self.at + size, self.end)
        self.view[at:stop] = value.to_bytes(size, "little")[: stop - at]
        self.at = stop
        if stop == self.end:
            self._block_written()

    # --- selection and interrupt

    def _select(self, device: int) -> None:
        self.unit = self.units[1 if device & DEV else 0]
        self.update_line()

    def update_line(self) -> None:
        """Drive the line as the selected device and nIEN say."""
        level = self.unit.pending and not self.control & NIEN
        if level != self._level:
            self._level = level
            if level:
                self.master.interrupt()
            self.irq.set(level)

    def line_loaded(self) -> None:
        """The host loaded the level of the line."""
        self._level = self.irq.level

    def _busy(self) -> bool:
        """Whether the registers take nothing."""
        return bool((self.units[0].status | self.units[1].status) & (BSY | DRQ))

    # --- commands

    def _write_command(self, value: int) -> None:
        unit = self.unit
        if self._busy():
            if value == DEVICE_RESET and unit.packet and self.recovery is Recovery.NONE:
                self._device_reset()
            return
        self.control &= ~HOB
        if value == DIAGNOSTIC:
            self._diagnose()
        elif unit.present:
            unit.pending = False
            self.update_line()
            if value == DEVICE_RESET and unit.packet:
                self._device_reset()
            elif value == PACKET and unit.packet:
                self._begin_packet(unit.task(value))
            else:
                self._begin(unit.task(value))

    def _begin(self, task: TaskFile) -> None:
        unit = self.unit
        phase = unit.drive.drive_phase(task, b"")
        block = min(max(1, phase.block), BUFFER)
        command = self.new_command(task, phase, block, phase.dma)
        self._start(command)

    def _begin_packet(self, task: TaskFile) -> None:
        command = self.new_command(task, Phase())
        if task.features & PACKET_OVERLAP:
            self._abort(command)
            return
        self.open_block(0, PACKET_LENGTH, Stage.PACKET)
        self.unit.count = REASON_CD

    def _packet_received(self, command: Command) -> None:
        request = command.request
        request.packet = bytes(self.view[:PACKET_LENGTH])
        command.phase = command.unit.drive.drive_phase(request.task, request.packet)
        command.dma = bool(request.task.features & PACKET_DMA)
        command.block = packet_block(request.task.lba >> 8 & 0xFFFF, command.phase.length)
        self._start(command)

    def new_command(self, task: TaskFile, phase: Phase, block: int = 512, dma: bool = False) -> Command:
        """A command of the selected device becomes the one under way."""
        request = DriveRequest(task, self._done)
        command = Command(self.unit, request, phase, block, dma)
        request.cookie = command
        self.command = command
        return command

    def _start(self, command: Command) -> None:
        if command.phase.length <= 0:
            command.phase = Phase()
        if command.phase.direction is Direction.OUT and not command.dma:
            self._collect(command, announce=command.packet)
        else:
            self.submit(command)

    # --- blocks of data

    def new_buffer(self) -> None:
        """Another buffer, when a request that nobody waits for keeps the one before."""
        self.view = memoryview(bytearray(BUFFER))

    def close_block(self) -> None:
        """The data port moves nothing."""
        self.reading = self.writing = False
        self.at = self.end = self.filled = 0

    def open_block(self, start: int, filled: int, stage: Stage) -> None:
        """The data port moves the block at `start`; `filled` bytes of the buffer are data."""
        command = self.command
        assert command is not None
        length = min(PACKET_LENGTH if stage is Stage.PACKET else command.block, filled - start)
        self.at, self.end, self.filled = start, start + length, filled
        self.reading, self.writing = stage is Stage.IN, stage is not Stage.IN
        command.stage = stage
        unit = command.unit
        unit.status = READY | DRQ
        if command.packet:
            unit.ask_for_block(REASON_IO if self.reading else 0, length)

    def _announce(self, start: int, filled: int, stage: Stage) -> None:
        """A block, and the interrupt for it."""
        self.open_block(start, filled, stage)
        if self.command is not None:
            self.command.unit.pending = True
        self.update_line()

    def _collect(self, command: Command, announce: bool) -> None:
        """Have the host fill the buffer."""
        filled = min(command.left, BUFFER // command.block * command.block)
        command.sent = 0
        if announce:
            self._announce(0, filled, Stage.OUT)
        else:
            self.open_block(0, filled, Stage.OUT)

    def _block_read(self) -> None:
        command = self.command
        assert command is not None
        if self.end < self.filled:
            self._announce(self.end, self.filled, Stage.IN)
        elif command.request.more:
            self.submit(command)
        else:
            self._finish(command)

    def _block_written(self) -> None:
        command = self.command
        assert command is not None
        if command.stage is Stage.PACKET:
            self.close_block()
            self._packet_received(command)
        elif self.end < self.filled:
            self._announce(self.end, self.filled, Stage.OUT)
        else:
            self.submit(command)

    # --- the drive

    def submit(self, command: Command) -> None:
        """Hand the next step to the drive, and further ones while they end at once."""
        command.stage = Stage.SUBMIT
        command.unit.status = READY | BSY
        self.reading = self.writing = False
        if self._submitting:
            return  # the loop below goes on
        self._submitting = True
        try:
            current: Command | None = command
            while current is not None and current.stage is Stage.SUBMIT and self.flying is None:
                self._submit(current)
                current = self.command
        finally:
            self._submitting = False

    def _submit(self, command: Command) -> None:
        views = self._views(command)
        if views is None:
            command.stage = Stage.DMA
            command.unit.status = READY | DRQ
            return
        request = command.request
        request.views = views
        request.moved, request.more = 0, False
        command.stage = Stage.DRIVE
        self.flying = command
        try:
            command.unit.drive.drive_submit(request)
        except Exception:
            if self.flying is command:  # or nobody would ever call done
                request.moved, request.more, request.status, request.error = 0, False, READY | ERR, ABRT
                self._done(request)
            raise

    def _views(self, command: Command) -> tuple[memoryview, ...] | None:
        """Memory for the next step; None when the bus master does not run."""
        direction = command.phase.direction
        if direction is Direction.NONE:
            return ()
        if command.lent is not None:
            lent, command.lent = command.lent, None
            to_memory = direction is Direction.IN
            command.loan = self.master.lend_again(lent.pieces, to_memory, lent.ended, lent.counts)
            return command.loan.views
        if command.dma:
            unit = SECTOR if direction is Direction.OUT and not command.packet else 1
            command.loan = self.master.lend(direction is Direction.IN, command.left, unit)
            return None if command.loan is None else command.loan.views
        if direction is Direction.OUT:
            return (self.view[command.sent : self.filled],)
        return (self.view[: min(command.left, BUFFER // command.block * command.block)],)

    def _offered(self, command: Command) -> int:
        if command.loan is not None:
            return command.loan.length
        return sum(len(view) for view in command.request.views)

    def _done(self, request: DriveRequest) -> None:
        """The drive is done with a step."""
        command = request.cookie
        if not isinstance(command, Command) or command.stage is not Stage.DRIVE:
            return
        offered = self._offered(command)
        moved = request.moved = min(max(0, request.moved), offered)
        request.views = ()
        if command.loan is not None:
            self.master.settle(command.loan, moved, counts=not command.cancelled)
            command.loan = None
        command.stage = Stage.SUBMIT
        if self.flying is command:
            self.flying = None
        if command.cancelled:
            self.recover()
            return
        request.position += moved
        if request.more and (not command.left or (offered and not moved)):
            self.log.error("command %02X asks for more and moves nothing", request.task.command)
            command.unit.drive.drive_reset(DriveReset.SOFTWARE)
            self._abort(command)
        elif command.phase.direction is Direction.IN and not command.dma and moved:
            self.filled = moved
            self._announce(0, moved, Stage.IN)
        elif not request.more:
            self._finish(command)
        elif command.phase.direction is Direction.OUT and not command.dma:
            command.sent += moved
            if command.sent < self.filled:
                self.submit(command)
            else:
                self._collect(command, announce=True)
        else:
            self.submit(command)

    def _finish(self, command: Command) -> None:
        """Show what the drive answered.  PIO in that went well ends without an interrupt."""
        unit, request = command.unit, command.request
        self.command = None
        self.close_block()
        unit.show(request)
        quiet = command.phase.direction is Direction.IN and not command.dma and request.position
        if command.packet:
            unit.count = REASON_CD | REASON_IO
        elif quiet and not unit.status & (ERR | DF):
            return
        unit.pending = True
        self.update_line()

    def _abort(self, command: Command) -> None:
        request, task = command.request, command.request.task
        request.status, request.error = READY | ERR, ABRT
        request.count, request.lba, request.device = task.count, task.lba, task.device
        self._finish(command)

    # --- resets, and devices that come and go

    def _cancel(self) -> None:
        """Forget the command.  What is with the drive comes back to nobody."""
        command, self.command = self.command, None
        if command is not None:
            command.cancelled = True
        self.close_block()

    def _software_reset(self) -> None:
        self._cancel()
        self.recovery = Recovery.SOFTWARE
        for unit in self.units:
            if unit.present:
                unit.status = BSY
                unit.pending = False
        for unit in self.units:
            if unit.present:
                unit.drive.drive_reset(DriveReset.SOFTWARE)

    def _device_reset(self) -> None:
        unit = self.unit
        self._cancel()
        self.recovery = Recovery.DEVICE
        unit.status = BSY
        unit.pending = False
        self.update_line()
        unit.drive.drive_reset(DriveReset.DEVICE)
        self.recover()

    def recover(self) -> None:
        """End a reset, and submit what waits, once the drive has nothing of us any more."""
        if self.flying is not None:
            return
        recovery = self.recovery
        if recovery is Recovery.NONE:
            if self.command is not None and self.command.stage is Stage.SUBMIT:
                self.submit(self.command)
            return
        if recovery is Recovery.SOFTWARE and self.control & SRST:
            return
        self.recovery = Recovery.NONE
        if recovery is Recovery.SOFTWARE:
            for unit in self.units:
                if unit.present:
                    unit.sign()
            self._select(0)
        elif self.unit.present:
            self.unit.sign()
            self.unit.device = DEV if self.unit.number else 0

    def _diagnose(self) -> None:
        for unit in self.units:
            if unit.present:
                unit.sign()
        self.unit = self.units[0]
        self.unit.pending = self.unit.present  # device 0 speaks for both
        self.update_line()

    def hard_reset(self) -> None:
        """RESET-: the state after power on.  What is with a drive is not over yet: see `idle`."""
        self._cancel()
        self.control = 0
        self.recovery = Recovery.NONE
        self.master.reset()
        for unit in self.units:
            if unit.drive.connected:
                unit.drive.drive_reset(DriveReset.POWER)
            unit.power_on()
        self._select(0)

    @property
    def idle(self) -> bool:
        """Whether no drive has a request."""
        return self.flying is None

    def attached(self, number: int) -> None:
        """A drive was plugged in."""
        unit = self.units[number]
        other = self.units[1 - number]
        unit.power_on()
        if other.present:
            unit.device = other.device
        if unit.present and self.recovery is Recovery.SOFTWARE:
            unit.status = BSY
        self.update_line()

    def look(self) -> None:
        """Perhaps a disk came or went below a drive that stays."""
        for unit in self.units:
            signature = unit.drive.drive_signature()
            if signature == unit.signature:
                continue
            self._lose(unit)
            if signature is not None:
                self.attached(unit.number)

    def detached(self, number: int) -> None:
        """A drive is about to go, and its command with it."""
        unit = self.units[number]
        if self.flying is not None and self.flying.unit is unit:
            self.flying.cancelled = True
            self.flying = None
            self.new_buffer()  # the request still owns the old one
        self._lose(unit)

    def _lose(self, unit: Unit) -> None:
        if self.command is not None and self.command.unit is unit:
            self._cancel()
        unit.signature = None
        unit.clear()
        self.recover()
        self.update_line()
