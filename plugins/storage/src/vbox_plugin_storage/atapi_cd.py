"""An ATAPI CD and DVD-ROM drive.  ATA/ATAPI-7 (T13 1532D) volume 1 for task files, MMC-6 (T10 1836-D)
and SPC-4 for packets.

Modelled: the packet command feature set, and the packets that MMC wants of a CD-ROM and DVD-ROM drive;
a medium is one data track in mode 1 with blocks of 2048 bytes, a larger one than MSF addresses
reach is a DVD.  READ CD makes sectors whole: sync, header, EDC and ECC.

Not modelled: audio (no such tracks: ILLEGAL MODE FOR THIS TRACK), sub-channels in READ CD, C2 pointers,
region codes and keys, writing, overlapped packets.

Traps
- IDENTIFY DEVICE and READ SECTORS on a packet device are aborted with its signature in the registers:
  that is how hosts tell it from a disk.
- The interrupt reason at the end of a packet is 3 (status), whether it went well or not.
- The error register of a packet has the sense key in its upper half.
- A packet's data is a byte stream: an answer may be fetched in several steps, and is made once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from vbox_pdm import (
    Direction,
    Drive,
    DriveAbove,
    Driver,
    DriveRequest,
    DriveReset,
    DriverType,
    Media,
    MediaBelow,
    MediaInfo,
    MediaOp,
    Phase,
    State,
    StateError,
    TaskFile,
    ata,
    hookimpl,
    key,
    mmc,
    scsi,
)
from vbox_pdm.ata import Command, ModeKind
from vbox_pdm.drive import ATAPI_SIGNATURE
from vbox_pdm.mmc import BLOCK, Layout
from vbox_pdm.scsi import Op, Sense, SenseKey
from vbox_plugin_storage import cd_answers
from vbox_plugin_storage.ata_identify import identify_packet
from vbox_plugin_storage.cd_answers import Event
from vbox_plugin_storage.cd_unit import ACTIVE, READS, STANDBY, CdUnit, Refused
from vbox_plugin_storage.identity import check_string, serial_number
from vbox_plugin_storage.media_steps import Ask, MediaSteps, Steps, fill, find_fault, gather, part, total

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

RAW_BLOCKS = 16
"""Sectors that READ CD completes at a time."""
INTERRUPT_REASON = 3
DMA, OVERLAP = 0x01, 0x02
"""Bits of the features register of PACKET."""
_SENSE_OF_ERRORS = {
    "VERR_PDM_MEDIA_NOT_MOUNTED": scsi.NO_MEDIUM,
    "VERR_OUT_OF_RANGE": scsi.OUT_OF_RANGE,
}
_MAX_PARAMETERS = 0xFFFF


@frozen
class Config:
    """Configuration of a CD drive."""

    serial_number: str | None = key(None, help="up to 20 characters; by default made of the drive's number")
    firmware_revision: str = key("1.0", help="up to 8 characters")
    model_number: str = key("VBOX CD-ROM", help="up to 40 characters")
    vendor_id: str = key("VBOX", help="vendor in INQUIRY data, up to 8 characters")
    product_id: str = key("CD-ROM", help="product in INQUIRY data, up to 16 characters")
    revision: str = key("1.0", help="revision in INQUIRY data, up to 4 characters")


@frozen
class AtapiCdState(State, version=1):
    """Settings of the drive.  `identity` tells whether the medium is still the same."""

    identity: str | None
    blocks: int
    sense: int
    information: int | None
    attentions: tuple[int, ...]
    event: int
    locked: bool
    tray_open: bool
    mode_kind: ModeKind
    mode: int
    recovery: tuple[int, int]
    keeps_settings: bool
    power: int
    sleeping: bool
    answer: bytes
    parameters: bytes


class AtapiCd(Driver[Config]):
    """A CD drive between a controller and a medium that may come and go."""

    above: DriveAbove
    below: MediaBelow
    mode: tuple[ModeKind, int]
    keeps_settings: bool
    answer: bytes
    """What the packet under way answers."""

    def pdm_construct(self) -> None:
        config = self.config
        lengths = {"serial_number": 20, "firmware_revision": 8, "model_number": 40}
        for name, longest in (lengths | {"vendor_id": 8, "product_id": 16, "revision": 4}).items():
            check_string(name, getattr(config, name), longest)
        serial = config.serial_number
        self.serial = serial if serial is not None else serial_number(f"atapi-cd {self.instance}")
        names = cd_answers.Inquiry(config.vendor_id, config.product_id, config.revision, self.serial)
        self.unit = CdUnit(names, self.below)
        self._commands = self._command_table()
        self.unit.set_medium(self._checked(self.below.media_info()))
        self._power_on_values()

    def pdm_reset(self) -> None:
        self._power_on_values()

    # --- the medium

    def pdm_attach(self, lun: int) -> None:
        self.media_changed()

    def pdm_detach(self, lun: int) -> None:
        self._medium_is(None)

    def media_changed(self) -> None:
        """People put a medium in, or took it out."""
        self._medium_is(self.below.media_info())

    def _medium_is(self, info: MediaInfo | None) -> None:
        if self.unit.change_medium(self._checked(info)):
            self.above.drive_notify()

    def _checked(self, info: MediaInfo | None) -> MediaInfo | None:
        if info is not None and info.size % BLOCK:
            self.helpers.log.warning(
                "the medium %s has %d bytes; the last %d are no whole block of %d and cannot be read",
                info.identity, info.size, info.size % BLOCK, BLOCK,
            )  # fmt: skip
        return info

    # --- the layer

    def drive_signature(self) -> int | None:
        return ATAPI_SIGNATURE

    def drive_phase(self, task: TaskFile, packet: bytes) -> Phase:
        if self.unit.sleeping:
            return Phase()
        if task.command == Command.IDENTIFY_PACKET:
            return Phase(Direction.IN, 512, 512)
        if task.command != Command.PACKET or task.features & OVERLAP or not packet:
            return Phase()
        direction, length = self._transfer(packet)
        if not length:
            return Phase()
        return Phase(direction, length, length, bool(task.features & DMA))

    def _transfer(self, cdb: bytes) -> tuple[Direction, int]:
        """What a packet would transfer at most; nothing where it will be refused anyway."""
        if cdb[0] not in self.unit.handlers:
            return Direction.NONE, 0
        if cdb[0] in READS:
            try:
                _, count, layout = self.unit.read_range(cdb)
            except Refused:
                return Direction.NONE, 0
            length = count * layout.size
            return (Direction.IN, length) if length else (Direction.NONE, 0)
        return scsi.transfer(cdb, BLOCK)

    def drive_submit(self, request: DriveRequest) -> None:
        request.moved, request.more = 0, False
        handler = self._commands.get(request.task.command)
        if handler is None or self.unit.sleeping:
            self._end(request, ata.ABRT)
        else:
            handler(request)

    def drive_reset(self, kind: DriveReset) -> None:
        if kind is DriveReset.POWER:
            self._power_on_values()
        else:
            self.answer = b""
            self.unit.reset(self.keeps_settings)

    # --- task files

    def _command_table(self) -> dict[int, Callable[[DriveRequest], None]]:
        c = Command
        return {
            c.PACKET: self._packet, c.IDENTIFY_PACKET: self._identify,
            c.DEVICE_RESET: self._device_reset, c.IDENTIFY: self._show_signature,
            c.READ_SECTORS: self._show_signature, c.READ_SECTORS_NO_RETRY: self._show_signature,
            c.SET_FEATURES: self._set_features, c.FLUSH_CACHE: self._end,
            c.CHECK_POWER: self._check_power, c.CHECK_POWER_OLD: self._check_power,
            **dict.fromkeys((c.IDLE, c.IDLE_IMMEDIATE, c.IDLE_OLD, c.IDLE_IMMEDIATE_OLD), self._idle),
            **dict.fromkeys(
                (c.STANDBY, c.STANDBY_IMMEDIATE, c.STANDBY_OLD, c.STANDBY_IMMEDIATE_OLD), self._standby
            ),
            c.SLEEP: self._sleep, c.SLEEP_OLD: self._sleep,
        }  # fmt: skip

    def _identify(self, request: DriveRequest) -> None:
        config = self.config
        data = identify_packet(config.model_number, self.serial, config.firmware_revision, self.mode)
        request.moved = fill(request.views, data[request.position :])
        if request.moved and request.position + request.moved < len(data):
            request.more = True
            request.done(request)
        else:
            self._end(request)

    def _show_signature(self, request: DriveRequest) -> None:
        self._signature(request, ata.READY | ata.ERR, ata.ABRT)

    def _device_reset(self, request: DriveRequest) -> None:
        self.drive_reset(DriveReset.DEVICE)
        self._signature(request, 0, 0x01)

    def _signature(self, request: DriveRequest, status: int, error: int) -> None:
        request.status, request.error, request.more = status, error, False
        request.count, request.lba = ATAPI_SIGNATURE & 0xFF, ATAPI_SIGNATURE >> 8
        request.device = request.task.device & ata.DEV
        request.done(request)

    def _set_features(self, request: DriveRequest) -> None:
        features, error = request.task.features & 0xFF, 0
        if features == 0x03:
            mode = ata.transfer_mode(request.task.count)
            if mode is None:
                error = ata.ABRT
            else:
                self.mode = mode
        elif features in (0x66, 0xCC):
            self.keeps_settings = features == 0x66
        else:
            error = ata.ABRT
        self._end(request, error)

    def _check_power(self, request: DriveRequest) -> None:
        self._end(request, count=self.unit.power)

    def _idle(self, request: DriveRequest) -> None:
        self.unit.power = ACTIVE
        self._end(request)

    def _standby(self, request: DriveRequest) -> None:
        self.unit.power = STANDBY
        self._end(request)

    def _sleep(self, request: DriveRequest) -> None:
        self.unit.power, self.unit.sleeping = STANDBY, True
        self._end(request)

    def _end(self, request: DriveRequest, error: int = 0, *, count: int | None = None) -> None:
        task = request.task
        request.status, request.error = ata.READY | (ata.ERR if error else 0), error
        request.count = task.count & 0xFF if count is None else count
        request.lba = task.lba & 0xFFFFFF
        request.device = task.device | ata.OBSOLETE_ONES
        request.more = False
        request.done(request)

    # --- packets

    def _packet(self, request: DriveRequest) -> None:
        cdb = request.packet.ljust(12, b"\0")
        if request.task.features & OVERLAP or not request.packet:
            self._end(request, ata.ABRT)
            return
        try:
            if request.position == 0:
                self.answer = b""
                self.unit.begin(cdb)
            if cdb[0] in READS:
                self._read(request, cdb)
                return
            direction, length = scsi.transfer(cdb, BLOCK)
            if direction is Direction.OUT:
                self._take(request, cdb, length)
            else:
                self._give(request, cdb, length)
        except Refused as refused:
            self._refuse(request, refused.sense)

    def _give(self, request: DriveRequest, cdb: bytes, most: int) -> None:
        """An answer, of which the host takes what it asked for."""
        if request.position == 0:
            self.answer = (self.unit.handlers[cdb[0]](cdb) or b"")[:most]
        request.moved = fill(request.views, self.answer[request.position :])
        if request.moved and request.position + request.moved < len(self.answer):
            request.more = True
            request.done(request)
        else:
            self._good(request)

    def _take(self, request: DriveRequest, cdb: bytes, length: int) -> None:
        """Parameters, which act when all are here."""
        data = gather(part(request.views, 0, max(0, length - request.position)))
        request.moved = len(data)
        self.unit.parameters = self.unit.parameters[: request.position] + data
        if data and len(self.unit.parameters) < length:
            request.more = True
            request.done(request)
            return
        self.unit.handlers[cdb[0]](cdb)
        self._good(request)

    def _good(self, request: DriveRequest) -> None:
        self._end(request, count=INTERRUPT_REASON)

    def _refuse(self, request: DriveRequest, sense: Sense, information: int | None = None) -> None:
        """CHECK CONDITION."""
        self.unit.sense, self.unit.information = sense, information
        self._end(request, sense.key << 4 | ata.ABRT, count=INTERRUPT_REASON)

    # --- reading

    def _read(self, request: DriveRequest, cdb: bytes) -> None:
        first, count, layout = self.unit.read_range(cdb)
        left = count * layout.size - request.position
        if left <= 0:
            self._good(request)
            return
        views = part(request.views, 0, left)
        if not views:  # no memory: it could never go on
            raise Refused(scsi.INTERNAL_FAILURE)
        self.unit.power = ACTIVE
        plain = (layout.first, layout.size) == (16, BLOCK) or cdb[0] in (Op.READ_10, Op.READ_12)
        reading = self._plain_steps if plain else self._raw_steps
        steps = reading(request, first, layout, views, left)
        MediaSteps(self.below, steps, self._warn).run()

    def _plain_steps(
        self, request: DriveRequest, first: int, layout: Layout, views: tuple[memoryview, ...], left: int
    ) -> Steps:
        start = first * BLOCK + request.position
        error = yield Ask(MediaOp.READ, start, views)
        if error is not None:
            good, error = yield from find_fault(MediaOp.READ, start, views, BLOCK)
            if error is not None:
                self._failed(request, good, error, (start + good) // BLOCK)
                return
        self._went(request, total(views), left)

    def _raw_steps(
        self, request: DriveRequest, first: int, layout: Layout, views: tuple[memoryview, ...], left: int
    ) -> Steps:
        """Sectors with more around them than their user data, a few at a time."""
        wanted, moved = total(views), 0
        while moved < wanted:
            index, skip = divmod(request.position + moved, layout.size)
            count = min(RAW_BLOCKS, -(-(skip + wanted - moved) // layout.size))
            lba = first + index
            scratch = memoryview(bytearray(count * BLOCK))
            error = yield Ask(MediaOp.READ, lba * BLOCK, (scratch,))
            if error is not None:
                good, error = yield from find_fault(MediaOp.READ, lba * BLOCK, (scratch,), BLOCK)
                count = good // BLOCK if error is not None else count
            data = b"".join(
                mmc.raw_sector(lba + at, bytes(scratch[at * BLOCK : (at + 1) * BLOCK]))[
                    layout.first : layout.last
                ]
                for at in range(count)
            )[skip:]
            moved += fill(part(views, moved, len(data)), data)
            if error is not None:
                self._failed(request, moved, error, lba + count)
                return
        self._went(request, moved, left)

    def _went(self, request: DriveRequest, moved: int, left: int) -> None:
        request.moved = moved
        if moved < left:
            request.more = True
            request.done(request)
        else:
            self._good(request)

    def _failed(self, request: DriveRequest, moved: int, error: str, block: int) -> None:
        request.moved = moved
        sense = _SENSE_OF_ERRORS.get(error, scsi.UNRECOVERED_READ_ERROR)
        self._refuse(request, sense, block if sense is scsi.UNRECOVERED_READ_ERROR else None)

    # --- state

    def _warn(self, text: str) -> None:
        self.helpers.log.warning("%s", text)

    def _power_on_values(self) -> None:
        self.unit.power_on()
        self.answer = b""
        self.mode = (ModeKind.PIO, 0)
        self.keeps_settings = False

    def pdm_save(self) -> AtapiCdState:
        unit = self.unit
        return AtapiCdState(
            identity=unit.info.identity if unit.info is not None else None, blocks=unit.blocks,
            sense=_packed(unit.sense), information=unit.information,
            attentions=tuple(_packed(each) for each in unit.attentions), event=unit.event,
            locked=unit.locked, tray_open=unit.tray_open, mode_kind=self.mode[0], mode=self.mode[1],
            recovery=unit.recovery, keeps_settings=self.keeps_settings, power=unit.power,
            sleeping=unit.sleeping, answer=self.answer, parameters=unit.parameters,
        )  # fmt: skip

    def pdm_load(self, state: AtapiCdState) -> None:
        unit = self.unit
        sense, attentions = _unpacked(state.sense), [_unpacked(each) for each in state.attentions[:4]]
        unit.sense, unit.information, unit.attentions = sense, state.information, attentions
        unit.event = Event(state.event) if state.event in list(Event) else Event.NONE
        unit.locked, unit.tray_open = state.locked, state.tray_open
        self.below.media_lock(unit.locked)
        self.mode = (state.mode_kind, state.mode & 7)
        unit.recovery = (state.recovery[0] & 0xFF, state.recovery[1] & 0xFF)
        unit.power, unit.sleeping = state.power & 0xFF, state.sleeping
        self.keeps_settings = state.keeps_settings
        self.answer, unit.parameters = state.answer[:_MAX_PARAMETERS], state.parameters[:_MAX_PARAMETERS]
        now = unit.info.identity if unit.info is not None else None
        if (now, unit.blocks) != (state.identity, state.blocks):
            unit.change_medium(unit.info)  # another one than the guest knows

    def pdm_info(self, arguments: str) -> str:
        unit = self.unit
        disc = f"{unit.profile.name}, {unit.blocks} blocks" if unit.info is not None else "no medium"
        waiting = ", ".join(f"{each.key.name} {each.asc:02x}h" for each in unit.attentions)
        return (
            f"{self.config.model_number}: {disc}, tray {'open' if unit.tray_open else 'closed'}"
            f"{', locked' if unit.locked else ''}\n"
            f"sense {unit.sense.key.name} {unit.sense.asc:02x}h/{unit.sense.ascq:02x}h; "
            f"attentions: {waiting or 'none'}; event {unit.event.name}"
        )


def _packed(sense: Sense) -> int:
    return sense.key << 16 | sense.asc << 8 | sense.ascq


def _unpacked(value: int) -> Sense:
    try:
        return Sense(SenseKey(value >> 16), value >> 8 & 0xFF, value & 0xFF)
    except ValueError:
        raise StateError("VERR_SSM_UNEXPECTED_DATA", f"{value:#x} is no sense data") from None


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType("atapi-cd", AtapiCd, Config, serves=Drive, wants=Media, summary="a CD and DVD-ROM drive")
    )


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: see `conformance`."""
    from vbox_plugin_storage import conformance

    return conformance.cd()
