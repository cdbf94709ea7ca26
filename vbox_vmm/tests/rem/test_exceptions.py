"""Exceptions, interrupts and system calls arrive as the manuals say."""

from __future__ import annotations

import pytest
from rem_guest import (
    CODE,
    COMMON,
    DATA,
    HLT,
    KERNEL_STACK,
    MORE,
    NX,
    PRESENT,
    STACK,
    STUBS,
    SYSCALL,
    TSS,
    USER,
    USER_STACK,
    WRITE,
    Device,
    Guest,
)

from vbox_pdm.engine import ExitReason

READ_600000 = bytes.fromhex("488b042500006000")  # mov rax, [0x600000]
WRITE_600000 = bytes.fromhex("4889042500006000")  # mov [0x600000], rax


@pytest.mark.parametrize(
    ("code", "vector", "error", "behind"),
    [
        ("31c9 f7f1", 0, None, 2),  # xor ecx, ecx / div ecx
        ("cc", 3, None, 1),  # int3: a trap
        ("0f0b", 6, None, 0),  # ud2
        ("66b84000 8ed8", 11, 0x40, 4),  # mov ax, 40 / mov ds, ax: not present
        ("66b84000 8ed0", 12, 0x40, 4),  # mov ss, ax: not present
        ("66b85800 8ed8", 13, 0x58, 4),  # mov ds, 58: beyond the GDT
        ("cd80", 0x80, None, 2),  # int 80
    ],
)
def test_exception_raised_by_code_is_delivered_with_its_error_code(
    guest: Guest, code: str, vector: int, error: int | None, behind: int
) -> None:
    guest.long_mode(bytes.fromhex(code))

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (vector, error, CODE + behind)
    assert (frame.cs, frame.ss, frame.rsp) == (8, 0x10, STACK)


def test_device_not_available_is_delivered_when_ts_is_set(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("d9d0"), cr0=0x80010039)  # fnop

    assert guest.fault().vector == 7


@pytest.mark.parametrize(
    ("code", "user", "entry", "address", "error"),
    [
        (READ_600000, False, None, 0x600000, 0),
        (WRITE_600000, False, None, 0x600000, 2),
        (READ_600000, True, None, 0x600000, 4),
        (bytes.fromhex("8a042500900000"), True, MORE | PRESENT, MORE, 5),  # mov al, [9000]: not a user's
        (bytes.fromhex("88042500900000"), False, MORE | PRESENT | USER, MORE, 3),  # mov [9000], al: read-only
        (bytes.fromhex("e9fb7f0000"), False, MORE | PRESENT | NX, MORE, 0x11),  # jmp 9000: no execute
    ],
)
def test_page_fault_has_cr2_and_error_code(
    guest: Guest, code: bytes, user: bool, entry: int | None, address: int, error: int
) -> None:
    guest.long_mode(code, user=user)
    if entry is not None:
        guest.page(MORE, entry)

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (14, error, address if error & 0x10 else CODE)
    assert guest.rem.get_state().cr2 == address
    assert frame.rsp == (USER_STACK if user else STACK)


def test_page_fault_in_a_page_fault_handler_is_a_page_fault(guest: Guest) -> None:
    guest.long_mode(READ_600000)
    guest.gate(14, SYSCALL)
    # inc ebx / cmp ebx, 2 / je 6 / mov rax, [601000] / hlt / hlt
    handler = bytes.fromhex("ffc3 83fb02 7409 488b042500106000 f4 f4")
    guest.ram.write(SYSCALL, handler)

    state = guest.halt()

    assert (state.gpr[3], state.cr2) == (2, 0x601000)
    assert guest.ram.u64(state.gpr[4]) == 0  # error code of the second
    assert guest.ram.u64(state.gpr[4] + 8) == SYSCALL + 7


def test_many_page_faults_in_a_row_stay_page_faults(guest: Guest) -> None:
    # the handler skips the instruction: add qword [rsp+8], 8 / add rsp, 8 / iretq
    guest.long_mode(READ_600000 * 20 + HLT)
    guest.gate(14, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("4883442408 08 4883c408 ffc3 48cf"))

    state = guest.halt()

    assert (state.gpr[3], state.rip) == (20, CODE + 161)


def test_fault_while_delivering_a_page_fault_is_a_double_fault(guest: Guest) -> None:
    guest.long_mode(READ_600000)
    guest.gate(14, STUBS, present=False)

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (8, 0, CODE)


def test_fault_while_delivering_a_double_fault_is_a_triple_fault(guest: Guest) -> None:
    guest.long_mode(READ_600000, idtr=(0x2000, 0))

    assert guest.run() is ExitReason.TRIPLE_FAULT
    assert guest.run() is ExitReason.TRIPLE_FAULT  # until reset


def test_reset_after_a_triple_fault_starts_over(guest: Guest) -> None:
    guest.long_mode(READ_600000, idtr=(0x2000, 0))
    guest.run()

    guest.rem.reset()

    state = guest.rem.get_state()
    assert (state.rip, state.cs.base, state.cr0, state.cr4) == (0xFFF0, 0xFFFF0000, 0x60000010, 0)
    guest.long_mode(HLT)
    assert guest.run() is ExitReason.HALTED


def test_int_with_a_missing_gate_reports_the_int_itself(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("90 cd80"))
    guest.gate(0x80, STUBS, present=False)

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (11, 0x80 * 8 + 2, CODE + 1)


def test_string_store_that_faults_midway_has_done_what_came_before(guest: Guest) -> None:
    # mov rdi, 9ff0 / mov ecx, 40 / mov al, 55 / rep stosb / hlt
    guest.long_mode(bytes.fromhex("48c7c7f09f0000 b940000000 b055 f3aa f4"))
    guest.page(0xA000, 0)

    frame = guest.fault()
    state = guest.rem.get_state()

    assert (frame.vector, frame.error, state.cr2, frame.rip) == (14, 2, 0xA000, CODE + 14)
    assert (state.gpr[7], state.gpr[1]) == (0xA000, 0x30)
    assert guest.ram.read(0x9FEF, 18) == b"\0" + b"\x55" * 16 + b"\0"


def test_trap_flag_set_by_popf_traps_after_the_next_instruction(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("9c 48810c2400010000 9d ffc3 90 f4"))  # pushf/or [rsp],100/popf/inc ebx/nop

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (1, CODE + 0xC)
    assert guest.rem.get_state().gpr[3] == 1


# ---- interrupts


def test_interrupt_pending_at_sti_waits_for_the_shadow(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("fb 90 90 f4"))  # sti / nop / nop / hlt
    guest.host.vectors = [0x20]
    guest.rem.interrupt(True)

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (0x20, CODE + 2)
    assert guest.host.acknowledged == 1


def test_interrupt_with_if_clear_waits(guest: Guest) -> None:
    guest.long_mode(HLT)
    guest.host.vectors = [0x20]
    guest.rem.interrupt(True)

    state = guest.halt()

    assert (state.rip, state.halted, guest.host.acknowledged) == (CODE + 1, True, 0)
    assert guest.run() is ExitReason.HALTED


def test_interrupt_wakes_from_hlt(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("fb f4"))
    assert guest.run() is ExitReason.HALTED
    guest.host.vectors = [0x21]

    guest.rem.interrupt(True)
    frame = guest.fault()

    assert (frame.vector, frame.rip) == (0x21, CODE + 2)


def test_interrupt_withdrawn_at_acknowledge_is_not_taken(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("fb 90 90 f4"))
    guest.rem.interrupt(True)  # the host has no vector, answers -1 and lowers the line

    state = guest.halt()

    assert (state.rip, guest.host.acknowledged) == (CODE + 4, 1)


@pytest.mark.parametrize("answer", [ZeroDivisionError(), None, 0.5, "1"], ids=repr)
def test_interrupt_whose_acknowledge_fails_is_not_taken_and_told(guest: Guest, answer: object) -> None:
    def acknowledge() -> object:
        guest.rem.interrupt(False)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    guest.long_mode(bytes.fromhex("fb 90 90 f4"))
    guest.host.acknowledge_interrupt = acknowledge  # type: ignore[assignment,method-assign]
    guest.rem.interrupt(True)

    state = guest.halt()

    told = [type(error) for error in guest.host.not_acknowledged]
    wanted = type(answer) if isinstance(answer, BaseException) else TypeError
    assert (state.rip, told) == (CODE + 4, [wanted])
    if isinstance(answer, BaseException):  # for the log
        assert guest.host.not_acknowledged[0].__traceback__ is not None


@pytest.mark.parametrize("answer", [0x131, 1 << 100 | 0x31, 0x31 - 0x100])
def test_interrupt_vector_is_taken_modulo_256(guest: Guest, answer: int) -> None:
    guest.long_mode(bytes.fromhex("fb 90 90 f4"))
    guest.host.vectors = [answer]
    guest.rem.interrupt(True)

    assert guest.fault().vector == 0x31


def test_interrupt_withdrawn_while_the_line_stays_high_is_asked_again(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("fb 90 e680 e680 ebfe"))  # sti / nop / out / out / jmp $

    class Looks(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.interrupt(True)

    guest.rem.set_ports([Looks().row(0x80, 1)])
    guest.host.vectors = [-1, -1, 0x31]
    guest.rem.interrupt(True)

    assert guest.fault().vector == 0x31
    assert guest.host.acknowledged == 3


def test_interrupt_raised_by_a_port_handler_comes_soon(guest: Guest) -> None:
    class Raises(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.interrupt(True)

    guest.host.vectors = [0x30]
    guest.rem.set_ports([Raises().row(0x80, 1)])
    guest.long_mode(bytes.fromhex("ee ebfe"), rflags=0x202, rdx=0x80)  # out dx, al / jmp $

    assert guest.fault().vector == 0x30


def nmi_guest(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("f4 f4"))
    guest.gate(2, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("ffc3 f4 48cf"))  # inc ebx / hlt / iretq


def test_nmi_is_blocked_until_iret(guest: Guest) -> None:
    nmi_guest(guest)
    guest.rem.nmi()
    assert guest.halt().gpr[3] == 1

    guest.rem.nmi()  # within the handler: waits
    state = guest.halt()
    assert (state.gpr[3], state.nmi_blocked, state.nmi_pending) == (1, True, True)
    assert guest.ram.u64(state.gpr[4]) == CODE
    state.halted = False  # on to IRET: now it comes
    guest.rem.set_state(state)

    state = guest.halt()
    assert (state.gpr[3], state.nmi_blocked, state.nmi_pending) == (2, True, False)


def test_nmi_state_moves_to_another_engine(guest: Guest) -> None:
    nmi_guest(guest)
    guest.rem.nmi()
    guest.halt()
    guest.rem.nmi()
    other = Guest(engine=guest.engine)
    try:
        other.ram.write(0, guest.ram.read(0, guest.ram.size))
        other.rem.set_state(guest.rem.get_state())

        assert other.halt().gpr[3] == 1  # blocked: does not wake
        state = other.rem.get_state()
        state.nmi_blocked = False
        other.rem.set_state(state)
        assert other.halt().gpr[3] == 2
    finally:
        other.close()


def test_reset_forgets_nmis(guest: Guest) -> None:
    nmi_guest(guest)
    guest.rem.nmi()
    guest.halt()
    guest.rem.nmi()

    guest.rem.reset()

    state = guest.rem.get_state()
    assert (state.nmi_blocked, state.nmi_pending) == (False, False)


# ---- system calls

STAR = 0x0018_0008_0000_0000


def test_syscall_enters_and_sysret_returns(guest: Guest) -> None:
    guest.long_mode(
        bytes.fromhex("0f05 0f0b"),  # syscall / ud2
        user=True,
        rflags=0xA47,
        msr={0xC0000081: STAR, 0xC0000082: SYSCALL, 0xC0000084: 0x600},
    )
    guest.ram.write(SYSCALL, bytes.fromhex("9c 8f042500800000 480f07"))  # pushf / pop [8000] / sysretq

    frame = guest.fault()
    state = guest.rem.get_state()

    assert (frame.vector, frame.rip, frame.cs, frame.ss) == (6, CODE + 2, 0x2B, 0x23)
    assert (state.gpr[1], state.gpr[11]) == (CODE + 2, 0xA47)
    assert guest.ram.u64(DATA) == 0xA47 & ~0x600
    assert frame.rflags & 0xFFFF == 0xA47


def test_syscall_loads_flat_kernel_segments(guest: Guest) -> None:
    guest.long_mode(
        bytes.fromhex("0f05"), user=True, msr={0xC0000081: STAR, 0xC0000082: COMMON, 0xC0000084: 0}
    )

    state = guest.halt()

    assert (state.cs.selector, state.ss.selector, state.gpr[4]) == (8, 0x10, USER_STACK)
    assert (state.cs.attributes >> 21 & 1, state.cs.base, state.ss.limit) == (1, 0, 0xFFFFFFFF)


def test_syscall_without_sce_is_an_invalid_opcode(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("0f05"), efer=0xD00)

    assert guest.fault().vector == 6


def test_sysenter_in_long_mode_on_amd_is_an_invalid_opcode(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("0f34"), msr={0x174: 8, 0x176: COMMON})

    assert guest.fault().vector == 6


# ---- I/O permission


@pytest.mark.parametrize("code", ["ec", "ee", "66ed", "ef", "6c", "6e"])
def test_port_access_from_ring_3_without_permission_faults(guest: Guest, code: str) -> None:
    guest.long_mode(bytes.fromhex(code) + HLT, user=True, rdx=0x64, rsi=MORE, rdi=MORE)

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip, frame.rsp) == (13, 0, CODE, USER_STACK)
    assert guest.rem.get_state().gpr[4] == KERNEL_STACK - 7 * 8


@pytest.mark.parametrize("code", ["6c", "666d", "6d", "f36c", "f36d"])
def test_string_input_without_permission_leaves_its_destination(guest: Guest, code: str) -> None:
    # add al, 1 first: the flags of the instruction before must survive the fault
    guest.long_mode(bytes.fromhex("0401" + code) + HLT, user=True, rax=0xFF, rdx=0x64, rdi=MORE, rcx=3)
    guest.ram.write(MORE, b"\x11\x22\x33\x44")

    frame = guest.fault()

    assert (frame.vector, frame.rip, frame.rflags & 0x8D5) == (13, CODE + 2, 0x55)
    assert guest.ram.read(MORE, 4) == b"\x11\x22\x33\x44"
    assert guest.rem.get_state().gpr[7] == MORE


@pytest.mark.parametrize("code", ["6c", "6e", "f36c", "f36e"])
def test_string_port_access_checks_permission_before_memory(guest: Guest, code: str) -> None:
    guest.long_mode(bytes.fromhex(code), user=True, rdx=0x64, rdi=0x600000, rsi=0x600000, rcx=1)

    assert guest.fault().vector == 13


def test_string_input_with_permission_stores_what_the_port_says(guest: Guest) -> None:
    device = Device(answer=0x5A)
    guest.rem.set_ports([device.row(0x60, 8)])
    guest.ram.write(TSS + 0x68 + 0x64 // 8, bytes([0xFF & ~(1 << 4)]))
    guest.long_mode(bytes.fromhex("f36c 0f0b"), user=True, rdx=0x64, rdi=MORE, rcx=3)

    assert guest.fault().vector == 6
    assert guest.ram.read(MORE, 4) == b"\x5a\x5a\x5a\0"


def test_iopl_of_a_loaded_state_is_forgotten_with_the_flags(guest: Guest) -> None:
    # ring 0, IOPL 3: push 2 / popf / then IRET to ring 3, where CLI must fault
    code = "6a02 9d 6a23 6800b00000 6a02 6a2b 6840100000 48cf"
    guest.long_mode(bytes.fromhex(code), rflags=0x3002)
    guest.ram.write(CODE + 0x40, bytes.fromhex("fa 0f0b"))

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (13, CODE + 0x40)


def test_iopl_in_force_at_syscall_is_forgotten_with_the_flags(guest: Guest) -> None:
    # user, IOPL 3: syscall; the kernel clears IOPL in R11 and returns to CLI
    msr = {0xC0000081: STAR, 0xC0000082: SYSCALL, 0xC0000084: 0}
    guest.long_mode(bytes.fromhex("0f05 fa 0f0b"), user=True, rflags=0x3002, msr=msr)
    guest.ram.write(SYSCALL, bytes.fromhex("4981e3ffcfffff 480f07"))  # and r11, ~3000 / sysretq

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (13, CODE + 2)


def test_interrupted_string_move_resumes_where_it_was(guest: Guest) -> None:
    # rep movsb of 1.5 MiB; INTR comes again and again: inc ebx / iretq
    count = 0x180000
    guest.directory(2, 0 | PRESENT | WRITE | 0x80)
    guest.long_mode(bytes.fromhex("f3a4 f4"), rflags=0x202, rcx=count, rsi=0x200000, rdi=0x200000 + 0x1000)
    guest.ram.write(0x200000, bytes(range(251)) * 16 + bytes(80))
    guest.gate(0x40, SYSCALL)
    guest.ram.write(SYSCALL, bytes.fromhex("ffc3 48cf"))
    taken, reason = 0, ExitReason.KICKED
    while reason is ExitReason.KICKED:
        guest.host.vectors = [0x40]
        guest.rem.interrupt(True)
        reason = guest.run(0.0005)
        taken += 1 - len(guest.host.vectors)

    state = guest.rem.get_state()

    assert (state.gpr[1], state.gpr[6], state.gpr[7]) == (0, 0x200000 + count, 0x201000 + count)
    assert state.gpr[3] == taken > 1
    assert guest.ram.read(0x201000, count) == guest.ram.read(0x200000, 0x1000) * (count // 0x1000)


@pytest.mark.parametrize(("code", "size", "allowed"), [("ec", 1, True), ("66ed", 2, False)])
def test_port_access_from_ring_3_follows_the_bitmap(
    guest: Guest, code: str, size: int, allowed: bool
) -> None:
    device = Device(answer=0x5A)
    guest.rem.set_ports([device.row(0x60, 8)])
    guest.ram.write(TSS + 0x68 + 0x64 // 8, bytes([0xFF & ~(1 << 4)]))  # port 64 only
    guest.long_mode(bytes.fromhex(code) + bytes.fromhex("0f0b"), user=True, rdx=0x64)

    frame = guest.fault()

    assert frame.vector == (6 if allowed else 13)
    assert device.calls == ([("read", 4, size)] if allowed else [])


def test_port_access_from_ring_3_with_iopl_3_is_allowed(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("ec 0f0b"), user=True, rdx=0x64, rflags=0x3002)

    assert guest.fault().vector == 6


def test_write_right_of_pages_holds_for_the_kernel(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("c6042500900000 01 f4"))  # mov byte [9000], 1
    guest.page(MORE, MORE | PRESENT | WRITE)

    guest.halt()

    assert guest.ram.read(MORE, 1) == b"\1"
    assert guest.ram.u64(0x103000 + 9 * 8) & 0x60 == 0x60  # accessed, dirty
