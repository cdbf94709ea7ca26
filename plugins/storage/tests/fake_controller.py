"""A controller without registers: it carries commands to their end, in steps of any size."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

from attrs import frozen

from vbox_pdm import Direction, DriveRequest, Phase, TaskFile
from vbox_pdm.drive import DriveBelow


@frozen
class Result:
    """How a command ended, and what it moved."""

    status: int
    error: int
    count: int
    lba: int
    device: int
    data: bytes
    phase: Phase

    @property
    def failed(self) -> bool:
        return bool(self.status & 1)


class Controller:
    """What stands above a drive.  `steps` are the sizes of the memory lent, one after the other, and
    `cuts` the sizes of the views of each."""

    connected = True

    def __init__(self) -> None:
        self.below: DriveBelow
        self.notified = 0
        self.steps: list[int] = []
        self.cuts: list[int] = []
        self.under_way: DriveRequest | None = None
        self.ended: list[Result] = []

    def drive_notify(self) -> None:
        self.notified += 1

    def start(self, task: TaskFile, data: bytes = b"", packet: bytes = b"") -> None:
        """Begin a command; its end is appended to `ended`."""
        phase = self.below.drive_phase(task, packet)
        sizes: Iterator[int] = chain(self.steps, repeat(1 << 62))
        self._phase, self._in, self._data, self._sizes = phase, bytearray(), data, sizes
        self.under_way = request = DriveRequest(task, self._done, packet)
        self._step(request)

    def run(self, task: TaskFile, data: bytes = b"", packet: bytes = b"") -> Result:
        """A command on a medium that answers at once."""
        before = len(self.ended)
        self.start(task, data, packet)
        assert len(self.ended) == before + 1
        return self.ended[-1]

    def command(self, command: int, **registers: Any) -> Result:
        """The same, by registers."""
        data = registers.pop("data", b"")
        return self.run(TaskFile(command, **registers), data)

    def cdb(self, *cdb: int, data: bytes = b"", features: int = 0) -> Result:
        """A packet of 12 bytes."""
        return self.run(TaskFile(0xA0, features), data, bytes(cdb).ljust(12, b"\0"))

    def _step(self, request: DriveRequest) -> None:
        left = self._phase.length - request.position
        size = min(left, next(self._sizes))
        memory = bytearray(size)
        if self._phase.direction is Direction.OUT:
            memory[:] = self._data[request.position : request.position + size].ljust(size, b"\0")
        self._memory = memory
        request.views = _cut(memory, self.cuts)
        self.below.drive_submit(request)

    def _done(self, request: DriveRequest) -> None:
        assert request is self.under_way
        assert 0 <= request.moved <= len(self._memory)
        if self._phase.direction is Direction.IN:
            self._in += self._memory[: request.moved]
        if request.more:
            assert request.moved > 0
            request.position += request.moved
            self._step(request)
            return
        self.under_way = None
        assert not request.status & 0x88
        self.ended.append(
            Result(
                request.status, request.error, request.count, request.lba, request.device,
                bytes(self._in), self._phase,
            )
        )  # fmt: skip


def _cut(memory: bytearray, cuts: list[int]) -> tuple[memoryview, ...]:
    views, at = [], 0
    for size in cuts:
        if at + size < len(memory):
            views.append(memoryview(memory)[at : at + size])
            at += size
    if at < len(memory):
        views.append(memoryview(memory)[at:])
    return tuple(views)
