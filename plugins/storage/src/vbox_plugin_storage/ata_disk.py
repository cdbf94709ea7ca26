"""An ATA disk.  ATA/ATAPI-7 (T13 1532D) volume 1 for the commands and the registers at their end;
commands that it calls obsolete after ATA-1 to ATA-5; DATA SET MANAGEMENT after ACS-2.

Modelled: the general, power management, packet-less, flush, host protected area (volatile), 48-bit
and FUA command sets; CHS, 28-bit and 48-bit addresses; TRIM.  What can be done in one step depends
on nothing but the task file and the position in it, so a command goes on after a saved state.

Not modelled: SMART, security, passwords of SET MAX and values of it that outlive a power cycle,
overlapped and queued commands, READ and WRITE LONG, acoustic and advanced power management (all
aborted); the standby timer is accepted and never runs out.

Traps
- A range that begins inside the disk and ends behind it is transferred up to the end and then fails
  with IDNF at the first sector that is not there; one that begins behind the end transfers nothing.
- A medium says that a request failed, not where.  Registers must name the first sector that fails, and
  all before it must have been transferred: the request is repeated in halves to find it.
- SET MAX ADDRESS counts only directly after READ NATIVE MAX ADDRESS.
- Values set by SET FEATURES, SET MULTIPLE MODE and INITIALIZE DEVICE PARAMETERS fall back at a
  software reset unless SET FEATURES 66h said otherwise; the transfer mode stays.
- With the write cache off, and for FUA writes, a write has ended only when it is flushed.
- The last sector of an image of odd size is whole for the guest; see the image drivers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

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
    TaskFile,
    ata,
    hookimpl,
)
from vbox_pdm.ata import SECTOR, Command, Geometry, ModeKind
from vbox_pdm.drive import ATA_SIGNATURE
from vbox_plugin_storage.ata_identify import MAX_MULTIPLE, MAX_TRIM_BLOCKS, DiskFacts, identify_disk
from vbox_plugin_storage.ata_records import (
    AtaDiskState,
    Config,
    check_state,
    configured_geometry,
    error_register,
)
from vbox_plugin_storage.identity import check_string, serial_number
from vbox_plugin_storage.media_steps import Ask, MediaSteps, Steps, fill, find_fault, gather, part, total

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

VERIFY_BYTES = 128 << 10
"""READ VERIFY reads so much at a time."""
STANDBY, ACTIVE = 0x00, 0xFF
"""What CHECK POWER MODE answers."""
_IN = {
    code for code, protocol in ata.PROTOCOLS.items() if protocol in (ata.Protocol.PIO_IN, ata.Protocol.DMA_IN)
}
_DMA = {
    code
    for code, protocol in ata.PROTOCOLS.items()
    if protocol in (ata.Protocol.DMA_IN, ata.Protocol.DMA_OUT)
}


class AtaDisk(Driver[Config]):
    """A disk between a controller and a medium.  Without a medium there is no disk."""

    above: DriveAbove
    below: MediaBelow
    transient = frozenset({"previous"})
    """Each command sets it, for itself."""
    info: MediaInfo | None
    native: int  # sectors of the medium
    accessible: int  # what SET MAX left of them
    default: Geometry
    translation: Geometry
    multiple: int
    mode: tuple[ModeKind, int]
    write_cache: bool
    look_ahead: bool
    keeps_settings: bool
    power: int
    sleeping: bool
    previous: int  # the command before this one, for SET MAX
    last_command: int
    buffer: bytes

    def pdm_construct(self) -> None:
        config = self.config
        for name, longest in (("serial_number", 20), ("firmware_revision", 8), ("model_number", 40)):
            check_string(name, getattr(config, name), longest)
        self.lchs = configured_geometry(config, "lchs_")
        self.configured = configured_geometry(config, "")
        self._handlers = self._handler_table()
        self._take_medium()

    def pdm_reset(self) -> None:
        self._power_on_values()

    def pdm_attach(self, lun: int) -> None:
        self.media_changed()

    def pdm_detach(self, lun: int) -> None:
        self.info = None  # what is under way ends with an error of the medium

    # --- the medium

    def media_changed(self) -> None:
        """Another disk, as if it had been swapped with the power on."""
        self._take_medium()
        self.above.drive_notify()

    def _take_medium(self) -> None:
        self.info = self.below.media_info()
        size = self.info.size if self.info is not None else 0
        self.native = min(-(-size // SECTOR), ata.LBA48_SECTORS)
        self.default = self.configured or ata.default_geometry(self.native)
        self._power_on_values()

    # --- the layer

    def drive_signature(self) -> int | None:
        return None if self.info is None else ATA_SIGNATURE

    def drive_lchs(self) -> tuple[int, int, int] | None:
        if self.info is None or self.lchs is None:
            return None
        return self.lchs.cylinders, self.lchs.heads, self.lchs.sectors

    def drive_phase(self, task: TaskFile, packet: bytes) -> Phase:
        code = task.command
        if self.info is None or self.sleeping:
            return Phase()
        if code in ata.READS or code in ata.WRITES:
            _, usable, error = self._range(task)
            if error and not usable:
                return Phase()
            block = self.multiple * SECTOR if code in ata.MULTIPLES else SECTOR
            length = usable * SECTOR
        elif code == Command.DATA_SET_MANAGEMENT:
            length, block = (0 if self._trim_refused(task) else (task.count & 0xFFFF) * SECTOR), SECTOR
        elif code in (Command.IDENTIFY, Command.READ_BUFFER, Command.WRITE_BUFFER):
            length = block = SECTOR
        else:
            return Phase()
        if not length:
            return Phase()
        direction = Direction.IN if code in _IN else Direction.OUT
        return Phase(direction, length, block, code in _DMA)

    def drive_submit(self, request: DriveRequest) -> None:
        request.moved, request.more = 0, False
        code = request.task.command
        handler = self._handlers.get(code)
        if handler is None or self.info is None or self.sleeping:
            self.last_command = code
            self._end(request, ata.ABRT)
            return
        # Before the command is carried out: the host may send the next one when it hears of its end.
        self.previous, self.last_command = self.last_command, code
        handler(request)

    def drive_reset(self, kind: DriveReset) -> None:
        if kind is DriveReset.POWER:
            self._power_on_values()
        elif kind is DriveReset.SOFTWARE:
            if self.sleeping:
                self.sleeping, self.power = False, STANDBY
            self.last_command = -1
            if not self.keeps_settings:
                self._default_settings()

    # --- reads and writes

    def _range(self, task: TaskFile) -> tuple[int, int, int]:
        """(first sector, sectors that can be moved, error for the rest or 0)."""
        count = ata.sector_count(task)
        if task.command in ata.MULTIPLES and not self.multiple:
            return 0, 0, ata.ABRT
        first = ata.start_sector(task, self.translation)
        if first is None or first >= self.accessible:
            return first or 0, 0, ata.IDNF
        if task.command in ata.WRITES and self.info is not None and self.info.read_only:
            return first, 0, ata.WP | ata.ABRT
        usable = min(count, self.accessible - first)
        return first, usable, 0 if usable == count else ata.IDNF

    def _read(self, request: DriveRequest) -> None:
        first, usable, error = self._range(request.task)
        if error and not usable:
            self._end(request, error)
            return
        views = request.views
        left = max(0, usable * SECTOR - request.position)
        if total(views) > left:
            views = part(views, 0, left)
        if not views:  # no memory: it could never go on
            self._end(request, ata.ABRT)
            return
        self._run(self._read_steps(request, first, usable, error, views))

    def _read_steps(
        self, request: DriveRequest, first: int, usable: int, error: int, views: tuple[memoryview, ...]
    ) -> Steps:
        if not (yield from self._transfer(MediaOp.READ, request, first, views, ata.UNC)):
            return
        wanted = total(views)
        self._moved(request, first, usable, error, wanted)

    def _write(self, request: DriveRequest) -> None:
        first, usable, error = self._range(request.task)
        if error and not usable:
            self._end(request, error)
            return
        left = max(0, usable * SECTOR - request.position)
        views = part(request.views, 0, min(left, total(request.views)) // SECTOR * SECTOR)
        if not views:  # not even one sector: it could never go on
            self._end(request, ata.ABRT)
            return
        self._run(self._write_steps(request, first, usable, error, views))

    def _write_steps(
        self, request: DriveRequest, first: int, usable: int, error: int, views: tuple[memoryview, ...]
    ) -> Steps:
        if not (yield from self._transfer(MediaOp.WRITE, request, first, views, ata.ABRT)):
            return
        wanted = total(views)
        through = request.task.command in ata.FUA or not self.write_cache
        if through and request.position + wanted >= usable * SECTOR:
            failed = yield Ask(MediaOp.FLUSH)
            if failed is not None:
                request.moved = wanted
                self._end_at(request, error_register(failed, ata.ABRT), first)
                return
        self._moved(request, first, usable, error, wanted)

    def _transfer(
        self, op: MediaOp, request: DriveRequest, first: int, views: tuple[memoryview, ...], otherwise: int
    ) -> Generator[Ask, str | None, bool]:
        """The step itself; False when it failed, and has ended at the sector that did.  `otherwise` is the
        error of a failure that says nothing of its own."""
        start = first * SECTOR + request.position
        failed = yield Ask(op, start, views)
        if failed is not None:
            good, failed = yield from find_fault(op, start, views, SECTOR)
            if failed is not None:
                request.moved = good
                self._end_at(request, error_register(failed, otherwise), (start + good) // SECTOR)
                return False
        return True

    def _moved(self, request: DriveRequest, first: int, usable: int, error: int, moved: int) -> None:
        """A step is done; it was the last one when all that is usable was moved."""
        self.power = ACTIVE
        request.moved = moved
        done = request.position + moved
        if done < usable * SECTOR:
            request.more = True
            request.done(request)
        elif error:
            self._end_at(request, error, first + usable)
        else:
            self._end_at(request, 0, first + usable - 1)

    def _verify(self, request: DriveRequest) -> None:
        first, usable, error = self._range(request.task)
        if error and not usable:
            self._end(request, error)
            return
        self._run(self._verify_steps(request, first, usable, error))

    def _verify_steps(self, request: DriveRequest, first: int, usable: int, error: int) -> Steps:
        scratch = memoryview(bytearray(min(VERIFY_BYTES, usable * SECTOR)))
        at, end = first * SECTOR, (first + usable) * SECTOR
        while at < end:
            views = (scratch[: end - at],)
            failed = yield Ask(MediaOp.READ, at, views)
            if failed is not None:
                good, failed = yield from find_fault(MediaOp.READ, at, views, SECTOR)
                if failed is not None:
                    self._end_at(request, error_register(failed, ata.UNC), (at + good) // SECTOR)
                    return
            at += views[0].nbytes
        self.power = ACTIVE
        self._end_at(request, error, first + usable if error else first + usable - 1)

    def _seek(self, request: DriveRequest) -> None:
        first = ata.start_sector(request.task, self.translation)
        self._end(request, ata.IDNF if first is None or first >= self.accessible else 0)

    # --- the cache, power

    def _flush(self, request: DriveRequest) -> None:
        self._run(self._flush_steps(request, lambda: None))

    def _flush_steps(self, request: DriveRequest, then: Callable[[], None]) -> Steps:
        """End `request` when all is on stable storage; `then` changes the settings before that."""
        failed = yield Ask(MediaOp.FLUSH)
        if failed is None:
            then()
        self._end(request, 0 if failed is None else error_register(failed, ata.ABRT))

    def _standby(self, request: DriveRequest) -> None:
        self._run(self._flush_steps(request, self._spin_down))

    def _spin_down(self) -> None:
        self.power = STANDBY

    def _idle(self, request: DriveRequest) -> None:
        self.power = ACTIVE
        self._end(request)

    def _sleep(self, request: DriveRequest) -> None:
        self._run(self._flush_steps(request, self._fall_asleep))

    def _fall_asleep(self) -> None:
        self.power, self.sleeping = STANDBY, True

    def _check_power(self, request: DriveRequest) -> None:
        self._end(request, count=self.power)

    # --- data that is not on the medium

    def _identify(self, request: DriveRequest) -> None:
        config = self.config
        assert self.info is not None
        identity = self.info.identity or f"ata-disk {self.instance}"
        data = identify_disk(
            DiskFacts(
                model=config.model_number,
                serial=config.serial_number if config.serial_number is not None else serial_number(identity),
                firmware=config.firmware_revision,
                sectors=self.accessible,
                native=self.native,
                default=self.default,
                current=self.translation,
                multiple=self.multiple,
                mode=self.mode,
                write_cache=self.write_cache,
                look_ahead=self.look_ahead,
                non_rotational=config.non_rotational,
                trim=not self.info.read_only,
            )
        )
        self._give(request, data)

    def _read_buffer(self, request: DriveRequest) -> None:
        self._give(request, self.buffer)

    def _give(self, request: DriveRequest, data: bytes) -> None:
        request.moved = fill(request.views, data[request.position :])
        if request.moved and request.position + request.moved < len(data):
            request.more = True
            request.done(request)
        else:
            self._end(request)

    def _write_buffer(self, request: DriveRequest) -> None:
        data = gather(part(request.views, 0, SECTOR - request.position))
        request.moved = len(data)
        self.buffer = (self.buffer[: request.position] + data).ljust(SECTOR, b"\0")[:SECTOR]
        if request.moved and request.position + request.moved < SECTOR:
            request.more = True
            request.done(request)
        else:
            self._end(request)

    # --- TRIM

    def _trim_refused(self, task: TaskFile) -> bool:
        count = task.count & 0xFFFF
        trim = task.features & 0xFFFF == 1
        assert self.info is not None
        return not trim or not 0 < count <= MAX_TRIM_BLOCKS or self.info.read_only

    def _data_set_management(self, request: DriveRequest) -> None:
        if self._trim_refused(request.task):
            self._end(request, ata.ABRT)
            return
        left = (request.task.count & 0xFFFF) * SECTOR - request.position
        data = gather(part(request.views, 0, left))
        data = data[: len(data) & ~7]
        if not data:
            self._end(request, ata.ABRT)
            return
        ranges = []
        for at in range(0, len(data), 8):
            first = int.from_bytes(data[at : at + 6], "little")
            count = int.from_bytes(data[at + 6 : at + 8], "little")
            if count and first + count > self.accessible:
                self._end(request, ata.IDNF | ata.ABRT)
                return
            if count:
                ranges.append((first, count))
        self._run(self._trim_steps(request, ranges, len(data), left))

    def _trim_steps(
        self, request: DriveRequest, ranges: list[tuple[int, int]], moved: int, left: int
    ) -> Steps:
        for first, count in ranges:
            failed = yield Ask(MediaOp.DISCARD, first * SECTOR, (), count * SECTOR)
            if failed is not None:
                self._end(request, error_register(failed, ata.ABRT))
                return
        request.moved = moved
        if moved < left:
            request.more = True
            request.done(request)
        else:
            self._end(request)

    # --- settings

    def _initialize_parameters(self, request: DriveRequest) -> None:
        heads, per_track = (request.task.device & 0x0F) + 1, request.task.count & 0xFF
        if not per_track:
            self._end(request, ata.ABRT)
            return
        self.translation = ata.translated(self.native, heads, per_track)
        self._end(request)

    def _set_multiple(self, request: DriveRequest) -> None:
        count = request.task.count & 0xFF
        if count > MAX_MULTIPLE or count & (count - 1):
            self.multiple = 0  # a refused value disables the commands, until ATA-5
            self._end(request, ata.ABRT)
            return
        self.multiple = count
        self._end(request)

    def _set_features(self, request: DriveRequest) -> None:
        task = request.task
        match task.features & 0xFF:
            case 0x02:
                self.write_cache = True
            case 0x82:
                self._run(self._flush_steps(request, self._disable_write_cache))
                return
            case 0x03:
                mode = ata.transfer_mode(task.count)
                if mode is None:
                    self._end(request, ata.ABRT)
                    return
                self.mode = mode
            case 0xAA:
                self.look_ahead = True
            case 0x55:
                self.look_ahead = False
            case 0x66:
                self.keeps_settings = True
            case 0xCC:
                self.keeps_settings = False
            case _:
                self._end(request, ata.ABRT)
                return
        self._end(request)

    def _disable_write_cache(self) -> None:
        self.write_cache = False

    def _read_native_max(self, request: DriveRequest) -> None:
        last = self.native - 1
        if request.task.command != Command.READ_NATIVE_MAX_EXT:
            last = min(last, ata.LBA28_SECTORS)
        if not ata.uses_lba(request.task):
            last = min(last, self.default.size - 1)
        self._end_at(request, 0, last)

    def _set_max(self, request: DriveRequest) -> None:
        task = request.task
        wide = task.command == Command.SET_MAX_EXT
        before = Command.READ_NATIVE_MAX_EXT if wide else Command.READ_NATIVE_MAX
        if self.previous != before or task.count & 1 or (not wide and task.features & 0xFF):
            self._end(request, ata.ABRT)
            return
        last = ata.start_sector(task, self.translation)
        if last is None or last >= self.native:
            self._end(request, ata.IDNF)
            return
        self.accessible = last + 1
        self._end(request)

    def _done(self, request: DriveRequest) -> None:
        self._end(request)

    def _aborted(self, request: DriveRequest) -> None:
        self._end(request, ata.ABRT)

    # --- machinery

    def _handler_table(self) -> dict[int, Callable[[DriveRequest], None]]:
        c = Command
        table: dict[int, Callable[[DriveRequest], None]] = {
            c.NOP: self._aborted,
            c.DATA_SET_MANAGEMENT: self._data_set_management,
            c.READ_NATIVE_MAX: self._read_native_max, c.READ_NATIVE_MAX_EXT: self._read_native_max,
            c.SET_MAX: self._set_max, c.SET_MAX_EXT: self._set_max,
            c.INITIALIZE_PARAMETERS: self._initialize_parameters,
            c.SET_MULTIPLE: self._set_multiple, c.SET_FEATURES: self._set_features,
            c.IDENTIFY: self._identify, c.READ_BUFFER: self._read_buffer, c.WRITE_BUFFER: self._write_buffer,
            c.FLUSH_CACHE: self._flush, c.FLUSH_CACHE_EXT: self._flush,
            c.STANDBY_IMMEDIATE: self._standby, c.STANDBY: self._standby,
            c.STANDBY_IMMEDIATE_OLD: self._standby, c.STANDBY_OLD: self._standby,
            c.IDLE_IMMEDIATE: self._idle, c.IDLE: self._idle,
            c.IDLE_IMMEDIATE_OLD: self._idle, c.IDLE_OLD: self._idle,
            c.SLEEP: self._sleep, c.SLEEP_OLD: self._sleep,
            c.CHECK_POWER: self._check_power, c.CHECK_POWER_OLD: self._check_power,
        }  # fmt: skip
        table |= dict.fromkeys(ata.READS, self._read) | dict.fromkeys(ata.WRITES, self._write)
        table |= dict.fromkeys(ata.VERIFIES, self._verify)
        table |= dict.fromkeys(range(0x10, 0x20), self._done) | dict.fromkeys(range(0x70, 0x80), self._seek)
        return table

    def _run(self, steps: Steps) -> None:
        MediaSteps(self.below, steps, self._warn).run()

    def _warn(self, text: str) -> None:
        self.helpers.log.warning("%s", text)

    def _end(self, request: DriveRequest, error: int = 0, *, count: int | None = None) -> None:
        """The command is over; the address registers are as the host wrote them."""
        task = request.task
        wide = task.command in ata.EXT
        request.status, request.error = ata.READY | (ata.ERR if error else 0), error
        request.count = task.count & (0xFFFF if wide else 0xFF) if count is None else count
        request.lba = task.lba & (ata.LBA48_SECTORS if wide else 0xFFFFFF)
        request.device = task.device | ata.OBSOLETE_ONES
        request.more = False
        request.done(request)

    def _end_at(self, request: DriveRequest, error: int, sector: int) -> None:
        """The command is over; the address registers tell of `sector`."""
        request.status, request.error = ata.READY | (ata.ERR if error else 0), error
        request.count = 0
        request.lba, request.device = ata.address_registers(request.task, sector, self.translation)
        request.more = False
        request.done(request)

    # --- state

    def _default_settings(self) -> None:
        self.translation = self.default
        self.multiple = 0
        self.write_cache = self.look_ahead = True

    def _power_on_values(self) -> None:
        self._default_settings()
        self.accessible = self.native
        self.mode = (ModeKind.PIO, 0)
        self.keeps_settings = False
        self.power, self.sleeping = ACTIVE, False
        self.previous = self.last_command = -1
        self.buffer = bytes(SECTOR)

    def pdm_save(self) -> AtaDiskState:
        return AtaDiskState(
            native=self.native, accessible=self.accessible,
            heads=self.translation.heads, per_track=self.translation.sectors, multiple=self.multiple,
            mode_kind=self.mode[0], mode=self.mode[1], write_cache=self.write_cache,
            look_ahead=self.look_ahead, keeps_settings=self.keeps_settings, power=self.power,
            sleeping=self.sleeping, last_command=self.last_command, buffer=self.buffer,
        )  # fmt: skip

    def pdm_load(self, state: AtaDiskState) -> None:
        check_state(state, self.native)
        self.accessible = min(max(state.accessible, 0), self.native)
        self.translation = (
            self.default
            if (state.heads, state.per_track) == (self.default.heads, self.default.sectors)
            else ata.translated(self.native, state.heads, state.per_track)
        )
        self.multiple = state.multiple
        self.mode = (state.mode_kind, state.mode & 7)
        self.write_cache, self.look_ahead = state.write_cache, state.look_ahead
        self.keeps_settings, self.power, self.sleeping = (
            state.keeps_settings,
            state.power & 0xFF,
            state.sleeping,
        )
        self.last_command = state.last_command
        self.buffer = state.buffer.ljust(SECTOR, b"\0")[:SECTOR]

    def pdm_info(self, arguments: str) -> str:
        if self.info is None:
            return "no medium"
        geometry, (kind, mode) = self.translation, self.mode
        return (
            f"{self.config.model_number}, {self.native} sectors"
            f"{', read only' if self.info.read_only else ''}\n"
            f"addressable {self.accessible}; CHS {geometry.cylinders}/{geometry.heads}/{geometry.sectors}; "
            f"{kind.value} {mode}; multiple {self.multiple}\n"
            f"write cache {'on' if self.write_cache else 'off'}, "
            f"{'asleep' if self.sleeping else 'active' if self.power == ACTIVE else 'standby'}"
        )


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType("ata-disk", AtaDisk, Config, serves=Drive, wants=Media, summary="a disk for IDE and SATA")
    )


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: see `conformance`."""
    from vbox_plugin_storage import conformance

    return conformance.disk()
