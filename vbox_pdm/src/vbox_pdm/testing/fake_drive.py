"""A drive for the tests of controllers: what stands below a Drive LUN instead of a disk or a CD drive.

    drive = FakeDrive()
    drive.commands[0x20] = Answer.reads(bytes(512))
    bench.add("piix3ide", lun0=drive)

What a command answers is said in advance, or worked out by a function of its task file; when it is
done is up to the drive (at once), or to the test (`hold`, then `complete`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from attrs import field, frozen

from vbox_pdm.drive import (
    ATA_SIGNATURE,
    Direction,
    DriveAbove,
    DriveRequest,
    DriveReset,
    Phase,
    TaskFile,
)
from vbox_pdm.testing.fakes import Fake

PACKET = 0xA0


@frozen
class Answer:
    """What a command transfers, and the registers at its end (None: as they were in the task file).

    `data` is what a command IN delivers: less than `phase.length` ends it early, as an error or a
    packet with less to say does.  A command OUT hands what it takes to `store(position, bytes)`, and
    takes `accept` bytes at most (None: all)."""

    phase: Phase = field(factory=Phase)
    data: bytes = b""
    store: Callable[[int, bytes], None] | None = None
    accept: int | None = None
    status: int = field(default=0x50, kw_only=True)
    error: int = field(default=0, kw_only=True)
    count: int | None = field(default=None, kw_only=True)
    lba: int | None = field(default=None, kw_only=True)
    device: int | None = field(default=None, kw_only=True)

    @classmethod
    def reads(cls, data: bytes, block: int = 512, *, dma: bool = False, length: int | None = None) -> Answer:
        """A command that delivers `data`, of `length` bytes at most (None: just these)."""
        phase = Phase(Direction.IN, len(data) if length is None else length, block, dma)
        return cls(phase, data)

    @classmethod
    def writes(
        cls, length: int, store: Callable[[int, bytes], None], block: int = 512, *, dma: bool = False
    ) -> Answer:
        """A command that takes `length` bytes."""
        return cls(Phase(Direction.OUT, length, block, dma), store=store)


ABORTED = Answer(status=0x51, error=0x04)
"""What a command answers that the drive does not know."""

Script = Answer | Callable[[TaskFile, bytes], Answer]


class Step(NamedTuple):
    """One submission: `room` is the bytes of its memory."""

    task: TaskFile
    packet: bytes
    position: int
    room: int


class FakeDrive(Fake):
    """The neighbour below a Drive LUN.

    `commands` says what a command answers, `packets` what the packet with an operation code does; all
    others are aborted.  A drive moves at most `most` bytes in one step (None: as many as fit).  With
    `hold` a request waits for `complete`; a reset by POWER completes it, unless `stubborn`.
    """

    above: DriveAbove | None = None

    def __init__(
        self,
        signature: int | None = ATA_SIGNATURE,
        *,
        hold: bool = False,
        most: int | None = None,
        lchs: tuple[int, int, int] | None = None,
        stubborn: bool = False,
    ) -> None:
        self.signature = signature
        self.hold = hold
        self.most = most
        self.lchs = lchs
        self.stubborn = stubborn
        self.commands: dict[int, Script] = {}
        """What a command of that number answers: an Answer, or a function of task file and packet."""
        self.packets: dict[int, Script] = {}
        """The same by the operation code of a packet."""
        self.steps: list[Step] = []
        """All submissions."""
        self.finished = 0
        """How many of them are done."""
        self.resets: list[DriveReset] = []
        """How it was reset."""
        self.held: DriveRequest | None = None
        """The request that waits for `complete`."""

    # --- what a test does

    def complete(self) -> None:
        """Carry out the request that is held."""
        request = self.held
        if request is not None:
            self.traffic(lambda: self._release(request))

    def notify(self) -> None:
        """Tell the controller that something happened."""
        if self.above is not None:
            self.traffic(self.above.drive_notify)

    # --- the layer

    def drive_signature(self) -> int | None:
        return self.signature

    def drive_phase(self, task: TaskFile, packet: bytes) -> Phase:
        return self._answer(task, packet).phase

    def drive_submit(self, request: DriveRequest) -> None:
        assert self.held is None, "a request is under way"
        room = sum(len(view) for view in request.views)
        self.steps.append(Step(request.task, request.packet, request.position, room))
        self.held = request
        if not self.hold:
            self._release(request)

    def drive_reset(self, kind: DriveReset) -> None:
        self.resets.append(kind)
        if kind is DriveReset.POWER and self.held is not None and not self.stubborn:
            self._release(self.held)

    def drive_lchs(self) -> tuple[int, int, int] | None:
        return self.lchs

    # --- machinery

    def _answer(self, task: TaskFile, packet: bytes) -> Answer:
        script = self.packets.get(packet[0]) if packet else self.commands.get(task.command)
        if script is None:
            return ABORTED
        return script if isinstance(script, Answer) else script(task, packet)

    def _release(self, request: DriveRequest) -> None:
        answer = self._answer(request.task, request.packet)
        if answer.phase.direction is Direction.OUT:
            limit = answer.phase.length if answer.accept is None else answer.accept
            self._take(request, answer, limit)
        else:
            limit = min(len(answer.data), answer.phase.length)
            self._give(request, answer.data[:limit])
        request.more = request.moved > 0 and request.position + request.moved < limit
        if not request.more:
            task = request.task
            request.status, request.error = answer.status, answer.error
            request.count = task.count if answer.count is None else answer.count
            request.lba = task.lba if answer.lba is None else answer.lba
            request.device = task.device if answer.device is None else answer.device
        self.held = None
        self.finished += 1
        request.done(request)

    def _give(self, request: DriveRequest, data: bytes) -> None:
        at = request.position
        end = len(data) if self.most is None else min(len(data), at + self.most)
        for view in request.views:
            part = data[at : min(end, at + len(view))]
            view[: len(part)] = part
            at += len(part)
        request.moved = at - request.position

    def _take(self, request: DriveRequest, answer: Answer, limit: int) -> None:
        room = limit - request.position if self.most is None else min(limit - request.position, self.most)
        data = b"".join(bytes(view) for view in request.views)[: max(0, room)]
        if answer.store is not None and data:
            answer.store(request.position, data)
        request.moved = len(data)
