"""SSE floating point by the host's own, which says which exceptions there were: as native/sse.c has it.

Traps: the host's MXCSR must be as C expects it whenever anything else goes on; all exceptions are masked
while we compute, and what the guest does not mask is raised before the result is stored.  Thunks use no XMM
register, so what `execute` leaves in XMM0 is there until the next call of C code.

References: Intel SDM volume 1 sections 10.2.3 and 11.5; volume 2 for each instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..language import UInt32, buffer, execute, here, lib, u32
from ..structures import Env

MXCSR_FLAGS = 0x3F
MXCSR_MASKS = 0x1F80  # also what C expects
MXCSR_ROUNDING = 0x6000
MXCSR_CONTROL = 0xE000 | 1 << 6
FLAGS_BEFORE = 7  # invalid, denormal, division by zero: found before there is a result
CR4_OSXMMEXCPT = 1 << 10
VECTOR_UD, VECTOR_XM = 6, 19

LDMXCSR = bytes.fromhex("0fae10")  # [rax]
STMXCSR = bytes.fromhex("0fae18")
STORE_XMM0 = bytes.fromhex("0f1100")  # movups [rax], xmm0
LOAD_XMM0 = bytes.fromhex("0f1000")  # movups xmm0, [rax]
LOAD_BOTH = LOAD_XMM0 + bytes.fromhex("0f1009")  # ... and movups xmm1, [rcx]
LOAD_HALF_XMM1 = bytes.fromhex("f30f7e09")  # movq xmm1, [rcx]
STORE_HALF_XMM0 = bytes.fromhex("660fd600")  # movq [rax], xmm0
FLAGS_TO_RAX = bytes.fromhex("9c 58 83e045")  # pushfq / pop rax / and eax, ZF PF CF


def begin(guest: int, word: int) -> None:
    u32[word] = (guest & MXCSR_CONTROL) | MXCSR_MASKS
    execute(LDMXCSR, word)


def is_noted(guest: int, word: int) -> int:
    """Loading MXCSR takes the host longer than the arithmetic.  While the guest has the usual control bits,
    and what the host has noted since it was loaded is noted by the guest as well, nothing has to be
    loaded."""
    execute(STMXCSR, word)
    return (guest & (MXCSR_CONTROL | MXCSR_MASKS)) == MXCSR_MASKS and not u32[word] & MXCSR_FLAGS & ~guest


def end(env: Env, guest: int, word: int, back: int) -> None:
    """Takes note of the exceptions that there were; does not return when one is not masked."""
    execute(STMXCSR, word)
    raised = u32[word] & MXCSR_FLAGS
    unmasked = raised & ~(guest >> 7)
    u32[word] = MXCSR_MASKS
    execute(LDMXCSR, word)
    if unmasked and unmasked & FLAGS_BEFORE:
        raised &= FLAGS_BEFORE  # what is found behind is then not looked for
    env.mxcsr = guest | raised
    if unmasked:
        lib.raise_exception_err_ra(env, VECTOR_XM if env.cr[4] & CR4_OSXMMEXCPT else VECTOR_UD, 0, back)


def operation(env: Env, d: int, s: int, *, code: bytes, store: bytes) -> None:
    """`d` gets the result and may be an operand; `s` is a register, memory, or an integer itself."""
    guest = env.mxcsr
    word = buffer(16)
    execute(code, d, s)
    if not is_noted(guest, word):
        begin(guest, word)
        execute(code, d, s)
        end(env, guest, word, here())
    execute(store, d)


def comparison(env: Env, d: int, s: int, *, code: bytes) -> None:
    guest = env.mxcsr
    word = buffer(16)
    flags = execute(code, d, s)
    if not is_noted(guest, word):
        begin(guest, word)
        flags = execute(code, d, s)
        end(env, guest, word, here())
    env.cc_src = flags


def to_integer(env: Env, s: int, *, code: bytes) -> int:
    guest = env.mxcsr
    word = buffer(16)
    result = execute(code, s)
    if not is_noted(guest, word):
        begin(guest, word)
        result = execute(code, s)
        end(env, guest, word, here())
    return result


def rounding(env: Env, d: int, s: int, control: UInt32, *, code: bytes, quiet: bytes) -> None:
    """The rounding is in the instruction, or that of MXCSR: here always the latter."""
    guest = env.mxcsr
    word = buffer(16)
    begin(guest if control & 4 else (guest & ~MXCSR_ROUNDING) | (control & 3) << 13, word)
    if control & 8:
        execute(quiet, d, s)  # inexact results are not noted
    else:
        execute(code, d, s)
    end(env, guest, word, here())
    execute(STORE_XMM0, d)


def dot_product(env: Env, d: int, s: int, control: UInt32, *, code: bytes, count: int) -> None:
    """The control says which products are summed, the others being 0, and which parts get the sum."""
    guest = env.mxcsr
    word = buffer(16)
    a = buffer(16)
    b = buffer(16)
    for i in range(4):
        is_chosen = control >> (4 + (i if count == 4 else i >> 1)) & 1
        u32[a + i * 4] = u32[d + i * 4] if is_chosen else 0
        u32[b + i * 4] = u32[s + i * 4] if is_chosen else 0
    begin(guest, word)
    execute(code, a, b)
    execute(STORE_XMM0, a)
    end(env, guest, word, here())
    for i in range(4):
        u32[d + i * 4] = u32[a + i * 4] if control >> (i if count == 4 else i >> 1) & 1 else 0


def later_features() -> int:
    """ECX of the host's CPUID leaf 1."""
    return execute(CPUID_1_ECX)


# push rbx / mov eax, 1 / cpuid / mov eax, ecx / pop rbx
CPUID_1_ECX = bytes.fromhex("53 b801000000 0fa2 89c8 5b")
HAS_SSE3, HAS_SSE4_1 = 1, 1 << 19

# --- which helper is which instruction ------------------------------------------------------------

Row = tuple[str, Callable[..., Any], dict[str, Any]]

_ARITHMETIC = {"add": 0x58, "mul": 0x59, "sub": 0x5C, "min": 0x5D, "div": 0x5E, "max": 0x5F, "sqrt": 0x51}
_COMPARE = ("eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord")
_PREFIXES = {"ps": b"", "pd": b"\x66", "ss": b"\xf3", "sd": b"\xf2"}
_CONVERSIONS = {
    "cvtps2pd": "0f5a", "cvtpd2ps": "660f5a", "cvtss2sd": "f30f5a", "cvtsd2ss": "f20f5a",
    "cvtdq2ps": "0f5b", "cvtdq2pd": "f30fe6", "cvtps2dq": "660f5b", "cvtpd2dq": "f20fe6",
    "cvttps2dq": "f30f5b", "cvttpd2dq": "660fe6",
    "rcpps": "0f53", "rcpss": "f30f53", "rsqrtps": "0f52", "rsqrtss": "f30f52",
}  # fmt: skip
_SSE3 = {
    "addsubps": "f20fd0", "addsubpd": "660fd0", "haddps": "f20f7c", "haddpd": "660f7c",
    "hsubps": "f20f7d", "hsubpd": "660f7d",
}  # fmt: skip
_COMPARISONS = {"ucomiss": "0f2e", "ucomisd": "660f2e", "comiss": "0f2f", "comisd": "660f2f"}
_FROM_INTEGER = {
    "cvtsi2ss": "f30f2a", "cvtsi2sd": "f20f2a", "cvtsq2ss": "f3480f2a", "cvtsq2sd": "f2480f2a",
}  # fmt: skip
_TO_INTEGER = {
    "cvtss2si": "f30f2d", "cvtsd2si": "f20f2d", "cvttss2si": "f30f2c", "cvttsd2si": "f20f2c",
    "cvtss2sq": "f3480f2d", "cvtsd2sq": "f2480f2d", "cvttss2sq": "f3480f2c", "cvttsd2sq": "f2480f2c",
}  # fmt: skip
_TO_MMX = {  # from XMM, or from MMX: the upper half is not loaded
    "cvtps2pi": (LOAD_HALF_XMM1, "660f5b"), "cvttps2pi": (LOAD_HALF_XMM1, "f30f5b"),
    "cvtpd2pi": (LOAD_BOTH, "f20fe6"), "cvttpd2pi": (LOAD_BOTH, "660fe6"),
    "cvtpi2ps": (LOAD_HALF_XMM1, "0f5b"),
}  # fmt: skip
_DOT_PRODUCTS = {"dpps_xmm": ("660f3a40", 4), "dppd_xmm": ("660f3a41", 2)}
_ROUNDING = {"ps": "660f3a08", "pd": "660f3a09", "ss": "660f3a0a", "sd": "660f3a0b"}
_XMM0_XMM1, _RAX_XMM0 = b"\xc1", b"\xc0"
_ROUND_BY_MXCSR, _QUIETLY = b"\x04", b"\x0c"


def replacements(features: int) -> Iterator[Row]:
    """Helper, thunk and its constants, for a host with these features in CPUID leaf 1."""
    operations = {name: bytes.fromhex(code) + _XMM0_XMM1 for name, code in _CONVERSIONS.items()}
    for suffix, prefix in _PREFIXES.items():
        for name, opcode in _ARITHMETIC.items():
            operations[name + suffix] = prefix + bytes((0x0F, opcode)) + _XMM0_XMM1
        for number, name in enumerate(_COMPARE):
            operations["cmp" + name + suffix] = prefix + b"\x0f\xc2" + _XMM0_XMM1 + bytes((number,))
    if features & HAS_SSE3:
        operations |= {name: bytes.fromhex(code) + _XMM0_XMM1 for name, code in _SSE3.items()}
    for name, instruction in operations.items():
        yield name, operation, {"code": LOAD_BOTH + instruction, "store": STORE_XMM0}
    for name, code in _COMPARISONS.items():
        yield name, comparison, {"code": LOAD_BOTH + bytes.fromhex(code) + _XMM0_XMM1 + FLAGS_TO_RAX}
    for name, code in _FROM_INTEGER.items():
        instruction = LOAD_XMM0 + bytes.fromhex(code) + _XMM0_XMM1
        yield name, operation, {"code": instruction, "store": STORE_XMM0}
    for name, code in _TO_INTEGER.items():
        yield name, to_integer, {"code": LOAD_XMM0 + bytes.fromhex(code) + _RAX_XMM0}
    for name, (load, code) in _TO_MMX.items():
        instruction = load + bytes.fromhex(code) + _XMM0_XMM1
        yield name, operation, {"code": instruction, "store": STORE_HALF_XMM0}
    if features & HAS_SSE4_1:
        for name, (code, count) in _DOT_PRODUCTS.items():
            instruction = LOAD_BOTH + bytes.fromhex(code) + _XMM0_XMM1 + b"\xff"
            yield name, dot_product, {"code": instruction, "count": count}
        for name, code in _ROUNDING.items():
            instruction = LOAD_BOTH + bytes.fromhex(code) + _XMM0_XMM1
            yield (
                f"round{name}_xmm",
                rounding,
                {"code": instruction + _ROUND_BY_MXCSR, "quiet": instruction + _QUIETLY},
            )
