/* Executed instructions as a clock: what `count_instructions` asks for.
 *
 * Each block adds the number of its instructions to EXECUTED when it begins, and does not begin once
 * EXECUTED has reached STOP: the two are compared in place of the attention word, and whoever wants the
 * guest's attention sets STOP to 0.  So leaving for a kick changes no count, and a stop takes effect at the
 * first block start at or behind it.
 *
 * The count is exact wherever it can be seen.  A block that is left early has counted too much: the translator
 * keeps data for each instruction to find the guest's state by a host address, and has 32 bits to spare there,
 * in which we put how many instructions of the block were still to come.  `restore_state_to_opc` gives them
 * back; `executed_now` only looks at them.  How code is cut into blocks, what is cached and what is chained thus
 * have no influence.  Of a repeated string instruction each iteration counts, and the
 * look at (E|R)CX that ends it.
 *
 * Traps:
 * - Unicorn's INTO leaves its block without a look at that data; ours does not.
 * - Who reaches a device must have said first where in the block it is (`back`).
 */
#include "rem.h"

#define EXECUTED(m) FIELD(uint64_t, (m)->env, ENV_EXECUTED)

static void emit_access(void *tcg, int opcode, char *temporary, unsigned offset)
{
    uintptr_t env = (uintptr_t)tcg + FIELD(uintptr_t, tcg, TCG_CPU_ENV);

    lib.tcg_gen_op3(tcg, opcode, (uintptr_t)temporary, env, offset);
}

/* At a block's beginning: leave for `label` when it is time, else count. */
void emit_count(Machine *m, void *tcg, void *label)
{
    char *executed = lib.tcg_temp_new_internal(tcg, TCG_I64, false);
    char *other = lib.tcg_temp_new_internal(tcg, TCG_I64, false);

    emit_access(tcg, OPCODE_LD_I64, executed, ENV_EXECUTED);
    emit_access(tcg, OPCODE_LD_I64, other, ENV_STOP);
    lib.tcg_gen_brcond_i64(tcg, CONDITION_GEU, (uintptr_t)(executed - (char *)tcg), (uintptr_t)(other - (char *)tcg),
                           label);
    emit_access(tcg, OPCODE_LD_I64, executed, ENV_EXECUTED); /* no temporary outlives a branch */
    lib.tcg_gen_op2(tcg, OPCODE_MOVI_I64, (uintptr_t)other, 0);
    m->block_length = FIELD(OpLink *, tcg, TCG_OPS_TAIL);
    lib.tcg_gen_op3(tcg, OPCODE_ADD_I64, (uintptr_t)executed, (uintptr_t)executed, (uintptr_t)other);
    emit_access(tcg, OPCODE_ST_I64, executed, ENV_EXECUTED);
    lib.tcg_temp_free_internal(tcg, other);
    lib.tcg_temp_free_internal(tcg, executed);
}

/* At its end: now the length is known. */
void emit_count_end(Machine *m, void *tcg)
{
    uint64_t to_come = 0;
    OpLink *link = FIELD(OpLink *, tcg, TCG_OPS_TAIL);

    for (; link != m->block_length; link = link->previous) {
        if (opcode_of(link) == OPCODE_INSN_START) {
            to_come++;
            argument_of(link, 1) = (uint32_t)argument_of(link, 1) | to_come << 32; /* above cc_op */
        }
    }
    argument_of(link, 1) = to_come;
    m->block_length = NULL;
}

static void (*orig_restore_state)(void *, void *, uint64_t *);

static void rem_restore_state(void *env, void *block, uint64_t *data)
{
    Machine *m = machine_of(FIELD(void *, env, ENV_UC));

    if (m != NULL && m->counting) {
        if (m->looking) {
            m->to_come = data[1] >> 32;
            return;
        }
        EXECUTED(m) -= data[1] >> 32;
    }
    orig_restore_state(env, block, data);
}

const Reroute count_reroutes[] = {
    {"restore_state_to_opc", (void *)rem_restore_state, (void **)&orig_restore_state},
    {NULL, NULL, NULL},
};

/* Of the block that was called from `back`, how many instructions are not executed, that one included. */
static uint64_t instructions_to_come(Machine *m, uintptr_t back)
{
    m->to_come = 0;
    m->looking = true;
    lib.cpu_restore_state(m->cpu, back, false);
    m->looking = false;
    return m->to_come;
}

/* The instruction at `back` ends its block for good, executed itself. */
void count_ends_here(Machine *m, uintptr_t back)
{
    if (m->counting) {
        uint64_t to_come = instructions_to_come(m, back);

        EXECUTED(m) -= to_come ? to_come - 1 : 0;
    }
}

/* Instructions that were executed before the one at `back`; 0: between blocks. */
uint64_t executed_now(Machine *m, uintptr_t back)
{
    uint64_t executed = EXECUTED(m) - (back ? instructions_to_come(m, back) : 0);

    if (executed > m->executed_seen) {
        m->executed_seen = executed;
    }
    return m->executed_seen;
}

/* A number that looks random and follows from the seed and the count (SplitMix64; Steele and others 2014). */
uint64_t count_random(Machine *m, uintptr_t back)
{
    uint64_t z = m->seed + (executed_now(m, back) + 1) * 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* Between runs: does the guest have to be left before its next block? */
bool count_is_due(Machine *m)
{
    return m->counting && EXECUTED(m) >= m->stop_at;
}

/* Before a look at what wants attention. */
void count_rearm(Machine *m)
{
    if (m->counting) {
        atomic_store(m->stop, m->stop_at);
    }
}

void count_start(Machine *m, uint64_t ns, uint64_t executed, uint64_t seed)
{
    EXECUTED(m) = m->executed_seen = executed;
    m->instruction_ns = ns;
    m->seed = seed;
    m->stop_at = UINT64_MAX;
    atomic_store(m->stop, 0);
    if (!m->counting) {
        m->counting = true;
        lib.tb_flush(m->cpu);
    }
}

void count_stop_at(Machine *m, uint64_t executed)
{
    m->stop_at = executed;
    machine_attend(m);
}
