"""The script of `vbox run`: --expect, --type and --keys, carried out in the order given.

It lives in a driver of this run's own, at the top of the chain of the first serial port: everything
passes through it, whatever hangs below, and it may type into the port besides.  It runs on the EMT,
so that it answers before the guest executes another instruction: in warp time, too, nothing passes
between the prompt and the reply.

Traps: a port takes what `char_room` allows, so what is typed waits here and goes on at `char_ready`;
while it waits, what comes from below waits, too, and both stay in order.  Text that was not part of a
match so far is kept for the next --expect.
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
    Driver,
    DriverType,
    NoConfig,
    PdmError,
    Queue,
)

DRIVER = "vbox-script"
MOST_KEPT = 1 << 20
"""Bytes of output kept while the script does not wait for any."""
TAIL = 200
"""Bytes of output that an error shows."""
KEYS_POLL_NS = 2_000_000

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_NAMED = {"n": "\n", "r": "\r", "t": "\t", "e": "\x1b", "a": "\a", "b": "\b", "0": "\0", "\\": "\\"}


class Action(enum.Enum):
    """What a step does."""

    EXPECT = "expect"
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


class Script:
    """The steps and how far they are; read by the front end when the run is over."""

    def __init__(self, steps: Sequence[Step], keyboard: Callable[[], Any | None]) -> None:
        self.steps = tuple(steps)
        self.keyboard = keyboard
        """Finds the driver that keys are given to (`type_text`, `pending`), or None."""
        self.position = 0
        self.tail = b""
        self.error: PdmError | None = None

    @property
    def current(self) -> Step | None:
        """The step that is not done yet."""
        return self.steps[self.position] if self.position < len(self.steps) else None

    @property
    def unmet(self) -> Step | None:
        """The first expectation that was not met."""
        return next((s for s in self.steps[self.position :] if s.action is Action.EXPECT), None)

    @property
    def ends_the_run(self) -> bool:
        """Whether the run is over when the script is: its last step is an expectation."""
        return bool(self.steps) and self.steps[-1].action is Action.EXPECT

    def describe(self) -> str:
        """Where it stands, for an error."""
        step = self.current
        tail = self.tail.decode("utf-8", "replace").strip()
        last = tail.splitlines()[-1].strip() if tail else ""
        heard = f"the last output is {last!r}" if last else "there was no output"
        if step is None:
            return heard
        doing = {
            Action.EXPECT: f"waiting for {step.text!r}",
            Action.TYPE: f"typing {step.text!r}, which the guest does not take",
            Action.KEYS: f"typing {step.text!r} on the keyboard, which the guest does not take",
        }[step.action]
        return f"step {self.position + 1} of {len(self.steps)} was {doing}; {heard}"


class ScriptDriver(Driver[NoConfig]):
    """The filter.  `script` is set in the class made for a run."""

    script: Script
    above: CharStreamAbove
    below: CharStreamBelow

    def pdm_construct(self) -> None:
        self._output = bytearray()
        self._typed = bytearray()
        self._step_begun = False
        self._delivering = False
        self._advancing = False
        self._over = False
        self._start: Queue[None] = self.helpers.queue("start", lambda _: self._advance(), 1)
        self._poll = self.helpers.timer("keys", Clock.VIRTUAL, self._advance)

    def pdm_power_on(self) -> None:
        self._start.put(None)

    # --- from above

    def char_send(self, data: bytes) -> int:
        """What the guest sends."""
        taken = self.below.char_send(data)
        self._output += data[:taken]
        self.script.tail = (self.script.tail + data[:taken])[-TAIL:]
        self._advance()
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

    # --- the script

    def _advance(self) -> None:
        """Do what can be done now."""
        if self._advancing or self._over:
            return  # typing made the guest's port send: the loop below looks again
        self._advancing = True
        try:
            while self._step():
                self.script.position += 1
                self._step_begun = False
        except PdmError as error:
            self.script.error = error
            self._end()
        finally:
            self._advancing = False

    def _step(self) -> bool:
        """Go on with the current step; whether it is done."""
        step = self.script.current
        if step is None:
            if self.script.ends_the_run:
                self._end()
            self._output.clear()
            return False
        if step.action is Action.EXPECT:
            return self._expect(step.data)
        begun, self._step_begun = self._step_begun, True
        del self._output[:-MOST_KEPT]
        if step.action is Action.KEYS:
            return self._press(step, begun)
        if not begun:
            self._typed += step.data
        self._deliver()
        return not self._typed

    def _expect(self, wanted: bytes) -> bool:
        at = self._output.find(wanted)
        if at < 0:
            # Nothing before this can be part of a match any more.
            del self._output[: max(0, len(self._output) - len(wanted) + 1)]
            return False
        del self._output[: at + len(wanted)]
        return True

    def _press(self, step: Step, begun: bool) -> bool:
        keyboard = self.script.keyboard()
        if keyboard is None:
            raise PdmError(
                "VERR_PDM_NO_DRIVER_ATTACHED_TO_LUN",
                "--keys needs a keyboard, and the machine has none that can be typed on",
                "Attach a keyboard-queue to LUN 0 of pckbd",
            )
        if not begun:
            keyboard.type_text(step.data.decode("utf-8", "replace"))
        if keyboard.pending:
            self._poll.set_relative(KEYS_POLL_NS)
            return False
        return True

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
            self._advance()
            if not self._typed:
                self.below.char_ready()

    def _end(self) -> None:
        self._over = True
        self.helpers.power_off_vm(0)


def script_driver(script: Script) -> DriverType:
    """The driver's type for one run."""
    made = type("ScriptDriver", (ScriptDriver,), {"script": script, "__module__": __name__})
    return DriverType(
        DRIVER, made, serves=CharStream, wants=CharStream, max_instances=1, summary="the script of `vbox run`"
    )
