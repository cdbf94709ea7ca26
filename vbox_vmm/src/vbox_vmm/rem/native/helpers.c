/* Instructions that Unicorn leaves to its user or does not do as the CPU does.
 *
 * Translated code calls these functions in place of Unicorn's (`replacement_of`).  Each is called from
 * generated code directly, so that its return address tells where in the block a fault happened; where one
 * goes on to Unicorn's own function, that must be its last call, which the compiler makes a jump.
 *
 * References: Intel SDM volume 2 (IN, OUT, SYSENTER, RDTSC), volume 1 section 19.5 (I/O permission bit
 * map); AMD APM volume 3 (SYSCALL).
 */
#include "rem.h"

#define REG(number) FIELD(uint64_t, env, ENV_REGS + (number) * 8)
#define EFLAGS FIELD(uint64_t, env, ENV_EFLAGS)
#define HFLAGS FIELD(uint32_t, env, ENV_HFLAGS)

/* ---- flags: Unicorn keeps the arithmetic ones and DF apart while guest code runs ------------------ */

static uint32_t flags_now(void *env)
{
    uint64_t arithmetic =
        lib.helper_cc_compute_all(FIELD(uint64_t, env, ENV_CC_DST), FIELD(uint64_t, env, ENV_CC_SRC),
                                  FIELD(uint64_t, env, ENV_CC_SRC2), FIELD(int, env, ENV_CC_OP));
    return (uint32_t)EFLAGS | (uint32_t)arithmetic | (FIELD(uint32_t, env, ENV_DF) & FLAG_DF);
}

static void flags_load(void *env, uint32_t flags)
{
    FIELD(uint64_t, env, ENV_CC_SRC) = flags & FLAGS_ARITHMETIC;
    FIELD(uint32_t, env, ENV_CC_OP) = CC_OP_EFLAGS;
    FIELD(int, env, ENV_DF) = flags & FLAG_DF ? -1 : 1;
    EFLAGS = (flags & ~(uint32_t)(FLAGS_ARITHMETIC | FLAG_DF)) | 2;
}

/* ---- system calls ---------------------------------------------------------------------------------- */

static void flat_segment(void *env, int which, uint32_t selector, uint32_t flags)
{
    SegmentCache *s = &FIELD(SegmentCache, env, ENV_SEGS + which * sizeof(SegmentCache));

    s->selector = selector;
    s->base = 0;
    s->limit = UINT32_MAX;
    s->flags = DESC_G | DESC_P | DESC_S | DESC_RW | DESC_A | flags;
}

static void rem_syscall(void *env, int length)
{
    uint32_t selector = FIELD(uint64_t, env, ENV_STAR) >> 32 & 0xfffc;

    if (!(FIELD(uint64_t, env, ENV_EFER) & 1)) {
        lib.raise_exception_err_ra(env, VECTOR_UD, 0, HERE);
    }
    if (HFLAGS & HF_LMA) {
        bool long_code = HFLAGS & HF_CS64;
        uint32_t flags = flags_now(env);
        REG(R_CX) = FIELD(uint64_t, env, ENV_EIP) + length;
        REG(11) = flags & ~(uint32_t)FLAG_RF;
        flags_load(env, flags & ~((uint32_t)FIELD(uint64_t, env, ENV_FMASK) | FLAG_RF));
        flat_segment(env, SEG_CS, selector, DESC_CODE | DESC_L);
        flat_segment(env, SEG_SS, (selector + 8) & 0xfffc, DESC_B);
        FIELD(uint64_t, env, ENV_EIP) = FIELD(uint64_t, env, long_code ? ENV_LSTAR : ENV_CSTAR);
    } else {
        REG(R_CX) = (uint32_t)(FIELD(uint64_t, env, ENV_EIP) + length);
        EFLAGS &= ~(uint64_t)(FLAG_IF | FLAG_RF | FLAG_VM);
        flat_segment(env, SEG_CS, selector, DESC_CODE | DESC_B);
        flat_segment(env, SEG_SS, (selector + 8) & 0xfffc, DESC_B);
        FIELD(uint64_t, env, ENV_EIP) = (uint32_t)FIELD(uint64_t, env, ENV_STAR);
    }
    update_hflags(env);
}

static void rem_sysenter(void *env, int length)
{
    uint32_t selector = FIELD(uint32_t, env, ENV_SYSENTER_CS) & 0xfffc;
    bool is_long = HFLAGS & HF_LMA;

    (void)length;
    if (is_long && FIELD(uint32_t, env, ENV_CPUID_VENDOR) == 0x68747541) {
        lib.raise_exception_err_ra(env, VECTOR_UD, 0, HERE); /* AMD: not in long mode */
    }
    if (selector == 0) {
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, HERE);
    }
    EFLAGS &= ~(uint64_t)(FLAG_VM | FLAG_IF | FLAG_RF);
    flat_segment(env, SEG_CS, selector, DESC_CODE | (is_long ? DESC_L : DESC_B));
    flat_segment(env, SEG_SS, (selector + 8) & 0xfffc, DESC_B);
    REG(R_SP) = FIELD(uint64_t, env, ENV_SYSENTER_ESP);
    FIELD(uint64_t, env, ENV_EIP) = FIELD(uint64_t, env, ENV_SYSENTER_EIP);
    if (!is_long) {
        REG(R_SP) = (uint32_t)REG(R_SP);
        FIELD(uint64_t, env, ENV_EIP) = (uint32_t)FIELD(uint64_t, env, ENV_EIP);
    }
    update_hflags(env);
}

/* ---- INT n: remember where it stands; faults that are known beforehand ---------------------------------------------------------------- */

static void rem_raise_interrupt(void *env, int vector, int length)
{
    machine_of_env(env)->interrupt_eip = FIELD(uint64_t, env, ENV_EIP);
    lib.helper_raise_interrupt(env, vector, length);
}

static void rem_into(void *env, int length)
{
    Machine *m = machine_of_env(env);

    m->interrupt_eip = FIELD(uint64_t, env, ENV_EIP);
    if (flags_now(env) & FLAG_OF) {
        count_ends_here(m, HERE);
    }
    lib.helper_into(env, length);
}

/* Unicorn raises what the translator finds wrong as if all of the block had been executed. */
static void rem_raise_exception(void *env, int vector)
{
    lib.raise_exception_err_ra(env, vector, 0, HERE);
}

/* ---- IN and OUT --------------------------------------------------------------------------------- */

/* CPL above IOPL, or virtual-8086 mode: the TSS must allow each port. */
static bool is_restricted(void *env)
{
    uint64_t flags = EFLAGS;
    return FIELD(uint64_t, env, ENV_CR) & 1 && (flags & FLAG_VM || (HFLAGS & HF_CPL) > (flags >> 12 & 3));
}

void check_permission(void *env, uint32_t port, unsigned size, uintptr_t back)
{
    const SegmentCache *tss = &FIELD(SegmentCache, env, ENV_TR);
    uint32_t hflags = HFLAGS, type = tss->flags >> 8 & 15, at;
    uint64_t flags = EFLAGS;
    int mode;

    if (!is_restricted(env)) {
        return;
    }
    if (!(tss->flags & DESC_P) || (type != 9 && type != 11) || tss->limit < 103) {
        goto fault;
    }
    mode = !(hflags & HF_SMAP) || ((hflags & HF_CPL) < 3 && flags & FLAG_AC) ? MMU_KNOSMAP : MMU_KSMAP;
    at = lib.cpu_lduw_mmuidx_ra(env, tss->base + 0x66, mode, back) + (port >> 3);
    if (at + 1 > tss->limit) {
        goto fault;
    }
    if ((lib.cpu_lduw_mmuidx_ra(env, tss->base + at, mode, back) >> (port & 7) & ((1u << size) - 1)) == 0) {
        return;
    }
fault:
    lib.raise_exception_err_ra(env, VECTOR_GP, 0, back);
}

#define IN(letter, size)                                             \
    uint64_t rem_in##letter(void *env, uint32_t port)                \
    {                                                                \
        Machine *m = machine_of_env(env);                            \
        check_permission(env, port & 0xffff, size, HERE);            \
        m->back = HERE;                                              \
        return port_read(m, port & 0xffff, size);                    \
    }
#define OUT(letter, size)                                                \
    void rem_out##letter(void *env, uint32_t port, uint32_t value) \
    {                                                                    \
        Machine *m = machine_of_env(env);                                \
        check_permission(env, port & 0xffff, size, HERE);                \
        m->back = HERE;                                                  \
        port_write(m, port & 0xffff, size, value);                       \
    }

IN(b, 1)
IN(w, 2)
IN(l, 4)
OUT(b, 1)
OUT(w, 2)
OUT(l, 4)

#define STRING(letter, size)                                        \
    static void rem_check_string##letter(void *env)                 \
    {                                                               \
        check_permission(env, (uint16_t)REG(R_DX), size, HERE);     \
    }

STRING(b, 1)
STRING(w, 2)
STRING(l, 4)

/* Asked while code is translated for the state that the CPU is in; CPL, IOPL and VM are part of a
 * translation's key. */
void *string_io_check(void *env, void *port_helper)
{
    static const struct {
        void *port, *check;
    } checks[] = {
        {(void *)rem_inb, (void *)rem_check_stringb},  {(void *)rem_inw, (void *)rem_check_stringw},
        {(void *)rem_inl, (void *)rem_check_stringl},  {(void *)rem_outb, (void *)rem_check_stringb},
        {(void *)rem_outw, (void *)rem_check_stringw}, {(void *)rem_outl, (void *)rem_check_stringl},
    };

    for (size_t i = 0; is_restricted(env) && i < sizeof checks / sizeof checks[0]; i++) {
        if (checks[i].port == port_helper) {
            return checks[i].check;
        }
    }
    return NULL;
}

/* ---- control registers: Unicorn takes any value ----------------------------------------------------- */

static bool has_feature(void *env, int word, int bit)
{
    return FIELD(uint64_t, env, ENV_FEATURES + word * 8) >> bit & 1;
}

static bool cr0_is_valid(void *env, uint64_t value)
{
    bool opens_paging = value & CR0_PG && !(FIELD(uint64_t, env, ENV_CR) & CR0_PG);

    if (value >> 32 || (value & CR0_PG && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD))) {
        return false;
    }
    if (HFLAGS & HF_CS64 && !(value & CR0_PG)) {
        return false;
    }
    return !(opens_paging && FIELD(uint64_t, env, ENV_EFER) & EFER_LME) || FIELD(uint64_t, env, ENV_CR + 32) & CR4_PAE;
}

static bool cr4_is_valid(void *env, uint64_t value)
{
    static const struct {
        uint8_t bit, word, feature;
    } needs[] = {
        {0, FEATURES_1_EDX, 1},   {1, FEATURES_1_EDX, 1},   {2, FEATURES_1_EDX, 4},  {3, FEATURES_1_EDX, 2},
        {4, FEATURES_1_EDX, 3},   {5, FEATURES_1_EDX, 6},   {6, FEATURES_1_EDX, 7},  {7, FEATURES_1_EDX, 13},
        {9, FEATURES_1_EDX, 24},  {10, FEATURES_1_EDX, 25}, {11, FEATURES_7_ECX, 2}, {16, FEATURES_7_EBX, 0},
        {18, FEATURES_1_ECX, 26}, {20, FEATURES_7_EBX, 7},  {21, FEATURES_7_EBX, 20}, {22, FEATURES_7_ECX, 3},
    };
    uint64_t allowed = 1 << 8; /* PCE */

    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++) {
        allowed |= (uint64_t)has_feature(env, needs[i].word, needs[i].feature) << needs[i].bit;
    }
    return !(value & ~allowed) && (value & CR4_PAE || !(HFLAGS & HF_LMA));
}

static void rem_write_crN(void *env, int number, uint64_t value)
{
    bool valid = true;

    if (!(HFLAGS & HF_CS64)) {
        value = (uint32_t)value;
    }
    switch (number) {
    case 0: valid = cr0_is_valid(env, value); break;
    case 3: valid = !(HFLAGS & HF_LMA) || value < PHYSICAL_END; break;
    case 4: valid = cr4_is_valid(env, value); break;
    case 8: valid = value < 16; break;
    }
    if (!valid) {
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, HERE);
    }
    lib.helper_write_crN(env, number, value);
}

static uint64_t rem_read_crN(void *env, int number)
{
    return number == 8 ? FIELD(uint8_t, env, ENV_V_TPR) & 15 : lib.helper_read_crN(env, number);
}

static void rem_ldmxcsr(void *env, uint32_t value)
{
    if (value >> 16) {
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, HERE);
    }
    lib.helper_ldmxcsr(env, value);
}

/* Unicorn lets IRET enter virtual-8086 mode from any ring, with any IOPL.  For an outer ring the bit does not
 * count: take it out of what is about to be popped. */
static void rem_iret_protected(void *env, int shift, int next)
{
    const SegmentCache *stack = &FIELD(SegmentCache, env, ENV_SEGS + SEG_SS * sizeof(SegmentCache));

    if (shift == 1 && HFLAGS & HF_CPL && !(EFLAGS & FLAG_NT)) {
        uint64_t offset = REG(R_SP) + 8 + FLAG_VM_BYTE, address;
        uint32_t byte;

        if (HFLAGS & HF_CS64) {
            address = offset;
        } else {
            address = (uint32_t)(stack->base + (offset & (stack->flags & DESC_B ? UINT32_MAX : UINT16_MAX)));
        }
        byte = lib.cpu_ldub_mmuidx_ra(env, address, data_mode(env), HERE);
        if (byte & FLAG_VM >> FLAG_VM_BYTE * 8) {
            lib.cpu_stb_mmuidx_ra(env, address, byte & ~(FLAG_VM >> FLAG_VM_BYTE * 8), data_mode(env), HERE);
        }
    }
    lib.helper_iret_protected(env, shift, next);
}

static void rem_ltr(void *env, int selector)
{
    if (!(selector & 0xfffc)) {
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, HERE);
    }
    lib.helper_ltr(env, selector);
}

/* ---- horizontal sums: Unicorn writes the destination while it reads a source that may be the same ---------- */

#define HORIZONTAL(name)                                                \
    static void rem_##name##_xmm(void *env, void *d, const void *s)     \
    {                                                                   \
        _Alignas(16) char copy[16];                                     \
        memcpy(copy, s, sizeof copy);                                   \
        lib.helper_##name##_xmm(env, d, copy);                          \
    }

HORIZONTAL(phaddw)
HORIZONTAL(phaddd)
HORIZONTAL(phaddsw)
HORIZONTAL(phsubw)
HORIZONTAL(phsubd)
HORIZONTAL(phsubsw)

/* ---- time-stamp counter, MSRs, CPUID ------------------------------------------------------------------ */

enum { MSR_TSC = 0x10, MSR_TSC_ADJUST = 0x3b };

static void set_edx_eax(void *env, uint64_t value)
{
    REG(R_AX) = (uint32_t)value;
    REG(R_DX) = value >> 32;
}

static void check_tsd(void *env, uintptr_t back)
{
    if (FIELD(uint64_t, env, ENV_CR + 4 * 8) & 4 && HFLAGS & HF_CPL) {
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, back);
    }
}

static uint64_t guest_tsc(void *env, uintptr_t back)
{
    Machine *m = machine_of_env(env);
    return tsc_read(m, back) + m->tsc_offset;
}

static void rem_rdtsc(void *env)
{
    check_tsd(env, HERE);
    set_edx_eax(env, guest_tsc(env, HERE));
}

static void rem_rdtscp(void *env)
{
    check_tsd(env, HERE);
    set_edx_eax(env, guest_tsc(env, HERE));
    REG(R_CX) = (uint32_t)FIELD(uint64_t, env, ENV_TSC_AUX);
}

static void rem_rdmsr(void *env)
{
    switch ((uint32_t)REG(R_CX)) {
    case MSR_TSC: set_edx_eax(env, guest_tsc(env, HERE)); break;
    case MSR_TSC_ADJUST: set_edx_eax(env, machine_of_env(env)->tsc_offset); break;
    default: lib.helper_rdmsr(env);
    }
}

static bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static bool efer_is_valid(void *env, uint64_t value)
{
    uint64_t allowed = EFER_LMA; /* taken and ignored */

    allowed |= has_feature(env, FEATURES_8000_0001_EDX, 11) ? EFER_SCE : 0;
    allowed |= has_feature(env, FEATURES_8000_0001_EDX, 29) ? EFER_LME : 0;
    allowed |= has_feature(env, FEATURES_8000_0001_EDX, 20) ? EFER_NXE : 0;
    allowed |= has_feature(env, FEATURES_8000_0001_EDX, 25) ? EFER_FFXSR : 0;
    return !(value & ~allowed) &&
           (!(FIELD(uint64_t, env, ENV_CR) & CR0_PG) || !((value ^ FIELD(uint64_t, env, ENV_EFER)) & EFER_LME));
}

static bool pat_is_valid(uint64_t value)
{
    for (; value != 0; value >>= 8) {
        if ((value & 0xff) > 7 || (value & 0xff) == 2 || (value & 0xff) == 3) {
            return false;
        }
    }
    return true;
}

static bool msr_is_valid(void *env, uint32_t number, uint64_t value)
{
    switch (number) {
    case 0x175: case 0x176:                                     /* SYSENTER_ESP, SYSENTER_EIP */
    case 0xc0000082: case 0xc0000083:                           /* LSTAR, CSTAR */
    case 0xc0000100: case 0xc0000101: case 0xc0000102:          /* FS, GS and kernel GS base */
        return is_canonical(value);
    case 0x277: return pat_is_valid(value);
    case 0xc0000080: return efer_is_valid(env, value);
    default: return true;
    }
}

static void rem_wrmsr(void *env)
{
    Machine *m = machine_of_env(env);
    uint64_t value = (uint32_t)REG(R_AX) | REG(R_DX) << 32;

    if (!msr_is_valid(env, (uint32_t)REG(R_CX), value)) {
        lib.raise_exception_err_ra(env, VECTOR_GP, 0, HERE);
    }
    switch ((uint32_t)REG(R_CX)) {
    case MSR_TSC: m->tsc_offset = value - tsc_read(m, HERE); break;
    case MSR_TSC_ADJUST: m->tsc_offset = value; break;
    default: lib.helper_wrmsr(env);
    }
}

static uint64_t rem_rdrand(void *env)
{
    Machine *m = machine_of_env(env);

    if (!m->counting) {
        return lib.helper_rdrand(env);
    }
    FIELD(uint64_t, env, ENV_CC_SRC) = FLAG_CF; /* the translator makes flags of it */
    return count_random(m, HERE);
}

/* There are no counters. */
static void rem_rdpmc(void *env)
{
    lib.raise_exception_err_ra(env, VECTOR_GP, 0, HERE);
}

static void rem_cpuid(void *env)
{
    Machine *m = machine_of_env(env);
    uint32_t leaf = (uint32_t)REG(R_AX), subleaf = (uint32_t)REG(R_CX);
    static const CpuidRow nothing;
    const CpuidRow *found = &nothing;

    for (size_t i = 0; i < m->cpuid_count; i++) {
        const CpuidRow *r = m->cpuid + i;
        if (r->leaf == leaf && (r->subleaf == UINT32_MAX || r->subleaf == subleaf)) {
            found = r;
            break;
        }
    }
    REG(R_AX) = found->value[0];
    REG(R_BX) = found->value[1];
    REG(R_CX) = found->value[2];
    REG(R_DX) = found->value[3];
}

const Replacement replacements[] = {
    {"helper_syscall", (void *)rem_syscall},
    {"helper_sysenter", (void *)rem_sysenter},
    {"helper_raise_exception", (void *)rem_raise_exception},
    {"helper_raise_interrupt", (void *)rem_raise_interrupt},
    {"helper_into", (void *)rem_into},
    {"helper_inb", (void *)rem_inb},
    {"helper_inw", (void *)rem_inw},
    {"helper_inl", (void *)rem_inl},
    {"helper_outb", (void *)rem_outb},
    {"helper_outw", (void *)rem_outw},
    {"helper_outl", (void *)rem_outl},
    {"helper_read_crN", (void *)rem_read_crN},
    {"helper_write_crN", (void *)rem_write_crN},
    {"helper_ldmxcsr", (void *)rem_ldmxcsr},
    {"helper_phaddw_xmm", (void *)rem_phaddw_xmm},
    {"helper_phaddd_xmm", (void *)rem_phaddd_xmm},
    {"helper_phaddsw_xmm", (void *)rem_phaddsw_xmm},
    {"helper_phsubw_xmm", (void *)rem_phsubw_xmm},
    {"helper_phsubd_xmm", (void *)rem_phsubd_xmm},
    {"helper_phsubsw_xmm", (void *)rem_phsubsw_xmm},
    {"helper_iret_protected", (void *)rem_iret_protected},
    {"helper_ltr", (void *)rem_ltr},
    {"helper_rdpmc", (void *)rem_rdpmc},
    {"helper_rdrand", (void *)rem_rdrand},
    {"helper_rdtsc", (void *)rem_rdtsc},
    {"helper_rdtscp", (void *)rem_rdtscp},
    {"helper_rdmsr", (void *)rem_rdmsr},
    {"helper_wrmsr", (void *)rem_wrmsr},
    {"helper_cpuid", (void *)rem_cpuid},
    {NULL, NULL},
};
