"""The walk over descriptors, against a plain model."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_plugin_ide.prd import walk

SIZE = 1 << 17


def memory(table: int, entries: list[tuple[int, int]]) -> bytearray:
    """Two pages of 64 KiB of nothing but a table; behind it are descriptors of 4 KiB without EOT."""
    held = bytearray(struct.pack("<II", 0x500000, 0x1000) * (SIZE // 8))
    raw = b"".join(struct.pack("<II", address, word) for address, word in entries)
    raw = raw[: 0x10000 - (table & 0xFFFC)]
    held[table : table + len(raw)] = raw
    return held


def model(held: bytes, table: int) -> Iterator[tuple[int, bool]]:
    """Byte by byte: (address, whether the table ends behind it)."""
    at = table
    while at & ~0xFFFF == table & ~0xFFFF and (at & 0xFFFF) + 8 <= 0x10000:
        address, word = struct.unpack_from("<II", held, at)
        at += 8
        count = word & 0xFFFE or 0x10000
        for index in range(count):
            last = index == count - 1 and bool(word >> 31)
            yield ((address & ~1) + index) % (1 << 32), last
        if word >> 31:
            return


addresses = st.one_of(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 0x1000, 0x1FFFE, 0x20000, 0xFFFFFFFE, 0xFFFFFFF0, 0x500000]),
)
words = st.one_of(
    st.integers(0, 40),
    st.integers(0, 40).map(lambda count: count | 0x80000000),
    st.sampled_from([0, 1, 0x80000000, 0x80000001, 0x7FFF0002]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(addresses, words), min_size=1, max_size=12),
    st.sampled_from([0x0, 0x4, 0x1000, 0xFFF8, 0xFFE8, 0x10010]),
    st.integers(0, 70000),
    st.integers(1, 70000),
)
def test_walk_of_any_table_is_what_the_model_says(
    entries: list[tuple[int, int]], table: int, skip: int, length: int
) -> None:
    held = memory(table, entries)

    def fetch(address: int, size: int) -> bytes:
        assert address + size <= SIZE
        return bytes(held[address : address + size])

    found = walk(fetch, table, skip, length)

    expected, ended, bytes_before = [], True, 0
    source = model(held, table)
    for address, last in source:
        if bytes_before < skip:
            bytes_before += 1
            if last:
                break
            continue
        expected.append(address)
        if len(expected) == length:
            ended = last
            break
    assert found.length == len(expected)
    assert found.ended == ended
    flat = [address + at for address, size in found.pieces for at in range(size)]
    assert flat == expected
    assert all(address + size <= 1 << 32 for address, size in found.pieces)


def test_walk_without_eot_ends_with_the_64_kib_of_its_table() -> None:
    fetched = []

    def fetch(address: int, size: int) -> bytes:
        fetched.append(address)
        return struct.pack("<II", 0x1000, 2) * (size // 8)

    found = walk(fetch, 0x20000, 0, 1 << 30)
    assert found.length == 2 * 8192
    assert found.ended
    assert max(fetched) < 0x30000


def test_walk_joins_neighbours_and_splits_at_4_gib() -> None:
    held = memory(0, [(0x1000, 0x800), (0x1800, 0x800), (0xFFFFFFF0, 0x80000020)])
    found = walk(lambda address, size: bytes(held[address : address + size]), 0, 0, 1 << 20)
    assert found.pieces == ((0x1000, 0x1000), (0xFFFFFFF0, 0x10), (0, 0x10))
    assert found.ended
