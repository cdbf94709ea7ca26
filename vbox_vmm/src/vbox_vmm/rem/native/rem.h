/* What the C files of the REM engine share: one machine, and the entry points into libunicorn.
 *
 *   library.c  finds libunicorn's functions, reroutes a dozen of them, opens and checks an engine
 *   memory.c   RAM slots, TLB entries, page-table access, self-modifying code, dirty pages
 *   exits.c    port and MMIO tables, and the way from an access to a Python handler
 *   count.c    executed instructions as a clock
 *   strings.c  REP INS and REP OUTS: many items in one call of a handler
 *   cpu.c      running, interrupts, exceptions, kicks and the deadline, the time-stamp counter
 *   helpers.c  instructions that Unicorn leaves out or gets wrong: SYSCALL, SYSENTER, IN, OUT, RDMSR, CPUID
 *   debug.c    DR0 to DR7: code and data breakpoints, general detect, ICEBP
 *   state.c    the CPU state out and in
 *   module.c   the Python type
 *
 * Threads: everything runs on the thread that calls `run`, with the GIL released while guest code
 * runs, except what `attention`, `kicked`, `irq`, `nmi` and the deadline's flags carry across.
 */
#ifndef VBOX_REM_H
#define VBOX_REM_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "layout.h"

#define PAGE_BITS 12
#define PAGE_SIZE ((uint64_t)1 << PAGE_BITS)
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define SUFFIX "_x86_64"
#define MARK 0x5642784d2d52454dull /* says that a uc_struct is ours */

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* In a function that translated code calls: where in the block that is. */
#define HERE ((uintptr_t)__builtin_return_address(0))

/* The documented function; the limited API of 3.11 lacks its prototype. */
extern PyObject *PyObject_Vectorcall(PyObject *, PyObject *const *, size_t, PyObject *);
#ifndef PY_VECTORCALL_ARGUMENTS_OFFSET
#define PY_VECTORCALL_ARGUMENTS_OFFSET ((size_t)1 << (8 * sizeof(size_t) - 1))
#endif

typedef struct {
    uint64_t start, end; /* guest-physical, end exclusive */
    uint8_t *host;
    uint8_t *write_host; /* NULL: stores are dropped */
    uint8_t *log;        /* one byte a page, see memory.c; NULL: nobody asked */
} Slot;

typedef struct {
    uint64_t first, last;
    uint64_t start;
    uint32_t direct;
    PyObject *read, *write, *adapted_read, *adapted_write, *read_string, *write_string, *owner;
    Py_buffer answers, keeps; /* buf NULL: there are none */
} Row;

typedef struct {
    Row *rows;
    size_t count, hit;
    uint16_t *index; /* ports only: row number + 1 of each port, 0 for none */
} Table;

typedef struct {
    uint32_t leaf, subleaf; /* subleaf UINT32_MAX: any */
    uint32_t value[4];      /* EAX, EBX, ECX, EDX */
} CpuidRow;

/* An op's link, as in any of QEMU's tail queues: the next op, and the previous op's link. */
typedef struct OpLink {
    char *next;
    struct OpLink *previous;
} OpLink;

enum { RUN_KICKED, RUN_HALTED, RUN_TRIPLE_FAULT, RUN_FAILED };

typedef struct Machine {
    PyObject_HEAD
    void *uc, *cpu, *env, *tcg;
    PyObject *host; /* EngineHost */
    PyObject *acknowledge, *attend; /* the names of the host's methods */
    PyObject *reasons; /* what `run` answers, by RUN_... */
    PyThreadState *thread; /* saved while guest code runs */
    bool running, closed;
    pthread_t runner; /* while running: the thread that may call what is not for any thread */

    Slot *slots;
    size_t slot_count, slot_hit;
    bool fast_stores, filling_for_store;

    Table ports, mmio;

    _Atomic uint32_t *attention; /* generated code looks at it at each block start */
    atomic_bool kicked, irq, nmi;
    bool halted, shut_down, a20;
    int delivering;         /* the vector on its way through the IDT, or -1 */
    bool is_program;        /* ... because of an INT n */
    uint64_t interrupt_eip; /* where the INT n stands that is being delivered */
    void *exit_label;

    atomic_bool counting;    /* see count.c; the rest of it means something then */
    _Atomic uint64_t *stop;  /* in place of `attention` */
    uint64_t stop_at, executed_seen, instruction_ns, seed, to_come;
    bool looking;
    OpLink *block_length;    /* the op that adds it */
    uintptr_t back;          /* where the handler that runs was called from; 0: nobody knows */

    bool watching;          /* DR7 has data breakpoints: loads and stores look */
    bool stepping;          /* the instruction at `step_at` runs alone, see debug.c */
    uint64_t step_at;
    uint32_t debug_hits;    /* DR6 bits of the instruction that has just run */

    uint64_t exits; /* statistics: handler calls */

    uint64_t tsc_ticks, tsc_host_ns, tsc_limit, tsc_last, tsc_offset;
    unsigned __int128 tsc_scale;

    pthread_t timer;
    int timer_fd;
    bool timer_started;
    pthread_mutex_t timer_lock; /* for the next three, see cpu.c */
    bool timer_quit;
    uint64_t deadline, armed;
    atomic_bool inside, expired; /* a deadline that passes while no guest runs is for the next run */

    CpuidRow *cpuid;
    size_t cpuid_count;
    uint32_t signature;
    char failure[200];
} Machine;

/* libunicorn's functions, found once for the process */
typedef struct {
    void *handle;
    /* public */
    int (*uc_open)(int, int, void **);
    int (*uc_close)(void *);
    int (*uc_ctl)(void *, unsigned, ...);
    int (*uc_hook_add)(void *, size_t *, int, void *, void *, uint64_t, uint64_t, ...);
    unsigned (*uc_version)(unsigned *, unsigned *);
    /* internal */
    int (*cpu_exec)(void *, void *);
    void (*x86_cpu_do_interrupt)(void *);
    void (*do_interrupt_x86_hardirq)(void *, int, int);
    void *x86_cpu_tlb_fill, *x86_cpu_exec_interrupt;
    void (*x86_cpu_set_a20)(void *, int);
    void (*x86_update_hflags)(void *);
    void (*cpu_x86_update_cr4)(void *, uint32_t);
    void (*cpu_x86_update_dr7)(void *, uint32_t);
    void (*update_fp_status)(void *);
    void (*update_mxcsr_status)(void *);
    uint64_t (*helper_cc_compute_all)(uint64_t, uint64_t, uint64_t, int);
    void (*raise_exception_err_ra)(void *, int, int, uintptr_t) __attribute__((noreturn));
    uint32_t (*cpu_lduw_mmuidx_ra)(void *, uint64_t, int, uintptr_t);
    uint32_t (*cpu_ldub_mmuidx_ra)(void *, uint64_t, int, uintptr_t);
    void (*cpu_stb_mmuidx_ra)(void *, uint64_t, uint32_t, int, uintptr_t);
    uint32_t (*cpu_lduw_data_ra)(void *, uint64_t, uintptr_t);
    uint64_t (*cpu_ldq_data_ra)(void *, uint64_t, uintptr_t);
    void (*cpu_stw_data_ra)(void *, uint64_t, uint32_t, uintptr_t);
    void (*cpu_stl_data_ra)(void *, uint64_t, uint32_t, uintptr_t);
    void (*cpu_stq_data_ra)(void *, uint64_t, uint64_t, uintptr_t);
    void (*cpu_loop_exit_restore)(void *, uintptr_t) __attribute__((noreturn));
    bool (*cpu_restore_state)(void *, uintptr_t, bool);
    void (*tlb_flush)(void *);
    void (*tb_flush)(void *);
    void (*tb_invalidate_phys_range)(void *, uint64_t, uint64_t);
    void *(*gen_new_label)(void *);
    void *(*tcg_temp_new_internal)(void *, int, bool);
    void (*tcg_temp_free_internal)(void *, void *);
    void (*tcg_gen_op1)(void *, int, uintptr_t);
    void (*tcg_gen_op2)(void *, int, uintptr_t, uintptr_t);
    void (*tcg_gen_op3)(void *, int, uintptr_t, uintptr_t, uintptr_t);
    void (*tcg_gen_brcondi_i32)(void *, int, uintptr_t, int32_t, void *);
    void (*tcg_gen_brcond_i64)(void *, int, uintptr_t, uintptr_t, void *);
    void (*helper_rdmsr)(void *);
    void (*helper_wrmsr)(void *);
    void (*helper_raise_interrupt)(void *, int, int);
    void (*helper_into)(void *, int);
    uint64_t (*helper_rdrand)(void *);
    uint64_t (*helper_read_crN)(void *, int);
    void (*helper_write_crN)(void *, int, uint64_t);
    void (*helper_ldmxcsr)(void *, uint32_t);
    void (*helper_iret_protected)(void *, int, int);
    void (*helper_ltr)(void *, int);
    void (*helper_phaddw_xmm)(void *, void *, const void *), (*helper_phaddd_xmm)(void *, void *, const void *),
        (*helper_phaddsw_xmm)(void *, void *, const void *), (*helper_phsubw_xmm)(void *, void *, const void *),
        (*helper_phsubd_xmm)(void *, void *, const void *), (*helper_phsubsw_xmm)(void *, void *, const void *);
    uint64_t (*helper_get_dr)(void *, int);
    void (*helper_set_dr)(void *, int, uint64_t);
    void *helper_cli; /* only for its signature */
    void *helper_check_exit_request;
} Library;

extern Library lib;

static inline Machine *machine_of(void *uc)
{
    return likely(FIELD(uint64_t, uc, UC_EXITS + 62 * 8) == MARK) ? FIELD(Machine *, uc, UC_EXITS + 63 * 8) : NULL;
}

static inline Machine *machine_of_cpu(void *cpu)
{
    return machine_of(FIELD(void *, cpu, CPU_UC));
}

/* Only for environments that run translations made for one of our engines. */
static inline Machine *machine_of_env(void *env)
{
    return FIELD(Machine *, FIELD(void *, env, ENV_UC), UC_EXITS + 63 * 8);
}

/* Unicorn copies TF, IOPL and VM into hflags, where nothing ever takes them out again; code is translated
 * for the union of hflags and EFLAGS. */
static inline void update_hflags(void *env)
{
    lib.x86_update_hflags(env);
    FIELD(uint32_t, env, ENV_HFLAGS) &= ~(uint32_t)(FLAG_TF | FLAG_IOPL | FLAG_VM);
}

static inline uint8_t opcode_of(OpLink *link)
{
    return FIELD(uint8_t, (char *)link - OP_LINK, 0);
}

#define argument_of(link, number) FIELD(uint64_t, (char *)(link) - OP_LINK, OP_ARGS + (number) * 8)

static inline Row *port_find(Table *t, uint32_t port)
{
    uint16_t number = t->index ? t->index[port] : 0;
    return number ? t->rows + number - 1 : NULL;
}

/* Around a call of a handler: the GIL is released while guest code runs. */
static inline void enter_python(Machine *m)
{
    PyEval_RestoreThread(m->thread);
}

static inline void leave_python(Machine *m)
{
    m->thread = PyEval_SaveThread();
}

static inline TlbEntry *entry_of(void *env, unsigned mode, uint64_t address)
{
    char *fast = (char *)env - CPU_ENV + CPU_TLB + TLB_FAST + mode * TLB_FAST_SIZE;
    return FIELD(TlbEntry *, fast, FAST_TABLE) + ((address >> PAGE_BITS) & (FIELD(uint64_t, fast, FAST_MASK) >> 6));
}

/* Where an access lies in the host's memory, when it needs nothing but to be done; else NULL. */
static inline void *plain_memory(void *env, uint64_t address, int mode, unsigned size, bool store)
{
    TlbEntry *e = entry_of(env, mode, address);
    uint64_t tag = store ? e->write : e->read;

    /* any flag in the tag, or an end in the next page, makes them differ */
    return likely(tag == (address & PAGE_MASK) && (address & (PAGE_SIZE - 1)) <= PAGE_SIZE - size)
               ? (void *)(address + e->addend)
               : NULL;
}

/* The MMU mode of data accesses in the CPU's present state. */
static inline unsigned data_mode(void *env)
{
    uint32_t hflags = FIELD(uint32_t, env, ENV_HFLAGS);

    if ((hflags & HF_CPL) == 3) {
        return MMU_USER;
    }
    return !(hflags & HF_SMAP) || FIELD(uint64_t, env, ENV_EFLAGS) & FLAG_AC ? MMU_KNOSMAP : MMU_KSMAP;
}

/* library.c */
int library_load(const char *path);       /* -1 with a Python exception */
int engine_open(Machine *, uint32_t buffer); /* -1 with a Python exception */
void engine_close(Machine *);
void *replacement_of(void *helper); /* our version of a helper, or NULL */

/* memory.c */
Slot *slot_find(Machine *, uint64_t address);
int slot_map(Machine *, uint64_t address, uint64_t size, uint8_t *host, uint8_t *write_host);
void slots_free(Machine *);
void invalidate_host(Machine *, uint8_t *host, uint64_t size);
void memory_invalidate(Machine *, uint64_t address, uint64_t size);
bool memory_dirty(Machine *, uint64_t address, uint64_t size, uint8_t *out);
void memory_changed(Machine *);
bool slot_store(Machine *, uint64_t address, uint64_t value, unsigned size);
bool rem_tlb_fill(void *cpu, uint64_t address, int size, int access, int mode, bool probe, uintptr_t back);

/* exits.c */
int table_set(Table *, PyObject *rows, uint64_t highest, bool ports);
void table_free(Table *);
uint64_t port_read(Machine *, uint32_t port, unsigned size);
void port_write(Machine *, uint32_t port, unsigned size, uint64_t value);
/* Tell the host what went wrong; takes the current exception, or says that the result is of no use. */
PyObject *take_exception(void); /* what was raised, with its traceback; None when nothing was */
void report_failure(Machine *, PyObject *owner, uint64_t offset, unsigned size, const uint64_t *value,
                    PyObject *result);
uint64_t mmio_read(Machine *, uint64_t address, unsigned size);
void mmio_write(Machine *, uint64_t address, unsigned size, uint64_t value);

/* cpu.c */
int machine_run(Machine *);
void machine_kick(Machine *);
void machine_attend(Machine *);
void machine_reset(Machine *, bool init);
uint64_t tsc_read(Machine *, uintptr_t back);
uint64_t monotonic_ns(void);
void timer_set(Machine *, uint64_t host_ns);
void timer_stop(Machine *);
bool rem_exec_interrupt(void *cpu, int request);
void rem_on_exception(void *uc, uint32_t number, void *machine);

/* count.c */
void emit_count(Machine *, void *tcg, void *label);
void emit_count_end(Machine *, void *tcg);
void count_start(Machine *, uint64_t ns, uint64_t executed, uint64_t seed);
void count_stop_at(Machine *, uint64_t executed);
void count_rearm(Machine *);
bool count_is_due(Machine *);
void count_ends_here(Machine *, uintptr_t back);
uint64_t executed_now(Machine *, uintptr_t back);
uint64_t count_random(Machine *, uintptr_t back);

/* helpers.c */
typedef struct {
    const char *name;
    void *function;
} Replacement;
extern const Replacement replacements[], debug_replacements[], sse_replacements[], sse4_replacements[],
    x87_replacements[], x87_memory_replacements[], string_replacements[];
uint64_t rem_inb(void *env, uint32_t port), rem_inw(void *env, uint32_t port), rem_inl(void *env, uint32_t port);
void rem_outb(void *env, uint32_t port, uint32_t value), rem_outw(void *env, uint32_t port, uint32_t value),
    rem_outl(void *env, uint32_t port, uint32_t value);
void check_permission(void *env, uint32_t port, unsigned size, uintptr_t back);
void *string_io_check(void *env, void *port_helper); /* what must run before INS and OUTS, or NULL */

/* strings.c */
void *string_io_helper(void *env, void *port_helper, uint64_t pc); /* what serves a REP INS or OUTS, or NULL */

/* debug.c */
int watch_page(Machine *, uint64_t page);
void watch_access(Machine *, uint64_t address, unsigned size, bool store, uintptr_t back);
bool debug_attend(Machine *);
int debug_vector(Machine *, int vector);
void debug_reset(Machine *);

/* state.c */
PyObject *state_get(Machine *);
int state_set(Machine *, PyObject *state);

/* the rerouted functions (library.c holds the list) */
typedef struct {
    const char *name;
    void *replacement;
    void **original;
} Reroute;
extern const Reroute library_reroutes[], memory_reroutes[], exits_reroutes[], slow_path_reroutes[],
    cpu_reroutes[], debug_reroutes[], count_reroutes[];

#endif
