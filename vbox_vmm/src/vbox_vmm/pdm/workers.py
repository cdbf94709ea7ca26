"""The worker threads of drivers: they run while the VM runs.

The thread itself is `vbox_pdm.workers.WorkerThread`, the same on every host.  A worker that does not
return when it is woken is named in the log and left behind: a broken driver must not keep the VM from
being suspended or destroyed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from vbox_pdm.helpers import Worker
from vbox_pdm.workers import WorkerThread

log = logging.getLogger("vbox.PDM")


class Workers:
    """All workers of one VM.  `post` runs a callable on the EMT."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        self._post = post
        self._workers: list[WorkerThread] = []
        self.running = False
        """Whether the VM runs, and the workers with it."""

    def create(
        self,
        title: str,
        name: str,
        run: Callable[[Worker], None],
        wake: Callable[[], None],
        failed: Callable[[str, BaseException], None],
    ) -> WorkerThread:
        """A new worker, not started.  `failed(where, error)` is called on the EMT when `run` raises."""

        def raised(error: BaseException) -> None:
            self._post(lambda: failed(f"worker {name}", error))

        worker = WorkerThread(f"{title}:{name}", run, wake, raised)
        self._workers.append(worker)
        return worker

    def start(self, workers: Iterable[WorkerThread] | None = None) -> None:
        """The VM runs: so do these (default: all)."""
        if workers is None:
            self.running = True
        for worker in list(self._workers if workers is None else workers):
            worker.start()

    def halt(self, workers: Iterable[WorkerThread] | None = None) -> None:
        """The VM does not run: these return (default: all)."""
        if workers is None:
            self.running = False
        for worker in list(self._workers if workers is None else workers):
            if not worker.halt():
                log.error("PDM: worker %s does not return when it is woken; it is left behind", worker.name)

    def drop(self, worker: WorkerThread) -> None:
        """Its owner is gone: end it."""
        worker.stop()
        self._workers = [other for other in self._workers if other is not worker]
