"""A source of keys: what a front end types waits here until the keyboard takes it.

Front ends find the driver object and call `type_text`, `press`, `release`, `tap` from any thread.
The events reach the keyboard in order, as fast as it accepts them: a keyboard whose buffer is full
says so and asks for more later.  The lamps that the guest sets can be read from `leds`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from vbox_pdm import Driver, DriverType, Keyboard, KeyboardAbove, PdmError, hookimpl, key
from vbox_plugin_host.us_layout import strokes

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

Stroke = tuple[int, bool]
FULL = "VERR_PDM_NO_QUEUE_ITEMS"


@frozen
class Config:
    """Configuration of a keyboard queue."""

    queue_size: int = key(
        65536, span=(4, 1 << 20), help="key events (down or up) that may wait for the guest"
    )


@frozen
class Leds:
    """The lamps of the keyboard."""

    num: bool = False
    caps: bool = False
    scroll: bool = False


class KeyboardQueue(Driver[Config]):
    """Events enter by a queue of PDM; what the keyboard does not take yet stays in `_waiting`."""

    above: KeyboardAbove
    transient = frozenset({"leds", "_waiting", "_pending"})
    """The keyboard tells its lamps again after a load, and what waits was typed on this host."""

    def pdm_construct(self) -> None:
        self.leds = Leds()
        self._waiting: deque[Stroke] = deque()
        self._offering = False
        self._pending = 0
        self._empty = threading.Condition()
        self._queue = self.helpers.queue("keys", self._arrived, self.config.queue_size)

    # --- for front ends, any thread

    def type_text(self, text: str) -> None:
        """Type `text` on a US keyboard; newline is Enter, control characters are Ctrl and a letter.

        Raises PdmError: VERR_INVALID_PARAMETER for a character without a key,
        VERR_PDM_NO_QUEUE_ITEMS when the text does not fit into the queue (nothing is typed then)."""
        self._put(strokes(text))

    def press(self, usage: int) -> None:
        """A key goes down; `usage` is HID page 7, 4..0xE7."""
        self._put([(_checked(usage), True)])

    def release(self, usage: int) -> None:
        """A key goes up."""
        self._put([(_checked(usage), False)])

    def tap(self, *usages: int) -> None:
        """Press keys together, the first first, and release them in reverse: `tap(0xE0, 0x06)`."""
        events = [(_checked(usage), True) for usage in usages]
        self._put(events + [(usage, False) for usage, _ in reversed(events)])

    @property
    def pending(self) -> int:
        """Events that the keyboard has not taken."""
        return self._pending

    def wait_until_typed(self, seconds: float | None = None) -> bool:
        """Until the keyboard has taken everything; False after `seconds`.  Not on the EMT."""
        with self._empty:
            return self._empty.wait_for(lambda: self._pending == 0, seconds)

    # --- the layer, on the EMT

    def key_leds(self, num: bool, caps: bool, scroll: bool) -> None:
        self.leds = Leds(num, caps, scroll)

    def key_ready(self) -> None:
        self._offer()

    # --- machinery

    def _put(self, events: Sequence[Stroke]) -> None:
        with self._empty:
            size = self.config.queue_size
            if self._pending + len(events) > size or not self._queue.put(tuple(events)):
                raise PdmError(
                    FULL,
                    f"{len(events)} key events do not fit: {self._pending} of {size} wait for the guest",
                    "Wait until the guest has taken them, or give the queue a larger queue_size",
                )
            self._pending += len(events)

    def _arrived(self, events: tuple[Stroke, ...]) -> None:
        self._waiting.extend(events)
        self._offer()

    def _offer(self) -> None:
        if self._offering:  # the keyboard asks for more while it takes one
            return
        self._offering = True
        taken = 0
        try:
            while self._waiting and self.above.key_event(*self._waiting[0]):
                self._waiting.popleft()
                taken += 1
        finally:
            self._offering = False
            if taken:
                with self._empty:
                    self._pending -= taken
                    self._empty.notify_all()


def _checked(usage: int) -> int:
    if not 4 <= usage <= 0xE7:
        raise PdmError(
            "VERR_INVALID_PARAMETER", f"{usage:#x} is no key on HID usage page 7", "Keys are 4..0xE7"
        )
    return usage


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType(
            "keyboard-queue", KeyboardQueue, Config, serves=Keyboard, summary="keys that a front end types"
        )
    )


ACTIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("type_text", ("aB\n\x03",)),
    ("type_text", ("\u20ac",)),
    ("press", (0x04,)),
    ("release", (0x04,)),
    ("press", (0xE1,)),
    ("press", (0xE8,)),
    ("tap", (0xE0, 0x06)),
)
"""For the conformance kit: what front ends do, well and badly."""


def miscounted(driver: Any, bench: Any) -> str | None:
    """A property for the conformance kit, of the mouse's queue as well: when nothing is on its way to the
    EMT, what is pending is what waits."""
    waiting = len(driver._waiting)
    return None if driver.pending == waiting else f"{driver.pending} are pending and {waiting} wait"


def crowded(driver: Any, bench: Any) -> str | None:
    """A property for the conformance kit, of the mouse's queue as well: no more waits than `queue_size`."""
    size = driver.config.queue_size
    return None if driver.pending <= size else f"{driver.pending} wait where {size} may"


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: what was typed here stays here, and is not there after a load."""
    from vbox_pdm.testing.conformance import Setup

    return Setup(
        {"queue_size": 64},
        live=True,
        actions=ACTIONS,
        invariants={
            "what is pending is what waits for the keyboard": miscounted,
            "no more waits than there is room for": crowded,
        },
    )
