"""Devices whose fault is reached only with what their Setup tells the kit."""

from __future__ import annotations

import threading
import time
from collections import deque

from attrs import frozen
from faulty import correct, faulty
from faulty_ports import Gadget
from faulty_process import Counter, CountsInstances

from vbox_pdm import (
    CharStream,
    CharStreamAbove,
    ConfigError,
    Driver,
    Keyboard,
    KeyboardAbove,
    PdmError,
    RuntimeErrorFlags,
    State,
    Worker,
    key,
)
from vbox_pdm.testing import Bench, FakeStream
from vbox_pdm.testing.conformance import FarEnd, Setup

# --- actions


@correct
class Button(Counter):
    """Front ends push it: a number of times, at most 9."""

    setup = Setup(actions=[("push", (1,)), ("push", (10,))])

    def push(self, times: int) -> None:
        if times > 9:
            raise PdmError("VERR_INVALID_PARAMETER", f"Nobody pushes {times} times", "Push 9 times")
        self.count = self.count + times & 0xFF


@faulty("no-raise", "pushed 10 times")
class BreaksWhenPushed(Button):
    def push(self, times: int) -> None:
        try:
            super().push(times)
        except PdmError:
            raise RuntimeError(f"pushed {times} times") from None


# --- what a guest's driver does first


@frozen
class LockState(State, version=1):
    count: int
    code: int


@faulty("no-raise", "EOFError")
class BreaksWhenUnlocked(Counter):
    """A code of two bytes, written in two steps, is hardly found by chance."""

    setup = Setup(prepare=[("port_write", 0x300, 1, 0xC0), ("port_write", 0x300, 1, 0xDE)])

    def pdm_reset(self) -> None:
        super().pdm_reset()
        self.code = 0

    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        self.code = (self.code << 8 | value & 0xFF) & 0xFFFF

    def read(self, offset: int, size: int) -> int:
        if self.code == 0xC0DE:
            raise EOFError("nothing is behind the door")
        return super().read(offset, size)

    def pdm_save(self) -> LockState:  # type: ignore[override]
        return LockState(self.count, self.code)

    def pdm_load(self, state: LockState) -> None:  # type: ignore[override]
        self.count, self.code = state.count, state.code


# --- keys and files


@frozen
class NamedConfig:
    name: str = key(help="a file of the host")


@correct
class Player(Counter):
    """Plays what a file says: it begins with TUNE."""

    config_class = NamedConfig
    setup = Setup(
        config={"name": "tune"}, keys={"name": ["song"]}, files={"tune": b"TUNE", "song": b"TUNE la"}
    )

    def pdm_construct(self) -> None:
        data = self.helpers.read_host_file(self.config.name, most=100)  # type: ignore[attr-defined]
        if not data.startswith(b"TUNE"):
            raise PdmError("VERR_INVALID_PARAMETER", "That is no tune", "Give another file")
        super().pdm_construct()
        self.play(data[4:])

    def play(self, notes: bytes) -> None:
        self.notes = notes


@faulty("constructs", "'/name'")
class SaysNothingOfItsName(Player):
    setup = None


@faulty("config-range", "name='song'")
class CannotSing(Player):
    def play(self, notes: bytes) -> None:
        if notes:
            raise ValueError("there is no voice")


@faulty("config-range", "name='march' is accepted")
class TakesAnyTune(Player):
    setup = Setup(
        config={"name": "tune"}, files={"tune": b"TUNE", "march": b"TUNE !"}, refuses=[{"name": "march"}]
    )


# --- neighbours


@faulty("no-raise", "ZeroDivisionError")
class NeedsAWillingNeighbour(Counter):
    setup = Setup(neighbours={0: lambda: FakeStream(accept=0)})

    def pdm_construct(self) -> None:
        self.line = self.helpers.lun(0, CharStream, "a line")
        super().pdm_construct()

    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        self.count = 255 // self.line.char_send(b"x")


# --- the author's own properties


@correct
class Bounded(Gadget):
    """Its queue has a depth."""

    setup = Setup(
        invariants={
            "the queue": lambda gadget, bench: (
                None if len(gadget.queue) <= gadget.config.depth else f"it has {len(gadget.queue)} bytes"
            )
        }
    )


@faulty("own", "the queue: it has")
class QueuesWithoutEnd(Bounded):
    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 3:
            self.queue += bytes([value])
        else:
            super().write(offset, size, value)


def _counts_writes(gadget: Gadget, bench: Bench) -> str | None:
    before = len(gadget.queue)
    bench.port_write(gadget.config.io_base + 3, 1, 7)
    return None if len(gadget.queue) in (before + 1, gadget.config.depth) else "a byte was lost"


@correct
class Exercised(Gadget):
    """Its author says how it is used."""

    setup = Setup(exercises={"a byte is queued": _counts_writes})


@faulty("own", "a byte is queued: a byte was lost")
class LosesTheThird(Exercised):
    def write(self, offset: int, size: int, value: int) -> None:
        if offset != 3 or len(self.queue) != 2:
            super().write(offset, size, value)


# --- configurations


@frozen
class PairConfig:
    low: int | None = key(None, span=(0, 9), help="least")
    high: int | None = key(None, span=(0, 9), help="greatest")
    name: str = key("", help="what people call it")


@correct
class Pair(Counter):
    """Two numbers that are nothing without each other."""

    config_class = PairConfig
    setup = Setup(configs=[{"low": 1, "high": 2}], refuses=[{"low": 3}, {"high": 3}, {"low": 2, "high": 1}])

    def pdm_construct(self) -> None:
        low, high = self.config.low, self.config.high  # type: ignore[attr-defined]
        if (low is None) is not (high is None) or (low is not None and low > high):
            raise ConfigError("VERR_INVALID_PARAMETER", "low and high are no pair", "Give both, in order")
        super().pdm_construct()


@faulty("config-range", "low=3 is accepted")
class HalfAPair(Counter):
    config_class = PairConfig
    setup = Pair.setup


@faulty("config-range", "UnicodeEncodeError")
class NamesAreAscii(Counter):
    config_class = PairConfig

    def pdm_construct(self) -> None:
        self.label = self.config.name.encode("latin-1", "surrogateescape")  # type: ignore[attr-defined]
        super().pdm_construct()


# --- the other end of a driver

TAPE = bytearray()
"""The host of these drivers."""


@correct
class Tape(Driver[None]):
    """What is sent down is recorded, and a greeting comes up."""

    layers = CharStream, None
    setup = Setup(far_end=FarEnd(lambda config: bytes(TAPE), lambda config, sent: b"hello"))
    above: CharStreamAbove

    def pdm_construct(self) -> None:
        self.greeting = bytearray(b"hello")

    def pdm_power_on(self) -> None:
        self.char_ready()

    def char_send(self, data: bytes) -> int:
        TAPE.extend(data)
        return len(data)

    def char_ready(self) -> None:
        while self.greeting and (room := self.above.char_room()) > 0:
            chunk = bytes(self.greeting[:room])
            del self.greeting[:room]
            self.above.char_received(chunk)


@faulty("carried", "sent down")
class HasAShortTape(Tape):
    def char_send(self, data: bytes) -> int:
        TAPE.extend(data[:4096])
        return len(data)


@faulty("carried", "to come up")
class Stutters(Tape):
    def pdm_construct(self) -> None:
        self.greeting = bytearray(b"hhello")


@correct
class IsFull(Tape):
    """Nothing fits, and that is known only after a while."""

    setup = Setup(far_end=FarEnd(lambda config: b"", lambda config, sent: b"hello"))

    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.asked = threading.Event()
        self.helpers.worker("writer", self.write, self.asked.set)

    def char_send(self, data: bytes) -> int:
        self.asked.set()
        return 0

    def write(self, worker: Worker) -> None:
        self.asked.wait()
        time.sleep(0.05)
        if worker.running:
            self.helpers.set_runtime_error(RuntimeErrorFlags.SUSPEND, "TapeIsFull", "Turn the tape")
        while worker.running:
            self.asked.clear()
            self.asked.wait()


@correct
class Typist(Driver[None]):
    """Keys wait until the keyboard takes them."""

    layers = Keyboard, None
    transient = frozenset({"keys"})
    setup = Setup(actions=[("strike", (4,)), ("strike", (5,)), ("strike", (6,))], live=True)
    above: KeyboardAbove

    def pdm_construct(self) -> None:
        self.keys: deque[int] = deque()
        self.offering = False

    def strike(self, usage: int) -> None:
        self.keys.append(usage)
        self.key_ready()

    def key_ready(self) -> None:
        if self.offering:
            return
        self.offering = True
        while self.keys and self.above.key_event(self.keys[0], True):
            self.keys.popleft()
        self.offering = False


@faulty("carried", "keys")
class GivesUp(Typist):
    def strike(self, usage: int) -> None:
        self.above.key_event(usage, True)


# --- the rest of the world


@correct
class IsAnotherEachTime(CountsInstances):
    """Nobody expects the same of it twice."""

    setup = Setup(live=True)
