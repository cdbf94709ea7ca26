"""Kicks, deadlines, time, threads, many engines."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time

import pytest
from rem_guest import CODE, DATA, HLT, Device, Guest, Ram

from vbox_pdm.engine import CpuModel, ExitReason
from vbox_vmm.rem.probe import NATIVE

LOOP = bytes.fromhex("ebfe")
COUNT = bytes.fromhex("48ffc0 48ff042500800000 ebf3")  # inc rax / inc qword [8000] / jmp


def test_kick_before_run_makes_it_return_at_once(guest: Guest) -> None:
    guest.long_mode(LOOP)

    guest.rem.kick()

    assert guest.run() is ExitReason.KICKED
    assert guest.run(0.01) is ExitReason.KICKED  # by the deadline: the first kick is used up


def test_kick_before_a_triple_fault_does_not_hide_it(guest: Guest) -> None:
    # Whoever is told of the kick may load the state again, which knows nothing of a shutdown.
    class Kicking(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.kick()

    guest.rem.set_ports([Kicking().row(0x10, 1)])
    guest.long_mode(bytes.fromhex("e610 0f0b"), idtr=(0, 0))  # out 10h, al / ud2

    assert guest.run() is ExitReason.TRIPLE_FAULT
    assert guest.run() is ExitReason.TRIPLE_FAULT


def test_kick_from_another_thread_stops_a_loop(guest: Guest) -> None:
    guest.long_mode(LOOP)
    threading.Timer(0.02, guest.rem.kick).start()
    begin = time.monotonic()

    assert guest.run() is ExitReason.KICKED
    assert time.monotonic() - begin < 1


def test_kicks_at_random_never_repeat_or_skip_an_instruction(guest: Guest) -> None:
    guest.long_mode(COUNT)
    rng = random.Random(1)
    stop = threading.Event()

    def kicker() -> None:
        while not stop.is_set():
            time.sleep(rng.random() * 1e-4)
            guest.rem.kick()

    thread = threading.Thread(target=kicker)
    thread.start()
    try:
        last = -1
        for _ in range(1500):
            assert guest.run() is ExitReason.KICKED
            if rng.random() < 0.1:
                state = guest.rem.get_state()
                registers, memory = state.gpr[0], guest.ram.u64(DATA)
                assert registers - memory == {CODE: 0, CODE + 3: 1, CODE + 11: 0}[state.rip]
                assert registers >= last
                last = registers
    finally:
        stop.set()
        thread.join()
    assert last > 1000


def test_interrupts_at_random_never_repeat_or_skip_an_instruction(guest: Guest) -> None:
    guest.long_mode(COUNT, rflags=0x202)
    guest.gate(0x40, 0x6000)
    guest.ram.write(0x6000, bytes.fromhex("48ffc3 48cf"))  # inc rbx / iretq
    taken = 0
    stop = time.monotonic() + 0.5
    while time.monotonic() < stop:
        guest.host.vectors = [0x40]
        guest.rem.interrupt(True)
        guest.run(0.0005)
        taken += 1 - len(guest.host.vectors)
        state = guest.rem.get_state()
        if state.rip < 0x2000:
            assert state.gpr[0] - guest.ram.u64(DATA) in (0, 1)

    assert state.gpr[3] in (taken, taken - 1)
    assert taken > 100


@pytest.fixture
def asking(engine: str, guest: Guest) -> Guest:
    """A guest whose engine asks its host before it leaves for a kick."""
    if engine != NATIVE:
        pytest.skip("this engine leaves at each kick")
    return guest


def start_kicking(guest: Guest, code: bytes, **registers: int) -> None:
    """The guest runs an OUT that kicks, and then the code, at `KICKED`."""

    class Kicks(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.kick()

    guest.rem.set_ports([Kicks().row(0x80, 1)])
    guest.long_mode(b"\xee" + code, rdx=0x80, **registers)


KICKED = CODE + 1


def test_kick_that_the_host_attends_to_does_not_leave_the_guest(asking: Guest) -> None:
    start_kicking(asking, COUNT)
    seen: list[tuple[bool, int]] = []

    def kick_when_it_got_on(count: int) -> None:
        late = time.monotonic() + 20
        while asking.ram.u64(DATA) == count and time.monotonic() < late:
            time.sleep(0.001)
        asking.rem.kick()

    def attend() -> bool:
        count = asking.ram.u64(DATA)
        seen.append((threading.current_thread() is runner, count))
        if len(seen) < 5:
            threading.Thread(target=kick_when_it_got_on, args=(count,)).start()
        return len(seen) == 5

    runner, asking.host.attend = threading.current_thread(), attend  # type: ignore[method-assign]

    assert asking.rem.run() is ExitReason.KICKED
    counts = [count for _, count in seen]
    assert [on_runner for on_runner, _ in seen] == [True] * 5
    assert counts == sorted(set(counts))  # the guest got on in between


def test_kick_before_run_that_the_host_attends_to_wakes_a_halted_guest(asking: Guest) -> None:
    asking.long_mode(b"\xfb\xf4")  # sti / hlt
    first = asking.run()

    def attend() -> bool:
        asking.rem.interrupt(True)
        return False

    asking.host.vectors = [0x40]
    asking.host.attend = attend  # type: ignore[method-assign]
    asking.rem.kick()

    frame = asking.fault()

    assert first is ExitReason.HALTED
    assert (frame.vector, frame.rip) == (0x40, CODE + 2)


def test_kick_that_comes_while_the_host_attends_is_attended_to_as_well(asking: Guest) -> None:
    start_kicking(asking, LOOP)
    asked: list[int] = []

    def attend() -> bool:
        asked.append(1)
        asking.rem.kick()
        return len(asked) == 100

    asking.host.attend = attend  # type: ignore[method-assign]

    assert asking.rem.run() is ExitReason.KICKED
    assert len(asked) == 100


def test_interrupt_raised_while_the_host_attends_is_taken_before_the_next_instruction(asking: Guest) -> None:
    start_kicking(asking, COUNT, rflags=0x202)
    asking.gate(0x40, 0x6000)
    asking.ram.write(0x6000, HLT)
    asking.host.vectors = [0x40]
    counts: list[int] = []

    def attend() -> bool:
        counts.append(asking.ram.u64(DATA))
        asking.rem.interrupt(True)
        return False

    asking.host.attend = attend  # type: ignore[method-assign]

    assert asking.rem.run() is ExitReason.HALTED
    assert counts == [asking.ram.u64(DATA)]
    assert asking.rem.get_state().rip == 0x6001


def test_code_that_is_changed_while_the_host_attends_is_executed_as_it_is_then(asking: Guest) -> None:
    start_kicking(asking, LOOP)

    def attend() -> bool:
        asking.ram.write(KICKED, HLT)
        asking.rem.invalidate(KICKED, 1)
        return False

    asking.host.attend = attend  # type: ignore[method-assign]

    assert asking.rem.run() is ExitReason.HALTED
    assert asking.rem.get_state().rip == KICKED + 1


def test_memory_that_is_remapped_while_the_host_attends_is_the_new_one(asking: Guest) -> None:
    other = Ram(1 << 16)
    other.write(KICKED, HLT)
    start_kicking(asking, LOOP)

    def attend() -> bool:
        asking.rem.map_ram(CODE, 0x1000, other.address + CODE, other.address + CODE)
        return False

    asking.host.attend = attend  # type: ignore[method-assign]

    assert asking.rem.run() is ExitReason.HALTED
    asking.rem.map_ram(CODE, 0x1000, asking.ram.address + CODE, asking.ram.address + CODE)
    other.close()


def test_host_that_raises_while_it_attends_has_the_guest_left(
    asking: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(str(what.exc_value)))
    start_kicking(asking, LOOP)

    def attend() -> bool:
        raise RuntimeError("no time")

    asking.host.attend = attend  # type: ignore[method-assign]

    assert asking.rem.run() is ExitReason.KICKED
    assert told == ["no time"]


def test_engine_that_counts_leaves_for_a_kick_without_asking(asking: Guest) -> None:
    asked: list[int] = []
    start_kicking(asking, LOOP)
    asking.rem.count_instructions(1, 0, 0)  # type: ignore[attr-defined]
    asking.host.attend = lambda: bool(asked.append(1))  # type: ignore[method-assign]

    assert asking.rem.run() is ExitReason.KICKED
    assert asked == []


def test_deadline_kicks_at_its_time(guest: Guest) -> None:
    guest.long_mode(LOOP)
    late = []
    for _ in range(20):
        at = time.monotonic_ns() + 2_000_000
        guest.rem.set_deadline(at)
        assert guest.rem.run() is ExitReason.KICKED
        late.append(time.monotonic_ns() - at)

    assert min(late) >= 0
    assert min(late) < 2_000_000  # the best: other work on the machine delays the rest


def test_deadline_that_comes_sooner_or_later_than_the_one_before_kicks_once_at_its_time(guest: Guest) -> None:
    guest.long_mode(LOOP)
    spans = [2, 2, 2, 2, 1, 1, 1, 9, 2, 2, 2, 0, 2, 30, 1, 1, 1]  # ms; an even beat, and out of it
    at, late = time.monotonic_ns(), []
    for span in spans:
        at = max(at, time.monotonic_ns() - 500_000) + span * 1_000_000
        guest.rem.set_deadline(at)
        assert guest.rem.run() is ExitReason.KICKED
        late.append(time.monotonic_ns() - at)

    assert min(late) >= 0
    assert max(late) < 5_000_000_000
    guest.long_mode(HLT)
    time.sleep(0.02)  # nothing is to come any more
    assert guest.rem.run() is ExitReason.HALTED


def test_deadline_moved_earlier_and_cancelled_is_followed(guest: Guest) -> None:
    guest.long_mode(LOOP)
    begin = time.monotonic_ns()
    guest.rem.set_deadline(begin + 10_000_000_000)
    guest.rem.set_deadline(begin + 5_000_000)
    assert guest.rem.run() is ExitReason.KICKED
    assert time.monotonic_ns() - begin < 1_000_000_000

    guest.rem.set_deadline(time.monotonic_ns() + 5_000_000)
    guest.rem.set_deadline(0)
    guest.long_mode(HLT)
    time.sleep(0.02)

    assert guest.rem.run() is ExitReason.HALTED


def test_deadline_set_in_a_handler_counts(guest: Guest) -> None:
    class Sets(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.set_deadline(time.monotonic_ns() + 1_000_000)

    guest.rem.set_ports([Sets().row(0x80, 1)])
    guest.long_mode(bytes.fromhex("ee ebfe"), rdx=0x80)

    assert guest.rem.run() is ExitReason.KICKED


def test_run_within_run_is_refused(guest: Guest) -> None:
    class Recurses(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.run()

    guest.rem.set_ports([Recurses().row(0x80, 1)])
    guest.long_mode(bytes.fromhex("ee f4"), rdx=0x80)

    guest.halt()

    assert isinstance(guest.host.failures[0][4], RuntimeError)


# ---- time-stamp counter


def tsc(guest: Guest, code: str = "0f31 f4", **changes: object) -> int:
    guest.long_mode(bytes.fromhex(code), **changes)
    state = guest.halt()
    return state.gpr[2] << 32 | state.gpr[0]


def test_tsc_follows_the_clock_it_was_given(guest: Guest) -> None:
    now = time.monotonic_ns()
    guest.rem.set_tsc(10**12, now, 2_000_000_000, 2**64 - 1)
    first = tsc(guest)
    elapsed = time.monotonic_ns() - now

    assert 10**12 <= first <= 10**12 + elapsed * 2


def test_tsc_stops_at_the_limit_and_never_goes_back(guest: Guest) -> None:
    now = time.monotonic_ns()
    guest.rem.set_tsc(10**12, now, 10**9, 10**12 + 5)
    time.sleep(0.001)
    assert tsc(guest) == 10**12 + 5

    state = guest.rem.get_state()
    guest.rem.set_tsc(10**6, now, 10**9, 2**64 - 1)
    guest.ram.write(CODE, bytes.fromhex("0f31 f4"))
    guest.rem.kick()
    guest.run()
    assert state.msr[0x3B] == 0


def test_tsc_within_a_run_never_goes_back(guest: Guest) -> None:
    class Earlier(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.set_tsc(5, time.monotonic_ns(), 10**9, 2**64 - 1)

    guest.rem.set_ports([Earlier().row(0x80, 1)])
    guest.rem.set_tsc(10**6, time.monotonic_ns(), 10**9, 2**64 - 1)
    # rdtsc / mov ebx, eax / out 80, al / rdtsc / sub eax, ebx
    guest.long_mode(bytes.fromhex("0f31 89c3 e680 0f31 29d8 f4"))

    assert guest.halt().gpr[0] < 2**31


def test_tsc_written_by_the_guest_is_an_offset(guest: Guest) -> None:
    guest.rem.set_tsc(10**12, time.monotonic_ns(), 10**9, 10**12)

    # mov ecx, 10 / xor edx, edx / mov eax, 5 / wrmsr / rdtsc
    assert tsc(guest, "b910000000 31d2 b805000000 0f30 0f31 f4") == 5
    assert guest.rem.get_state().msr[0x3B] == 5 - 10**12 & 2**64 - 1


def test_rdtsc_in_ring_3_with_tsd_faults(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("0f31"), user=True, cr4=0x624)

    assert guest.fault().vector == 13


# ---- CPUID


def cpuid(guest: Guest, leaf: int) -> tuple[int, int, int, int]:
    guest.long_mode(bytes.fromhex("0fa2 f4"), rax=leaf)
    gpr = guest.halt().gpr
    return gpr[0], gpr[3], gpr[1], gpr[2]


def test_cpuid_tells_of_an_amd_processor_without_apic_avx_or_hypervisor(guest: Guest) -> None:
    _, b, c, d = cpuid(guest, 0)
    assert b"".join(x.to_bytes(4, "little") for x in (b, d, c)) == b"AuthenticAMD"
    _, _, c, d = cpuid(guest, 1)
    assert not d & 1 << 9  # APIC
    assert not c & (1 << 28 | 1 << 31 | 1 << 21 | 1 << 26 | 1 << 3)  # AVX hypervisor x2APIC XSAVE MONITOR
    assert not cpuid(guest, 7)[1] & (1 << 3 | 1 << 8)  # BMI1, BMI2: they are not right
    assert cpuid(guest, 0x8000_0001)[3] & (1 << 29 | 1 << 20 | 1 << 11) == 1 << 29 | 1 << 20 | 1 << 11
    assert cpuid(guest, 0x4000_0000) == (0, 0, 0, 0)


def test_cpu_model_adds_and_removes_features(engine: str) -> None:
    model = CpuModel(with_=("apic", "SSE4.1"), without=("nx", "aes"), translation_buffer=1 << 20)
    guest = Guest(model, engine)
    try:
        assert cpuid(guest, 1)[3] & 1 << 9
        assert not cpuid(guest, 1)[2] & 1 << 25
        assert not cpuid(guest, 0x8000_0001)[3] & 1 << 20
    finally:
        guest.close()


@pytest.mark.parametrize(
    "model", [CpuModel(name="z80"), CpuModel(with_=("avx512f",)), CpuModel(without=("wings",))]
)
def test_cpu_model_that_cannot_be_is_refused(model: CpuModel) -> None:
    with pytest.raises(ValueError, match=r"z80|avx512f|wings"):
        Guest(model)


# ---- many


def test_engines_in_threads_do_not_disturb_each_other(engine: str) -> None:
    guests = [Guest(engine=engine) for _ in range(4)]
    results: list[int] = [0] * 4

    def work(index: int) -> None:
        guest = guests[index]
        guest.rem.set_ports([Device(answer=index + 1).row(0x80, 1)])
        # mov ecx, 5000 / in al, 80 / add rbx, rax / dec ecx / jnz
        guest.long_mode(bytes.fromhex("b988130000 e480 4801c3 ffc9 75f7 f4"))
        results[index] = guest.halt().gpr[3]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for guest in guests:
        guest.close()

    assert results == [5000, 10000, 15000, 20000]


def test_other_python_threads_run_while_the_guest_does(guest: Guest) -> None:
    guest.long_mode(LOOP)
    done = threading.Event()

    def work() -> None:
        sum(range(100_000))
        done.set()
        guest.rem.kick()

    threading.Thread(target=work).start()

    assert guest.run() is ExitReason.KICKED
    assert done.is_set()


def test_unicorn_used_beside_the_engine_still_works(guest: Guest) -> None:
    unicorn = pytest.importorskip("unicorn")
    const = pytest.importorskip("unicorn.x86_const")
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, bytes.fromhex("b805000000 a300180000 e464 cd80 90"))
    ports, interrupts = [], []
    on_in = const.UC_X86_INS_IN
    uc.hook_add(unicorn.UC_HOOK_INSN, lambda u, p, s, d: ports.append(p) or 3, None, 1, 0, on_in)
    uc.hook_add(unicorn.UC_HOOK_INTR, lambda u, n, d: interrupts.append(n))

    uc.emu_start(0x1000, 0x100F)

    assert (ports, interrupts) == ([0x64], [0x80])
    assert uc.mem_read(0x1800, 1) == b"\5"
    guest.long_mode(HLT)
    guest.halt()


def memory_kib() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4


def test_create_and_close_leak_neither_memory_nor_files_nor_threads(engine: str) -> None:
    def cycle() -> None:
        guest = Guest(CpuModel(translation_buffer=1 << 20), engine)
        guest.rem.set_ports([Device().row(0x80, 1)])
        guest.rem.dirty_pages(0, 0x1000)
        guest.long_mode(HLT)
        guest.halt()
        guest.close()

    for _ in range(100):
        cycle()
    gc.collect()
    before = memory_kib(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    for _ in range(1000 if engine == NATIVE else 300):
        cycle()
    gc.collect()

    assert memory_kib() - before[0] < 3000
    assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before[1:]


def test_engine_dropped_without_close_is_freed(engine: str) -> None:
    threads = len(os.listdir("/proc/self/task"))
    guest = Guest(engine=engine)
    guest.rem.set_ports([Device().row(0x80, 1)])
    guest.rem.set_deadline(time.monotonic_ns() + 10**12)
    guest.host.rem = None

    del guest
    gc.collect()

    assert len(os.listdir("/proc/self/task")) == threads


def test_closed_engine_refuses_to_run(engine: str) -> None:
    guest = Guest(engine=engine)
    guest.close()

    guest.rem.close()
    guest.rem.kick()
    guest.rem.interrupt(True)
    with pytest.raises(RuntimeError, match="closed"):
        guest.rem.run()
