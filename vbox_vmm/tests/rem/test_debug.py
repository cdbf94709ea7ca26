"""Single step, INT1, and the breakpoints of the debug registers."""

from __future__ import annotations

import random
import struct
import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rem_guest import CODE, DATA, HLT, MORE, PRESENT, STACK, STUBS, SYSCALL, Device, Guest
from rem_guest32 import CODE16, DATA16, DATA_SEGMENTS, fault, gate, start

from vbox_pdm.engine import ExitReason

TF, RF = 0x100, 0x10000


def dr(address: int, kind: int, length: int = 1, number: int = 0) -> list[int]:
    """Debug registers with one breakpoint: kind 0 code, 1 store, 2 port, 3 load or store."""
    registers = [0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400]
    registers[number] = address
    bits = {1: 0, 2: 1, 4: 3, 8: 2}[length] << 2 | kind
    registers[7] |= 1 << number * 2 | bits << (16 + number * 4)
    return registers


# ---- single step


def test_trap_flag_steps_into_int_n_and_the_handler_runs_unstepped(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("cd80 90 f4"), rflags=2 | TF)  # int 80 / nop / hlt
    guest.gate(0x80, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("ffc3 ffc3 48cf"))  # inc ebx / inc ebx / iretq

    frame = guest.fault()

    # IRET restores TF; the step is over after the instruction behind it
    assert (frame.vector, frame.rip, guest.rem.get_state().gpr[3]) == (1, CODE + 3, 2)
    assert frame.rflags & TF
    assert guest.rem.get_state().dr[6] & 0x4000


def test_trap_flag_steps_each_instruction_once(guest: Guest) -> None:
    # the handler counts: inc ebx / iretq
    guest.long_mode(bytes.fromhex("ffc0 ffc0 31c9 80251234000000") + bytes.fromhex("f4"), rflags=2 | TF)
    guest.gate(1, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("ffc3 48cf"))
    guest.ram.write(CODE + 6, bytes.fromhex("90 90 f4"))

    state = guest.halt()

    assert (state.gpr[0], state.gpr[3]) == (2, 5)


def test_trap_flag_steps_each_iteration_of_a_string_instruction(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("f3aa f4"), rflags=2 | TF, rcx=4, rdi=DATA, rax=7)
    guest.gate(1, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("ffc3 48cf"))

    state = guest.halt()

    assert state.gpr[3] >= 4
    assert guest.ram.read(DATA, 5) == b"\7\7\7\7\0"


# ---- INT1


@pytest.mark.parametrize(("code", "length"), [("f1", 1), ("66f1", 2), ("f3f1", 2), ("48f1", 2)])
def test_icebp_is_a_debug_trap(guest: Guest, code: str, length: int) -> None:
    guest.long_mode(bytes.fromhex(code))

    frame = guest.fault()

    assert (frame.vector, frame.rip, frame.error) == (1, CODE + length, None)


def test_icebp_in_ring_3_needs_no_right_to_the_gate(guest: Guest) -> None:
    start(guest, bytes.fromhex("f1"), user=True)
    gate(guest, 1, STUBS + 16, 0x8E00)

    result = fault(guest)

    assert (result.vector, result.eip) == (1, CODE + 1)


def test_icebp_with_lock_and_undefined_opcodes_stay_invalid(guest: Guest) -> None:
    for code in ("f0f1", "0f0b", "660f0b"):
        guest.long_mode(bytes.fromhex(code))
        frame = guest.fault()
        assert (frame.vector, frame.rip) == (6, CODE)


# ---- code


def test_code_breakpoint_faults_before_the_instruction_and_rf_passes_it(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("ffc0 ffc0 f4"), dr=dr(CODE + 2, 0))
    guest.gate(1, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("ffc3 89c1 48cf"))  # inc ebx / mov ecx, eax / iretq

    state = guest.halt()

    assert (state.gpr[0], state.gpr[1], state.gpr[3]) == (2, 1, 1)
    assert state.dr[6] & 15 == 1


def test_code_breakpoint_set_by_the_guest_in_a_segment_with_a_base(guest: Guest) -> None:
    # CS base 1000: mov eax, 1008 / mov dr0, eax / mov eax, 401 / mov dr7, eax / nop / inc ebx / hlt
    code = "66b812100000 0f23c0 66b801040000 0f23f8 6643 f4"
    segments: dict[str, Any] = dict.fromkeys(DATA_SEGMENTS, DATA16)
    cs = type(CODE16)(0x28, CODE, 0xFFFF, 0x9B00)
    start(guest, bytes.fromhex(code), cs=cs, rip=0, **segments)

    result = fault(guest)

    assert (result.vector, result.eip, guest.rem.get_state().gpr[3]) == (1, 0x12, 0)


# ---- data

STORES = [("880425{}", 1), ("66890425{}", 2), ("890425{}", 4), ("48890425{}", 8)]
LOADS = [("8a0425{}", 1), ("668b0425{}", 2), ("8b0425{}", 4), ("488b0425{}", 8)]


def absolute(template: str, address: int) -> bytes:
    return bytes.fromhex(template.format(struct.pack("<I", address).hex()))


@pytest.mark.parametrize(("template", "size"), STORES)
def test_store_breakpoint_traps_behind_the_store(guest: Guest, template: str, size: int) -> None:
    code = absolute(template, MORE)
    guest.long_mode(bytes.fromhex("ffc3") + code + bytes.fromhex("ffc3 f4"), rax=0x11, dr=dr(MORE, 1))

    frame = guest.fault()
    state = guest.rem.get_state()

    assert (frame.vector, frame.rip, state.gpr[3]) == (1, CODE + 2 + len(code), 1)
    assert state.dr[6] & 15 == 1
    assert guest.ram.read(MORE, 1) == b"\x11"


@pytest.mark.parametrize(("kind", "vector"), [(1, 3), (3, 1)])
def test_load_traps_only_on_an_access_breakpoint(guest: Guest, kind: int, vector: int) -> None:
    guest.long_mode(absolute("8b0425{}", MORE) + b"\xcc", dr=dr(MORE, kind, 4, number=2))

    frame = guest.fault()

    assert (frame.vector, guest.rem.get_state().dr[6] & 15) == (vector, 4 if vector == 1 else 0)


def test_breakpoint_enabled_by_running_code_counts_at_once(guest: Guest) -> None:
    # store / mov rax, 9000 / mov dr0, rax / mov eax, d0401 / mov dr7, rax / store / int3
    code = absolute("890425{}", MORE) + bytes.fromhex("b800900000 0f23c0 b801040d00 0f23f8")
    code += absolute("890425{}", MORE)
    guest.long_mode(code + b"\xcc")

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (1, CODE + len(code))


def test_breakpoint_disabled_by_running_code_no_longer_counts(guest: Guest) -> None:
    code = bytes.fromhex("b800040000 0f23f8") + absolute("890425{}", MORE)
    guest.long_mode(code + b"\xcc", dr=dr(MORE, 1, 4))

    assert guest.fault().vector == 3


def test_breakpoint_on_a_string_store_traps_after_its_iteration(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("f3aa f4"), rcx=8, rdi=MORE, rax=7, dr=dr(MORE + 3, 1))

    frame = guest.fault()
    state = guest.rem.get_state()

    assert (frame.vector, frame.rip, state.gpr[1], state.gpr[7]) == (1, CODE, 4, MORE + 4)
    assert guest.ram.read(MORE, 5) == b"\7\7\7\7\0"


def test_breakpoint_on_a_push_to_the_stack_traps(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("50 ffc3 f4"), dr=dr(STACK - 8, 1, 8))

    frame = guest.fault()

    assert (frame.vector, frame.rip, frame.rsp) == (1, CODE + 1, STACK - 8)


def test_breakpoint_on_mmio_accesses_the_device_once(guest: Guest) -> None:
    device = Device(answer=5)
    guest.rem.set_mmio([device.row(0xFEB0_0000, 0x1000)])
    guest.long_mode(absolute("8b0425{}", 0x20000) + HLT, dr=dr(0x20000, 3, 4))
    guest.page(0x20000, 0xFEB0_0000 | PRESENT)

    frame = guest.fault()

    assert (frame.vector, device.calls, guest.rem.get_state().gpr[0]) == (1, [("read", 0, 4)], 5)


def test_access_that_faults_is_no_hit(guest: Guest) -> None:
    guest.long_mode(absolute("890425{}", MORE), dr=dr(MORE, 1, 4))
    guest.page(MORE, 0)

    assert guest.fault().vector == 14
    assert guest.rem.get_state().dr[6] & 15 == 0


def test_watched_instruction_executes_once_under_kicks_that_are_attended_to(guest: Guest) -> None:
    # inc ebx / inc dword [9000] / jmp; #DB's handler: inc ecx / iretq
    guest.long_mode(bytes.fromhex("ffc3 ff042500900000 ebf5"), dr=dr(MORE, 1, 4))
    guest.gate(1, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("ffc1 48cf"))
    kicks, stop = 0, threading.Event()
    guest.host.attend = stop.is_set  # type: ignore[method-assign]

    def kicker() -> None:
        nonlocal kicks
        rng = random.Random(1)
        end = time.monotonic() + 20
        while (kicks < 1500 or guest.ram.u64(MORE) < 500) and time.monotonic() < end:
            time.sleep(rng.random() * 1e-4)
            guest.rem.kick()
            kicks += 1
        stop.set()
        guest.rem.kick()

    thread = threading.Thread(target=kicker)
    thread.start()
    while not stop.is_set():
        assert guest.rem.run() is ExitReason.KICKED
    thread.join()

    state = guest.rem.get_state()
    stores = guest.ram.u64(MORE) & 0xFFFFFFFF
    assert kicks >= 1500
    assert stores >= 500
    assert state.gpr[3] - stores in (0, 1)
    assert stores - state.gpr[1] in (0, 1)


def test_watched_instruction_executes_once_under_interrupts(guest: Guest) -> None:
    # inc dword [9000] / jmp; both handlers count and return
    guest.long_mode(bytes.fromhex("ff042500900000 ebf7"), rflags=0x202, dr=dr(MORE, 1, 4))
    guest.gate(1, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("ffc3 48cf"))  # inc ebx / iretq
    guest.gate(0x40, SYSCALL + 0x10)
    guest.ram.write(SYSCALL + 0x10, bytes.fromhex("ffc6 48cf"))  # inc esi / iretq

    for _ in range(200):
        guest.host.vectors = [0x40]
        guest.rem.interrupt(True)
        guest.run(0.0002)

    state = guest.rem.get_state()
    count = struct.unpack("<I", guest.ram.read(MORE, 4))[0]
    assert count > 100
    assert count - state.gpr[3] in (0, 1)
    assert state.gpr[6] > 100


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 24),
    access=st.sampled_from([*((t, n, True) for t, n in STORES), *((t, n, False) for t, n in LOADS)]),
    watch=st.integers(0, 24),
    length=st.sampled_from([1, 2, 4, 8]),
    kind=st.sampled_from([1, 3]),
    page=st.sampled_from([MORE, MORE + 0xFF0]),
)
def test_any_access_traps_when_it_overlaps_the_breakpoint(
    guest: Guest, at: int, access: tuple[str, int, bool], watch: int, length: int, kind: int, page: int
) -> None:
    template, size, store = access
    first = watch & ~(length - 1)
    guest.long_mode(absolute(template, page + at) + b"\xcc", dr=dr(page + watch, kind, length))

    vector = guest.fault().vector

    overlaps = at < first + length and first < at + size and (store or kind == 3)
    assert vector == (1 if overlaps else 3)


# ---- the registers


def test_general_detect_faults_on_access_and_is_cleared(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("0f21f8 f4"), dr=[0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x2400])  # mov rax, dr7

    frame = guest.fault()
    state = guest.rem.get_state()

    assert (frame.vector, frame.rip, state.dr[6] & 0x2000, state.dr[7]) == (1, CODE, 0x2000, 0x400)


def test_port_breakpoint_traps_behind_the_instruction(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("e480 f4"), cr4=0x628, dr=dr(0x80, 2))

    frame = guest.fault()

    assert (frame.vector, frame.rip, guest.rem.get_state().dr[6] & 15) == (1, CODE + 2, 1)
