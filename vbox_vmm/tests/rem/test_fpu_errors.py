"""Exceptions of the x87 where CR0.NE is clear: FERR#, the interrupt that a board makes of it, and IGNNE#.

References: Intel SDM volume 1 section 8.7.2 (MS-DOS compatibility mode); volume 3A section 2.5, CR0.NE.
"""

from __future__ import annotations

import struct

import pytest
from attrs import evolve
from rem_guest import CODE, DATA, HLT, Guest

WITHOUT_NE = 0x80010011
UNMASK = bytes.fromhex("d92c2500800000")  # fldcw [8000]
DIVIDE = bytes.fromhex("d9eed9e8d8f1ddd8")  # fldz / fld1 / fdiv st, st(1) / fstp st: waits
WAIT, CLEAR = b"\x9b", bytes.fromhex("dbe2")  # fwait, fnclex
STI = b"\xfb"
VECTOR = 0x75


def prepared(guest: Guest, code: bytes, **changes: int) -> Guest:
    guest.long_mode(UNMASK + code + HLT, **({"cr0": WITHOUT_NE} | changes))
    guest.ram.write(DATA, struct.pack("<H", 0x37B))  # division by zero is not masked
    return guest


def interrupting(guest: Guest) -> None:
    """The board answers with an interrupt."""
    guest.host.vectors = [VECTOR]
    guest.host.on_fpu_error = lambda: guest.rem.interrupt(True)


def test_error_without_an_interrupt_is_told_once_and_the_guest_goes_on(guest: Guest) -> None:
    prepared(guest, DIVIDE + WAIT * 3)

    state = guest.halt()

    assert guest.host.fpu_errors == 1
    assert state.rip == CODE + len(UNMASK + DIVIDE) + 4
    assert state.fpu[2] & 0x84 == 0x84  # division by zero, and its summary


@pytest.mark.parametrize("waits", ["9b", "d9e8", "d8c1", "dd1c2508800000", "d92c2500800000"])
def test_error_interrupt_comes_before_the_instruction_that_waits(guest: Guest, waits: str) -> None:
    before = bytes.fromhex("d9eed9e8d8f1") + bytes.fromhex("dfe0ffc3")  # with fnstsw ax / inc ebx
    prepared(guest, STI + before + bytes.fromhex(waits))
    interrupting(guest)

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (VECTOR, CODE + len(UNMASK + STI + before))
    assert guest.rem.get_state().fpu[4] == 0xC0  # two registers: it has not begun


def test_error_interrupt_while_they_are_off_stays_pending(guest: Guest) -> None:
    prepared(guest, DIVIDE + STI + b"\x90" * 2)
    interrupting(guest)

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (VECTOR, CODE + len(UNMASK + DIVIDE + STI) + 1)


@pytest.mark.parametrize(
    ("between", "told"),
    [
        (b"", 1),
        (CLEAR, 2),
        (bytes.fromhex("dbe3") + UNMASK, 2),  # fninit
        (bytes.fromhex("d93425009000009b") + UNMASK, 2),  # fnstenv masks all; then they are pending again
    ],
    ids=["nothing", "fnclex", "fninit", "fnstenv"],
)
def test_error_is_told_again_after_it_was_cleared(guest: Guest, between: bytes, told: int) -> None:
    prepared(guest, DIVIDE + between + DIVIDE)

    guest.halt()

    assert guest.host.fpu_errors == told


def test_error_that_is_ignored_is_not_told_again_until_cleared(guest: Guest) -> None:
    prepared(guest, DIVIDE + WAIT + HLT + WAIT * 2 + HLT + CLEAR + DIVIDE)
    guest.host.on_fpu_error = guest.rem.ignore_fpu_errors

    first = guest.halt()
    guest.rem.reset()
    after_reset = guest.rem.get_state().ignores_fpu_errors
    guest.rem.set_state(evolve(first, halted=False))
    second = guest.halt()
    told = guest.host.fpu_errors
    guest.host.on_fpu_error = None
    guest.rem.set_state(evolve(second, halted=False))
    third = guest.halt()

    assert [state.ignores_fpu_errors for state in (first, second, third)] == [True, True, False]
    assert not after_reset
    assert told == 1
    assert guest.host.fpu_errors == 2


def test_ignoring_errors_without_one_has_no_effect(guest: Guest) -> None:
    prepared(guest, DIVIDE)

    guest.rem.ignore_fpu_errors()
    state = guest.halt()

    assert not state.ignores_fpu_errors
    assert guest.host.fpu_errors == 1


def test_error_with_ne_is_an_exception_and_not_told(guest: Guest) -> None:
    prepared(guest, DIVIDE, cr0=WITHOUT_NE | 0x20)

    frame = guest.fault()

    assert frame.vector == 16
    assert guest.host.fpu_errors == 0


def test_host_that_raises_when_told_does_not_stop_the_guest(
    guest: Guest, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", said.append)

    def fail() -> None:
        raise ValueError("a board that fails")

    prepared(guest, DIVIDE)
    guest.host.on_fpu_error = fail

    guest.halt()

    assert said or "a board that fails" in capfd.readouterr().err
