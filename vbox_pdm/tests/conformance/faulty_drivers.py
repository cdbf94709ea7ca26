"""Drivers: filters of a character stream and of a medium, a disk in memory, a drive; and their faults."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from faulty import correct, faulty

from vbox_pdm import (
    CharStream,
    CharStreamAbove,
    CharStreamBelow,
    Clock,
    Direction,
    Drive,
    Driver,
    DriveRequest,
    DriveReset,
    Media,
    MediaAbove,
    MediaBelow,
    MediaInfo,
    MediaOp,
    MediaRequest,
    Phase,
    State,
    TaskFile,
)
from vbox_pdm.ata import Command
from vbox_pdm.drive import ATA_SIGNATURE

# --- a filter of characters


@correct
class Pipe(Driver[None]):
    """Passes on whatever comes."""

    layers = CharStream, CharStream
    above: CharStreamAbove
    below: CharStreamBelow

    def char_send(self, data: bytes) -> int:
        return self.below.char_send(data)

    def char_ready(self) -> None:
        self.below.char_ready()

    def char_parameters(self, baud: int, data_bits: int, parity: str, stop_bits: float) -> None:
        self.below.char_parameters(baud, data_bits, parity, stop_bits)

    def char_lines(self, dtr: bool, rts: bool) -> None:
        self.below.char_lines(dtr, rts)

    def char_break(self, level: bool) -> None:
        self.below.char_break(level)

    def char_room(self) -> int:
        return self.above.char_room()

    def char_received(self, data: bytes) -> None:
        self.above.char_received(data)

    def char_sendable(self) -> None:
        self.above.char_sendable()

    def char_status(self, cts: bool, dsr: bool, ri: bool, dcd: bool) -> None:
        self.above.char_status(cts, dsr, ri, dcd)

    def char_break_received(self) -> None:
        self.above.char_break_received()


@correct
class KeepsSevenBits(Pipe):
    """Changes what passes, and says so."""

    options = {"transparent": False}

    def char_received(self, data: bytes) -> None:
        self.above.char_received(bytes(byte & 0x7F for byte in data))


@faulty("transparent", "characters going up")
class LosesTheLastByte(Pipe):
    def char_received(self, data: bytes) -> None:
        self.above.char_received(data[:-1])


@faulty("transparent", "char_lines")
class ForgetsTheModem(Pipe):
    def char_lines(self, dtr: bool, rts: bool) -> None:
        pass


@faulty("layer", "characters came where there is room for")
class SendsWhatItLikes(Pipe):
    def char_room(self) -> int:
        return 64


@faulty("transparent", "characters going down")
class SaysItTwice(Pipe):
    def char_send(self, data: bytes) -> int:
        taken = self.below.char_send(data)
        self.below.char_send(data[:taken])
        return taken


# --- a filter of requests


@correct
class Tap(Driver[None]):
    """Counts requests that pass, and completes each as it was completed below."""

    layers = Media, Media
    above: MediaAbove
    below: MediaBelow

    def media_info(self) -> MediaInfo | None:
        return self.below.media_info()

    def media_submit(self, request: MediaRequest) -> None:
        def done(inner: MediaRequest) -> None:
            self.finish(request, inner)

        self.below.media_submit(self.passed(request, done))

    def passed(self, request: MediaRequest, done: Any) -> MediaRequest:
        return MediaRequest(request.op, done, request.offset, request.views, request.length)

    def finish(self, request: MediaRequest, inner: MediaRequest) -> None:
        request.complete(inner.error, inner.text)

    def media_lock(self, locked: bool) -> None:
        self.below.media_lock(locked)

    def media_eject(self) -> None:
        self.below.media_eject()

    def media_changed(self) -> None:
        self.above.media_changed()


@faulty("requests", "completed 2 times")
class CompletesTwice(Tap):
    def finish(self, request: MediaRequest, inner: MediaRequest) -> None:
        super().finish(request, inner)
        if request.op is MediaOp.FLUSH:
            super().finish(request, inner)


@faulty("requests", "not completed at the end")
class NeverCompletes(Tap):
    def finish(self, request: MediaRequest, inner: MediaRequest) -> None:
        if request.op is not MediaOp.DISCARD:
            super().finish(request, inner)


@faulty("requests", "no status name")
class SpeaksOfErrors(Tap):
    def finish(self, request: MediaRequest, inner: MediaRequest) -> None:
        request.complete(inner.error and "it failed", inner.text)


@faulty("errors", "ended with an error")
class HidesErrors(Tap):
    def finish(self, request: MediaRequest, inner: MediaRequest) -> None:
        request.complete()


@faulty("content", "sector ")
class KeepsTheOldMedium(Tap):
    """Remembers what it has written, also when there is another medium."""

    options = {"transparent": False}
    transient = frozenset({"kept"})

    def pdm_construct(self) -> None:
        self.kept: dict[int, bytes] = {}

    def media_submit(self, request: MediaRequest) -> None:
        if request.op is MediaOp.WRITE and request.offset % 512 == 0:
            data = b"".join(request.views)
            self.kept |= {request.offset + at: data[at : at + 512] for at in range(0, len(data) - 511, 512)}
        super().media_submit(request)

    def finish(self, request: MediaRequest, inner: MediaRequest) -> None:
        if request.op is MediaOp.READ and len(request.views) == 1 and len(request.views[0]) >= 512:
            first = self.kept.get(request.offset)
            if first is not None and inner.error is None:
                request.views[0][:512] = first
        super().finish(request, inner)


@faulty("suspended", "a request that nothing holds back")
class SuspendsTooSoon(Tap):
    """Passes requests on later, and a suspend does not wait for them."""

    options = {"transparent": False}
    transient = frozenset({"waiting"})

    def pdm_construct(self) -> None:
        self.waiting: list[MediaRequest] = []
        self.timer = self.helpers.timer("later", Clock.VIRTUAL, self.go_on)

    def media_submit(self, request: MediaRequest) -> None:
        self.waiting.append(request)
        self.timer.set_relative(1_000_000)

    def go_on(self) -> None:
        waiting, self.waiting = self.waiting, []
        for request in waiting:
            super().media_submit(request)

    def pdm_reset(self) -> None:
        self.timer.stop()
        self.go_on()

    def pdm_power_off(self) -> None:
        self.go_on()

    def pdm_destruct(self) -> None:
        waiting, self.waiting = self.waiting, []
        for request in waiting:
            request.complete("VERR_PDM_MEDIA_NOT_MOUNTED")

    def media_eject(self) -> None:
        self.go_on()
        super().media_eject()

    def media_changed(self) -> None:
        self.pdm_destruct()
        super().media_changed()


# --- a disk in memory

SIZE = 256 << 10


@frozen
class DiskState(State, version=1):
    across_reset = frozenset({"data"})
    data: bytes


@correct
class MemoryDisk(Driver[None]):
    """A medium that begins with zeros."""

    layers = Media, None

    def pdm_construct(self) -> None:
        self.data = bytearray(SIZE)

    def media_info(self) -> MediaInfo:
        return MediaInfo(SIZE, identity="memory")

    def media_submit(self, request: MediaRequest) -> None:
        length = request.length or sum(len(view) for view in request.views)
        if request.offset + length > SIZE:
            request.complete("VERR_OUT_OF_RANGE")
            return
        at = request.offset
        for view in request.views:
            if request.op is MediaOp.READ:
                view[:] = self.data[at : at + len(view)]
            else:
                self.store(at, view)
            at += len(view)
        if request.op is MediaOp.DISCARD:
            self.data[at : at + length] = bytes(length)
        request.complete()

    def store(self, at: int, data: memoryview) -> None:
        self.data[at : at + len(data)] = data

    def pdm_save(self) -> DiskState:
        return DiskState(bytes(self.data))

    def pdm_load(self, state: DiskState) -> None:
        self.data[:] = state.data


@faulty("content", "reads other bytes")
class LosesWrites(MemoryDisk):
    def store(self, at: int, data: memoryview) -> None:
        if at & 512:
            super().store(at, data)


@faulty("content", "reads other bytes")
class WritesTheSectorBehind(MemoryDisk):
    def store(self, at: int, data: memoryview) -> None:
        super().store(at, data)
        if at + len(data) < SIZE:
            self.data[at + len(data)] ^= 1


# --- a drive

READS = Command.READ_SECTORS, Command.READ_MULTIPLE, Command.READ_DMA
WRITES = Command.WRITE_SECTORS, Command.WRITE_MULTIPLE, Command.WRITE_DMA
WAYS = dict.fromkeys(map(int, READS), Direction.IN) | dict.fromkeys(map(int, WRITES), Direction.OUT)


@correct
class MemoryDrive(Driver[None]):
    """Reads and writes of 28 bits on a disk in memory; all else is aborted."""

    layers = Drive, None

    def pdm_construct(self) -> None:
        self.data = bytearray(SIZE)

    def drive_signature(self) -> int:
        return ATA_SIGNATURE

    def drive_phase(self, task: TaskFile, packet: bytes) -> Phase:
        way = WAYS.get(task.command)
        if packet or way is None or self.place(task) is None:
            return Phase()
        return Phase(way, (task.count & 0xFF or 256) * 512)

    def place(self, task: TaskFile) -> int | None:
        at = (task.lba & 0xFFFFFF | (task.device & 0xF) << 24) * 512
        return at if at + (task.count & 0xFF or 256) * 512 <= SIZE else None

    def drive_submit(self, request: DriveRequest) -> None:
        phase = self.drive_phase(request.task, request.packet)
        at = self.place(request.task)
        request.device, request.lba = request.task.device, request.task.lba
        if phase.direction is Direction.NONE or at is None:
            self.end(request, 0x51, 0x04)
            return
        at += request.position
        request.moved = 0
        for view in request.views:
            if phase.direction is Direction.IN:
                view[:] = self.data[at : at + len(view)]
            else:
                self.data[at : at + len(view)] = view
            at += len(view)
            request.moved += len(view)
        request.more = request.position + request.moved < phase.length
        self.end(request, 0x50, 0)

    def end(self, request: DriveRequest, status: int, error: int) -> None:
        request.status, request.error = status, error
        request.done(request)

    def drive_reset(self, kind: DriveReset) -> None:
        pass

    def pdm_save(self) -> DiskState:
        return DiskState(bytes(self.data))

    def pdm_load(self, state: DiskState) -> None:
        self.data[:] = state.data


@faulty("requests", "moved")
class MovesMoreThanThereIs(MemoryDrive):
    def end(self, request: DriveRequest, status: int, error: int) -> None:
        if request.moved and not request.more:
            request.moved += 512
        super().end(request, status, error)


@faulty("requests", "BSY or DRQ is set")
class EndsBusy(MemoryDrive):
    def end(self, request: DriveRequest, status: int, error: int) -> None:
        super().end(request, status | 0x80 if error else status, error)


@faulty("requests", "without ERR")
class ErrsWithoutSayingSo(MemoryDrive):
    def end(self, request: DriveRequest, status: int, error: int) -> None:
        super().end(request, status & ~1, error)


@faulty("requests", "has more to do after")
class NeverComesToAnEnd(MemoryDrive):
    def end(self, request: DriveRequest, status: int, error: int) -> None:
        request.more = request.moved > 0
        super().end(request, status, error)


@faulty("requests", "answers differently")
class ChangesItsMind(MemoryDrive):
    transient = frozenset({"asked"})
    asked = 0

    def drive_phase(self, task: TaskFile, packet: bytes) -> Phase:
        phase = super().drive_phase(task, packet)
        self.asked += 1
        return Phase(phase.direction, phase.length + self.asked) if phase.length else phase


@frozen
class TrayState(State, version=1):
    locked: bool


@faulty("save-load", "'locked' of what hangs below")
class LocksOnce(MemoryDrive):
    """STANDBY locks the medium in, which nobody tells it after a load."""

    layers = Drive, Media
    below: MediaBelow

    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.locked = False

    def drive_submit(self, request: DriveRequest) -> None:
        if request.task.command == Command.STANDBY:
            self.locked = True
            self.below.media_lock(True)
        super().drive_submit(request)

    def pdm_reset(self) -> None:
        self.data[:] = bytes(SIZE)
        self.locked = False
        self.below.media_lock(False)

    def pdm_save(self) -> TrayState:  # type: ignore[override]
        return TrayState(self.locked)

    def pdm_load(self, state: TrayState) -> None:  # type: ignore[override]
        self.locked = state.locked

    transient = frozenset({"data"})


@faulty("layer", "lie behind the medium's end")
class AsksForTooMuch(MemoryDrive):
    """Reads on behind the end of the medium."""

    layers = Drive, Media
    below: MediaBelow

    def drive_submit(self, request: DriveRequest) -> None:
        if request.task.command == Command.IDENTIFY:
            view = memoryview(bytearray(1024))
            self.below.media_submit(MediaRequest(MediaOp.READ, lambda inner: None, SIZE - 512, (view,)))
        super().drive_submit(request)
