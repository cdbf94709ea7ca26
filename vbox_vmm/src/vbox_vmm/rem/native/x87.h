/* What the two files of the x87 share: registers, exceptions, and the host's x87. */
#ifndef REM_X87_H
#define REM_X87_H

#include "rem.h"

typedef struct {
    uint64_t fraction;
    uint16_t exponent; /* and sign */
} Number;

enum {
    STATUS_IE = 1,
    STATUS_FLAGS = 0x3f,
    STATUS_SF = 0x40,
    STATUS_TOP = 0x3800,
    STATUS_ES = 0x8080, /* and B, its copy */
    STATUS_C0 = 0x100,
    STATUS_C1 = 0x200,
    STATUS_C2 = 0x400,
    STATUS_C3 = 0x4000,
    STATUS_CONDITION = STATUS_C0 | STATUS_C1 | STATUS_C2 | STATUS_C3,
    FLAGS_BEHIND = 0x38,
    FLAGS_BEFORE = 7, /* invalid, denormal, division by zero: found before there is a result */
    CONTROL_MASKS = 0x3f,
    CONTROL_ROUNDING = 0xc00,
    CONTROL_WRITABLE = 0x1f3f,
    CONTROL_ALWAYS_SET = 0x40,
    CONTROL_USUAL = 0x37f, /* also what C expects */
    CONTROL_COMPUTING = 0x67, /* masked while we compute: all but overflow and underflow */
    VECTOR_MF = 16
};

enum {
    MET_NONE,
    MET_STOP,    /* the instruction has no more effect */
    MET_MISSING, /* FT0 should be of an empty register */
    MET_PUSHED,  /* a load follows in the same instruction ... */
    MET_FULL,    /* ... into a register that was not empty ... */
    MET_REFUSED  /* ... which was not pushed */
};

/* What FT0 is: memory is converted by the operation, since which exceptions count depends on both operands. */
enum { FORM_NUMBER, FORM_SINGLE, FORM_DOUBLE };

#define TOP FIELD(uint32_t, env, ENV_FPSTT)
#define STATUS FIELD(uint16_t, env, ENV_FPUS)
#define CONTROL FIELD(uint16_t, env, ENV_FPUC)
#define MET FIELD(uint8_t, env, ENV_FT0 + 10)
#define EMPTY(n) FIELD(uint8_t, env, ENV_FPTAGS + ((TOP + (n)) & 7))
#define ST(n) (&FIELD(Number, env, ENV_FPREGS + ((TOP + (n)) & 7) * 16))
#define FT0 (&FIELD(Number, env, ENV_FT0))
#define FORM FIELD(uint8_t, env, ENV_FT0 + 11)
#define ERROR FIELD(uint8_t, env, ENV_X87_ERROR)
#define PENDING (STATUS & STATUS_FLAGS & ~CONTROL)

static const Number INDEFINITE = {3ull << 62, 0xffff};

static inline void put(Number *to, const Number *from)
{
    to->fraction = from->fraction;
    to->exponent = from->exponent;
}

/* ---- exceptions -------------------------------------------------------------------------------------------- */

void x87_error(void *env, uintptr_t back);

/* An instruction that waits begins. */
static inline __attribute__((always_inline)) void start(void *env, uintptr_t back)
{
    MET = MET_NONE;
    if (unlikely(PENDING | ERROR)) {
        x87_error(env, back);
    }
}

/* Takes note of exceptions and condition codes; whether the result counts. */
static inline bool noted(void *env, unsigned raised, unsigned condition)
{
    unsigned unmasked = raised & STATUS_FLAGS & ~CONTROL;

    if (unlikely(unmasked & FLAGS_BEFORE) && !(raised & STATUS_SF)) {
        raised &= ~(FLAGS_BEHIND | STATUS_C1); /* not looked for then */
    }
    STATUS = (STATUS & ~condition) | (raised & (STATUS_FLAGS | condition)) | (unmasked ? STATUS_ES : 0);
    if (unlikely(unmasked & FLAGS_BEFORE)) {
        MET = MET_STOP;
        return false;
    }
    return true;
}

/* A register that is empty is needed, or one that is not should be; whether to go on with the indefinite. */
static inline bool stack_fault(void *env, bool is_overflow)
{
    return noted(env, STATUS_IE | STATUS_SF | (is_overflow ? STATUS_C1 : 0), STATUS_SF | STATUS_C1);
}

/* ---- the host ---------------------------------------------------------------------------------------------- */

/* Clearing exceptions takes the host longer than the arithmetic, and loading the control word as long.  While all is
 * masked, and what the host has noted since it cleared its flags is noted by the guest as well, nothing has to be
 * cleared; with the usual control word nothing has to be loaded. */
static inline bool is_masked(unsigned control)
{
    return likely((control & CONTROL_MASKS) == CONTROL_MASKS);
}

static inline bool is_usual(unsigned control)
{
    return likely((control & (CONTROL_USUAL | CONTROL_ROUNDING)) == CONTROL_USUAL);
}

static inline void set_host_control(uint16_t value)
{
    __asm__ volatile("fldcw %0" : : "m"(value));
}

/* `code` sets `raised`, the host's status word; it is executed once, or again with cleared exceptions. */
#define COMPUTE_UNDER(control, code, ...)                                \
    unsigned control_ = (control);                                       \
    uint16_t raised = STATUS_FLAGS;                                      \
    bool is_done = false;                                                \
    if (is_masked(control_)) {                                           \
        if (!is_usual(control_)) {                                       \
            set_host_control(control_);                                  \
        }                                                                \
        code("", __VA_ARGS__);                                           \
        if (!is_usual(control_)) {                                       \
            set_host_control(CONTROL_USUAL);                             \
        }                                                                \
        is_done = !(raised & STATUS_FLAGS & ~STATUS);                    \
    }                                                                    \
    if (!is_done) {                                                      \
        __asm__ volatile("fnclex");                                      \
        set_host_control(control_ | CONTROL_COMPUTING);                  \
        code("fnclex\n\t", __VA_ARGS__);                                 \
        set_host_control(CONTROL_USUAL);                                 \
    }
#define COMPUTE(code, ...) COMPUTE_UNDER(CONTROL, code, __VA_ARGS__)

#define AND_DROP "\n\tfstp %%st(0)"
/* `b` is loaded, then `a`; the top is the result. */
#define BINARY_CODE(clear, operation, behind)                                                       \
    __asm__ volatile("fldt %3\n\tfldt %2\n\t" operation "\n\tfnstsw %%ax\n\t" clear "fstpt %0" behind   \
                     : "=m"(*result), "=a"(raised)                                                  \
                     : "m"(*a), "m"(*b)                                                             \
                     : "st", "st(1)")
/* The other operand is memory. */
#define MEMORY_CODE(clear, operation, value)                                                        \
    __asm__ volatile("fldt %2\n\t" operation " %3\n\tfnstsw %%ax\n\t" clear "fstpt %0"              \
                     : "=m"(*result), "=a"(raised)                                                  \
                     : "m"(*a), "m"(value)                                                          \
                     : "st")
#define UNARY_CODE(clear, load, operation, from)                                                    \
    __asm__ volatile(load " %2\n\t" operation "\n\tfnstsw %%ax\n\t" clear "fstpt %0"                \
                     : "=m"(result), "=a"(raised)                                                   \
                     : "m"(from)                                                                    \
                     : "st")
#define STORE_CODE(clear, store, from)                                                              \
    __asm__ volatile("fldt %2\n\t" store " %0\n\tfnstsw %%ax\n\t" clear                              \
                     : "=m"(value), "=a"(raised)                                                    \
                     : "m"(from)                                                                    \
                     : "st")
/* The result is below another one, unless the argument is out of range. */
#define PAIR_CODE(clear, operation, condition)                                                            \
    __asm__ volatile("fldt %3\n\t" operation "\n\tfnstsw %%ax\n\t" clear "testw %4, %%ax\n\tjnz 1f\n\t" \
                     "fstpt %1\n1:\tfstpt %0"                                                       \
                     : "=m"(result), "=m"(above), "=a"(raised)                                      \
                     : "m"(*ST(0)), "i"(condition)                                                  \
                     : "st", "st(1)", "cc")
#define COMPARE_CODE(clear, operation)                                                              \
    __asm__ volatile("fldt %2\n\tfldt %1\n\t" operation "\n\tfnstsw %%ax\n\t" clear "fstp %%st(0)" AND_DROP \
                     : "=a"(raised)                                                                 \
                     : "m"(*ST(0)), "m"(*FT0)                                                       \
                     : "st", "st(1)")
#define COMPARE_MEMORY_CODE(clear, operation, value)                                                \
    __asm__ volatile("fldt %1\n\t" operation " %2\n\tfnstsw %%ax\n\t" clear "fstp %%st(0)"           \
                     : "=a"(raised)                                                                 \
                     : "m"(*ST(0)), "m"(value)                                                      \
                     : "st")

/* ---- the stack --------------------------------------------------------------------------------------------- */

static inline void push(void *env, const Number *value)
{
    TOP = (TOP - 1) & 7;
    EMPTY(0) = false;
    put(ST(0), value);
}

static inline void drop(void *env)
{
    EMPTY(0) = true;
    TOP = (TOP + 1) & 7;
}

static inline void load(void *env, const Number *value)
{
    if (likely(EMPTY(7))) {
        push(env, value);
    } else if (stack_fault(env, true)) {
        push(env, &INDEFINITE);
    }
}

/* What is stored or compared: a register, or where it is empty the indefinite.  NULL: nothing goes on. */
static inline const Number *operand(void *env, unsigned n)
{
    if (likely(!EMPTY(n))) {
        return ST(n);
    }
    return stack_fault(env, false) ? &INDEFINITE : NULL;
}

/* What was pushed. */
static inline void fill(void *env, const Number *value)
{
    if (likely(MET != MET_REFUSED)) {
        put(ST(0), MET == MET_FULL ? &INDEFINITE : value);
    }
    MET = MET_NONE;
}

#endif
