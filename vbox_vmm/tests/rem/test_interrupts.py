"""When an interrupt is taken, and on which stack: shadows, string instructions, nesting, virtual-8086."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rem_guest import (
    CODE,
    COMMON,
    DATA,
    GDT,
    HLT,
    IDT,
    KERNEL_STACK,
    MORE,
    PRESENT,
    STACK,
    SYSCALL,
    TSS,
    USER_STACK,
    WRITE,
    Device,
    Guest,
)
from rem_guest32 import CODE16, DATA16, DATA_SEGMENTS, VM, descriptor, fault, gate, start, start_v86

from vbox_pdm.engine import Segment

TF = 0x100


def raise_line(guest: Guest, *vectors: int) -> None:
    guest.host.vectors = list(vectors)
    guest.rem.interrupt(True)


# ---- shadows


@pytest.mark.parametrize(
    ("code", "flags", "rip"),
    [
        pytest.param("90 90 f4", 0x202, 0, id="open: at once"),
        pytest.param("fb 90 90 f4", 2, 2, id="sti: one instruction later"),
        pytest.param("fb fb 90 90 f4", 2, 2, id="a second sti casts no shadow"),
        pytest.param("90 fb ebfe", 2, 2, id="sti: the shadow covers a jump"),
        pytest.param("6802020000 9d 90 90 f4", 2, 6, id="popf: at once"),
        pytest.param("fb f4", 2, 2, id="sti, hlt: wakes at once"),
    ],
)
def test_interrupt_waiting_is_taken_where_the_window_opens(
    guest: Guest, code: str, flags: int, rip: int
) -> None:
    guest.long_mode(bytes.fromhex(code), rflags=flags)
    raise_line(guest, 0x20)

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (0x20, CODE + rip)


def test_int_n_in_the_shadow_of_sti_comes_before_the_interrupt(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("fb cd80"))
    raise_line(guest, 0x20)

    assert guest.fault().vector == 0x80
    assert guest.host.acknowledged == 0


def test_cli_in_the_shadow_of_sti_keeps_the_window_shut(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("fb fa 90 f4"))
    raise_line(guest, 0x20)

    assert guest.halt().rip == CODE + 4
    assert guest.host.acknowledged == 0


def test_iret_opens_the_window_at_once(guest: Guest) -> None:
    # push 10 / push f000 / push 202 / push 8 / push 1040 / iretq
    guest.long_mode(bytes.fromhex("6a10 6800f00000 6802020000 6a08 6840100000 48cf"))
    guest.ram.write(CODE + 0x40, bytes.fromhex("90 f4"))
    raise_line(guest, 0x20)

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (0x20, CODE + 0x40)


@pytest.mark.parametrize("step", [False, True])
def test_load_of_ss_shields_the_next_instruction(guest: Guest, step: bool) -> None:
    class Selector(Device):
        def read(self, offset: int, size: int) -> int:
            raise_line(guest, 0x20)
            return 0x10

        adapted_read = read

    # mov ss, [400000] / inc ebx / nop: the line rises while SS is loaded
    guest.rem.set_mmio([Selector().row(0x400000, 0x1000)])
    start(guest, bytes.fromhex("8e1500004000 43 90 f4"), rflags=2 | (TF if step else 0x200))

    result = fault(guest)

    assert (result.vector, result.eip) == (1 if step else 0x20, CODE + 7)
    assert guest.rem.get_state().gpr[3] == 1


def test_pop_of_ss_shields_the_next_instruction_from_the_trap_flag(guest: Guest) -> None:
    start(guest, bytes.fromhex("17 43 90 f4"), rflags=2 | TF)
    guest.ram.write(STACK, struct.pack("<I", 0x10))

    result = fault(guest)

    assert (result.vector, result.eip, guest.rem.get_state().gpr[3]) == (1, CODE + 2, 1)


def test_shadow_is_part_of_the_state(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("90 90 f4"), rflags=0x202, interrupt_shadow=True)
    raise_line(guest, 0x20)

    assert guest.fault().rip == CODE + 1


def test_trap_flag_cleared_in_the_frame_ends_the_stepping(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("ffc3 f4"), rflags=TF | 2)
    guest.gate(1, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("4881642410fffeffff 48cf"))  # and qword [rsp+16], ~100 / iretq

    state = guest.halt()

    assert (state.gpr[3], state.rflags & TF, state.dr[6] & 0x4000) == (1, 0, 0x4000)


def test_trap_flag_in_ring_3_traps_after_a_system_call_returns(guest: Guest) -> None:
    # SYSCALL's mask clears TF; SYSRET brings it back, and the trap comes at the first instruction behind
    msr = {0xC0000081: 0x0018_0008_0000_0000, 0xC0000082: SYSCALL, 0xC0000084: 0x300}
    guest.long_mode(bytes.fromhex("0f05 ffc3 ffc3 0f0b"), user=True, rflags=TF | 0x202, msr=msr)
    guest.ram.write(SYSCALL, bytes.fromhex("ffc6 480f07"))

    frame = guest.fault()

    assert (frame.vector, guest.rem.get_state().gpr[6]) == (1, 1)
    assert CODE + 2 <= frame.rip <= CODE + 4


# ---- string instructions


class Nth(Device):
    """Raises the line at its nth access."""

    def __init__(self, guest: Guest, nth: int) -> None:
        super().__init__()
        self.guest, self.nth = guest, nth

    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        if len(self.calls) == self.nth:
            raise_line(self.guest, 0x20)

    def read(self, offset: int, size: int) -> int:
        super().read(offset, size)
        if len(self.calls) == self.nth:
            raise_line(self.guest, 0x20)
        return offset & 0xFF


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.sampled_from(["f3a4", "f3aa", "f3a5", "f348ab", "f3ac", "f36e", "f36c"]),
    count=st.integers(2, 40),
    data=st.data(),
    backwards=st.booleans(),
)
def test_interrupt_between_iterations_finds_what_is_left_to_do(
    guest: Guest, code: str, count: int, data: st.DataObject, backwards: bool
) -> None:
    nth = data.draw(st.integers(1, count - 1))
    size = {"a5": 4, "ab": 8}.get(code[-2:], 1)
    device = Nth(guest, nth)
    guest.rem.set_mmio([device.row(0xFEB0_0000, 0x1000)])
    guest.rem.set_ports([device.row(0x80, 1)])
    guest.page(0x20000, 0xFEB0_0000 | PRESENT | WRITE)
    reads_device, by_port = code.endswith("ac"), code[-2:] in ("6c", "6e")
    source, target = (0x20800, DATA) if reads_device else (DATA + 0x400, 0x20800)
    if by_port:
        source, target = DATA + 0x400, MORE
    flags = 0x202 | (0x400 if backwards else 0)
    guest.long_mode(bytes.fromhex(code) + HLT, rcx=count, rsi=source, rdi=target, rdx=0x80, rflags=flags)
    step = -size if backwards else size

    frame = guest.fault()
    state = guest.rem.get_state()
    done = count - state.gpr[1]

    assert (frame.vector, frame.rip) == (0x20, CODE)
    assert nth <= done < count
    assert len(device.calls) == done
    assert code[-2:] in ("ac", "6e") or state.gpr[7] == target + done * step
    assert code[-2:] in ("aa", "ab", "6c") or state.gpr[6] == source + done * step
    assert done == nth


# ---- stacks


def test_interrupt_in_long_mode_switches_by_rsp0_and_aligns(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("90 f4"), user=True, rflags=0x202, rsp=USER_STACK - 3)
    guest.ram.write(TSS + 4, struct.pack("<Q", KERNEL_STACK - 5))
    raise_line(guest, 0x20)

    frame = guest.fault()
    state = guest.rem.get_state()

    assert state.gpr[4] == (KERNEL_STACK - 5 & ~15) - 6 * 8
    assert (frame.rsp, frame.ss, frame.cs) == (USER_STACK - 3, 0x23, 0x2B)
    assert (state.ss.selector, state.cs.selector) == (0, 8)


def test_interrupt_in_ring_0_of_long_mode_aligns_its_own_stack(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("cd40"), rsp=STACK - 7)

    frame = guest.fault()

    assert guest.rem.get_state().gpr[4] == (STACK - 7 & ~15) - 6 * 8
    assert frame.rsp == STACK - 7


@pytest.mark.parametrize("ist", range(1, 8))
@pytest.mark.parametrize("user", [False, True])
def test_interrupt_stack_table_is_used_in_any_ring(guest: Guest, ist: int, user: bool) -> None:
    guest.long_mode(bytes.fromhex("cd40"), user=user)
    guest.ram.write(TSS + 0x1C + ist * 8, struct.pack("<Q", 0xA800 + ist * 0x40))
    guest.ram.write(IDT + 0x40 * 16 + 4, bytes([ist]))

    frame = guest.fault()

    assert guest.rem.get_state().gpr[4] == 0xA800 + ist * 0x40 - 6 * 8
    assert frame.rsp == (USER_STACK if user else STACK)


def test_interrupts_nest_over_three_stacks_and_all_return(guest: Guest) -> None:
    # ring 3 -> 20 on RSP0: sti, spins -> 21 on IST1: sti, spins -> 22 on IST1's own stack; all add up
    guest.long_mode(bytes.fromhex("ffc3 85ff 74fa 0f0b"), user=True, rflags=0x202)  # inc ebx / until edi
    bump = bytes.fromhex("fb ffc6 39d6 72fa ffc7 48cf")  # sti / inc esi / cmp esi, edx / jb / inc edi / iretq
    for vector, ist in ((0x20, 0), (0x21, 1)):
        guest.gate(vector, SYSCALL)
        guest.ram.write(IDT + vector * 16 + 4, bytes([ist]))
    guest.ram.write(TSS + 0x24, struct.pack("<Q", 0xA800))
    guest.ram.write(SYSCALL, bump)
    guest.gate(0x22, SYSCALL + 0x40)
    # 22: mov edx, 0 / inc edi / mov [8000], rsp / iretq
    guest.ram.write(SYSCALL + 0x40, bytes.fromhex("31d2 ffc7 4889242500800000 48cf"))
    state = guest.rem.get_state()
    state.gpr[2] = 0xFFFF_FFFF
    guest.rem.set_state(state)
    raise_line(guest, 0x20, 0x21, 0x22)

    frame = guest.fault()

    assert (frame.vector, frame.cs, frame.ss, frame.rsp) == (6, 0x2B, 0x23, USER_STACK)
    assert guest.rem.get_state().gpr[7] == 3
    assert guest.ram.u64(DATA) == (0xA800 - 5 * 8 & ~15) - 5 * 8


@pytest.mark.parametrize("bits", [16, 32])
def test_interrupt_from_ring_3_with_a_tss_of_16_bits_switches_to_its_stack(guest: Guest, bits: int) -> None:
    attributes = 0xE600 if bits == 16 else 0xEE00
    start(guest, bytes.fromhex("90 f4"), user=True, rflags=0x202, tr=Segment(0x38, TSS, 0x2B, 0x8300))
    guest.ram.write(TSS + 2, struct.pack("<HH", KERNEL_STACK, 0x10))
    gate(guest, 0x20, SYSCALL, attributes)
    guest.ram.write(SYSCALL, HLT)
    raise_line(guest, 0x20)

    state = guest.halt()
    size = bits // 8
    words = [
        int.from_bytes(guest.ram.read(state.gpr[4] + i * size, size), "little") & 0xFFFF for i in range(5)
    ]

    assert state.gpr[4] == KERNEL_STACK - 5 * size
    assert (words[0], words[1], words[3], words[4]) == (CODE, 0x1B, USER_STACK, 0x23)
    assert words[2] & 0x200


def test_16_bit_interrupt_gate_and_iret_in_16_bit_code_return(guest: Guest) -> None:
    segments: dict[str, Any] = dict.fromkeys(DATA_SEGMENTS, DATA16)
    start(guest, bytes.fromhex("90 43 f4"), cs=CODE16, esp=0xABCDB000, rflags=0x202, **segments)
    gate(guest, 0x20, SYSCALL, 0xE600, 0x28)
    guest.ram.write(SYSCALL, bytes.fromhex("89e5 cf"))  # mov bp, sp / iret
    raise_line(guest, 0x20)

    state = guest.halt()

    assert (state.gpr[3], state.gpr[5] & 0xFFFF, state.gpr[4]) == (1, 0xB000 - 6, 0xABCDB000)


def test_call_gate_copies_parameters_to_the_inner_stack(guest: Guest) -> None:
    # push 11 / push 22 / call 43: a gate to ring 0 with two parameters; it returns with ret 8
    start(guest, bytes.fromhex("6a11 6a22 9a000000004300 cc"), user=True)
    low, high = SYSCALL & 0xFFFF | 8 << 16, SYSCALL & 0xFFFF0000 | 0xEC02
    guest.ram.write(GDT + 0x40, struct.pack("<II", low, high))
    # mov eax, [esp+8] / mov ebx, [esp+c] / mov ecx, esp / retf 8
    guest.ram.write(SYSCALL, bytes.fromhex("8b442408 8b5c240c 89e1 ca0800"))

    result = fault(guest, 2)
    state = guest.rem.get_state()

    assert (result.vector, result.cs, result.words) == (3, 0x1B, (USER_STACK, 0x23))
    assert (state.gpr[0], state.gpr[3], state.gpr[1]) == (0x22, 0x11, KERNEL_STACK - 24)


# ---- virtual-8086


@pytest.mark.parametrize("code", ["f4", "0f0802", "0f06", "0f22c0", "0f20c0", "0f30", "0f32", "0f011e0080"])
def test_privileged_instruction_in_v86_faults_whatever_iopl(guest: Guest, code: str) -> None:
    start_v86(guest, bytes.fromhex(code), iopl=3)

    result = fault(guest, 6)

    assert (result.vector, result.error, result.eip, result.eflags & VM) == (13, 0, 0, VM)


@pytest.mark.parametrize("code", ["0f00c0", "0f00c8", "0f00d0", "0f00d8", "0f02c0", "63c0", "0f00e0"])
def test_protected_mode_instruction_in_v86_is_undefined(guest: Guest, code: str) -> None:
    start_v86(guest, bytes.fromhex(code), iopl=3)

    assert fault(guest, 6).vector == 6


@pytest.mark.parametrize("attributes", [0xEE00, 0xE600])
@pytest.mark.parametrize("dpl3", [True, False])
def test_v86_int_n_checks_the_gate(guest: Guest, attributes: int, dpl3: bool) -> None:
    start_v86(guest, bytes.fromhex("cd40"), iopl=3)
    gate(guest, 0x40, SYSCALL, attributes & (0xFFFF if dpl3 else 0x9FFF))
    guest.ram.write(SYSCALL, HLT)

    state = guest.halt()

    if dpl3:
        size = 4 if attributes == 0xEE00 else 2
        assert (state.rip, state.gpr[4]) == (SYSCALL + 1, KERNEL_STACK - 9 * size)
        assert int.from_bytes(guest.ram.read(state.gpr[4], size), "little") == 2
    else:
        assert state.rip == COMMON + 1
        assert guest.ram.u64(state.gpr[4]) == (0x40 * 8 + 2) << 32 | 13


def test_v86_interrupt_clears_data_segments_for_the_handler(guest: Guest) -> None:
    start_v86(guest, bytes.fromhex("90 90"), rflags=VM | 0x202)
    raise_line(guest, 0x20)

    result = fault(guest, 6)
    state = guest.rem.get_state()

    assert (result.vector, result.eip) == (0x20, 0)
    assert [s.selector for s in (state.ds, state.es, state.fs, state.gs)] == [0, 0, 0, 0]
    assert (state.cs.selector, state.ss.selector, state.rflags & VM) == (8, 0x10, 0)


@pytest.mark.parametrize("selector", [0x1B, 0x50])
def test_v86_interrupt_to_a_segment_that_is_not_of_ring_0_faults(guest: Guest, selector: int) -> None:
    start_v86(guest, bytes.fromhex("cd40"), iopl=3)
    gate(guest, 0x40, SYSCALL, 0xEE00, selector)
    conforming = descriptor(0, 0xFFFFF, 0xC09F00)
    guest.ram.write(GDT + 0x48, struct.pack("<Q", conforming))

    result = fault(guest, 6)

    assert (result.vector, result.error, result.eip) == (13, selector & ~3, 0)


def test_v86_trap_flag_steps_an_instruction(guest: Guest) -> None:
    start_v86(guest, bytes.fromhex("43 43 43"), rflags=VM | TF | 2)

    result = fault(guest, 6)

    assert (result.vector, result.eip, guest.rem.get_state().gpr[3]) == (1, 1, 1)


def test_v86_iopl_3_flags_of_the_task_are_its_own(guest: Guest) -> None:
    # cli / pushf / pop ax / sti / pushf / pop bx / ud2
    start_v86(guest, bytes.fromhex("fa 9c 58 fb 9c 5b 0f0b"), iopl=3)

    result = fault(guest, 6)
    state = guest.rem.get_state()

    assert (result.vector, result.eflags & 0x200) == (6, 0x200)
    assert (state.gpr[0] & 0x3200, state.gpr[3] & 0x3200) == (0x3000, 0x3200)


def test_iret_of_ring_0_enters_v86_with_all_segments(guest: Guest) -> None:
    # push gs fs ds es ss esp eflags cs eip / iret
    words = (0x600, 0x500, 0x400, 0x300, 0xA00, 0x1000, VM | 0x3002, CODE + 0x100 >> 4, 4)
    code = b"".join(b"\x68" + struct.pack("<I", word) for word in words) + b"\xcf"
    start(guest, code)
    guest.ram.write(CODE + 0x104, bytes.fromhex("0f0b"))

    result = fault(guest, 6)

    assert (result.vector, result.eip, result.cs) == (6, 4, CODE + 0x100 >> 4)
    assert result.words == (0x1000, 0xA00, 0x300, 0x400, 0x500, 0x600)


def test_iret_of_ring_3_cannot_enter_v86(guest: Guest) -> None:
    words = (0x23, USER_STACK, VM | 0x3002, 0x1B, CODE + 0x80)
    code = b"".join(b"\x68" + struct.pack("<I", word) for word in words) + b"\xcf"
    start(guest, code, user=True)
    guest.ram.write(CODE + 0x80, bytes.fromhex("0f0b"))

    result = fault(guest)

    assert (result.vector, result.eip, result.eflags & (VM | 0x3000)) == (6, CODE + 0x80, 0)
