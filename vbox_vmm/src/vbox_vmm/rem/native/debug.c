/* DR0 to DR7, and ICEBP.
 *
 * Unicorn keeps code and I/O breakpoints, but compares the former with EIP instead of the linear address
 * when they hit, and has no data breakpoints: the two functions that should keep and check them are empty.
 *
 * A data breakpoint is a trap: the instruction completes, then #DB arrives with RIP behind it.  TLB
 * entries of a watched page carry WATCHPOINT, which sends the access our way (`watch_access`).  The first
 * time, the instruction is abandoned before the access and translated again as a block of its own
 * (`stepping`); the second time the access is made and noted, and when the block ends `debug_attend`
 * raises #DB.  Nothing else is let in between the two.
 *
 * Watched are the loads and stores of translated code, not those that a helper of Unicorn makes: FXSAVE,
 * CMPXCHG8B and CMPXCHG16B, far transfers and task switches, descriptor tables, interrupt frames.
 *
 * References: Intel SDM volume 3B chapter 18 (debug registers), volume 2 INT1.
 */
#include "rem.h"

#define DR(number) FIELD(uint64_t, env, ENV_DR + (number) * 8)

enum { BREAK_ON_CODE, BREAK_ON_STORE, BREAK_ON_PORT, BREAK_ON_ACCESS };

static bool is_enabled(void *env, int i)
{
    return DR(7) >> (i * 2) & 3;
}

static int kind_of(void *env, int i)
{
    return DR(7) >> (16 + i * 4) & 3;
}

static unsigned length_of(void *env, int i)
{
    static const uint8_t lengths[] = {1, 2, 8, 4};
    return lengths[DR(7) >> (18 + i * 4) & 3];
}

static uint64_t linear_eip(void *env)
{
    uint64_t base = FIELD(SegmentCache, env, ENV_SEGS + SEG_CS * sizeof(SegmentCache)).base;
    uint64_t at = base + FIELD(uint64_t, env, ENV_EIP);
    return FIELD(uint32_t, env, ENV_HFLAGS) & HF_CS64 ? at : (uint32_t)at;
}

static void __attribute__((noreturn)) raise_debug(void *env, uint64_t hits, uintptr_t back)
{
    DR(6) = (DR(6) & ~(uint64_t)15) | hits;
    lib.raise_exception_err_ra(env, VECTOR_DB, 0, back);
}

/* ---- data --------------------------------------------------------------------------------------- */

/* The DR6 bits of the data breakpoints in [address, address + size); all are aligned to their length. */
static uint32_t matches(void *env, uint64_t address, uint64_t size, bool store)
{
    uint32_t bits = 0;

    for (int i = 0; i < 4; i++) {
        int kind = kind_of(env, i);
        unsigned length = length_of(env, i);
        uint64_t first = DR(i) & ~(uint64_t)(length - 1);
        if (is_enabled(env, i) && (kind == BREAK_ON_ACCESS || (kind == BREAK_ON_STORE && store)) &&
            (address - first < length || first - address < size)) {
            bits |= 1u << i;
        }
    }
    return bits;
}

/* Which TLB_WATCHPOINT flags a page needs: 1 for loads, 2 for stores. */
int watch_page(Machine *m, uint64_t page)
{
    if (likely(!m->watching)) {
        return 0;
    }
    return (matches(m->env, page, PAGE_SIZE, false) ? 1 : 0) | (matches(m->env, page, PAGE_SIZE, true) ? 2 : 0);
}

/* Before each load and store while `watching`; may abandon the instruction. */
void watch_access(Machine *m, uint64_t address, unsigned size, bool store, uintptr_t back)
{
    uint32_t bits = matches(m->env, address, size, store);

    if (bits == 0) {
        m->watching = (FIELD(uint64_t, m->env, ENV_DR + 7 * 8) & 0xff) != 0;
        return;
    }
    if (m->stepping) {
        m->debug_hits |= bits;
        machine_attend(m);
        return;
    }
    m->stepping = true;
    FIELD(uint32_t, m->cpu, CPU_CFLAGS_NEXT) = 1; /* one instruction; restoring sets EIP to this one */
    m->step_at = UINT64_MAX;
    lib.cpu_loop_exit_restore(m->cpu, back);
}

/* Between blocks: raise what the last instruction hit.  True while an instruction must run alone. */
bool debug_attend(Machine *m)
{
    uint32_t hits = m->debug_hits;

    if (hits != 0) {
        m->debug_hits = 0;
        m->stepping = false;
        raise_debug(m->env, hits, 0);
    }
    if (m->step_at == UINT64_MAX) {
        m->step_at = linear_eip(m->env);
    } else if (m->step_at != linear_eip(m->env)) {
        m->stepping = false; /* it got by without the access */
        return false;
    }
    FIELD(uint32_t, m->cpu, CPU_CFLAGS_NEXT) = 1;
    return true;
}

static int (*orig_watchpoint_insert)(void *, uint64_t, uint64_t, int, void **);

static int rem_watchpoint_insert(void *cpu, uint64_t address, uint64_t length, int flags, void **out)
{
    Machine *m = machine_of_cpu(cpu);

    if (m == NULL) {
        return orig_watchpoint_insert(cpu, address, length, flags, out);
    }
    m->watching = true;
    lib.tlb_flush(cpu);
    return 0;
}

const Reroute debug_reroutes[] = {
    {"cpu_watchpoint_insert", (void *)rem_watchpoint_insert, (void **)&orig_watchpoint_insert},
    {NULL, NULL, NULL},
};

void debug_reset(Machine *m)
{
    m->watching = false;
    m->stepping = false;
    m->debug_hits = 0;
    FIELD(uint32_t, m->cpu, CPU_CFLAGS_NEXT) = UINT32_MAX;
}

/* ---- code --------------------------------------------------------------------------------------- */

/* Translated in front of an instruction with a breakpoint while RF is clear; EIP is there. */
static void rem_debug(void *env)
{
    uint64_t at = linear_eip(env), hits = 0;

    for (int i = 0; i < 4; i++) {
        if (is_enabled(env, i) && kind_of(env, i) == BREAK_ON_CODE && DR(i) == at) {
            hits |= 1u << i;
        }
    }
    FIELD(uint64_t, env, ENV_EFLAGS) |= FLAG_RF; /* in the frame, so that IRET gets past the breakpoint */
    raise_debug(env, hits, HERE);
}

/* INT1 is an opcode that Unicorn does not know: after its #UD, look whether it stands there. */
static bool skip_icebp(Machine *m)
{
    void *env = m->env;
    uint64_t at = linear_eip(env);
    bool is_long = FIELD(uint32_t, env, ENV_HFLAGS) & HF_CS64;
    int mode = (FIELD(uint32_t, env, ENV_HFLAGS) & HF_CPL) == 3 ? MMU_USER : MMU_KNOSMAP;

    for (int i = 0; i < 15; i++) {
        uint64_t address = is_long ? at + i : (uint32_t)(at + i);
        uint8_t byte = (uint8_t)lib.cpu_ldub_mmuidx_ra(env, address, mode, 0);
        switch (byte) {
        case 0xf1: FIELD(uint64_t, env, ENV_EIP) += i + 1; return true;
        case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf2: case 0xf3:
            break;
        default:
            if (!is_long || (byte & 0xf0) != 0x40) {
                return false;
            }
        }
    }
    return false;
}

/* An exception is about to be delivered; returns its vector. */
int debug_vector(Machine *m, int vector)
{
    void *env = m->env;

    if (vector == VECTOR_UD && skip_icebp(m)) {
        vector = VECTOR_DB;
    }
    if (vector == VECTOR_DB) {
        DR(6) |= m->debug_hits;
        DR(7) &= ~(uint64_t)DR7_GD;
    }
    m->stepping = false; /* on a fault the access will be made again */
    m->debug_hits = 0;
    return vector;
}

/* ---- the registers -------------------------------------------------------------------------------- */

static void check_general_detect(void *env, uintptr_t back)
{
    if (unlikely(DR(7) & DR7_GD)) {
        DR(6) |= DR6_BD;
        lib.raise_exception_err_ra(env, VECTOR_DB, 0, back);
    }
}

static uint64_t rem_get_dr(void *env, int number)
{
    check_general_detect(env, HERE);
    return lib.helper_get_dr(env, number);
}

static void rem_set_dr(void *env, int number, uint64_t value)
{
    check_general_detect(env, HERE);
    if ((number == 4 || number == 5) && FIELD(uint64_t, env, ENV_CR + 4 * 8) & 8) {
        lib.raise_exception_err_ra(env, VECTOR_UD, 0, HERE);
    }
    if (number >= 4 && value >> 32 && FIELD(uint32_t, env, ENV_HFLAGS) & HF_CS64) {
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, HERE);
    }
    lib.helper_set_dr(env, number, value);
}

const Replacement debug_replacements[] = {
    {"helper_debug", (void *)rem_debug},
    {"helper_get_dr", (void *)rem_get_dr},
    {"helper_set_dr", (void *)rem_set_dr},
    {NULL, NULL},
};
