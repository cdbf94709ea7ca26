"""Random code as a guest, in a process of its own: what may die, or hang, is that.

    random_code.py ENGINE MODE FIRST SECONDS    cases of MODE from number FIRST on, for so much CPU time
    random_code.py ENGINE MODE FIRST-LAST       these cases and no others

Before each case its number is written to standard output, so that whoever watches knows which it was.  All of
a case follows from its mode and number; the engine stays, with what it has cached of earlier cases.  Where
the engine counts instructions they end a case, which so repeats; else, and for what takes too long, there is
a deadline of the host.
Exit code 1: an invariant of the engine broke, which is said on standard error.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from attrs import asdict, define, evolve
from rem_guest import CODE, GDT, IDT, PML4, PT, RAM_SIZE, STUBS, TSS, Guest
from rem_guest32 import CODE16, DATA16, DATA_SEGMENTS, start, start_v86
from x86_forms import FORMS

from vbox_pdm.engine import CpuModel, CpuState, Exit, ExitReason, InstructionCounter, Segment

MODES = ("real", "16", "32", "v86", "paged32", "pae", "compat16", "compat32", "long64")
INSTRUCTIONS = 20_000
"""Executed in a case before it is left."""
ENDLESS = (1 << 64) - 1
HOST_DEADLINE, UNCOUNTED_DEADLINE = 300_000_000, 2_000_000
"""ns"""
MMIO = ((0x400000, 0x100000), (0xFEB0_0000, 0x1000))
PLACES = (
    0,
    8,
    0x18,
    0x40,
    0x1000,
    0x1FFE,
    0x2000,
    0x3000,
    0x8000,
    0x9FFE,
    0xC000,
    0xFFF8,
    0x10000,
    0x3FFFF0,
    0x400000,
)
"""Where tables, code and the ends of things are."""
_STARTS = """
0f 660f f30f f20f 0f38 0f01 0fc7 0fae 660f38 660f3a 660f3a61 66480f3a60 c4 c5 62 cf ca 9a ea ff d9 df db 0f22
0f23 8e f3 f2 cd cc ce f1 0f00 0f05 0f34 0f35 0f07 0fa2 0f30 0f32 0f31 e4 e6 ec ee 6c 6e f36c f36e f3a4 f3aa
f3a6 f3ae c8 c9 60 61 62 63 9c 9d fa fb f0 66 67 2e 36 48 0f0b 0f09 0f08 0f20 0f21 0f06 0fb2 d6 82 8f 0f1f
0f18 0f0d 0fff 0fb9 b9800000c00f30 0f01d0 0f01f9 0f01f8
"""
STARTS = (b"", *(bytes.fromhex(text) for text in _STARTS.split()))
"""Of instructions that do something to the machine, or that are seldom decoded."""

NOWHERE = 0x7000_0000
"""Where no memory is, nor a device."""


@define
class Noise:
    """A device that answers at random, and now and then misbehaves as no device should."""

    rng: random.Random
    guest: Guest
    failures: int = 0

    def _misbehave(self) -> object:
        kind = self.rng.randrange(400)
        if kind == 0:
            raise ValueError("a handler that raises")
        if kind == 1:
            return self.rng.choice([None, "text", 1.5, -1, 1 << 80, b"", [], 2**64 - 1])
        if kind == 2:
            self.guest.rem.invalidate(0, RAM_SIZE)
        elif kind == 3:
            self.guest.rem.a20(self.rng.random() < 0.5)
        elif kind == 4:
            self.guest.rem.interrupt(self.rng.random() < 0.5)
        elif kind == 5:
            self.guest.rem.nmi()
        elif kind == 6:
            self.guest.rem.kick()
        elif kind == 7:
            self.guest.rem.unmap(0x300000, 0x1000)
        elif kind == 8:
            self.guest.rem.map_ram(0, RAM_SIZE, self.guest.ram.address, self.guest.ram.address)
        elif kind == 9:
            self.guest.rem.run()  # refused
        return self

    def read(self, offset: int, size: int) -> Any:
        answer = self._misbehave()
        return self.rng.getrandbits(size * 8) if answer is self else answer

    def write(self, offset: int, size: int, value: int) -> Any:
        self._misbehave()

    def read_string(self, offset: int, size: int, count: int) -> Any:
        answer = self._misbehave()
        return self.rng.randbytes(size * self.rng.randint(0, count)) if answer is self else answer

    def write_string(self, offset: int, size: int, items: bytes) -> Any:
        answer = self._misbehave()
        return size * self.rng.randint(0, len(items) // size) if answer is self else answer

    def row(self, first: int, size: int, strings: bool = False) -> Exit:
        handlers = (self.read, self.write, self.read, self.write)
        string_handlers = (self.read_string, self.write_string) if strings else (None, None)
        return Exit(first, size, *handlers, self.rng.randrange(16), 0, self, *string_handlers)


def instruction(rng: random.Random) -> bytes:
    """One that exists, has a known beginning, or is nothing; often with some bits changed."""
    kind = rng.random()
    if kind < 0.45:
        code = bytearray(rng.choice(FORMS).draw(rng))
    elif kind < 0.9:
        code = bytearray(rng.choice(STARTS) + rng.randbytes(rng.randrange(1, 5)))
    else:
        code = bytearray(rng.randbytes(rng.randrange(1, 8)))
    while code and rng.random() < 0.3:
        code[rng.randrange(len(code))] ^= 1 << rng.randrange(8)
    return bytes(code)


def program(rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return rng.randbytes(256)
    code = b"".join(instruction(rng) for _ in range(40))
    if rng.random() < 0.5:  # again from the start
        code += b"\xe9" + struct.pack("<i", -len(code) - 5)
    return code


# --- states


def real(guest: Guest, code: bytes, rng: random.Random) -> CpuState:
    guest.real_mode(code)
    for vector in range(256):
        guest.ram.write(vector * 4, struct.pack("<HH", STUBS + (vector & 15) * 16, 0))
    return guest.rem.get_state()


def protected16(guest: Guest, code: bytes, rng: random.Random) -> CpuState:
    state = start(guest, code)
    state.cs, state.ss = CODE16, DATA16
    return state


def protected32(guest: Guest, code: bytes, rng: random.Random) -> CpuState:
    return start(guest, code, user=rng.random() < 0.4)


def virtual8086(guest: Guest, code: bytes, rng: random.Random) -> CpuState:
    return start_v86(guest, code, iopl=rng.choice([0, 3]))


def paged32(guest: Guest, code: bytes, rng: random.Random) -> CpuState:
    state = protected32(guest, code, rng)
    state.cr0, state.cr3, state.cr4 = (
        0x8000_0031 | rng.choice([0, 0x10000]),
        0x300000,
        rng.choice([0, 0x10, 0x90]),
    )
    guest.ram.write(0x300000, struct.pack("<3I", 0x301007, 0x400087 if state.cr4 else 0x302007, 0x302007))
    guest.ram.write(0x301000, struct.pack("<1024I", *(page << 12 | 7 for page in range(1024))))
    guest.ram.write(
        0x302000, struct.pack("<1024I", *(page << 12 | rng.choice([0, 1, 7]) for page in range(1024)))
    )
    return state


def pae(guest: Guest, code: bytes, rng: random.Random) -> CpuState:
    state = protected32(guest, code, rng)
    state.cr0, state.cr3, state.cr4 = 0x8000_0031, 0x300000, 0x20
    state.efer = rng.choice([0, 0x800])
    guest.ram.write(0x300000, struct.pack("<4Q", 0x301001, 0x301001, 0, 0))
    guest.ram.write(0x301000, struct.pack("<4Q", 0x87, 0x200087, 0x400087, 0x87 | 1 << 63))
    return state


def long64(guest: Guest, code: bytes, rng: random.Random) -> CpuState:
    return guest.long_mode(code, user=rng.random() < 0.4)


def compatibility(attributes: int) -> Callable[[Guest, bytes, random.Random], CpuState]:
    def make(guest: Guest, code: bytes, rng: random.Random) -> CpuState:
        state = long64(guest, code, rng)
        user = state.cs.selector & 3
        state.cs = (
            Segment(0x18 | 3, 0, 0xFFFFFFFF, attributes | 0x6000)
            if user
            else Segment(8, 0, 0xFFFFFFFF, attributes)
        )
        return state

    return make


STATES: dict[str, Callable[[Guest, bytes, random.Random], CpuState]] = {
    "real": real,
    "16": protected16,
    "32": protected32,
    "v86": virtual8086,
    "paged32": paged32,
    "pae": pae,
    "compat16": compatibility(0x809B00),
    "compat32": compatibility(0xC09B00),
    "long64": long64,
}


def spoil_tables(guest: Guest, state: CpuState, rng: random.Random) -> CpuState:
    """Descriptor tables, the TSS and page tables with something else in them, or elsewhere, or shorter."""
    put = guest.ram.write
    if rng.random() < 0.3:
        put(GDT + rng.randrange(1, 10) * 8, rng.randbytes(8))
    if rng.random() < 0.3:
        put(IDT + rng.randrange(256) * 8, rng.randbytes(8 * rng.randrange(1, 5)))
    if rng.random() < 0.2:
        put(TSS + rng.randrange(0x68), rng.randbytes(rng.randrange(1, 32)))
    if rng.random() < 0.2:
        put(rng.choice([PML4, PT, PT + 8 * rng.randrange(512), 0x300000, 0x301000]), rng.randbytes(8))
    if rng.random() < 0.1:
        state = evolve(
            state,
            idtr=rng.choice([(0, 0), (IDT, 0), (IDT, rng.getrandbits(12)), (rng.getrandbits(40), 0xFFFF)]),
        )
    if rng.random() < 0.1:
        state = evolve(
            state, gdtr=rng.choice([(0, 0), (GDT, rng.getrandbits(6)), (rng.getrandbits(40), 0xFFFF)])
        )
    if rng.random() < 0.1:
        name = rng.choice([*DATA_SEGMENTS, "ldtr", "tr", "cs"])
        attributes = rng.getrandbits(32) & 0xF0FF00
        if name == "tr":  # no CPU has anything but a busy TSS there
            attributes = rng.choice([0x8B00, 0x8300])
        wild = Segment(rng.getrandbits(16), rng.getrandbits(32), rng.getrandbits(32), attributes)
        state = evolve(state, **{name: wild})
    return state


def state_of(guest: Guest, mode: str, rng: random.Random) -> CpuState:
    state = STATES[mode](guest, program(rng), rng)
    state = spoil_tables(guest, state, rng)
    for number in range(16):
        if number != 4 or rng.random() < 0.2:
            state.gpr[number] = rng.choice((rng.getrandbits(64), rng.randrange(0x10000), rng.choice(PLACES)))
    state.rflags |= rng.getrandbits(22) & 0x254FD5 if rng.random() < 0.7 else 0
    if mode not in ("v86",):
        state.rflags &= ~(1 << 17)
    if rng.random() < 0.1:  # watched
        state.dr = [0x8000, 0x9000, CODE + 3, 0xEFF0, 0, 0, 0xFFFF0FF0, 0x4FF | rng.getrandbits(16) << 16]
    if rng.random() < 0.2:
        state.fpu = rng.randbytes(24) + struct.pack("<II", rng.getrandbits(16), 0xFFFF) + rng.randbytes(480)
    state.interrupt_shadow = rng.random() < 0.05
    state.nmi_blocked = rng.random() < 0.05
    return state


# --- running


class Broken(AssertionError):
    """An invariant of the engine does not hold."""


def check(condition: bool, what: str) -> None:
    if not condition:
        raise Broken(what)


def difference(first: list[dict[str, object]], second: list[dict[str, object]]) -> str:
    """Where two outcomes differ for the first time."""
    for at, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return f"at {at}: " + ", ".join(
                f"{name} {one[name]} and {other[name]}" for name in one if one[name] != other[name]
            )
    return f"{len(first)} and {len(second)} times left"


@define
class Runner:
    """One engine for many cases."""

    mode: str
    guest: Guest
    pristine: bytes
    endings: Counter[str]
    hurried: bool = False
    """Whether the case was left for the host's time."""

    @classmethod
    def make(cls, engine: str, mode: str) -> Runner:
        guest = Guest(CpuModel(translation_buffer=2 << 20), engine)
        return cls(mode, guest, guest.ram.read(0, RAM_SIZE), Counter())

    @property
    def counts(self) -> bool:
        """Whether the engine counts instructions."""
        return isinstance(self.guest.rem, InstructionCounter)

    def case(self, number: int) -> None:
        """One case; every fourth twice, which must come to the same by the same number of instructions."""
        self.hurried = False
        outcome = self._once(number, disturbed=False)
        if number % 4 == 0 and self.counts:
            again = self._once(number, disturbed=True)
            check(
                self.hurried or again == outcome,
                f"it is not the same when it is repeated: {difference(outcome, again)}",
            )

    def _once(self, number: int, disturbed: bool) -> list[dict[str, object]]:
        """How it stands whenever it is left; `disturbed`: its translations are forgotten each time."""
        rng = random.Random(f"{self.mode} {number}")
        guest, rem = self.guest, self.guest.rem
        noise = Noise(rng, guest)
        self._begin_afresh()
        rem.set_ports([noise.row(0, 0x1000), noise.row(0x1000, 0xF000, strings=True)])
        rem.set_mmio([noise.row(*place) for place in MMIO])
        rem.set_state(state_of(guest, self.mode, rng))
        guest.host.vectors = [rng.randrange(256) for _ in range(3)]
        rem.interrupt(rng.random() < 0.3)
        if rng.random() < 0.1:
            rem.nmi()
        outcome: list[dict[str, object]] = []
        for share in (1, 2, 3):
            if self.counts:
                rem.stop_at(INSTRUCTIONS * share // 3)
            reason = self._run()
            self.endings[reason.name] += 1
            check(reason is not ExitReason.FAILED, rem.failure)
            state = rem.get_state()
            executed = rem.executed() if self.counts else 0
            outcome.append({"reason": reason.name, "executed": executed, **asdict(state)})
            if reason is ExitReason.TRIPLE_FAULT:
                break  # loading a state would end it
            if disturbed:
                rem.set_state(state)
                check(rem.get_state() == state, "a state that was read is not taken as it is")
            else:
                rem.unmap(NOWHERE, 0x1000)  # the TLB is empty in both: code of a device is fetched again
        return outcome

    def _begin_afresh(self) -> None:
        """Nothing is left of what the guest, or a device, did before."""
        rem, guest = self.guest.rem, self.guest
        rem.map_ram(0, RAM_SIZE, guest.ram.address, guest.ram.address)
        rem.a20(True)
        rem.interrupt(False)
        guest.ram.write(0, self.pristine)
        rem.invalidate(0, RAM_SIZE)
        if self.counts:
            rem.count_instructions(1, 0, 0)
            rem.set_tsc(0, 0, 1_000_000_000, ENDLESS)
        rem.reset()
        rem.set_state(CpuState(halted=True))
        while rem.run() is ExitReason.KICKED:
            pass

    def _run(self) -> ExitReason:
        """To the stop, or the host's deadline: code that changes the block in which it stands, again and
        again, may take a second for a few hundred instructions."""
        deadline = time.monotonic_ns() + (HOST_DEADLINE if self.counts else UNCOUNTED_DEADLINE)
        self.guest.rem.set_deadline(deadline)
        try:
            return self.guest.rem.run()
        finally:
            self.guest.rem.set_deadline(0)
            self.hurried |= time.monotonic_ns() >= deadline

    def still_works(self) -> None:
        """After all that a guest runs as ever."""
        rem, guest = self.guest.rem, self.guest
        self._begin_afresh()
        guest.long_mode(bytes.fromhex("b92a000000 ffc9 75fc f4"))
        rem.kick()
        while (reason := rem.run()) is ExitReason.KICKED:
            pass
        check(
            reason is ExitReason.HALTED and rem.get_state().rip == CODE + 10, "a plain guest fails afterwards"
        )


def numbers(words: list[str]) -> Iterator[int]:
    """The cases that the command line asks for."""
    if "-" in words[0]:
        first, last = words[0].split("-")
        yield from range(int(first), int(last) + 1)
        return
    number, end = int(words[0]), time.process_time() + float(words[1])
    while time.process_time() < end:
        yield number
        number += 1


def main(words: list[str]) -> int:
    engine, mode = words[:2]
    runner = Runner.make(engine, mode)
    number = -1
    try:
        for number in numbers(words[2:]):
            os.write(1, b"%d\n" % number)
            runner.case(number)
        runner.still_works()
    except Exception as error:
        print(f"case {number} of {mode}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(dict(runner.endings), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
