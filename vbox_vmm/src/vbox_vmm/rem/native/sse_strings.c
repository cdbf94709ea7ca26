/* PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM.
 *
 * Unicorn does not find a string in part at the end, and reads far beyond the operands when a length has no
 * absolute value.
 *
 * Reference: Intel SDM volume 2 section 4.1, whose names these are.
 */
#include <string.h>

#include "rem.h"

enum {
    CONTROL_WORDS = 1,
    CONTROL_SIGNED = 2,
    CONTROL_NEGATIVE = 0x10,
    CONTROL_MASKED = 0x20, /* negative only where there is an element */
    CONTROL_MOST = 0x40,   /* the most significant index, or a mask of whole elements */
    CONTROL_WIDE = 0x100   /* REX.W */
};
enum { EQUAL_ANY, RANGES, EQUAL_EACH, EQUAL_ORDERED };

typedef struct {
    int value[16];
    unsigned length, room;
} String;

static void string_read(String *string, const void *from, uint32_t control)
{
    string->room = control & CONTROL_WORDS ? 8 : 16;
    for (unsigned i = 0; i < string->room; i++) {
        switch (control & (CONTROL_WORDS | CONTROL_SIGNED)) {
        case 0: string->value[i] = FIELD(uint8_t, from, i); break;
        case CONTROL_WORDS: string->value[i] = FIELD(uint16_t, from, i * 2); break;
        case CONTROL_SIGNED: string->value[i] = FIELD(int8_t, from, i); break;
        default: string->value[i] = FIELD(int16_t, from, i * 2);
        }
    }
}

static void ends_at_zero(String *string)
{
    string->length = 0;
    while (string->length < string->room && string->value[string->length] != 0) {
        string->length++;
    }
}

static void has_length(String *string, uint64_t value, bool is_wide)
{
    int64_t length = is_wide ? (int64_t)value : (int32_t)value;
    uint64_t magnitude = length < 0 ? -(uint64_t)length : (uint64_t)length;

    string->length = magnitude < string->room ? (unsigned)magnitude : string->room;
}

/* IntRes1 at an element of the second string. */
static bool is_match(const String *first, const String *second, unsigned at, unsigned aggregation)
{
    switch (aggregation) {
    case EQUAL_ANY:
        for (unsigned i = 0; i < first->length && at < second->length; i++) {
            if (first->value[i] == second->value[at]) {
                return true;
            }
        }
        return false;
    case RANGES:
        for (unsigned i = 0; i + 1 < first->length && at < second->length; i += 2) {
            if (first->value[i] <= second->value[at] && second->value[at] <= first->value[i + 1]) {
                return true;
            }
        }
        return false;
    case EQUAL_EACH:
        if (at >= first->length || at >= second->length) {
            return at >= first->length && at >= second->length;
        }
        return first->value[at] == second->value[at];
    default:
        for (unsigned i = 0; i < first->length && at + i < second->room; i++) {
            if (at + i >= second->length || first->value[i] != second->value[at + i]) {
                return false;
            }
        }
        return true;
    }
}

/* IntRes2; sets the flags. */
static unsigned compare(void *env, const String *first, const String *second, uint32_t control)
{
    unsigned result = 0;

    for (unsigned i = 0; i < second->room; i++) {
        bool is_set = is_match(first, second, i, control >> 2 & 3);
        if (control & CONTROL_NEGATIVE && (!(control & CONTROL_MASKED) || i < second->length)) {
            is_set = !is_set;
        }
        result |= (unsigned)is_set << i;
    }
    FIELD(uint64_t, env, ENV_CC_SRC) = (result != 0 ? FLAG_CF : 0) | (second->length < second->room ? FLAG_ZF : 0) |
                                       (first->length < first->room ? FLAG_SF : 0) | (result & 1 ? FLAG_OF : 0);
    return result;
}

static unsigned compare_explicit(void *env, const void *d, const void *s, uint32_t control)
{
    String first, second;

    string_read(&first, d, control);
    string_read(&second, s, control);
    has_length(&first, FIELD(uint64_t, env, ENV_REGS + R_AX * 8), control & CONTROL_WIDE);
    has_length(&second, FIELD(uint64_t, env, ENV_REGS + R_DX * 8), control & CONTROL_WIDE);
    return compare(env, &first, &second, control);
}

static unsigned compare_implicit(void *env, const void *d, const void *s, uint32_t control)
{
    String first, second;

    string_read(&first, d, control);
    string_read(&second, s, control);
    ends_at_zero(&first);
    ends_at_zero(&second);
    return compare(env, &first, &second, control);
}

static void give_index(void *env, unsigned result, uint32_t control)
{
    unsigned index = control & CONTROL_WORDS ? 8 : 16;

    if (result != 0) {
        index = control & CONTROL_MOST ? 31 - __builtin_clz(result) : __builtin_ctz(result);
    }
    FIELD(uint64_t, env, ENV_REGS + R_CX * 8) = index;
}

static void give_mask(void *env, unsigned result, uint32_t control)
{
    unsigned size = control & CONTROL_WORDS ? 2 : 1;
    char mask[16] = {0};

    if (control & CONTROL_MOST) {
        for (unsigned i = 0; i < sizeof mask; i++) {
            mask[i] = (char)-(result >> i / size & 1);
        }
    } else {
        memcpy(mask, &result, 2);
    }
    memcpy((char *)env + ENV_XMM, mask, sizeof mask);
}

#define COMPARISON(name, compare, give)                                                     \
    static void rem_##name##_xmm(void *env, void *d, void *s, uint32_t control)             \
    {                                                                                       \
        give(env, compare(env, d, s, control), control);                                    \
    }

COMPARISON(pcmpestri, compare_explicit, give_index)
COMPARISON(pcmpestrm, compare_explicit, give_mask)
COMPARISON(pcmpistri, compare_implicit, give_index)
COMPARISON(pcmpistrm, compare_implicit, give_mask)

const Replacement string_replacements[] = {
    {"helper_pcmpestri_xmm", (void *)rem_pcmpestri_xmm},
    {"helper_pcmpestrm_xmm", (void *)rem_pcmpestrm_xmm},
    {"helper_pcmpistri_xmm", (void *)rem_pcmpistri_xmm},
    {"helper_pcmpistrm_xmm", (void *)rem_pcmpistrm_xmm},
    {NULL, NULL},
};
