"""Devices and drivers that do to the process what a plugin must not: all of them harm nobody else."""

from __future__ import annotations

import datetime
import itertools
import os
import random
import sys
import threading
import time
from typing import Any

from attrs import frozen
from faulty import correct, faulty

from vbox_pdm import CharStream, CharStreamAbove, Clock, Device, Driver, Ports, State

ENOUGH = threading.Event()
"""Ends the threads that were left behind."""


@frozen
class CounterState(State, version=1):
    count: int


@correct
class Counter(Device[None]):
    """One port: a write counts, a read tells."""

    def pdm_construct(self) -> None:
        self.timer = self.helpers.timer("tick", Clock.VIRTUAL, self.tick)
        self.helpers.map_ports(0x300, Ports("counter", 1, self.read, self.write))
        self.pdm_reset()

    def pdm_reset(self) -> None:
        self.count = 0
        self.timer.stop()

    def read(self, offset: int, size: int) -> int:
        return self.count

    def write(self, offset: int, size: int, value: int) -> None:
        self.count = self.count + 1 & 0xFF
        self.timer.set_relative(1000)

    def tick(self) -> None:
        self.count = 0

    def pdm_save(self) -> CounterState:
        return CounterState(self.count)

    def pdm_load(self, state: CounterState) -> None:
        self.count = state.count


# --- time


@faulty("no-hang", "CPU time")
class WaitsInAWrite(Counter):
    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        while self.timer.active:
            pass


@faulty("no-hang", "CPU time")
class WaitsWhateverIsRaised(Counter):
    """What interrupts it is no Exception, so that it cannot be swallowed by accident."""

    def pdm_init_complete(self) -> None:
        waited = 0
        while True:
            try:
                waited += 1
            except Exception:
                pass


@faulty("no-hang", "not over after")
class WaitsForAnotherThread(Counter):
    def pdm_power_on(self) -> None:
        never = threading.Event()
        while not never.wait(0.01):
            pass


@faulty("no-hang", "not over after")
class SleepsForEver(Driver[None]):
    """A driver may look at the host's clock, and must not wait for it."""

    layers = CharStream, None

    def pdm_power_on(self) -> None:
        while True:
            time.sleep(0.01)


@faulty("no-hang", "VERR_TM_TIMER_UNSTABLE_STATE")
class RearmsForNow(Counter):
    """The bench ends such a timer, as the kernel does."""

    def tick(self) -> None:
        super().tick()
        self.timer.set_relative(0)


# --- output, threads, what is global


@faulty("no-output", "hello")
class Prints(Counter):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        print("hello")


@faulty("no-output", "standard error")
class WarnsOnStandardError(Counter):
    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        sys.stderr.write("what is this value?\n")


@faulty("no-threads", "was started")
class StartsAThread(Counter):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.over.wait, name="gadget")
        self.thread.start()

    def pdm_destruct(self) -> None:
        if hasattr(self, "thread"):
            self.over.set()
            self.thread.join()


@faulty("no-threads", "threads are left at the end")
class LeavesAThread(Driver[None]):
    layers = CharStream, None

    def pdm_construct(self) -> None:
        threading.Thread(target=ENOUGH.wait, name="left", daemon=True).start()


@faulty("no-globals", "the environment")
class ChangesTheEnvironment(Counter):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        os.environ["COUNTERS"] = str(int(os.environ.get("COUNTERS", "0")) + 1)


@faulty("no-globals", "the seed of `random`")
class SeedsRandom(Counter):
    def pdm_construct(self) -> None:
        import random

        super().pdm_construct()
        random.seed(id(self))


@faulty("no-globals", "the module search path")
class ExtendsSysPath(Counter):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        sys.path.append("counters")


@faulty("no-globals", "the current folder")
class ChangesFolder(Counter):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        os.chdir("..")


@faulty("no-globals", "the umask")
class ChangesTheUmask(Counter):
    def pdm_construct(self) -> None:
        super().pdm_construct()
        os.umask(0o70)


@faulty("no-files", "left open at the end")
class LeavesAFileOpen(Driver[None]):
    layers = CharStream, None

    def pdm_construct(self) -> None:
        self.file = open(os.devnull)  # noqa: SIM115  # that is the fault


@faulty("no-files", "nobody closed it")
class ForgetsAFile(LeavesAFileOpen):
    def pdm_destruct(self) -> None:
        self.file = None  # type: ignore[assignment]


@faulty("thread", "char_sendable was called by a worker")
class CallsFromAWorker(Driver[None]):
    layers = CharStream, None
    above: CharStreamAbove

    def pdm_construct(self) -> None:
        self.helpers.worker("caller", lambda worker: self.above.char_sendable(), lambda: None)


@correct
class ClosesItsFile(LeavesAFileOpen):
    def pdm_destruct(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


# --- what is no input


@frozen
class SerialState(State, version=1):
    across_reset = frozenset({"serial"})
    count: int
    serial: int


@correct
class HasASerialNumber(Counter):
    """A number of its own, which a write of 0 shows: it is saved, and stays over a reset."""

    def pdm_construct(self) -> None:
        super().pdm_construct()
        self.serial = self.number()

    def number(self) -> int:
        return self.helpers.random_bytes(1)[0]

    def read(self, offset: int, size: int) -> int:
        return self.serial

    def pdm_save(self) -> SerialState:  # type: ignore[override]
        return SerialState(self.count, self.serial)

    def pdm_load(self, state: Any) -> None:
        self.count, self.serial = state.count, state.serial


@faulty("deterministic", "the answer is")
class CountsInstances(HasASerialNumber):
    made = itertools.count()

    def number(self) -> int:
        return next(self.made) & 0xFF


@faulty("no-host-time", "time.time_ns")
class UsesTheTimeOfDay(HasASerialNumber):
    def number(self) -> int:
        return time.time_ns() >> 4 & 0xFF


@faulty("no-host-time", "time.sleep")
class Sleeps(Counter):
    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        time.sleep(0.001)


@faulty("no-host-time", "datetime.now")
class UsesTheDate(HasASerialNumber):
    def number(self) -> int:
        return datetime.datetime.now().second


@faulty("no-host-time", "random.random")
class UsesTheRandomnessOfAll(HasASerialNumber):
    def number(self) -> int:
        return int(random.random() * 256)
