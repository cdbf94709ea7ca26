"""A fault on the way through the IDT: which exception comes of it, with which error code.

The table is that of SDM volume 3A, "Interrupt 8": two contributory exceptions, or anything but a benign one
behind a page fault, are a double fault; all else is served one after the other.
"""

from __future__ import annotations

import struct

import pytest
from rem_guest import CODE, DATA, GDT, HLT, IDT, STACK, TSS, Guest
from rem_guest32 import fault as fault32
from rem_guest32 import gate as gate32
from rem_guest32 import start

from vbox_pdm.engine import ExitReason

HOLE = 0x600000
# what comes first: code, vector, how far behind CODE the saved RIP is
FIRST = {
    "divide": ("f7f9", 0, 0),
    "undefined": ("0f0b", 6, 0),
    "protection": ("8ed8", 13, 0),
    "page": ("488b042500006000", 14, 0),
    "int n": ("cd40", 0x40, 0),
    "int1": ("f1", 1, 1),
    "intr": ("90 f4", 0x40, 0),
    "nmi": ("90 f4", 2, 0),
}
PROGRAM = {"int n"}
# what its delivery meets: vector, error code without EXT, given the first vector
SECOND = {
    "gate not present": (11, lambda vector: vector * 8 + 2),
    "gate of a wrong type": (13, lambda vector: vector * 8 + 2),
    "no code segment": (13, lambda vector: 0),
    "code segment not present": (11, lambda vector: 0x38),
    "data for code": (13, lambda vector: 0x10),
    "stack not mapped": (14, lambda vector: 2),
}


def kind(vector: int) -> str:
    return "page" if vector == 14 else "contributory" if vector in (0, 10, 11, 12, 13) else "benign"


def is_double(first: str, second: str) -> bool:
    return (second == "contributory" and first == second) or (first == "page" and second != "benign")


def break_gate(guest: Guest, vector: int, how: str) -> None:
    at = IDT + vector * 16
    match how:
        case "gate not present":
            guest.ram.write(at + 5, b"\x6e")
        case "gate of a wrong type":
            guest.ram.write(at + 5, b"\xe5")
        case "no code segment":
            guest.ram.write(at + 2, b"\0\0")
        case "code segment not present":
            guest.ram.write(at + 2, b"\x38\0")
            guest.ram.write(GDT + 0x38, struct.pack("<Q", 0x00AF_1B00_0000_FFFF))
        case "data for code":
            guest.ram.write(at + 2, b"\x10\0")
        case "stack not mapped":
            guest.ram.write(at + 4, b"\1")  # IST1
            guest.ram.write(TSS + 0x24, struct.pack("<Q", HOLE))


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
def test_fault_in_delivery_is_served_next_or_becomes_a_double_fault(
    guest: Guest, first: str, second: str
) -> None:
    code, vector, behind = FIRST[first]
    guest.long_mode(bytes.fromhex(code) + HLT, rax=0x5B, rcx=0, rflags=0x202)
    break_gate(guest, vector, second)
    if first == "intr":
        guest.host.vectors = [vector]
        guest.rem.interrupt(True)
    elif first == "nmi":
        guest.rem.nmi()
    expected, error_of = SECOND[second]
    error = error_of(vector)
    if expected != 14 and first not in PROGRAM:
        error |= 1
    if is_double(kind(vector), kind(expected)):
        expected, error = 8, 0

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip, frame.rsp) == (expected, error, CODE + behind, STACK)
    if second == "stack not mapped":
        assert guest.rem.get_state().cr2 == HOLE - 8


@pytest.mark.parametrize("second", ["gate not present", "gate of a wrong type", "stack not mapped"])
@pytest.mark.parametrize("first", ["divide", "page", "protection"])
def test_fault_in_delivery_of_a_double_fault_shuts_down(guest: Guest, first: str, second: str) -> None:
    code, vector, _ = FIRST[first]
    guest.long_mode(bytes.fromhex(code), rax=0x5B, rcx=0)
    break_gate(guest, vector, "gate not present")
    break_gate(guest, 8, second)

    assert guest.run() is ExitReason.TRIPLE_FAULT


def test_three_contributory_faults_shut_down(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("f7f9"), rcx=0, idtr=(IDT, 0))

    assert guest.run() is ExitReason.TRIPLE_FAULT


def test_shutdown_leaves_error_codes_as_they_should_be(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("f7f9"), rcx=0, idtr=(IDT, 0))
    guest.run()

    guest.long_mode(bytes.fromhex("8ed8"), rax=0x5B)
    frame = guest.fault()

    assert (frame.vector, frame.error) == (13, 0x58)


@pytest.mark.parametrize(("vector", "limit"), [(0x40, 0x40 * 16 + 14), (0xFF, 0x2FF)])
def test_vector_beyond_the_idt_is_a_protection_fault_of_that_gate(
    guest: Guest, vector: int, limit: int
) -> None:
    guest.long_mode(bytes([0xCD, vector]), idtr=(IDT, limit))

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (13, vector * 8 + 2, CODE)


def test_vector_that_just_fits_the_idt_is_delivered(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("cd40"), idtr=(IDT, 0x40 * 16 + 15))

    assert guest.fault().vector == 0x40


def test_error_code_is_not_pushed_twice_after_a_fault_in_delivery(guest: Guest) -> None:
    # the handler of #NP mends the gate and returns: add rsp, 8 / mov byte [2005], ee / iretq
    guest.long_mode(bytes.fromhex("f7f9 f4"), rcx=0)
    break_gate(guest, 0, "stack not mapped")
    guest.gate(14, 0x6000)
    guest.ram.write(0x6000, bytes.fromhex("c6042504200000 00 ffc3 4883c408 48cf"))

    frame = guest.fault()

    assert (frame.vector, frame.rip, frame.rsp) == (0, CODE, STACK)
    assert guest.rem.get_state().gpr[3] == 1


@pytest.mark.parametrize(
    ("attributes", "selector", "vector", "error"),
    [
        pytest.param(0x6E00, 8, 11, 0x40 * 8 + 2, id="not present"),
        pytest.param(0xE900, 8, 13, 0x40 * 8 + 2, id="a TSS"),
        pytest.param(0xEE00, 0, 13, 0, id="null"),
        pytest.param(0xEE00, 0x58, 13, 0x58, id="beyond the GDT"),
        pytest.param(0xEE00, 0x10, 13, 0x10, id="data"),
        pytest.param(0xEE00, 0x18, 13, 0x18, id="outer ring"),
        pytest.param(0xE500, 0x58, 13, 0x58, id="task beyond the GDT"),
        pytest.param(0xE500, 0x10, 13, 0x10, id="task gate to data"),
    ],
)
@pytest.mark.parametrize("external", [False, True])
def test_bad_gate_of_32_bits_faults(
    guest: Guest, attributes: int, selector: int, vector: int, error: int, external: bool
) -> None:
    start(guest, bytes.fromhex("90 90 cd40"), rflags=0x202, rip=CODE + 2 * (not external))
    gate32(guest, 0x40, 0x4400, attributes, selector)
    if external:
        guest.host.vectors = [0x40]
        guest.rem.interrupt(True)

    result = fault32(guest)

    assert (result.vector, result.error) == (vector, error | external)
    assert result.eip == CODE + 2 * (not external)


def test_real_mode_vector_beyond_the_idt_is_a_double_fault_and_then_shutdown(guest: Guest) -> None:
    guest.real_mode(bytes.fromhex("cd40"), idtr=(0, 0x20))  # 8 vectors: not even #DF, #GP
    guest.ram.write(DATA, HLT)

    assert guest.run() is ExitReason.TRIPLE_FAULT


def test_real_mode_vector_beyond_the_idt_is_a_protection_fault(guest: Guest) -> None:
    guest.ram.write(13 * 4, struct.pack("<HH", 0x8000, 0))
    guest.ram.write(DATA, HLT)
    guest.real_mode(bytes.fromhex("90 cd40"), idtr=(0, 0xFF))

    state = guest.halt()

    assert (state.rip, state.gpr[4]) == (DATA + 1, STACK - 6)
    assert guest.ram.read(STACK - 6, 4) == struct.pack("<HH", CODE + 1, 0)
