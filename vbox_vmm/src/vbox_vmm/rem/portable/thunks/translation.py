"""What Unicorn's translator emits at a block's start and for calls of helpers: as native/library.c has it.

At each block start Unicorn emits a call that asks whether to stop; here it is a load and a branch to the exit
that every block has at its end.  Calls of helpers that are replaced go to the replacement.
"""

from __future__ import annotations

from ..language import Int32, UInt32, address_of, buffer, lib, tail, u8, u32, u64
from ..layout import (
    CONDITION_NE,
    ENV_MP_STATE,
    EXIT_REQUESTED,
    FLAG_VM,
    HF_CPL,
    HF_CS32,
    HF_CS64,
    OP_ARGS,
    OP_LINK,
    OP_MAX_ARGS,
    OPCODE_INSN_START,
    OPCODE_LD_I32,
    OPCODE_QEMU_LD_I32,
    OPCODE_QEMU_ST_I64,
    OPCODE_SET_LABEL,
    OPS_ENOUGH,
    TCG_CPU_ENV,
    TCG_I32,
    TCG_OPS,
    TCG_OPS_TAIL,
    TCG_TEMPS,
    TCG_UC,
    TEMPS_ENOUGH,
)
from ..structures import REPLACEMENT_SIZE, Env, Machine, Replacement
from .memory import PAGE_MASK, data_mode, entry_of, machine_of_uc

PREVIOUS = 8  # in an op's link: after the next op


def emit_attention_check(m: Machine, tcg: int) -> None:
    word = lib.tcg_temp_new_internal(tcg, TCG_I32, 0)
    env = u64[tcg + TCG_CPU_ENV]  # relative to the context, as all TCGv are
    m.exit_label = lib.gen_new_label(tcg)
    lib.tcg_gen_op3(tcg, OPCODE_LD_I32, word, tcg + env, ENV_MP_STATE)
    lib.tcg_gen_brcondi_i32(tcg, CONDITION_NE, word - tcg, 0, m.exit_label)
    lib.tcg_temp_free_internal(tcg, word)


def redirect_last_call(tcg: int, origin: int, target: int) -> None:
    """The newest op is a call and carries the function's address among its arguments."""
    op = u64[tcg + TCG_OPS_TAIL] - OP_LINK
    for i in range(OP_MAX_ARGS):
        if u64[op + OP_ARGS + i * 8] == origin:
            u64[op + OP_ARGS + i * 8] = target
            return


def opcode_of(link: int) -> int:
    return u8[link - OP_LINK]


def instruction_start(tcg: int) -> int:
    link = u64[tcg + TCG_OPS_TAIL]
    while opcode_of(link) != OPCODE_INSN_START:
        link = u64[link + PREVIOUS]
    return link


def instruction_accesses_memory(tcg: int) -> int:
    link = u64[tcg + TCG_OPS_TAIL]
    while opcode_of(link) != OPCODE_INSN_START:
        if opcode_of(link) >= OPCODE_QEMU_LD_I32 and opcode_of(link) <= OPCODE_QEMU_ST_I64:
            return 1
        link = u64[link + PREVIOUS]
    return 0


def move_last_op_to_start(tcg: int) -> None:
    start = instruction_start(tcg)
    op = u64[tcg + TCG_OPS_TAIL]
    second = u64[start] + OP_LINK
    previous = u64[op + PREVIOUS]
    u64[previous] = 0
    u64[tcg + TCG_OPS_TAIL] = previous
    u64[op] = second - OP_LINK
    u64[op + PREVIOUS] = start
    u64[second + PREVIOUS] = op
    u64[start] = op - OP_LINK


def replacement_of(m: Machine, helper: int) -> Replacement:
    end = m.replaced + m.replaced_count * REPLACEMENT_SIZE
    at = m.replaced
    while at < end:
        if u64[at] == helper:
            return Replacement(at)
        at += REPLACEMENT_SIZE
    return Replacement(0)


def is_restricted(env: Env) -> int:
    """CPL above IOPL, or virtual-8086 mode: the TSS must allow each port."""
    flags = env.eflags
    return env.cr[0] & 1 and (flags & FLAG_VM or (env.hflags & HF_CPL) > (flags >> 12 & 3))


# --- INS and OUTS ---------------------------------------------------------------------------------


def code_byte(env: Env, pc: int) -> int:
    """A byte of the code that is being translated; 0 where it cannot simply be read."""
    e = entry_of(env, data_mode(env), pc)
    return u8[pc + e.addend] if e.code == (pc & PAGE_MASK) else 0


def bulk_helper(env: Env, r: Replacement, pc: int) -> int:
    """What serves the instruction at linear `pc`, an INS or OUTS, when it is repeated and has no segment
    override; else 0.  Asked while it is translated for the state that the CPU is in."""
    hflags = env.hflags
    repeated = 0
    other_size = 0
    for i in range(14):
        byte = code_byte(env, pc + i if hflags & HF_CS64 else u32(pc + i))
        if (byte & 0xFC) == 0x6C:
            if not repeated:
                return 0
            size = 2 - other_size if hflags & HF_CS64 else ((hflags & HF_CS32) != 0) ^ other_size
            return r.bulk[size]
        if byte in (0xF2, 0xF3):
            repeated = 1
        elif byte == 0x67:
            other_size = 1
        elif byte not in (0x66, 0xF0) and not (hflags & HF_CS64 and (byte & 0xF0) == 0x40):
            return 0
    return 0


# --- rerouted -------------------------------------------------------------------------------------


def call_helper(tcg: int, function: int, result: int, count: Int32, arguments: int) -> None:
    """tcg_gen_callN."""
    m = machine_of_uc(u64[tcg + TCG_UC])
    if function == address_of(lib.helper_check_exit_request):
        emit_attention_check(m, tcg)
        return
    lib.tcg_gen_callN(tcg, function, result, count, arguments)
    r = replacement_of(m, function)
    if not r.address:
        return
    target = r.ours
    is_string = r.check and instruction_accesses_memory(tcg)
    if is_string:
        # Linear address of the instruction
        bulk = bulk_helper(m.env, r, u64[instruction_start(tcg) - OP_LINK + OP_ARGS])
        if bulk:
            target = bulk
    redirect_last_call(tcg, function, target)
    if is_string and is_restricted(m.env):
        # Unicorn stores to INS's destination, and loads OUTS's source, before it asks for the port.
        env = buffer(16)
        u64[env] = tcg + u64[tcg + TCG_CPU_ENV]
        lib.tcg_gen_callN(tcg, address_of(lib.helper_cli), 0, 1, env)
        redirect_last_call(tcg, address_of(lib.helper_cli), r.check)
        move_last_op_to_start(tcg)


def new_temporary(tcg: int, kind: Int32, is_local: UInt32) -> int:
    """tcg_temp_new_internal.  Unicorn forgets to free temporaries of immediates and does not look whether
    there are too many in a block, which must end before."""
    if u32[tcg + TCG_TEMPS] > TEMPS_ENOUGH:
        u32[tcg + TCG_OPS] = OPS_ENOUGH
    tail(lib.tcg_temp_new_internal, tcg, kind, is_local)


def exit_block(tcg: int, block: int, index: UInt32) -> None:
    """tcg_gen_exit_tb."""
    m = machine_of_uc(u64[tcg + TCG_UC])
    if index == EXIT_REQUESTED and m.exit_label:
        u8[m.exit_label] |= 1  # present
        lib.tcg_gen_op1(tcg, OPCODE_SET_LABEL, m.exit_label)
        m.exit_label = 0
    tail(lib.tcg_gen_exit_tb, tcg, block, index)
