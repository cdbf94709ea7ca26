/* SSE and SSE2 floating point by the host's own.
 *
 * Unicorn computes these in software, with the flags of its software.  The host is an x86-64: under the
 * guest's rounding, DAZ and FZ it computes the same, NaNs included, in a fraction of the time, and says which
 * exceptions there were.
 *
 * Traps
 * - The host's MXCSR must be as C expects it whenever translated code goes on: Unicorn's own software is
 *   compiled to SSE, too.
 * - All exceptions are masked while we compute; what the guest does not mask is raised behind, before the
 *   result is stored.
 * - The compiler does not know that arithmetic reads and writes MXCSR: all of it is volatile assembly, the
 *   accesses to MXCSR too, which alone stay in their order.
 *
 * References: Intel SDM volume 1 sections 10.2.3 and 11.5; volume 2 for each instruction.
 */

#include <emmintrin.h>
#include <string.h>

#include "rem.h"

enum {
    MXCSR_FLAGS = 0x3f,
    MXCSR_DAZ = 1 << 6,
    MXCSR_MASKS = 0x1f80, /* also what C expects */
    MXCSR_CONTROL = 0xe000 | MXCSR_DAZ,
    FLAGS_BEFORE = 7, /* invalid, denormal, division by zero: found before there is a result */
    CR4_OSXMMEXCPT = 1 << 10,
    VECTOR_XM = 19
};

static inline uint32_t host_mxcsr(void)
{
    uint32_t value;

    __asm__ volatile("stmxcsr %0" : "=m"(value));
    return value;
}

static inline void set_host_mxcsr(uint32_t value)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(value));
}

static inline void begin(uint32_t guest)
{
    set_host_mxcsr((guest & MXCSR_CONTROL) | MXCSR_MASKS);
}

/* Takes note of the exceptions that there were; does not return when one is not masked. */
static inline void end(void *env, uint32_t guest, uintptr_t back)
{
    uint32_t raised = host_mxcsr() & MXCSR_FLAGS, unmasked = raised & ~(guest >> 7);

    if (guest & MXCSR_CONTROL) {
        set_host_mxcsr(MXCSR_MASKS);
    }
    if (unlikely(unmasked != 0)) {
        /* What is found before there is a result keeps what is found behind from being looked for. */
        raised = unmasked & FLAGS_BEFORE ? raised & FLAGS_BEFORE : raised;
        FIELD(uint32_t, env, ENV_MXCSR) = guest | raised;
        lib.raise_exception_err_ra(env, FIELD(uint64_t, env, ENV_CR + 32) & CR4_OSXMMEXCPT ? VECTOR_XM : VECTOR_UD, 0,
                                   back);
    }
    FIELD(uint32_t, env, ENV_MXCSR) = guest | raised;
}

/* Loading MXCSR takes the host longer than the arithmetic.  While the guest has the usual control bits, and what
 * the host has noted since it was loaded is noted by the guest as well, nothing has to be loaded. */
static inline bool is_usual(uint32_t guest)
{
    return likely((guest & (MXCSR_CONTROL | MXCSR_MASKS)) == MXCSR_MASKS);
}

static inline bool is_noted(uint32_t guest)
{
    return likely(!(host_mxcsr() & MXCSR_FLAGS & ~guest));
}

#define LOAD(from) _mm_loadu_ps((const float *)(from))
#define STORE(to, value) _mm_storeu_ps((float *)(to), value)

/* `compute` is done once, or again with all of MXCSR as the guest has it. */
#define COMPUTE(compute)                                        \
    uint32_t guest = FIELD(uint32_t, env, ENV_MXCSR);           \
    bool done = false;                                          \
    if (is_usual(guest)) {                                      \
        compute;                                                \
        done = is_noted(guest);                                 \
    }                                                           \
    if (!done) {                                                \
        begin(guest);                                           \
        compute;                                                \
        end(env, guest, HERE);                                  \
    }

/* A register that gets the result and may be an operand; the other is a register or memory, or an integer. */
#define WITH_OPERAND(name, instruction, parameter, constraint, operand)                         \
    static void rem_##name(void *env, void *d, parameter)                                       \
    {                                                                                           \
        __m128 before = LOAD(d), result;                                                        \
        COMPUTE(result = before;                                                                \
                __asm__ volatile(instruction " %1, %0" : "+x"(result) : constraint(operand)))   \
        STORE(d, result);                                                                       \
    }
#define OPERATION(name) WITH_OPERAND(name, #name, const void *s, "x", LOAD(s))
#define FROM_INTEGER(name, instruction, type) WITH_OPERAND(name, instruction, type value, "r", value)

#define COMPARISON(name)                                                            \
    static void rem_##name(void *env, const void *d, const void *s)                 \
    {                                                                               \
        __m128 one = LOAD(d), other = LOAD(s);                                      \
        bool zero, parity, carry;                                                   \
        COMPUTE(__asm__ volatile(#name " %4, %3"                                    \
                                 : "=@ccz"(zero), "=@ccp"(parity), "=@ccc"(carry)   \
                                 : "x"(one), "x"(other)))                           \
        FIELD(uint64_t, env, ENV_CC_SRC) = zero << 6 | parity << 2 | carry;         \
    }

#define TO_INTEGER(name, instruction, type)                                                     \
    static type rem_##name(void *env, const void *s)                                            \
    {                                                                                           \
        __m128 operand = LOAD(s);                                                               \
        type result;                                                                            \
        COMPUTE(__asm__ volatile(instruction " %1, %0" : "=r"(result) : "x"(operand)))          \
        return result;                                                                          \
    }

#define OF_ALL(X, name) X(name##ps) X(name##pd) X(name##ss) X(name##sd)
#define OPERATIONS(X)                                                               \
    OF_ALL(X, add) OF_ALL(X, sub) OF_ALL(X, mul) OF_ALL(X, div)                     \
    OF_ALL(X, min) OF_ALL(X, max) OF_ALL(X, sqrt)                                   \
    OF_ALL(X, cmpeq) OF_ALL(X, cmplt) OF_ALL(X, cmple) OF_ALL(X, cmpunord)          \
    OF_ALL(X, cmpneq) OF_ALL(X, cmpnlt) OF_ALL(X, cmpnle) OF_ALL(X, cmpord)         \
    X(cvtps2pd) X(cvtpd2ps) X(cvtss2sd) X(cvtsd2ss) X(cvtdq2ps) X(cvtdq2pd)         \
    X(cvtps2dq) X(cvtpd2dq) X(cvttps2dq) X(cvttpd2dq)                               \
    X(rcpps) X(rcpss) X(rsqrtps) X(rsqrtss)
#define COMPARISONS(X) X(ucomiss) X(ucomisd) X(comiss) X(comisd)

OPERATIONS(OPERATION)
COMPARISONS(COMPARISON)
FROM_INTEGER(cvtsi2ss, "cvtsi2ssl", uint32_t)
FROM_INTEGER(cvtsi2sd, "cvtsi2sdl", uint32_t)
FROM_INTEGER(cvtsq2ss, "cvtsi2ssq", uint64_t)
FROM_INTEGER(cvtsq2sd, "cvtsi2sdq", uint64_t)
TO_INTEGER(cvtss2si, "cvtss2si", int32_t)
TO_INTEGER(cvtsd2si, "cvtsd2si", int32_t)
TO_INTEGER(cvttss2si, "cvttss2si", int32_t)
TO_INTEGER(cvttsd2si, "cvttsd2si", int32_t)
TO_INTEGER(cvtss2sq, "cvtss2si", int64_t)
TO_INTEGER(cvtsd2sq, "cvtsd2si", int64_t)
TO_INTEGER(cvttss2sq, "cvttss2si", int64_t)
TO_INTEGER(cvttsd2sq, "cvttsd2si", int64_t)

/* ---- between MMX and XMM: what the host does with XMM registers alone, whose upper half is then 0 --------- */

#define TO_MMX(name, instruction, load)                                                         \
    static void rem_##name(void *env, void *d, const void *s)                                   \
    {                                                                                           \
        __m128 operand = load, result;                                                          \
        COMPUTE(__asm__ volatile(instruction " %1, %0" : "=x"(result) : "x"(operand)))          \
        memcpy(d, &result, 8);                                                                  \
    }
#define LOWER_HALF _mm_castsi128_ps(_mm_loadl_epi64(s))

TO_MMX(cvtps2pi, "cvtps2dq", LOWER_HALF)
TO_MMX(cvttps2pi, "cvttps2dq", LOWER_HALF)
TO_MMX(cvtpd2pi, "cvtpd2dq", LOAD(s))
TO_MMX(cvttpd2pi, "cvttpd2dq", LOAD(s))
TO_MMX(cvtpi2ps, "cvtdq2ps", LOWER_HALF)

/* SSE3 and SSE4.1: for hosts that have them. */
#define LATER_OPERATIONS(X) X(addsubps) X(addsubpd) X(haddps) X(haddpd) X(hsubps) X(hsubpd)
LATER_OPERATIONS(OPERATION)

/* The rounding is in the instruction. */
#define WITH_CONTROL(name, n)                                                                            \
    case n: __asm__ volatile(#name " $" #n ", %1, %0" : "+x"(result) : "x"(operand)); break;
#define ROUNDING(name)                                                                                   \
    static void rem_##name##_xmm(void *env, void *d, const void *s, uint32_t control)                    \
    {                                                                                                    \
        __m128 before = LOAD(d), operand = LOAD(s), result;                                              \
        COMPUTE(result = before; switch (control & 15) {                                                 \
            WITH_CONTROL(name, 0) WITH_CONTROL(name, 1) WITH_CONTROL(name, 2) WITH_CONTROL(name, 3)      \
            WITH_CONTROL(name, 4) WITH_CONTROL(name, 5) WITH_CONTROL(name, 6) WITH_CONTROL(name, 7)      \
            WITH_CONTROL(name, 8) WITH_CONTROL(name, 9) WITH_CONTROL(name, 10) WITH_CONTROL(name, 11)    \
            WITH_CONTROL(name, 12) WITH_CONTROL(name, 13) WITH_CONTROL(name, 14) WITH_CONTROL(name, 15)  \
        })                                                                                               \
        STORE(d, result);                                                                                \
    }

ROUNDING(roundps)
ROUNDING(roundpd)
ROUNDING(roundss)
ROUNDING(roundsd)

/* The control says which products are summed, the others being 0, and which parts get the sum. */
#define DOT_PRODUCT(name, bits, count)                                                          \
    static void rem_##name##_xmm(void *env, void *d, const void *s, uint32_t control)           \
    {                                                                                           \
        __m128 before = LOAD(d), other = LOAD(s), factors, sums, result;                        \
        int##bits##_t chosen[count], wanted[count];                                             \
        for (int i = 0; i < count; i++) {                                                       \
            chosen[i] = -(int##bits##_t)(control >> (4 + i) & 1);                               \
            wanted[i] = -(int##bits##_t)(control >> i & 1);                                     \
        }                                                                                       \
        factors = _mm_and_ps(before, LOAD(chosen));                                             \
        other = _mm_and_ps(other, LOAD(chosen));                                                \
        COMPUTE(sums = factors; __asm__ volatile(#name " $255, %1, %0" : "+x"(sums) : "x"(other))) \
        result = _mm_and_ps(sums, LOAD(wanted));                                                \
        STORE(d, result);                                                                       \
    }

DOT_PRODUCT(dpps, 32, 4)
DOT_PRODUCT(dppd, 64, 2)

#define ROW(name) {"helper_" #name, (void *)rem_##name},

const Replacement sse_replacements[] = {
    OPERATIONS(ROW)
    COMPARISONS(ROW)
    ROW(cvtsi2ss) ROW(cvtsi2sd) ROW(cvtsq2ss) ROW(cvtsq2sd)
    ROW(cvtss2si) ROW(cvtsd2si) ROW(cvttss2si) ROW(cvttsd2si)
    ROW(cvtss2sq) ROW(cvtsd2sq) ROW(cvttss2sq) ROW(cvttsd2sq)
    ROW(cvtps2pi) ROW(cvttps2pi) ROW(cvtpd2pi) ROW(cvttpd2pi) ROW(cvtpi2ps)
    {NULL, NULL},
};

const Replacement sse4_replacements[] = {
    LATER_OPERATIONS(ROW)
    ROW(dpps_xmm) ROW(dppd_xmm)
    ROW(roundps_xmm) ROW(roundpd_xmm) ROW(roundss_xmm) ROW(roundsd_xmm)
    {NULL, NULL},
};
