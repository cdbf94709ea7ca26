/* The x87 and memory: loads and stores, constants, control; where MMX begins and ends.  The traps are in x87.c. */
#include "x87.h"

/* ---- constants --------------------------------------------------------------------------------------------- */

/* As the guest rounds. */
#define CONSTANT(name)                                                              \
    static void rem_##name##_ST0(void *env)                                         \
    {                                                                               \
        Number value;                                                               \
        set_host_control(CONTROL | CONTROL_MASKS);                                  \
        __asm__ volatile(#name "\n\tfstpt %0" : "=m"(value) : : "st");              \
        set_host_control(CONTROL_USUAL);                                            \
        fill(env, &value);                                                          \
    }

CONSTANT(fld1)
CONSTANT(fldz)
CONSTANT(fldpi)
CONSTANT(fldl2e)
CONSTANT(fldl2t)
CONSTANT(fldlg2)
CONSTANT(fldln2)

static void rem_fldz_FT0(void *env)
{
    static const Number zero;

    start(env, HERE);
    FORM = FORM_NUMBER;
    put(FT0, &zero);
}

/* ---- memory ------------------------------------------------------------------------------------------------ */

/* A denormal is noted and loaded, even where that is not masked. */
#define LOAD(name, type)                                                            \
    static void rem_##name##_ST0(void *env, type value)                             \
    {                                                                               \
        Number result;                                                              \
        start(env, HERE);                                                           \
        COMPUTE(UNARY_CODE, #name, "", value)                                       \
        noted(env, raised, STATUS_C1);                                              \
        if (likely(!(raised & STATUS_IE & ~CONTROL))) {                             \
            load(env, &result);                                                     \
        }                                                                           \
    }

LOAD(flds, uint32_t)
LOAD(fldl, uint64_t)
LOAD(fildl, int32_t)
LOAD(fildll, int64_t)

static void rem_flds_FT0(void *env, uint32_t value)
{
    start(env, HERE);
    FORM = FORM_SINGLE;
    FIELD(uint32_t, FT0, 0) = value;
}

static void rem_fldl_FT0(void *env, uint64_t value)
{
    start(env, HERE);
    FORM = FORM_DOUBLE;
    FIELD(uint64_t, FT0, 0) = value;
}

static void rem_fildl_FT0(void *env, int32_t value)
{
    Number number;

    start(env, HERE);
    FORM = FORM_NUMBER;
    __asm__ volatile("fildl %1\n\tfstpt %0" : "=m"(number) : "m"(value) : "st");
    put(FT0, &number);
}

/* An empty register is noted before its conversion, which has nothing to add. */
#define CONVERTED(control, instruction)                                             \
    const Number *number = EMPTY(0) ? &INDEFINITE : ST(0);                          \
    if (unlikely(EMPTY(0))) {                                                       \
        stack_fault(env, false);                                                    \
    }                                                                               \
    COMPUTE_UNDER((control) | CONTROL_MASKS, STORE_CODE, instruction, *number)      \
    if (likely(!EMPTY(0))) {                                                        \
        noted(env, raised, STATUS_C1);                                              \
    }
#define STORE(name, instruction, type, returned, rounding)                          \
    static returned rem_##name##_ST0(void *env)                                     \
    {                                                                               \
        type value;                                                                 \
        start(env, HERE);                                                           \
        {                                                                           \
            CONVERTED(CONTROL | (rounding), instruction)                            \
        }                                                                           \
        return value;                                                               \
    }

STORE(fsts, "fstps", uint32_t, uint32_t, 0)
STORE(fstl, "fstpl", uint64_t, uint64_t, 0)
STORE(fist, "fistps", int16_t, int32_t, 0)
STORE(fistl, "fistpl", int32_t, int32_t, 0)
STORE(fistll, "fistpll", int64_t, int64_t, 0)
STORE(fistt, "fistps", int16_t, int32_t, CONTROL_ROUNDING)
STORE(fisttl, "fistpl", int32_t, int32_t, CONTROL_ROUNDING)
STORE(fisttll, "fistpll", int64_t, int64_t, CONTROL_ROUNDING)

/* Ten bytes. */
static void rem_fldt_ST0(void *env, uint64_t at)
{
    Number number;

    start(env, HERE);
    number.fraction = lib.cpu_ldq_data_ra(env, at, HERE);
    number.exponent = lib.cpu_lduw_data_ra(env, at + 8, HERE);
    STATUS &= ~STATUS_C1;
    load(env, &number);
}

static void rem_fstt_ST0(void *env, uint64_t at)
{
    const Number *number;

    start(env, HERE);
    STATUS &= ~STATUS_C1;
    number = operand(env, 0);
    if (likely(number != NULL)) {
        lib.cpu_stq_data_ra(env, at, number->fraction, HERE);
        lib.cpu_stw_data_ra(env, at + 8, number->exponent, HERE);
    }
}

static void rem_fbld_ST0(void *env, uint64_t at)
{
    Number digits, result;
    uint16_t raised;

    start(env, HERE);
    digits.fraction = lib.cpu_ldq_data_ra(env, at, HERE);
    digits.exponent = lib.cpu_lduw_data_ra(env, at + 8, HERE);
    UNARY_CODE("", "fbld", "", digits);
    STATUS &= ~STATUS_C1;
    load(env, &result);
}

static void rem_fbst_ST0(void *env, uint64_t at)
{
    Number value;

    start(env, HERE);
    {
        CONVERTED(CONTROL, "fbstp")
    }
    if (likely(MET != MET_STOP)) {
        lib.cpu_stq_data_ra(env, at, value.fraction, HERE);
        lib.cpu_stw_data_ra(env, at + 8, value.exponent, HERE);
    }
}

/* ---- control ----------------------------------------------------------------------------------------------- */

static void rem_fwait(void *env)
{
    start(env, HERE);
}

static void rem_fldcw(void *env, uint32_t value)
{
    start(env, HERE);
    CONTROL = (value & CONTROL_WRITABLE) | CONTROL_ALWAYS_SET;
    lib.update_fp_status(env);
    STATUS = (STATUS & ~STATUS_ES) | (STATUS & STATUS_FLAGS & ~CONTROL ? STATUS_ES : 0);
}

static unsigned tag_of(void *env, unsigned n)
{
    const Number *number = &FIELD(Number, env, ENV_FPREGS + n * 16);
    unsigned exponent = number->exponent & 0x7fff;

    if (FIELD(uint8_t, env, ENV_FPTAGS + n)) {
        return 3;
    }
    if (exponent == 0 && number->fraction == 0) {
        return 1;
    }
    return exponent == 0 || exponent == 0x7fff || !(number->fraction >> 63) ? 2 : 0;
}

/* Unicorn forgets that all exceptions are masked behind it. */
static void rem_fstenv(void *env, uint64_t at, int is_wide)
{
    uint32_t words[7] = {CONTROL, (STATUS & ~STATUS_TOP) | TOP << 11, 0}; /* no pointers are kept */

    for (unsigned n = 0; n < 8; n++) {
        words[2] |= tag_of(env, n) << n * 2;
    }
    for (unsigned n = 0; n < 7; n++) {
        if (is_wide) {
            lib.cpu_stl_data_ra(env, at + n * 4, n < 3 ? words[n] | 0xffff0000 : words[n], HERE);
        } else {
            lib.cpu_stw_data_ra(env, at + n * 2, words[n], HERE);
        }
    }
    CONTROL |= CONTROL_MASKS;
    STATUS &= ~STATUS_ES;
}

/* In front of every MMX instruction but EMMS. */
static void rem_enter_mmx(void *env)
{
    start(env, HERE);
    TOP = 0;
    FIELD(uint64_t, env, ENV_FPTAGS) = 0;
}

static void rem_emms(void *env)
{
    start(env, HERE);
    FIELD(uint64_t, env, ENV_FPTAGS) = 0x0101010101010101; /* all are empty */
}

#define ROW(name) {"helper_" #name, (void *)rem_##name},
#define ROW_ST0(name) ROW(name##_ST0)

const Replacement x87_memory_replacements[] = {
    ROW_ST0(fld1) ROW_ST0(fldz) ROW_ST0(fldpi) ROW_ST0(fldl2e) ROW_ST0(fldl2t) ROW_ST0(fldlg2) ROW_ST0(fldln2)
    ROW(fldz_FT0) ROW(flds_FT0) ROW(fldl_FT0) ROW(fildl_FT0)
    ROW_ST0(flds) ROW_ST0(fldl) ROW_ST0(fildl) ROW_ST0(fildll) ROW_ST0(fldt) ROW_ST0(fbld)
    ROW_ST0(fsts) ROW_ST0(fstl) ROW_ST0(fist) ROW_ST0(fistl) ROW_ST0(fistll)
    ROW_ST0(fistt) ROW_ST0(fisttl) ROW_ST0(fisttll) ROW_ST0(fstt) ROW_ST0(fbst)
    ROW(fwait) ROW(fldcw) ROW(fstenv) ROW(enter_mmx) ROW(emms)
    {NULL, NULL},
};
