"""A character stream at a pseudo terminal, for terminal programs (screen, minicom, cu).

The name of the terminal goes to the log, and to a symbolic link when `link` is given.  Programs may
come and go: while none has the terminal open, what the guest sends is dropped, as on a line with
nothing at its end, or, with `hold`, waits.

Trap: Linux reports "hung up" on the master only after the slave was open once, so it is opened and
closed at the start; there is no event for its being opened, so the worker looks ten times a second.
"""

from __future__ import annotations

import os
import select
import tty
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from vbox_pdm import CharStream, DriverType, PdmError, Worker, hookimpl, key
from vbox_plugin_host.pump import CharDriver

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

LOOK_SECONDS = 0.1


@frozen
class Config:
    """Configuration of a pseudo terminal."""

    link: str | None = key(None, help="symbolic link to the terminal, made anew and removed at the end")
    hold: bool = key(False, help="keep the guest's output until somebody opens the terminal")


class PtyStream(CharDriver[Config]):
    """The master's side of a pseudo terminal."""

    def pdm_construct(self) -> None:
        self.master = -1
        self.path = ""
        self._linked = False
        try:
            self.master, slave = os.openpty()
        except OSError as error:
            raise PdmError(
                "VERR_PDM_HIF_OPEN_FAILED",
                f"There is no pseudo terminal to be had: {error.strerror}",
                "Mount /dev/pts, or end programs that hold many of them",
            ) from None
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(self.master, False)
        if self.config.link is not None:
            self._make_link(self.config.link)
        self.helpers.log.info("the terminal is %s", self.path)
        self.start()
        self.discard(not self.config.hold)

    def pdm_destruct(self) -> None:
        super().pdm_destruct()
        if self.master >= 0:
            if self._opened():
                self.drain(self.master)
            os.close(self.master)
            self.master = -1
        if self._linked and self.config.link is not None and os.path.islink(self.config.link):
            os.unlink(self.config.link)
        self._linked = False

    def serve(self, worker: Worker) -> None:
        """Wait until somebody opens the terminal, talk until the last one closed it."""
        while worker.running:
            if not self._opened():
                if self.connected:
                    self.discard(True)  # what nobody read does not go to the next
                    self.discard(not self.config.hold)
                    self.set_connected(False)
                self.pause(LOOK_SECONDS)
                continue
            self.discard(False)
            self.set_connected(True)
            self.exchange(worker, self.master, self.master)

    def _opened(self) -> bool:
        """Whether a program has the terminal open, or left something behind to be read."""
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        flags = dict(poll.poll(0)).get(self.master, 0)
        return bool(flags & select.POLLIN) or not flags & select.POLLHUP

    def _make_link(self, link: str) -> None:
        try:
            if os.path.islink(link):
                os.unlink(link)
            os.symlink(self.path, link)
        except OSError as error:
            raise PdmError(
                "VERR_PDM_HIF_OPEN_FAILED",
                f"Cannot make the link {link} to {self.path}: {error.strerror}",
                "Choose another name; only a link is replaced",
            ) from None
        self._linked = True


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType(
            "pty", PtyStream, Config, serves=CharStream, summary="a character stream at a pseudo terminal"
        )
    )


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: a program that opens the terminal now and then."""
    from vbox_pdm.testing.conformance import Setup
    from vbox_plugin_host.conformance import other_end

    link = folder / "terminal"
    other_end(folder, "visit", str(link))
    return Setup(
        {"link": str(link)},
        keys={"link": (str(link),)},
        refuses=({"link": str(folder)}, {"link": str(folder / "no" / "link")}),
    )
