"""REP INS and REP OUTS through string handlers: as the items one by one, in fewer calls."""

from __future__ import annotations

import pytest
from attrs import define, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rem_guest import CODE, DATA, HLT, STACK, Guest

from vbox_pdm.engine import CpuState, Exit, Segment

PORT, COUNT = 0x1F0, 256
OPCODES = {
    ("in", 1): "6c",
    ("in", 2): "66 6d",
    ("in", 4): "6d",
    ("out", 1): "6e",
    ("out", 2): "66 6f",
    ("out", 4): "6f",
}


@define
class Fifo:
    """A port that gives the bytes of `source` and keeps what is written; `most` items a string call."""

    source: bytes = bytes(i * 7 & 0xFF for i in range(8192))
    most: int = 1 << 30
    at: int = 0
    taken: bytearray = field(factory=bytearray)
    calls: list[tuple[str, int]] = field(factory=list)

    def read(self, offset: int, size: int) -> int:
        self.calls.append(("read", size))
        self.at += size
        return int.from_bytes(self.source[self.at - size : self.at], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.calls.append(("write", size))
        self.taken += value.to_bytes(size, "little")

    def read_string(self, offset: int, size: int, count: int) -> bytes:
        self.calls.append(("read_string", count))
        length = min(count, self.most) * size
        self.at += length
        return self.source[self.at - length : self.at]

    def write_string(self, offset: int, size: int, data: bytes) -> int:
        self.calls.append(("write_string", len(data) // size))
        length = min(len(data), self.most * size)
        self.taken += data[:length]
        return length

    def row(self, bulk: bool = True) -> Exit:
        return Exit(
            PORT, 4, self.read, self.write, self.read, self.write, 7,
            read_string=self.read_string if bulk else None,
            write_string=self.write_string if bulk else None,
        )  # fmt: skip


def rep(way: str, size: int, prefix: str = "") -> bytes:
    return bytes.fromhex(f"f3 {prefix} {OPCODES[way, size]}") + HLT


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rep_ins_of_a_sector_is_one_call(guest: Guest, size: int) -> None:
    fifo = Fifo()
    guest.rem.set_ports([fifo.row()])
    guest.long_mode(rep("in", size), rdx=PORT, rcx=512 // size, rdi=DATA)

    state = guest.halt()

    assert fifo.calls == [("read_string", 512 // size)]
    assert guest.ram.read(DATA, 512) == fifo.source[:512]
    assert guest.ram.read(DATA + 512, 8) == bytes(8)
    assert (state.gpr[1], state.gpr[7]) == (0, DATA + 512)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rep_outs_of_a_sector_is_one_call(guest: Guest, size: int) -> None:
    fifo = Fifo()
    guest.ram.write(DATA, bytes(range(256)) * 2)
    guest.rem.set_ports([fifo.row()])
    guest.long_mode(rep("out", size), rdx=PORT, rcx=512 // size, rsi=DATA)

    state = guest.halt()

    assert fifo.calls == [("write_string", 512 // size)]
    assert fifo.taken == bytes(range(256)) * 2
    assert (state.gpr[1], state.gpr[6]) == (0, DATA + 512)


def test_handler_that_takes_no_string_gets_single_items(guest: Guest) -> None:
    fifo = Fifo(most=0)
    guest.rem.set_ports([fifo.row()])
    guest.long_mode(rep("in", 2), rdx=PORT, rcx=3, rdi=DATA)

    guest.halt()

    assert [call for call in fifo.calls if call[0] == "read"] == [("read", 2)] * 3
    assert guest.ram.read(DATA, 6) == fifo.source[:6]


@pytest.mark.parametrize("answer", [b"abc", b"a" * 600, 5, None])
def test_handler_that_returns_nonsense_is_reported_and_passed_by(guest: Guest, answer: object) -> None:
    fifo = Fifo()
    row = Exit(
        PORT, 4, fifo.read, fifo.write, fifo.read, fifo.write, 7,
        read_string=lambda offset, size, count: answer, owner="me",  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    guest.rem.set_ports([row])
    guest.long_mode(rep("in", 2), rdx=PORT, rcx=4, rdi=DATA)

    guest.halt()

    assert guest.ram.read(DATA, 8) == fifo.source[:8]
    assert [failure[0] for failure in guest.host.failures] == ["me"] * 3


def test_handler_that_raises_is_reported_and_passed_by(guest: Guest) -> None:
    fifo = Fifo()

    def broken(offset: int, size: int, data: bytes) -> int:
        raise OSError("no")

    guest.rem.set_ports([Exit(PORT, 4, fifo.read, fifo.write, fifo.read, fifo.write, 7, write_string=broken)])
    guest.ram.write(DATA, b"abcd")
    guest.long_mode(rep("out", 1), rdx=PORT, rcx=4, rsi=DATA)

    guest.halt()

    assert fifo.taken == b"abcd"
    assert len(guest.host.failures) == 3


def test_rep_ins_into_code_runs_the_new_code(guest: Guest) -> None:
    # call 1100 (inc eax; ret), rep insb over it, call it again
    fifo = Fifo(source=bytes.fromhex("83c010c3") + bytes(60))
    code = bytes.fromhex("e8fb000000 f36c e8f4000000") + HLT
    guest.ram.write(CODE + 0x100, bytes.fromhex("ffc0c390"))
    guest.rem.set_ports([fifo.row()])
    guest.long_mode(code, rdx=PORT, rcx=4, rdi=CODE + 0x100, rax=0)

    assert guest.halt().gpr[0] == 0x11


def test_rep_ins_into_a_page_that_is_not_there_faults_in_the_middle(guest: Guest) -> None:
    fifo = Fifo()
    guest.rem.set_ports([fifo.row()])
    guest.page(DATA + 0x1000, 0)
    guest.long_mode(rep("in", 2), rdx=PORT, rcx=256, rdi=DATA + 0x1000 - 100)

    frame = guest.fault()
    state = guest.rem.get_state()

    assert (frame.vector, frame.error, frame.rip) == (14, 2, CODE)
    assert (state.cr2, state.gpr[7], state.gpr[1]) == (DATA + 0x1000, DATA + 0x1000, 256 - 50)
    assert fifo.at == 100


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    way=st.sampled_from(["in", "out"]),
    size=st.sampled_from([1, 2, 4]),
    count=st.integers(0, 3000),
    offset=st.integers(0, 0x1FFF),
    most=st.sampled_from([0, 1, 2, 100, 5000]),
    backwards=st.booleans(),
    trap=st.booleans(),
    mode=st.sampled_from(["long", "long67", "real"]),
    prefix=st.sampled_from(["", "64", "3e"]),
)
def test_string_calls_do_what_single_items_do(
    guest: Guest, way: str, size: int, count: int, offset: int, most: int, backwards: bool, trap: bool,
    mode: str, prefix: str,
) -> None:  # fmt: skip
    results = []
    count = min(count, 8000 // size)
    for bulk in (False, True):
        fifo = Fifo(most=most)
        guest.ram.write(DATA, bytes(i * 13 & 0xFF for i in range(0x8000 - 0x1000)))
        guest.rem.set_ports([fifo.row(bulk)])
        flags = 2 | (0x400 if backwards else 0)
        address = DATA + offset + (0x2000 if backwards else 0)
        if mode == "real":
            data = Segment(0x1000, 0x10000, 0xFFFF, 0x9300)
            state = CpuState(
                rip=CODE, cs=Segment(0, 0, 0xFFFF, 0x9B00), es=data, ds=data, fs=data, rflags=flags
            )
            operand = {1: "", 2: "", 4: "66"}[size]
            opcode = OPCODES[way, size].replace("66", "")
            guest.ram.write(CODE, bytes.fromhex(f"f3 {prefix} {operand} {opcode}") + HLT)
            start = 0xE000 + offset  # over the end of the segment, where DI and SI wrap
            state.gpr[4] = STACK
            state.gpr[1:3] = [0xABCD0000 | count, PORT]
            state.gpr[6:8] = [start, start]
            guest.rem.set_state(state)
        else:
            guest.long_mode(
                rep(way, size, ("67 " if mode == "long67" else "") + prefix),
                rdx=PORT, rcx=count, rdi=address, rsi=address, rflags=flags,
            )  # fmt: skip
        end = guest.halt()
        results.append(
            (end.gpr, end.rip, end.rflags, fifo.at, bytes(fifo.taken), guest.ram.read(0x7000, 0x19000))
        )

    assert results[0] == results[1]


def test_single_step_traps_between_items(guest: Guest) -> None:
    fifo = Fifo()
    guest.rem.set_ports([fifo.row()])
    guest.long_mode(rep("in", 1), rdx=PORT, rcx=5, rdi=DATA, rflags=0x102)

    frame = guest.fault()

    assert frame.vector == 1
    assert (frame.rip, guest.rem.get_state().gpr[1], fifo.at) == (CODE, 4, 1)


def test_ring_3_without_permission_faults_before_the_handler(guest: Guest) -> None:
    fifo = Fifo()
    guest.rem.set_ports([fifo.row()])
    guest.long_mode(rep("in", 2), user=True, rdx=PORT, rcx=8, rdi=DATA)

    assert guest.fault().vector == 13
    assert fifo.calls == []
