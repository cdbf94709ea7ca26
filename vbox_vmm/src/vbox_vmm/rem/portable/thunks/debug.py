"""DR0 to DR7, and ICEBP: thunks as in native/debug.c, where the reasons are.

A data breakpoint is a trap.  TLB entries of a watched page carry WATCHPOINT, which sends accesses through
`watch_access`.  The first time, the instruction is abandoned before the access and translated again as a
block of its own (`stepping`); the second time the access is made and noted, and when the block ends
`debug_attend` raises #DB.
"""

from __future__ import annotations

from ..language import Int32, here, lib, tail, u8, u32
from ..layout import (
    DR6_BD,
    DR7_GD,
    ENV_SEGS,
    FLAG_RF,
    HF_CPL,
    HF_CS64,
    MMU_KNOSMAP,
    MMU_USER,
    SEG_CS,
    VECTOR_DB,
    VECTOR_GP,
    VECTOR_UD,
)
from ..structures import SEGMENT_SIZE, Cpu, Env, Machine, Segment
from .memory import machine_of_cpu
from .watch import BREAK_ON_CODE, is_enabled, kind_of, matches

NOWHERE = (1 << 64) - 1


def linear_eip(env: Env) -> int:
    at = Segment(env.address + (ENV_SEGS + SEG_CS * SEGMENT_SIZE)).base + env.eip
    return at if env.hflags & HF_CS64 else u32(at)


def raise_debug(env: Env, hits: int, back: int) -> None:
    env.dr[6] = (env.dr[6] & ~15) | hits
    lib.raise_exception_err_ra(env, VECTOR_DB, 0, back)


# --- data -----------------------------------------------------------------------------------------


def watch_access(m: Machine, address: int, size: int, store: int, back: int) -> None:
    """Before each load and store while `watching`; may abandon the instruction."""
    bits = matches(m.env, address, size, store)
    if not bits:
        m.watching = (m.env.dr[7] & 0xFF) != 0
        return
    if m.stepping:
        m.debug_hits |= bits
        m.env.attention = 1
        return
    m.stepping = 1
    m.cpu.cflags_next = 1  # one instruction; restoring sets EIP to this one
    m.step_at = NOWHERE
    lib.cpu_loop_exit_restore(m.cpu, back)


def debug_attend(m: Machine) -> int:
    """Between blocks: raise what the last instruction hit.  True while an instruction must run alone."""
    hits = m.debug_hits
    if hits:
        m.debug_hits = 0
        m.stepping = 0
        raise_debug(m.env, hits, 0)
    if m.step_at == NOWHERE:
        m.step_at = linear_eip(m.env)
    elif m.step_at != linear_eip(m.env):
        m.stepping = 0  # it got by without the access
        return 0
    m.cpu.cflags_next = 1
    return 1


def watchpoint_insert(cpu: Cpu) -> int:
    """cpu_watchpoint_insert."""
    machine_of_cpu(cpu).watching = 1
    lib.tlb_flush(cpu)
    return 0


# --- code -----------------------------------------------------------------------------------------


def debug(env: Env) -> None:
    """helper_debug: in front of an instruction with a breakpoint while RF is clear; EIP is there."""
    at = linear_eip(env)
    hits = 0
    for i in range(4):
        if is_enabled(env, i) and kind_of(env, i) == BREAK_ON_CODE and env.dr[i] == at:
            hits |= 1 << i
    env.eflags |= FLAG_RF  # in the frame, so that IRET gets past the breakpoint
    raise_debug(env, hits, 0)


def skip_icebp(m: Machine) -> int:
    """INT1 is an opcode that Unicorn does not know: after its #UD, look whether it stands there."""
    env = m.env
    at = linear_eip(env)
    is_long = env.hflags & HF_CS64
    mode = MMU_USER if (env.hflags & HF_CPL) == 3 else MMU_KNOSMAP
    for i in range(15):
        address = at + i if is_long else u32(at + i)
        byte = u8(lib.cpu_ldub_mmuidx_ra(env, address, mode, 0))
        if byte == 0xF1:
            env.eip += i + 1
            return 1
        is_prefix = byte in (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3)
        if not is_prefix and not (is_long and (byte & 0xF0) == 0x40):
            return 0
    return 0


def debug_vector(m: Machine, vector: int) -> int:
    """An exception is about to be delivered; returns its vector."""
    env = m.env
    result = vector
    if vector == VECTOR_UD and skip_icebp(m):
        result = VECTOR_DB
    if result == VECTOR_DB:
        env.dr[6] |= m.debug_hits
        env.dr[7] &= ~DR7_GD
    m.stepping = 0  # on a fault the access will be made again
    m.debug_hits = 0
    return result


# --- the registers --------------------------------------------------------------------------------


def check_general_detect(env: Env, back: int) -> None:
    if env.dr[7] & DR7_GD:
        env.dr[6] |= DR6_BD
        lib.raise_exception_err_ra(env, VECTOR_DB, 0, back)


def get_dr(env: Env, number: Int32) -> int:
    """helper_get_dr."""
    check_general_detect(env, here())
    tail(lib.helper_get_dr, env, number)


def set_dr(env: Env, number: Int32, value: int) -> None:
    """helper_set_dr."""
    check_general_detect(env, here())
    if number in (4, 5) and env.cr[4] & 8:
        lib.raise_exception_err_ra(env, VECTOR_UD, 0, here())
    if number >= 4 and value >> 32 and env.hflags & HF_CS64:
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, here())
    tail(lib.helper_set_dr, env, number, value)
