"""Queues of the bench: any thread puts, the bench hands on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from vbox_pdm.errors import PdmError

MAX_ITEMS = 100_000
"""How many items one `drain` hands on before it takes the consumers for runaways."""


class BenchQueue:
    """A `Queue`."""

    def __init__(self, inbox: Inbox, title: str, name: str, consumer: Callable[[Any], None], capacity: int):
        self.title = title
        self.name = name
        self.consumer = consumer
        self.capacity = capacity
        self.length = 0
        self.closed = False
        self._inbox = inbox

    def put(self, item: Any) -> bool:
        """Any thread; False when the queue is full or gone."""
        return self._inbox.put(self, item)


class Inbox:
    """All queued items of a machine, in the order in which they came.

    `run(queue, item)` calls the consumer; `runaway(queue, error)` hears when `drain` gave up."""

    def __init__(
        self,
        run: Callable[[BenchQueue, Any], None],
        runaway: Callable[[BenchQueue, PdmError], None],
    ) -> None:
        self._run = run
        self._runaway = runaway
        self._items: deque[tuple[BenchQueue, Any]] = deque()
        self._filled = threading.Condition()
        self._draining = False
        self._nudged = False

    def put(self, queue: BenchQueue, item: Any) -> bool:
        """For queues."""
        with self._filled:
            if queue.closed or queue.length >= queue.capacity:
                return False
            queue.length += 1
            self._items.append((queue, item))
            self._filled.notify_all()
        return True

    def nudge(self) -> None:
        """Any thread: end a `wait` although nothing was queued."""
        with self._filled:
            self._nudged = True
            self._filled.notify_all()

    def close(self, queue: BenchQueue) -> None:
        """The owner is gone: what is queued is dropped."""
        with self._filled:
            queue.closed = True
            self._items = deque(entry for entry in self._items if entry[0] is not queue)

    def drain(self) -> bool:
        """Hand on what is queued, also what comes meanwhile; whether there was anything."""
        if self._draining:
            return False
        self._draining = True
        handed = 0
        try:
            while True:
                with self._filled:
                    if not self._items:
                        return handed > 0
                    queue, item = self._items.popleft()
                    queue.length -= 1
                handed += 1
                if handed > MAX_ITEMS:
                    error = PdmError(
                        "VERR_BUFFER_OVERFLOW",
                        f"Queue '{queue.name}' of {queue.title} is filled by its own consumer without end",
                    )
                    self._runaway(queue, error)
                    return True
                self._run(queue, item)
        finally:
            self._draining = False

    def wait(self, seconds: float) -> bool:
        """Until something is queued or nudged; False after `seconds`."""
        with self._filled:
            found = self._filled.wait_for(lambda: self._items or self._nudged, seconds)
            self._nudged = False
            return bool(found)
