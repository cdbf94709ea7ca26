"""A screen that nobody sits at: it keeps what the graphics device shows, and makes pictures of it.

The device says that there is something new (`display_changed`); the screen looks a little later, so
that a guest that draws all the time costs no more than `rate` looks in a second.  Front ends find the
driver object and call `text`, `look` and `screenshot` from any thread.

At power off it looks once more, and this is what `text` and `screenshot` have from then on: a run
that ended badly still has its last screen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attrs import define, field, frozen

from vbox_pdm import (
    Clock,
    Display,
    DisplayAbove,
    Driver,
    DriverType,
    PdmError,
    Picture,
    TextScreen,
    Worker,
    hookimpl,
    key,
)
from vbox_plugin_host.png import write_png

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

C = TypeVar("C")
SECOND = 1_000_000_000
PATIENCE = 10.0
"""Seconds that the guest may need until it can be interrupted for a picture."""


@frozen
class Config:
    """Configuration of a screen."""

    png: str | None = key(None, help="PNG file that gets the last screen at power off")
    live: bool = key(False, help="write the PNG whenever the screen changed, too")
    rate: int = key(20, span=(1, 100), help="looks in a second, at most; a live PNG: two, at most")


@define(eq=False)
class Look:
    """What was seen; `picture` only where it was asked for."""

    text: TextScreen | None = None
    picture: Picture | None = None
    wants_picture: bool = field(default=False, kw_only=True)
    done: threading.Event = field(factory=threading.Event, kw_only=True)


class ScreenBase(Driver[C]):
    """What all screens share.  A screen implements `seen`, and says in `interval` (ns) and
    `pictures` how it looks."""

    above: DisplayAbove
    transient = frozenset({"_last", "_next"})
    """What was seen, and when to look again: after a load it looks at once."""
    interval = SECOND // 20
    pictures = False

    def pdm_construct(self) -> None:
        self._last: Look = Look()
        self._off = False
        self._timer = self.helpers.timer("look", Clock.REAL, self._due)
        self._next = 0  # earliest time of the next look
        self._asked = self.helpers.queue("asked", self._answer, 16)

    def pdm_power_on(self) -> None:
        self._off = False
        self._timer.set_relative(0)

    def pdm_resume(self) -> None:
        self._next = 0  # after a loaded state, times are those of another run
        self._timer.set_relative(0)

    def pdm_power_off(self) -> None:
        self._timer.stop()
        look = Look(wants_picture=True)
        self._take(look)
        self.seen(look)
        self._off = True

    # --- for front ends, any thread

    def text(self) -> TextScreen | None:
        """The screen as it was at the last look; None in a graphics mode, or while it is blank."""
        return self._last.text

    def look(self) -> Look:
        """The screen as text and as a picture, now.  Not on the EMT.

        PdmError VERR_TIMEOUT when the guest cannot be interrupted."""
        if self._off:
            return self._last
        look = Look(wants_picture=True)
        if not self._asked.put(look) or not look.done.wait(PATIENCE):
            raise PdmError(
                "VERR_TIMEOUT",
                "The machine does not answer what it shows",
                "Try again when it runs; a suspended machine shows what it showed last",
            )
        return look

    def screenshot(self, path: str) -> None:
        """Write the screen as it is now to a PNG file.  Not on the EMT.

        PdmError VERR_WRITE_ERROR, VERR_TIMEOUT, and VERR_NOT_FOUND when the device shows nothing."""
        picture = self.look().picture
        if picture is None:
            raise PdmError(
                "VERR_NOT_FOUND",
                "There is no picture: the graphics device shows nothing",
                "Wait until the guest has set a mode",
            )
        write_png(path, picture)

    # --- the layer, on the EMT

    def display_changed(self) -> None:
        if not self._timer.active and not self._off:
            self._timer.set(max(self._next, self.helpers.now(Clock.REAL)))

    # --- for the screens

    def seen(self, look: Look) -> None:
        """On the EMT, after each look that was made because something changed."""
        raise NotImplementedError

    def pause(self, look: Look) -> int:
        """Nanoseconds until the next look."""
        return self.interval

    # --- machinery

    def _due(self) -> None:
        look = Look(wants_picture=self.pictures)
        self._take(look)
        self._next = self.helpers.now(Clock.REAL) + self.pause(look)
        self.seen(look)

    def _answer(self, look: Look) -> None:
        self._take(look)
        look.done.set()
        # The device has been looked at and will speak again; what is new belongs on the screen, too.
        if not self._timer.active and not self._off:
            self._timer.set(max(self._next, self.helpers.now(Clock.REAL)))

    def _take(self, look: Look) -> None:
        look.text = self.above.display_text()
        if look.wants_picture:
            look.picture = self.above.display_picture()
        self._last = look


class Screen(ScreenBase[Config]):
    """Keeps the last look; writes a PNG."""

    def pdm_construct(self) -> None:
        super().pdm_construct()
        live = self.config.live and self.config.png is not None
        self.pictures = live
        self.interval = SECOND // (min(self.config.rate, 2) if live else self.config.rate)
        self._fresh: Picture | None = None
        self._wake = threading.Event()
        self.worker: Worker | None = (
            self.helpers.worker("png", self._write_pictures, self._wake.set) if live else None
        )

    def pdm_power_off(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        super().pdm_power_off()
        if self.config.png is not None and self._last.picture is not None:
            self._write(self._last.picture)

    def seen(self, look: Look) -> None:
        if self.worker is not None and look.picture is not None:
            self._fresh = look.picture
            self._wake.set()

    def _write_pictures(self, worker: Worker) -> None:
        while worker.running:
            self._wake.wait()
            self._wake.clear()
            picture, self._fresh = self._fresh, None
            if picture is not None and worker.running:
                self._write(picture)

    def _write(self, picture: Picture) -> None:
        assert self.config.png is not None
        try:
            write_png(self.config.png, picture)
        except PdmError as error:
            self.helpers.log.error("%s", error)


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType(
            "screen", Screen, Config, serves=Display, summary="a screen that nobody sits at: exact text, PNG"
        )
    )


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: pictures are written while they change."""
    from vbox_pdm.testing.conformance import Setup

    picture = folder / "screen.png"
    return Setup(
        {"png": str(picture)}, keys={"png": (str(picture), str(folder), str(folder / "no" / "screen.png"))}
    )
