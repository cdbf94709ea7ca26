"""Instructions that Unicorn leaves to its user or does not do as the CPU does: as native/helpers.c has them.

Translated code calls these in place of Unicorn's helpers.  `here()` is then where in the block a fault is to
be; what goes on in Unicorn's own function does so by `tail`, so that this finds the same place.

References: Intel SDM volume 2 (SYSENTER, RDTSC), volume 1 section 19.5 (I/O permission bit map); AMD APM
volume 3 (SYSCALL).
"""

from __future__ import annotations

from ..language import Int32, UInt32, buffer, call, here, lib, tail, u8, u16, u32, u64
from ..layout import (
    CC_OP_EFLAGS,
    CR0_CD,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    DESC_A,
    DESC_B,
    DESC_CODE,
    DESC_G,
    DESC_L,
    DESC_P,
    DESC_RW,
    DESC_S,
    EFER_FFXSR,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    ENV_SEGS,
    FEATURES_1_ECX,
    FEATURES_1_EDX,
    FEATURES_7_EBX,
    FEATURES_7_ECX,
    FEATURES_8000_0001_EDX,
    FLAG_DF,
    FLAG_IF,
    FLAG_NT,
    FLAG_RF,
    FLAG_VM,
    FLAG_VM_BYTE,
    FLAGS_ARITHMETIC,
    HF_CPL,
    HF_CS64,
    HF_LMA,
    PHYSICAL_END,
    R_AX,
    R_BX,
    R_CX,
    R_DX,
    R_SP,
    SEG_CS,
    SEG_SS,
    VECTOR_GP,
    VECTOR_UD,
)
from ..structures import CPUID_ROW_SIZE, SEGMENT_SIZE, CpuidRow, Env, Segment
from .memory import data_mode, machine_of, update_hflags
from .running import tsc_read

U32_MAX = 0xFFFF_FFFF


def segment(env: Env, which: int) -> Segment:
    return Segment(env.address + which * SEGMENT_SIZE + ENV_SEGS)


# --- flags: Unicorn keeps the arithmetic ones and DF apart while guest code runs ------------------


def flags_now(env: Env) -> int:
    arithmetic = u32(lib.helper_cc_compute_all(env.cc_dst, env.cc_src, env.cc_src2, env.cc_op))
    return u32(env.eflags) | arithmetic | (u32(env.df) & FLAG_DF)


def flags_load(env: Env, flags: int) -> None:
    env.cc_src = flags & FLAGS_ARITHMETIC
    env.cc_op = CC_OP_EFLAGS
    env.df = -1 if flags & FLAG_DF else 1
    env.eflags = (flags & ~(FLAGS_ARITHMETIC | FLAG_DF)) | 2


# --- system calls ---------------------------------------------------------------------------------


def flat_segment(env: Env, which: int, selector: int, flags: int) -> None:
    s = segment(env, which)
    s.selector = selector
    s.base = 0
    s.limit = U32_MAX
    s.flags = DESC_G | DESC_P | DESC_S | DESC_RW | DESC_A | flags


def syscall(env: Env, length: Int32) -> None:
    selector = env.star >> 32 & 0xFFFC
    if not env.efer & 1:
        lib.raise_exception_err_ra(env, VECTOR_UD, 0, here())
    if env.hflags & HF_LMA:
        target = env.lstar if env.hflags & HF_CS64 else env.cstar
        flags = flags_now(env)
        env.regs[R_CX] = env.eip + length
        env.regs[11] = flags & ~FLAG_RF
        flags_load(env, flags & ~(u32(env.fmask) | FLAG_RF))
        flat_segment(env, SEG_CS, selector, DESC_CODE | DESC_L)
        flat_segment(env, SEG_SS, (selector + 8) & 0xFFFC, DESC_B)
        env.eip = target
    else:
        env.regs[R_CX] = u32(env.eip + length)
        env.eflags &= ~(FLAG_IF | FLAG_RF | FLAG_VM)
        flat_segment(env, SEG_CS, selector, DESC_CODE | DESC_B)
        flat_segment(env, SEG_SS, (selector + 8) & 0xFFFC, DESC_B)
        env.eip = u32(env.star)
    update_hflags(env)


AMD = 0x68747541  # "Auth"


def sysenter(env: Env, length: Int32) -> None:
    selector = env.sysenter_cs & 0xFFFC
    is_long = env.hflags & HF_LMA
    if is_long and env.vendor == AMD:
        lib.raise_exception_err_ra(env, VECTOR_UD, 0, here())  # AMD: not in long mode
    if not selector:
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, here())
    env.eflags &= ~(FLAG_VM | FLAG_IF | FLAG_RF)
    flat_segment(env, SEG_CS, selector, DESC_CODE | (DESC_L if is_long else DESC_B))
    flat_segment(env, SEG_SS, (selector + 8) & 0xFFFC, DESC_B)
    env.regs[R_SP] = env.sysenter_esp if is_long else u32(env.sysenter_esp)
    env.eip = env.sysenter_eip if is_long else u32(env.sysenter_eip)
    update_hflags(env)


# --- INT n: remember where it stands --------------------------------------------------------------


def raise_interrupt(env: Env, vector: int, length: int) -> None:
    machine_of(env).interrupt_eip = env.eip
    tail(lib.helper_raise_interrupt, env, vector, length)


def into(env: Env, length: int) -> None:
    machine_of(env).interrupt_eip = env.eip
    tail(lib.helper_into, env, length)


# --- control registers: Unicorn takes any value ---------------------------------------------------


def has_feature(env: Env, word: int, bit: int) -> int:
    return env.features[word] >> bit & 1


def cr0_is_valid(env: Env, value: int) -> int:
    opens_paging = value & CR0_PG and not env.cr[0] & CR0_PG
    if value >> 32 or (value & CR0_PG and not value & CR0_PE) or (value & CR0_NW and not value & CR0_CD):
        return 0
    if env.hflags & HF_CS64 and not value & CR0_PG:
        return 0
    return not (opens_paging and env.efer & EFER_LME) or env.cr[4] & CR4_PAE


def bit_with(env: Env, bit: int, word: int, feature: int) -> int:
    return has_feature(env, word, feature) << bit


def cr4_is_valid(env: Env, value: int) -> int:
    allowed = 1 << 8  # PCE
    allowed |= bit_with(env, 0, FEATURES_1_EDX, 1) | bit_with(env, 1, FEATURES_1_EDX, 1)
    allowed |= bit_with(env, 2, FEATURES_1_EDX, 4) | bit_with(env, 3, FEATURES_1_EDX, 2)
    allowed |= bit_with(env, 4, FEATURES_1_EDX, 3) | bit_with(env, 5, FEATURES_1_EDX, 6)
    allowed |= bit_with(env, 6, FEATURES_1_EDX, 7) | bit_with(env, 7, FEATURES_1_EDX, 13)
    allowed |= bit_with(env, 9, FEATURES_1_EDX, 24) | bit_with(env, 10, FEATURES_1_EDX, 25)
    allowed |= bit_with(env, 11, FEATURES_7_ECX, 2) | bit_with(env, 16, FEATURES_7_EBX, 0)
    allowed |= bit_with(env, 18, FEATURES_1_ECX, 26) | bit_with(env, 20, FEATURES_7_EBX, 7)
    allowed |= bit_with(env, 21, FEATURES_7_EBX, 20) | bit_with(env, 22, FEATURES_7_ECX, 3)
    return not value & ~allowed and (value & CR4_PAE or not env.hflags & HF_LMA)


def write_crN(env: Env, number: Int32, wide: int) -> None:
    valid = 1
    value = wide if env.hflags & HF_CS64 else u32(wide)
    if number == 0:
        valid = cr0_is_valid(env, value)
    elif number == 3:
        valid = not env.hflags & HF_LMA or value < PHYSICAL_END
    elif number == 4:
        valid = cr4_is_valid(env, value)
    elif number == 8:
        valid = value < 16
    if not valid:
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, here())
    tail(lib.helper_write_crN, env, number, value)


def read_crN(env: Env, number: Int32) -> int:
    if number == 8:
        return env.tpr & 15
    tail(lib.helper_read_crN, env, number)


def ldmxcsr(env: Env, value: UInt32) -> None:
    if value >> 16:
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, here())
    tail(lib.helper_ldmxcsr, env, value)


VM_IN_BYTE = FLAG_VM >> (FLAG_VM_BYTE * 8)


def iret_protected(env: Env, shift: Int32, following: int) -> None:
    """Unicorn lets IRET enter virtual-8086 mode from any ring, with any IOPL.  For an outer ring the bit does
    not count: take it out of what is about to be popped."""
    if shift == 1 and env.hflags & HF_CPL and not env.eflags & FLAG_NT:
        address = env.regs[R_SP] + 8 + FLAG_VM_BYTE
        if not env.hflags & HF_CS64:
            stack = segment(env, SEG_SS)
            address = u32(stack.base + (u32(address) if stack.flags & DESC_B else u16(address)))
        byte = u8(lib.cpu_ldub_mmuidx_ra(env, address, data_mode(env), here()))
        if byte & VM_IN_BYTE:
            lib.cpu_stb_mmuidx_ra(env, address, byte & ~VM_IN_BYTE, data_mode(env), here())
    tail(lib.helper_iret_protected, env, shift, following)


def ltr(env: Env, selector: UInt32) -> None:
    if not selector & 0xFFFC:
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, here())
    tail(lib.helper_ltr, env, selector)


# --- PCMPESTRI and PCMPESTRM: Unicorn reads far beyond the operands when a length has no absolute value

SIGN = 1 << 63


def horizontal(env: Env, d: int, s: int, *, original: int) -> None:
    """Sums: Unicorn writes the destination while it reads a source that may be the same."""
    copy = buffer(16)
    u64[copy] = u64[s]
    u64[copy + 8] = u64[s + 8]
    call(original, env, d, copy)


# --- time-stamp counter, MSRs, CPUID --------------------------------------------------------------

MSR_TSC, MSR_TSC_ADJUST = 0x10, 0x3B


def set_edx_eax(env: Env, value: int) -> None:
    env.regs[R_AX] = u32(value)
    env.regs[R_DX] = value >> 32


def check_tsd(env: Env, back: int) -> None:
    if env.cr[4] & 4 and env.hflags & HF_CPL:
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, back)


def guest_tsc(env: Env) -> int:
    m = machine_of(env)
    return tsc_read(m) + m.tsc_offset


def rdtsc(env: Env) -> None:
    check_tsd(env, here())
    set_edx_eax(env, guest_tsc(env))


def rdtscp(env: Env) -> None:
    check_tsd(env, here())
    set_edx_eax(env, guest_tsc(env))
    env.regs[R_CX] = u32(env.tsc_aux)


def rdmsr(env: Env) -> None:
    number = u32(env.regs[R_CX])
    if number == MSR_TSC:
        set_edx_eax(env, guest_tsc(env))
    elif number == MSR_TSC_ADJUST:
        set_edx_eax(env, machine_of(env).tsc_offset)
    else:
        tail(lib.helper_rdmsr, env)


def is_canonical(address: int) -> int:
    high = address >> 47
    return high in (0, 0x1FFFF)


def efer_is_valid(env: Env, value: int) -> int:
    allowed = EFER_LMA  # taken and ignored
    allowed |= EFER_SCE if has_feature(env, FEATURES_8000_0001_EDX, 11) else 0
    allowed |= EFER_LME if has_feature(env, FEATURES_8000_0001_EDX, 29) else 0
    allowed |= EFER_NXE if has_feature(env, FEATURES_8000_0001_EDX, 20) else 0
    allowed |= EFER_FFXSR if has_feature(env, FEATURES_8000_0001_EDX, 25) else 0
    return not value & ~allowed and (not env.cr[0] & CR0_PG or not (value ^ env.efer) & EFER_LME)


def pat_is_valid(value: int) -> int:
    for i in range(8):
        kind = value >> (i * 8) & 0xFF
        if kind > 7 or kind in (2, 3):
            return 0
    return 1


SYSENTER_ESP, SYSENTER_EIP, PAT, EFER = 0x175, 0x176, 0x277, 0xC000_0080
LSTAR, CSTAR, FS_BASE, KERNEL_GS_BASE = 0xC000_0082, 0xC000_0083, 0xC000_0100, 0xC000_0102


def msr_is_valid(env: Env, number: int, value: int) -> int:
    is_address = (
        (number >= SYSENTER_ESP and number <= SYSENTER_EIP)
        or (number >= LSTAR and number <= CSTAR)
        or (number >= FS_BASE and number <= KERNEL_GS_BASE)
    )
    if is_address:
        return is_canonical(value)
    if number == PAT:
        return pat_is_valid(value)
    return number != EFER or efer_is_valid(env, value)


def wrmsr(env: Env) -> None:
    m = machine_of(env)
    number = u32(env.regs[R_CX])
    value = u32(env.regs[R_AX]) | env.regs[R_DX] << 32
    if not msr_is_valid(env, number, value):
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, here())
    if number == MSR_TSC:
        m.tsc_offset = value - tsc_read(m)
    elif number == MSR_TSC_ADJUST:
        m.tsc_offset = value
    else:
        tail(lib.helper_wrmsr, env)


def rdpmc(env: Env) -> None:
    """There are no counters."""
    lib.raise_exception_err_ra(env, VECTOR_GP, 0, here())


def cpuid(env: Env) -> None:
    m = machine_of(env)
    leaf = u32(env.regs[R_AX])
    subleaf = u32(env.regs[R_CX])
    for i in range(m.cpuid_count):
        r = CpuidRow(m.cpuid + i * CPUID_ROW_SIZE)
        if r.leaf == leaf and (r.subleaf == U32_MAX or r.subleaf == subleaf):
            env.regs[R_AX] = r.value[0]
            env.regs[R_BX] = r.value[1]
            env.regs[R_CX] = r.value[2]
            env.regs[R_DX] = r.value[3]
            return
    env.regs[R_AX] = 0
    env.regs[R_BX] = 0
    env.regs[R_CX] = 0
    env.regs[R_DX] = 0
