"""IN, OUT, INS and OUTS: permission, and the way to a callback in Python; as native/helpers.c and strings.c
have it.

Unicorn translates REP INS and REP OUTS to a loop that calls a port helper once an item.  Where the region
has a string handler, the first of these calls moves many items at once and sets (E|R)CX and (E|R)DI or SI so
that the loop finds the last of them done.  It goes item by item whenever that could be noticed: DF set,
single step, data breakpoints, memory that is not plain RAM, the end of a page or of 64 KiB in 16-bit
addressing.

Trap: a handler may change translations and the memory map; the place is looked up again behind it.
"""

from __future__ import annotations

from ..language import UInt32, here, lib, python, u8, u16, u32, u64
from ..layout import (
    DESC_P,
    FLAG_AC,
    FLAG_TF,
    HF_CPL,
    HF_CS64,
    HF_SMAP,
    MMU_KNOSMAP,
    MMU_KSMAP,
    R_CX,
    R_DI,
    R_DX,
    R_SI,
    SEG_DS,
    SEG_ES,
    VECTOR_GP,
)
from ..structures import Env, Machine
from .helpers import segment
from .memory import PAGE_SIZE, data_mode, machine_of, plain_memory
from .translation import is_restricted

SIGN = 1 << 63
TR = 7  # among the segments: behind the six and LDTR


def check_permission(env: Env, port: int, size: int, back: int) -> None:
    if not is_restricted(env):
        return
    tss = segment(env, TR)
    kind = tss.flags >> 8 & 15
    if tss.flags & DESC_P and kind in (9, 11) and tss.limit >= 103:
        no_smap = not env.hflags & HF_SMAP or ((env.hflags & HF_CPL) < 3 and env.eflags & FLAG_AC)
        mode = MMU_KNOSMAP if no_smap else MMU_KSMAP
        at = u16(lib.cpu_lduw_mmuidx_ra(env, tss.base + 0x66, mode, back)) + (port >> 3)
        if at + 1 <= tss.limit:
            bits = u16(lib.cpu_lduw_mmuidx_ra(env, tss.base + at, mode, back))
            if not bits >> (port & 7) & ((1 << size) - 1):
                return
    lib.raise_exception_err_ra(env, VECTOR_GP, 0, back)


def port_in(env: Env, port: UInt32, *, size: int) -> int:
    """helper_inb, helper_inw, helper_inl."""
    check_permission(env, port & 0xFFFF, size, here())
    return u32(python.port_read(machine_of(env).number, port & 0xFFFF, size))


def port_out(env: Env, port: UInt32, value: UInt32, *, size: int) -> None:
    """helper_outb, helper_outw, helper_outl."""
    check_permission(env, port & 0xFFFF, size, here())
    python.port_write(machine_of(env).number, port & 0xFFFF, size, value)


def string_check(env: Env, *, size: int) -> None:
    """In front of INS and OUTS."""
    check_permission(env, env.regs[R_DX] & 0xFFFF, size, here())


# --- many items in one call -----------------------------------------------------------------------


def cut(value: int, bits: int) -> int:
    if bits == 64:
        return value
    return u32(value) if bits == 32 else u16(value)


def register_add(env: Env, number: int, by: int, bits: int) -> None:
    old = env.regs[number]
    env.regs[number] = cut(old + by, bits) | (old & ~0xFFFF if bits == 16 else 0)


def linear(env: Env, which: int, number: int, bits: int) -> int:
    offset = cut(env.regs[number], bits)
    return offset if env.hflags & HF_CS64 else u32(segment(env, which).base + offset)


def items(m: Machine, env: Env, address: int, index: int, size: int, bits: int) -> int:
    """How many items may go in one call: those in this page, of which the first may be all that there is."""
    count = cut(env.regs[R_CX], bits)
    room = PAGE_SIZE - (address & (PAGE_SIZE - 1))
    if env.df & SIGN or env.eflags & FLAG_TF or m.watching or m.stepping:
        return 1
    if bits == 16 and room > 0x10000 - (env.regs[index] & 0xFFFF):
        room = 0x10000 - (env.regs[index] & 0xFFFF)
    room = room // size
    return count if count < room else room


def copy_in(m: Machine, env: Env, address: int, rest: int, mode: int, back: int) -> None:
    """Items behind the first, from the transfer page into the guest."""
    source = m.transfer
    host = plain_memory(env, address, mode, 1, 1)
    if host:
        lib.memcpy(host, source, rest)
        return
    for i in range(rest):
        lib.cpu_stb_mmuidx_ra(env, address + i, u8[source + i], mode, back)


def string_in(env: Env, wide: UInt32, *, size: int, bits: int) -> int:
    m = machine_of(env)
    port = wide & 0xFFFF
    mode = data_mode(env)
    check_permission(env, port, size, here())
    if u8[m.string_ports + port] & size:
        address = linear(env, SEG_ES, R_DI, bits)
        count = items(m, env, address, R_DI, size, bits)
        if count > 1 and plain_memory(env, address, mode, size, 1):
            # How many items; the first lies before the page.
            taken = u32(python.port_read_string(m.number, port, size, count, m.transfer))
            if taken:
                first = u64[m.transfer - 8]
                rest = (taken - 1) * size
                register_add(env, R_DI, rest, bits)
                register_add(env, R_CX, -(taken - 1), bits)
                if rest:
                    copy_in(m, env, address + size, rest, mode, here())
                return first
    return u32(python.port_read(m.number, port, size))


def string_out(env: Env, wide: UInt32, value: UInt32, *, size: int, bits: int) -> None:
    m = machine_of(env)
    port = wide & 0xFFFF
    check_permission(env, port, size, here())
    if u8[m.string_ports + port] >> 4 & size:
        address = linear(env, SEG_DS, R_SI, bits)
        count = items(m, env, address, R_SI, size, bits)
        host = plain_memory(env, address, data_mode(env), size, 0)
        if count > 1 and host:
            taken = u32(python.port_write_string(m.number, port, size, count, host))
            if taken:
                register_add(env, R_SI, (taken - 1) * size, bits)
                register_add(env, R_CX, -(taken - 1), bits)
                return
    python.port_write(m.number, port, size, value)
