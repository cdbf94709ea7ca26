"""Ports and MMIO: which handler gets which access."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rem_guest import HLT, PRESENT, WRITE, Device, Guest

from vbox_pdm import Latch, Mmio, Ports
from vbox_pdm.engine import Exit, ExitReason
from vbox_pdm.regions import resolve

MMIO = 0xFEB0_0000
VIRTUAL = 0x20000
IN = {1: "ec", 2: "66ed", 4: "ed"}
OUT = {1: "ee", 2: "66ef", 4: "ef"}
LOAD = {1: "8a03", 2: "668b03", 4: "8b03", 8: "488b03"}
STORE = {1: "8803", 2: "668903", 4: "8903", 8: "488903"}


def map_mmio(guest: Guest) -> None:
    guest.page(VIRTUAL, MMIO | PRESENT | WRITE)
    guest.page(VIRTUAL + 0x1000, (MMIO + 0x1000) | PRESENT | WRITE)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_port_read_calls_the_handler_and_masks_its_value(guest: Guest, size: int) -> None:
    device = Device(answer=0xAABB_CCDD_EEFF)
    guest.rem.set_ports([device.row(0x100, 8)])
    guest.long_mode(bytes.fromhex(IN[size]) + HLT, rdx=0x102, rax=0x1111_1111_1111_1111)

    rax = guest.halt().gpr[0]

    assert device.calls == [("read", 2, size)]
    assert rax & ((1 << size * 8) - 1) == 0xCCDD_EEFF & ((1 << size * 8) - 1)
    assert rax >> 32 == (0 if size == 4 else 0x1111_1111)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_port_write_calls_the_handler_with_a_masked_value(guest: Guest, size: int) -> None:
    device = Device()
    guest.rem.set_ports([device.row(0x100, 8, start=0x40)])
    guest.long_mode(bytes.fromhex(OUT[size]) + HLT, rdx=0x102, rax=0xAABB_CCDD)

    guest.halt()

    assert device.calls == [("write", 0x42, size, 0xAABB_CCDD & ((1 << size * 8) - 1))]


def test_width_that_is_not_direct_goes_to_the_adapter(guest: Guest) -> None:
    device = Device(answer=0x1234)
    guest.rem.set_ports([device.row(0x100, 8, direct=1)])
    guest.long_mode(bytes.fromhex("66ed ee") + HLT, rdx=0x101)

    guest.halt()

    assert device.calls == [("adapted_read", 1, 2), ("write", 1, 1, 0x34)]


def test_port_access_over_the_end_of_a_row_is_split_into_bytes(guest: Guest) -> None:
    one, two = Device(answer=0x11), Device(answer=0x22)
    guest.rem.set_ports([one.row(0x100, 2), two.row(0x103, 4)])
    guest.long_mode(bytes.fromhex("ed ef") + HLT, rdx=0x100)

    rax = guest.halt().gpr[0]

    assert rax == 0x22FF1111
    assert one.calls == [("read", 0, 1), ("read", 1, 1), ("write", 0, 1, 0x11), ("write", 1, 1, 0x11)]
    assert two.calls == [("read", 0, 1), ("write", 0, 1, 0x22)]


def test_port_without_a_row_reads_ones(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("ed ef") + HLT, rdx=0xFFFE)

    assert guest.halt().gpr[0] == 0xFFFF_FFFF


@pytest.mark.parametrize("size", [1, 2, 4])
def test_port_of_a_latch_reads_and_keeps_its_bytes(guest: Guest, size: int) -> None:
    data = bytearray(b"\x11\x22\x33\x44\x55\x66\x77\x88")
    latch = Latch(data)
    guest.rem.set_ports([resolve(Ports("latch", 8, latch.read, latch.write), 0x100, None)])
    # read at 1, write the complement at 2
    guest.long_mode(bytes.fromhex(IN[size] + "48f7d0 ffc2" + OUT[size]) + HLT, rdx=0x101, rax=0)

    guest.halt()

    read = bytes.fromhex("22334455")[:size]
    kept = bytes(byte ^ 0xFF for byte in read)
    assert data == b"\x11\x22" + kept + bytes.fromhex("33445566778800")[size:][: 6 - size]


def test_port_access_over_the_end_of_a_latch_is_split(guest: Guest) -> None:
    data = bytearray(b"\x11\x22")
    latch = Latch(data)
    guest.rem.set_ports([resolve(Ports("latch", 2, latch.read, latch.write), 0x100, None)])
    guest.long_mode(bytes.fromhex("ed 35ffffffff ef") + HLT, rdx=0x101)

    rax = guest.halt().gpr[0]

    assert rax == 0x0000_00DD  # FFFFFF22, inverted
    assert data == b"\x11\xdd"


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_of_a_latch_reads_and_keeps_its_bytes(guest: Guest, size: int) -> None:
    data = bytearray(range(0x10, 0x20))
    latch = Latch(data)
    map_mmio(guest)
    guest.rem.set_mmio([resolve(Mmio("latch", 16, latch.read, latch.write), MMIO, None)])
    guest.long_mode(bytes.fromhex(LOAD[size] + "4883c308" + STORE[size]) + HLT, rbx=VIRTUAL, rax=0)

    rax = guest.halt().gpr[0]

    assert rax == int.from_bytes(bytes(range(0x10, 0x10 + size)), "little")
    assert data[8:] == bytes(range(0x10, 0x10 + size)) + bytes(range(0x18 + size, 0x20))


def test_latch_of_an_engine_needs_no_call(guest: Guest) -> None:
    latch = Latch(bytearray(1))
    guest.rem.set_ports([resolve(Ports("latch", 1, latch.read, latch.write), 0x80, None)])
    guest.long_mode(bytes.fromhex("b055 e680 e480") + HLT)

    before = guest.rem.exits
    rax = guest.halt().gpr[0]

    assert rax & 0xFF == 0x55
    assert guest.rem.exits == before


def test_row_whose_bytes_are_too_few_is_refused(guest: Guest) -> None:
    row = evolve(Device().row(0x100, 8, start=4), answers=memoryview(bytes(11)))

    with pytest.raises(ValueError, match="'answers' of an exit row has 11 bytes"):
        guest.rem.set_ports([row])


def test_bytes_of_a_row_are_given_back_with_the_table(guest: Guest) -> None:
    data = bytearray(8)
    guest.rem.set_ports([evolve(Device().row(0x100, 8), answers=memoryview(data))])

    guest.rem.set_ports([])
    data += b"x"  # is not possible while somebody has its bytes

    assert len(data) == 9


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", [0, 1, 3, 8])
def test_mmio_access_goes_direct_when_aligned(guest: Guest, size: int, offset: int) -> None:
    device = Device(answer=0x8877_6655_4433_2211)
    guest.rem.set_mmio([device.row(MMIO, 0x1000)])
    guest.long_mode(bytes.fromhex(LOAD[size] + STORE[size]) + HLT, rbx=VIRTUAL + offset)
    map_mmio(guest)

    rax = guest.halt().gpr[0]

    value = 0x8877_6655_4433_2211 & ((1 << size * 8) - 1)
    kind = "adapted_" if offset % size else ""
    assert rax == value
    assert device.calls == [(kind + "read", offset, size), (kind + "write", offset, size, value)]


def test_mmio_read_modify_write_reads_and_writes_once(guest: Guest) -> None:
    device = Device(answer=37)
    guest.rem.set_mmio([device.row(MMIO + 0x10, 4)])
    guest.long_mode(bytes.fromhex("f0830305 f4"), rbx=VIRTUAL + 0x10)  # lock add dword [rbx], 5
    map_mmio(guest)

    guest.halt()

    assert device.calls == [("read", 0, 4), ("write", 0, 4, 42)]


def test_mmio_access_over_the_end_of_a_row_is_split_into_bytes(guest: Guest) -> None:
    one, two = Device(answer=0x11), Device(answer=0x22)
    guest.rem.set_mmio([one.row(MMIO, 2), two.row(MMIO + 3, 5)])
    guest.long_mode(bytes.fromhex("8b03 8903 f4"), rbx=VIRTUAL)
    map_mmio(guest)

    assert guest.halt().gpr[0] == 0x22FF1111
    assert one.calls[2:] == [("write", 0, 1, 0x11), ("write", 1, 1, 0x11)]
    assert two.calls == [("read", 0, 1), ("write", 0, 1, 0x22)]


class Bytes(Device):
    """Answers each byte with its offset."""

    def read(self, offset: int, size: int) -> int:
        super().read(offset, size)
        return int.from_bytes(bytes(range(offset & 0xFF, (offset & 0xFF) + size)), "little")

    adapted_read = read


@pytest.mark.parametrize(("size", "before"), [(2, 1), (4, 1), (4, 2), (4, 3), (8, 1), (8, 4), (8, 7)])
def test_mmio_access_over_a_page_is_split_into_bytes(guest: Guest, size: int, before: int) -> None:
    device = Bytes()
    rows = (MMIO, 0x10040 - 0x1000), (MMIO + 0x5000, 0x10040)
    guest.rem.set_mmio([device.row(first, 0x1000, start=start) for first, start in rows])
    guest.long_mode(bytes.fromhex(LOAD[size] + STORE[size]) + HLT, rbx=VIRTUAL + 0x1000 - before)
    guest.page(VIRTUAL, MMIO | PRESENT | WRITE)
    guest.page(VIRTUAL + 0x1000, (MMIO + 0x5000) | PRESENT | WRITE)

    rax = guest.halt().gpr[0]

    offsets = range(0x10040 - before, 0x10040 - before + size)
    assert (rax & ((1 << size * 8) - 1)).to_bytes(size, "little") == bytes(
        offset & 0xFF for offset in offsets
    )
    assert device.calls == [
        *(("read", offset, 1) for offset in offsets),
        *(("write", offset, 1, offset & 0xFF) for offset in offsets),
    ]


@pytest.mark.parametrize("io_first", [True, False])
def test_access_over_ram_and_mmio_reaches_both(guest: Guest, io_first: bool) -> None:
    device = Bytes()
    guest.rem.set_mmio([device.row(MMIO, 0x1000)])
    io, ram = (VIRTUAL, VIRTUAL + 0x1000) if io_first else (VIRTUAL + 0x1000, VIRTUAL)
    guest.long_mode(bytes.fromhex("8b03 f7d0 8903 f4"), rbx=VIRTUAL + 0xFFE)  # load / not eax / store
    guest.page(io, MMIO | PRESENT | WRITE)
    guest.page(ram, 0x30000 | PRESENT | WRITE)
    guest.ram.write(0x30000 + (0 if io_first else 0xFFE), b"\x11\x22")
    port = 0xFFE if io_first else 0

    rax = guest.halt().gpr[0] ^ 0xFFFFFFFF

    from_device = bytes([port & 0xFF, port + 1 & 0xFF])
    assert rax.to_bytes(4, "little") == (from_device + b"\x11\x22" if io_first else b"\x11\x22" + from_device)
    assert guest.ram.read(0x30000 + (0 if io_first else 0xFFE), 2) == b"\xee\xdd"
    assert [call[:3] for call in device.calls] == [
        ("read", port, 1),
        ("read", port + 1, 1),
        ("write", port, 1),
        ("write", port + 1, 1),
    ]


@pytest.mark.parametrize("code", ["8b03", "8903", "488b03", "488903"])
def test_access_over_mmio_and_a_missing_page_faults_before_the_device(guest: Guest, code: str) -> None:
    device = Device()
    guest.rem.set_mmio([device.row(MMIO, 0x1000)])
    guest.long_mode(bytes.fromhex(code) + HLT, rbx=VIRTUAL + 0xFFE)
    guest.page(VIRTUAL, MMIO | PRESENT | WRITE)
    guest.page(VIRTUAL + 0x1000, 0)

    frame = guest.fault()

    assert (frame.vector, guest.rem.get_state().cr2, device.calls) == (14, VIRTUAL + 0x1000, [])


def test_mmio_beside_rows_reads_ones(guest: Guest) -> None:
    device = Device()
    guest.rem.set_mmio([device.row(MMIO + 0x100, 0x10)])
    guest.long_mode(bytes.fromhex("488b03 488903 f4"), rbx=VIRTUAL + 0x110)
    map_mmio(guest)

    assert guest.halt().gpr[0] == 2**64 - 1
    assert device.calls == []


def test_ram_hides_mmio_below_it(guest: Guest) -> None:
    device = Device()
    guest.rem.set_mmio([device.row(0x200000, 0x1000)])
    guest.long_mode(bytes.fromhex("8b03 f4"), rbx=0x200000)
    guest.ram.write(0x200000, b"\5")

    assert guest.halt().gpr[0] == 5
    guest.rem.unmap(0x200000, 0x1000)
    guest.long_mode(bytes.fromhex("8b03 f4"), rbx=0x200000)
    guest.halt()
    assert device.calls == [("read", 0, 4)]


def test_row_beyond_4_gib_is_found(guest: Guest) -> None:
    device = Device(answer=7)
    guest.rem.set_mmio([device.row(0xFE_0000_0000, 1 << 32)])
    guest.long_mode(bytes.fromhex("8b03 f4"), rbx=VIRTUAL)
    guest.page(VIRTUAL, 0xFE_8000_0000 | PRESENT)

    assert guest.halt().gpr[0] == 7
    assert device.calls == [("read", 0x8000_0000, 4)]


def test_handler_that_raises_reads_ones_and_is_reported(guest: Guest) -> None:
    error = KeyError("no")

    def read(offset: int, size: int) -> int:
        raise error

    def write(offset: int, size: int, value: int) -> None:
        raise error

    guest.rem.set_ports([Exit(0x100, 4, read, write, read, write, owner="me")])
    guest.long_mode(bytes.fromhex("66ed ee") + HLT, rdx=0x101)

    assert guest.halt().gpr[0] == 0xFFFF
    assert guest.host.failures == [("me", 1, 2, None, error), ("me", 1, 1, 0xFF, error)]
    assert error.__traceback__ is not None


def test_handler_that_returns_no_int_reads_ones_and_is_reported(guest: Guest) -> None:
    device = Device(answer=None)  # type: ignore[arg-type]
    guest.rem.set_ports([device.row(0x100, 4)])
    guest.long_mode(bytes.fromhex("ec") + HLT, rdx=0x100)

    assert guest.halt().gpr[0] == 0xFF
    assert [type(failure[4]) for failure in guest.host.failures] == [TypeError]


def test_handler_may_replace_the_table_that_called_it(guest: Guest) -> None:
    second = Device(answer=2)

    class First(Device):
        def read(self, offset: int, size: int) -> int:
            guest.rem.set_ports([second.row(0x100, 4)])
            return 1

    guest.rem.set_ports([First().row(0x100, 4)])
    guest.long_mode(bytes.fromhex("ec 88c3 ec") + HLT, rdx=0x100)  # in / mov bl, al / in

    state = guest.halt()

    assert (state.gpr[3], state.gpr[0]) == (1, 2)


def test_handler_that_kicks_stops_the_guest_soon(guest: Guest) -> None:
    class Stops(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.rem.kick()

    guest.rem.set_ports([Stops().row(0x100, 1)])
    guest.long_mode(bytes.fromhex("ee ebfe"), rdx=0x100)

    assert guest.run() is ExitReason.KICKED
    assert guest.rem.get_state().rip == 0x1001


def test_string_input_and_output_move_each_item(guest: Guest) -> None:
    class Counter(Device):
        def read(self, offset: int, size: int) -> int:
            self.answer += 1
            return self.answer

    device = Counter()
    guest.rem.set_ports([device.row(0x1F0, 1)])
    # rep insw to 8000, then rep outsw from there
    guest.long_mode(bytes.fromhex("f3666d be00800000 b905000000 f3666f f4"), rdx=0x1F0, rcx=5, rdi=0x8000)
    guest.rem.set_ports([device.row(0x1F0, 2)])

    guest.halt()

    assert guest.ram.read(0x8000, 10) == bytes.fromhex("0100 0200 0300 0400 0500")
    assert device.calls == [("write", 0, 2, i) for i in range(1, 6)]


def test_string_input_that_faults_midway_loses_nothing(guest: Guest) -> None:
    device = Device(answer=0x55)
    guest.rem.set_ports([device.row(0x1F0, 1)])
    guest.long_mode(bytes.fromhex("f36c f4"), rdx=0x1F0, rcx=8, rdi=0x9FFC)
    guest.page(0xA000, 0)

    frame = guest.fault()
    state = guest.rem.get_state()

    assert (frame.vector, frame.rip, state.gpr[1], state.gpr[7]) == (14, 0x1000, 4, 0xA000)
    assert len(device.calls) == 4


@pytest.mark.parametrize("rows", [[(0x10, 4), (0x12, 4)], [(0x20, 1), (0x10, 1)], [(0xFFFF, 2)], [(0x10, 0)]])
def test_rows_that_overlap_or_leave_the_space_are_refused(guest: Guest, rows: list[tuple[int, int]]) -> None:
    device = Device()

    with pytest.raises(ValueError, match="sorted"):
        guest.rem.set_ports([device.row(first, size) for first, size in rows])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 15)), max_size=8),
    accesses=st.lists(st.tuples(st.integers(0, 120), st.sampled_from([1, 2, 4, 8])), max_size=8),
)
def test_any_mmio_table_answers_like_a_model(
    guest: Guest, sizes: list[tuple[int, int, int]], accesses: list[tuple[int, int]]
) -> None:
    device = Device(answer=0x5A5A_5A5A_5A5A_5A5A)
    rows, at = [], 0
    for gap, size, direct in sizes:
        at += gap
        rows.append(device.row(MMIO + at, size, direct, start=at))
        at += size
    guest.rem.set_mmio(rows)
    code = b""
    for offset, n in accesses:  # mov rbx, address / load
        code += b"\x48\xc7\xc3" + (VIRTUAL + offset).to_bytes(4, "little") + bytes.fromhex(LOAD[n])
    guest.long_mode(code + HLT)
    map_mmio(guest)

    guest.halt()

    expected = []
    for offset, n in accesses:
        row = next((r for r in rows if r.first <= MMIO + offset < r.first + r.size), None)
        if row is not None and MMIO + offset + n <= row.first + row.size:
            direct = n & row.direct and offset % n == 0
            expected.append(("read" if direct else "adapted_read", offset, n))
            continue
        for byte in range(offset, offset + n) if n > 1 else ():
            row = next((r for r in rows if r.first <= MMIO + byte < r.first + r.size), None)
            if row is not None:
                expected.append(("read" if 1 & row.direct else "adapted_read", byte, 1))
    assert device.calls == expected
