"""What thunks are made of: the subset of Python and its compiler, and the layout that it goes by."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_vmm.rem.portable import structures
from vbox_vmm.rem.portable.compiler import CompileError, Program
from vbox_vmm.rem.portable.language import (
    MULTIPLY_SHIFT_40,
    Array,
    Field,
    Functions,
    Int32,
    Pointer,
    Struct,
    UInt8,
    UInt32,
    address_of,
    buffer,
    call,
    execute,
    here,
    i32,
    tail,
    u8,
    u16,
    u32,
    u64,
)
from vbox_vmm.rem.portable.layout import HEADER, constants

ONES = (1 << 64) - 1
TEN = 10
IS_LESS = bytes.fromhex("48 39c8 0f9cc0 0fb6c0")  # cmp rax, rcx / setl al / movzx eax, al
NUMBERS = st.integers(0, ONES) | st.sampled_from([0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, ONES])
c_library = Functions()
c_library.define({"labs": ctypes.cast(ctypes.CDLL(None).labs, ctypes.c_void_p).value or 0})


def compiled(function: Callable[..., Any], **constants: Any) -> Callable[..., int]:
    """The thunk, to be called with numbers."""
    program = Program()
    label = program.add(function, **constants)
    address = program.load()(label)

    def run(*arguments: int) -> int:
        kinds = [ctypes.c_uint64] * len(arguments)
        return int(ctypes.CFUNCTYPE(ctypes.c_uint64, *kinds)(address)(*arguments))

    return run


class Pair(Struct):
    low = Field(u32, 0)
    signed = Field(i32, 4)
    items = Array(u16, 8, stride=4)


class Owner(Struct):
    pair = Pointer(Pair, 8)


# --- arithmetic ----------------------------------------------------------------------------------------


def arithmetic(a: int, b: int) -> int:
    mixed = (a + b * 3 - (a ^ b)) & ~(a | 0xFF) | (b >> 7 << 3)
    return mixed + a // (b | 1) + a % (b | 1) - 5


def expected_arithmetic(a: int, b: int) -> int:
    mixed = (a + b * 3 - (a ^ b)) & ~(a | 0xFF) & ONES | (b >> 7 << 3) & ONES
    return (mixed + a // (b | 1) + a % (b | 1) - 5) & ONES


run_arithmetic = compiled(arithmetic)


@given(NUMBERS, NUMBERS)
def test_arithmetic_has_64_bits_without_sign(a: int, b: int) -> None:
    assert run_arithmetic(a, b) == expected_arithmetic(a, b)


def conditions(a: int, b: int) -> int:
    result = 0
    if (a < b and a != 7) or b in (1, 2, TEN):
        result |= 1
    if not (a >= b or a <= 3):
        result |= 2
    if a != b and (a > TEN or b not in (4, 5)):
        result |= 4
    return result | ((a < b) << 3) | (16 if a and b else 0) | ((a or b) << 5) | (execute(IS_LESS, a, b) << 6)


def expected_conditions(a: int, b: int) -> int:
    def signed(n: int) -> int:
        return n - (1 << 64) if n >> 63 else n

    result = int((a < b and a != 7) or b in (1, 2, TEN)) | (int(a < b and a > 3) << 1)
    result |= int(a != b and (a > TEN or b not in (4, 5))) << 2
    result |= (a < b) << 3 | (bool(a and b) << 4) | (bool(a or b) << 5)
    return result | (signed(a) < signed(b)) << 6


run_conditions = compiled(conditions)


@given(NUMBERS | st.integers(0, 12), NUMBERS | st.integers(0, 12))
def test_conditions_are_those_of_python(a: int, b: int) -> None:
    assert run_conditions(a, b) == expected_conditions(a, b)


@given(NUMBERS, st.integers(0, 1 << 40))
def test_product_of_128_bits_is_shifted(a: int, b: int) -> None:
    run = compiled_shift

    assert run(a, b) == (a * b >> 40) & ONES


def shifted(a: int, b: int) -> int:
    return execute(MULTIPLY_SHIFT_40, a, b)


compiled_shift = compiled(shifted)


def narrow(a: UInt8, b: Int32, c: UInt32) -> int:
    return a + b + c


@given(NUMBERS, NUMBERS, NUMBERS)
def test_parameters_are_cut_to_their_types(a: int, b: int, c: int) -> None:
    assert run_narrow(a, b, c) == (u8(a) + i32(b) + u32(c)) & ONES


run_narrow = compiled(narrow)

# --- flow and calls ------------------------------------------------------------------------------------


def loops(n: int) -> int:
    total = 0
    for i in range(2, n):
        if i == 5:
            continue
        if i > 20:
            break
        total += i
    while total > 100:
        total -= 7
    return total


def test_loops_end_where_python_ends_them() -> None:
    run = compiled(loops)

    assert [run(n) for n in (0, 3, 6, 9, 100)] == [loops(n) for n in (0, 3, 6, 9, 100)]


def eight(a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int) -> int:
    return a + b * 10 + c * 100 + d * 1000 + e * 10000 + f * 100000 + g * 1000000 + h * 10000000


def factorial(n: int) -> int:
    return n * factorial(n - 1) if n else 1


def calls(a: int, function: int) -> int:
    many = eight(a, 2, factorial(3) - 3, 4, a + 4, 6, call(function, 3) + 1, c_library.labs(0 - 8))
    return many + call(address_of(factorial), 4) * 100000000


def test_calls_pass_arguments_in_registers_and_on_the_stack() -> None:
    program = Program()
    labels = [program.add(calls), program.add(factorial)]
    at = program.load()
    run = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(at(labels[0]))

    assert run(1, at(labels[1])) == 87654321 + 24 * 100000000


def place() -> int:
    return here()


def through() -> int:
    tail(place)


def places(unused: int) -> int:
    return through() - place()


def test_tail_leaves_the_return_address_as_it_is() -> None:
    distance = compiled(places)(0)

    assert 0 < (ONES + 1 - distance) < 64  # two calls in one function, the first of them by `tail`


def variant(a: int, *, by: int) -> int:
    if by == 1:
        return a + 1
    return a * variant(a, by=1)


def test_keyword_arguments_make_variants() -> None:
    assert compiled(variant, by=2)(6) == 42


# --- memory --------------------------------------------------------------------------------------------


def memory(owner: Owner, i: int) -> int:
    p = owner.pair
    p.low = 0x1_2345_6789
    p.signed = -2
    p.items[i] = p.items[i + 1] + 1
    p.items[0] |= 0x100
    copy = buffer(20)
    u64[copy + 8] = ONES
    u8[copy + i + 7] = 0
    return u64[copy + 8] + p.signed + (copy & 15)


def test_structures_are_the_same_in_python_and_in_thunks() -> None:
    space = (ctypes.c_uint64 * 8)()
    owner = Owner(ctypes.addressof(space))
    owner.pair = Pair(owner.address + 16)
    owner.pair.items[2] = 77
    run = compiled(memory)

    result = run(owner.address, 1)

    assert result == (ONES - 0xFF - 2) & ONES
    assert (owner.pair.low, owner.pair.signed) == (0x2345_6789, -2)
    assert [owner.pair.items[i] for i in range(3)] == [0x100, 78, 77]
    assert u32[owner.pair.address] == 0x2345_6789


# --- what is refused -----------------------------------------------------------------------------------


def has_with(a: int) -> int:
    with open("x"):
        return a


def has_unknown_name(a: int) -> int:
    return a + nowhere  # type: ignore[name-defined, no-any-return]  # noqa: F821


def has_unknown_field(pair: Pair) -> int:
    return pair.middle  # type: ignore[attr-defined, no-any-return]


def has_text(a: int) -> int:
    return a + len("text")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (has_with, "With"),
        (has_unknown_name, "nowhere"),
        (has_unknown_field, "middle"),
        (has_text, "len has no value"),
    ],
)
def test_what_is_not_in_the_subset_is_refused_with_its_line(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(CompileError, match=rf"test_thunks:\d+: .*{why}"):
        compiled(function)


def test_intrinsics_are_refused_in_python() -> None:
    with pytest.raises(TypeError, match="thunks"):
        here()


# --- layout --------------------------------------------------------------------------------------------


def test_constants_of_a_header_are_its_enumerators_and_numeric_macros() -> None:
    text = """
    /* enum { NOT = 1 }; */
enum {
    A = 1 << 4, /* a comment, with a comma */
    B,
    C = A | B
};
enum { D, E, F = 10, G };
#define BIG ((uint64_t)1 << 40) /* more */
#define CALL(x) (x)
    """

    found = constants(text)

    assert found == {"A": 16, "B": 17, "C": 17, "D": 0, "E": 1, "F": 10, "G": 11, "BIG": 1 << 40}


def structures_of(text: str) -> dict[str, dict[str, int]]:
    """The offsets of the fields of a C header's structures, and their sizes as the field ''."""
    sizes = {"uint32_t": 4, "uint64_t": 8, "uintptr_t": 8, "void *": 8}
    found = {}
    for body, name in re.findall(
        r"typedef struct \{(.*?)\} (\w+);", re.sub(r"/\*.*?\*/", "", text), re.DOTALL
    ):
        offsets, at = {}, 0
        for kind, fields in re.findall(r"(\w+ ?\*?)\s*([\w, \[\]]+);", body):
            size = sizes[kind.strip()]
            for field in fields.split(","):
                plain, count = re.fullmatch(r"\s*(\w+)(?:\[(\d+)\])?", field).groups()  # type: ignore[union-attr]
                at = -(-at // size) * size
                offsets[plain] = at
                at += size * int(count or 1)
        found[name] = offsets | {"": at}
    return found


@pytest.mark.parametrize(
    ("name", "ours", "size"),
    [
        ("SegmentCache", structures.Segment, structures.SEGMENT_SIZE),
        ("TlbEntry", structures.TlbEntry, structures.TLB_ENTRY_SIZE),
        ("IoTlbEntry", structures.IoTlbEntry, structures.IO_TLB_ENTRY_SIZE),
        ("PageDesc", structures.PageDesc, structures.PAGE_DESC_SIZE),
    ],
)
def test_structure_is_laid_out_as_the_native_module_has_it(name: str, ours: type[Struct], size: int) -> None:
    offsets = structures_of(HEADER.read_text())[name]

    fields = {n: f.offset for n, f in vars(ours).items() if isinstance(f, Field)}
    assert fields.items() <= offsets.items()
    assert size == offsets[""]
