"""Requests to media and drives, and what must be true of their completion whatever they do."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import attrs
from attrs import define, field

from vbox_pdm import ata
from vbox_pdm.drive import Direction, DriveRequest, Phase, TaskFile
from vbox_pdm.media import MediaInfo, MediaOp, MediaRequest
from vbox_pdm.testing.conformance.traffic import DriveAsk, MediaAsk
from vbox_pdm.testing.conformance.violations import Violation

_OF_A_SECTOR = {ata.Command.IDENTIFY, ata.Command.READ_BUFFER, ata.Command.WRITE_BUFFER}
"""Commands that transfer 512 bytes, whatever the task file says."""
_MOST_STEPS = 600
"""After so many steps a command is taken for one that never ends."""


def noise(seed: int, length: int) -> bytes:
    """What a request writes."""
    return random.Random(seed).randbytes(length)


@define(eq=False)
class MediaOracle:
    """Asks a medium, and remembers what it must hold: only where a write succeeded or a read saw it."""

    done: list[Any] = field(factory=list)
    pending: int = 0
    known: dict[int, bytes] = field(factory=dict)
    """Sector number -> its content."""
    written: dict[int, bytes] = field(factory=dict)
    """What writes left on the medium that is there."""
    gone: dict[int, bytes] = field(factory=dict)
    """What writes left on media that were there before."""
    writers: dict[int, int] = field(factory=dict)
    """Sector number -> the number of the request that was the last to be submitted to change it."""
    floor: int = 0
    """Requests before this one say nothing about the medium that is there now."""
    identity: str = ""
    submitted: int = 0
    refused: Callable[[], int] = lambda: 0
    """How many requests the medium below has ended with an error."""
    swapped: Callable[[], bool] = lambda: False
    """Whether another identity means other bytes, as it does of the kit's own media."""

    def submit(self, below: Any, ask: MediaAsk) -> MediaRequest:
        """Carry out `ask`; Violation when it is completed twice or wrongly."""
        info: MediaInfo | None = below.media_info()
        identity = info.identity if info is not None else ""
        if identity != self.identity:
            self.identity = identity
            self.gone.update(self.written)
            self.written.clear()
            self.forget_all()
        length = 0 if ask.op is MediaOp.FLUSH else sum(ask.lengths)
        data = bytearray(noise(ask.seed, length) if ask.op is MediaOp.WRITE else b"\xa5" * length)
        views, at = [], 0
        if ask.op in (MediaOp.READ, MediaOp.WRITE):
            for part in ask.lengths:
                views.append(memoryview(data)[at : at + part])
                at += part
        count = 0
        alone, refused = not self.pending, self.refused()
        self.submitted += 1
        number = self.submitted
        self.pending += 1
        edges: dict[int, bytes] = {}
        if ask.op in (MediaOp.WRITE, MediaOp.DISCARD):
            edges = self._forget(ask.offset, length, number)

        def done(request: MediaRequest) -> None:
            nonlocal count
            count += 1
            self.pending -= 1
            if count > 1:
                raise Violation("requests", f"{ask} was completed {count} times")
            if alone and number == self.submitted and request.error is None and self.refused() > refused:
                raise Violation("errors", f"{ask} ended well, and a request below for it ended with an error")
            # Another medium may have come meanwhile: then nothing is known of what the request ended on.
            same = request.error is None and below.media_info() == info
            self._ended(ask, request, bytes(data), info if same else None, number, edges)

        forgets = MediaOp.DISCARD if ask.op is MediaOp.DISCARD else None
        request = MediaRequest(
            ask.op, done, 0 if ask.op is MediaOp.FLUSH else ask.offset, tuple(views),
            length if forgets else 0,
        )  # fmt: skip
        below.media_submit(request)
        return request

    def _ended(
        self,
        ask: MediaAsk,
        request: MediaRequest,
        data: bytes,
        info: MediaInfo | None,
        number: int,
        edges: dict[int, bytes],
    ) -> None:
        self.done.append((ask.op.value, request.error))
        error = request.error
        if error is not None and not (isinstance(error, str) and error.startswith("VERR_")):
            raise Violation("requests", f"{ask} ended with {error!r}, which is no status name")
        if error is not None or info is None or ask.op is MediaOp.FLUSH:
            return
        whole = -(-info.size // info.sector_size) * info.sector_size
        if ask.offset + len(data) > whole:
            raise Violation("requests", f"{ask} succeeded behind the end of a medium of {info.size} bytes")
        if ask.op is not MediaOp.READ and info.read_only:
            raise Violation("requests", f"{ask} succeeded on a read-only medium")
        if ask.op is MediaOp.DISCARD:
            return
        for sector, content in _sectors(ask.offset, data, edges).items():
            if ask.op is MediaOp.READ:
                if self.known.get(sector, content) != content:
                    raise Violation("content", f"sector {sector} reads other bytes than were there: {ask}")
                if self.swapped() and number >= self.floor and self.gone.get(sector) == content:
                    raise Violation("content", f"sector {sector} of a new medium is as the one before: {ask}")
            # Nobody has changed it behind this one.
            if max(self.floor, self.writers.get(sector, 0)) <= number:
                self.known[sector] = content
                if ask.op is MediaOp.WRITE and sector not in edges:
                    self.written[sector] = content

    def forget_all(self) -> None:
        """There may be another medium."""
        self.known.clear()
        self.floor = self.submitted + 1

    def _forget(self, offset: int, length: int, number: int) -> dict[int, bytes]:
        """Answers what sectors were that a write covers in part."""
        edges: dict[int, bytes] = {}
        for sector in range(offset // 512, -(-(offset + length) // 512)) if length else ():
            content = self.known.pop(sector, None)
            self.written.pop(sector, None)
            self.gone.pop(sector, None)
            self.writers[sector] = number
            if content is not None and not offset <= sector * 512 <= offset + length - 512:
                edges[sector] = content
        return edges


def _sectors(offset: int, data: bytes, edges: dict[int, bytes]) -> dict[int, bytes]:
    """The sectors that `data` covers wholly, and those whose rest is known: `edges`."""
    found = {}
    for sector in range(offset // 512, -(-(offset + len(data)) // 512)) if data else ():
        at = sector * 512 - offset
        content = data[max(0, at) : at + 512]
        if len(content) == 512:
            found[sector] = content
        elif sector in edges:
            old, start = edges[sector], max(0, -at)
            found[sector] = old[:start] + content + old[start + len(content) :]
    return found


@define(eq=False)
class DriveOracle:
    """Asks a drive as a controller does, step by step, one command at a time."""

    done: list[Any] = field(factory=list)
    pending: int = 0
    known: dict[int, bytes] = field(factory=dict)
    stores: Callable[[], bool] = lambda: True
    """Whether what is written is kept: the kit's own drive, below a filter, answers with a pattern."""
    buffer: bytes | None = None
    """What the last command wrote to the drive's buffer, when it was WRITE BUFFER."""
    modes: bytes = b""
    """What MODE SENSE said of all pages."""
    under_way: DriveRequest | None = None
    cut_off: bool = False
    """There was a reset while the drive works at `under_way`, which is not gone on with."""
    refused: Callable[[], int] = lambda: 0

    def submit(self, below: Any, ask: DriveAsk) -> None:
        """Carry out `ask`, unless another command is under way."""
        if self.under_way is not None:
            return
        task = TaskFile(ask.command, ask.features, ask.count, ask.lba, ask.device)
        ask = attrs.evolve(ask, packet=self._packet(ask.packet))
        if ask.packet and below.drive_signature() != 0xEB140101:
            return  # no controller gives a packet to a drive that is none for packets
        phase = below.drive_phase(task, ask.packet)
        if not isinstance(phase, Phase) or phase.length < 0 or phase.block <= 0:
            raise Violation("requests", f"drive_phase of {task} answered {phase!r}")
        if below.drive_phase(task, ask.packet) != phase:
            raise Violation("requests", f"drive_phase of {task} answers differently when it is asked again")
        _Command(self, below, ask, task, phase, self.refused()).go()

    def _packet(self, packet: bytes) -> bytes:
        """A MODE SELECT without a length gives back what MODE SENSE said."""
        if packet[:1] != b"\x55" or any(packet[7:9]) or not self.modes:
            return packet
        return packet[:7] + len(self.modes).to_bytes(2, "big") + packet[9:]

    def payload(self, ask: DriveAsk, length: int) -> bytes:
        """What a command writes that has `length` bytes."""
        if ask.command == ata.Command.DATA_SET_MANAGEMENT:  # ranges on the medium, and none
            ranges = [(2 * ask.seed % 64 + at, 1 + at % 2) for at in range(4)]
            data = b"".join(struct.pack("<Q", count << 48 | first) for first, count in ranges)
            return data.ljust(length, b"\0")[:length]
        if ask.packet[:1] == b"\x55" and self.modes and length == len(self.modes):
            pages = bytearray(b"\0\0" + self.modes[2:])
            if ask.seed % 4 == 3:
                pages[ask.seed % length] ^= 1 << ask.seed % 8
            return bytes(pages)
        return b""

    def reset(self) -> None:
        """What has `more` to do is forgotten by a reset; what the drive works at still ends."""
        self.cut_off = self.pending > 0
        self.buffer = None
        if not self.cut_off:
            self.under_way = None


@define(eq=False)
class _Command:
    oracle: DriveOracle
    below: Any
    ask: DriveAsk
    task: TaskFile
    phase: Phase
    refused: int
    steps: int = 0
    due: bool = True
    going: bool = False
    position: int = 0
    answered: bool = True
    data: bytearray = field(factory=bytearray)
    whole: bytearray = field(factory=bytearray)

    def go(self) -> None:
        """Submit steps as long as one is due; not from within `done`, which would nest them."""
        if self.going:
            return
        self.going = True
        try:
            while self.due:
                self.due = False
                self.step()
        finally:
            self.going = False

    def step(self) -> None:
        """Submit the next one."""
        left = max(0, self.phase.length - self.position)
        room = max(self.ask.room, self.phase.length // 64 & ~1)  # what is long goes in long steps
        room = min(room, left) if self.phase.direction is not Direction.NONE else 0
        if self.phase.direction is Direction.OUT:
            payload = self.oracle.payload(self.ask, self.phase.length)
            chosen = payload[self.position : self.position + room]
            self.data = bytearray(chosen or noise(self.ask.seed + self.position, room))
        else:
            self.data = bytearray(b"\xa5" * room)
        views = (memoryview(self.data),) if room else ()
        request = DriveRequest(self.task, self.done, self.ask.packet, views=views, position=self.position)
        self.oracle.under_way = request
        self.oracle.pending += 1
        self.answered = False
        self.steps += 1
        self.below.drive_submit(request)

    def done(self, request: DriveRequest) -> None:
        """The drive ended a step."""
        if self.answered:
            raise Violation("requests", f"{self.task} was completed twice")
        self.answered = True
        self.oracle.pending -= 1
        room = len(self.data)
        if not 0 <= request.moved <= room:
            raise Violation("requests", f"{self.task} moved {request.moved} bytes of {room}")
        self.whole += self.data[: request.moved]
        self.position += request.moved
        if request.more:
            if request.moved == 0 or self.steps > _MOST_STEPS or self.position >= self.phase.length:
                raise Violation(
                    "requests",
                    f"{self.task} has more to do after {self.position} of {self.phase.length} bytes",
                )
            if self.oracle.under_way is request and not self.oracle.cut_off:
                self.due = True
                self.go()
                return
            self.oracle.under_way, self.oracle.cut_off = None, False
            return
        self.oracle.under_way, self.oracle.cut_off = None, False
        self.oracle.done.append((request.status, request.error, request.count, request.lba, request.device))
        if request.status & (ata.BSY | ata.DRQ):
            raise Violation(
                "requests", f"{self.task} ended with status {request.status:#x}: BSY or DRQ is set"
            )
        clean = not request.status & (ata.ERR | ata.DF)
        speaks = self.task.command in (0x08, 0x90)  # diagnostics answer in the error register
        if clean and request.error and not self.ask.packet and not speaks:
            raise Violation("requests", f"{self.task} has error {request.error:#x} without ERR")
        if clean and self.oracle.refused() > self.refused:
            raise Violation("errors", f"{self.task} ended well, a request to its medium with an error")
        if clean and self.task.command == ata.Command.PACKET and not self.ask.packet:
            raise Violation("requests", f"{self.task} ended well, and has no packet")
        buffer, self.oracle.buffer = self.oracle.buffer, None
        if not request.status & ata.ERR:
            if self.oracle.stores():
                self.check_content()
                self.check_buffer(buffer)
            self.notice()

    def check_buffer(self, buffer: bytes | None) -> None:
        """What WRITE BUFFER left is what READ BUFFER finds directly behind it."""
        if self.task.command == ata.Command.WRITE_BUFFER:
            self.oracle.buffer = bytes(self.whole)
        elif self.task.command == ata.Command.READ_BUFFER and buffer not in (None, bytes(self.whole)):
            raise Violation("content", "READ BUFFER reads other bytes than WRITE BUFFER has written")
        if self.task.command in _OF_A_SECTOR and len(self.whole) != 512:
            raise Violation("requests", f"{self.task} succeeded with {len(self.whole)} of 512 bytes")

    def notice(self) -> None:
        """What later commands are made of, or do not find any more."""
        if self.task.command == ata.Command.DATA_SET_MANAGEMENT:
            self.oracle.known.clear()
        all_pages = self.ask.packet[:1] == b"\x5a" and self.ask.packet[2] == 0x3F
        if all_pages and len(self.whole) >= 8:
            self.oracle.modes = bytes(self.whole)

    def check_content(self) -> None:
        """Read-after-write, by plain LBA commands."""
        name = _name(self.task.command)
        wide = name.endswith("_EXT") or "_EXT" in name
        if self.ask.packet or not self.task.device & ata.LBA or not name.startswith(("READ_", "WRITE_")):
            return
        if not any(word in name for word in ("SECTORS", "MULTIPLE", "DMA")):
            return
        if any(word in name for word in ("VERIFY", "LONG", "NATIVE", "MAX", "BUFFER", "QUEUED")):
            return
        first = self.task.lba if wide else self.task.lba & 0xFFFFFF | (self.task.device & 0xF) << 24
        if len(self.whole) != self.phase.length:
            raise Violation(
                "requests", f"{self.task} succeeded with {len(self.whole)} of {self.phase.length} bytes"
            )
        known = self.oracle.known
        for at in range(0, len(self.whole), 512):
            sector, content = first + at // 512, bytes(self.whole[at : at + 512])
            if name.startswith("READ_") and known.get(sector, content) != content:
                raise Violation(
                    "content", f"sector {sector} reads other bytes than were written: {self.task}"
                )
            known[sector] = content


def _name(command: int) -> str:
    try:
        return ata.Command(command).name
    except ValueError:
        return ""
