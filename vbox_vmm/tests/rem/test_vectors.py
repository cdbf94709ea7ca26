"""Each vector: who raises it, with which error code, where the saved instruction pointer is."""

from __future__ import annotations

import struct

import pytest
from rem_guest import (
    CODE,
    DATA,
    GDT,
    HLT,
    STUBS,
    TSS,
    USER_STACK,
    Guest,
)
from rem_guest32 import fault, gate, start, task

from vbox_pdm.engine import Segment

NON_CANONICAL = 1 << 63


def deviation(which: str) -> pytest.MarkDecorator:
    """What Unicorn does otherwise and stays: `which` is the entry in docs/rem-deviations.md."""
    return pytest.mark.xfail(strict=True, reason=f"docs/rem-deviations.md: {which}")


# ---- long mode, ring 0


@pytest.mark.parametrize(
    ("code", "registers", "vector", "error", "behind"),
    [
        pytest.param("f7f9", {"rcx": 0}, 0, None, 0, id="idiv by zero"),
        pytest.param(
            "f7f9", {"rax": 1 << 31, "rdx": 2**32 - 1, "rcx": 2**32 - 1}, 0, None, 0, id="idiv overflow"
        ),
        pytest.param(
            "48f7f9", {"rax": 1 << 63, "rdx": 2**64 - 1, "rcx": 2**64 - 1}, 0, None, 0, id="idiv 64"
        ),
        pytest.param("f6f1", {"rax": 0x100, "rcx": 1}, 0, None, 0, id="div overflow"),
        pytest.param("66f7f1", {"rdx": 2, "rcx": 2}, 0, None, 0, id="div 16 overflow"),
        pytest.param("48f7f1", {"rdx": 2, "rcx": 2}, 0, None, 0, id="div 64 overflow"),
        pytest.param("cd04", {}, 4, None, 2, id="int 4"),
        pytest.param("ce", {}, 6, None, 0, id="into"),
        pytest.param("62050080000090", {}, 6, None, 0, id="bound"),
        pytest.param("06", {}, 6, None, 0, id="push es"),
        pytest.param("60", {}, 6, None, 0, id="pusha"),
        pytest.param("d40a", {}, 6, None, 0, id="aam"),
        pytest.param("9a001000000800", {}, 6, None, 0, id="far call"),
        pytest.param("f090", {}, 6, None, 0, id="lock nop"),
        pytest.param(
            "f08b03",
            {},
            6,
            None,
            0,
            id="lock mov",
            marks=deviation("LOCK is ignored where it is not allowed"),
        ),
        pytest.param("f001c0", {}, 6, None, 0, id="lock add to a register"),
        pytest.param("0fffc0", {}, 6, None, 0, id="ud0"),
        pytest.param("0fb9c0", {}, 6, None, 0, id="ud1"),
        pytest.param("0f22c8", {}, 6, None, 0, id="mov cr1"),
        pytest.param("8ec8", {"rax": 0x10}, 6, None, 0, id="mov cs"),
        pytest.param("0f01d1", {}, 6, None, 0, id="xsetbv without OSXSAVE"),
        pytest.param("488b18", {"rax": NON_CANONICAL}, 13, 0, 0, id="load, not canonical"),
        pytest.param("488918", {"rax": NON_CANONICAL}, 13, 0, 0, id="store, not canonical"),
        pytest.param(
            "488b5d00",
            {"rbp": NON_CANONICAL},
            12,
            0,
            0,
            id="load by RBP, not canonical",
            marks=deviation("the segment of an access is not known"),
        ),
        pytest.param(
            "50",
            {"rsp": NON_CANONICAL},
            12,
            0,
            0,
            id="push, not canonical",
            marks=deviation("the segment of an access is not known"),
        ),
        pytest.param("8ed8", {"rax": 0x5B}, 13, 0x58, 0, id="mov ds, beyond the GDT"),
        pytest.param("8ed8", {"rax": 0x7}, 13, 4, 0, id="mov ds, no LDT"),
        pytest.param("8ed0", {"rax": 0x23}, 13, 0x20, 0, id="mov ss of another ring"),
        pytest.param("8ed0", {"rax": 0x08}, 13, 0x08, 0, id="mov ss of a code segment"),
        pytest.param("0f00d0", {"rax": 0x10}, 13, 0x10, 0, id="lldt of a data segment"),
        pytest.param("0f00d8", {"rax": 0x10}, 13, 0x10, 0, id="ltr of a data segment"),
        pytest.param("0f00d8", {"rax": 0}, 13, 0, 0, id="ltr of null"),
        pytest.param("6a10 6800100000 48cb", {}, 13, 0x10, 7, id="far return to data"),
        pytest.param("6a00 6800100000 48cb", {}, 13, 0, 7, id="far return to null"),
        pytest.param("6a10 54 6a02 6a10 6800100000 48cf", {}, 13, 0x10, 12, id="iret to data"),
        pytest.param(
            "6a40 54 6a02 6a08 6800100000 48cf",
            {},
            12,
            0x40,
            12,
            id="iret to a missing stack",
            marks=deviation("stack segments that are not present"),
        ),
        pytest.param(
            "660f7f4001",
            {"rax": DATA},
            13,
            0,
            0,
            id="movdqa, not aligned",
            marks=deviation("SSE operands need no alignment"),
        ),
        pytest.param("0fae4001", {"rax": DATA}, 13, 0, 0, id="fxsave, not aligned"),
        pytest.param("480fc74808", {"rax": DATA}, 13, 0, 0, id="cmpxchg16b, not aligned"),
        pytest.param("0fae10", {"rax": DATA}, 13, 0, 0, id="ldmxcsr of reserved bits"),
        pytest.param("66" * 15 + "90", {}, 13, 0, 0, id="16 bytes long"),
        pytest.param("0f22c0", {"rax": 0x80000000}, 13, 0, 0, id="paging without protection"),
        pytest.param("0f22c0", {"rax": 0x31}, 13, 0, 0, id="no paging in 64-bit code"),
        pytest.param("0f22c0", {"rax": 0xA0010031}, 13, 0, 0, id="NW without CD"),
        pytest.param("0f22c0", {"rax": 0x1_8001_0031}, 13, 0, 0, id="CR0 bit 32"),
        pytest.param("0f22e0", {"rax": 0x600}, 13, 0, 0, id="no PAE in long mode"),
        pytest.param("0f22e0", {"rax": 0x620 | 1 << 15}, 13, 0, 0, id="CR4 bit 15"),
        pytest.param("0f22e0", {"rax": 0x620 | 1 << 18}, 13, 0, 0, id="OSXSAVE without XSAVE"),
        pytest.param("0f22d8", {"rax": 1 << 40}, 13, 0, 0, id="CR3 beyond 40 bits"),
        pytest.param("440f22c0", {"rax": 16}, 13, 0, 0, id="CR8 bit 4"),
        pytest.param("0f23f8", {"rax": 1 << 32}, 13, 0, 0, id="DR7 bit 32"),
        pytest.param("0f23f0", {"rax": 1 << 32}, 13, 0, 0, id="DR6 bit 32"),
        pytest.param("0f30", {"rcx": 0xC0000080, "rax": 0x401}, 13, 0, 0, id="LME cleared under paging"),
        pytest.param("0f30", {"rcx": 0xC0000080, "rax": 0x2D01 | 1 << 12}, 13, 0, 0, id="SVME without SVM"),
        pytest.param("0f30", {"rcx": 0xC0000082, "rdx": 1 << 31}, 13, 0, 0, id="LSTAR, not canonical"),
        pytest.param("0f30", {"rcx": 0xC0000101, "rdx": 1 << 31}, 13, 0, 0, id="GS base, not canonical"),
        pytest.param("0f30", {"rcx": 0x277, "rax": 2}, 13, 0, 0, id="PAT of an unknown type"),
        pytest.param(
            "0f32",
            {"rcx": 0xDEAD},
            13,
            0,
            0,
            id="rdmsr of nothing",
            marks=deviation("MSRs that do not exist read 0"),
        ),
        pytest.param(
            "0f30",
            {"rcx": 0xDEAD},
            13,
            0,
            0,
            id="wrmsr of nothing",
            marks=deviation("MSRs that do not exist read 0"),
        ),
    ],
)
def test_fault_of_64_bit_code_has_its_vector_error_and_place(
    guest: Guest, code: str, registers: dict[str, int], vector: int, error: int | None, behind: int
) -> None:
    # inc ebx first: the place is not that of the whole block
    guest.long_mode(bytes.fromhex("ffc3" + code) + HLT, **registers)
    guest.ram.write(DATA, struct.pack("<I", 0x10000))

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (vector, error, CODE + 2 + behind)
    assert (frame.cs, frame.rflags & 0x10000) == (8, 0)


@pytest.mark.parametrize(
    ("code", "registers"),
    [
        pytest.param("0f22c0", {"rax": 0x8005003B}, id="cr0"),
        pytest.param("0f22c0", {"rax": 0xE0050033}, id="cr0, caches off"),
        pytest.param("0f22e0", {"rax": 0x107FC}, id="cr4, all but SMEP"),
        pytest.param("0f22d8", {"rax": 0x100018}, id="cr3"),
        pytest.param("440f22c0", {"rax": 15}, id="cr8"),
        pytest.param("0f30", {"rcx": 0xC0000080, "rax": 0xD01}, id="efer"),
        pytest.param("0f30", {"rcx": 0xC0000080, "rax": 0x500}, id="efer without NXE and SCE"),
        pytest.param("0f30", {"rcx": 0xC0000082, "rax": 0, "rdx": 0xFFFF8000}, id="lstar"),
        pytest.param("0f30", {"rcx": 0x277, "rax": 0x01040506, "rdx": 0x00070006}, id="pat"),
        pytest.param("0fae1425 00800000", {}, id="ldmxcsr"),
    ],
)
def test_value_that_a_register_may_have_is_taken(guest: Guest, code: str, registers: dict[str, int]) -> None:
    guest.long_mode(bytes.fromhex("ffc3" + code) + b"\xcc", **registers)
    guest.ram.write(DATA, struct.pack("<I", 0xFFBF))

    assert guest.fault().vector == 3


def test_jump_to_an_address_that_is_not_canonical_faults(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("ffe0"), rax=NON_CANONICAL)

    frame = guest.fault()

    assert (frame.vector, frame.error) == (13, 0)


@pytest.mark.parametrize("code", ["cd80", "cc", "cd03", "f1"])
def test_trap_saves_the_next_instruction_and_clears_trap_and_interrupt_flags(guest: Guest, code: str) -> None:
    guest.long_mode(bytes.fromhex(code), rflags=0x4ED7 & ~0x100)

    frame = guest.fault()

    assert frame.rip == CODE + len(code) // 2
    assert frame.rflags == 0x4ED7 & ~0x100
    assert guest.rem.get_state().rflags & 0x4300 == 0


def test_trap_gate_leaves_interrupts_open(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("cd80"), rflags=0x202)
    guest.gate(0x80, STUBS + 0x80 * 16)
    guest.ram.write(0x2000 + 0x80 * 16 + 5, b"\x8f")

    assert guest.fault().vector == 0x80
    assert guest.rem.get_state().rflags & 0x200


@pytest.mark.parametrize(("code", "vector"), [("cd80", 0x80), ("cc", 3)])
def test_software_interrupt_of_ring_3_needs_a_gate_of_ring_3(guest: Guest, code: str, vector: int) -> None:
    guest.long_mode(bytes.fromhex(code), user=True)
    guest.ram.write(0x2000 + vector * 16 + 5, b"\x8e")

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (13, vector * 8 + 2, CODE)


def test_exception_of_ring_3_needs_no_gate_of_ring_3(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("0f0b"), user=True)
    guest.ram.write(0x2000 + 6 * 16 + 5, b"\x8e")

    frame = guest.fault()

    assert (frame.vector, frame.rip, frame.rsp) == (6, CODE, USER_STACK)


# ---- ring 3

PRIVILEGED = {
    "hlt": "f4", "cli": "fa", "sti": "fb", "in": "ec", "out": "ee", "clts": "0f06", "invd": "0f08",
    "wbinvd": "0f09", "invlpg": "0f013c2500800000", "lgdt": "0f01142500800000",
    "lidt": "0f011c2500800000", "lldt": "0f00d0", "ltr": "0f00d8", "lmsw": "0f01f0", "mov cr0": "0f22c0",
    "mov from cr3": "0f20d8", "mov cr8": "440f22c0", "mov dr7": "0f23f8", "mov from dr0": "0f21c0",
    "rdmsr": "0f32", "wrmsr": "0f30", "sysret": "480f07", "swapgs": "0f01f8", "rdpmc": "0f33",
}  # fmt: skip


@pytest.mark.parametrize("name", PRIVILEGED)
def test_privileged_instruction_in_ring_3_faults(guest: Guest, name: str) -> None:
    guest.long_mode(bytes.fromhex("ffc3" + PRIVILEGED[name]), user=True)

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (13, 0, CODE + 2)


# ---- floating point


@pytest.mark.parametrize(
    ("code", "cr0", "cr4", "vector"),
    [
        pytest.param("d9d0", 0x80010039, 0x620, 7, id="x87, TS"),
        pytest.param("d9d0", 0x80010035, 0x620, 7, id="x87, EM"),
        pytest.param("9b", 0x8001003B, 0x620, 7, id="wait, MP and TS"),
        pytest.param("9b", 0x80010039, 0x620, 3, id="wait, TS alone"),
        pytest.param("0fefc0", 0x80010039, 0x620, 7, id="MMX, TS"),
        pytest.param("0fefc0", 0x80010035, 0x620, 6, id="MMX, EM"),
        pytest.param("0f57c0", 0x80010039, 0x620, 7, id="SSE, TS"),
        pytest.param("0f57c0", 0x80010035, 0x620, 6, id="SSE, EM"),
        pytest.param("0f57c0", 0x80010031, 0x420, 6, id="SSE, no OSFXSR"),
        pytest.param("0fae1425 00800000", 0x80010031, 0x420, 6, id="LDMXCSR, no OSFXSR"),
        pytest.param("0fae0425 00800000", 0x80010039, 0x620, 7, id="FXSAVE, TS"),
    ],
)
def test_floating_point_waits_for_the_control_registers(
    guest: Guest, code: str, cr0: int, cr4: int, vector: int
) -> None:
    guest.long_mode(bytes.fromhex(code) + b"\xcc", cr0=cr0, cr4=cr4)

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (vector, None, CODE + (2 if vector == 3 else 0))


@pytest.mark.parametrize(
    "waits",
    [
        "9b",
        "d9e8",
        "d8c1",
        "dd1c2508800000",
        "d92c2500800000",
        "0fefc0",
        "0f6f0c2500004000",
        "0f77",
        "0f2ac1",
    ],
)  # MMX, too: pxor / movq of a page that is not present / emms / cvtpi2ps
def test_unmasked_x87_exception_faults_at_the_next_waiting_instruction(guest: Guest, waits: str) -> None:
    # fldcw [8000] / fldz / fld1 / fdiv st, st(1) / fnstsw ax / inc ebx / what waits
    guest.long_mode(bytes.fromhex("d92c2500800000 d9ee d9e8 d8f1 dfe0 ffc3" + waits))
    guest.ram.write(DATA, struct.pack("<H", 0x37B))

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (16, None, CODE + 17)
    state = guest.rem.get_state()
    assert state.fpu[2] & 0x84 == 0x84
    assert state.fpu[4] == 0xC0  # as it was: two registers


# ---- 32-bit code


@pytest.mark.parametrize(
    ("code", "vector", "error", "behind"),
    [
        pytest.param("d400", 0, None, 0, id="aam 0"),
        pytest.param("b07f 0401 ce", 4, None, 5, id="into"),
        pytest.param("31c0 ce cc", 3, None, 4, id="into without overflow"),
        pytest.param("b805000000 620500800000", 5, None, 5, id="bound, above"),
        pytest.param("b8ffffffff 620500800000", 5, None, 5, id="bound, below"),
        pytest.param("b804000000 620500800000 cc", 3, None, 12, id="bound, the last"),
        pytest.param("b801000000 620500800000 cc", 3, None, 12, id="bound, the first"),
        pytest.param("66b80500 66620504800000", 5, None, 4, id="bound, 16 bits"),
        pytest.param("62c0", 6, None, 0, id="bound of a register"),
        pytest.param("8dc0", 6, None, 0, id="lea of a register"),
        pytest.param("ea00100000 1000", 13, 0x10, 0, id="far jump to data"),
        pytest.param("ea00100000 0000", 13, 0, 0, id="far jump to null"),
        pytest.param("9a00100000 5800", 13, 0x58, 0, id="far call beyond the GDT"),
        pytest.param("9a00100000 1b00", 13, 0x18, 0, id="far call to ring 3"),
        pytest.param("b8 18000000 8ed0", 13, 0x18, 5, id="mov ss of code"),
        pytest.param("31c0 8ed0", 13, 0, 2, id="mov ss of null"),
        pytest.param("0fc7c8", 6, None, 0, id="cmpxchg8b of a register"),
        pytest.param("0f0500", 6, None, 0, id="syscall without SCE"),
    ],
)
def test_fault_of_32_bit_code_has_its_vector_error_and_place(
    guest: Guest, code: str, vector: int, error: int | None, behind: int
) -> None:
    start(guest, bytes.fromhex(code) + HLT)
    guest.ram.write(DATA, struct.pack("<iihh", 1, 4, 1, 4))

    result = fault(guest)

    assert (result.vector, result.error, result.eip, result.cs) == (vector, error, CODE + behind, 8)


@pytest.mark.parametrize(
    ("stack", "present", "limit", "vector", "error"),
    [
        pytest.param(0, True, 0x2069, 10, 0, id="null"),
        pytest.param(0x20, True, 0x2069, 10, 0x20, id="of ring 3"),
        pytest.param(0x08, True, 0x2069, 10, 0x08, id="a code segment"),
        pytest.param(0x58, True, 0x2069, 10, 0x58, id="beyond the GDT"),
        pytest.param(
            0x30,
            False,
            0x2069,
            12,
            0x30,
            id="not present",
            marks=deviation("stack segments that are not present"),
        ),
        pytest.param(0x10, True, 0x7, 10, 0x38, id="beyond the TSS"),
    ],
)
@pytest.mark.parametrize("external", [False, True])
def test_bad_stack_of_the_tss_faults_as_invalid_tss(
    guest: Guest, stack: int, present: bool, limit: int, vector: int, error: int, external: bool
) -> None:
    tss = Segment(0x38, TSS, limit, 0x8B00)
    start(guest, bytes.fromhex("90 90 cd80"), user=True, tr=tss, rflags=0x202, rip=CODE + 2 * (not external))
    guest.ram.write(TSS + 8, struct.pack("<I", stack))
    guest.ram.write(GDT + 0x35, bytes([0x93 if present else 0x13]))
    # the handlers have a task of their own, since ring 0 has no stack: pop ecx / hlt
    task(guest, 0x5800)
    guest.ram.write(0x5800, b"\x59" + HLT)
    gate(guest, vector, 0, 0x8500, 0x40)
    if external:
        guest.host.vectors = [0x80]
        guest.rem.interrupt(True)

    state = guest.halt()

    assert (state.tr.selector, state.gpr[1]) == (0x40, error | external)
    assert struct.unpack("<I", guest.ram.read(TSS + 0x20, 4))[0] == CODE + 2 * (not external)


# ---- what Unicorn leaves out


@deviation("no segment limits")
@pytest.mark.parametrize("limited", [Segment(0x10, 0, 0x7FFF, 0x409300), Segment(0, 0, 0, 0)])
def test_load_beyond_the_limit_of_its_segment_faults(guest: Guest, limited: Segment) -> None:
    start(guest, bytes.fromhex("a100800000") + HLT, ds=limited)

    assert fault(guest).vector == 13


@deviation("no alignment check")
def test_access_that_is_not_aligned_faults_in_ring_3_when_asked_for(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("8b04250180 0000 0f0b"), user=True, cr0=0x80050031, rflags=0x40002)

    assert guest.fault().vector == 17


def test_unmasked_sse_exception_faults(guest: Guest) -> None:
    # ldmxcsr [8000] / divss xmm0, xmm1: 0 by 0
    guest.long_mode(bytes.fromhex("0fae1425 00800000 f30f5ec1 0f0b"))
    guest.ram.write(DATA, struct.pack("<I", 0x1F00))

    assert guest.fault().vector == 19


def test_sse_exception_is_noted_in_mxcsr(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("f30f5ec1 0fae1c25 00800000") + HLT)  # divss / stmxcsr [8000]

    guest.halt()

    assert guest.ram.u64(DATA) & 1
