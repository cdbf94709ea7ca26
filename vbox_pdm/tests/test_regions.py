"""Regions: width policies against a plain memory, and what may be declared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import Latch, Mmio, Ports, ReadWidth, RegistrationError, Width, WriteWidth
from vbox_pdm.engine import Exit
from vbox_pdm.regions import resolve

SIZE = 32


class Memory:
    """A register file that is plain memory and notes what reaches it."""

    def __init__(self) -> None:
        self.bytes = bytearray(range(1, SIZE + 1))
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.reads.append((offset, size))
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size))
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")

    def row(self, width: Width) -> Exit:
        return resolve(Mmio("memory", SIZE, self.read, self.write, width=width), 0x1000, None)


def read(row: Exit, offset: int, size: int) -> int:
    direct = size & row.direct and offset % size == 0
    return (row.read if direct else row.adapted_read)(offset, size)


def write(row: Exit, offset: int, size: int, value: int) -> None:
    direct = size & row.direct and offset % size == 0
    (row.write if direct else row.adapted_write)(offset, size, value)


accesses = st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(0, SIZE - 8))
READ_SIZES = {
    ReadWidth.ANY: {1, 2, 4, 8},
    ReadWidth.BYTE: {1},
    ReadWidth.WORD: {1, 2},
    ReadWidth.DWORD: {4},
    ReadWidth.DWORD_QWORD: {4, 8},
}
WRITE_SIZES = {
    WriteWidth.ANY: {1, 2, 4, 8},
    WriteWidth.BYTE: {1},
    WriteWidth.WORD: {1, 2},
    WriteWidth.DWORD_READ_MISSING: {4},
    WriteWidth.DWORD_QWORD_READ_MISSING: {4, 8},
    WriteWidth.DWORD_ZEROED: {4},
    WriteWidth.DWORD_QWORD_ZEROED: {4, 8},
    WriteWidth.ONLY_DWORD: {4},
    WriteWidth.ONLY_DWORD_QWORD: {4, 8},
}


@given(st.sampled_from(ReadWidth), accesses)
def test_read_of_any_policy_gives_the_bytes_of_memory(policy: ReadWidth, access: tuple[int, int]) -> None:
    memory, (size, offset) = Memory(), access
    value = read(memory.row(Width(policy, WriteWidth.ANY)), offset, size)
    assert value == int.from_bytes(memory.bytes[offset : offset + size], "little")
    assert {seen for _, seen in memory.reads} <= READ_SIZES[policy]
    if policy is not ReadWidth.ANY:
        assert all(at % seen == 0 for at, seen in memory.reads)


@given(st.sampled_from(WriteWidth), accesses, st.integers(0, (1 << 64) - 1))
def test_write_of_any_policy_reaches_the_handler_in_its_sizes(
    policy: WriteWidth, access: tuple[int, int], value: int
) -> None:
    memory, (size, offset) = Memory(), access
    value &= (1 << (8 * size)) - 1
    before = bytes(memory.bytes)
    write(memory.row(Width(ReadWidth.ANY, policy)), offset, size, value)
    assert {seen for _, seen in memory.writes} <= WRITE_SIZES[policy]
    if policy is not WriteWidth.ANY:
        assert all(at % seen == 0 for at, seen in memory.writes)
    written = before[:offset] + value.to_bytes(size, "little") + before[offset + size :]
    if "only" in policy.value:
        whole = size in WRITE_SIZES[policy] and offset % size == 0
        assert memory.bytes == (written if whole else before)
    elif "zero" in policy.value:
        expected = bytearray(before)
        for at, seen in memory.writes:
            expected[at : at + seen] = bytes(seen)
        expected[offset : offset + size] = value.to_bytes(size, "little")
        assert memory.bytes == expected
    else:
        assert memory.bytes == written


def test_aligned_access_of_natural_width_is_direct() -> None:
    row = Memory().row(Width.DWORD)
    assert row.direct == 4
    assert Memory().row(Width.BYTE).direct == 1
    assert Memory().row(Width.WORD).direct == 3
    assert Memory().row(Width.ANY).direct == 15


def test_region_without_handlers_reads_ones_and_drops_writes() -> None:
    row = resolve(Ports("empty", 4), 0x100, None)
    assert [row.read(0, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFFFFFF]
    row.write(0, 1, 5)


def test_with_handlers_changes_handlers_only() -> None:
    region = Ports("uart", 8, lambda offset, size: 1, width=Width.BYTE, claims=1)
    other = region.with_handlers(read=lambda offset, size: 2)
    assert other.read(0, 1) == 2
    assert (other.name, other.size, other.width, other.claims, other.write) == (
        "uart",
        8,
        Width.BYTE,
        1,
        region.write,
    )


@pytest.mark.parametrize(("name", "size"), [("", 1), ("x", 0), ("x", -1), ("x", 0x10001)])
def test_region_that_is_not_possible_is_refused(name: str, size: int) -> None:
    with pytest.raises(RegistrationError):
        Ports(name, size)


# --- latches


def test_latch_as_handlers_is_told_to_the_engine() -> None:
    latch = Latch(bytearray(8))

    row = resolve(Ports("latch", 8, latch.read, latch.write), 0x100, None)

    assert row.answers is row.keeps is latch.data


def test_latch_of_constants_answers_reads_alone() -> None:
    latch = Latch(b"\x12\x34")

    row = resolve(Ports("identity", 2, latch.read), 0x100, None)

    assert row.answers is latch.data
    assert row.keeps is None
    assert row.read(0, 2) == 0x3412


def test_latch_behind_another_handler_is_not_bypassed() -> None:
    latch = Latch(bytearray(8))
    region = Ports("latch", 8, latch.read, latch.write)

    row = resolve(region.with_handlers(read=lambda offset, size: latch.read(offset, size)), 0x100, None)

    assert row.answers is None
    assert row.keeps is latch.data


@given(st.integers(0, 7), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1))
def test_latch_of_any_access_is_memory(offset: int, size: int, value: int) -> None:
    data, expected = bytearray(range(16)), bytearray(range(16))
    latch = Latch(data)
    expected[offset : offset + size] = value.to_bytes(8, "little")[:size]

    latch.write(offset, size, value)

    assert data == expected
    assert latch.read(offset, size) == int.from_bytes(expected[offset : offset + size], "little")


@pytest.mark.parametrize("data", [bytearray(7), bytes(8)], ids=["short", "constant"])
def test_latch_that_cannot_serve_its_region_is_refused(data: bytes | bytearray) -> None:
    latch = Latch(data)

    with pytest.raises(RegistrationError, match="latch of region 'odd'"):
        resolve(Ports("odd", 8, latch.read, latch.write), 0x100, None)
