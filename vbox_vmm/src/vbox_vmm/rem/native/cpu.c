/* Running guest code: the loop around Unicorn's, interrupts and exceptions, kicks, time.
 *
 * Other threads speak to a running engine through `attention`, a word in the CPU's state that every
 * translated block looks at before its first instruction.  Unicorn's own flag for the same purpose is
 * cleared without a memory barrier and so can lose a request.  When a block leaves for it, Unicorn's
 * loop calls `rem_exec_interrupt` (because our private request bit is always set) and everything is
 * looked at there: the kick, the NMI, the INTR line.  Nothing leaves in the middle of an instruction.
 *
 * STI, POPF, IRET and MOV SS end their block without chaining, so the loop looks again by itself when
 * the guest opens its interrupt window.
 */
#define _GNU_SOURCE
#include "rem.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { PRIVATE_REQUEST = 0x8000 };

/* ---- interrupts and exceptions ------------------------------------------------------------------- */

void machine_attend(Machine *m)
{
    atomic_store(m->attention, 1);
    if (m->counting) {
        atomic_store(m->stop, 0);
    }
}

void machine_kick(Machine *m)
{
    atomic_store(&m->kicked, true);
    machine_attend(m);
}

/* The host's `acknowledge_interrupt` raised. */
static void acknowledge_failed(Machine *m)
{
    PyObject *error = take_exception();
    PyObject *outcome = PyObject_CallMethod(m->host, "acknowledge_failed", "O", error);

    if (outcome == NULL) {
        PyErr_WriteUnraisable(m->host);
    }
    Py_XDECREF(outcome);
    Py_DECREF(error);
}

/* What a method of the host answers, looked up anew each time; NULL with an exception set.  With the GIL. */
static PyObject *ask_host(Machine *m, PyObject *name)
{
    PyObject *method = PyObject_GetAttr(m->host, name), *result = NULL;

    if (method != NULL) {
        result = PyObject_Vectorcall(method, NULL, 0, NULL);
        Py_DECREF(method);
    }
    return result;
}

/* The vector of the interrupt that the CPU takes, or -1.  With the GIL. */
static int acknowledge(Machine *m)
{
    PyObject *result = ask_host(m, m->acknowledge);
    unsigned long long vector = ULLONG_MAX;

    if (result != NULL) {
        vector = PyLong_AsUnsignedLongLongMask(result);
        Py_DECREF(result);
    }
    if (PyErr_Occurred()) {
        acknowledge_failed(m);
        vector = ULLONG_MAX;
    }
    return vector == ULLONG_MAX ? -1 : (int)(vector & 0xFF);
}

/* Somebody kicked: whether the guest must be left.  What the host does meanwhile may change anything but the
 * CPU's state.  With the GIL. */
static bool attend(Machine *m)
{
    PyObject *result = ask_host(m, m->attend);
    int leave = result != NULL ? PyObject_IsTrue(result) : -1;

    Py_XDECREF(result);
    if (leave < 0) {
        PyErr_WriteUnraisable(m->host);
    }
    return leave != 0;
}

/* The error code of a fault that was met on the way through the IDT.  Unicorn reports a bad gate of a long-mode
 * IDT with sixteen times its number, the CPU with eight times; and Unicorn never says that it was not the
 * program that asked for the delivery (EXT). */
static int delivery_error(void *env, int number, int error)
{
    Machine *m = machine_of(FIELD(void *, env, ENV_UC));

    if (m == NULL || m->delivering < 0) {
        return error;
    }
    if (FIELD(uint32_t, env, ENV_HFLAGS) & HF_LMA && error == m->delivering * 16 + 2) {
        error = m->delivering * 8 + 2;
    }
    if (number >= VECTOR_TS && number <= VECTOR_GP && !m->is_program) {
        error |= 1;
    }
    m->delivering = -1;
    return error;
}

static void (*orig_raise_exception_err)(void *, int, int);
static void (*orig_raise_exception_err_ra)(void *, int, int, uintptr_t);

static void rem_raise_exception_err(void *env, int number, int error)
{
    orig_raise_exception_err(env, number, delivery_error(env, number, error));
}

static void rem_raise_exception_err_ra(void *env, int number, int error, uintptr_t back)
{
    orig_raise_exception_err_ra(env, number, delivery_error(env, number, error), back);
}

/* Unicorn ends the process when it meets a CPU state that it cannot serve; end the run. */
static void (*orig_abort)(void *, const char *, ...);

static void rem_abort(void *cpu, const char *format, ...)
{
    Machine *m = machine_of_cpu(cpu);

    if (m == NULL) {
        orig_abort(cpu, "%s", format);
        return;
    }
    PyOS_snprintf(m->failure, sizeof m->failure, "the translator gave up (%s) at RIP 0x%llx", format,
                  (unsigned long long)FIELD(uint64_t, m->env, ENV_EIP));
    FIELD(int, cpu, CPU_EXCEPTION_INDEX) = EXCP_GAVE_UP;
    lib.cpu_loop_exit_restore(cpu, 0);
}

const Reroute cpu_reroutes[] = {
    {"cpu_abort", (void *)rem_abort, (void **)&orig_abort},
    {"raise_exception_err", (void *)rem_raise_exception_err, (void **)&orig_raise_exception_err},
    {"raise_exception_err_ra", (void *)rem_raise_exception_err_ra, (void **)&orig_raise_exception_err_ra},
    {NULL, NULL, NULL},
};

static void deliver_external(Machine *m, int vector)
{
    m->delivering = vector;
    m->is_program = false;
    lib.do_interrupt_x86_hardirq(m->env, vector, 1);
    m->delivering = -1;
}

/* The vector of the event that the CPU takes now, or -1.  Takes the GIL when it needs it and has not got it. */
static int next_event(Machine *m, bool *python)
{
    uint32_t hflags = FIELD(uint32_t, m->env, ENV_HFLAGS);

    if (hflags & HF_INHIBIT_IRQ) {
        return -1;
    }
    if (unlikely(m->stepping)) {
        if (*python) { /* it may leave by longjmp */
            leave_python(m);
            *python = false;
        }
        if (debug_attend(m)) {
            return -1;
        }
    }
    if (unlikely(atomic_load(&m->nmi)) && !(FIELD(uint32_t, m->env, ENV_HFLAGS2) & HF2_NMI)) {
        atomic_store(&m->nmi, false);
        FIELD(uint32_t, m->env, ENV_HFLAGS2) |= HF2_NMI;
        return VECTOR_NMI;
    }
    if (atomic_load_explicit(&m->irq, memory_order_relaxed) && (FIELD(uint64_t, m->env, ENV_EFLAGS) & FLAG_IF)) {
        if (!*python) {
            enter_python(m);
            *python = true;
        }
        return acknowledge(m);
    }
    return -1;
}

/* CPUClass.cpu_exec_interrupt: true when the flow of control was changed, or the block that has just run may be
 * gone. */
bool rem_exec_interrupt(void *cpu, int request)
{
    Machine *m = machine_of_cpu(cpu);
    bool attended = false, python = false;
    int vector;

    (void)request;
    m->back = 0;
    if (atomic_load_explicit(m->attention, memory_order_relaxed)) {
        atomic_exchange(m->attention, 0);
    }
    count_rearm(m);
    if (unlikely(atomic_load(&m->kicked)) || unlikely(count_is_due(m))) {
        if (m->counting) { /* where the guest is left is part of what must be repeatable */
            FIELD(bool, cpu, CPU_EXIT_REQUEST) = true;
            return false;
        }
        atomic_store(&m->kicked, false);
        enter_python(m);
        attended = python = true;
        if (attend(m)) {
            leave_python(m);
            atomic_store(&m->kicked, true);
            FIELD(bool, cpu, CPU_EXIT_REQUEST) = true;
            return true;
        }
        /* What was raised meanwhile is looked at below, and a kick at the start of the next block. */
        atomic_exchange(m->attention, 0);
        if (unlikely(atomic_load(&m->kicked))) {
            atomic_store(m->attention, 1);
        }
    }
    vector = next_event(m, &python);
    if (python) {
        leave_python(m);
    }
    if (vector >= 0) {
        deliver_external(m, vector);
    }
    return vector >= 0 || attended;
}

/* Unicorn's hook for exceptions: deliver them as the CPU does.  A fault on the way leaves by longjmp. */
void rem_on_exception(void *uc, uint32_t number, void *machine)
{
    Machine *m = machine;

    (void)uc;
    if (FIELD(int, m->env, ENV_EXCEPTION_IS_INT)) {
        /* Unicorn has moved EIP on; a fault of the delivery must report the INT itself. */
        FIELD(uint64_t, m->env, ENV_EIP) = m->interrupt_eip;
    }
    if (number == VECTOR_DB || number == VECTOR_UD || unlikely(m->stepping)) {
        number = debug_vector(m, (int)number);
        FIELD(int, m->cpu, CPU_EXCEPTION_INDEX) = (int)number;
    }
    m->delivering = (int)number;
    m->is_program = FIELD(int, m->env, ENV_EXCEPTION_IS_INT);
    lib.x86_cpu_do_interrupt(m->cpu);
    m->delivering = -1;
}

static bool has_wake_event(Machine *m)
{
    if (atomic_load(&m->nmi) && !(FIELD(uint32_t, m->env, ENV_HFLAGS2) & HF2_NMI)) {
        return true;
    }
    return atomic_load(&m->irq) && (FIELD(uint64_t, m->env, ENV_EFLAGS) & FLAG_IF);
}

/* ---- running ----------------------------------------------------------------------------------- */

static int run_loop(Machine *m)
{
    FIELD(int, m->cpu, CPU_EXCEPTION_INDEX) = -1;
    for (;;) {
        int result;

        if (m->shut_down) { /* no CpuState tells of it: nothing may come first */
            return RUN_TRIPLE_FAULT;
        }
        if (atomic_exchange(&m->kicked, false) || count_is_due(m)) {
            return RUN_KICKED;
        }
        if (m->halted) {
            if (!has_wake_event(m)) {
                return RUN_HALTED;
            }
            m->halted = false;
        }
        FIELD(uint32_t, m->cpu, CPU_HALTED) = 0;
        FIELD(bool, m->cpu, CPU_STOP) = false;
        FIELD(bool, m->cpu, CPU_STOPPED) = false;
        FIELD(bool, m->cpu, CPU_CREATED) = true;
        FIELD(uint32_t, m->cpu, CPU_INTERRUPT_REQUEST) |= PRIVATE_REQUEST;
        FIELD(bool, m->uc, UC_STOP_REQUEST) = false;
        FIELD(bool, m->uc, UC_QUIT_REQUEST) = false;
        FIELD(int, m->uc, UC_INVALID_ERROR) = 0;
        FIELD(int, m->uc, UC_SIZE_RECUR_MEM) = 0;
        result = lib.cpu_exec(m->uc, m->cpu);
        switch (result) {
        case EXCP_INTERRUPT:
        case EXCP_HALTED:
        case EXCP_YIELD:
        case EXCP_DEBUG:
            break;
        case EXCP_HLT:
            if (FIELD(uint32_t, m->cpu, CPU_HALTED)) {
                m->halted = true;
            } else if (FIELD(int, m->env, ENV_OLD_EXCEPTION) == VECTOR_DF) {
                m->shut_down = true;
            }
            break;
        case EXCP_GAVE_UP:
            return RUN_FAILED;
        default:
            PyOS_snprintf(m->failure, sizeof m->failure, "the translator stopped with code 0x%x at RIP 0x%llx", result,
                          (unsigned long long)FIELD(uint64_t, m->env, ENV_EIP));
            return RUN_FAILED;
        }
        if (unlikely(FIELD(int, m->uc, UC_INVALID_ERROR) != 0)) {
            PyOS_snprintf(m->failure, sizeof m->failure, "unicorn stopped with error %d at RIP 0x%llx",
                          FIELD(int, m->uc, UC_INVALID_ERROR), (unsigned long long)FIELD(uint64_t, m->env, ENV_EIP));
            return RUN_FAILED;
        }
    }
}

int machine_run(Machine *m)
{
    int reason;

    m->runner = pthread_self();
    m->running = true;
    m->back = 0;
    if (!m->counting && !m->shut_down && atomic_exchange(&m->kicked, false) && attend(m)) {
        m->running = false;
        return RUN_KICKED;
    }
    m->thread = PyEval_SaveThread();
    /* Either this sees that the deadline has passed, or the timer's thread sees the guest inside. */
    atomic_store(&m->inside, true);
    reason = atomic_exchange(&m->expired, false) ? RUN_KICKED : run_loop(m);
    atomic_store(&m->inside, false);
    PyEval_RestoreThread(m->thread);
    m->running = false;
    return reason;
}

/* ---- reset and INIT ------------------------------------------------------------------------------ */

/* What INIT leaves alone (SDM 3A table 9-1): x87 and SSE, MSRs, MTRRs; EFER is cleared. */
static const struct {
    unsigned start, end;
} kept_by_init[] = {
    {ENV_FPSTT, ENV_XMM + 32 * 64},
    {ENV_SYSENTER_CS, ENV_TSC_AUX + 8},
    {ENV_MISC_ENABLE, ENV_MISC_ENABLE + 8},
    {ENV_PAT, ENV_PAT + 8},
    {ENV_MTRR_FIXED, ENV_MTRR_VAR + 128},
};

void machine_reset(Machine *m, bool init)
{
    char saved[ENV_UC];
    uint64_t cr0 = FIELD(uint64_t, m->env, ENV_CR);
    void (*reset)(void *) = FIELD(void *, FIELD(void *, m->cpu, CPU_CC), CC_RESET);

    memcpy(saved, m->env, sizeof saved);
    reset(m->cpu);
    lib.cpu_x86_update_cr4(m->env, 0);
    FIELD(uint64_t, m->env, ENV_REGS + R_DX * 8) = m->signature;
    FIELD(SegmentCache, m->env, ENV_TR).flags &= ~TSS_BUSY; /* set, it makes Unicorn abort later */
    FIELD(uint32_t, m->cpu, CPU_INTERRUPT_REQUEST) = PRIVATE_REQUEST;
    FIELD(int, m->cpu, CPU_EXCEPTION_INDEX) = -1;
    if (init) {
        for (size_t i = 0; i < sizeof kept_by_init / sizeof kept_by_init[0]; i++) {
            unsigned start = kept_by_init[i].start;
            memcpy((char *)m->env + start, saved + start, kept_by_init[i].end - start);
        }
        FIELD(uint64_t, m->env, ENV_CR) = 0x10 | (cr0 & 0x60000000);
    } else {
        m->tsc_offset = 0;
    }
    if (!m->a20) {
        lib.x86_cpu_set_a20(m->cpu, 0);
    }
    m->tsc_last = 0;
    m->delivering = -1;
    debug_reset(m);
    m->halted = false;
    m->shut_down = false;
    atomic_store(&m->nmi, false);
    lib.tlb_flush(m->cpu);
}

/* ---- time ---------------------------------------------------------------------------------------- */

uint64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* The time-stamp counter without the guest's own offset. */
uint64_t tsc_read(Machine *m, uintptr_t back)
{
    uint64_t now = m->counting ? executed_now(m, back) * m->instruction_ns : monotonic_ns();
    uint64_t ticks = m->tsc_ticks;

    if (now > m->tsc_host_ns) {
        ticks += (uint64_t)((now - m->tsc_host_ns) * m->tsc_scale >> 40);
    }
    if (ticks > m->tsc_limit) {
        ticks = m->tsc_limit;
    }
    if (ticks < m->tsc_last) {
        ticks = m->tsc_last;
    }
    m->tsc_last = ticks;
    return ticks;
}

/* A thread sleeps in a timerfd.  What moves the deadline is dear, and an EMT that serves a tick does it each
 * time: so the thread, which has nothing better to do, expects the next deadline as long after the last as
 * that was after the one before, and the EMT leaves alone a timer that goes off in time.  One that goes off too
 * early kicks nobody.  `timer_lock` guards `deadline` (0: none), `armed` (when the timer goes off; 0: never) and
 * the setting of the timer. */
enum { TIMER_LATE = 1000, TIMER_LONGEST = 20000000 }; /* ns */

static void timer_arm(Machine *m, uint64_t host_ns)
{
    struct itimerspec at = {.it_value = {(time_t)(host_ns / 1000000000), (long)(host_ns % 1000000000)}};

    m->armed = host_ns;
    timerfd_settime(m->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void timer_expired(Machine *m)
{
    atomic_store(&m->expired, true);
    if (atomic_load(&m->inside)) {
        atomic_store(&m->expired, false);
        machine_kick(m);
    }
}

static void *timer_main(void *argument)
{
    Machine *m = argument;
    uint64_t times, before = 0, next;

    prctl(PR_SET_NAME, "rem-deadline");
    while (read(m->timer_fd, &times, sizeof times) == sizeof times) {
        pthread_mutex_lock(&m->timer_lock);
        if (m->timer_quit) {
            pthread_mutex_unlock(&m->timer_lock);
            break;
        }
        next = m->deadline;
        if (next != 0 && monotonic_ns() >= next) {
            uint64_t since = next - before;

            timer_expired(m);
            m->deadline = 0;
            before = next;
            next = since <= TIMER_LONGEST ? before + since : 0;
        }
        m->armed = 0;
        if (next != 0) {
            timer_arm(m, next);
        }
        pthread_mutex_unlock(&m->timer_lock);
    }
    return NULL;
}

static bool timer_start(Machine *m)
{
    pthread_attr_t small;
    sigset_t all, old;
    int error;

    m->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    if (m->timer_fd < 0) {
        return false;
    }
    pthread_mutex_init(&m->timer_lock, NULL);
    m->timer_quit = false;
    m->armed = m->deadline = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 << 10);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    error = pthread_create(&m->timer, &small, timer_main, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&small);
    if (error) {
        close(m->timer_fd);
    }
    m->timer_started = error == 0;
    return m->timer_started;
}

/* Kick at this time; 0 for never. */
void timer_set(Machine *m, uint64_t host_ns)
{
    if (!m->timer_started) {
        if (host_ns == 0) {
            return;
        }
        if (!timer_start(m)) {
            machine_kick(m); /* without a timer, looking too early is better than too late */
            return;
        }
    }
    pthread_mutex_lock(&m->timer_lock);
    atomic_store(&m->expired, false);
    m->deadline = host_ns;
    if (host_ns != 0 && (m->armed == 0 || m->armed > host_ns + TIMER_LATE)) {
        timer_arm(m, host_ns);
    }
    pthread_mutex_unlock(&m->timer_lock);
}

void timer_stop(Machine *m)
{
    if (!m->timer_started) {
        return;
    }
    pthread_mutex_lock(&m->timer_lock);
    m->timer_quit = true;
    timer_arm(m, 1);
    pthread_mutex_unlock(&m->timer_lock);
    pthread_join(m->timer, NULL);
    pthread_mutex_destroy(&m->timer_lock);
    close(m->timer_fd);
    m->timer_started = false;
}
