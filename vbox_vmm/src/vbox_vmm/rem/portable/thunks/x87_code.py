"""The instructions of the host's x87 that thunks execute, and which helper is which of them.

RCX points to what `x87.work_from` lays out; the status word comes back in RAX.  Clearing exceptions and
loading the control word take the host longer than the arithmetic: with the usual control word it computes
without, and once more with both when the status word has news.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .x87 import (
    C1,
    C2,
    ROUNDING,
    B,
    compare,
    compare_to_flags,
    constant,
    emms,
    enter_mmx,
    fbld_ST0,
    fbst_ST0,
    ffree_STN,
    fildl_FT0,
    fldcw,
    fldl_FT0,
    flds_FT0,
    fldt_ST0,
    fldz_FT0,
    fmov_FT0_STN,
    fmov_ST0_STN,
    fmov_STN_ST0,
    fpop,
    fpush,
    fstenv,
    fstt_ST0,
    fwait,
    fxam,
    fxchg_ST0_STN,
    load_32,
    load_64,
    of_ft0,
    of_itself,
    of_st1,
    of_stn,
    pair,
    popping,
    store,
)

# fnclex / fldcw [rcx + CONTROL], and back: fldcw [rcx + CONTROL + 2]
_BEFORE, _BEHIND = bytes.fromhex("dbe2 d9693c"), bytes.fromhex("d9693e")
_IS_USUAL = bytes.fromhex("6683792c00 74")  # cmp word [rcx + IS_USUAL], 0 / je
_HAS_NO_NEWS = bytes.fromhex("6685412e 74")  # test [rcx + NEWS], ax / jz
_STATUS_TO_RAX = bytes.fromhex("0fb7c0")  # movzx eax, ax
_LOAD_A, _LOAD_B = bytes.fromhex("db29"), bytes.fromhex("db6910")
_FNSTSW = bytes.fromhex("dfe0")
_STATUS = bytes.fromhex("dfe0 dbe2")  # fnstsw ax / fnclex
_RESULT, _ABOVE, _DROP = bytes.fromhex("db7920"), bytes.fromhex("db7930"), bytes.fromhex("ddd8")
_UNLESS_C2 = bytes.fromhex("66a90004 7503")  # test ax, C2 / jnz over the next three bytes


def _code(*parts: bytes) -> bytes:
    careful = b"".join((_BEFORE, *parts, _BEHIND))
    quick = b"".join(_FNSTSW if part is _STATUS else part for part in parts)
    quick += _HAS_NO_NEWS + bytes((len(careful),))
    return _IS_USUAL + bytes((len(quick),)) + quick + careful + _STATUS_TO_RAX


def _binary(operation: str, behind: bytes = _DROP) -> bytes:
    return _code(_LOAD_B, _LOAD_A, bytes.fromhex(operation), _STATUS, _RESULT, behind)


def _unary(operation: str) -> bytes:
    return _code(_LOAD_A, bytes.fromhex(operation), _STATUS, _RESULT)


def _from(operation: str) -> bytes:
    return _code(bytes.fromhex(operation), _STATUS, _RESULT)


def _to(operation: str) -> bytes:
    return _code(_LOAD_A, bytes.fromhex(operation), _STATUS)


def _with_memory(opcode: int, extension: int, behind: bytes) -> bytes:
    return _code(_LOAD_A, bytes((opcode, 0x41 | extension << 3, B)), _STATUS, behind)


def _forms(operation: str, extension: int, behind: bytes) -> dict[str, bytes]:
    """Of an operand that is a register, a single, and a double."""
    return {
        "code": _code(_LOAD_B, _LOAD_A, bytes.fromhex(operation), _STATUS, behind, _DROP),
        "single": _with_memory(0xD8, extension, behind),
        "double": _with_memory(0xDC, extension, behind),
    }


_ARITHMETIC = {
    "add": ("d8c1", 0), "mul": ("d8c9", 1), "sub": ("d8e1", 4), "subr": ("d8e9", 5), "div": ("d8f1", 6),
    "divr": ("d8f9", 7),
}  # fmt: skip
_OF_ST1 = {"fscale": ("d9fd", 0), "fprem": ("d9f8", 1), "fprem1": ("d9f5", 1)}
_POPPING = {"fyl2x": "d9f1", "fyl2xp1": "d9f9", "fpatan": "d9f3"}
_OF_ITSELF = {
    "f2xm1": ("d9f0", C1), "fsqrt": ("d9fa", C1), "frndint": ("d9fc", C1), "fchs_ST0": ("d9e0", C1),
    "fabs_ST0": ("d9e1", C1), "fsin": ("d9fe", C1 | C2), "fcos": ("d9ff", C1 | C2),
}  # fmt: skip
_CONSTANTS = ("fld1", "fldl2t", "fldl2e", "fldpi", "fldlg2", "fldln2", "fldz")  # d9e8 and on
_LOADS: dict[str, tuple[Callable[..., Any], str]] = {
    "flds": (load_32, "d901"),
    "fldl": (load_64, "dd01"),
    "fildl": (load_32, "db01"),
    "fildll": (load_64, "df29"),
}
_STORES = {
    "fsts": ("d95920", 0), "fstl": ("dd5920", 0), "fist": ("df5920", 0), "fistl": ("db5920", 0),
    "fistll": ("df7920", 0), "fistt": ("df5920", ROUNDING), "fisttl": ("db5920", ROUNDING),
    "fisttll": ("df7920", ROUNDING),
}  # fmt: skip
_PLAIN = (
    fpush, fpop, fmov_ST0_STN, fmov_FT0_STN, fmov_STN_ST0, fxchg_ST0_STN, ffree_STN, fldz_FT0, flds_FT0,
    fldl_FT0, fldt_ST0, fstt_ST0, fwait, fldcw, fstenv, enter_mmx, emms,
)  # fmt: skip

Row = tuple[str, Callable[..., Any], dict[str, Any]]


def replacements() -> Iterator[Row]:
    """Helper, thunk and its constants."""
    for thunk in _PLAIN:
        yield thunk.__name__, thunk, {}
    for name, (operation, extension) in _ARITHMETIC.items():
        forms = _forms(operation, extension, _RESULT)
        yield f"f{name}_ST0_FT0", of_ft0, forms
        yield f"f{name}_STN_ST0", of_stn, {"code": forms["code"]}
    for name, (operation, is_remainder) in _OF_ST1.items():
        yield name, of_st1, {"code": _binary(operation), "is_remainder": is_remainder}
    for name, operation in _POPPING.items():
        yield name, popping, {"code": _binary(operation, b"")}
    for name, (operation, condition) in _OF_ITSELF.items():
        yield name, of_itself, {"code": _unary(operation), "condition": condition}
    for name, operation, either, condition in (
        ("fptan", "d9f2", _UNLESS_C2, C2), ("fsincos", "d9fb", _UNLESS_C2, C2), ("fxtract", "d9f4", b"", 0),
    ):  # fmt: skip
        code = _code(_LOAD_A, bytes.fromhex(operation), _STATUS, either, _ABOVE, _RESULT)
        yield name, pair, {"code": code, "condition": condition}
    ordered, quiet = _forms("d8d1", 2, _DROP), _forms("dde1", 2, _DROP)
    yield "fcom_ST0_FT0", compare, ordered
    yield "fucom_ST0_FT0", compare, quiet | {"single": quiet["code"], "double": quiet["code"]}
    yield "fcomi_ST0_FT0", compare_to_flags, {"code": ordered["code"]}
    yield "fucomi_ST0_FT0", compare_to_flags, {"code": quiet["code"]}
    yield "fxam_ST0", fxam, {"code": _unary("d9e5")}
    for number, name in enumerate(_CONSTANTS):
        yield f"{name}_ST0", constant, {"code": _from(f"d9{0xE8 + number:x}")}
    for name, (thunk, operation) in _LOADS.items():
        yield f"{name}_ST0", thunk, {"code": _from(operation)}
    yield "fildl_FT0", fildl_FT0, {"code": _from("db01")}
    for name, (operation, rounding) in _STORES.items():
        yield f"{name}_ST0", store, {"code": _to(operation), "rounding": rounding}
    yield "fbld_ST0", fbld_ST0, {"code": _from("df21")}
    yield "fbst_ST0", fbst_ST0, {"code": _to("df7120")}
