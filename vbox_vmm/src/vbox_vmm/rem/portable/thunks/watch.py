"""Which addresses DR0 to DR7 watch.  Reference: Intel SDM volume 3B chapter 18."""

from __future__ import annotations

from ..structures import Env, Machine

BREAK_ON_CODE, BREAK_ON_STORE, BREAK_ON_PORT, BREAK_ON_ACCESS = range(4)
PAGE_SIZE = 1 << 12


def is_enabled(env: Env, i: int) -> int:
    return env.dr[7] >> (i * 2) & 3


def kind_of(env: Env, i: int) -> int:
    return env.dr[7] >> (16 + i * 4) & 3


def length_of(env: Env, i: int) -> int:
    code = env.dr[7] >> (18 + i * 4) & 3
    if code == 2:
        return 8
    return code + 1


def matches(env: Env, address: int, size: int, store: int) -> int:
    """The DR6 bits of the data breakpoints in [address, address + size); all are aligned to their length."""
    bits = 0
    for i in range(4):
        kind = kind_of(env, i)
        length = length_of(env, i)
        first = env.dr[i] & ~(length - 1)
        if (
            is_enabled(env, i)
            and (kind == BREAK_ON_ACCESS or (kind == BREAK_ON_STORE and store))
            and (address - first < length or first - address < size)
        ):
            bits |= 1 << i
    return bits


def watch_page(m: Machine, page: int) -> int:
    """Which TLB_WATCHPOINT flags a page needs: 1 for loads, 2 for stores."""
    loads = 1 if matches(m.env, page, PAGE_SIZE, 0) else 0
    return loads | (2 if matches(m.env, page, PAGE_SIZE, 1) else 0)
