"""The CPU state as plain Python objects, between runs: as native/state.c has it.

Between runs Unicorn keeps all flags in EFLAGS; entering the loop takes the arithmetic ones and DF out of it
again.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

from .language import lib
from .layout import (
    DESC_S,
    ENV_CR,
    ENV_CSTAR,
    ENV_DR,
    ENV_EFER,
    ENV_EFLAGS,
    ENV_EIP,
    ENV_FMASK,
    ENV_FPDP,
    ENV_FPIP,
    ENV_FPOP,
    ENV_FPREGS,
    ENV_FPSTT,
    ENV_FPTAGS,
    ENV_FPUC,
    ENV_FPUS,
    ENV_HFLAGS,
    ENV_HFLAGS2,
    ENV_KERNELGSBASE,
    ENV_LSTAR,
    ENV_MISC_ENABLE,
    ENV_MTRR_DEFTYPE,
    ENV_MTRR_FIXED,
    ENV_MTRR_VAR,
    ENV_MXCSR,
    ENV_PAT,
    ENV_REGS,
    ENV_SEGS,
    ENV_STAR,
    ENV_SYSENTER_CS,
    ENV_SYSENTER_EIP,
    ENV_SYSENTER_ESP,
    ENV_TSC_AUX,
    ENV_UC,
    ENV_V_TPR,
    ENV_X87_ERROR,
    ENV_XMM,
    ERROR_IGNORED,
    ERROR_NONE,
    HF2_NMI,
    HF_INHIBIT_IRQ,
    TSS16,
    TSS32,
    TSS_BUSY,
    TSS_TYPE,
)
from .structures import SEGMENT_SIZE, Env, Machine

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
_ALL_ONES = (1 << 64) - 1
_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_SEGMENT = struct.Struct("<I4xQII")  # selector, base, limit, flags
_FXSAVE = struct.Struct("<HHBxHQQII")  # control, status, tags, opcode, RIP, RDP, MXCSR and its mask


# --- x87 and SSE as FXSAVE writes them ---------------------------------------------------------------
# Images of the CPU's state, not the memory itself: ctypes is slow at single fields.


def _fpu(raw: bytes) -> bytes:
    top = _U32.unpack_from(raw, ENV_FPSTT)[0] & 7
    status = _U16.unpack_from(raw, ENV_FPUS)[0] & ~0x3800 | top << 11
    tags = sum((not raw[ENV_FPTAGS + i]) << i for i in range(8))
    image = bytearray(512)
    _FXSAVE.pack_into(
        image,
        0,
        *(_U16.unpack_from(raw, ENV_FPUC)[0], status, tags, _U16.unpack_from(raw, ENV_FPOP)[0]),
        *(_U64.unpack_from(raw, ENV_FPIP)[0], _U64.unpack_from(raw, ENV_FPDP)[0]),
        *(_U32.unpack_from(raw, ENV_MXCSR)[0], 0xFFFF),
    )
    for i in range(8):
        at = ENV_FPREGS + (top + i) % 8 * 16
        image[32 + i * 16 : 42 + i * 16] = raw[at : at + 10]
    for i in range(16):
        image[160 + i * 16 : 176 + i * 16] = raw[ENV_XMM + i * 64 : ENV_XMM + i * 64 + 16]
    return bytes(image)


def _set_fpu(raw: bytearray, image: bytes) -> None:
    control, status, tags, opcode, ip, dp, mxcsr, _ = _FXSAVE.unpack_from(image)
    top = status >> 11 & 7
    _U32.pack_into(raw, ENV_FPSTT, top)
    _U16.pack_into(raw, ENV_FPUS, status & ~0x3800)
    _U16.pack_into(raw, ENV_FPUC, control)
    for i in range(8):
        raw[ENV_FPTAGS + i] = not tags >> i & 1
        at = ENV_FPREGS + (top + i) % 8 * 16
        raw[at : at + 10] = image[32 + i * 16 : 42 + i * 16]
    for i in range(16):
        raw[ENV_XMM + i * 64 : ENV_XMM + i * 64 + 16] = image[160 + i * 16 : 176 + i * 16]
    _U16.pack_into(raw, ENV_FPOP, opcode)
    _U64.pack_into(raw, ENV_FPIP, ip)
    _U64.pack_into(raw, ENV_FPDP, dp)
    _U32.pack_into(raw, ENV_MXCSR, mxcsr)


# --- out -----------------------------------------------------------------------------------------------


def get(m: Machine) -> dict[str, Any]:
    raw = ctypes.string_at(m.env.address, ENV_UC)
    segments = [_SEGMENT.unpack_from(raw, ENV_SEGS + i * SEGMENT_SIZE) for i in range(10)]
    segments = [(s & 0xFFFF, base, limit, flags & _ATTRIBUTES) for s, base, limit, flags in segments]
    selector, base, limit, attributes = segments[_TR]
    if attributes & TSS_TYPE in (TSS16, TSS32):  # Unicorn has it not busy, and aborts when it is
        segments[_TR] = (selector, base, limit, attributes | TSS_BUSY)
    msr = {number: _U64.unpack_from(raw, offset)[0] for number, offset in _MSRS.items()}
    msr[_SYSENTER_CS] &= 0xFFFF_FFFF
    msr[_MSR_TSC_ADJUST] = m.tsc_offset
    return {
        "gpr": list(struct.unpack_from("<16Q", raw, ENV_REGS)),
        "rip": _U64.unpack_from(raw, ENV_EIP)[0],
        "rflags": _U64.unpack_from(raw, ENV_EFLAGS)[0] | 2,
        "segments": segments[: _TR + 1],
        "gdtr": segments[_GDTR][1:3],
        "idtr": segments[_IDTR][1:3],
        "cr": list(struct.unpack_from("<5Q", raw, ENV_CR)),
        "cr8": raw[ENV_V_TPR],
        "efer": _U64.unpack_from(raw, ENV_EFER)[0],
        "dr": list(struct.unpack_from("<8Q", raw, ENV_DR)),
        "fpu": _fpu(raw),
        "msr": msr,
        "interrupt_shadow": bool(_U32.unpack_from(raw, ENV_HFLAGS)[0] & HF_INHIBIT_IRQ),
        "nmi_blocked": bool(_U32.unpack_from(raw, ENV_HFLAGS2)[0] & HF2_NMI),
        "ignores_fpu_errors": raw[ENV_X87_ERROR] == ERROR_IGNORED,
        "nmi_pending": bool(m.nmi),
        "halted": bool(m.halted),
    }


# --- in ------------------------------------------------------------------------------------------------


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
    raw = bytearray(ctypes.string_at(env.address, ENV_UC))
    struct.pack_into("<16Q", raw, ENV_REGS, *(value & _ALL_ONES for value in state["gpr"]))
    for i, (selector, base, limit, attributes) in enumerate(state["segments"]):
        flags = attributes & _ATTRIBUTES
        if i == _TR and not attributes & DESC_S:
            flags &= ~TSS_BUSY
        _SEGMENT.pack_into(raw, ENV_SEGS + i * SEGMENT_SIZE, selector & 0xFFFF, base, limit, flags)
    for name, i in (("gdtr", _GDTR), ("idtr", _IDTR)):
        struct.pack_into("<QI", raw, ENV_SEGS + i * SEGMENT_SIZE + 8, *state[name])
    for number, value in state["msr"].items():
        if number == _MSR_TSC_ADJUST:
            m.tsc_offset = value
        elif number == _SYSENTER_CS:
            _U32.pack_into(raw, ENV_SYSENTER_CS, value & 0xFFFF_FFFF)
        elif number in _MSRS:
            _U64.pack_into(raw, _MSRS[number], value & _ALL_ONES)
    _U64.pack_into(raw, ENV_EIP, state["rip"] & _ALL_ONES)
    _U64.pack_into(raw, ENV_EFLAGS, state["rflags"] & _ALL_ONES | 2)
    _U64.pack_into(raw, ENV_EFER, state["efer"] & _ALL_ONES)
    raw[ENV_V_TPR] = state["cr8"] & 15
    cr0, _, cr2, cr3, cr4 = state["cr"]
    struct.pack_into("<Q8xQQ", raw, ENV_CR, cr0 | 0x10, cr2 & _ALL_ONES, cr3 & _ALL_ONES)
    _set_fpu(raw, state["fpu"])
    raw[ENV_X87_ERROR] = ERROR_IGNORED if state["ignores_fpu_errors"] else ERROR_NONE
    dr7 = state["dr"][7]
    struct.pack_into("<8Q", raw, ENV_DR, *(value & _ALL_ONES for value in state["dr"][:7]), 0x400)
    ctypes.memmove(env.address, bytes(raw), len(raw))
    lib.update_fp_status(env)
    lib.update_mxcsr_status(env)
    lib.cpu_x86_update_cr4(env, cr4 & 0xFFFF_FFFF)
    update_hflags(env)
    if state["interrupt_shadow"]:
        env.hflags |= HF_INHIBIT_IRQ
    if state["nmi_blocked"]:
        env.hflags2 |= HF2_NMI
    m.nmi = bool(state["nmi_pending"])
    m.halted = bool(state["halted"])
    lib.cpu_x86_update_dr7(env, dr7 & 0xFFFF_FFFF)
    lib.tlb_flush(m.cpu)
    lib.tb_flush(m.cpu)
