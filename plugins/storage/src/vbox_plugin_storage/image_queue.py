"""What image drivers share: a worker that carries out requests in order, and what happens when the
host's disk is full.

Requests go to one thread, first come first served; so overlapping requests keep their order, and a
FLUSH finds all earlier writes done.  Completions come back by a queue of PDM, as many at once as are
ready when the EMT looks.

A write that finds the host's disk full is parked, and everything behind it with it: the VM is
suspended with a runtime error, nothing is lost, and at resume the same request is tried again.

A read of what the host has in memory anyway is carried out when it is submitted, and completed as ever: to
wake the worker would take longer.  Where runs must repeat exactly (`helpers.at_once`) all requests are,
and one that has to wait is left to the worker.

Traps: the views of a request belong to it until it is done, so a parked one keeps guest memory; while
the VM is suspended no worker runs, so whatever is left then waits for resume, or ends with
VERR_PDM_MEDIA_NOT_MOUNTED when the driver is destructed.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from vbox_pdm import Driver, DriverHelpers, MediaOp, MediaRequest, PdmError, RuntimeErrorFlags, Worker
from vbox_pdm.media import NOT_MOUNTED

C = TypeVar("C")
DISK_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
DETACH_SECONDS = 30.0
"""How long what is under way may take when the driver is detached from a running VM."""
_STATUS = {
    MediaOp.READ: "VERR_READ_ERROR",
    MediaOp.WRITE: "VERR_WRITE_ERROR",
    MediaOp.FLUSH: "VERR_WRITE_ERROR",
    MediaOp.DISCARD: "VERR_WRITE_ERROR",
}


class ImageQueue:
    """The queue of one image, made in `pdm_construct`.

    `carry_out(request)` does the work, on the worker's thread as a rule, and raises OSError; it may be called
    again for the same request.  `at_hand(request)` does it if that needs no waiting, and says whether it did;
    it raises nothing but what views raise.  `what` names the file for people.  `busy()` says whether the
    driver has something else under way that a suspend must wait for.  All other methods are for the EMT;
    the driver passes its life-cycle hooks on to those of the same name."""

    def __init__(
        self,
        helpers: DriverHelpers,
        carry_out: Callable[[MediaRequest], None],
        at_hand: Callable[[MediaRequest], bool],
        what: str,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._helpers = helpers
        self._carry_out = carry_out
        self._at_hand = at_hand
        self._what = what
        self._busy = busy
        self._submitted: queue.SimpleQueue[MediaRequest | None] = queue.SimpleQueue()
        self._head: MediaRequest | None = None  # what the worker has taken
        self._finished: deque[tuple[MediaRequest, str | None, str]] = deque()
        self._told = False  # an item for the EMT is on its way
        self._pending = 0  # submitted and not completed; the EMT's
        self._full: str | None = None  # why the head is parked; None when it is not
        self._reported = False
        self._suspending = False
        self._waited_for = False  # somebody waits for the worker to be idle or parked
        self._serving = False
        self._progress = threading.Event()
        self._nudged = threading.Event()
        self._inbox = helpers.queue("completions", self._collect, 16)
        self._worker = helpers.worker("io", self._serve, self._wake)

    # --- EMT

    def submit(self, request: MediaRequest) -> None:
        """Carry out a request behind all earlier ones."""
        self._pending += 1
        none_before = self._pending == len(self._finished) + 1
        if none_before and self._done_now(request):
            self._tell()
        else:
            self._submitted.put(request)

    def _done_now(self, request: MediaRequest) -> bool:
        if self._helpers.at_once:
            return self._attempt(request) is None
        try:
            done = self._at_hand(request)
        except (BufferError, ValueError):  # the views: the worker will say so
            return False
        if done:
            self._finished.append((request, None, ""))
        return done

    @property
    def pending(self) -> int:
        """Requests that are not completed."""
        return self._pending

    @property
    def parked(self) -> bool:
        """Whether the host's disk is full and requests wait for room."""
        return self._full is not None

    def suspend(self) -> None:
        """pdm_suspend: done once all is completed, or parked."""
        self._suspending = True
        self.drain()

    def resume(self) -> None:
        """pdm_resume: there may be room again."""
        self._suspending = self._reported = False
        self._full = None

    def drain(self) -> None:
        """pdm_reset: done once all is completed, or parked."""
        if not self._settled():
            self._waited_for = True
            self._helpers.set_async_notification(self._settled)

    def power_off(self) -> None:
        """pdm_power_off, also of a driver that is detached from a running VM."""
        self._suspending = True
        try:
            self.drain()
        except PdmError:  # nobody waits for a driver that is detached: finish here
            end = time.monotonic() + DETACH_SECONDS
            while not self._idle() and time.monotonic() < end:
                self._progress.wait(0.05)
                self._progress.clear()

    def destruct(self) -> None:
        """pdm_destruct: no request is left without its end."""
        self._worker.stop()
        self._collect(None)
        left = [] if self._head is None else [self._head]
        self._head = None
        while True:
            try:
                request = self._submitted.get_nowait()
            except queue.Empty:
                break
            if request is not None:
                left.append(request)
        lost = sum(request.op is MediaOp.WRITE for request in left)
        if lost:
            self._helpers.log.error("%s: %d writes were not carried out", self._what, lost)
        for request in left:
            self._pending -= 1
            request.complete(NOT_MOUNTED, "the image was closed")

    def _idle(self) -> bool:
        """Whether the worker has nothing to do, or can do nothing."""
        if self._finished:
            self._collect(None)
        return not self._pending or self._full is not None or not self._serving

    def _settled(self) -> bool:
        if not self._idle() or (self._busy() and self._full is None and self._serving):
            return False
        self._waited_for = False
        return True

    def _collect(self, item: None) -> None:
        """What is finished is completed; what is parked is reported."""
        self._told = False
        finished = self._finished
        try:
            while finished:
                request, error, text = finished.popleft()
                self._pending -= 1
                request.complete(error, text)
        finally:
            if finished:  # whoever is above raised; the others get theirs
                self._tell()
        if self._full is not None and not self._reported and not self._suspending:
            self._reported = True
            self._helpers.set_runtime_error(
                RuntimeErrorFlags.SUSPEND,
                "DrvVD_DISKFULL",
                f"The host's disk is full for {self._what}: {self._full}. "
                "The VM is suspended and nothing is lost: make room and resume it",
            )

    # --- the worker

    def _wake(self) -> None:
        self._submitted.put(None)
        self._nudged.set()

    def _serve(self, worker: Worker) -> None:
        self._serving = True
        self._nudged.clear()
        try:
            while worker.running:
                if self._full is not None:
                    self._nudged.wait()
                    self._nudged.clear()
                    continue
                if self._head is None:
                    self._head = self._submitted.get()
                if self._head is not None and worker.running:
                    self._work(self._head)
        finally:
            self._serving = False
            self._tell()

    def _work(self, request: MediaRequest) -> None:
        full = self._attempt(request)
        if full is None:
            self._head = None
        else:
            self._full = full
        self._tell()

    def _attempt(self, request: MediaRequest) -> str | None:
        """Carry it out, and note how it ended; why the host's disk is full, if it is."""
        error, text = None, ""
        try:
            self._carry_out(request)
        except OSError as problem:
            text = problem.strerror or str(problem)
            if problem.errno in DISK_FULL and request.op is not MediaOp.READ:
                return text
            error = _STATUS[request.op]
        except (BufferError, ValueError) as problem:  # views that nobody can write to, or released ones
            error, text = "VERR_INVALID_POINTER", str(problem)
        if error is not None:
            self._helpers.log.error("%s: %s at %#x: %s", self._what, request.op.value, request.offset, text)
        self._finished.append((request, error, text))
        return None

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._inbox.put(None)
        if self._waited_for:
            self._progress.set()
            self._helpers.async_notification_completed()


class ImageDriver(Driver[C]):
    """Base of drivers that have a file, `descriptor`, and a queue for it, both made in `pdm_construct`."""

    descriptor: int = -1
    queue: ImageQueue | None = None

    def pdm_suspend(self) -> None:
        assert self.queue is not None
        self.queue.suspend()

    def pdm_resume(self) -> None:
        assert self.queue is not None
        self.queue.resume()

    def pdm_reset(self) -> None:
        assert self.queue is not None
        self.queue.drain()

    def pdm_power_off(self) -> None:
        assert self.queue is not None
        self.queue.power_off()

    def pdm_destruct(self) -> None:
        if self.queue is not None:
            self.queue.destruct()
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
