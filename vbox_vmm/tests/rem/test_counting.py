"""Executed instructions as a clock: the count is exact, and nothing that the host does shows in it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from zlib import crc32

import pytest
from attrs import define, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from rem_guest import CODE, COMMON, DATA, HLT, Device, Guest

from vbox_pdm.engine import CpuModel, Exit, ExitReason
from vbox_vmm.rem.probe import NATIVE, engine_class, usable

if reason := usable(NATIVE):
    pytest.skip(reason, allow_module_level=True)

HANDLERS = 0x6000
LATCH, FIFO = 0x80, 0x90
MMIO = 0xFEB0_0000
WINDOW, HOLE = 0x1F_0000, 0x1E_0000
"""Virtual addresses: of the device's page, and of nothing."""
VECTOR = 0x40
NO_LIMIT = (1 << 64) - 1


@frozen
class Step:
    """Code, how many instructions it executes, and before how many of them something is traced."""

    code: str
    count: int
    traced: tuple[int, ...] = ()


def loop(turns: int, body: str, count: int, traced: tuple[int, ...] = ()) -> Step:
    """mov ecx, turns; body; dec ecx; jnz to the body"""
    code = bytes.fromhex(body)
    back = (-(len(code) + 4)) & 0xFF
    times = count + 2
    return Step(
        f"b9{turns:02x}000000 {body} ffc9 75{back:02x}",
        1 + turns * times,
        tuple(1 + turn * times + at for turn in range(turns) for at in traced),
    )


STEPS = (
    Step("90 90 ffc0", 3),
    Step("e680", 1, (0,)),  # out 80, al
    Step("90 e480 90 e680 e480", 5, (1, 3, 4)),
    Step("0f31 90 90 e785", 4, (3,)),  # rdtsc; out 85, eax
    Step("0f31 89c3 90 0f31 29d8 e785 ", 6, (5,)),  # the difference of two in one block
    Step("0f01f9 e785", 2, (1,)),  # rdtscp
    Step("b910000000 0f32 e785", 3, (2,)),  # rdmsr of the TSC
    Step("0f0b e680", 1 + 2, (2,)),  # ud2; the handler's two instructions
    Step("31c9 f7f1 e680", 1 + 2 + 1, (3,)),  # div ecx
    Step("90 90 8a07 90 e680", 2 + 3 + 2, (6,)),  # mov al, [hole]
    Step("cd80 e680", 1 + 1 + 1, (2,)),  # int 80
    Step("cc e680", 1 + 1 + 1, (2,)),  # int3
    Step("a1 00001f0000000000 90 a3 04001f0000000000", 3, (0, 2)),  # loads and stores of MMIO
    Step("8b0425fc0f1f00", 1, ()),  # ... of what nobody answers
    Step("b907000000 bf00800000 f3aa bf00001e00", 3 + 8, ()),  # rep stosb: 7, and the look that ends it
    Step("b905000000 be00800000 ba80000000 f36e", 3 + 6, (3, 4, 5, 6, 7)),  # rep outsb
    Step("31c9 f3aa bf00001e00", 3, ()),  # rep stosb: none
    Step("b9c8000000 bf00800000 ba90000000 f36c bf00001e00", 4 + 201, ()),  # rep insb, in bulk
    Step("b964000000 bf001f0000 ba90000000 f366 6d bf00001e00", 4 + 101, ()),  # rep insw among code
    Step("b964000000 be00100000 ba90000000 f36f", 3 + 101, ()),  # rep outsd
    Step("c605 01000000 03 b000 e680", 3, (2,)),  # changes the next instruction: mov al, 3
    Step("90 c605 f9ffffff 90 90 e680", 4, (3,)),  # changes the one before, in the same block
    Step("eb00 e680 eb00", 3, (1,)),
    loop(5, "90", 1),
    loop(9, "90 e680", 2, (1,)),
    loop(3, "0f0b 90", 2 + 1),
    Step("9c 58 e680 50 9d", 5, (2,)),  # pushf; pop rax; push rax; popf
    Step("fa e680 fb 90 e680", 5, (1, 4)),  # cli, sti
)


@define
class Trace:
    """What the outside sees of a run."""

    guest: Guest
    events: list[tuple[int | str, ...]]
    moved: int = 0
    """Bytes that the FIFO has given."""

    def read(self, offset: int, size: int) -> int:
        self.events.append((self.guest.rem.executed(), "read", offset, size))
        return 0x55

    def write(self, offset: int, size: int, value: int) -> None:
        self.events.append((self.guest.rem.executed(), "write", offset, size, value))

    def row(self, first: int, size: int) -> Exit:
        return Exit(first, size, self.read, self.write, self.read, self.write)

    def fifo_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.fifo_read_string(offset, size, 1), "little")

    def fifo_read_string(self, offset: int, size: int, count: int) -> bytes:
        # Not traced: a stop may cut one call in two.
        self.moved += size * count
        return bytes(at * 7 & 0xFF for at in range(self.moved - size * count, self.moved))

    def fifo_write(self, offset: int, size: int, value: int) -> None:
        self.moved += value & 1

    def fifo_write_string(self, offset: int, size: int, items: bytes) -> int:
        self.moved += sum(items[at] & 1 for at in range(0, len(items), size))
        return len(items)

    def fifo(self) -> Exit:
        plain = (self.fifo_read, self.fifo_write)
        return Exit(
            FIFO, 4, *plain, *plain, read_string=self.fifo_read_string, write_string=self.fifo_write_string
        )


def attach(trace: Trace, executed: int) -> None:
    """Give the guest's engine its devices and its clock."""
    rem = trace.guest.rem
    rem.set_ports([trace.row(LATCH, 16), trace.fifo()])
    rem.set_mmio([trace.row(MMIO, 16)])
    rem.count_instructions(1, executed, 0)
    rem.set_tsc(0, 0, 1_000_000_000, NO_LIMIT)


def make(code: bytes, buffer: int = 1 << 20) -> tuple[Guest, Trace]:
    guest = Guest(CpuModel(translation_buffer=buffer))
    trace = Trace(guest, [])
    guest.page(WINDOW, MMIO | 3)
    guest.page(HOLE, 0)
    handlers = {
        0: "48830424 02 48cf",  # add qword [rsp], 2; iretq
        6: "48830424 02 48cf",
        14: "4883c408 48830424 02 48cf",
        3: "48cf",
        0x80: "48cf",
        VECTOR: "e684 48cf",  # out 84, al
    }
    for number, (vector, handler) in enumerate(handlers.items()):
        at = HANDLERS + number * 32
        guest.ram.write(at, bytes.fromhex(handler))
        guest.gate(vector, at)
    attach(trace, 0)
    state = guest.long_mode(code, rflags=0x202)
    state.gpr[7] = HOLE
    guest.rem.set_state(state)
    return guest, trace


def assemble(steps: Sequence[Step]) -> bytes:
    # The latch's port must not become the interrupt's, whatever AL is; a page holds all code.
    # An interrupt may wake it from the HLT: then it comes there again.
    code = b"".join(bytes.fromhex(step.code) for step in steps) + HLT + bytes.fromhex("ebfd")
    assert len(code) < 0xF00
    return code


def run(
    steps: Sequence[Step],
    stops: Sequence[int] = (),
    disturb: Callable[[Trace, int], None] = lambda trace, stop: None,
    buffer: int = 1 << 20,
    kicks: bool = False,
) -> list[tuple[int | str, ...]]:
    """The trace of a program that is interrupted whenever so many instructions more have been executed."""
    guest, trace = make(assemble(steps), buffer)
    with closing(guest):
        pending, stop, ended = list(stops), NO_LIMIT, threading.Event()

        def kick() -> None:
            rng = random.Random(0)
            for _ in range(1000):  # not for ever: together with flushes they may leave no time for a block
                if ended.is_set():
                    return
                guest.rem.kick()
                time.sleep(rng.random() * 50e-6)

        def advance() -> None:
            nonlocal stop
            stop = guest.rem.executed() + pending.pop(0) if pending else NO_LIMIT
            guest.rem.stop_at(stop)

        advance()
        thread = threading.Thread(target=kick)
        if kicks:
            thread.start()
        try:
            while True:
                disturb(trace, stop)
                rem = guest.rem
                reason = rem.run()
                if reason is ExitReason.HALTED:
                    state = rem.get_state()
                    digest = crc32(guest.ram.read(CODE, DATA + 0x1000 - CODE))
                    end = (rem.executed(), "halted", state.rip, *state.gpr, digest, trace.moved)
                    trace.events.append(end)
                    return trace.events
                assert reason is ExitReason.KICKED, rem.failure
                if rem.executed() >= stop:
                    trace.events.append((rem.executed(), "stopped", rem.get_state().rip))
                    guest.host.vectors = [VECTOR]
                    rem.interrupt(True)
                    advance()
        finally:
            ended.set()
            if kicks:
                thread.join()


def move_to_another_engine(trace: Trace) -> None:
    """What a saved state does: all that the guest sees of its CPU goes to a new engine."""
    guest, old = trace.guest, trace.guest.rem
    state, executed = old.get_state(), old.executed()
    old.close()
    guest.rem = guest.host.rem = engine_class(NATIVE).create(guest.host, CpuModel(translation_buffer=1 << 20))
    guest.rem.map_ram(0, guest.ram.size, guest.ram.address, guest.ram.address)
    attach(trace, executed)
    guest.rem.set_state(state)
    guest.rem.interrupt(bool(guest.host.vectors))


def leave_each_block(trace: Trace, stop: int) -> None:
    trace.guest.rem.stop_at(min(trace.guest.rem.executed() + 1, stop))


def flush(trace: Trace, stop: int) -> None:
    """Forgets all translations."""
    trace.guest.rem.set_state(trace.guest.rem.get_state())


programs = st.lists(st.sampled_from(STEPS), min_size=1, max_size=25)
stop_lists = st.lists(st.integers(0, 60), max_size=8)


@settings(max_examples=150, deadline=None)
@given(programs)
def test_count_is_of_executed_instructions_exactly(steps: list[Step]) -> None:
    expected, at = [], 0
    for step in steps:
        expected += [at + traced for traced in step.traced]
        at += step.count

    events = run(steps)

    assert [event[0] for event in events] == [*expected, at + 1]


@settings(max_examples=100, deadline=None)
@given(programs)
def test_time_stamp_counter_is_the_count(steps: list[Step]) -> None:
    events = run([Step("0f31 90 e785", 3, (2,)), *steps, Step("0f31 e785", 2, (1,))])

    first, last = events[0], events[-2]
    assert first == (2, "write", 5, 4, 0)
    assert last[1:] == ("write", 5, 4, int(last[0]) - 1)


@settings(max_examples=60, deadline=None)
@given(programs, stop_lists)
def test_trace_of_disturbed_run_is_the_same(steps: list[Step], stops: list[int]) -> None:
    quiet = run(steps, stops)

    assert run(steps, stops) == quiet
    assert run(steps, stops, flush) == quiet
    assert run(steps, stops, kicks=True) == quiet
    assert run(steps, stops, flush, kicks=True) == quiet
    assert run(steps, stops, leave_each_block) == quiet


def test_count_of_code_larger_than_the_translation_buffer_is_exact() -> None:
    # Each turn writes the page anew, which makes all of it be translated again.
    steps = [loop(100, "90 e680 0f0b", 2 + 2, (1,)) for _ in range(60)]

    events = run(steps, [7] * 50, buffer=1 << 20)

    assert events == run(steps, [7] * 50, buffer=8 << 20)


@pytest.mark.parametrize("kicks", [False, True])
def test_long_run_with_interrupts_is_the_same_twice(kicks: bool) -> None:
    steps = [loop(200, "90 e680 0f31 e785", 4, (1, 3)), loop(120, "0f0b 8a07 cd80", 2 + 3 + 2)] * 10
    stops = [random.Random(1).randrange(200) for _ in range(200)]

    assert run(steps, stops, kicks=kicks) == run(steps, stops)


def test_stop_takes_effect_at_the_first_block_start_behind_it() -> None:
    guest, _ = make(bytes.fromhex("90 90 90 90 eb00 90 90 eb00 90 f4"))
    with closing(guest):
        guest.rem.stop_at(3)

        assert guest.rem.run() is ExitReason.KICKED
        assert (guest.rem.executed(), guest.rem.get_state().rip) == (5, CODE + 6)
        assert guest.rem.run() is ExitReason.KICKED  # until it is moved
        guest.rem.stop_at(6)
        assert guest.rem.run() is ExitReason.KICKED
        assert (guest.rem.executed(), guest.rem.get_state().rip) == (8, CODE + 10)
        guest.rem.stop_at(NO_LIMIT)
        assert guest.rem.run() is ExitReason.HALTED
        assert guest.rem.executed() == 10


def test_stop_set_by_a_handler_takes_effect_at_the_next_block() -> None:
    guest, _ = make(bytes.fromhex("e680 eb00 90 90 f4"))

    class Stops(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.stop_at(0)

    with closing(guest):
        guest.rem.set_ports([Stops().row(LATCH, 8)])

        assert guest.rem.run() is ExitReason.KICKED
        assert guest.rem.executed() == 2


@settings(max_examples=60, deadline=None)
@given(programs, stop_lists, st.integers(0, 200))
def test_trace_over_a_saved_state_is_the_same(steps: list[Step], stops: list[int], saved_at: int) -> None:
    saved = False

    def save_and_load(trace: Trace, stop: int) -> None:
        nonlocal saved
        if not saved and trace.guest.rem.executed() >= saved_at:
            saved = True
            move_to_another_engine(trace)
        trace.guest.rem.stop_at(stop if saved else min(saved_at, stop))

    assert run(steps, stops, save_and_load) == run(steps, stops)


def test_count_goes_on_from_a_saved_one() -> None:
    guest, trace = make(bytes.fromhex("90 e680 f4"))
    with closing(guest):
        guest.rem.count_instructions(1, 1_000, 0)

        assert guest.rem.run() is ExitReason.HALTED
        assert trace.events == [(1_001, "write", 0, 1, 0)]
        assert guest.rem.executed() == 1_003


def test_reset_keeps_the_count() -> None:
    guest, _ = make(bytes.fromhex("90 f4"))
    with closing(guest):
        guest.rem.run()
        guest.rem.reset()

        assert guest.rem.executed() == 2


def test_into_counts_what_was_executed() -> None:
    # 16-bit: mov al, 7f; inc al; into, to a handler that halts
    guest, _ = make(HLT)
    with closing(guest):
        guest.ram.write(4 * 4, (COMMON).to_bytes(4, "little"))
        guest.real_mode(bytes.fromhex("b07f fec0 ce 90 90 90 f4"))

        assert guest.halt().rip == COMMON + 1
        assert guest.rem.executed() == 4


def test_counting_within_a_handler_is_refused() -> None:
    guest, _ = make(bytes.fromhex("e680 f4"))

    class Starts(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.count_instructions(1, 0, 0)

    with closing(guest):
        guest.rem.set_ports([Starts().row(LATCH, 8)])
        guest.halt()

        assert isinstance(guest.host.failures[0][4], RuntimeError)
        assert "while the engine runs" in str(guest.host.failures[0][4])


def test_engine_that_does_not_count_is_not_stopped() -> None:
    with closing(Guest()) as guest:
        guest.rem.stop_at(0)
        guest.long_mode(bytes.fromhex("90 f4"))

        assert guest.rem.run() is ExitReason.HALTED
