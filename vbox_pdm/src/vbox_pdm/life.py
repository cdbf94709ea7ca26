"""The life of all instances of a machine: who is notified, in which order, and what may come later.

VirtualBox's rules (PDM): devices in order of construction; the drivers of each LUN, top to bottom,
before their device, or after it where its type says so (`reset_first` and its kin).  In reset,
suspend and power off an instance may ask to complete later (`set_async_notification`); then the
host asks it again until it is done, and the device above a driver that is pending waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import define, field

from vbox_pdm.chains import Lun
from vbox_pdm.device import DeviceType
from vbox_pdm.errors import PdmError
from vbox_pdm.instance import Instance

_FIRST = {"pdm_reset": "reset_first", "pdm_suspend": "suspend_first", "pdm_power_off": "power_off_first"}


@define(eq=False)
class DeviceNode:
    """A device of a machine and its LUNs, by number."""

    instance: Instance
    luns: dict[int, Lun] = field(factory=dict)

    def drivers(self) -> Iterator[Instance]:
        """The drivers of all LUNs, top to bottom."""
        for number in sorted(self.luns):
            yield from self.luns[number].drivers


def notification_order(node: DeviceNode, hook: str) -> list[Instance]:
    """A device and its drivers, in the order in which `hook` is called."""
    drivers = list(node.drivers())
    flag = _FIRST.get(hook)
    if flag is not None and isinstance(node.instance.type, DeviceType) and getattr(node.instance.type, flag):
        return [node.instance, *drivers]
    return [*drivers, node.instance]


def termination_order(nodes: Sequence[DeviceNode]) -> Iterator[tuple[DeviceNode, Lun | None]]:
    """What to destroy, in order: each chain of a device, then (None) the device itself."""
    for node in nodes:
        for number in sorted(node.luns):
            yield node, node.luns[number]
        yield node, None


class Notifier:
    """Calls a life-cycle hook of all instances and waits for those that complete later.

    `call(instance, hook, arguments)` is the host's way to call (it decides what a raised error
    means); `wait(titles)` lets work go on while the named instances are pending, and returns after
    a while or when something happened.
    """

    def __init__(
        self,
        call: Callable[[Instance, str, dict[str, Any]], None],
        wait: Callable[[list[str]], None],
    ) -> None:
        self._call = call
        self._wait = wait
        self._current: Instance | None = None
        self._pending: dict[Instance, Callable[[], bool]] = {}

    def defer(self, instance: Instance, done: Callable[[], bool]) -> None:
        """`set_async_notification`: legal in reset, suspend and power off of that instance."""
        if instance is not self._current:
            raise PdmError(
                "VERR_WRONG_ORDER",
                f"{instance.title} asks to complete later, but no reset, suspend or power off is under way",
                "Call set_async_notification within those hooks",
            )
        self._pending[instance] = done

    def notify(self, nodes: Sequence[DeviceNode], hook: str, **arguments: Any) -> None:
        """Call `hook` of all and return when all are done."""
        lists = [notification_order(node, hook) for node in nodes]
        while True:
            for left in lists:
                while left and self._step(left[0], hook, arguments):
                    del left[0]
            if not any(lists):
                return
            self._wait([left[0].title for left in lists if left])

    def _step(self, instance: Instance, hook: str, arguments: dict[str, Any]) -> bool:
        """One call; whether the instance is done with it."""
        done = self._pending.get(instance)
        if done is None:
            self._current = instance if hook in _FIRST else None
            try:
                self._call(instance, hook, arguments)
            finally:
                self._current = None
            return instance not in self._pending
        try:
            finished = done()
        except Exception:
            del self._pending[instance]
            raise
        if finished:
            del self._pending[instance]
        return finished


def construct_error(instance: Instance, error: Exception, text: str = "") -> PdmError:
    """What a host raises when `error` came out of a constructor: a PdmError keeps its status and kind.

    `text` is what the instance said with `set_error`."""
    kind = "device" if isinstance(instance.type, DeviceType) else "driver"
    message = f"Failed to construct {kind} '{instance.name}' instance #{instance.number}"
    if not isinstance(error, PdmError):
        said = text or f"{type(error).__name__}: {error}"
        return PdmError("VERR_GENERAL_FAILURE", f"{message}: {said}")
    if message in error.message or "Failed to construct" in error.message:
        return error
    said = f"{text}: {error.message}" if text else error.message
    renamed = type(error).__new__(type(error))
    PdmError.__init__(renamed, error.status, f"{message}: {said}", error.remedy)
    return renamed
