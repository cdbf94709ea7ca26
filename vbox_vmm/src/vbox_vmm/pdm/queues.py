"""Queues: the one way in for what comes from outside the VM's lock.

Any thread puts; the consumer runs on the EMT, as soon as it looks around.  While the VM is suspended
items wait: a device that is being saved must not change.

Putting is a hot path and takes no lock: a deque's append is atomic.  The flag that says that a drain is
on its way is cleared before the drain looks, so an item that sees it set is seen by that drain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from vbox_pdm.errors import PdmError

T = TypeVar("T")

BATCH = 1024
"""So many items at most are handed on before the guest may run again."""


class PdmQueue(Generic[T]):
    """A queue of an instance (`vbox_pdm.helpers.Queue`).

    `capacity` may be exceeded by as many items as threads put at the very same moment."""

    __slots__ = ("_capacity", "_consumer", "_failed", "_items", "_on_way", "_post", "_queues", "name")

    def __init__(
        self, queues: Queues, name: str, consumer: Callable[[T], None], capacity: int,
        failed: Callable[[str, Exception], None],
    ) -> None:  # fmt: skip
        if capacity < 1:
            raise PdmError("VERR_INVALID_PARAMETER", f"Queue '{name}' has room for {capacity} items")
        self.name = name
        self._queues = queues
        self._consumer = consumer
        self._capacity = capacity
        self._failed = failed
        self._items: deque[T] = deque()
        self._on_way = False
        self._post = queues.post

    def put(self, item: T) -> bool:
        """Any thread.  False when the queue is full (or its owner is gone): nothing was queued."""
        items = self._items
        if len(items) >= self._capacity:
            return False
        items.append(item)
        if not self._on_way:
            self._on_way = True
            self._post(self.drain)
        return True

    def __len__(self) -> int:
        return len(self._items)

    def drain(self) -> None:
        """EMT: hand on what is there; no effect while the queues are parked."""
        self._on_way = False
        if self._queues.parked:
            return
        items, consumer = self._items, self._consumer
        for _ in range(BATCH):
            if not items:
                return
            try:
                consumer(items.popleft())
            except Exception as error:
                self._failed(f"queue {self.name}", error)
            if self._queues.parked:
                return
        if items and not self._on_way:
            self._on_way = True
            self._post(self.drain)

    def close(self) -> None:
        """Its owner is gone: what is queued is dropped, nothing is taken any more."""
        self._capacity = 0
        self._items.clear()
        self._consumer = _drop


class Queues:
    """The queues of one VM.  `post` runs a callable on the EMT."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        self.post = post
        self.parked = False
        """Whether items wait."""
        self._queues: list[PdmQueue[object]] = []

    def create(
        self,
        name: str,
        consumer: Callable[[T], None],
        capacity: int,
        failed: Callable[[str, Exception], None],
    ) -> PdmQueue[T]:
        """A new queue; `failed(where, error)` is told when the consumer raises."""
        queue = PdmQueue(self, name, consumer, capacity, failed)
        self._queues.append(queue)  # type: ignore[arg-type]
        return queue

    def drop(self, queue: PdmQueue[T]) -> None:
        """Its owner is gone."""
        queue.close()
        self._queues = [other for other in self._queues if other is not queue]

    def drain(self) -> None:
        """EMT: hand on what is queued now."""
        for queue in list(self._queues):
            if queue:
                queue.drain()

    @property
    def filled(self) -> bool:
        """Whether anything is queued."""
        return any(self._queues)

    def park(self) -> None:
        """Items wait from now on."""
        self.parked = True

    def unpark(self) -> None:
        """Items that waited, and all new ones, are handed on."""
        self.parked = False
        for queue in self._queues:
            if queue:
                self.post(queue.drain)


def _drop(item: object) -> None:
    """The consumer of a closed queue."""
