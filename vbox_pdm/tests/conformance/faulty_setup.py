"""Devices whose fault is reached only with what their Setup tells the kit."""

from __future__ import annotations

from attrs import frozen
from faulty import correct, faulty
from faulty_ports import Gadget
from faulty_process import Counter, CountsInstances

from vbox_pdm import CharStream, PdmError, State, key
from vbox_pdm.testing import Bench, FakeStream
from vbox_pdm.testing.conformance import Setup

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


@faulty("config-range", "name='march' must be refused")
class TakesAnyTune(Player):
    setup = Setup(
        config={"name": "tune"}, files={"tune": b"TUNE", "march": b"TUNE !"}, refused=[{"name": "march"}]
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


# --- the rest of the world


@correct
class IsAnotherEachTime(CountsInstances):
    """Nobody expects the same of it twice."""

    setup = Setup(live=True)
