"""The script of `vbox run`: --expect, --expect-screen, --type and --keys, carried out in order.

It lives in drivers of this run's own: at the top of the chain of the first serial port, where
everything passes through it, whatever hangs below, and where it may type into the port; and at the
top of the graphics device's chain, where it looks at the screen when that changed.  It runs on the
EMT, so that it answers before the guest executes another instruction: in warp time, too, nothing
passes between the prompt and the reply.

Traps
- A port takes what `char_room` allows, so what is typed waits here and goes on at `char_ready`; while
  it waits, what comes from below waits, too, and both stay in order.
- Text that was not part of a match so far is kept for the next --expect.  A screen has no such order:
  --expect-screen is met when the text is there, even if it was there before.
- A guest that prints changes its screen all the time, so it is looked at after `LOOK_NS` of the
  guest's time, and only while the script waits for it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from vbox_pdm import (
    CharStream,
    CharStreamAbove,
    CharStreamBelow,
    Clock,
    Display,
    DisplayAbove,
    DisplayBelow,
    Driver,
    DriverType,
    NoConfig,
    PdmError,
    Picture,
    Queue,
    TextScreen,
)

DRIVER, SCREEN_DRIVER = "vbox-script", "vbox-screen-script"
MOST_KEPT = 1 << 20
"""Bytes of output kept while the script does not wait for any."""
TAIL = 200
"""Bytes of output that an error shows."""
KEYS_POLL_NS = 2_000_000
LOOK_NS = 50_000_000

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_NAMED = {"n": "\n", "r": "\r", "t": "\t", "e": "\x1b", "a": "\a", "b": "\b", "0": "\0", "\\": "\\"}


class Action(enum.Enum):
    """What a step does."""

    EXPECT = "expect"
    EXPECT_SCREEN = "expect_screen"
    TYPE = "type"
    KEYS = "keys"


@frozen
class Step:
    """One step; `data` is the text with its escapes resolved."""

    action: Action
    text: str
    data: bytes

    @classmethod
    def parse(cls, action: str, text: str) -> Step:
        """`text` as it stands on the command line."""
        return cls(Action(action), text, unescape(text))


def unescape(text: str) -> bytes:
    r"""Resolve \n \r \t \e \a \b \0 \\ \xHH (a byte) \uHHHH; other backslashes stand for themselves."""
    parts: list[bytes] = []
    at = 0
    for match in _ESCAPE.finditer(text):
        parts.append(text[at : match.start()].encode("utf-8", "surrogateescape"))
        at = match.end()
        code = match[1]
        if code[0] == "x" and len(code) == 3:
            parts.append(bytes([int(code[1:], 16)]))
        elif code[0] == "u" and len(code) == 5:
            parts.append(chr(int(code[1:], 16)).encode("utf-8", "surrogatepass"))
        else:
            parts.append(_NAMED.get(code, match[0]).encode("utf-8", "surrogateescape"))
    parts.append(text[at:].encode("utf-8", "surrogateescape"))
    return b"".join(parts)


EXPECTATIONS = (Action.EXPECT, Action.EXPECT_SCREEN)


class Script:
    """The steps and how far they are; read by the front end when the run is over.

    The drivers that carry it out attach themselves; `advance` is called on the EMT."""

    def __init__(self, steps: Sequence[Step], keyboard: Callable[[], Any | None]) -> None:
        self.steps = tuple(steps)
        self.keyboard = keyboard
        """Finds the driver that keys are given to (`type_text`, `pending`), or None."""
        self.position = 0
        self.tail = b""
        self.screen_text: str | None = None
        """What the screen showed when it was looked at last; None without text."""
        self.error: PdmError | None = None
        self._port: ScriptDriver | None = None
        self._screen: ScreenDriver | None = None
        self._begun = False
        self._advancing = False
        self._over = False

    @property
    def needs_port(self) -> bool:
        """Whether a step is about the serial port."""
        return any(step.action in (Action.EXPECT, Action.TYPE) for step in self.steps)

    @property
    def needs_screen(self) -> bool:
        """Whether a step is about the screen."""
        return any(step.action is Action.EXPECT_SCREEN for step in self.steps)

    @property
    def current(self) -> Step | None:
        """The step that is not done yet."""
        return self.steps[self.position] if self.position < len(self.steps) else None

    @property
    def unmet(self) -> Step | None:
        """The first expectation that was not met."""
        return next((s for s in self.steps[self.position :] if s.action in EXPECTATIONS), None)

    @property
    def ends_the_run(self) -> bool:
        """Whether the run is over when the script is: its last step is an expectation."""
        return bool(self.steps) and self.steps[-1].action in EXPECTATIONS

    def describe(self) -> str:
        """Where it stands, for an error."""
        step = self.current
        on_screen = step is not None and step.action is Action.EXPECT_SCREEN
        heard = self._seen() if on_screen or (step is None and not self.needs_port) else self._heard()
        if step is None:
            return heard
        doing = {
            Action.EXPECT: f"waiting for {step.text!r}",
            Action.EXPECT_SCREEN: f"waiting for {step.text!r} on the screen",
            Action.TYPE: f"typing {step.text!r}, which the guest does not take",
            Action.KEYS: f"typing {step.text!r} on the keyboard, which the guest does not take",
        }[step.action]
        return f"step {self.position + 1} of {len(self.steps)} was {doing}; {heard}"

    def _heard(self) -> str:
        tail = self.tail.decode("utf-8", "replace").strip()
        last = tail.splitlines()[-1].strip() if tail else ""
        return f"the last output is {last!r}" if last else "there was no output"

    def _seen(self) -> str:
        text = (self.screen_text or "").strip()
        last = text.splitlines()[-1].strip() if text else ""
        return f"the screen ends with {last!r}" if last else "the screen shows no text"

    # --- on the EMT

    def attach(self, driver: ScriptDriver | ScreenDriver) -> None:
        """A driver that carries out steps."""
        if isinstance(driver, ScreenDriver):
            self._screen = driver
        else:
            self._port = driver

    def advance(self) -> None:
        """Do what can be done now."""
        if self._advancing or self._over:
            return  # typing made the guest's port send: the loop below looks again
        self._advancing = True
        try:
            while self._step():
                self.position += 1
                self._begun = False
        except PdmError as error:
            self.error = error
            self._end()
        finally:
            self._advancing = False

    def _step(self) -> bool:
        """Go on with the current step; whether it is done."""
        step, port = self.current, self._port
        if step is None:
            if self.ends_the_run:
                self._end()
            if port is not None:
                port.forget()
            return False
        begun, self._begun = self._begun, True
        if step.action is Action.EXPECT:
            return port is not None and port.heard(step.data)
        if port is not None:
            port.forget(MOST_KEPT)
        if step.action is Action.EXPECT_SCREEN:
            return self._shown(step, begun)
        if step.action is Action.KEYS:
            return self._press(step, begun)
        return port is not None and port.typed(step.data, begun)

    def finish(self) -> None:
        """The guest is off: its last screen may be the one that was waited for."""
        while (step := self.current) is not None and step.action is Action.EXPECT_SCREEN:
            if not self._shown(step, False):
                return
            self.position += 1

    def _shown(self, step: Step, begun: bool) -> bool:
        return self._screen is not None and self._screen.shows(step.data.decode("utf-8", "replace"), begun)

    def _press(self, step: Step, begun: bool) -> bool:
        keyboard = self.keyboard()
        if keyboard is None:
            raise PdmError(
                "VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN",
                "--keys needs a keyboard, and the machine has none that can be typed on",
                "Attach a keyboard-queue to LUN 0 of pckbd",
            )
        if not begun:
            keyboard.type_text(step.data.decode("utf-8", "replace"))
        if keyboard.pending:
            self._any_driver().again_in(KEYS_POLL_NS)
            return False
        return True

    def _end(self) -> None:
        self._over = True
        self._any_driver().helpers.power_off_vm(0)

    def _any_driver(self) -> ScriptDriver | ScreenDriver:
        driver = self._port or self._screen
        assert driver is not None
        return driver


class ScriptDriver(Driver[NoConfig]):
    """The filter of the serial port.  `script` is set in the class made for a run."""

    script: Script
    above: CharStreamAbove
    below: CharStreamBelow

    def pdm_construct(self) -> None:
        self._output = bytearray()
        self._typed = bytearray()
        self._delivering = False
        self._start: Queue[None] = self.helpers.queue("start", lambda _: self.script.advance(), 1)
        self._poll = self.helpers.timer("keys", Clock.VIRTUAL, self.script.advance)
        self.script.attach(self)

    def pdm_power_on(self) -> None:
        self._start.put(None)

    # --- from above

    def char_send(self, data: bytes) -> int:
        """What the guest sends."""
        taken = self.below.char_send(data)
        self._output += data[:taken]
        self.script.tail = (self.script.tail + data[:taken])[-TAIL:]
        self.script.advance()
        return taken

    def char_ready(self) -> None:
        """The port has room."""
        if self._typed or self._delivering:
            self._deliver()
        else:
            self.below.char_ready()

    def char_parameters(self, baud: int, data_bits: int, parity: str, stop_bits: float) -> None:
        self.below.char_parameters(baud, data_bits, parity, stop_bits)

    def char_lines(self, dtr: bool, rts: bool) -> None:
        self.below.char_lines(dtr, rts)

    def char_break(self, level: bool) -> None:
        self.below.char_break(level)

    # --- from below

    def char_room(self) -> int:
        """None for others while the script types."""
        return 0 if self._typed else self.above.char_room()

    def char_received(self, data: bytes) -> None:
        self.above.char_received(data)

    def char_sendable(self) -> None:
        self.above.char_sendable()

    def char_status(self, cts: bool, dsr: bool, ri: bool, dcd: bool) -> None:
        self.above.char_status(cts, dsr, ri, dcd)

    def char_break_received(self) -> None:
        self.above.char_break_received()

    # --- for the script

    def forget(self, but: int = 0) -> None:
        """Nobody waits for the output so far, or for no more than its last bytes."""
        del self._output[: max(0, len(self._output) - but)]

    def heard(self, wanted: bytes) -> bool:
        """Whether the output has it; what comes before, and it itself, is forgotten."""
        at = self._output.find(wanted)
        if at < 0:
            # Nothing before this can be part of a match any more.
            del self._output[: max(0, len(self._output) - len(wanted) + 1)]
            return False
        del self._output[: at + len(wanted)]
        return True

    def typed(self, data: bytes, begun: bool) -> bool:
        """Type it, once; whether the guest has taken all."""
        if not begun:
            self._typed += data
        self._deliver()
        return not self._typed

    def again_in(self, ns: int) -> None:
        """Advance the script a little later."""
        self._poll.set_relative(ns)

    def _deliver(self) -> None:
        """Give the port what it has room for."""
        if self._delivering:  # it took some and says that it has room again
            return
        waited = bool(self._typed)
        self._delivering = True
        try:
            while self._typed and (room := self.above.char_room()) > 0:
                chunk = bytes(self._typed[:room])
                del self._typed[:room]
                self.above.char_received(chunk)
        finally:
            self._delivering = False
        if waited and not self._typed:
            self.script.advance()
            if not self._typed:
                self.below.char_ready()


class ScreenDriver(Driver[NoConfig]):
    """The filter of the screen.  `script` is set in the class made for a run."""

    script: Script
    above: DisplayAbove
    below: DisplayBelow

    def pdm_construct(self) -> None:
        self._due = False
        self._start: Queue[None] = self.helpers.queue("start", lambda _: self.script.advance(), 1)
        self._poll = self.helpers.timer("keys", Clock.VIRTUAL, self.script.advance)
        self._look = self.helpers.timer("look", Clock.VIRTUAL, self._look_again)
        self.script.attach(self)

    def pdm_power_on(self) -> None:
        self._start.put(None)

    def pdm_power_off(self) -> None:
        self.script.finish()

    # --- the layer

    def display_changed(self) -> None:
        """Something is new; nobody says so again before somebody has looked."""
        self.below.display_changed()
        step = self.script.current
        if step is not None and step.action is Action.EXPECT_SCREEN and not self._look.active:
            self._look.set_relative(LOOK_NS)

    def display_text(self) -> TextScreen | None:
        return self.above.display_text()

    def display_picture(self) -> Picture | None:
        return self.above.display_picture()

    # --- for the script

    def shows(self, wanted: str, begun: bool) -> bool:
        """Whether the screen has it, looked at now if there may be something new."""
        if begun and not self._due:
            return False
        self._due = False
        screen = self.above.display_text()
        self.script.screen_text = screen.text() if screen is not None else None
        return screen is not None and wanted in screen.text()

    def again_in(self, ns: int) -> None:
        """Advance the script a little later."""
        self._poll.set_relative(ns)

    def _look_again(self) -> None:
        self._due = True
        self.script.advance()
        self._due = False


def script_driver(script: Script) -> DriverType:
    """The type of the serial port's driver for one run."""
    made = type("ScriptDriver", (ScriptDriver,), {"script": script, "__module__": __name__})
    return DriverType(
        DRIVER, made, serves=CharStream, wants=CharStream, max_instances=1, summary="the script of `vbox run`"
    )


def screen_driver(script: Script) -> DriverType:
    """The type of the screen's driver for one run."""
    made = type("ScreenDriver", (ScreenDriver,), {"script": script, "__module__": __name__})
    return DriverType(
        SCREEN_DRIVER, made, serves=Display, wants=Display, max_instances=1,
        summary="the script of `vbox run`, at the screen",
    )  # fmt: skip
