"""The keyboard of the terminal that vbox runs at: what is typed there goes to the guest's keyboard.

At a terminal the driver sets raw mode while the VM runs (see `terminal` for how it is restored), and
every key goes to the guest, Ctrl-C too; an escape character starts a command (see `escape`).  Where
standard input is a pipe or a file its characters are typed, and there is no escape.  `terminal` names
another terminal, where no program may read the keys.

It is a keyboard queue as well: front ends type by the same methods, and their keys and those of the
terminal reach the guest in the order in which they came.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from vbox_pdm import DriverType, Keyboard, PdmError, Worker, hookimpl, key
from vbox_plugin_host import keyboard_queue
from vbox_plugin_host.escape import Command, Escapes, parse_escape
from vbox_plugin_host.keyboard_queue import KeyboardQueue
from vbox_plugin_host.stdio import close_own, is_terminal, open_again, open_terminal
from vbox_plugin_host.terminal import RawTerminal
from vbox_plugin_host.terminal_decode import KeyDecoder, Stroke

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

CHUNK = 4096
ENOUGH = 256
"""Key events that may wait before a pipe is no longer read."""
PIECE = 4
"""Key events that are put at a time: as many as the smallest queue takes."""
RETRY_SECONDS = 0.02


class Console(Protocol):
    """Where the keyboard shows what it has to say."""

    def show_note(self, text: str) -> None:
        """Show a line until the next key.  Any thread."""

    def redraw(self) -> None:
        """Draw all of the screen again.  Any thread."""


@frozen
class Config(keyboard_queue.Config):
    """Configuration of the terminal's keyboard."""

    escape: str = key("^A", help="starts a command at a terminal: ^A..^Z, ^], or none")
    escape_delay: float = key(
        0.05, span=(0.001, 5.0), help="seconds after which ESC is the Escape key and not a sequence"
    )
    terminal: str | None = key(None, help="another terminal, such as /dev/pts/3")


class TerminalKeys(KeyboardQueue):
    """Standard input as a keyboard."""

    config: Config
    console: Console | None = None

    def __init__(self) -> None:
        self.terminal: RawTerminal | None = None
        self.worker: Worker | None = None
        self._source: int | None = None
        self._other: int | None = None  # the terminal of the configuration
        self._wake_read = self._wake_write = -1

    def pdm_construct(self) -> None:
        super().pdm_construct()
        escape = parse_escape(self.config.escape)
        self._other = open_terminal(self.config.terminal)
        standard = 0 if self._other is None else self._other
        self.terminal = RawTerminal(standard) if is_terminal(standard) else None
        self.escapes = Escapes(escape if self.terminal is not None else None, [Command.REDRAW])
        self._decoder = KeyDecoder()
        self._unsent: list[Stroke] = []
        self._noted = False
        self._full = False
        self._commands = self.helpers.queue("commands", self._power_off, 16)
        self._source = open_again(standard, os.O_RDONLY)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.worker = self.helpers.worker("keys", self._serve, self._wake)

    def pdm_power_on(self) -> None:
        self._enter()

    def pdm_suspend(self) -> None:
        self._leave()

    def pdm_resume(self) -> None:
        self._enter()

    def pdm_power_off(self) -> None:
        self._leave()

    def pdm_destruct(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        self._leave()
        close_own(self._source, self._other)
        self._source = self._other = None
        for descriptor in (self._wake_read, self._wake_write):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake_read = self._wake_write = -1

    # --- for front ends, any thread

    def introduce(self, console: Console) -> None:
        """The screen is shown in the same terminal: notes go there, the first at once."""
        self.console = console
        if self.escapes.escape is not None:
            self._show_help()

    # --- on the worker

    def _serve(self, worker: Worker) -> None:
        while worker.running:
            source = self._source if self._may_read() else None
            watched = [self._wake_read, *([source] if source is not None else [])]
            ready, _, _ = select.select(watched, [], [], self._patience())
            if self._wake_read in ready:
                os.read(self._wake_read, CHUNK)
            if not worker.running:
                return
            if source in ready:
                self._read(source)
            elif not ready and self._decoder.waiting:
                self._type(self._decoder.flush())
            self._type([])

    def _may_read(self) -> bool:
        """A terminal is always read, so that the escape works while the guest takes no keys."""
        return self.terminal is not None or (not self._unsent and self.pending < ENOUGH)

    def _patience(self) -> float | None:
        if self._decoder.waiting:
            return self.config.escape_delay
        return RETRY_SECONDS if self._unsent or not self._may_read() else None

    def _read(self, source: int | None) -> None:
        assert source is not None
        try:
            data = os.read(source, CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:  # the end of input is not the VM's
            self._type(self._decoder.flush())
            if source != self._other:
                close_own(source)
            self._source = None
            return
        passed, commands = self.escapes.feed(data)
        if self._noted and self.console is not None:
            self._noted = False
            self.console.show_note("")
        for command in commands:
            self._carry_out(command)
        if self.terminal is None:
            passed = passed.replace(b"\r\n", b"\n")
        self._type(self._decoder.feed(passed))

    def _carry_out(self, command: Command) -> None:
        if command is Command.POWER_OFF:
            self._commands.put(None)
        elif command is Command.REDRAW:
            if self.console is not None:
                self.console.redraw()
        else:
            self._show_help()

    def _show_help(self) -> None:
        text = self.escapes.help(self.config.escape)
        if self.console is not None:
            self._noted = True
            self.console.show_note(text)
        else:
            self.helpers.log.warning("%s", text)

    def _type(self, events: list[Stroke]) -> None:
        self._unsent += events
        if not self._unsent:
            return
        try:
            while self._unsent:
                self._put(self._unsent[:PIECE])
                del self._unsent[:PIECE]
        except PdmError:
            if self.terminal is None:
                return  # they wait
            if not self._full:
                self.helpers.log.warning("the guest takes no keys: what is typed is dropped")
            self._full = True
        else:
            self._full = False
        self._unsent = []

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except OSError:
            pass  # full: a wake-up is on its way already; or closed

    # --- on the EMT

    def _power_off(self, _: None) -> None:
        self.helpers.log.info("power off, asked for at the keyboard")
        self.helpers.power_off_vm()

    def _enter(self) -> None:
        if self.terminal is not None:
            self.terminal.enter()

    def _leave(self) -> None:
        if self.terminal is not None:
            self.terminal.leave()


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(
        DriverType(
            "terminal-keys", TerminalKeys, Config, serves=Keyboard, max_instances=1,
            summary="the keyboard of the terminal that vbox runs at",
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
        keys={"escape": ("none", "^]", "x"), "terminal": (here, str(folder), "/dev/null", "")},
        actions=keyboard_queue.ACTIONS,
    )
