/* The x87 by the host's own.
 *
 * Unicorn computes with software that has no exception flags, 53 bits in what is not basic arithmetic, and no
 * stack faults.  The host is an x86-64: under the guest's rounding and precision it computes the same as the
 * guest's would, and says which exceptions there were.
 *
 * Traps
 * - An instruction can be several calls: what brings the operand (`fmov_FT0_STN`), the operation, `fpop`.  The
 *   first looks for pending exceptions; MET tells the others what it met, in the padding of FT0.
 * - An exception before there is a result (invalid, denormal, division by zero) that is not masked leaves
 *   operands and stack as they are; overflow and underflow that are not masked have a result, with another
 *   exponent.  The host masks the former always, the latter as the guest does.
 * - Exceptions are pending until the next instruction that waits.  There a CPU with CR0.NE clear asserts FERR# and
 *   waits for an interrupt, or for IGNNE#; without an interrupt that can be taken we go on.
 * - Any that are pending on the host would be SIGFPE: they are cleared before its next instruction that waits.
 * - The compiler does not know that arithmetic reads and writes the control and status words: all of it is
 *   volatile assembly, and the host's stack is empty before and behind.
 * - A value that is stored to memory is stored even where an exception that is not masked would keep it from
 *   that: translated code does the store.
 *
 * References: Intel SDM volume 1 chapter 8; volume 2 for each instruction.
 */

#include "x87.h"

/* ---- exceptions ---------------------------------------------------------------------------------------- */

/* What `start` has seen: an exception that is pending, or that was told of. */
void x87_error(void *env, uintptr_t back)
{
    Machine *m = machine_of_env(env);
    PyObject *result;

    if (!PENDING) {
        ERROR = ERROR_NONE;
        return;
    }
    if (FIELD(uint64_t, env, ENV_CR) & CR0_NE) {
        lib.raise_exception_err_ra(env, VECTOR_MF, 0, back);
    }
    if (ERROR != ERROR_NONE) {
        return;
    }
    ERROR = ERROR_TOLD;
    m->back = back;
    enter_python(m);
    result = PyObject_CallMethod(m->host, "fpu_error", NULL);
    if (result == NULL) {
        PyErr_WriteUnraisable(m->host);
    }
    Py_XDECREF(result);
    leave_python(m);
    if (atomic_load(&m->irq) && FIELD(uint64_t, env, ENV_EFLAGS) & FLAG_IF) {
        lib.cpu_loop_exit_restore(m->cpu, back); /* the handler comes before this instruction */
    }
}

/* ---- moves --------------------------------------------------------------------------------------------- */

static void rem_fpush(void *env)
{
    start(env, HERE);
    if (likely(EMPTY(7))) {
        STATUS &= ~STATUS_C1;
        MET = MET_PUSHED;
    } else {
        MET = stack_fault(env, true) ? MET_FULL : MET_REFUSED;
    }
    if (likely(MET != MET_REFUSED)) {
        TOP = (TOP - 1) & 7;
        EMPTY(0) = false;
    }
}

static void rem_fpop(void *env)
{
    if (likely(MET != MET_STOP)) {
        drop(env);
    }
}

/* The rest of FLD of a register; or FCMOV. */
static void rem_fmov_ST0_STN(void *env, int n)
{
    bool is_load = MET >= MET_PUSHED;
    const Number *value;

    if (!is_load) {
        start(env, HERE);
        STATUS &= ~STATUS_C1;
    } else if (MET != MET_PUSHED) {
        fill(env, &INDEFINITE);
        return;
    }
    value = operand(env, is_load || !EMPTY(0) ? n : 0);
    if (likely(value != NULL)) {
        put(ST(0), value);
        EMPTY(0) = false;
    } else if (is_load) {
        drop(env);
    }
    MET = MET_NONE;
}

static void rem_fmov_FT0_STN(void *env, int n)
{
    start(env, HERE);
    MET = EMPTY(n) ? MET_MISSING : MET_NONE;
    FORM = FORM_NUMBER;
    put(FT0, ST(n));
}

/* FST of a register. */
static void rem_fmov_STN_ST0(void *env, int n)
{
    const Number *value;

    start(env, HERE);
    STATUS &= ~STATUS_C1;
    value = operand(env, 0);
    if (likely(value != NULL)) {
        put(ST(n), value);
        EMPTY(n) = false;
    }
}

static void rem_fxchg_ST0_STN(void *env, int n)
{
    Number first;

    start(env, HERE);
    STATUS &= ~STATUS_C1;
    if (unlikely(EMPTY(0) || EMPTY(n)) && !stack_fault(env, false)) {
        return;
    }
    put(&first, EMPTY(0) ? &INDEFINITE : ST(0));
    put(ST(0), EMPTY(n) ? &INDEFINITE : ST(n));
    put(ST(n), &first);
    EMPTY(0) = EMPTY(n) = false;
}

static void rem_ffree_STN(void *env, int n)
{
    start(env, HERE);
    EMPTY(n) = true;
}

/* ---- arithmetic -------------------------------------------------------------------------------------------- */

/* What computes leaves it in `result` and returns whether it counts. */
typedef bool Binary(void *env, Number *result, const Number *a, const Number *b);

#define HOST(name, condition, code, ...)                                                            \
    static inline bool host_##name(void *env, Number *result, const Number *a, const Number *b)     \
    {                                                                                               \
        COMPUTE(code, __VA_ARGS__)                                                                  \
        return noted(env, raised, condition);                                                       \
    }

/* Of ST(0) and another operand, to ST(n). */
static inline void combine(void *env, Binary *compute, int n, const Number *a, const Number *b, bool is_missing)
{
    Number result;

    if (unlikely(is_missing)) {
        if (stack_fault(env, false)) {
            put(ST(n), &INDEFINITE);
            EMPTY(n) = false;
        }
    } else if (likely(compute(env, &result, a, b))) {
        put(ST(n), &result);
    }
}

#define ARITHMETIC(name)                                                                            \
    HOST(name, STATUS_C1, BINARY_CODE, "f" #name " %%st(1), %%st", AND_DROP)                        \
    HOST(name##_single, STATUS_C1, MEMORY_CODE, "f" #name "s", FIELD(uint32_t, b, 0))               \
    HOST(name##_double, STATUS_C1, MEMORY_CODE, "f" #name "l", FIELD(uint64_t, b, 0))               \
    static void rem_f##name##_ST0_FT0(void *env)                                                    \
    {                                                                                               \
        bool is_missing = EMPTY(0) || MET == MET_MISSING;                                           \
        switch (FORM) {                                                                             \
        case FORM_NUMBER: combine(env, host_##name, 0, ST(0), FT0, is_missing); break;              \
        case FORM_SINGLE: combine(env, host_##name##_single, 0, ST(0), FT0, is_missing); break;     \
        default: combine(env, host_##name##_double, 0, ST(0), FT0, is_missing);                     \
        }                                                                                           \
    }                                                                                               \
    static void rem_f##name##_STN_ST0(void *env, int n)                                             \
    {                                                                                               \
        start(env, HERE);                                                                           \
        combine(env, host_##name, n, ST(n), ST(0), EMPTY(0) || EMPTY(n));                           \
    }

ARITHMETIC(add)
ARITHMETIC(mul)
ARITHMETIC(sub)
ARITHMETIC(subr)
ARITHMETIC(div)
ARITHMETIC(divr)

/* ST(0), of ST(0) and ST(1). */
#define SCALING(name, condition)                                                    \
    HOST(name, condition, BINARY_CODE, #name, AND_DROP)                             \
    static void rem_##name(void *env)                                               \
    {                                                                               \
        start(env, HERE);                                                           \
        combine(env, host_##name, 0, ST(0), ST(1), EMPTY(0) || EMPTY(1));           \
    }

/* The quotient is in C0, C3 and C1, and C2 says that there is more to divide, unless there is no number. */
static inline unsigned of_remainder(void *env, const Number *result, uint16_t *raised)
{
    if (likely((result->exponent & 0x7fff) != 0x7fff && !(*raised & FLAGS_BEFORE & ~CONTROL))) {
        return STATUS_CONDITION;
    }
    *raised &= ~STATUS_C2;
    return STATUS_C1 | STATUS_C2;
}

SCALING(fscale, STATUS_C1)
SCALING(fprem, of_remainder(env, result, &raised))
SCALING(fprem1, of_remainder(env, result, &raised))

/* ST(1), of both; ST(0) is popped. */
#define POPPING(name)                                                               \
    HOST(name, STATUS_C1, BINARY_CODE, #name, "")                                   \
    static void rem_##name(void *env)                                               \
    {                                                                               \
        start(env, HERE);                                                           \
        combine(env, host_##name, 1, ST(0), ST(1), EMPTY(0) || EMPTY(1));           \
        rem_fpop(env);                                                              \
    }

POPPING(fyl2x)
POPPING(fyl2xp1)
POPPING(fpatan)

/* ST(0), of itself. */
#define UNARY(name, condition)                                                      \
    static void rem_##name(void *env)                                               \
    {                                                                               \
        Number result = INDEFINITE;                                                 \
        start(env, HERE);                                                           \
        if (unlikely(EMPTY(0))) {                                                   \
            if (!stack_fault(env, false)) {                                         \
                return;                                                             \
            }                                                                       \
        } else {                                                                    \
            COMPUTE(UNARY_CODE, "fldt", #name, *ST(0))                              \
            if (unlikely(!noted(env, raised, STATUS_C1 | (condition)))) {           \
                return;                                                             \
            }                                                                       \
        }                                                                           \
        put(ST(0), &result);                                                        \
        EMPTY(0) = false;                                                           \
    }

UNARY(f2xm1, 0)
UNARY(fsqrt, 0)
UNARY(frndint, 0)
UNARY(fchs, 0)
UNARY(fabs, 0)
UNARY(fsin, STATUS_C2)
UNARY(fcos, STATUS_C2)

/* ST(0) of itself, and what is pushed; C2 says that neither came to be. */
#define PAIR(name, condition)                                                       \
    static void rem_##name(void *env)                                               \
    {                                                                               \
        Number result = INDEFINITE, above = INDEFINITE;                             \
        start(env, HERE);                                                           \
        if (unlikely(EMPTY(0) || !EMPTY(7))) {                                      \
            if (!stack_fault(env, !EMPTY(0))) {                                     \
                return;                                                             \
            }                                                                       \
        } else {                                                                    \
            COMPUTE(PAIR_CODE, #name, condition)                                    \
            if (!noted(env, raised, STATUS_C1 | (condition)) || raised & (condition)) { \
                return;                                                             \
            }                                                                       \
        }                                                                           \
        put(ST(0), &result);                                                        \
        EMPTY(0) = false;                                                           \
        push(env, &above);                                                          \
    }

PAIR(fptan, STATUS_C2)
PAIR(fsincos, STATUS_C2)
PAIR(fxtract, 0)

/* ---- comparisons ------------------------------------------------------------------------------------------- */

/* ST(0) and FT0, to C3, C2 and C0. */
static inline void missing_to_compare(void *env)
{
    STATUS |= STATUS_C3 | STATUS_C2 | STATUS_C0;
    stack_fault(env, false);
}

static void rem_fucom(void *env)
{
    if (unlikely(MET == MET_MISSING || EMPTY(0))) {
        missing_to_compare(env);
    } else {
        COMPUTE(COMPARE_CODE, "fucom %%st(1)")
        noted(env, raised, STATUS_CONDITION);
    }
}

static void rem_fcom(void *env)
{
    if (unlikely(MET == MET_MISSING || EMPTY(0))) {
        missing_to_compare(env);
    } else if (FORM == FORM_NUMBER) {
        COMPUTE(COMPARE_CODE, "fcom %%st(1)")
        noted(env, raised, STATUS_CONDITION);
    } else if (FORM == FORM_SINGLE) {
        COMPUTE(COMPARE_MEMORY_CODE, "fcoms", FIELD(uint32_t, FT0, 0))
        noted(env, raised, STATUS_CONDITION);
    } else {
        COMPUTE(COMPARE_MEMORY_CODE, "fcoml", FIELD(uint64_t, FT0, 0))
        noted(env, raised, STATUS_CONDITION);
    }
}

/* To ZF, PF and CF, which are where C3, C2 and C0 are; the other arithmetic flags become 0. */
static inline void compare_to_flags(void *env, void (*compare)(void *))
{
    const unsigned result = STATUS_C3 | STATUS_C2 | STATUS_C0, before = STATUS & result;

    compare(env);
    FIELD(uint64_t, env, ENV_CC_SRC) = (STATUS & result) >> 8;
    STATUS = (STATUS & ~result) | before;
}

static void rem_fcomi(void *env)
{
    compare_to_flags(env, rem_fcom);
}

static void rem_fucomi(void *env)
{
    compare_to_flags(env, rem_fucom);
}

static void rem_fxam(void *env)
{
    Number result; /* as it was */
    uint16_t raised;

    start(env, HERE);
    UNARY_CODE("", "fldt", "fxam", *ST(0));
    if (EMPTY(0)) {
        raised = (raised & STATUS_C1) | STATUS_C3 | STATUS_C0;
    }
    STATUS = (STATUS & ~STATUS_CONDITION) | (raised & STATUS_CONDITION);
}

#define ROW(name, ours) {"helper_" #name, (void *)rem_##ours},
#define ROWS_ARITHMETIC(name) ROW(f##name##_ST0_FT0, f##name##_ST0_FT0) ROW(f##name##_STN_ST0, f##name##_STN_ST0)

const Replacement x87_replacements[] = {
    ROW(fpush, fpush) ROW(fpop, fpop) ROW(fxchg_ST0_STN, fxchg_ST0_STN) ROW(ffree_STN, ffree_STN)
    ROW(fmov_ST0_STN, fmov_ST0_STN) ROW(fmov_FT0_STN, fmov_FT0_STN) ROW(fmov_STN_ST0, fmov_STN_ST0)
    ROWS_ARITHMETIC(add) ROWS_ARITHMETIC(mul) ROWS_ARITHMETIC(sub)
    ROWS_ARITHMETIC(subr) ROWS_ARITHMETIC(div) ROWS_ARITHMETIC(divr)
    ROW(fscale, fscale) ROW(fprem, fprem) ROW(fprem1, fprem1)
    ROW(fyl2x, fyl2x) ROW(fyl2xp1, fyl2xp1) ROW(fpatan, fpatan)
    ROW(f2xm1, f2xm1) ROW(fsqrt, fsqrt) ROW(frndint, frndint) ROW(fsin, fsin) ROW(fcos, fcos)
    ROW(fchs_ST0, fchs) ROW(fabs_ST0, fabs) ROW(fxam_ST0, fxam)
    ROW(fptan, fptan) ROW(fsincos, fsincos) ROW(fxtract, fxtract)
    ROW(fcom_ST0_FT0, fcom) ROW(fucom_ST0_FT0, fucom) ROW(fcomi_ST0_FT0, fcomi) ROW(fucomi_ST0_FT0, fucomi)
    {NULL, NULL},
};
