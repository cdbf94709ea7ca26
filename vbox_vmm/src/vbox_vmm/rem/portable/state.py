"""The CPU state as plain Python objects, between runs: as native/state.c has it.

Between runs Unicorn keeps all flags in EFLAGS; entering the loop takes the arithmetic ones and DF out of it
again.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

from .language import lib, u8, u16, u64
from .layout import (
    DESC_S,
    ENV_CSTAR,
    ENV_FMASK,
    ENV_FPDP,
    ENV_FPIP,
    ENV_FPOP,
    ENV_FPREGS,
    ENV_FPTAGS,
    ENV_FPUC,
    ENV_FPUS,
    ENV_KERNELGSBASE,
    ENV_LSTAR,
    ENV_MISC_ENABLE,
    ENV_MTRR_DEFTYPE,
    ENV_MTRR_FIXED,
    ENV_MTRR_VAR,
    ENV_PAT,
    ENV_SEGS,
    ENV_STAR,
    ENV_SYSENTER_CS,
    ENV_SYSENTER_EIP,
    ENV_SYSENTER_ESP,
    ENV_TSC_AUX,
    ENV_XMM,
    HF2_NMI,
    HF_INHIBIT_IRQ,
    TSS16,
    TSS32,
    TSS_BUSY,
    TSS_TYPE,
)
from .structures import SEGMENT_SIZE, Env, Machine, Segment

_ATTRIBUTES = 0x00F0FF00
_TR, _GDTR, _IDTR = 7, 8, 9  # behind ES, CS, SS, DS, FS, GS and LDTR
_MSR_TSC_ADJUST = 0x3B
_FIXED_MTRRS = (0x250, 0x258, 0x259, *range(0x268, 0x270))
_SYSENTER_CS = 0x174  # the only one of 32 bits
_MSRS = {
    0x174: ENV_SYSENTER_CS,
    0x175: ENV_SYSENTER_ESP,
    0x176: ENV_SYSENTER_EIP,
    0x1A0: ENV_MISC_ENABLE,
    0x277: ENV_PAT,
    0x2FF: ENV_MTRR_DEFTYPE,
    0xC0000081: ENV_STAR,
    0xC0000082: ENV_LSTAR,
    0xC0000083: ENV_CSTAR,
    0xC0000084: ENV_FMASK,
    0xC0000102: ENV_KERNELGSBASE,
    0xC0000103: ENV_TSC_AUX,
    **{number: ENV_MTRR_FIXED + 8 * i for i, number in enumerate(_FIXED_MTRRS)},
    **{0x200 + i: ENV_MTRR_VAR + 8 * i for i in range(16)},
}
_U64 = (1 << 64) - 1


def _segment(env: Env, which: int) -> Segment:
    return Segment(env.address + ENV_SEGS + which * SEGMENT_SIZE)


# --- x87 and SSE as FXSAVE writes them ------------------------------------------------------------


def _fpu(env: Env) -> bytes:
    at = env.address
    top = env.fpstt & 7
    status = u16[at + ENV_FPUS] & ~0x3800 | top << 11
    tags = sum((not u8[at + ENV_FPTAGS + i]) << i for i in range(8))
    image = bytearray(512)
    struct.pack_into("<HHBxH", image, 0, u16[at + ENV_FPUC], status, tags, u16[at + ENV_FPOP])
    struct.pack_into("<QQII", image, 8, u64[at + ENV_FPIP], u64[at + ENV_FPDP], env.mxcsr, 0xFFFF)
    for i in range(8):
        image[32 + i * 16 : 42 + i * 16] = ctypes.string_at(at + ENV_FPREGS + (top + i) % 8 * 16, 10)
    for i in range(16):
        image[160 + i * 16 : 176 + i * 16] = ctypes.string_at(at + ENV_XMM + i * 64, 16)
    return bytes(image)


def _set_fpu(env: Env, image: bytes) -> None:
    at = env.address
    control, status, tags, opcode = struct.unpack_from("<HHBxH", image)
    ip, dp, mxcsr = struct.unpack_from("<QQI", image, 8)
    top = status >> 11 & 7
    env.fpstt = top
    u16[at + ENV_FPUS] = status & ~0x3800
    u16[at + ENV_FPUC] = control
    for i in range(8):
        u8[at + ENV_FPTAGS + i] = not tags >> i & 1
        ctypes.memmove(at + ENV_FPREGS + (top + i) % 8 * 16, image[32 + i * 16 : 42 + i * 16], 10)
    for i in range(16):
        ctypes.memmove(at + ENV_XMM + i * 64, image[160 + i * 16 : 176 + i * 16], 16)
    u16[at + ENV_FPOP] = opcode
    u64[at + ENV_FPIP] = ip
    u64[at + ENV_FPDP] = dp
    env.mxcsr = mxcsr
    lib.update_fp_status(env)
    lib.update_mxcsr_status(env)


# --- out ------------------------------------------------------------------------------------------


def get(m: Machine) -> dict[str, Any]:
    env = m.env
    segments = []
    for i in range(8):
        s = _segment(env, i)
        attributes = s.flags & _ATTRIBUTES
        if i == _TR and attributes & TSS_TYPE in (TSS16, TSS32):
            attributes |= TSS_BUSY  # Unicorn has it clear, and aborts when it is not
        segments.append((s.selector & 0xFFFF, s.base, s.limit, attributes))
    msr = {number: u64[env.address + offset] for number, offset in _MSRS.items()}
    msr[_SYSENTER_CS] = env.sysenter_cs
    msr[_MSR_TSC_ADJUST] = m.tsc_offset
    return {
        "gpr": [env.regs[i] for i in range(16)],
        "rip": env.eip,
        "rflags": env.eflags | 2,
        "segments": segments,
        "gdtr": (_segment(env, _GDTR).base, _segment(env, _GDTR).limit),
        "idtr": (_segment(env, _IDTR).base, _segment(env, _IDTR).limit),
        "cr": [env.cr[i] for i in range(5)],
        "cr8": env.tpr,
        "efer": env.efer,
        "dr": [env.dr[i] for i in range(8)],
        "fpu": _fpu(env),
        "msr": msr,
        "interrupt_shadow": bool(env.hflags & HF_INHIBIT_IRQ),
        "nmi_blocked": bool(env.hflags2 & HF2_NMI),
        "nmi_pending": bool(m.nmi),
        "halted": bool(m.halted),
    }


# --- in -------------------------------------------------------------------------------------------


def check(state: dict[str, Any]) -> None:
    """ValueError when something has not the size that it must have."""
    if not isinstance(state["fpu"], bytes) or len(state["fpu"]) != 512:
        raise ValueError("fpu must be the 512 bytes of FXSAVE")
    for name, count in (("cr", 5), ("dr", 8), ("gpr", 16)):
        if not isinstance(state[name], list) or len(state[name]) != count:
            raise ValueError(f"{name} must be a list of {count}")
    if not isinstance(state["msr"], dict):
        raise TypeError("msr must be a dict")


def put(m: Machine, state: dict[str, Any], update_hflags: Callable[[Env], object]) -> None:
    """Into a CPU that has just been reset."""
    env = m.env
    for i, value in enumerate(state["gpr"]):
        env.regs[i] = value & _U64
    for i, (selector, base, limit, attributes) in enumerate(state["segments"]):
        s = _segment(env, i)
        s.selector = selector & 0xFFFF
        s.base = base
        s.limit = limit
        s.flags = attributes & _ATTRIBUTES
        if i == _TR and not attributes & DESC_S:
            s.flags &= ~TSS_BUSY
    for name, i in (("gdtr", _GDTR), ("idtr", _IDTR)):
        _segment(env, i).base, _segment(env, i).limit = state[name]
    for number, value in state["msr"].items():
        if number == _MSR_TSC_ADJUST:
            m.tsc_offset = value
        elif number == _SYSENTER_CS:
            env.sysenter_cs = value
        elif number in _MSRS:
            u64[env.address + _MSRS[number]] = value
    env.eip = state["rip"]
    env.eflags = state["rflags"] | 2
    env.efer = state["efer"]
    env.tpr = state["cr8"] & 15
    cr0, _, cr2, cr3, cr4 = state["cr"]
    env.cr[2] = cr2
    env.cr[3] = cr3
    env.cr[0] = cr0 | 0x10
    lib.cpu_x86_update_cr4(env, cr4 & 0xFFFF_FFFF)
    update_hflags(env)
    if state["interrupt_shadow"]:
        env.hflags |= HF_INHIBIT_IRQ
    if state["nmi_blocked"]:
        env.hflags2 |= HF2_NMI
    m.nmi = bool(state["nmi_pending"])
    m.halted = bool(state["halted"])
    _set_fpu(env, state["fpu"])
    for i, value in enumerate(state["dr"]):
        env.dr[i] = value & _U64
    env.dr[7] = 0x400
    lib.cpu_x86_update_dr7(env, state["dr"][7] & 0xFFFF_FFFF)
    lib.tlb_flush(m.cpu)
    lib.tb_flush(m.cpu)
