"""Media requests one after the other, written down as a generator.

A drive's command may need several: a write and a flush, the search for the sector that fails, a
verification in pieces.  Such a command is a generator that yields requests and is sent the error of
each (None when all went well):

    def steps() -> Steps:
        error = yield Ask(MediaOp.WRITE, offset, views)
        if error is None:
            error = yield Ask(MediaOp.FLUSH)
        finish(error)

The medium may answer before `media_submit` returns; that must not nest, or a long command would
exhaust the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

from attrs import frozen

from vbox_pdm import MediaBelow, MediaOp, MediaRequest


@frozen
class Ask:
    """One request to the medium."""

    op: MediaOp
    offset: int = 0
    views: tuple[memoryview, ...] = ()
    length: int = 0


Steps = Generator[Ask, str | None, None]
FaultSteps = Generator[Ask, str | None, tuple[int, str | None]]


class MediaSteps:
    """Runs `steps` to their end on the medium `below`.

    `warn(text)` gets the words that come with an error of the medium."""

    __slots__ = ("_answer", "_answered", "_below", "_looping", "_steps", "_warn")

    def __init__(self, below: MediaBelow, steps: Steps, warn: Callable[[str], None]) -> None:
        self._below = below
        self._steps = steps
        self._warn = warn
        self._looping = False
        self._answered = False
        self._answer: str | None = None

    def run(self) -> None:
        """Start, or go on after an answer."""
        self._looping = True
        try:
            while True:
                answer, self._answer = self._answer, None
                try:
                    ask = self._steps.send(answer)
                except StopIteration:
                    return
                self._answered = False
                request = MediaRequest(ask.op, self._done, ask.offset, ask.views, ask.length)
                self._below.media_submit(request)
                if not self._answered:
                    return
        finally:
            self._looping = False

    def _done(self, request: MediaRequest) -> None:
        self._answered = True
        self._answer = request.error
        if request.error is not None:
            where = f"{request.op.value} at {request.offset:#x}"
            self._warn(f"{where}: {request.error} {request.text}".rstrip())
        if not self._looping:
            self.run()


def find_fault(op: MediaOp, start: int, views: tuple[memoryview, ...], unit: int) -> FaultSteps:
    """Repeat a request that failed in halves, down to blocks (of `unit` bytes, counted from 0).
    Answers (bytes from its start that went well, the error behind them; None when all went well this
    time)."""
    good, span, end = 0, total(views), total(views)
    while good < end:
        if span > unit:
            span //= 2
        stop = min(end, good + max(span, 1))
        over = (start + stop) % unit
        if over and stop - over > good and (stop < end or span <= unit):  # pieces end where blocks end
            stop -= over
        elif over and stop < end:
            stop = min(end, stop - over + unit)
        error = yield Ask(op, start + good, part(views, good, stop - good))
        if error is None:
            good = stop
            span = end - good
        elif (start + good) // unit == (start + stop - 1) // unit:
            return good, error
        else:
            span = stop - good
    return good, None


def total(views: Iterable[memoryview]) -> int:
    """Bytes of all views."""
    return sum(view.nbytes for view in views)


def part(views: Iterable[memoryview], start: int, length: int) -> tuple[memoryview, ...]:
    """The bytes [start, start+length) of views that belong together; fewer where they end."""
    found: list[memoryview] = []
    for view in views:
        if length <= 0:
            break
        size = view.nbytes
        if start >= size:
            start -= size
            continue
        piece = view[start : start + length]
        found.append(piece)
        length -= piece.nbytes
        start = 0
    return tuple(found)


def fill(views: Iterable[memoryview], data: bytes) -> int:
    """Copy `data` into views as far as they go; how many bytes went."""
    at = 0
    for view in views:
        piece = data[at : at + view.nbytes]
        view[: len(piece)] = piece
        at += len(piece)
        if at >= len(data):
            break
    return at


def gather(views: Iterable[memoryview]) -> bytes:
    """The bytes of all views."""
    return b"".join(views)
