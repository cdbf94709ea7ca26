"""RAM, ROM, splits, aliases, A20, self-modifying code and dirty pages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rem_guest import (
    CODE,
    DATA,
    HLT,
    LARGE,
    MORE,
    NX,
    PRESENT,
    RAM_SIZE,
    WRITE,
    Device,
    Guest,
    Ram,
)

from vbox_pdm.engine import ExitReason

LOAD_RBX = bytes.fromhex("8b03 f4")  # mov eax, [rbx] / hlt
KINDS = ["ram", "rom", "none"]


def call_three_times(patch: int) -> bytes:
    """Call 1100 (mov eax, 1 / ret), change the 1 to 2 and 4 through `patch`, add up in EBX."""
    code = b""
    for value in (2, 4, None):
        code += b"\xe8" + struct.pack("<i", 0x1100 - (CODE + len(code) + 5)) + b"\x01\xc3"
        if value is not None:
            code += b"\xc7\x04\x25" + struct.pack("<II", patch + 1, value)
    return code + HLT


CALLED = bytes.fromhex("b801000000 c3")


@pytest.mark.parametrize(
    ("patch", "entry"),
    [
        (0x1100, None),  # the code's own page
        (0x20100, CODE | PRESENT | WRITE),  # an executable alias
        (0x20100, CODE | PRESENT | WRITE | NX),  # a data alias
    ],
)
def test_code_changed_by_the_guest_runs_changed(guest: Guest, patch: int, entry: int | None) -> None:
    guest.long_mode(call_three_times(patch))
    guest.ram.write(0x1100, CALLED)
    if entry is not None:
        guest.page(patch & ~0xFFF, entry)

    assert guest.halt().gpr[3] == 7


def test_code_changed_through_another_physical_view_runs_changed(guest: Guest) -> None:
    guest.rem.map_ram(0x40000000, 0x1000, guest.ram.address + CODE, guest.ram.address + CODE)
    guest.long_mode(call_three_times(0x20100))
    guest.ram.write(0x1100, CALLED)
    guest.page(0x20000, 0x40000000 | PRESENT | WRITE | NX)

    assert guest.halt().gpr[3] == 7


def test_instruction_across_two_pages_changed_in_the_second_runs_changed(guest: Guest) -> None:
    # 6fff: mov eax, imm32 / ret; the immediate lies in the next page
    guest.ram.write(0x6FFF, CALLED)
    code = b""
    for value in (2, 4, None):
        code += b"\xe8" + struct.pack("<i", 0x6FFF - (CODE + len(code) + 5)) + b"\x01\xc3"
        if value is not None:
            code += b"\xc7\x04\x25" + struct.pack("<II", 0x7000, value)
    guest.long_mode(code + HLT)

    assert guest.halt().gpr[3] == 7


def test_store_into_the_running_block_takes_effect_at_once(guest: Guest) -> None:
    # mov byte [rip+1], 7 changes the immediate of the following mov al, 1
    guest.long_mode(bytes.fromhex("c6050100000007 b001 f4"))

    assert guest.halt().gpr[0] & 0xFF == 7


def test_code_changed_by_dma_runs_changed_after_invalidate(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("b801000000 f4"))
    assert guest.halt().gpr[0] == 1

    guest.ram.write(CODE + 1, b"\x09")
    guest.rem.invalidate(CODE, 16)
    state = guest.rem.get_state()
    state.rip, state.halted = CODE, False
    guest.rem.set_state(state)

    assert guest.halt().gpr[0] == 9


def test_dma_from_a_handler_into_code_takes_effect(guest: Guest) -> None:
    class Dma(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            guest.ram.write(0x1101, bytes([value]))
            guest.rem.invalidate(0x1101, 1)

    guest.rem.set_ports([Dma().row(0x80, 1)])
    # mov al, 5 / out 80, al / call 1100 / add ebx, eax / mov al, 6 / out 80, al / call 1100 / add ebx, eax
    guest.long_mode(bytes.fromhex("e8fb000000 b005 e680 e8f2000000 01c3 b006 e680 e8e7000000 01c3 f4"))
    guest.ram.write(0x1100, CALLED)

    assert guest.halt().gpr[3] == 11


def test_data_beside_code_in_one_page_is_stored(guest: Guest) -> None:
    # mov ecx, 10000 / inc qword [1800] / dec ecx / jnz
    guest.long_mode(bytes.fromhex("b910270000 48ff042500180000 ffc9 75f4 f4"))
    guest.ram.write(0x1800, bytes(8))

    guest.halt()

    assert guest.ram.u64(0x1800) == 10000


# ---- the map


def test_rom_reads_and_drops_stores(guest: Guest) -> None:
    guest.ram.write(0x300000, b"ROM!")
    guest.rem.map_ram(0x200000, 0x1000, guest.ram.address + 0x300000, None)
    guest.long_mode(bytes.fromhex("8903 8b03 f4"), rbx=0x200000, rax=0x11223344)

    assert guest.halt().gpr[0] == int.from_bytes(b"ROM!", "little")
    assert guest.ram.read(0x300000, 4) == b"ROM!"


@pytest.mark.parametrize("at", [0x200000, 0x200003, 0x200FFE])
def test_split_reads_one_memory_and_writes_the_other(guest: Guest, at: int) -> None:
    rom, shadow = guest.ram.address + 0x300000, guest.ram.address + 0x302000
    guest.ram.write(0x300000, b"\xaa" * 0x2000)
    guest.rem.map_ram(0x200000, 0x2000, rom, shadow)
    guest.long_mode(bytes.fromhex("8903 8b03 f4"), rbx=at, rax=0x11223344)

    assert guest.halt().gpr[0] == 0xAAAAAAAA
    assert guest.ram.read(0x302000 + at - 0x200000, 4) == bytes.fromhex("44332211")


def test_code_runs_from_rom_while_stores_go_below(guest: Guest) -> None:
    guest.ram.write(0x300000, bytes.fromhex("c60425 01002000 09 b001 f4"))  # mov byte [200001], 9 / mov al, 1
    guest.rem.map_ram(0x200000, 0x1000, guest.ram.address + 0x300000, guest.ram.address + 0x301000)
    guest.long_mode(b"", rip=0x200000)

    assert guest.halt().gpr[0] == 1
    assert guest.ram.read(0x301001, 1) == b"\x09"


def test_map_changed_by_a_handler_is_seen_by_the_next_access(guest: Guest) -> None:
    class Bank(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            if value:
                host = guest.ram.address + 0x300000 + value * 0x1000
                guest.rem.map_ram(0x200000, 0x1000, host, host)
            else:
                guest.rem.unmap(0x200000, 0x1000)

    for bank in range(1, 3):
        guest.ram.write(0x300000 + bank * 0x1000, bytes([bank * 0x11]))
    guest.rem.set_ports([Bank().row(0x80, 1)])
    code = b""
    # mov al, value / out 80, al / shl r8d, 8 / movzx eax, byte [rbx] / or r8d, eax
    for value in (1, 2, 0, 1):
        code += bytes([0xB0, value]) + bytes.fromhex("e680 41c1e008 0fb603 4109c0")
    guest.long_mode(code + HLT, rbx=0x200000)

    assert guest.halt().gpr[8] == 0x1122FF11


def test_map_changed_between_runs_keeps_pending_state(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("f4") + LOAD_RBX, rbx=0x600000)
    guest.halt()
    before = guest.rem.get_state()

    guest.rem.unmap(0x200000, 0x10000)
    guest.rem.map_ram(0x200000, 0x8000, guest.ram.address, guest.ram.address)

    assert guest.rem.get_state() == before


def test_page_given_to_other_memory_runs_the_other_code(guest: Guest) -> None:
    for bank, value in ((0x300000, 1), (0x301000, 2)):
        guest.ram.write(bank, bytes([0xB0, value, 0xF4]))
    results = []
    for bank in (0x300000, 0x301000, 0x300000):
        guest.rem.map_ram(0x200000, 0x1000, guest.ram.address + bank, guest.ram.address + bank)
        guest.long_mode(b"", rip=0x200000)
        results.append(guest.halt().gpr[0])

    assert results == [1, 2, 1]


def test_a20_masks_address_bit_20(guest: Guest) -> None:
    guest.ram.write(0x108000, b"\x22\x22\x22\x22")
    guest.ram.write(DATA, b"\x11\x11\x11\x11")
    results = []
    for enabled in (True, False, True):
        guest.rem.a20(enabled)
        guest.real_mode(bytes.fromhex("66a1 1080 f4"))  # mov eax, [8010], DS = FFFF
        state = guest.rem.get_state()
        state.ds.selector, state.ds.base = 0xFFFF, 0xFFFF0
        guest.ram.write(CODE, bytes.fromhex("66a1 1080 f4"))
        guest.rem.set_state(state)
        results.append(guest.halt().gpr[0])

    assert results == [0x22222222, 0x11111111, 0x22222222]


def test_a20_stays_masked_over_a_reset(guest: Guest) -> None:
    guest.ram.write(0x100500, b"\x02")
    guest.rem.a20(False)
    guest.rem.reset()
    guest.real_mode(bytes.fromhex("a0 1005 f4"))
    state = guest.rem.get_state()
    state.ds.base = 0xFFFF0
    guest.rem.set_state(state)

    assert guest.halt().gpr[0] == 0


@pytest.mark.parametrize("physical", [0x400000, 0xFFFFF000, 0x12_3456_8000, 0xFF_FFFF_F000])
def test_unmapped_space_reads_ones_and_drops_stores(guest: Guest, physical: int) -> None:
    guest.long_mode(bytes.fromhex("488903 488b0b 668b5301 f4"), rbx=0x20000)
    guest.page(0x20000, physical | PRESENT | WRITE)

    state = guest.halt()

    assert (state.gpr[1], state.gpr[2] & 0xFFFF) == (2**64 - 1, 0xFFFF)


def test_address_beyond_40_bits_is_a_reserved_bit(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("488b0b f4"), rbx=0x20000)
    guest.page(0x20000, 1 << 40 | PRESENT)

    frame = guest.fault()

    assert (frame.vector, frame.error) == (14, 9)


def test_execution_of_unmapped_space_is_an_invalid_opcode(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("b800002000 ffe0"))  # jmp 200000
    guest.rem.unmap(0x200000, 0x1000)

    frame = guest.fault()

    assert (frame.vector, frame.rip) == (6, 0x200000)


def test_large_page_is_flushed_whole_by_invlpg(guest: Guest) -> None:
    guest.ram.write(0x200000, b"\x01")
    guest.ram.write(0x0, b"\x02")
    # mov al, [200000] / mov qword [pd+8], new / invlpg [212345] / mov ah, [200000]
    code = bytes.fromhex("8a042500002000 48c7042508201000") + struct.pack("<I", PRESENT | WRITE | LARGE)
    code += bytes.fromhex("0f013c2545232100 8a242500002000 f4")
    guest.long_mode(code)

    assert guest.halt().gpr[0] & 0xFFFF == 0x0201


# ---- dirty pages


def test_dirty_pages_reports_stores_once(guest: Guest) -> None:
    # mov al, [9000] / mov byte [9000], 1 / mov byte [203000], 1
    guest.long_mode(bytes.fromhex("8a042500900000 c604250090000001 c604250030200001 f4"))
    first = guest.rem.dirty_pages(0, RAM_SIZE)

    guest.halt()
    second = guest.rem.dirty_pages(0, RAM_SIZE)
    third = guest.rem.dirty_pages(0, RAM_SIZE)

    assert first == b"\1" * (RAM_SIZE >> 12)
    assert (second[9], second[0x203], second[0xA]) == (1, 1, 0)
    assert sum(third) == 0


def test_dirty_pages_sees_a_second_store_after_it_was_cleared(guest: Guest) -> None:
    # mov byte [9000], 1 / hlt / mov byte [9000], 2 / hlt
    guest.long_mode(bytes.fromhex("c604250090000001 f4 c604250090000002 f4"))
    guest.rem.dirty_pages(0x9000, 0x1000)
    guest.halt()
    assert guest.rem.dirty_pages(0x9000, 0x1000) == b"\1"

    guest.host.vectors = []
    state = guest.rem.get_state()
    state.halted = False
    guest.rem.set_state(state)
    guest.halt()

    assert guest.rem.dirty_pages(0x9000, 0x1000) == b"\1"
    assert guest.ram.read(MORE, 1) == b"\2"


def test_dirty_pages_within_one_run_is_exact_from_a_handler(guest: Guest) -> None:
    seen = []

    class Asks(Device):
        def write(self, offset: int, size: int, value: int) -> None:
            seen.append(guest.rem.dirty_pages(0x9000, 0x2000))

    guest.rem.set_ports([Asks().row(0x80, 1)])
    store_9, store_a = bytes.fromhex("c604250090000001"), bytes.fromhex("c6042500a0000001")
    out = bytes.fromhex("e680")
    guest.long_mode(out + store_9 + store_a + out + store_9 + out + out + store_a + out + HLT)

    guest.halt()

    assert seen == [b"\1\1", b"\1\1", b"\1\0", b"\0\0", b"\0\1"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8), st.sampled_from(KINDS)), max_size=12))
def test_any_sequence_of_maps_reads_like_a_model(guest: Guest, steps: list[tuple[int, int, str]]) -> None:
    base, pages = 0x200000, 48
    extra = Ram(pages << 12)
    guest.rem.map_ram(base, 0x200000, guest.ram.address + base, guest.ram.address + base)
    model = {page: ("low", page) for page in range(pages)}
    for page in range(pages):
        guest.ram.write(base + (page << 12), struct.pack("<I", 0x1000 + page))
        extra.write(page << 12, struct.pack("<I", 0x2000 + page))
    for first, count, kind in steps:
        address, size = base + (first << 12), count << 12
        if kind == "none":
            guest.rem.unmap(address, size)
        else:
            host = extra.address + (first << 12) if first + count <= pages else guest.ram.address + base
            guest.rem.map_ram(address, size, host, host if kind == "ram" else None)
        for page in range(first, min(first + count, pages)):
            if kind == "none":
                model[page] = ("none", 0)
            elif first + count <= pages:
                model[page] = ("extra", page)
            else:
                model[page] = ("low", page - first)
    # mov ecx, pages / mov eax, [rbx] / mov [rdi], eax / add rbx, 1000 / add rdi, 4 / dec ecx / jnz
    code = bytes.fromhex("b930000000 8b03 8907 4881c300100000 4883c704 ffc9 75ed f4")
    guest.long_mode(code, rbx=base, rdi=DATA)

    guest.halt()

    expected = [
        {"none": 0xFFFFFFFF, "low": 0x1000 + page, "extra": 0x2000 + page}[kind]
        for kind, page in (model[page] for page in range(pages))
    ]
    assert list(struct.unpack(f"<{pages}I", guest.ram.read(DATA, pages * 4))) == expected
    guest.rem.map_ram(0, RAM_SIZE, guest.ram.address, guest.ram.address)
    extra.close()


def test_map_that_is_not_whole_pages_is_refused(guest: Guest) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        guest.rem.map_ram(0x800, 0x1000, guest.ram.address, None)
    with pytest.raises(ValueError, match="aligned"):
        guest.rem.map_ram(0, 0x1000, guest.ram.address + 1, None)


def test_run_without_memory_at_the_reset_vector_can_be_kicked(guest: Guest) -> None:
    guest.rem.unmap(0, RAM_SIZE)
    guest.rem.reset()

    assert guest.run(0.05) in (ExitReason.KICKED, ExitReason.TRIPLE_FAULT)
