"""Without long mode: SYSENTER, tasks, virtual-8086, 16 bits, paging of two levels."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from rem_guest import (
    CODE,
    COMMON,
    DATA,
    HLT,
    KERNEL_STACK,
    MORE,
    STACK,
    SYSCALL,
    TSS,
    USER_STACK,
    Device,
    Guest,
)
from rem_guest32 import (
    CODE16,
    DATA16,
    DATA_SEGMENTS,
    TASK,
    TASK_STACK,
    VM,
    fault,
    frame,
    gate,
    start,
    start_v86,
    task,
)

from vbox_pdm.engine import CpuModel, ExitReason, Segment

SYSENTER = {0x174: 8, 0x175: KERNEL_STACK, 0x176: SYSCALL}


def u32(guest: Guest, address: int) -> int:
    return int(struct.unpack_from("<I", guest.ram.bytes, address)[0])


# ---- SYSENTER and SYSEXIT


def test_sysenter_enters_ring_0_with_flat_segments(guest: Guest) -> None:
    start(guest, bytes.fromhex("0f34"), user=True, rflags=0x202, msr=SYSENTER)
    guest.ram.write(SYSCALL, bytes.fromhex("9c 58 f4"))  # pushf / pop eax

    state = guest.halt()

    assert (state.cs.selector, state.ss.selector, state.rip) == (8, 0x10, SYSCALL + 3)
    assert (state.cs.base, state.cs.limit, state.cs.attributes) == (0, 0xFFFFFFFF, 0xC09B00)
    assert (state.gpr[4], state.gpr[0] & 0x200) == (KERNEL_STACK, 0)


def test_sysexit_returns_to_ring_3(guest: Guest) -> None:
    start(guest, bytes.fromhex("0f34 0f0b"), user=True, msr=SYSENTER)
    guest.ram.write(SYSCALL, bytes.fromhex("ba02100000 b900b00000 0f35"))  # mov edx, 1002 / mov ecx, b000

    result = fault(guest, 2)

    assert (result.vector, result.eip, result.cs, result.words) == (6, CODE + 2, 0x1B, (USER_STACK, 0x23))


def test_sysenter_without_a_code_segment_faults(guest: Guest) -> None:
    start(guest, bytes.fromhex("0f34"), user=True, msr={0x174: 0, 0x176: SYSCALL})

    assert fault(guest).vector == 13


def test_sysexit_in_ring_3_faults(guest: Guest) -> None:
    start(guest, bytes.fromhex("0f35"), user=True, msr=SYSENTER)

    assert fault(guest).vector == 13


# ---- virtual-8086


@pytest.mark.parametrize(("port", "vector"), [(0x64, 6), (0x60, 13)])
@pytest.mark.parametrize("iopl", [0, 3])
def test_v86_port_access_follows_the_bitmap_whatever_iopl(
    guest: Guest, port: int, vector: int, iopl: int
) -> None:
    device = Device(answer=0x5A)
    guest.rem.set_ports([device.row(0x60, 8)])
    start_v86(guest, bytes([0xE4, port, 0x0F, 0x0B]), iopl=iopl)
    guest.ram.write(TSS + 0x68 + 0x64 // 8, bytes([0xFF & ~(1 << 4)]))  # port 64 only

    result = fault(guest, 6)

    assert (result.vector, bool(device.calls)) == (vector, vector == 6)
    assert (result.eip, result.cs, result.eflags & VM) == (2 if vector == 6 else 0, CODE >> 4, VM)
    assert result.words == (0x1000, USER_STACK - 0x1000 >> 4, 0x200, 0x100, 0x300, 0x400)


def test_v86_interrupt_goes_through_the_protected_mode_idt_and_iret_resumes(guest: Guest) -> None:
    start_v86(guest, bytes.fromhex("43 ebfd"), rflags=VM | 0x202)  # inc bx / jmp
    guest.host.vectors = [0x20]
    guest.rem.interrupt(True)
    result = fault(guest, 6)
    assert (result.vector, result.cs, result.eflags & (VM | 0x200)) == (0x20, CODE >> 4, VM | 0x200)

    guest.ram.write(COMMON + 1, bytes.fromhex("83c404 cf"))  # add esp, 4 / iret
    state = guest.rem.get_state()
    state.halted = False
    guest.rem.set_state(state)
    guest.run(0.01)
    state = guest.rem.get_state()

    assert (state.rflags & VM, state.cs.base, state.fs.selector) == (VM, CODE, 0x300)
    assert state.gpr[3] > 0


@pytest.mark.parametrize(("iopl", "vector"), [(0, 13), (3, 0x21)])
def test_v86_int_n_needs_iopl_3(guest: Guest, iopl: int, vector: int) -> None:
    start_v86(guest, bytes.fromhex("cd21"), iopl=iopl)

    result = fault(guest)

    assert (result.vector, result.eip) == (vector, 2 if vector == 0x21 else 0)


@pytest.mark.parametrize("code", ["fa", "fb", "9c", "9d", "cf"])
def test_v86_flag_instructions_fault_below_iopl_3(guest: Guest, code: str) -> None:
    start_v86(guest, bytes.fromhex(code))

    result = fault(guest)

    assert (result.vector, result.error, result.eip) == (13, 0, 0)


def test_v86_extensions_are_not_announced(guest: Guest) -> None:
    start(guest, bytes.fromhex("b801000000 0fa2 f4"))  # mov eax, 1 / cpuid

    assert not guest.halt().gpr[2] & 2
    with pytest.raises(ValueError, match="vme"):
        Guest(CpuModel(with_=("vme",)))


# ---- tasks


@pytest.mark.parametrize("selector", [0x40, 0x48])
def test_far_call_of_a_task_switches_and_iret_returns(guest: Guest, selector: int) -> None:
    code = bytes.fromhex("bb11000000 9a00000000") + bytes([selector, 0]) + bytes.fromhex("f4")
    start(guest, code, eax=0x77)
    # 6000: mov [8000], ebx / mov ebx, 22 / iret
    task(guest, SYSCALL, ebx=0x99, eax=5)
    guest.ram.write(SYSCALL, bytes.fromhex("891d00800000 bb22000000 cf"))

    state = guest.halt()

    assert (u32(guest, DATA), state.gpr[3], state.gpr[0], state.gpr[4]) == (0x99, 0x11, 0x77, STACK)
    assert (state.tr.selector, state.tr.base, state.rip) == (0x38, TSS, CODE + len(code))
    assert u32(guest, TASK) & 0xFFFF == 0x38  # the back link
    assert u32(guest, TASK + 0x34) == 0x22  # EBX when it returned
    assert guest.ram.read(0x3000 + 0x40 + 5, 1)[0] == 0x89  # no longer busy
    assert state.cr0 & 8


def test_far_jump_to_a_task_leaves_the_old_one_ready(guest: Guest) -> None:
    start(guest, bytes.fromhex("bb11000000 ea000000004000"))
    task(guest, SYSCALL, ebx=0x99)
    guest.ram.write(SYSCALL, HLT)

    state = guest.halt()

    assert (state.gpr[3], state.gpr[4], state.tr.selector, state.rflags & 0x4000) == (
        0x99,
        TASK_STACK,
        0x40,
        0,
    )
    assert (u32(guest, TSS + 0x34), u32(guest, TSS + 0x20)) == (0x11, CODE + 12)
    assert guest.ram.read(0x3000 + 0x38 + 5, 1)[0] == 0x89
    assert guest.ram.read(0x3000 + 0x40 + 5, 1)[0] == 0x8B


def test_far_call_of_a_busy_task_faults(guest: Guest) -> None:
    start(guest, bytes.fromhex("9a000000003800"))

    result = fault(guest)

    assert (result.vector, result.error) == (13, 0x38)


def test_exception_through_a_task_gate_pushes_its_error_code_in_the_task(guest: Guest) -> None:
    start(guest, bytes.fromhex("66b85800 8ed8"))  # mov ds, 58: beyond the GDT
    task(guest, SYSCALL)
    gate(guest, 13, 0, 0x8500, 0x40)
    guest.ram.write(SYSCALL, HLT)

    state = guest.halt()

    assert (state.tr.selector, state.gpr[4], u32(guest, TASK_STACK - 4)) == (0x40, TASK_STACK - 4, 0x58)
    assert u32(guest, TSS + 0x20) == CODE + 4


def test_double_fault_through_a_task_gate_survives_a_bad_stack(guest: Guest) -> None:
    # paging with 4 MiB pages; the stack points where nothing is mapped
    start(guest, bytes.fromhex("50"), esp=0x800000, cr0=0x80000031, cr3=0x300000, cr4=0x10)
    guest.ram.write(0x300000, struct.pack("<I", 0x83))
    task(guest, SYSCALL, cr3=0x300000)
    gate(guest, 8, 0, 0x8500, 0x40)
    guest.ram.write(SYSCALL, HLT)

    state = guest.halt()

    assert (state.tr.selector, u32(guest, state.gpr[4]), state.cr2) == (0x40, 0, 0x7FFFFC)


def test_bad_stack_without_a_task_gate_is_a_triple_fault(guest: Guest) -> None:
    start(guest, bytes.fromhex("50"), esp=0x800000, cr0=0x80000031, cr3=0x300000, cr4=0x10)
    guest.ram.write(0x300000, struct.pack("<I", 0x83))

    assert guest.run() is ExitReason.TRIPLE_FAULT


@pytest.mark.xfail(strict=True, reason="docs/rem-deviations.md: segments of a TSS of 16 bits")
@pytest.mark.parametrize("how", ["call", "jump"])
def test_task_of_16_bits_switches_and_saves_16_bits(guest: Guest, how: str) -> None:
    opcode = "9a" if how == "call" else "ea"
    start(guest, bytes.fromhex("bb78563412" + opcode + "000000004000 f4"))
    guest.ram.write(0x3000 + 0x40, struct.pack("<Q", 0x0000_8100_A000_002B))  # an available 16-bit TSS
    words = [0] * 22
    words[7:18] = [SYSCALL, 2, 0x11, 0x22, 0x33, 0x44, TASK_STACK, 0x55, 0x66, 0x77, 0x10]
    words[18:21] = [8, 0x30, 0x10]
    guest.ram.write(TASK, struct.pack("<22H", *words))
    guest.ram.write(SYSCALL, HLT)

    state = guest.halt()

    assert (state.tr.selector, state.rip, state.gpr[4] & 0xFFFF) == (0x40, SYSCALL + 1, TASK_STACK)
    assert [value & 0xFFFF for value in state.gpr[:4]] == [0x11, 0x22, 0x33, 0x44]
    assert bool(state.rflags & 0x4000) == (how == "call")
    assert u32(guest, TSS + 0x34) == 0x12345678  # EBX of the old task, whose TSS has 32 bits


def test_task_has_page_tables_of_its_own(guest: Guest) -> None:
    start(guest, bytes.fromhex("ea000000004000"), cr0=0x80000031, cr3=0x300000, cr4=0x10)
    guest.ram.write(0x300000, struct.pack("<2I", 0x83, 0x83))
    guest.ram.write(0x301000, struct.pack("<2I", 0x83, 0x200083 & ~0x3FFFFF | 0x83))
    task(guest, SYSCALL, cr3=0x301000)
    guest.ram.write(SYSCALL, HLT)

    state = guest.halt()

    assert (state.tr.selector, state.cr3, state.cr0 & 8) == (0x40, 0x301000, 8)


@pytest.mark.parametrize(
    ("field", "value", "vector", "error"),
    [
        ("cs", 0x10, 10, 0x10),
        ("ds", 0x58, 10, 0x58),
        ("ldt", 0x10, 10, 0x10),
    ],
)
def test_task_with_a_bad_selector_is_an_invalid_tss_in_the_new_task(
    guest: Guest, field: str, value: int, vector: int, error: int
) -> None:
    start(guest, bytes.fromhex("ea000000004000"))
    task(guest, SYSCALL, **{field: value})
    guest.ram.write(TASK + 0x68, bytes(0x100))

    result = fault(guest)

    assert (result.vector, result.error, guest.rem.get_state().tr.selector) == (vector, error, 0x40)


def test_iret_of_a_nested_task_without_a_task_behind_is_an_invalid_tss(guest: Guest) -> None:
    start(guest, bytes.fromhex("cf"), rflags=0x4002)
    guest.ram.write(TSS, struct.pack("<I", 0x10))

    result = fault(guest)

    assert (result.vector, result.error, result.eip) == (10, 0x10, CODE)


@pytest.mark.parametrize(("limit", "present", "vector"), [(0x66, True, 10), (0x67, False, 11)])
def test_far_jump_to_a_tss_that_cannot_be_faults_in_the_old_task(
    guest: Guest, limit: int, present: bool, vector: int
) -> None:
    start(guest, bytes.fromhex("ea000000004000"))
    task(guest, SYSCALL)
    guest.ram.write(0x3000 + 0x40, struct.pack("<Q", 0x0000_0900_A000_0000 | present << 47 | limit))

    result = fault(guest)

    assert (result.vector, result.error, result.eip) == (vector, 0x40, CODE)
    assert guest.rem.get_state().tr.selector == 0x38


# ---- 16 bits


def test_16_bit_protected_mode_uses_16_bit_stack_and_offsets(guest: Guest) -> None:
    # mov ax, [8000] / push ax / pop bx / hlt
    changes: dict[str, Any] = dict.fromkeys(DATA_SEGMENTS, DATA16)
    start(guest, bytes.fromhex("a10080 50 5b f4"), cs=CODE16, esp=0xABCD0000, **changes)
    guest.ram.write(DATA, b"\x34\x12\xff\xff")

    state = guest.halt()

    assert (state.gpr[3], state.gpr[4]) == (0x1234, 0xABCD0000)
    assert guest.ram.read(0xFFFE, 2) == b"\x34\x12"


def test_16_bit_load_takes_both_bytes_of_an_odd_address(guest: Guest) -> None:
    segments: dict[str, Any] = dict.fromkeys(DATA_SEGMENTS, DATA16)
    start(guest, bytes.fromhex("a1ff7f f4"), cs=CODE16, **segments)
    guest.ram.write(DATA - 1, b"\x11\x22")

    assert guest.halt().gpr[0] == 0x2211


def test_big_real_mode_keeps_the_4_gib_limit(guest: Guest) -> None:
    guest.ram.write(0x500, struct.pack("<3Q", 0, 0, 0x00CF93000000FFFF))
    # mov eax, cr0 / or al, 1 / mov cr0, eax / jmp / mov bx, 10 / mov ds, bx / and al, fe / mov cr0, eax /
    # mov eax, 200000 / mov dword [eax], 12345678 / xor bx, bx / mov ds, bx / mov ecx, [eax] / hlt
    code = "0f20c0 0c01 0f22c0 eb00 bb1000 8edb 24fe 0f22c0 66b800002000 6766c70078563412 31db 8edb"
    guest.real_mode(bytes.fromhex(code + "67668b08 f4"), gdtr=(0x500, 23))

    state = guest.halt()

    assert (u32(guest, 0x200000), state.gpr[1], state.cr0 & 1) == (0x12345678, 0x12345678, 0)
    assert (state.ds.base, state.ds.limit) == (0, 0xFFFFFFFF)


# ---- A20


@pytest.mark.parametrize(("enabled", "address"), [(False, 0), (True, 0x100000)])
def test_a20_decides_where_ffff_0010_is(guest: Guest, enabled: bool, address: int) -> None:
    guest.rem.a20(enabled)
    # mov ax, ffff / mov ds, ax / mov byte [10], 55 / mov al, [10] / hlt
    guest.real_mode(bytes.fromhex("b8ffff 8ed8 c606100055 a01000 f4"))
    before = guest.ram.read(0x100000 - address, 1)

    state = guest.halt()

    assert guest.ram.read(address, 1) == b"\x55"
    assert guest.ram.read(0x100000 - address, 1) == before
    assert state.gpr[0] & 0xFF == 0x55


def test_a20_changed_by_a_port_handler_counts_for_the_next_access(guest: Guest) -> None:
    class Gate(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.a20(bool(value & 2))

    guest.rem.set_ports([Gate().row(0x92, 1)])
    guest.ram.write(0, b"\x11")
    guest.ram.write(0x100000, b"\x22")
    # mov ax, ffff / mov ds, ax / mov bl, [10] / mov al, 0 / out 92, al / mov bh, [10] / hlt
    guest.real_mode(bytes.fromhex("b8ffff 8ed8 8a1e1000 b000 e692 8a3e1000 f4"))

    assert guest.halt().gpr[3] == 0x1122
    guest.rem.a20(True)


# ---- paging


def test_4_mib_pages_map_and_set_accessed_and_dirty(guest: Guest) -> None:
    # mov dword [400000 + 8000], eax / hlt: the second page is the first again
    start(guest, bytes.fromhex("a300804000 f4"), eax=0xCAFEBABE, cr0=0x80000031, cr3=0x300000, cr4=0x10)
    guest.ram.write(0x300000, struct.pack("<II", 0x83, 0x83))

    guest.halt()

    assert u32(guest, DATA) == 0xCAFEBABE
    assert (u32(guest, 0x300000) & 0x60, u32(guest, 0x300004) & 0x60) == (0x20, 0x60)


def test_4_mib_bit_without_pse_is_a_table(guest: Guest) -> None:
    start(guest, bytes.fromhex("a100804000 f4"), cr0=0x80000031, cr3=0x300000)
    guest.ram.write(0x300000, struct.pack("<II", 0x301083, 0x302083))
    for page in range(16):
        guest.ram.write(0x301000 + page * 4, struct.pack("<I", page << 12 | 3))
    guest.ram.write(0x302000 + 8 * 4, struct.pack("<I", MORE | 3))
    guest.ram.write(MORE, b"\x78\x56\x34\x12")

    assert guest.halt().gpr[0] == 0x12345678


def test_pae_paging_without_long_mode_works(guest: Guest) -> None:
    start(guest, bytes.fromhex("a100806000 f4"), cr0=0x80000031, cr3=0x300000, cr4=0x20)
    guest.ram.write(0x300000, struct.pack("<4Q", 0x301001, 0, 0, 0))
    guest.ram.write(0x301000, struct.pack("<4Q", 0x83, 0, 0, 0x83))  # 600000 is 0 again
    guest.ram.write(DATA, b"\x78\x56\x34\x12")

    assert guest.halt().gpr[0] == 0x12345678


@pytest.mark.parametrize(("cr0", "vector"), [(0x80000031, None), (0x80010031, 14)])
def test_write_protect_bit_decides_whether_ring_0_may_store_to_read_only_pages(
    guest: Guest, cr0: int, vector: int | None
) -> None:
    start(guest, bytes.fromhex("a300804000 f4"), eax=5, cr0=cr0, cr3=0x300000, cr4=0x10)
    guest.ram.write(0x300000, struct.pack("<II", 0x83, 0x81))

    state = guest.halt()

    if vector is None:
        assert (state.rip, u32(guest, DATA)) == (CODE + 6, 5)
    else:
        result = frame(guest, state.gpr[4])
        assert (result.vector, result.error, u32(guest, DATA)) == (14, 3, 0)


def test_write_protect_bit_set_by_the_guest_counts_at_once(guest: Guest) -> None:
    # store / mov ebx, cr0 / or ebx, 10000 / mov cr0, ebx / store
    code = "a300804000 0f20c3 81cb00000100 0f22c3 a304804000"
    start(guest, bytes.fromhex(code), eax=5, cr0=0x80000031, cr3=0x300000, cr4=0x10)
    guest.ram.write(0x300000, struct.pack("<II", 0x83, 0x81))

    result = fault(guest)

    assert (result.vector, result.error, result.eip) == (14, 3, CODE + 17)
    assert (u32(guest, DATA), u32(guest, DATA + 4)) == (5, 0)


# ---- interrupts across rings


def test_interrupts_nest_and_switch_stacks(guest: Guest) -> None:
    # ring 3: inc esi / jmp.  20: int 21 / sti / nop / nop / hlt.  22 (INTR, nested): inc ebx / iret
    start(guest, bytes.fromhex("46 ebfd"), user=True, rflags=0x202)
    gate(guest, 0x20, SYSCALL)
    gate(guest, 0x22, SYSCALL + 0x100)
    guest.ram.write(SYSCALL, bytes.fromhex("89e5 fb 90 90 f4"))  # mov ebp, esp / sti / nop / nop / hlt
    guest.ram.write(SYSCALL + 0x100, bytes.fromhex("43 89e7 cf"))  # inc ebx / mov edi, esp / iret
    guest.host.vectors = [0x20, 0x22]
    guest.rem.interrupt(True)

    state = guest.halt()

    assert (state.gpr[3], state.rip, state.cs.selector) == (1, SYSCALL + 6, 8)
    assert state.gpr[5] == KERNEL_STACK - 20  # SS ESP EFLAGS CS EIP of ring 3
    assert state.gpr[7] == KERNEL_STACK - 20 - 12  # EFLAGS CS EIP on the same stack
    assert u32(guest, KERNEL_STACK - 4) == 0x23
    assert u32(guest, KERNEL_STACK - 8) == USER_STACK
    assert u32(guest, KERNEL_STACK - 16) == 0x1B


def test_interrupt_from_ring_3_uses_the_stack_of_the_tss(guest: Guest) -> None:
    start(guest, bytes.fromhex("cd80"), user=True)
    guest.ram.write(TSS + 4, struct.pack("<II", KERNEL_STACK - 0x100, 0x10))

    state = guest.halt()

    assert state.gpr[4] == KERNEL_STACK - 0x100 - 24
    assert state.ss == Segment(0x10, 0, 0xFFFFFFFF, 0xC09300)
