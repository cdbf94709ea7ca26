"""A guest's screen, live in the terminal that vbox runs at, or in another one (`terminal`).

The EMT looks (see `screen`) and leaves what it saw; a worker draws the newest of that, so a slow
terminal shows fewer steps and never slows down the guest.  The terminal's alternate screen is used:
what was there before comes back at the end, and then the guest's last text screen is printed below
it, so that it can be read.  `terminal` says how the end is made sure of.

COLORTERM (truecolor or 24bit) says whether the terminal has the colours of the guest's palette.
"""

from __future__ import annotations

import enum
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from vbox_pdm import ConfigError, Display, DriverType, TextScreen, Worker, hookimpl, key
from vbox_plugin_host.screen import SECOND, Look, ScreenBase
from vbox_plugin_host.stdio import close_own, is_terminal, open_again, open_terminal
from vbox_plugin_host.terminal import Farewell
from vbox_plugin_host.terminal_render import (
    ENTER,
    LEAVE,
    Frame,
    Painter,
    Size,
    note_frame,
    picture_frame,
    text_frame,
)

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

PICTURE_INTERVAL = SECOND // 2
"""Between looks in a graphics mode: pixels cost more than characters."""
SIZE_SECONDS = 1.0
"""How often the size of the terminal is looked at while nothing changes."""
USUAL = Size(80, 24)
PATIENCE = 2.0
"""Seconds that a terminal may take nothing."""


class Colours(enum.Enum):
    """What the terminal can do."""

    AUTO = "auto"
    SIXTEEN = "16"
    TRUE = "true"


@frozen
class Config:
    """Configuration of a terminal's screen."""

    rate: int = key(20, span=(1, 100), help="looks in a second, at most")
    colours: Colours = key(Colours.AUTO, help="auto: by the environment variable COLORTERM")
    keep: bool = key(True, help="print the last text screen when the guest is off")
    terminal: str | None = key(None, help="another terminal, such as /dev/pts/3")


class TerminalScreen(ScreenBase[Config]):
    """Standard output as a screen."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self._sink: int | None = None
        self._other: int | None = None  # the terminal of the configuration
        self._wake_read = self._wake_write = -1

    def pdm_construct(self) -> None:
        self._other = open_terminal(self.config.terminal)
        self._standard = 1 if self._other is None else self._other
        if not is_terminal(self._standard):
            raise ConfigError(
                "VERR_NOT_SUPPORTED",
                "Standard output is no terminal to draw a screen in",
                "Use the driver screen instead (--display none or png:PATH)",
            )
        super().pdm_construct()
        self.interval = SECOND // self.config.rate
        self._farewell = Farewell(self._standard, LEAVE)
        self._sink = open_again(self._standard, os.O_WRONLY)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._painter = Painter(_true_colour(self.config.colours))
        self._look = Look()
        self._note = ""
        self._again = False
        self._visible = False
        self.worker = self.helpers.worker("draw", self._draw, self._wake)

    def pdm_power_on(self) -> None:
        self._enter()
        super().pdm_power_on()

    def pdm_suspend(self) -> None:
        self._leave()

    def pdm_resume(self) -> None:
        self._enter()
        super().pdm_resume()

    def pdm_power_off(self) -> None:
        super().pdm_power_off()
        was_visible = self._visible
        self._finish()
        last = self.text()
        if was_visible and self.config.keep and last is not None:
            self._print(last)

    def pdm_destruct(self) -> None:
        self._finish()
        close_own(self._sink, self._other)
        self._sink = self._other = None
        for descriptor in (self._wake_read, self._wake_write):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake_read = self._wake_write = -1

    # --- for front ends and the keyboard, any thread

    def show_note(self, text: str) -> None:
        """A line at the bottom; an empty one takes it away."""
        self._note = text
        self._wake()

    def redraw(self) -> None:
        """Draw all of it again."""
        self._again = True
        self._wake()

    # --- on the EMT

    def seen(self, look: Look) -> None:
        if look.text is None and look.picture is None:
            look.picture = self.above.display_picture()
        self._look = look
        self._wake()

    def pause(self, look: Look) -> int:
        return self.interval if look.text is not None else PICTURE_INTERVAL

    def _enter(self) -> None:
        self._visible = self._farewell.enter()
        if self._visible and self._sink is not None:
            _write_all(self._sink, ENTER, lambda: True)
            self.redraw()

    def _leave(self) -> None:
        self._visible = False
        self._farewell.leave()

    def _finish(self) -> None:
        try:
            if self.worker is not None:
                self.worker.stop()
        finally:
            if self._sink is not None:
                self._leave()

    def _print(self, screen: TextScreen) -> None:
        text = screen.text().strip("\n")
        if text and self._sink is not None:
            _write_all(self._sink, (text.replace("\n", "\r\n") + "\r\n").encode(), lambda: True)

    # --- on the worker

    def _draw(self, worker: Worker) -> None:
        drawn: tuple[Look, str, Size] | None = None
        while worker.running:
            size = self._terminal_size()
            now = (self._look, self._note, size)
            if self._again:
                self._again, drawn = False, None
                self._painter.forget()
            if self._visible and now != drawn:
                drawn = now
                sent = self._painter.paint(self._frame(*now), size)
                if not _write_all(self._sink, sent, lambda: worker.running):
                    self._again = True  # nobody knows what it shows
            ready, _, _ = select.select([self._wake_read], [], [], SIZE_SECONDS)
            if ready:
                os.read(self._wake_read, 4096)

    def _frame(self, look: Look, note: str, size: Size) -> Frame:
        if look.text is not None:
            frame = text_frame(look.text)
        elif look.picture is not None:
            frame = picture_frame(look.picture, Size(size.columns, max(1, size.rows - 1)))
        else:
            frame = note_frame("[the screen is off]")
        return evolve(frame, note=note) if note else frame

    def _terminal_size(self) -> Size:
        try:
            columns, rows = os.get_terminal_size(self._standard)
        except OSError:
            return USUAL
        return Size(columns, rows) if columns > 0 and rows > 0 else USUAL

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except OSError:
            pass  # full: a wake-up is on its way already; or closed


def _true_colour(colours: Colours) -> bool:
    if colours is Colours.AUTO:
        return os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit")
    return colours is Colours.TRUE


def _write_all(sink: int | None, data: bytes, go_on: Callable[[], bool]) -> bool:
    """For as long as `go_on` says so and the terminal takes some now and then; whether it took all."""
    until = time.monotonic() + PATIENCE
    while sink is not None and data and go_on() and time.monotonic() < until:
        _, ready, _ = select.select([], [sink], [], 0.1)
        if not ready:
            continue
        try:
            written = os.write(sink, data[:4096])
        except (BlockingIOError, InterruptedError):
            continue
        except OSError:
            return True  # the terminal itself is gone
        data = data[written:]
        until = time.monotonic() + PATIENCE
    return not data


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType(
            "terminal-screen", TerminalScreen, Config, serves=Display, max_instances=1,
            summary="the screen, live in the terminal that vbox runs at",
        )
    )  # fmt: skip


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: a terminal that is not this process's."""
    from vbox_pdm.testing.conformance import Setup
    from vbox_plugin_host.conformance import other_end

    here = other_end(folder, "sit")
    return Setup(
        {"terminal": here},
        keys={"terminal": (here, str(folder), "/dev/null", "")},
        actions=(("show_note", ("a note",)), ("show_note", ("",)), ("redraw", ())),
    )
