"""What the tests of image drivers share: requests, and waiting for them."""

from __future__ import annotations

from typing import Any

from vbox_pdm import MediaOp, MediaRequest
from vbox_pdm.testing import Bench


class Image:
    """An image driver without a drive."""

    def __init__(self, bench: Bench, driver: str, *, below: Any = None, **config: object) -> None:
        self.bench = bench
        self.driver = bench.add_driver(driver, below=below, config=config)
        bench.power_on()
        self.order: list[MediaRequest] = []
        """Requests in the order of their ends."""

    def start(
        self, op: MediaOp, offset: int = 0, views: tuple[memoryview, ...] = (), length: int = 0
    ) -> MediaRequest:
        request = MediaRequest(op, self.order.append, offset, views, length)
        self.driver.media_submit(request)
        return request

    def finish(self, *requests: MediaRequest) -> None:
        assert self.bench.wait(lambda: all(request in self.order for request in requests))

    def read(self, offset: int, length: int, *cuts: int) -> bytes:
        memory = bytearray(b"\xee" * length)
        request = self.start(MediaOp.READ, offset, cut(memory, cuts))
        self.finish(request)
        assert request.error is None, request.error
        return bytes(memory)

    def write(self, offset: int, data: bytes, *cuts: int) -> None:
        request = self.start(MediaOp.WRITE, offset, cut(bytearray(data), cuts))
        self.finish(request)
        assert request.error is None, request.error

    def error(self, op: MediaOp, offset: int = 0, length: int = 512) -> str | None:
        views = (memoryview(bytearray(length)),) if op in (MediaOp.READ, MediaOp.WRITE) else ()
        request = self.start(op, offset, views, length)
        self.finish(request)
        return request.error


def cut(memory: bytearray, sizes: tuple[int, ...]) -> tuple[memoryview, ...]:
    """Views of these sizes, the rest in one."""
    views, at = [], 0
    for size in sizes:
        if at + size < len(memory):
            views.append(memoryview(memory)[at : at + size])
            at += size
    return (*views, memoryview(memory)[at:])
