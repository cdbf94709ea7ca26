"""A device with ports, a timer and an interrupt line, and what can be wrong with it."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen
from faulty import correct, faulty
from faulty_process import Counter

from vbox_pdm import Clock, Device, Ports, Reg8, RegisterMap, State, StateError, Width, key


class Registers(RegisterMap):
    DATA = Reg8(0, "rw", bits=0x7F)
    CONTROL = Reg8(1, "rw", bits=0x02, fields={"GO": 0, "ENABLE": 1}, effect="write GO: runs for a while")
    STATUS = Reg8(
        2,
        "rw",
        reset=0x40,
        bits=0x03,
        fields={"DONE": 0, "BUSY": 1, "HERE": 6},
        effect="write DONE: clears it",
    )
    QUEUE = Reg8(3, "rw", effect="a read takes the oldest byte, a write adds one")


@frozen
class Config:
    io_base: int = key(0x300, span=(0x300, 0x3FC), help="first of four ports")
    irq: int = key(5, span=(3, 7), help="ISA interrupt line")
    depth: int = key(2, span=(1, 4), help="bytes that the queue holds")


@frozen
class GadgetState(State, version=1):
    data: int
    enable: bool
    done: bool
    queue: bytes


@correct
class Gadget(Device[Config]):
    """GO runs the timer, its end sets DONE; the line is DONE and ENABLE."""

    config_class = Config
    width = Width.BYTE

    def pdm_construct(self) -> None:
        self.irq = self.helpers.isa_irq(self.config.irq)
        self.timer = self.helpers.timer("run", Clock.VIRTUAL, self.finished)
        region = Ports("gadget", 4, self.read, self.write, registers=Registers, width=self.width)
        self.helpers.map_ports(self.config.io_base, region)
        self.clear()

    def pdm_reset(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.data, self.enable, self.done, self.queue = 0, False, False, b""
        self.timer.stop()
        self.update()

    def update(self) -> None:
        self.irq.set(self.done and self.enable)

    def finished(self) -> None:
        self.done = True
        self.update()

    def read(self, offset: int, size: int) -> int:
        if offset == 0:
            return self.data
        if offset == 1:
            return self.enable << 1
        if offset == 2:
            return self.done | self.timer.active << 1 | 0x40
        return self.take()

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self.data = value & 0x7F
        elif offset == 1:
            self.control(value)
        elif offset == 2:
            self.done = self.done and not value & 1
            self.update()
        elif len(self.queue) < self.config.depth:
            self.queue += bytes([value])

    def control(self, value: int) -> None:
        self.enable = bool(value & 2)
        if value & 1:
            self.timer.set_relative(1000)
        self.update()

    def take(self) -> int:
        first, self.queue = self.queue[:1], self.queue[1:]
        return first[0] if first else 0

    def pdm_save(self) -> GadgetState:
        return GadgetState(self.data, self.enable, self.done, self.queue)

    def pdm_load(self, state: GadgetState) -> None:
        self.data, self.enable, self.done, self.queue = state.data, state.enable, state.done, state.queue


# --- configuration


@faulty("config-range", "depth=4 is in range and raises")
class NoRoomForThatDepth(Gadget):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.masks = [(0, 1, 3, 7)[self.config.depth]]


# --- construction


@faulty("constructs", "VERR_IOM_IOPORT_RANGE_CONFLICT")
class OverlapsItself(Gadget):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.helpers.map_ports(self.config.io_base + 3, Ports("more", 1))


@faulty("constructs", "Ports region 'nothing' of 0")
class HasNoPorts(Gadget):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.helpers.map_ports(0x200, Ports("nothing", 0))


@faulty("constructs", "VERR_IOM_INVALID_IOPORT_RANGE")
class LeavesTheAddressSpace(Gadget):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.helpers.map_ports(0xFFFF, Ports("behind the end", 2))


@faulty("constructs", "before it is constructed")
class RaisesBeforeConstruct(Gadget):
    def __init__(self) -> None:
        raise RuntimeError("before it is constructed")


@faulty("constructs", "ZeroDivisionError")
class RaisesInConstruct(Gadget):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.step = 1000 // self.data


@faulty("constructs", "KeyError('clock')")
class RaisesAtPowerOn(Gadget):
    def pdm_power_on(self) -> None:
        raise KeyError("clock")


@faulty("construct-fails", "pdm_destruct raises AttributeError")
class DestructsWhatIsNotThere(Gadget):
    def pdm_destruct(self) -> None:
        self.timer.stop()


@faulty("construct-fails", "OSError")
class HidesTheError(Gadget):
    def pdm_construct(self) -> None:
        try:
            super().pdm_construct()
        except Exception as error:
            raise OSError("no gadget") from error


@faulty("destruct", "the file is gone")
class RaisesInDestruct(Gadget):
    def pdm_destruct(self) -> None:
        raise FileNotFoundError("the file is gone")


# --- handlers


@faulty("no-raise", "IndexError")
class RaisesInRead(Gadget):
    def take(self) -> int:
        first, self.queue = self.queue[0], self.queue[1:]
        return first


@faulty("no-raise", "timer run")
class RaisesInTimer(Gadget):
    def finished(self) -> None:
        super().finished()
        assert self.enable


@faulty("no-raise", "pdm_resume")
class RaisesInResume(Gadget):
    def pdm_resume(self) -> None:
        assert not self.done or self.irq.level == self.enable, "never"
        if self.data:
            raise RuntimeError("not in the middle of it")


@faulty("fits", "returned 0x1")
class AnswersTooMuch(Gadget):
    def read(self, offset: int, size: int) -> int:
        return super().read(offset, size) | (0x100 if offset == 0 and self.data else 0)


@faulty("fits", "returned -")
class AnswersLessThanNothing(Gadget):
    def read(self, offset: int, size: int) -> int:
        return -self.data if offset == 0 else super().read(offset, size)


@faulty("fits", "returned None")
class AnswersNothing(Gadget):
    def read(self, offset: int, size: int) -> int:
        return super().read(offset, size) if offset else None  # type: ignore[return-value]


@faulty("no-raise", "StopIteration")
class RaisesInReset(Gadget):
    def pdm_reset(self) -> None:
        super().pdm_reset()
        next(iter(()))


@faulty("no-raise", "ended the process with 3")
class EndsTheProcess(Gadget):
    def control(self, value: int) -> None:
        raise SystemExit(3)


# --- registers


@faulty("reset-values", "after power on gadget.STATUS")
class StartsDone(Gadget):
    def clear(self) -> None:
        super().clear()
        self.done = True


@faulty("reset-values", "gadget.QUEUE")
class StartsWithAByteQueued(Gadget):
    def clear(self) -> None:
        super().clear()
        self.queue = b"!"


@faulty("bits", "gadget.DATA")
class KeepsABitThatItHasNot(Gadget):
    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        if offset == 0:
            self.data = value


@faulty("widths", "a read of 2 at")
class LooksAtNoSize(Gadget):
    width = Width.ANY

    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value & 0xFF)


@faulty("quiet-read", "reading gadget.STATUS")
class StatusClearsDone(Gadget):
    def read(self, offset: int, size: int) -> int:
        value = super().read(offset, size)
        if offset == 2:
            self.done = False
            self.update()
        return value


# --- reset and interrupt lines


@faulty("reset-state", "queue")
class ForgetsItsQueueInReset(Gadget):
    def pdm_reset(self) -> None:
        queue = self.queue
        super().pdm_reset()
        self.queue = queue


@faulty("reset-state", "timers")
class RunsOnAfterReset(Gadget):
    def pdm_reset(self) -> None:
        left = self.timer.expires
        super().pdm_reset()
        if left is not None:
            self.timer.set(left)


@faulty("reset-state", "enable: False and True")
class StartsEnabledAfterReset(Gadget):
    def pdm_reset(self) -> None:
        super().pdm_reset()
        self.enable = True


@faulty("reset-state", "interrupt lines")
class AnnouncesItselfAfterReset(Gadget):
    def pdm_reset(self) -> None:
        super().pdm_reset()
        self.irq.set(True)


@faulty("reset-twice", "data")
class CountsResets(Gadget):
    """All but the first, which is that of power on."""

    transient = frozenset({"resets"})
    resets = 0

    def pdm_reset(self) -> None:
        super().pdm_reset()
        self.data = self.resets & 0x7F
        self.resets += 1


@faulty("lines-low", "after reset ISA line 5")
class HoldsItsLineThroughReset(Gadget):
    """Its line says that there is something in the queue, and the queue outlives a reset."""

    def update(self) -> None:
        self.irq.set(bool(self.queue))

    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        self.update()

    def take(self) -> int:
        value = super().take()
        self.update()
        return value

    def pdm_reset(self) -> None:
        queue = self.queue
        super().pdm_reset()
        self.queue = queue
        self.update()


@faulty("line-is-state")
class LeavesItsLineHigh(Gadget):
    """ENABLE going away does not lower the line: the same state with a line that is high and low."""

    def control(self, value: int) -> None:
        line = self.irq.level
        super().control(value)
        self.irq.set(self.irq.level or line)


# --- saved state


@faulty("save-quiet", "saving twice")
class SavesByTaking(Gadget):
    def pdm_save(self) -> GadgetState:
        state = super().pdm_save()
        self.queue = b""
        return state


@faulty("save-load", "queue")
class ForgetsInLoad(Gadget):
    def pdm_load(self, state: GadgetState) -> None:
        super().pdm_load(evolve(state, queue=self.queue))


@frozen
class ShortState(State, version=1):
    enable: bool
    done: bool
    queue: bytes


@faulty("memory", "data: ")
class ForgetsInSave(Gadget):
    """DATA is no part of the state."""

    def pdm_save(self) -> ShortState:  # type: ignore[override]
        return ShortState(self.enable, self.done, self.queue)

    def pdm_load(self, state: ShortState) -> None:  # type: ignore[override]
        self.enable, self.done, self.queue = state.enable, state.done, state.queue


@faulty("twin", "after loading")
class SaysThatDataIsACache(ForgetsInSave):
    transient = frozenset({"data"})


@faulty("memory", "runs: ")
class CountsItsRuns(Gadget):
    """In an attribute that is neither saved nor reset."""

    runs = 0

    def finished(self) -> None:
        super().finished()
        self.runs += 1


@correct
class CountsItsRunsForPeople(CountsItsRuns):
    transient = frozenset({"runs"})


@faulty("alias")
class SavesItself(Gadget):
    """A state that is the device's own, and is changed in place."""

    @property
    def data(self) -> int:
        return self.kept.data

    @data.setter
    def data(self, value: int) -> None:
        if not hasattr(self, "kept"):
            self.kept = GadgetState(value, False, False, b"")
        object.__setattr__(self.kept, "data", value)

    def pdm_save(self) -> GadgetState:
        for name in ("enable", "done", "queue"):
            object.__setattr__(self.kept, name, getattr(self, name))
        return self.kept

    def pdm_load(self, state: GadgetState) -> None:
        self.kept = evolve(state)
        super().pdm_load(state)


@frozen
class OldState(State, version=0xC8C8C8C8):
    """A version so high that most of what damages it makes it an older one."""

    count: int

    @classmethod
    def upgrade(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        return {"count": fields.pop("counter")}


@faulty("bad-state", "KeyError('counter')")
class TrustsOldStates(Counter):
    """A state that says it is an older one need not have what was in those."""

    def pdm_save(self) -> OldState:  # type: ignore[override]
        return OldState(self.count)


@faulty("bad-state", "after a refused state")
class RefusesTooLate(Gadget):
    transient = frozenset({"stuck"})

    def pdm_load(self, state: GadgetState) -> None:
        super().pdm_load(state)
        if not 0 <= state.data <= 0x7F:
            self.stuck = True
            raise StateError("VERR_SSM_UNEXPECTED_DATA", f"DATA cannot be {state.data}")

    def pdm_save(self) -> GadgetState:
        state = super().pdm_save()
        return evolve(state, done=True) if getattr(self, "stuck", False) else state


# --- time


@faulty("suspended", "REAL is armed after power off")
class WakesUpWhenItIsOver(Gadget):
    """A device has no business with the clock of the host."""

    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.heart = self.helpers.timer("heart", Clock.REAL, self.beat)
        self.beat()

    def beat(self) -> None:
        self.heart.set_relative(1_000_000_000)


@correct
class EndsWithTheGuest(WakesUpWhenItIsOver):
    def pdm_power_off(self) -> None:
        self.heart.stop()


@frozen
class LateState(State, version=1):
    data: int
    enable: bool
    done: bool
    queue: bytes
    late: bool


@faulty("suspended", "while suspended changed a timer or an interrupt line")
class InterruptsWhileSuspended(Gadget):
    """A guest that does not run is not late."""

    def pdm_construct(self) -> None:
        self.deadline = self.helpers.timer("deadline", Clock.REAL, self.passed)
        super().pdm_construct()

    def clear(self) -> None:
        self.late = False
        super().clear()
        self.deadline.set_relative(50_000_000)

    def passed(self) -> None:
        self.late = True
        self.update()

    def update(self) -> None:
        self.irq.set(self.late or (self.done and self.enable))

    def pdm_power_off(self) -> None:
        self.deadline.stop()

    def pdm_save(self) -> LateState:  # type: ignore[override]
        return LateState(self.data, self.enable, self.done, self.queue, self.late)

    def pdm_load(self, state: LateState) -> None:  # type: ignore[override]
        super().pdm_load(GadgetState(state.data, state.enable, state.done, state.queue))
        self.late = state.late
