"""A source of pointer events: what a front end moves waits here until the mouse takes it.

Front ends find the driver object and call `move`, `press`, `release`, `click` from any thread.
Events keep their order.  Motion that waits is added up as long as the buttons do not change, so a
guest that reads slowly sees the whole way in larger steps.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from attrs import frozen

from vbox_pdm import Driver, DriverType, Mouse, MouseAbove, PdmError, hookimpl, key
from vbox_plugin_host.keyboard_queue import crowded, miscounted

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

BUTTONS = 0x1F


@frozen
class Config:
    """Configuration of a mouse queue."""

    queue_size: int = key(1024, span=(4, 1 << 20), help="pointer events that may wait for the guest")


@frozen
class Motion:
    """One event: the way since the last one, and the buttons held."""

    dx: int = 0
    dy: int = 0
    dz: int = 0
    dw: int = 0
    buttons: int = 0


class MouseQueue(Driver[Config]):
    """Events enter by a queue of PDM; what the mouse does not take yet stays in `_waiting`."""

    above: MouseAbove
    transient = frozenset({"relative", "absolute", "_waiting", "_buttons", "_pending"})
    """The mouse tells its modes again after a load, and what waits was moved on this host."""

    def pdm_construct(self) -> None:
        self.relative, self.absolute = True, False
        self._waiting: deque[Motion] = deque()
        self._offering = False
        self._buttons = 0
        self._pending = 0
        self._lock = threading.Condition()
        self._queue = self.helpers.queue("motions", self._arrived, self.config.queue_size)

    # --- for front ends, any thread

    def move(self, dx: int, dy: int, dz: int = 0, dw: int = 0) -> None:
        """Move by counts: right, down, wheel towards the user, wheel to the right.

        This and the others raise PdmError VERR_PDM_NO_QUEUE_ITEMS when too much waits already."""
        with self._lock:
            self._put(Motion(dx, dy, dz, dw, self._buttons))

    def press(self, button: int) -> None:
        """Hold buttons down: 1 left, 2 right, 4 middle, 8 back, 16 forward."""
        with self._lock:
            self._put(Motion(buttons=self._buttons | _checked(button)))

    def release(self, button: int) -> None:
        """Let buttons go."""
        with self._lock:
            self._put(Motion(buttons=self._buttons & ~_checked(button)))

    def click(self, button: int) -> None:
        """Press and release, both or neither."""
        with self._lock:
            held = self._buttons & ~_checked(button)
            self._put(Motion(buttons=held | button), Motion(buttons=held))

    @property
    def pending(self) -> int:
        """Events that the mouse has not taken."""
        return self._pending

    def wait_until_moved(self, seconds: float | None = None) -> bool:
        """Until the mouse has taken everything; False after `seconds`.  Not on the EMT."""
        with self._lock:
            return self._lock.wait_for(lambda: self._pending == 0, seconds)

    # --- the layer, on the EMT

    def mouse_modes(self, relative: bool, absolute: bool) -> None:
        self.relative, self.absolute = relative, absolute

    def mouse_ready(self) -> None:
        self._offer()

    # --- machinery

    def _put(self, *motions: Motion) -> None:
        if self._pending + len(motions) > self.config.queue_size or not self._queue.put(motions):
            raise PdmError(
                "VERR_PDM_NO_QUEUE_ITEMS",
                f"{len(motions)} pointer events do not fit: {self._pending} wait for the guest already",
                "Wait until the guest has taken them, or give the queue a larger queue_size",
            )
        self._buttons = motions[-1].buttons
        self._pending += len(motions)

    def _arrived(self, motions: tuple[Motion, ...]) -> None:
        for motion in motions:
            self._add(motion)

    def _add(self, motion: Motion) -> None:
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.buttons == motion.buttons:
            self._waiting[-1] = attrs.evolve(
                last,
                dx=last.dx + motion.dx,
                dy=last.dy + motion.dy,
                dz=last.dz + motion.dz,
                dw=last.dw + motion.dw,
            )
            self._taken(1)
        else:
            self._waiting.append(motion)
        self._offer()

    def _offer(self) -> None:
        if self._offering:  # the mouse asks for more while it takes one
            return
        self._offering = True
        taken = 0
        try:
            while self._waiting:
                first = self._waiting[0]
                if not self.above.mouse_event(first.dx, first.dy, first.dz, first.dw, first.buttons):
                    break
                self._waiting.popleft()
                taken += 1
        finally:
            self._offering = False
            self._taken(taken)

    def _taken(self, count: int) -> None:
        if count:
            with self._lock:
                self._pending -= count
                self._lock.notify_all()


def _checked(button: int) -> int:
    if button <= 0 or button & ~BUTTONS:
        raise PdmError(
            "VERR_INVALID_PARAMETER", f"{button:#x} is no mouse button", "Buttons are 1, 2, 4, 8 and 16"
        )
    return button


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType(
            "mouse-queue", MouseQueue, Config, serves=Mouse, summary="a pointer that a front end moves"
        )
    )


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: what front ends do, well and badly; it is not there after a load."""
    from vbox_pdm.testing.conformance import Setup

    return Setup(
        {"queue_size": 16},
        live=True,
        actions=(
            ("move", (5, -3)),
            ("move", (-300, 1, 2, -1)),
            ("press", (1,)),
            ("press", (0x20,)),
            ("release", (1,)),
            ("click", (4,)),
        ),
        invariants={
            "what is pending is what waits for the mouse": miscounted,
            "no more waits than there is room for": crowded,
        },
    )
