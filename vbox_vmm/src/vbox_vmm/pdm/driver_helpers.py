"""The helpers that every instance has, and those of drivers.

The hot ones (time, randomness) are the services' own bound methods, put on the object when it is made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

from vbox_pdm.errors import PdmError
from vbox_pdm.helpers import RuntimeErrorFlags, Worker
from vbox_pdm.timers import Clock
from vbox_vmm.pdm.owned import Owned
from vbox_vmm.pdm.queues import PdmQueue
from vbox_vmm.tm import Timer

if TYPE_CHECKING:
    from vbox_vmm.pdm.manager import Pdm

T = TypeVar("T")
_release = logging.getLogger("vbox.PDM.instance")


class InstanceLog(logging.LoggerAdapter[logging.Logger]):
    """The release log of an instance: its title stands before each line."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Put the title in front."""
        title = self.extra["title"] if self.extra else ""
        return f"{title}: {msg}", kwargs


class InstanceHelpers:
    """What every instance has (`vbox_pdm.helpers.Helpers`)."""

    def __init__(self, pdm: Pdm, owned: Owned) -> None:
        self._pdm = pdm
        self._owned = owned
        services = pdm.services
        self.now = services.tm.now
        self.reader = services.tm.reader
        self.readout = services.tm.readout
        self.utc_now = services.tm.utc_now_ns
        self.random = services.random.random
        self.random_bytes = services.random.randbytes
        title = owned.instance.title
        logger = pdm.taps.logger
        self._log: logging.LoggerAdapter[logging.Logger] = (
            logging.LoggerAdapter(logger(title), {})
            if logger is not None
            else InstanceLog(_release, {"title": title})
        )

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """The release log; lines carry the instance's name."""
        return self._log

    def timer(self, name: str, clock: Clock, callback: Callable[[], None]) -> Timer:
        """A one-shot timer.  VERR_INVALID_PARAMETER for a name that is taken, VERR_TM_*."""
        owned = self._owned
        owned.creating("a timer")
        if name in owned.timers:
            raise owned.invalid(f"has two timers named '{name}'")
        timer = self._pdm.services.tm.create(name, clock, callback, owned)
        owned.timers[name] = timer
        return timer

    def queue(self, name: str, consumer: Callable[[T], None], capacity: int = 1024) -> PdmQueue[T]:
        """A queue whose consumer runs on the EMT."""
        owned = self._owned
        owned.creating("a queue")
        if name in owned.queues:
            raise owned.invalid(f"has two queues named '{name}'")
        queue = self._pdm.queues.create(name, consumer, capacity, self._pdm.failure_of(owned.instance))
        owned.queues[name] = queue
        return queue

    def set_runtime_error(self, flags: RuntimeErrorFlags, error_id: str, text: str) -> None:
        """Tell the user."""
        title = self._owned.instance.title
        tap = self._pdm.taps.runtime_error
        if tap is not None:
            tap(title, flags, error_id, text)
        else:
            self._pdm.services.runtime_error(flags, error_id, f"{title}: {text}")

    def set_async_notification(self, done: Callable[[], bool]) -> None:
        """In reset, suspend or power off: not done yet."""
        self._pdm.defer(self._owned.instance, done)

    def async_notification_completed(self) -> None:
        """Any thread: ask again now."""
        self._pdm.services.post(_nothing)

    def power_off_vm(self, exit_code: int = 0) -> None:
        """Ask for power off."""
        if not isinstance(exit_code, int):
            raise PdmError("VERR_INVALID_PARAMETER", f"{exit_code!r} is no exit code")
        self._pdm.services.request_power_off(exit_code & 0xFF)


class DriverHelpers(InstanceHelpers):
    """What a driver has besides (`vbox_pdm.helpers.DriverHelpers`)."""

    @property
    def at_once(self) -> bool:
        """Whether requests are to be carried out where they are submitted."""
        return self._pdm.services.tm.counter is not None

    def worker(self, name: str, run: Callable[[Worker], None], wake: Callable[[], None]) -> Worker:
        """A thread for blocking host I/O; it runs while the VM does."""
        owned, pdm = self._owned, self._pdm
        owned.creating("a worker")
        title = owned.instance.title
        worker = pdm.workers.create(title, name, run, wake, pdm.failure_of(owned.instance))
        owned.workers.append(worker)
        return worker

    def set_error(self, text: str) -> None:
        """More words for the user when construction fails."""
        self._owned.error_text = text


def _nothing() -> None:
    """A request that only wakes the EMT up."""
