/* libunicorn: finding its functions, rerouting some, opening and checking an engine.
 *
 * Every call inside the library to a global function goes through the global offset table (the wheel
 * is built with symbols that can be preempted).  We write our own function into the few slots that
 * matter, whenever we are loaded: it does not depend on who imported unicorn first.  Each of our
 * functions looks whether the uc_struct is one of ours (`machine_of`) and otherwise passes the call
 * on, so other users of unicorn in the process see no difference.
 */
#define _GNU_SOURCE
#include "rem.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

enum { UC_ARCH_X86 = 4, UC_MODE_64 = 8, UC_HOOK_INTR = 1 };
enum { UC_CTL_USE_EXITS = 4 | 1 << 26 | 1 << 30, UC_CTL_TCG_BUFFER_SIZE = 13 | 1 << 26 | 1 << 30 };
enum { WANTED_VERSION = 2 << 24 | 1 << 16 | 4 << 8 };

Library lib;

/* ---- block start: look at the attention word without a call ------------------------------------ */

static void (*orig_callN)(void *, void *, void *, int, void **);
static void (*orig_exit_tb)(void *, void *, unsigned);

/* Unicorn emits a call at each block start to ask whether to stop.  We emit a load and a branch to the
 * exit that every block has at its end. */
static void emit_attention_check(Machine *m, void *tcg)
{
    uintptr_t env = FIELD(uintptr_t, tcg, TCG_CPU_ENV); /* relative to the context, as all TCGv are */
    char *word;

    m->exit_label = lib.gen_new_label(tcg);
    if (m->counting) {
        emit_count(m, tcg, m->exit_label);
        return;
    }
    word = lib.tcg_temp_new_internal(tcg, TCG_I32, false);
    lib.tcg_gen_op3(tcg, OPCODE_LD_I32, (uintptr_t)word, (uintptr_t)tcg + env, ENV_MP_STATE);
    lib.tcg_gen_brcondi_i32(tcg, CONDITION_NE, (uintptr_t)(word - (char *)tcg), 0, m->exit_label);
    lib.tcg_temp_free_internal(tcg, word);
}

/* The newest op is a call and carries the function's address among its arguments. */
static void redirect_last_call(void *tcg, void *from, void *to)
{
    char *op = FIELD(char *, tcg, TCG_OPS_TAIL) - OP_LINK;

    for (int i = 0; i < OP_MAX_ARGS; i++) {
        void **argument = &FIELD(void *, op, OP_ARGS + i * 8);
        if (*argument == from) {
            *argument = to;
            break;
        }
    }
}

static OpLink *instruction_start(void *tcg)
{
    OpLink *link = FIELD(OpLink *, tcg, TCG_OPS_TAIL);

    while (opcode_of(link) != OPCODE_INSN_START) {
        link = link->previous;
    }
    return link;
}

/* Linear. */
static uint64_t instruction_address(void *tcg)
{
    return argument_of(instruction_start(tcg), 0);
}

static bool is_port_helper(void *helper)
{
    return helper == (void *)rem_inb || helper == (void *)rem_inw || helper == (void *)rem_inl ||
           helper == (void *)rem_outb || helper == (void *)rem_outw || helper == (void *)rem_outl;
}

static bool instruction_accesses_memory(void *tcg)
{
    for (OpLink *link = FIELD(OpLink *, tcg, TCG_OPS_TAIL); opcode_of(link) != OPCODE_INSN_START;
         link = link->previous) {
        if (opcode_of(link) >= OPCODE_QEMU_LD_I32 && opcode_of(link) <= OPCODE_QEMU_ST_I64) {
            return true;
        }
    }
    return false;
}

static void move_last_op_to_start(void *tcg)
{
    OpLink *start = instruction_start(tcg), *op = FIELD(OpLink *, tcg, TCG_OPS_TAIL);
    OpLink *second = (OpLink *)(start->next + OP_LINK);

    op->previous->next = NULL;
    FIELD(OpLink *, tcg, TCG_OPS_TAIL) = op->previous;
    op->next = (char *)second - OP_LINK;
    op->previous = start;
    second->previous = op;
    start->next = (char *)op - OP_LINK;
}

static void rem_callN(void *tcg, void *function, void *result, int count, void **arguments)
{
    Machine *m = machine_of(FIELD(void *, tcg, TCG_UC));
    void *ours;

    if (m == NULL) {
        orig_callN(tcg, function, result, count, arguments);
        return;
    }
    if (function == lib.helper_check_exit_request) {
        emit_attention_check(m, tcg);
        return;
    }
    orig_callN(tcg, function, result, count, arguments);
    ours = replacement_of(function);
    if (ours != NULL) {
        bool is_string = is_port_helper(ours) && instruction_accesses_memory(tcg);
        void *bulk = is_string ? string_io_helper(m->env, ours, instruction_address(tcg)) : NULL;
        redirect_last_call(tcg, function, bulk != NULL ? bulk : ours);
        ours = is_string ? string_io_check(m->env, ours) : NULL;
        if (unlikely(ours != NULL)) {
            /* Unicorn stores to INS's destination, and loads OUTS's source, before it asks for the port. */
            void *env[] = {(char *)tcg + FIELD(uintptr_t, tcg, TCG_CPU_ENV)};
            orig_callN(tcg, lib.helper_cli, NULL, 1, env);
            redirect_last_call(tcg, lib.helper_cli, ours);
            move_last_op_to_start(tcg);
        }
    }
}

/* Unicorn forgets to free temporaries of immediates, and does not look whether there are too many in a block:
 * a few hundred of AAM or PSHUFD would overwrite its own state.  End the block before. */
static void *(*orig_temp_new)(void *, int, bool);

static void *rem_temp_new(void *tcg, int type, bool is_local)
{
    if (FIELD(int, tcg, TCG_TEMPS) > TEMPS_ENOUGH && machine_of(FIELD(void *, tcg, TCG_UC)) != NULL) {
        FIELD(int, tcg, TCG_OPS) = OPS_ENOUGH;
    }
    return orig_temp_new(tcg, type, is_local);
}

static void rem_exit_tb(void *tcg, void *block, unsigned index)
{
    Machine *m = machine_of(FIELD(void *, tcg, TCG_UC));

    if (m != NULL && index == EXIT_REQUESTED && m->exit_label != NULL) {
        if (m->counting) {
            emit_count_end(m, tcg);
        }
        FIELD(uint8_t, m->exit_label, 0) |= 1; /* present */
        lib.tcg_gen_op1(tcg, OPCODE_SET_LABEL, (uintptr_t)m->exit_label);
        m->exit_label = NULL;
    }
    orig_exit_tb(tcg, block, index);
}

const Reroute library_reroutes[] = {
    {"tcg_gen_callN", (void *)rem_callN, (void **)&orig_callN},
    {"tcg_gen_exit_tb", (void *)rem_exit_tb, (void **)&orig_exit_tb},
    {"tcg_temp_new_internal", (void *)rem_temp_new, (void **)&orig_temp_new},
    {NULL, NULL, NULL},
};

/* ---- finding and rerouting --------------------------------------------------------------------- */

static const struct {
    const char *name;
    void **target;
    bool internal;
} symbols[] = {
#define PUBLIC(name) {#name, (void **)&lib.name, false}
#define INTERNAL(name) {#name SUFFIX, (void **)&lib.name, true}
    PUBLIC(uc_open),
    PUBLIC(uc_close),
    PUBLIC(uc_ctl),
    PUBLIC(uc_hook_add),
    PUBLIC(uc_version),
    INTERNAL(cpu_exec),
    INTERNAL(x86_cpu_do_interrupt),
    INTERNAL(do_interrupt_x86_hardirq),
    INTERNAL(x86_cpu_tlb_fill),
    INTERNAL(x86_cpu_exec_interrupt),
    INTERNAL(x86_cpu_set_a20),
    INTERNAL(x86_update_hflags),
    INTERNAL(cpu_x86_update_cr4),
    INTERNAL(cpu_x86_update_dr7),
    INTERNAL(update_fp_status),
    INTERNAL(update_mxcsr_status),
    INTERNAL(helper_cc_compute_all),
    INTERNAL(raise_exception_err_ra),
    INTERNAL(cpu_lduw_mmuidx_ra),
    INTERNAL(cpu_ldub_mmuidx_ra),
    INTERNAL(cpu_stb_mmuidx_ra),
    INTERNAL(cpu_lduw_data_ra),
    INTERNAL(cpu_ldq_data_ra),
    INTERNAL(cpu_stw_data_ra),
    INTERNAL(cpu_stl_data_ra),
    INTERNAL(cpu_stq_data_ra),
    INTERNAL(cpu_loop_exit_restore),
    INTERNAL(cpu_restore_state),
    INTERNAL(tlb_flush),
    INTERNAL(tb_flush),
    INTERNAL(tb_invalidate_phys_range),
    INTERNAL(gen_new_label),
    INTERNAL(tcg_temp_new_internal),
    INTERNAL(tcg_temp_free_internal),
    INTERNAL(tcg_gen_op1),
    INTERNAL(tcg_gen_op2),
    INTERNAL(tcg_gen_op3),
    INTERNAL(tcg_gen_brcondi_i32),
    INTERNAL(tcg_gen_brcond_i64),
    INTERNAL(helper_rdmsr),
    INTERNAL(helper_wrmsr),
    INTERNAL(helper_raise_interrupt),
    INTERNAL(helper_into),
    INTERNAL(helper_rdrand),
    INTERNAL(helper_read_crN),
    INTERNAL(helper_write_crN),
    INTERNAL(helper_ldmxcsr),
    INTERNAL(helper_iret_protected),
    INTERNAL(helper_ltr),
    INTERNAL(helper_phaddw_xmm),
    INTERNAL(helper_phaddd_xmm),
    INTERNAL(helper_phaddsw_xmm),
    INTERNAL(helper_phsubw_xmm),
    INTERNAL(helper_phsubd_xmm),
    INTERNAL(helper_phsubsw_xmm),
    INTERNAL(helper_get_dr),
    INTERNAL(helper_set_dr),
    INTERNAL(helper_cli),
    INTERNAL(helper_check_exit_request),
};

#define SYMBOL_COUNT (sizeof symbols / sizeof symbols[0])
#define REPLACEMENTS_MAX 256

static struct {
    void *original, *ours;
} replaced[REPLACEMENTS_MAX];
static int replaced_count;

void *replacement_of(void *helper)
{
    for (int i = 0; i < replaced_count; i++) {
        if (replaced[i].original == helper) {
            return replaced[i].ours;
        }
    }
    return NULL;
}

static void *find(const char *name)
{
    void *address = dlsym(lib.handle, name);

    if (address == NULL) {
        PyErr_Format(PyExc_ImportError, "libunicorn has no function %s", name);
    }
    return address;
}

static void *find_internal(const char *name)
{
    char full[128];

    PyOS_snprintf(full, sizeof full, "%s" SUFFIX, name);
    return find(full);
}

typedef struct {
    const Elf64_Rela *plt, *all;
    size_t plt_count, all_count;
    const Elf64_Sym *symbols;
    const char *strings;
    char *base;
} Image;

static int image_read(Image *image)
{
    struct link_map *map;

    if (dlinfo(lib.handle, RTLD_DI_LINKMAP, &map) != 0) {
        PyErr_SetString(PyExc_ImportError, dlerror());
        return -1;
    }
    memset(image, 0, sizeof *image);
    image->base = (char *)map->l_addr;
    for (const Elf64_Dyn *d = map->l_ld; d->d_tag != DT_NULL; d++) {
        switch (d->d_tag) {
        case DT_JMPREL: image->plt = (const void *)d->d_un.d_ptr; break;
        case DT_PLTRELSZ: image->plt_count = d->d_un.d_val / sizeof(Elf64_Rela); break;
        case DT_RELA: image->all = (const void *)d->d_un.d_ptr; break;
        case DT_RELASZ: image->all_count = d->d_un.d_val / sizeof(Elf64_Rela); break;
        case DT_SYMTAB: image->symbols = (const void *)d->d_un.d_ptr; break;
        case DT_STRTAB: image->strings = (const void *)d->d_un.d_ptr; break;
        }
    }
    if (!image->plt || !image->all || !image->symbols || !image->strings) {
        PyErr_SetString(PyExc_ImportError, "libunicorn's dynamic section is incomplete");
        return -1;
    }
    return 0;
}

static int write_slot(char *slot, void *value)
{
    uintptr_t page = (uintptr_t)slot & PAGE_MASK;

    /* Tables of addresses are read-only after relocation; the slots of calls are not, but then
     * asking again for what they have does no harm. */
    if (mprotect((void *)page, PAGE_SIZE, PROT_READ | PROT_WRITE) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    atomic_store((_Atomic(void *) *)slot, value);
    return 0;
}

/* Write `replacement` wherever the library calls (or, for `tables`, keeps the address of) a function. */
static int reroute(const Image *image, const Reroute *list, bool tables)
{
    const Elf64_Rela *relocations = tables ? image->all : image->plt;
    size_t count = tables ? image->all_count : image->plt_count;
    uint64_t type = tables ? R_X86_64_64 : R_X86_64_JUMP_SLOT;

    for (const Reroute *r = list; r->name != NULL; r++) {
        int written = 0;
        size_t length = strlen(r->name);

        *r->original = find_internal(r->name);
        if (*r->original == NULL) {
            return -1;
        }
        for (size_t i = 0; i < count; i++) {
            const char *name;
            if (ELF64_R_TYPE(relocations[i].r_info) != type) {
                continue;
            }
            name = image->strings + image->symbols[ELF64_R_SYM(relocations[i].r_info)].st_name;
            if (strncmp(name, r->name, length) == 0 && strcmp(name + length, SUFFIX) == 0) {
                if (write_slot(image->base + relocations[i].r_offset, r->replacement) < 0) {
                    return -1;
                }
                written++;
            }
        }
        if (written == 0) {
            PyErr_Format(PyExc_ImportError, "libunicorn does not call %s through a slot", r->name);
            return -1;
        }
    }
    return 0;
}

static int replace(const Replacement *list)
{
    for (; list->name != NULL; list++, replaced_count++) {
        replaced[replaced_count].original = find_internal(list->name);
        replaced[replaced_count].ours = list->function;
        if (replaced[replaced_count].original == NULL) {
            return -1;
        }
    }
    return 0;
}

int library_load(const char *path)
{
    Image image;
    unsigned version;

    if (lib.handle != NULL) {
        return 0;
    }
    lib.handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (lib.handle == NULL) {
        PyErr_SetString(PyExc_ImportError, dlerror());
        return -1;
    }
    for (size_t i = 0; i < SYMBOL_COUNT; i++) {
        *symbols[i].target = find(symbols[i].name);
        if (*symbols[i].target == NULL) {
            goto failed;
        }
    }
    version = lib.uc_version(NULL, NULL) & ~0xffu;
    if (version != WANTED_VERSION) {
        PyErr_Format(PyExc_ImportError, "libunicorn is version %u.%u.%u, not 2.1.4", version >> 24,
                     version >> 16 & 0xff, version >> 8 & 0xff);
        goto failed;
    }
    if (replace(replacements) < 0 || replace(debug_replacements) < 0 || replace(sse_replacements) < 0 ||
        replace(x87_replacements) < 0 || replace(x87_memory_replacements) < 0 || replace(string_replacements) < 0 ||
        (__builtin_cpu_supports("sse4.1") && replace(sse4_replacements) < 0)) {
        goto failed;
    }
    if (image_read(&image) < 0 || reroute(&image, library_reroutes, false) < 0 ||
        reroute(&image, memory_reroutes, false) < 0 || reroute(&image, exits_reroutes, false) < 0 ||
        reroute(&image, cpu_reroutes, false) < 0 || reroute(&image, debug_reroutes, false) < 0 ||
        reroute(&image, count_reroutes, false) < 0 ||
        reroute(&image, slow_path_reroutes, true) < 0) {
        goto failed;
    }
    return 0;

failed:
    /* What has been rerouted passes everything on while no engine of ours exists. */
    lib.handle = NULL;
    replaced_count = 0;
    return -1;
}

/* ---- one engine -------------------------------------------------------------------------------- */

/* The structures are where we believe they are? */
static const char *misfit(Machine *m)
{
    void *class = FIELD(void *, m->cpu, CPU_CC);

    if (FIELD(void *, m->cpu, CPU_UC) != m->uc) {
        return "CPUState.uc";
    }
    if (FIELD(char *, m->cpu, CPU_ENV_PTR) != (char *)m->cpu + CPU_ENV) {
        return "CPUState.env_ptr";
    }
    if (FIELD(char *, m->cpu, CPU_ICOUNT_DECR_PTR) != (char *)m->cpu + CPU_ICOUNT_DECR) {
        return "CPUState.icount_decr_ptr";
    }
    if (FIELD(void *, (char *)m->cpu + CPU_ENV, ENV_UC) != m->uc) {
        return "CPUX86State.uc";
    }
    if (FIELD(void *, class, CC_DO_INTERRUPT) != (void *)lib.x86_cpu_do_interrupt) {
        return "CPUClass.do_interrupt";
    }
    if (FIELD(void *, class, CC_TLB_FILL_CPU) != lib.x86_cpu_tlb_fill) {
        return "CPUClass.tlb_fill";
    }
    if (FIELD(void *, class, CC_EXEC_INTERRUPT) != lib.x86_cpu_exec_interrupt) {
        return "CPUClass.cpu_exec_interrupt";
    }
    m->tcg = FIELD(void *, m->uc, UC_TCG);
    if (FIELD(void *, m->tcg, TCG_UC) != m->uc) {
        return "TCGContext.uc";
    }
    if (FIELD(int, m->uc, UC_L1_SHIFT) != (FIELD(int, m->uc, UC_L2_LEVELS) + 1) * 10) {
        return "uc_struct.l1_map";
    }
    return NULL;
}

/* What Unicorn's slow paths take for the region under every address: memory, all rights. */
static char any_region[REGION_SIZE];

static void *rem_memory_mapping(void *uc, uint64_t address)
{
    (void)uc;
    (void)address;
    return any_region;
}

int engine_open(Machine *m, uint32_t buffer)
{
    void *class;
    size_t hook;
    const char *wrong;
    int error;

    FIELD(uint8_t, any_region, REGION_RAM) = 1;
    FIELD(uint32_t, any_region, REGION_PERMISSIONS) = 7;

    error = lib.uc_open(UC_ARCH_X86, UC_MODE_64, &m->uc);
    if (error == 0) {
        error = lib.uc_ctl(m->uc, UC_CTL_TCG_BUFFER_SIZE, buffer);
    }
    if (error == 0) {
        error = lib.uc_ctl(m->uc, UC_CTL_USE_EXITS, 1); /* the first call that builds the CPU */
    }
    if (error == 0) {
        error = lib.uc_hook_add(m->uc, &hook, UC_HOOK_INTR, (void *)rem_on_exception, m, (uint64_t)1, (uint64_t)0);
    }
    if (error != 0) {
        PyErr_Format(PyExc_RuntimeError, "unicorn does not open (error %d)", error);
        return -1;
    }
    m->cpu = FIELD(void *, m->uc, UC_CPU);
    wrong = misfit(m);
    if (wrong != NULL) {
        PyErr_Format(PyExc_RuntimeError, "unicorn's structures are not where they should be: %s", wrong);
        return -1;
    }
    m->env = (char *)m->cpu + CPU_ENV;
    FIELD(uint64_t, m->uc, UC_EXITS + 62 * 8) = MARK;
    FIELD(void *, m->uc, UC_EXITS + 63 * 8) = m;
    FIELD(int, m->uc, UC_USE_EXITS) = 1;
    FIELD(int, m->uc, UC_NESTED_LEVEL) = 1;
    FIELD(bool, m->uc, UC_NO_EXIT_REQUEST) = true; /* no exit in the middle of an instruction */
    FIELD(void *, m->uc, UC_STOP_INTERRUPT) = NULL; /* #UD goes to the guest as all others do */
    FIELD(void *, m->uc, UC_MEMORY_MAPPING) = (void *)rem_memory_mapping;
    class = FIELD(void *, m->cpu, CPU_CC);
    FIELD(void *, class, CC_TLB_FILL) = (void *)rem_tlb_fill;
    FIELD(void *, class, CC_EXEC_INTERRUPT) = (void *)rem_exec_interrupt;
    m->attention = &FIELD(_Atomic uint32_t, m->env, ENV_MP_STATE);
    atomic_store(m->attention, 0);
    m->stop = &FIELD(_Atomic uint64_t, m->env, ENV_STOP);
    return 0;
}

void engine_close(Machine *m)
{
    if (m->uc != NULL) {
        lib.uc_close(m->uc);
        m->uc = NULL;
    }
}
