"""The CPU state out and in; reset and INIT."""

from __future__ import annotations

import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rem_guest import CODE, HLT, Device, Guest

from vbox_pdm.engine import CpuState, Segment

U64 = st.integers(0, 2**64 - 1)


def test_state_at_power_on_is_that_of_the_manual(guest: Guest) -> None:
    state = guest.rem.get_state()

    assert (state.rip, state.rflags, state.cr0, state.cr4, state.efer) == (0xFFF0, 2, 0x60000010, 0, 0)
    assert state.cs == Segment(0xF000, 0xFFFF0000, 0xFFFF, 0x9B00)
    assert state.ss == Segment(0, 0, 0xFFFF, 0x9300)
    assert state.gpr[2] == 0x60FB1
    assert state.fpu[:2] == b"\x7f\x03"
    assert state.msr[0x277] == 0x0007040600070406
    assert (state.dr[6], state.dr[7]) == (0xFFFF0FF0, 0x400)


def test_state_of_cpustate_defaults_loads(guest: Guest) -> None:
    guest.rem.set_state(CpuState())

    assert guest.rem.get_state().cs.base == 0xFFFF0000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_state_set_is_the_state_got(guest: Guest, data: st.DataObject) -> None:
    draw = data.draw
    segment = st.builds(
        Segment, st.integers(0, 0xFFFF), U64, st.integers(0, 2**32 - 1), st.sampled_from([0x9300, 0xC0F300])
    )
    fpu = bytearray(512)
    top = draw(st.integers(0, 7))
    tags = draw(st.integers(0, 255))
    struct.pack_into("<HHBxHQQII", fpu, 0, 0x37F, top << 11 | 0x41, tags, 5, 7, 9, 0x1F80, 0xFFFF)
    for i in range(8):
        fpu[32 + i * 16 : 42 + i * 16] = draw(st.binary(min_size=10, max_size=10))
    fpu[160:416] = draw(st.binary(min_size=256, max_size=256))
    state = CpuState(
        gpr=draw(st.lists(U64, min_size=16, max_size=16)),
        rip=draw(U64),
        rflags=draw(st.integers(0, 0x3FFFFF)) & 0x250DD5 | 2,
        cr0=0x80050033,
        cr2=draw(U64),
        cr3=draw(st.integers(0, 2**40 - 1)) & ~0xFFF,
        cr4=0x6B0,
        cr8=draw(st.integers(0, 15)),
        efer=0xD01,
        gdtr=(draw(U64), draw(st.integers(0, 0xFFFF))),
        idtr=(draw(U64), draw(st.integers(0, 0xFFFF))),
        fpu=bytes(fpu),
        interrupt_shadow=draw(st.booleans()),
        halted=draw(st.booleans()),
        nmi_blocked=draw(st.booleans()),
        nmi_pending=draw(st.booleans()),
        **{name: draw(segment) for name in ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")},
    )
    state.dr[:4] = draw(st.lists(U64, min_size=4, max_size=4))
    msrs = (0x3B, 0x175, 0x176, 0x277, 0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084)
    state.msr = {number: draw(U64) for number in msrs}

    guest.rem.set_state(state)
    got = guest.rem.get_state()

    assert {number: got.msr[number] for number in state.msr} == state.msr
    got.msr = state.msr
    assert got == state


def test_cr8_reads_what_was_written(guest: Guest) -> None:
    guest.long_mode(
        bytes.fromhex("b805000000 440f22c0 440f20c3 f4")
    )  # mov eax, 5 / mov cr8, rax / mov rbx, cr8

    state = guest.halt()

    assert (state.gpr[3], state.cr8) == (5, 5)


def test_state_refused_in_a_handler(guest: Guest) -> None:
    calls = (
        guest.rem.get_state,
        guest.rem.reset,
        guest.rem.init,
        guest.rem.close,
        lambda: guest.rem.set_state(CpuState()),
    )

    class Asks(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            calls[value]()

    guest.rem.set_ports([Asks().row(0x80, 1)])
    for number in range(len(calls)):
        guest.long_mode(bytes.fromhex("e680 f4"), rax=number)
        guest.halt()

    assert [type(failure[4]) for failure in guest.host.failures] == [RuntimeError] * len(calls)


def test_state_taken_in_a_loop_continues_in_another_engine(guest: Guest) -> None:
    # fld1 / fldpi / movq xmm3, rax / mov ecx, 100000 / dec ecx / jnz / fstp qword [8000] / movq rbx, xmm3
    code = "d9e8 d9eb 66480f6ed8 b9a0860100 ffc9 75fc dd1c2500800000 66480f7edb f4"
    guest.long_mode(bytes.fromhex(code), rax=0x1234)
    other = Guest(engine=guest.engine)
    try:
        guest.rem.kick()
        guest.run()
        other.rem.set_state(guest.rem.get_state())
        other.ram.write(0, guest.ram.read(0, guest.ram.size))

        result = other.halt()

        assert result.gpr[3] == 0x1234
        assert struct.unpack("<d", other.ram.read(0x8000, 8))[0] == 3.141592653589793
    finally:
        other.close()


def test_flags_survive_leaving_and_entering(guest: Guest) -> None:
    # xor eax, eax / sub eax, 1 (CF SF AF PF) / hlt / pushf / pop rbx / hlt
    guest.long_mode(bytes.fromhex("31c0 83e801 f4 9c 5b f4"))
    state = guest.halt()
    assert state.rflags & 0x8D5 == 0x95
    state.halted = False
    guest.rem.set_state(state)

    assert guest.halt().gpr[3] & 0x8D5 == 0x95


def test_init_keeps_fpu_and_msrs_and_resets_the_rest(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("d9e8 66480f6ed8") + HLT, rax=5, msr={0x277: 0x0606060606060606})
    before = guest.halt()

    guest.rem.init()
    state = guest.rem.get_state()

    assert (state.rip, state.cs.base, state.efer) == (0xFFF0, 0xFFFF0000, 0)
    assert (state.cr0, state.cr4, state.halted) == (0x10, 0, False)
    assert (state.fpu, state.msr[0x277]) == (before.fpu, 0x0606060606060606)
    assert state.gpr == [0, 0, 0x60FB1] + [0] * 13


def test_reset_forgets_msrs_and_keeps_memory(guest: Guest) -> None:
    guest.long_mode(HLT, msr={0xC0000082: 0x1234})

    guest.rem.reset()

    assert guest.rem.get_state().msr[0xC0000082] == 0
    assert guest.ram.read(CODE, 1) == HLT


def test_real_mode_interrupt_and_far_code_work(guest: Guest) -> None:
    guest.ram.write(0x40 * 4, struct.pack("<HH", 0x100, 0x200))  # vector 40: 0200:0100
    guest.ram.write(0x2100, bytes.fromhex("bb3412 cf"))  # mov bx, 1234 / iret
    guest.real_mode(bytes.fromhex("cd40 f4"))

    state = guest.halt()

    assert (state.gpr[3], state.rip, state.gpr[4]) == (0x1234, CODE + 3, 0xF000)


def test_protected_mode_entered_from_real_mode_runs_32_bit_code(guest: Guest) -> None:
    guest.ram.write(0x500, struct.pack("<4Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0))
    guest.ram.write(0x600, struct.pack("<HI", 31, 0x500))
    # lgdt [600] / mov eax, cr0 / or al, 1 / mov cr0, eax / jmp 8:1010
    guest.real_mode(bytes.fromhex("0f01160006 0f20c0 0c01 0f22c0 ea12100800"))
    guest.ram.write(0x1012, bytes.fromhex("66b81000 8ed8 8b1d00800000 f4"))
    guest.ram.write(0x8000, struct.pack("<I", 0xCAFEBABE))

    assert guest.halt().gpr[3] == 0xCAFEBABE
