"""What all character drivers share: two bounded buffers between the guest's side and a worker.

Outwards, `char_send` (on the EMT) fills a buffer that the worker writes to a file descriptor; when
the buffer is full the rest is refused, and `char_sendable` follows once the worker has made room.
Inwards, the worker reads, and the bytes go by queue to the EMT, which hands the device what
`char_room` allows and keeps the rest for `char_ready`; past `LIMIT` bytes the worker stops reading,
so that a slow guest slows down the peer.  Nothing is lost and nothing changes its order.

The worker's function may return and be called again (PDM stops workers while the VM is
suspended): all that is under way is kept in the driver.
"""

from __future__ import annotations

import enum
import os
import select
import threading
import time
from typing import TypeVar

from vbox_pdm import CharStreamAbove, Driver, Worker

C = TypeVar("C")
LIMIT = 64 * 1024
"""Bytes that wait in either direction."""
CHUNK = 16 * 1024
BLOCKING_CHUNK = select.PIPE_BUF
"""What a pipe that polls as writable takes without blocking."""
QUEUE_ITEMS = 256
BATCH_SECONDS = 0.001
"""How long output is gathered after a write: a guest sends byte by byte, and a system call and a
turn of the interpreter lock for each would slow it down.  The first byte after a rest goes at once."""
MOST_CALLS = 64
"""How often the device is given bytes before the guest may run again."""
DRAIN_SECONDS = 2.0
"""How long the last words of a guest may take to leave at the end."""


class Event(enum.Enum):
    """What a worker tells the EMT besides bytes, in order with them."""

    SENDABLE = "sendable"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    MORE = "more"  # the EMT's own: the device may have room for what is left


class Gone(enum.Enum):
    """Why `exchange` returned."""

    STOPPED = "stopped"  # the worker must end
    PEER = "peer"  # the other side hung up


class CharDriver(Driver[C]):
    """Base of the character drivers.  A driver implements `serve`, which calls `exchange`."""

    above: CharStreamAbove

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outgoing = bytearray()
        self._refused = False
        self._last_write = 0.0
        self._discarding = False
        self._posts: list[bytes | Event] = []  # the worker's, while the queue is full
        self._unread = 0  # bytes read that the device has not taken; under the lock
        self._waiting = bytearray()  # the EMT's part of them
        self._delivering = False
        self._more = False  # it was left at that, and is to be gone on with
        self.connected = False
        self.wake_read = self._wake_write = -1
        self.worker: Worker | None = None

    def serve(self, worker: Worker) -> None:
        """The worker's function."""
        raise NotImplementedError

    def start(self) -> None:
        """To be called at the end of `pdm_construct`."""
        self.wake_read, self._wake_write = _pipe()
        self._queue = self.helpers.queue("events", self._event, QUEUE_ITEMS)
        self.worker = self.helpers.worker("io", self.serve, self.wake)

    # --- the layer, on the EMT

    def char_send(self, data: bytes) -> int:
        """Into the buffer, as much as fits."""
        with self._lock:
            if self._discarding:
                return len(data)
            taken = data[: LIMIT - len(self._outgoing)]
            was_empty = not self._outgoing
            self._outgoing += taken
            self._refused = len(taken) < len(data)
        if was_empty and taken:
            self.wake()
        return len(taken)

    def char_ready(self) -> None:
        """The device has room again."""
        self._deliver()

    # --- life

    def pdm_power_on(self) -> None:
        self._report_lines()

    def pdm_resume(self) -> None:
        self._report_lines()

    def pdm_destruct(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        for descriptor in (self.wake_read, self._wake_write):
            if descriptor >= 0:
                os.close(descriptor)
        self.wake_read = self._wake_write = -1
        self._refused = False  # nobody waits for room any more

    # --- for the drivers, on the worker

    def wake(self) -> None:
        """Make a blocked `exchange` or `pause` look again.  Any thread."""
        try:
            os.write(self._wake_write, b"\0")
        except OSError:
            pass  # full (a wake-up is on its way already) or closed

    def pause(self, seconds: float | None) -> None:
        """Wait until woken, or for some time."""
        ready, _, _ = select.select([self.wake_read], [], [], seconds)
        if ready:
            self._drain_wake()
            self._post_waiting()

    def discard(self, discarding: bool) -> None:
        """Whether what the guest sends goes nowhere: nobody is there to read it."""
        with self._lock:
            self._discarding = discarding
            sendable = discarding and self._refused
            if discarding:
                self._outgoing.clear()
                self._refused = False
        if sendable:
            self.post(Event.SENDABLE)

    def post(self, item: bytes | Event) -> None:
        """To the EMT; kept while the queue is full."""
        if isinstance(item, bytes):
            with self._lock:
                self._unread += len(item)
            if self._posts and isinstance(self._posts[-1], bytes):
                self._posts[-1] += item  # the queue is full: one item is as good as two
                return
        self._posts.append(item)
        self._post_waiting()

    def set_connected(self, connected: bool) -> None:
        """Tell the device by its modem lines."""
        if connected != self.connected:
            self.connected = connected
            self.post(Event.CONNECTED if connected else Event.DISCONNECTED)

    def received(self, data: bytes) -> None:
        """Bytes from the peer; drivers that look for commands in them override this."""
        self.post(data)

    def may_read(self) -> bool:
        """Whether the guest keeps up."""
        return self._unread < LIMIT and not self._posts

    def exchange(self, worker: Worker, source: int | None, sink: int | None) -> Gone:
        """Move bytes both ways between the guest and non-blocking descriptors, until the worker
        must end, or both are gone.

        The end of `source` is the end of a peer that is both, once it has had what is on the way
        to it.  A `sink` that refuses is gone, and what the guest sends goes nowhere."""
        both = source == sink
        while worker.running:
            self._post_waiting()
            if source is None and sink is None:
                return Gone.PEER
            interest: dict[int, int] = {self.wake_read: select.POLLIN}
            timeout = None
            if source is not None and self.may_read():
                interest[source] = select.POLLIN
            if sink is not None and self._outgoing:
                timeout = self.batch_left()
                if timeout is None:
                    interest[sink] = interest.get(sink, 0) | select.POLLOUT
            for descriptor, flags in _poll(interest, timeout):
                if descriptor == self.wake_read:
                    self._drain_wake()
                    continue
                wanted = interest[descriptor]
                if wanted & select.POLLOUT and flags & ~select.POLLIN and not self._give(descriptor, flags):
                    self.discard(True)
                    sink = None
                if wanted & select.POLLIN and flags & ~select.POLLOUT and not self._read(descriptor):
                    source = None
                    if both and sink is not None:
                        self.drain(sink)
                        sink = None
        return Gone.STOPPED

    def batch_left(self) -> float | None:
        """Seconds to gather output before the next write; None when it is time."""
        left = self._last_write + BATCH_SECONDS - time.monotonic()
        return left if left > 0 and len(self._outgoing) < CHUNK else None

    def drain(self, sink: int, seconds: float = DRAIN_SECONDS) -> None:
        """Write what is left, for a limited time: the end is near."""
        until = time.monotonic() + seconds
        while self._outgoing and (left := until - time.monotonic()) > 0:
            for descriptor, flags in _poll({sink: select.POLLOUT}, left):
                if not self._give(descriptor, flags):
                    return

    # --- machinery

    def _read(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, CHUNK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if data:
            self.received(data)
        return bool(data)

    def _give(self, descriptor: int, flags: int) -> bool:
        """Write to what `flags` say of; a terminal that hung up while it is full stays full."""
        return bool(flags & select.POLLOUT) and self._write(descriptor)

    def _write(self, descriptor: int) -> bool:
        with self._lock:
            limit = BLOCKING_CHUNK if os.get_blocking(descriptor) else LIMIT
            chunk = bytes(self._outgoing[:limit])
        try:
            written = os.write(descriptor, chunk)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        self.written(written)
        return True

    def written(self, count: int) -> None:
        """`count` bytes of the buffer are out."""
        self._last_write = time.monotonic()
        with self._lock:
            del self._outgoing[:count]
            sendable = self._refused and len(self._outgoing) <= LIMIT // 2
            if sendable:
                self._refused = False
        if sendable:
            self.post(Event.SENDABLE)

    def _post_waiting(self) -> None:
        while self._posts and self._queue.put(self._posts[0]):
            del self._posts[0]

    def _event(self, item: bytes | Event) -> None:
        if self._posts:  # there is room in the queue now
            self.wake()
        if isinstance(item, bytes):
            self._waiting += item
        elif item is Event.SENDABLE:
            self.above.char_sendable()
        elif item is not Event.MORE:
            up = item is Event.CONNECTED
            self.above.char_status(up, up, False, up)
        if self._more or isinstance(item, bytes):
            self._deliver()

    def _deliver(self) -> None:
        if self._delivering:  # the device took bytes and says so while it takes them
            return
        self._delivering = True
        self._more = False
        delivered = calls = 0
        try:
            while self._waiting and (room := self.above.char_room()) > 0:
                if calls == MOST_CALLS:
                    self._more = True
                    self._queue.put(Event.MORE)  # where that is full, the next event goes on
                    break
                calls += 1
                chunk = bytes(self._waiting[:room])
                del self._waiting[:room]
                delivered += len(chunk)
                self.above.char_received(chunk)
        finally:
            self._delivering = False
        if delivered:
            with self._lock:
                was_full = self._unread >= LIMIT
                self._unread -= delivered
            if was_full:
                self.wake()

    def _report_lines(self) -> None:
        self.above.char_status(self.connected, self.connected, False, self.connected)

    def _drain_wake(self) -> None:
        try:
            while len(os.read(self.wake_read, CHUNK)) == CHUNK:
                pass
        except BlockingIOError:
            pass


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def _poll(interest: dict[int, int], seconds: float | None) -> list[tuple[int, int]]:
    poll = select.poll()
    for descriptor, flags in interest.items():
        poll.register(descriptor, flags)
    return poll.poll(None if seconds is None else max(1, int(seconds * 1000)))
