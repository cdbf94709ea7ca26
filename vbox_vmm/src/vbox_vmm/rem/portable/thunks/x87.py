"""The x87 by the host's own, which says which exceptions there were: as native/x87.c has it.

Traps: an instruction can be several calls, of which the first looks for pending exceptions and leaves in
`env.met` what the others must know; nothing of the host's may be pending when its next instruction that waits
comes, so all is cleared around each computation (`x87_code`).

References: Intel SDM volume 1 chapter 8; volume 2 for each instruction.
"""

from __future__ import annotations

from ..language import Int32, UInt32, buffer, execute, here, lib, python, u8, u16, u32, u64
from ..layout import ENV_FPREGS, ENV_FPTAGS, ENV_FT0, ERROR_NONE, ERROR_TOLD, FLAG_IF
from ..structures import Env
from .memory import machine_of

IE, FLAGS, SF, ES, TOP = 1, 0x3F, 0x40, 0x8080, 0x3800  # of the status word; ES with B, its copy
C0, C1, C2, C3 = 0x100, 0x200, 0x400, 0x4000
COMPARED, CONDITION = C0 | C2 | C3, C0 | C1 | C2 | C3
FLAGS_BEFORE, FLAGS_BEHIND = 7, 0x38  # found before there is a result, and behind
MASKS, ROUNDING, WRITABLE, ALWAYS_SET, USUAL = 0x3F, 0xC00, 0x1F3F, 0x40, 0x37F  # of the control word
COMPUTING = 0x67  # masked while we compute: all but overflow and underflow
CR0_NE = 1 << 5
VECTOR_MF = 16

# What the first call met: nothing; that the instruction has no more effect; that FT0 should be of an empty
# register; that a load follows in the same instruction, maybe into a register that was not empty, or was not
# pushed.
NONE, STOP, MISSING, PUSHED, FULL, REFUSED = range(6)
# What FT0 is: memory is converted by the operation, since which exceptions count depends on both operands.
NUMBER, SINGLE, DOUBLE = range(3)

ALL_EMPTY = 0x0101_0101_0101_0101  # of the tags, a byte each
INDEFINITE, INDEFINITE_EXPONENT = 3 << 62, 0xFFFF

# Where machine code, with RCX, finds things.
A, B, RESULT, IS_USUAL, NEWS, ABOVE, CONTROL, WORK_SIZE = 0, 16, 32, 44, 46, 48, 60, 64

# --- the stack ------------------------------------------------------------------------------------


def st(env: Env, n: int) -> int:
    return env.address + ENV_FPREGS + ((env.fpstt + n) & 7) * 16


def is_empty(env: Env, n: int) -> int:
    return u8[env.address + ENV_FPTAGS + ((env.fpstt + n) & 7)]


def put(env: Env, n: int, number: int) -> None:
    """Into a register, from an address."""
    to = st(env, n)
    u64[to] = u64[number]
    u16[to + 8] = u16[number + 8]
    u8[env.address + ENV_FPTAGS + ((env.fpstt + n) & 7)] = 0


def put_indefinite(env: Env, n: int) -> None:
    to = st(env, n)
    u64[to] = INDEFINITE
    u16[to + 8] = INDEFINITE_EXPONENT
    u8[env.address + ENV_FPTAGS + ((env.fpstt + n) & 7)] = 0


def drop(env: Env) -> None:
    u8[env.address + ENV_FPTAGS + env.fpstt] = 1
    env.fpstt = (env.fpstt + 1) & 7


def load(env: Env, number: int) -> None:
    if is_empty(env, 7):
        env.fpstt = (env.fpstt - 1) & 7
        put(env, 0, number)
    elif stack_fault(env, 1):
        env.fpstt = (env.fpstt - 1) & 7
        put_indefinite(env, 0)


# --- exceptions -----------------------------------------------------------------------------------


def start(env: Env, back: int) -> None:
    """An instruction that waits begins."""
    env.met = NONE
    if env.x87_error or env.fpus & FLAGS & ~env.fpuc:
        error(env, back)


def error(env: Env, back: int) -> None:
    """An exception is pending, or was told of."""
    m = machine_of(env)
    if not env.fpus & FLAGS & ~env.fpuc:
        env.x87_error = ERROR_NONE
        return
    if env.cr[0] & CR0_NE:
        lib.raise_exception_err_ra(env, VECTOR_MF, 0, back)
    if env.x87_error == ERROR_NONE:
        env.x87_error = ERROR_TOLD
        python.fpu_error(m.number)
        if m.irq and env.eflags & FLAG_IF:
            lib.cpu_loop_exit_restore(m.cpu, back)  # the handler comes before this instruction


def noted(env: Env, raised: int, condition: int) -> int:
    """Takes note of exceptions and condition codes; whether the result counts."""
    unmasked = raised & FLAGS & ~env.fpuc
    if unmasked & FLAGS_BEFORE and not raised & SF:
        raised &= ~(FLAGS_BEHIND | C1)  # not looked for then
    env.fpus = (env.fpus & ~condition) | (raised & (FLAGS | condition)) | (ES if unmasked else 0)
    if unmasked & FLAGS_BEFORE:
        env.met = STOP
        return 0
    return 1


def stack_fault(env: Env, is_overflow: int) -> int:
    """A register that is empty is needed, or one that is not should be; whether to go on with the
    indefinite."""
    return noted(env, IE | SF | (C1 if is_overflow else 0), SF | C1)


def work_from(env: Env, work: int, a: int, b: int) -> None:
    """What machine code works with."""
    u64[work + A] = u64[a]
    u16[work + A + 8] = u16[a + 8]
    u64[work + B] = u64[b]
    u16[work + B + 8] = u16[b + 8]
    u16[work + CONTROL] = env.fpuc | COMPUTING
    u16[work + CONTROL + 2] = USUAL
    u16[work + IS_USUAL] = env.fpuc & (USUAL | ROUNDING) == USUAL
    u16[work + NEWS] = FLAGS & ~env.fpus


# --- moves ----------------------------------------------------------------------------------------


def fpush(env: Env) -> None:
    start(env, here())
    if is_empty(env, 7):
        env.fpus &= ~C1
        env.met = PUSHED
    else:
        env.met = FULL if stack_fault(env, 1) else REFUSED
    if env.met != REFUSED:
        env.fpstt = (env.fpstt - 1) & 7
        u8[env.address + ENV_FPTAGS + env.fpstt] = 0


def fpop(env: Env) -> None:
    if env.met != STOP:
        drop(env)


def fmov_ST0_STN(env: Env, n: Int32) -> None:
    """The rest of FLD of a register; or FCMOV."""
    met = env.met
    if met < PUSHED:
        start(env, here())
        env.fpus &= ~C1
    env.met = NONE
    if met in (FULL, REFUSED):
        if met == FULL:
            put_indefinite(env, 0)
    elif not is_empty(env, n) and (met == PUSHED or not is_empty(env, 0)):
        put(env, 0, st(env, n))
    elif stack_fault(env, 0):
        put_indefinite(env, 0)
    elif met == PUSHED:
        drop(env)


def fmov_FT0_STN(env: Env, n: Int32) -> None:
    start(env, here())
    env.met = MISSING if is_empty(env, n) else NONE
    env.form = NUMBER
    u64[env.address + ENV_FT0] = u64[st(env, n)]
    u16[env.address + ENV_FT0 + 8] = u16[st(env, n) + 8]


def fmov_STN_ST0(env: Env, n: Int32) -> None:
    start(env, here())
    env.fpus &= ~C1
    if not is_empty(env, 0):
        put(env, n, st(env, 0))
    elif stack_fault(env, 0):
        put_indefinite(env, n)


def fxchg_ST0_STN(env: Env, n: Int32) -> None:
    start(env, here())
    env.fpus &= ~C1
    if is_empty(env, 0) or is_empty(env, n):
        if not stack_fault(env, 0):
            return
        if is_empty(env, 0):
            put_indefinite(env, 0)
        if is_empty(env, n):
            put_indefinite(env, n)
    first = buffer(16)
    u64[first] = u64[st(env, 0)]
    u16[first + 8] = u16[st(env, 0) + 8]
    put(env, 0, st(env, n))
    put(env, n, first)


def ffree_STN(env: Env, n: Int32) -> None:
    start(env, here())
    u8[env.address + ENV_FPTAGS + ((env.fpstt + n) & 7)] = 1


# --- arithmetic -----------------------------------------------------------------------------------


def of_ft0(env: Env, *, code: bytes, single: bytes, double: bytes) -> None:
    """ST(0), of ST(0) and FT0."""
    if is_empty(env, 0) or env.met == MISSING:
        if stack_fault(env, 0):
            put_indefinite(env, 0)
        return
    work = buffer(WORK_SIZE)
    work_from(env, work, st(env, 0), env.address + ENV_FT0)
    if env.form == NUMBER:
        raised = execute(code, 0, work)
    elif env.form == SINGLE:
        raised = execute(single, 0, work)
    else:
        raised = execute(double, 0, work)
    if noted(env, raised, C1):
        put(env, 0, work + RESULT)


def of_two(env: Env, to: int, a: int, b: int, *, code: bytes, is_remainder: int) -> None:
    """A register, of two of which ST(0) is one."""
    if is_empty(env, a) or is_empty(env, b):
        if stack_fault(env, 0):
            put_indefinite(env, to)
        return
    work = buffer(WORK_SIZE)
    work_from(env, work, st(env, a), st(env, b))
    raised = execute(code, 0, work)
    condition = C1
    if is_remainder:
        # The quotient is in C0, C3 and C1, and C2 says that there is more to divide, unless there is no
        # number.
        if u16[work + RESULT + 8] & 0x7FFF == 0x7FFF or raised & FLAGS_BEFORE & ~env.fpuc:
            raised &= ~C2
            condition = C1 | C2
        else:
            condition = CONDITION
    if noted(env, raised, condition):
        put(env, to, work + RESULT)


def of_stn(env: Env, n: Int32, *, code: bytes) -> None:
    start(env, here())
    of_two(env, n, n, 0, code=code, is_remainder=0)


def of_st1(env: Env, *, code: bytes, is_remainder: int) -> None:
    start(env, here())
    of_two(env, 0, 0, 1, code=code, is_remainder=is_remainder)


def popping(env: Env, *, code: bytes) -> None:
    """ST(1), of both; ST(0) is popped."""
    start(env, here())
    of_two(env, 1, 0, 1, code=code, is_remainder=0)
    fpop(env)


def of_itself(env: Env, *, code: bytes, condition: int) -> None:
    start(env, here())
    if is_empty(env, 0):
        if stack_fault(env, 0):
            put_indefinite(env, 0)
        return
    work = buffer(WORK_SIZE)
    work_from(env, work, st(env, 0), st(env, 0))
    if noted(env, execute(code, 0, work), condition):
        put(env, 0, work + RESULT)


def pair(env: Env, *, code: bytes, condition: int) -> None:
    """ST(0) of itself, and what is pushed; C2 says that neither came to be."""
    start(env, here())
    if is_empty(env, 0) or not is_empty(env, 7):
        if stack_fault(env, not is_empty(env, 0)):
            put_indefinite(env, 0)
            env.fpstt = (env.fpstt - 1) & 7
            put_indefinite(env, 0)
        return
    work = buffer(WORK_SIZE)
    work_from(env, work, st(env, 0), st(env, 0))
    raised = execute(code, 0, work)
    if noted(env, raised, C1 | condition) and not raised & condition:
        put(env, 0, work + RESULT)
        env.fpstt = (env.fpstt - 1) & 7
        put(env, 0, work + ABOVE)


# --- comparisons ----------------------------------------------------------------------------------


def compare(env: Env, *, code: bytes, single: bytes, double: bytes) -> None:
    """ST(0) and FT0, to C3, C2 and C0."""
    if is_empty(env, 0) or env.met == MISSING:
        env.fpus |= COMPARED
        stack_fault(env, 0)
        return
    work = buffer(WORK_SIZE)
    work_from(env, work, st(env, 0), env.address + ENV_FT0)
    if env.form == NUMBER:
        noted(env, execute(code, 0, work), CONDITION)
    elif env.form == SINGLE:
        noted(env, execute(single, 0, work), CONDITION)
    else:
        noted(env, execute(double, 0, work), CONDITION)


def compare_to_flags(env: Env, *, code: bytes) -> None:
    """To ZF, PF and CF, which are where C3, C2 and C0 are; the other arithmetic flags become 0."""
    before = env.fpus & COMPARED
    compare(env, code=code, single=code, double=code)
    env.cc_src = (env.fpus & COMPARED) >> 8
    env.fpus = (env.fpus & ~COMPARED) | before


def fxam(env: Env, *, code: bytes) -> None:
    start(env, here())
    work = buffer(WORK_SIZE)
    work_from(env, work, st(env, 0), st(env, 0))
    raised = execute(code, 0, work)
    if is_empty(env, 0):
        raised = (raised & C1) | C3 | C0
    env.fpus = (env.fpus & ~CONDITION) | (raised & CONDITION)


# --- constants and memory -------------------------------------------------------------------------


def constant(env: Env, *, code: bytes) -> None:
    work = buffer(WORK_SIZE)
    work_from(env, work, work, work)
    u16[work + CONTROL] = env.fpuc | MASKS
    execute(code, 0, work)
    if env.met == FULL:
        put_indefinite(env, 0)
    elif env.met != REFUSED:
        put(env, 0, work + RESULT)
    env.met = NONE


def fldz_FT0(env: Env) -> None:
    start(env, here())
    env.form = NUMBER
    u64[env.address + ENV_FT0] = 0
    u16[env.address + ENV_FT0 + 8] = 0


def loaded(env: Env, value: int, *, code: bytes) -> None:
    """A denormal is noted and loaded, even where that is not masked."""
    work = buffer(WORK_SIZE)
    work_from(env, work, work, work)
    u64[work] = value
    raised = execute(code, 0, work)
    noted(env, raised, C1)
    if not raised & IE & ~env.fpuc:
        load(env, work + RESULT)


def load_32(env: Env, value: UInt32, *, code: bytes) -> None:
    start(env, here())
    loaded(env, value, code=code)


def load_64(env: Env, value: int, *, code: bytes) -> None:
    start(env, here())
    loaded(env, value, code=code)


def flds_FT0(env: Env, value: UInt32) -> None:
    start(env, here())
    env.form = SINGLE
    u32[env.address + ENV_FT0] = value


def fldl_FT0(env: Env, value: int) -> None:
    start(env, here())
    env.form = DOUBLE
    u64[env.address + ENV_FT0] = value


def fildl_FT0(env: Env, value: UInt32, *, code: bytes) -> None:
    start(env, here())
    work = buffer(WORK_SIZE)
    work_from(env, work, work, work)
    u64[work] = value
    execute(code, 0, work)
    env.form = NUMBER
    u64[env.address + ENV_FT0] = u64[work + RESULT]
    u16[env.address + ENV_FT0 + 8] = u16[work + RESULT + 8]


def converted(env: Env, work: int, rounding: int, *, code: bytes) -> None:
    """An empty register is noted before its conversion, which has nothing to add."""
    work_from(env, work, st(env, 0), st(env, 0))
    u16[work + CONTROL] = env.fpuc | rounding | MASKS
    if rounding:
        u16[work + IS_USUAL] = 0
    if is_empty(env, 0):
        u64[work + A] = INDEFINITE
        u16[work + A + 8] = INDEFINITE_EXPONENT
        stack_fault(env, 0)
        execute(code, 0, work)
    else:
        noted(env, execute(code, 0, work), C1)


def store(env: Env, *, code: bytes, rounding: int) -> int:
    start(env, here())
    work = buffer(WORK_SIZE)
    converted(env, work, rounding, code=code)
    return u64[work + RESULT]


def fldt_ST0(env: Env, at: int) -> None:
    start(env, here())
    number = buffer(16)
    u64[number] = lib.cpu_ldq_data_ra(env, at, here())
    u16[number + 8] = lib.cpu_lduw_data_ra(env, at + 8, here())
    env.fpus &= ~C1
    load(env, number)


def fstt_ST0(env: Env, at: int) -> None:
    start(env, here())
    env.fpus &= ~C1
    if is_empty(env, 0):
        if stack_fault(env, 0):
            lib.cpu_stq_data_ra(env, at, INDEFINITE, here())
            lib.cpu_stw_data_ra(env, at + 8, INDEFINITE_EXPONENT, here())
    else:
        lib.cpu_stq_data_ra(env, at, u64[st(env, 0)], here())
        lib.cpu_stw_data_ra(env, at + 8, u16[st(env, 0) + 8], here())


def fbld_ST0(env: Env, at: int, *, code: bytes) -> None:
    start(env, here())
    work = buffer(WORK_SIZE)
    work_from(env, work, work, work)
    u64[work] = lib.cpu_ldq_data_ra(env, at, here())
    u16[work + 8] = lib.cpu_lduw_data_ra(env, at + 8, here())
    execute(code, 0, work)
    env.fpus &= ~C1
    load(env, work + RESULT)


def fbst_ST0(env: Env, at: int, *, code: bytes) -> None:
    start(env, here())
    work = buffer(WORK_SIZE)
    converted(env, work, 0, code=code)
    if env.met != STOP:
        lib.cpu_stq_data_ra(env, at, u64[work + RESULT], here())
        lib.cpu_stw_data_ra(env, at + 8, u16[work + RESULT + 8], here())


# --- control --------------------------------------------------------------------------------------


def fwait(env: Env) -> None:
    start(env, here())


def fldcw(env: Env, value: UInt32) -> None:
    start(env, here())
    env.fpuc = (value & WRITABLE) | ALWAYS_SET
    lib.update_fp_status(env)
    env.fpus = (env.fpus & ~ES) | (ES if env.fpus & FLAGS & ~env.fpuc else 0)


def enter_mmx(env: Env) -> None:
    """In front of every MMX instruction but EMMS."""
    start(env, here())
    env.fpstt = 0
    u64[env.address + ENV_FPTAGS] = 0


def emms(env: Env) -> None:
    start(env, here())
    u64[env.address + ENV_FPTAGS] = ALL_EMPTY


def tag_of(env: Env, n: int) -> int:
    if u8[env.address + ENV_FPTAGS + n]:
        return 3
    fraction = u64[env.address + ENV_FPREGS + n * 16]
    exponent = u16[env.address + ENV_FPREGS + 8 + n * 16] & 0x7FFF
    if not exponent and not fraction:
        return 1
    return 2 if exponent in (0, 0x7FFF) or not fraction >> 63 else 0


def fstenv(env: Env, at: int, is_wide: UInt32) -> None:
    """Unicorn forgets that all exceptions are masked behind it."""
    words = buffer(32)
    for n in range(7):
        u32[words + n * 4] = 0
    u32[words] = env.fpuc
    u32[words + 4] = (env.fpus & ~TOP) | env.fpstt << 11
    for n in range(8):
        u32[words + 8] = u32[words + 8] | tag_of(env, n) << (n * 2)
    for n in range(7):
        if is_wide:
            value = u32[words + n * 4] | (0xFFFF_0000 if n < 3 else 0)
            lib.cpu_stl_data_ra(env, at + n * 4, value, here())
        else:
            lib.cpu_stw_data_ra(env, at + n * 2, u32[words + n * 4], here())
    env.fpuc |= MASKS
    env.fpus &= ~ES
