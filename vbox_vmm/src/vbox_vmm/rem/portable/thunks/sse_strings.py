"""PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM: as native/sse_strings.c has them.

Reference: Intel SDM volume 2 section 4.1.
"""

from __future__ import annotations

from ..language import UInt32, u8, u16, u64
from ..layout import ENV_XMM, FLAG_CF, FLAG_OF, FLAG_SF, FLAG_ZF, R_AX, R_CX, R_DX
from ..structures import Env

WORDS, SIGNED, NEGATIVE, MASKED, MOST, WIDE = 1, 2, 0x10, 0x20, 0x40, 0x100  # of the control
EQUAL_ANY, RANGES, EQUAL_EACH = range(3)
SIGN = 1 << 63


def element(string: int, at: int, control: int) -> int:
    """In an order without sign."""
    if control & WORDS:
        return u16[string + at * 2] ^ (0x8000 if control & SIGNED else 0)
    return u8[string + at] ^ (0x80 if control & SIGNED else 0)


def length_to_zero(string: int, control: int) -> int:
    at = 0
    while at < (8 if control & WORDS else 16):
        if not (u16[string + at * 2] if control & WORDS else u8[string + at]):
            break
        at += 1
    return at


def length_of(value: int, control: int) -> int:
    """The absolute value, as far as there are elements."""
    if not control & WIDE:
        value &= 0xFFFF_FFFF
        if value >> 31:
            value = 0x1_0000_0000 - value
    elif value & SIGN:
        value = -value
    room = 8 if control & WORDS else 16
    return value if value < room else room


def is_match(first: int, length: int, second: int, other: int, at: int, control: int) -> int:
    """IntRes1 at an element of the second string, which has the `other` length."""
    aggregation = control >> 2 & 3
    room = 8 if control & WORDS else 16
    if aggregation == EQUAL_EACH:
        if at >= length or at >= other:
            return at >= length and at >= other
        return element(first, at, control) == element(second, at, control)
    if aggregation in (EQUAL_ANY, RANGES):
        if at >= other:
            return 0
        value = element(second, at, control)
        i = 0
        while i < length:
            if aggregation == EQUAL_ANY:
                if element(first, i, control) == value:
                    return 1
                i += 1
            else:
                if (
                    i + 1 < length
                    and element(first, i, control) <= value
                    and value <= element(first, i + 1, control)
                ):
                    return 1
                i += 2
        return 0
    i = 0
    while i < length and at + i < room:
        if at + i >= other or element(first, i, control) != element(second, at + i, control):
            return 0
        i += 1
    return 1


def compare(env: Env, d: int, s: int, control: UInt32, *, is_explicit: int, is_mask: int) -> None:
    length = length_of(env.regs[R_AX], control) if is_explicit else length_to_zero(d, control)
    other = length_of(env.regs[R_DX], control) if is_explicit else length_to_zero(s, control)
    room = 8 if control & WORDS else 16
    result = 0
    for i in range(16):
        if i < room:
            is_set = is_match(d, length, s, other, i, control)
            if control & NEGATIVE and (not control & MASKED or i < other):
                is_set = not is_set
            result |= is_set << i
    flags = (FLAG_CF if result else 0) | (FLAG_ZF if other < room else 0)
    env.cc_src = flags | (FLAG_SF if length < room else 0) | (FLAG_OF if result & 1 else 0)
    if is_mask:
        give_mask(env.address + ENV_XMM, result, control)
        return
    index = room
    for i in range(16):
        if result >> i & 1 and (control & MOST or index == room):
            index = i
    env.regs[R_CX] = index


def give_mask(to: int, result: int, control: int) -> None:
    u64[to] = 0
    u64[to + 8] = 0
    if not control & MOST:
        u16[to] = result
        return
    for i in range(16):
        if control & WORDS:
            if i < 8 and result >> i & 1:
                u16[to + i * 2] = 0xFFFF
        elif result >> i & 1:
            u8[to + i] = 0xFF
