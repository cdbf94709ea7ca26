"""A medium for tests of drives: bytes in memory, errors and delays by the test's script."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import define, frozen

from vbox_pdm.media import NOT_MOUNTED, MediaAbove, MediaInfo, MediaOp, MediaRequest
from vbox_pdm.testing.fakes import Fake


@frozen
class Seen:
    """A request as it came: FLUSH has no range."""

    op: MediaOp
    offset: int
    length: int


@define
class _Fault:
    op: MediaOp
    first: int
    last: int
    error: str
    times: int


class FakeMedia(Fake):
    """The neighbour below a Media LUN, or below a drive.

    `content` is bytes, or a number of zero bytes; None is no medium.  With `hold` requests wait in
    `held` until the test calls `release`; otherwise they are done before `media_submit` returns.
    """

    above: MediaAbove | None = None

    def __init__(
        self,
        content: bytes | int | None,
        *,
        sector_size: int = 512,
        read_only: bool = False,
        identity: str = "fake",
        hold: bool = False,
    ) -> None:
        self.sector_size = sector_size
        self.read_only = read_only
        self.identity = identity
        self.hold = hold
        self.data: bytearray | None = None if content is None else bytearray(content)
        """What the medium holds now; zeros fill the last sector up."""
        self.stable = b"" if self.data is None else bytes(self.data)
        """What it would hold after a power failure: its content at the last FLUSH."""
        self.seen: list[Seen] = []
        """All requests in order of submission."""
        self.held: deque[MediaRequest] = deque()
        """The requests that wait for `release`."""
        self.locked = False
        """Whether the guest forbids that the medium is taken out."""
        self.ejected = 0
        """How often the guest ejected."""
        self._faults: list[_Fault] = []

    # --- what a test does

    def fail(
        self, op: MediaOp, error: str, offset: int = 0, length: int | None = None, times: int = 1 << 30
    ) -> None:
        """Requests of `op` that touch [offset, offset+length) (None: up to the end) end with `error`,
        `times` times; they change nothing then.  FLUSH touches everything."""
        last = 1 << 63 if length is None else offset + length
        self._faults.append(_Fault(op, offset, last, error, times))

    def mend(self) -> None:
        """No more faults."""
        self._faults.clear()

    def release(self, index: int = 0) -> None:
        """Carry out the held request at `index` and call its `done`."""
        request = self.held[index]
        del self.held[index]
        self.traffic(lambda: self._carry_out(request))

    def release_all(self) -> None:
        """Carry out all that is held, also what is submitted meanwhile, in order."""
        while self.held:
            self.release()

    def change(self, content: bytes | int | None, *, identity: str = "another") -> None:
        """Put another medium in, or take it out (None), and tell the drive."""
        self.data = None if content is None else bytearray(content)
        self.stable = b"" if self.data is None else bytes(self.data)
        self.identity = identity
        if self.above is not None:
            self.traffic(self.above.media_changed)

    def operations(self, op: MediaOp) -> list[Seen]:
        """What was asked of one kind."""
        return [seen for seen in self.seen if seen.op is op]

    # --- the layer

    def media_info(self) -> MediaInfo | None:
        if self.data is None:
            return None
        return MediaInfo(len(self.data), self.sector_size, self.read_only, self.identity)

    def media_submit(self, request: MediaRequest) -> None:
        length = request.length or sum(view.nbytes for view in request.views)
        self.seen.append(Seen(request.op, request.offset, length))
        if self.hold:
            self.held.append(request)
        else:
            self._carry_out(request)

    def media_lock(self, locked: bool) -> None:
        self.locked = locked

    def media_eject(self) -> None:
        self.ejected += 1
        self.data = None

    # --- machinery

    def _carry_out(self, request: MediaRequest) -> None:
        error = self._error(request)
        if error is None:
            assert self.data is not None
            if request.op is MediaOp.READ:
                self._read(request.offset, request.views)
            elif request.op is MediaOp.WRITE:
                self._write(request.offset, request.views)
            elif request.op is MediaOp.DISCARD:
                end = min(len(self.data), request.offset + request.length)
                self.data[request.offset : end] = bytes(max(0, end - request.offset))
            else:
                self.stable = bytes(self.data)
        request.complete(error, f"injected {error}" if error else "")

    def _error(self, request: MediaRequest) -> str | None:
        if self.data is None:
            return NOT_MOUNTED
        length = request.length or sum(view.nbytes for view in request.views)
        whole = -(-len(self.data) // self.sector_size) * self.sector_size
        if request.offset < 0 or request.offset + length > whole:
            return "VERR_OUT_OF_RANGE"
        if self.read_only and request.op in (MediaOp.WRITE, MediaOp.DISCARD):
            return "VERR_WRITE_PROTECT"
        for fault in self._faults:
            touched = request.offset < fault.last and fault.first < request.offset + length
            if fault.op is request.op and fault.times > 0 and (touched or request.op is MediaOp.FLUSH):
                fault.times -= 1
                return fault.error
        return None

    def _read(self, offset: int, views: Iterable[memoryview]) -> None:
        assert self.data is not None
        for view in views:
            part = bytes(self.data[offset : offset + view.nbytes])
            view.cast("B")[:] = part.ljust(view.nbytes, b"\0")
            offset += view.nbytes

    def _write(self, offset: int, views: Iterable[memoryview]) -> None:
        assert self.data is not None
        for view in views:
            end = offset + view.nbytes
            if end > len(self.data):
                self.data.extend(bytes(end - len(self.data)))
            self.data[offset:end] = view
            offset = end
