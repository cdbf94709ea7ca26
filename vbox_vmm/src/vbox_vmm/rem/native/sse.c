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
 * - Reading MXCSR takes some hosts longer than the arithmetic.  Where the numbers show that there was no exception but
 * PE, which the guest has noted long ago as a rule, nothing is read.
 * - Translated code moves 8 bytes at a time: 16 that are loaded at once would wait for what was stored just now.
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
    MXCSR_PE = 0x20, /* inexact */
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

/* While the guest has the usual control bits, and what the host has noted since MXCSR was loaded is noted by the
 * guest as well, nothing has to be loaded, either. */
static inline bool is_usual(uint32_t guest)
{
    return likely((guest & (MXCSR_CONTROL | MXCSR_MASKS)) == MXCSR_MASKS);
}

static inline bool is_noted(uint32_t guest)
{
    return likely(!(host_mxcsr() & MXCSR_FLAGS & ~guest));
}

static inline bool is_inexact_noted(uint32_t guest)
{
    return likely((guest & (MXCSR_CONTROL | MXCSR_MASKS | MXCSR_PE)) == (MXCSR_MASKS | MXCSR_PE));
}

static inline __m128 load_halves(const double *from)
{
    return _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(from), from + 1));
}

#define LOAD(from) load_halves((const double *)(from))
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

/* ---- scalars -------------------------------------------------------------------------------------------- */

#define SCALAR(kind, type, name, exponents, to_integer, load, store)                            \
    static inline __m128 load_##kind(const void *from) { return load; }                         \
    static inline void store_##kind(void *to, __m128 value) { store; }                          \
    static inline type bits_##kind(__m128 value) { return (type)to_integer(_mm_castps_si128(value)); } \
    static inline unsigned exponent_##kind(__m128 value)                                        \
    {                                                                                           \
        return bits_##kind(value) >> (sizeof(type) == 8 ? 52 : 23) & exponents;                 \
    }                                                                                           \
    /* Neither zero nor denormal nor infinite nor a NaN. */                                     \
    static inline bool is_normal_##kind(__m128 value)                                           \
    {                                                                                           \
        return likely(exponent_##kind(value) - 1 < exponents - 1);                              \
    }                                                                                           \
    static inline bool is_plain_##kind(__m128 value)                                            \
    {                                                                                           \
        return is_normal_##kind(value) || !(type)(bits_##kind(value) << 1);                     \
    }                                                                                           \
    /* A result that is in no danger of having been tiny, nor of being infinite. */             \
    static inline bool is_safe_##kind(__m128 value)                                             \
    {                                                                                           \
        return likely(exponent_##kind(value) - 2 < exponents - 2);                              \
    }

SCALAR(ss, uint32_t, float, 0xffu, _mm_cvtsi128_si32, _mm_load_ss(from), _mm_store_ss(to, value))
SCALAR(sd, uint64_t, double, 0x7ffu, _mm_cvtsi128_si64, _mm_castpd_ps(_mm_load_sd(from)),
       _mm_store_sd(to, _mm_castps_pd(value)))

/* `quiet` says that there was no exception, or PE where `noted` made sure of that; then it is all. */
#define SCALAR_OPERATION(name, kind, noted, quiet)                                              \
    static void rem_##name(void *env, void *d, const void *s)                                   \
    {                                                                                           \
        __m128 before = load_##kind(d), other = load_##kind(s), result = before;                \
        if (noted(FIELD(uint32_t, env, ENV_MXCSR))) {                                           \
            __asm__ volatile(#name " %1, %0" : "+x"(result) : "x"(other));                      \
            if (quiet) {                                                                        \
                store_##kind(d, result);                                                        \
                return;                                                                         \
            }                                                                                   \
        }                                                                                       \
        COMPUTE(result = before; __asm__ volatile(#name " %1, %0" : "+x"(result) : "x"(other))) \
        store_##kind(d, result);                                                                \
    }
#define SUM(name, kind)                                                                         \
    SCALAR_OPERATION(name##kind, kind, is_inexact_noted,                                        \
                     is_plain_##kind(before) && is_plain_##kind(other) && is_safe_##kind(result))
#define QUOTIENT(name, kind)                                                                    \
    SCALAR_OPERATION(name##kind, kind, is_inexact_noted,                                        \
                     is_plain_##kind(before) && is_normal_##kind(other) && is_safe_##kind(result))
#define ROOT(name, kind)                                                                        \
    SCALAR_OPERATION(name##kind, kind, is_inexact_noted, is_normal_##kind(other) && is_safe_##kind(result))
#define CHOICE(name, kind)                                                                      \
    SCALAR_OPERATION(name##kind, kind, is_usual, is_plain_##kind(before) && is_plain_##kind(other))
#define OF_BOTH(X, name) X(name, ss) X(name, sd)

#define FROM_INTEGER(name, kind, instruction, type, noted)                                      \
    static void rem_##name(void *env, void *d, type value)                                      \
    {                                                                                           \
        __m128 result = _mm_setzero_ps();                                                       \
        if (noted(FIELD(uint32_t, env, ENV_MXCSR))) {                                           \
            __asm__ volatile(instruction " %1, %0" : "+x"(result) : "r"(value));                \
        } else {                                                                                \
            COMPUTE(__asm__ volatile(instruction " %1, %0" : "+x"(result) : "r"(value)))        \
        }                                                                                       \
        store_##kind(d, result);                                                                \
    }

#define TO_INTEGER(name, kind, instruction, type, indefinite)                                   \
    static type rem_##name(void *env, const void *s)                                            \
    {                                                                                           \
        __m128 operand = load_##kind(s);                                                        \
        type result;                                                                            \
        if (is_inexact_noted(FIELD(uint32_t, env, ENV_MXCSR))) {                                \
            __asm__ volatile(instruction " %1, %0" : "=r"(result) : "x"(operand));              \
            if (is_plain_##kind(operand) && likely(result != indefinite)) {                     \
                return result;                                                                  \
            }                                                                                   \
        }                                                                                       \
        COMPUTE(__asm__ volatile(instruction " %1, %0" : "=r"(result) : "x"(operand)))          \
        return result;                                                                          \
    }

#define COMPARE(name)                                                                           \
    __asm__ volatile(name " %4, %3" : "=@ccz"(zero), "=@ccp"(parity), "=@ccc"(carry) : "x"(one), "x"(other))
#define COMPARISON(name, kind)                                                                  \
    static void rem_##name##kind(void *env, const void *d, const void *s)                       \
    {                                                                                           \
        __m128 one = load_##kind(d), other = load_##kind(s);                                    \
        bool zero, parity, carry;                                                               \
        if (is_usual(FIELD(uint32_t, env, ENV_MXCSR)) && is_plain_##kind(one) && is_plain_##kind(other)) { \
            COMPARE(#name #kind);                                                               \
        } else {                                                                                \
            COMPUTE(COMPARE(#name #kind))                                                       \
        }                                                                                       \
        FIELD(uint64_t, env, ENV_CC_SRC) = zero << 6 | parity << 2 | carry;                     \
    }

/* From one kind to the other. */
#define BETWEEN(name, from, to, noted, quiet)                                                   \
    static void rem_##name(void *env, void *d, const void *s)                                   \
    {                                                                                           \
        __m128 operand = load_##from(s), result;                                                \
        if (noted(FIELD(uint32_t, env, ENV_MXCSR)) && is_plain_##from(operand)) {               \
            __asm__ volatile(#name " %1, %0" : "=x"(result) : "x"(operand));                    \
            if (quiet) {                                                                        \
                store_##to(d, result);                                                          \
                return;                                                                         \
            }                                                                                   \
        }                                                                                       \
        COMPUTE(__asm__ volatile(#name " %1, %0" : "=x"(result) : "x"(operand)))                \
        store_##to(d, result);                                                                  \
    }

#define SCALARS(SUM, QUOTIENT, ROOT, CHOICE, COMPARISON)                                        \
    OF_BOTH(SUM, add) OF_BOTH(SUM, sub) OF_BOTH(SUM, mul) OF_BOTH(QUOTIENT, div) OF_BOTH(ROOT, sqrt) \
    OF_BOTH(CHOICE, min) OF_BOTH(CHOICE, max)                                                   \
    OF_BOTH(CHOICE, cmpeq) OF_BOTH(CHOICE, cmplt) OF_BOTH(CHOICE, cmple) OF_BOTH(CHOICE, cmpunord) \
    OF_BOTH(CHOICE, cmpneq) OF_BOTH(CHOICE, cmpnlt) OF_BOTH(CHOICE, cmpnle) OF_BOTH(CHOICE, cmpord) \
    OF_BOTH(COMPARISON, ucomi) OF_BOTH(COMPARISON, comi)

SCALARS(SUM, QUOTIENT, ROOT, CHOICE, COMPARISON)
FROM_INTEGER(cvtsi2ss, ss, "cvtsi2ssl", uint32_t, is_inexact_noted)
FROM_INTEGER(cvtsi2sd, sd, "cvtsi2sdl", uint32_t, is_usual)
FROM_INTEGER(cvtsq2ss, ss, "cvtsi2ssq", uint64_t, is_inexact_noted)
FROM_INTEGER(cvtsq2sd, sd, "cvtsi2sdq", uint64_t, is_inexact_noted)
TO_INTEGER(cvtss2si, ss, "cvtss2si", int32_t, INT32_MIN)
TO_INTEGER(cvtsd2si, sd, "cvtsd2si", int32_t, INT32_MIN)
TO_INTEGER(cvttss2si, ss, "cvttss2si", int32_t, INT32_MIN)
TO_INTEGER(cvttsd2si, sd, "cvttsd2si", int32_t, INT32_MIN)
TO_INTEGER(cvtss2sq, ss, "cvtss2si", int64_t, INT64_MIN)
TO_INTEGER(cvtsd2sq, sd, "cvtsd2si", int64_t, INT64_MIN)
TO_INTEGER(cvttss2sq, ss, "cvttss2si", int64_t, INT64_MIN)
TO_INTEGER(cvttsd2sq, sd, "cvttsd2si", int64_t, INT64_MIN)
BETWEEN(cvtss2sd, ss, sd, is_usual, true)
BETWEEN(cvtsd2ss, sd, ss, is_inexact_noted, is_safe_ss(result))

/* ---- all of a register ------------------------------------------------------------------------------------ */

/* One that gets the result and may be an operand; the other is a register or memory. */
#define OPERATION(name)                                                                         \
    static void rem_##name(void *env, void *d, const void *s)                                   \
    {                                                                                           \
        __m128 before = LOAD(d), other = LOAD(s), result;                                       \
        COMPUTE(result = before; __asm__ volatile(#name " %1, %0" : "+x"(result) : "x"(other))) \
        STORE(d, result);                                                                       \
    }

#define OF_PACKED(X, name) X(name##ps) X(name##pd)
#define OPERATIONS(X)                                                               \
    OF_PACKED(X, add) OF_PACKED(X, sub) OF_PACKED(X, mul) OF_PACKED(X, div)         \
    OF_PACKED(X, min) OF_PACKED(X, max) OF_PACKED(X, sqrt)                          \
    OF_PACKED(X, cmpeq) OF_PACKED(X, cmplt) OF_PACKED(X, cmple) OF_PACKED(X, cmpunord) \
    OF_PACKED(X, cmpneq) OF_PACKED(X, cmpnlt) OF_PACKED(X, cmpnle) OF_PACKED(X, cmpord) \
    X(cvtps2pd) X(cvtpd2ps) X(cvtdq2ps) X(cvtdq2pd)                                 \
    X(cvtps2dq) X(cvtpd2dq) X(cvttps2dq) X(cvttpd2dq)                               \
    X(rcpps) X(rcpss) X(rsqrtps) X(rsqrtss)

OPERATIONS(OPERATION)

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
#define SCALAR_ROW(name, kind) ROW(name##kind)

const Replacement sse_replacements[] = {
    OPERATIONS(ROW)
    SCALARS(SCALAR_ROW, SCALAR_ROW, SCALAR_ROW, SCALAR_ROW, SCALAR_ROW)
    ROW(cvtss2sd) ROW(cvtsd2ss) ROW(cvtsi2ss) ROW(cvtsi2sd) ROW(cvtsq2ss) ROW(cvtsq2sd)
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
