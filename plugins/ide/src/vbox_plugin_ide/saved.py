"""The saved state of the controller, and what is accepted of one that was made by hand.

A command that is under way is saved so that it can be submitted again: its task, how far it got, and
the block that the host is reading or has written so far, the guest memory that the drive has.
"""

from __future__ import annotations

import enum

from attrs import frozen

from vbox_pdm import State
from vbox_pdm.drive import Direction


class Stage(enum.Enum):
    """What a command waits for."""

    PACKET = "packet"  # the host to write the packet
    IN = "in"  # the host to read a block
    OUT = "out"  # the host to write a block
    DMA = "dma"  # the bus master
    SUBMIT = "submit"  # an earlier request that is still with the drive
    DRIVE = "drive"  # the drive


class Recovery(enum.Enum):
    """A reset of the channel's devices that is not over."""

    NONE = "none"
    SOFTWARE = "software"
    DEVICE = "device"


@frozen
class UnitState(State, version=1):
    """The registers of a device; `signature` is None where none was."""

    signature: int | None
    features: int
    count: int
    low: int
    mid: int
    high: int
    device: int
    error: int
    status: int
    pending: bool


@frozen
class ResultState(State, version=1):
    """What the drive answered to the last step."""

    more: bool
    status: int
    error: int
    count: int
    lba: int
    device: int


@frozen
class LentState(State, version=1):
    """Guest memory that the drive had, as pieces of (address, length); `counts`: the bus master was
    neither stopped nor started meanwhile."""

    pieces: tuple[tuple[int, int], ...]
    ended: bool
    counts: bool


@frozen
class CommandState(State, version=1):
    """A command under way, of the selected device."""

    command: int
    features: int
    count: int
    lba: int
    device: int
    packet: bytes
    direction: Direction
    length: int
    block: int
    dma: bool
    stage: Stage
    position: int
    sent: int
    result: ResultState
    data: bytes
    at: int
    end: int
    filled: int
    lent: LentState | None


@frozen
class ChannelState(State, version=1):
    """A channel and its bus master."""

    units: tuple[UnitState, UnitState]
    selected: int
    control: int
    recovery: Recovery
    command: CommandState | None
    bm_command: int
    bm_status: int
    bm_pointer: int
    bm_table: int
    bm_used: int


@frozen
class IdeState(State, version=1):
    """The controller, besides its configuration space."""

    channels: tuple[ChannelState, ChannelState]
