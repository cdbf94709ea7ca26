"""Page tables of two, three and four levels against a model; what INVLPG, CR3 and CR4 flush."""

from __future__ import annotations

import struct

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from rem_guest import CODE, DATA, HLT, MORE, PD, PML4, PRESENT, PT, SYSCALL, USER, WRITE, Guest
from rem_guest32 import fault, start

NX, GLOBAL = 1 << 63, 0x100
ACCESSED, DIRTY = 0x20, 0x40
TABLES = 0x200000
TARGET = 0x300000
LINEAR = 0x0040_0000
WP, SMEP, NXE = 1 << 16, 1 << 20, 1 << 11


@frozen
class Paging:
    """A form of paging: the size of an entry, and the table index that LINEAR has on each level."""

    entry: int
    levels: tuple[int, ...]
    cr4: int
    efer: int = 0


FORMS = {
    "32": Paging(4, (1, 0), 0),
    "pae": Paging(8, (0, 2, 0), 0x20, NXE),
    "long": Paging(8, (0, 0, 2, 0), 0x620, 0x501 | NXE),
}


def build(guest: Guest, form: str, bits: list[int]) -> tuple[list[int], list[int]]:
    """Tables for the low 2 or 4 MiB and, with these bits in its entries, for the page at LINEAR."""
    paging = FORMS[form]
    pack = "<I" if paging.entry == 4 else "<Q"
    guest.ram.write(TABLES, bytes(0x10000))
    table, entries, values = TABLES, [], []
    count = len(paging.levels)
    for level, index in enumerate(paging.levels):
        last = level == count - 1
        below = TARGET if last else TABLES + 0x1000 * (level + 1)
        is_pointer = form == "pae" and level == 0
        value = below | (PRESENT if is_pointer else bits[level])
        if not last and index != 0:
            # the low memory, which the guest needs, through a table of its own
            low = TABLES + 0x8000
            guest.ram.write(table, struct.pack(pack, low | PRESENT | WRITE | USER))
            for page in range(512):
                guest.ram.write(
                    low + page * paging.entry, struct.pack(pack, page << 12 | PRESENT | WRITE | USER)
                )
        guest.ram.write(table + index * paging.entry, struct.pack(pack, value))
        entries.append(table + index * paging.entry)
        values.append(value)
        table = below
    return entries, values


def boot(guest: Guest, form: str, code: bytes, *, user: bool, wp: bool, rax: int) -> None:
    paging = FORMS[form]
    cr0 = 0x80000031 | (WP if wp else 0)
    if form == "long":
        guest.long_mode(code, user=user, rax=rax, rbx=LINEAR, cr0=cr0, cr3=TABLES, efer=paging.efer)
    else:
        start(
            guest, code, user=user, eax=rax, ebx=LINEAR, cr0=cr0, cr3=TABLES, cr4=paging.cr4, efer=paging.efer
        )


@settings(max_examples=100, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    rights=st.lists(st.integers(0, 7), min_size=4, max_size=4),
    seen=st.lists(st.booleans(), min_size=4, max_size=4),
    no_execute=st.lists(st.sampled_from([0, 0, 0, NX]), min_size=4, max_size=4),
    way=st.sampled_from(["load", "store", "fetch"]),
    user=st.booleans(),
    wp=st.booleans(),
)
def test_any_entries_allow_and_mark_what_a_model_says(
    engine: str,
    form: str,
    rights: list[int],
    seen: list[bool],
    no_execute: list[int],
    way: str,
    user: bool,
    wp: bool,
) -> None:
    guest = Guest(engine=engine)
    count = len(FORMS[form].levels)
    bits = [
        right | (ACCESSED if mark else 0) | (0 if form == "32" else nx)
        for right, mark, nx in zip(rights, seen, no_execute, strict=True)
    ][:count]
    if form == "long":
        bits[:2] = [PRESENT | WRITE | USER] * 2
    code = {"load": "8b03", "store": "8903", "fetch": "ffe3"}[way]
    guest.ram.write(TARGET, HLT if not user else b"\xcc")
    entries, values = build(guest, form, bits)
    boot(guest, form, bytes.fromhex(code) + b"\xcc", user=user, wp=wp, rax=0xCAFE)
    judged = bits[1:] if form == "pae" else bits
    present = [bool(b & PRESENT) for b in judged]
    writable, for_user = all(b & WRITE for b in judged), all(b & USER for b in judged)
    executable = not any(b & NX for b in judged)
    wrong = (
        not all(present)
        or (user and not for_user)
        or (way == "store" and not writable and (user or wp))
        or (way == "fetch" and not executable)
    )
    error = all(present) | (way == "store") << 1 | user << 2 | (way == "fetch" and form != "32") << 4

    state = guest.halt()
    vector = guest.ram.u64(state.gpr[4]) & 0xFFFFFFFF if state.rip == 0x5001 else None

    if wrong:
        size = 8 if form == "long" else 4
        assert vector == 14
        assert int.from_bytes(guest.ram.read(state.gpr[4] + size, size), "little") == error
        assert state.cr2 == LINEAR
    else:
        assert vector == (None if way == "fetch" and not user else 3)
    size = FORMS[form].entry
    after = [int.from_bytes(guest.ram.read(entry, size), "little") for entry in entries]
    if not wrong:
        first = 1 if form == "pae" else 0
        assert all(value & ACCESSED for value in after[first:])
        assert bool(after[-1] & DIRTY) == (way == "store")
    # nothing else in an entry changes, and nothing below an entry that is not present is touched
    assert [a & ~(ACCESSED | DIRTY) for a in after] == [v & ~(ACCESSED | DIRTY) for v in values]
    assert wrong <= (not after[-1] & DIRTY)
    guest.close()


@pytest.mark.parametrize(("user_page", "vector"), [(True, 14), (False, None)])
def test_smep_keeps_ring_0_out_of_pages_of_the_user(
    guest: Guest, user_page: bool, vector: int | None
) -> None:
    guest.long_mode(bytes.fromhex("e9fb7f0000"), cr4=0x620 | SMEP)
    for page in range(256):
        guest.page(page << 12, page << 12 | PRESENT | WRITE)
    guest.page(MORE, MORE | PRESENT | WRITE | (USER if user_page else 0))
    guest.ram.write(MORE, HLT)

    state = guest.halt()

    if vector is None:
        assert state.rip == MORE + 1
    else:
        frame = guest.frame(state.gpr[4])
        assert (frame.vector, frame.error, state.cr2) == (14, 0x11, MORE)


# ---- what is flushed

READ = bytes.fromhex("0fb60425 00000200")  # movzx eax, byte [20000]
MOVE = bytes.fromhex("48c70425") + struct.pack("<I", PT + 0x20 * 8)  # mov qword [entry], imm32


def remap(to: int, flags: int = PRESENT | WRITE) -> bytes:
    return MOVE + struct.pack("<I", to | flags)


@pytest.mark.parametrize(
    ("flush", "flags"),
    [
        pytest.param("0f013c25 00000200", 0, id="invlpg"),
        pytest.param("0f013c25 ff0f0200", 0, id="invlpg of its last byte"),
        pytest.param("0f013c25 00000200", GLOBAL, id="invlpg of a global page"),
        pytest.param("0f20d8 0f22d8", 0, id="mov cr3"),
        pytest.param("0f20e0 4835 80000000 0f22e0 4835 80000000 0f22e0", GLOBAL, id="CR4.PGE"),
        pytest.param("0f20e0 4883f010 0f22e0", 0, id="CR4.PSE"),
        pytest.param("0f20c0 4835 00000100 0f22c0", 0, id="CR0.WP"),
    ],
)  # fmt: skip
def test_translation_is_new_after_a_flush(guest: Guest, flush: str, flags: int) -> None:
    guest.ram.write(DATA, b"\x11")
    guest.ram.write(MORE, b"\x22")
    code = READ + b"\x89\xc3" + remap(MORE, flags | 3) + bytes.fromhex(flush) + READ + HLT
    guest.long_mode(code, cr4=0x6A0)
    guest.page(0x20000, DATA | PRESENT | WRITE | flags)

    state = guest.halt()

    assert (state.gpr[3], state.gpr[0]) == (0x11, 0x22)


def test_page_made_present_needs_no_flush(guest: Guest) -> None:
    guest.ram.write(MORE, b"\x22")
    guest.long_mode(READ + HLT)
    guest.page(0x20000, 0)
    guest.gate(14, SYSCALL)
    guest.ram.write(SYSCALL, remap(MORE) + bytes.fromhex("ffc3 4883c408 48cf"))

    state = guest.halt()

    assert (state.gpr[0], state.gpr[3]) == (0x22, 1)


def test_dirty_bit_cleared_and_flushed_is_set_by_the_next_store(guest: Guest) -> None:
    store = bytes.fromhex("c6042500000200 01")
    code = store + remap(DATA, PRESENT | WRITE | ACCESSED) + bytes.fromhex("0f013c2500000200") + store + HLT
    guest.long_mode(code)
    guest.page(0x20000, DATA | PRESENT | WRITE)

    guest.halt()

    assert guest.ram.u64(PT + 0x20 * 8) & 0x60 == 0x60


def test_large_page_cut_into_small_ones_is_seen_after_a_flush(guest: Guest) -> None:
    guest.ram.write(TARGET, b"\x33")
    guest.ram.write(0x208000, struct.pack("<Q", TARGET | PRESENT | WRITE))  # the new table: its first page
    # movzx ebx, byte [200000] / mov dword [pd+8], 208003 / mov rax, cr3 / mov cr3, rax / movzx eax, byte
    code = "0fb61c2500002000 48c7042508201000 03802000 0f20d8 0f22d8 0fb6042500002000 f4"
    guest.long_mode(bytes.fromhex(code))
    guest.ram.write(0x200000, b"\x44")

    state = guest.halt()

    assert (state.gpr[3], state.gpr[0]) == (0x44, 0x33)
    assert (PD, PML4) == (0x102000, 0x100000)


@pytest.mark.parametrize("level", [PML4, 0x101000, PD])
def test_reserved_bit_of_an_upper_entry_is_a_page_fault(guest: Guest, level: int) -> None:
    guest.long_mode(bytes.fromhex("488b042500004000"))  # mov rax, [400000]
    index = 2 if level == PD else 0
    if level == PD:
        guest.directory(2, 1 << 45 | PRESENT | WRITE)
    else:
        # a second way down, for an address of its own
        index = 1
        guest.ram.write(level + 8 * index, struct.pack("<Q", 1 << 45 | PRESENT | WRITE))
        linear = index << (39 if level == PML4 else 30)
        guest.long_mode(bytes.fromhex("488b03"), rbx=linear)

    frame = guest.fault()

    assert (frame.vector, frame.error, frame.rip) == (14, 9, CODE)


def test_nx_bit_without_nxe_is_reserved(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("8a042500900000"), efer=0x501)
    guest.page(MORE, MORE | PRESENT | NX)

    frame = guest.fault()

    assert (frame.vector, frame.error) == (14, 9)


# ---- the ends of the address space


@pytest.mark.parametrize(("address", "low"), [(0xFFFFFFFE, 2), (0xFFFFFFFF, 3), (0xFFFFFFFD, 1)])
def test_access_over_4_gib_wraps_in_32_bit_code(guest: Guest, address: int, low: int) -> None:
    start(guest, bytes.fromhex("8b03 8903 f4"), ebx=address, cr0=0x80000031, cr3=TABLES)
    guest.ram.write(TABLES, bytes(0x1000))
    guest.ram.write(TABLES, struct.pack("<I", TABLES + 0x1000 | 3))
    guest.ram.write(TABLES + 0xFFC, struct.pack("<I", TABLES + 0x2000 | 3))
    for page in range(1024):
        guest.ram.write(TABLES + 0x1000 + page * 4, struct.pack("<I", page << 12 | 3))
    guest.ram.write(TABLES + 0x1000, struct.pack("<I", MORE | 3))
    guest.ram.write(TABLES + 0x2FFC, struct.pack("<I", DATA | 3))
    guest.ram.write(DATA + 0xFFC, b"\x11\x22\x33\x44")
    guest.ram.write(MORE, b"\x55\x66\x77\x88")

    state = guest.halt()

    whole = b"\x11\x22\x33\x44\x55\x66\x77\x88"
    assert state.gpr[0] == int.from_bytes(whole[low : low + 4], "little")


def test_page_fault_of_a_split_access_names_the_page_that_is_missing(guest: Guest) -> None:
    guest.long_mode(bytes.fromhex("48890425 fc9f0000"), rax=2**64 - 1)  # mov [9ffc], rax
    guest.page(0xA000, 0)

    frame = guest.fault()

    assert (frame.vector, frame.error, guest.rem.get_state().cr2) == (14, 2, 0xA000)
    assert guest.ram.read(0x9FFC, 4) == bytes(4)


def test_page_fault_in_ring_3_of_32_bits_has_the_user_bit(guest: Guest) -> None:
    build(guest, "32", [0, 0])
    boot(guest, "32", bytes.fromhex("8b03"), user=True, wp=False, rax=0)

    result = fault(guest, 2)

    assert (result.vector, result.error, guest.rem.get_state().cr2) == (14, 4, LINEAR)
