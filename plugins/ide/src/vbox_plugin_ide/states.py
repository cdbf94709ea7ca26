"""Save and load of a channel.

A request that is with the drive is saved as one that is yet to be submitted: either the drive hands
it back to this machine, or another machine submits it again when it goes on.
"""

from __future__ import annotations

from vbox_pdm import StateError, TaskFile
from vbox_pdm.drive import Direction, Phase
from vbox_plugin_ide.busmaster import MOST
from vbox_plugin_ide.channel import BUFFER, Channel
from vbox_plugin_ide.command import Command
from vbox_plugin_ide.prd import SPACE
from vbox_plugin_ide.registers import (
    BM_ACTIVE,
    BM_CAPABLE,
    BM_ERROR,
    BM_INTERRUPT,
    BM_START,
    BM_TO_MEMORY,
    BSY,
    DRQ,
    HOB,
    NIEN,
    PACKET_LENGTH,
    READY,
    SRST,
)
from vbox_plugin_ide.saved import (
    ChannelState,
    CommandState,
    LentState,
    Recovery,
    ResultState,
    Stage,
    UnitState,
)
from vbox_plugin_ide.taskfile import Unit

_BLOCKS = (Stage.PACKET, Stage.IN, Stage.OUT)
_NO_RESULT = ResultState(False, READY, 0, 0, 0, 0)


def save(channel: Channel) -> ChannelState:
    """The state of a channel."""
    master = channel.master
    first, second = channel.units
    command = channel.command
    return ChannelState(
        (_save_unit(first), _save_unit(second)),
        channel.unit.number,
        channel.control,
        channel.recovery,
        None if command is None else _save_command(channel, command),
        master.command,
        master.status,
        master.pointer,
        master.table,
        master.used,
    )


def load(channel: Channel, state: ChannelState) -> None:
    """Take a state over.  What is with a drive now comes back to nobody, before anything else is
    submitted.  StateError when the state contradicts itself."""
    flying = channel.flying
    if flying is not None:
        flying.cancelled = True
        channel.new_buffer()
    channel.command = None
    channel.close_block()
    known = [_load_unit(unit, saved) for unit, saved in zip(channel.units, state.units, strict=True)]
    channel.unit = unit = channel.units[state.selected & 1]
    channel.control = state.control & (HOB | SRST | NIEN)
    channel.recovery = state.recovery
    _load_master(channel, state)
    if state.recovery is Recovery.SOFTWARE:
        for each in channel.units:
            each.status = BSY if each.present else 0
    elif state.recovery is Recovery.DEVICE:
        unit.status = BSY if unit.present else 0
    elif state.command is not None and known[unit.number] and unit.present:
        _load_command(channel, state.command)
    channel.line_loaded()


def _save_unit(unit: Unit) -> UnitState:
    return UnitState(
        unit.signature,
        unit.features,
        unit.count,
        unit.low,
        unit.mid,
        unit.high,
        unit.device,
        unit.error,
        unit.status,
        unit.pending,
    )


def _load_unit(unit: Unit, state: UnitState) -> bool:
    """Whether the same kind of device is there as when it was saved; another is as after power on."""
    unit.power_on()
    if unit.signature != state.signature:
        return False
    if unit.present:
        unit.features = state.features & 0xFFFF
        unit.count = state.count & 0xFFFF
        unit.low = state.low & 0xFFFF
        unit.mid = state.mid & 0xFFFF
        unit.high = state.high & 0xFFFF
        unit.device = state.device & 0xFF
        unit.error = state.error & 0xFF
        unit.status = state.status & 0xFF & ~(BSY | DRQ)  # these follow from the command
        unit.pending = state.pending
    return True


def _load_master(channel: Channel, state: ChannelState) -> None:
    master = channel.master
    master.reset()  # and what is lent no longer counts
    master.command = state.bm_command & (BM_START | BM_TO_MEMORY)
    master.status = state.bm_status & (BM_ACTIVE | BM_ERROR | BM_INTERRUPT | BM_CAPABLE)
    master.pointer = state.bm_pointer & 0xFFFFFFFC
    master.table = state.bm_table & 0xFFFFFFFC
    master.used = max(0, state.bm_used)


def _save_command(channel: Channel, command: Command) -> CommandState:
    request, task, phase, stage = command.request, command.request.task, command.phase, command.stage
    if stage is Stage.DRIVE:
        stage = Stage.SUBMIT
    holds = stage in _BLOCKS or (phase.direction is Direction.OUT and not command.dma)
    result = _NO_RESULT
    if stage is Stage.IN:
        result = ResultState(
            request.more, request.status, request.error, request.count, request.lba, request.device
        )
    return CommandState(
        task.command,
        task.features,
        task.count,
        task.lba,
        task.device,
        request.packet,
        phase.direction,
        phase.length,
        command.block,
        command.dma,
        stage,
        request.position,
        command.sent,
        result,
        bytes(channel.view[: channel.at if channel.writing else channel.filled]) if holds else b"",
        channel.at if stage in _BLOCKS else 0,
        channel.end if stage in _BLOCKS else 0,
        channel.filled if holds else 0,
        _save_loan(channel, command),
    )


def _save_loan(channel: Channel, command: Command) -> LentState | None:
    loan = command.loan
    if loan is None:
        return command.lent
    return LentState(loan.pieces, loan.ended, channel.master.counts(loan))


def _load_command(channel: Channel, state: CommandState) -> None:
    _check(channel, state)
    result = state.result
    task = TaskFile(state.command, state.features, state.count, state.lba, state.device)
    command = channel.new_command(
        task, Phase(state.direction, state.length, state.block, state.dma), state.block, state.dma
    )
    command.stage, command.sent, command.lent = state.stage, state.sent, state.lent
    request = command.request
    request.packet = state.packet
    request.position = state.position
    request.more, request.status, request.error = result.more, result.status, result.error
    request.count, request.lba, request.device = result.count, result.lba, result.device
    channel.view[: len(state.data)] = state.data
    channel.at, channel.end, channel.filled = state.at, state.end, state.filled
    channel.reading = state.stage is Stage.IN
    channel.writing = state.stage in (Stage.OUT, Stage.PACKET)
    channel.unit.status = READY | (BSY if state.stage is Stage.SUBMIT else DRQ)


def _check(channel: Channel, state: CommandState) -> None:
    filled = state.filled
    writing = state.stage in (Stage.OUT, Stage.PACKET)  # then the rest is still to come
    pio = state.direction is not Direction.NONE and not state.dma
    good = (
        0 <= state.command <= 0xFF
        and 0 <= state.features <= 0xFFFF
        and 0 <= state.count <= 0xFFFF
        and 0 <= state.lba < 1 << 48
        and 0 <= state.device <= 0xFF
        and len(state.packet) in (0, PACKET_LENGTH)
        and 1 <= state.block <= BUFFER
        and 0 <= state.position <= max(0, state.length)
        and filled <= BUFFER
        and len(state.data) == (state.at if writing else filled)
    )
    if state.stage in _BLOCKS:
        good = good and 0 <= state.at < state.end <= filled
    if state.stage is Stage.PACKET:
        good = good and filled == PACKET_LENGTH and channel.unit.packet
    elif state.stage is Stage.IN:
        good = good and pio and state.direction is Direction.IN
    elif state.stage is Stage.OUT or (pio and state.direction is Direction.OUT):
        good = good and pio and state.direction is Direction.OUT and 0 <= state.sent < filled
    elif state.stage is Stage.DMA:
        good = good and state.dma and state.direction is not Direction.NONE
    if state.lent is not None:
        pieces = state.lent.pieces
        good = good and state.stage is Stage.SUBMIT and state.dma and state.direction is not Direction.NONE
        good = good and all(at >= 0 and size > 0 and at + size <= SPACE for at, size in pieces)
        good = good and 0 < sum(size for _, size in pieces) <= min(MOST, state.length - state.position)
    if not good or state.stage is Stage.DRIVE:
        raise StateError(
            "VERR_SSM_UNEXPECTED_DATA",
            f"The saved command {state.command:#x} of an IDE channel contradicts itself",
        )
