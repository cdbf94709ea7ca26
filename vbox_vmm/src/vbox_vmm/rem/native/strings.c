/* REP INS and REP OUTS: many items in one call of a handler.
 *
 * Unicorn translates them to a loop that calls a port helper once an item.  Where the region has a string
 * handler, the first of these calls moves many items at once and sets (E|R)CX and (E|R)DI or SI so that
 * the loop finds the last of them done: what it then does for that item is what it would have done.
 *
 * Reference: Intel SDM volume 2, INS, OUTS, REP.  The loop goes item by item whenever that could be noticed:
 * DF set, single step, data breakpoints, memory that is not plain RAM, the end of a page or of 64 KiB in
 * 16-bit addressing, a segment override of OUTS.
 *
 * How many go in one call must not depend on what is translated or cached: it would show in the guest's time
 * where instructions are counted (count.c).  There each item counts, as it would have by itself, and a call ends
 * where the count is to stop.
 *
 * Trap: a handler may change translations and the memory map; the place is looked up again behind it.
 */
#include "rem.h"

#define REG(number) FIELD(uint64_t, env, ENV_REGS + (number) * 8)

static inline uint64_t address_mask(unsigned bits)
{
    return bits == 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
}

static void register_add(void *env, int number, int64_t by, unsigned bits)
{
    uint64_t mask = address_mask(bits), old = REG(number), new = (old + (uint64_t)by) & mask;

    REG(number) = bits == 16 ? (old & ~mask) | new : new;
}

static uint64_t linear(void *env, int segment, int number, unsigned bits)
{
    uint64_t offset = REG(number) & address_mask(bits);
    uint64_t base = FIELD(SegmentCache, env, ENV_SEGS + segment * sizeof(SegmentCache)).base;

    return FIELD(uint32_t, env, ENV_HFLAGS) & HF_CS64 ? offset : (uint32_t)(base + offset);
}

/* How many items may go in one call: those in this page, of which the first may be all that there is. */
static uint64_t items(Machine *m, void *env, uint64_t address, int index, unsigned size, unsigned bits)
{
    uint64_t count = REG(R_CX) & address_mask(bits), room = PAGE_SIZE - (address & (PAGE_SIZE - 1));

    if (FIELD(int32_t, env, ENV_DF) < 0 || FIELD(uint64_t, env, ENV_EFLAGS) & FLAG_TF || m->watching || m->stepping) {
        return 1;
    }
    if (bits == 16 && room > 0x10000 - (REG(index) & 0xffff)) {
        room = 0x10000 - (REG(index) & 0xffff);
    }
    room /= size;
    if (m->counting) {
        uint64_t executed = FIELD(uint64_t, env, ENV_EXECUTED); /* this item, which is the first, included */
        uint64_t left = executed < m->stop_at ? m->stop_at - executed : 0;
        if (left < room) {
            room = left + 1;
        }
    }
    return count < room ? count : room;
}

/* `moved` items in one go, which Unicorn takes for one. */
static void count_items(Machine *m, void *env, uint64_t moved)
{
    if (m->counting) {
        FIELD(uint64_t, env, ENV_EXECUTED) += moved - 1;
    }
}

/* Where a store lies in RAM that is written at once, translated code or not; else NULL. */
static void *ram_to_store(void *env, uint64_t address, int mode)
{
    TlbEntry *e = entry_of(env, mode, address);

    return (e->write & ~(uint64_t)TLB_NOTDIRTY) == (address & PAGE_MASK) ? (void *)(address + e->addend) : NULL;
}

/* The row whose string handler may serve; NULL for the usual way. */
static Row *string_row(Machine *m, uint32_t port, unsigned size, bool write)
{
    Row *r = port_find(&m->ports, port);
    PyObject *handler;

    if (r == NULL || port + size - 1 > r->last || !(size & r->direct)) {
        return NULL;
    }
    handler = write ? r->write_string : r->read_string;
    return handler == Py_None ? NULL : r;
}

/* Bytes that the handler gave: new reference to a bytes object of whole items, or NULL.  With the GIL. */
static PyObject *ask(Machine *m, Row *r, uint64_t offset, unsigned size, uint64_t count)
{
    PyObject *handler = r->read_string, *owner = r->owner, *data;

    Py_INCREF(handler);
    Py_INCREF(owner);
    m->exits++;
    data = PyObject_CallFunction(handler, "KIK", (unsigned long long)offset, size, (unsigned long long)count);
    if (data == NULL || !PyBytes_Check(data) || PyBytes_Size(data) % size ||
        (uint64_t)PyBytes_Size(data) > count * size) {
        report_failure(m, owner, offset, size, NULL, data);
        Py_CLEAR(data);
    } else if (PyBytes_Size(data) == 0) {
        Py_CLEAR(data);
    }
    Py_DECREF(owner);
    Py_DECREF(handler);
    return data;
}

/* How many whole items of `bytes` the handler took.  With the GIL. */
static uint64_t offer(Machine *m, Row *r, uint64_t offset, unsigned size, const char *bytes, uint64_t count)
{
    PyObject *handler = r->write_string, *owner = r->owner, *result;
    long long taken = 0;

    Py_INCREF(handler);
    Py_INCREF(owner);
    m->exits++;
    result = PyObject_CallFunction(handler, "KIy#", (unsigned long long)offset, size, bytes, (Py_ssize_t)(count * size));
    if (result != NULL && PyLong_Check(result)) {
        taken = PyLong_AsLongLong(result);
    }
    if (result == NULL || taken < 0 || taken % size || (uint64_t)taken > count * size) {
        report_failure(m, owner, offset, size, NULL, result);
        taken = 0;
    }
    Py_XDECREF(result);
    Py_DECREF(owner);
    Py_DECREF(handler);
    return (uint64_t)taken / size;
}

static uint64_t string_in(void *env, uint32_t port, unsigned size, unsigned bits, uintptr_t back)
{
    Machine *m = machine_of_env(env);
    uint64_t address, count, first = 0;
    unsigned mode = data_mode(env);
    PyObject *data = NULL;
    Row *r;

    port &= 0xffff;
    check_permission(env, port, size, back);
    m->back = back;
    r = string_row(m, port, size, false);
    address = linear(env, SEG_ES, R_DI, bits);
    if (r != NULL && (address & (PAGE_SIZE - 1)) <= PAGE_SIZE - size && ram_to_store(env, address, mode) != NULL &&
        (count = items(m, env, address, R_DI, size, bits)) > 1) {
        enter_python(m);
        data = ask(m, r, port - r->first + r->start, size, count);
        if (data != NULL) {
            const char *bytes = PyBytes_AsString(data);
            size_t rest = (size_t)PyBytes_Size(data) - size;
            void *host = rest ? ram_to_store(env, address + size, mode) : NULL;

            memcpy(&first, bytes, size);
            register_add(env, R_DI, (int64_t)rest, bits);
            register_add(env, R_CX, -(int64_t)(rest / size), bits);
            count_items(m, env, rest / size + 1);
            if (likely(host != NULL)) {
                invalidate_host(m, host, rest);
                memcpy(host, bytes + size, rest);
                Py_DECREF(data);
                leave_python(m);
                return first;
            }
            char copy[PAGE_SIZE];
            memcpy(copy, bytes + size, rest);
            Py_DECREF(data);
            leave_python(m);
            for (size_t i = 0; i < rest; i++) {
                lib.cpu_stb_mmuidx_ra(env, address + size + i, (uint8_t)copy[i], mode, back);
            }
            return first;
        }
        leave_python(m);
    }
    return port_read(m, port, size);
}

static void string_out(void *env, uint32_t port, uint32_t value, unsigned size, unsigned bits, uintptr_t back)
{
    Machine *m = machine_of_env(env);
    uint64_t address, count, taken;
    unsigned mode = data_mode(env);
    const char *host;
    Row *r;

    port &= 0xffff;
    check_permission(env, port, size, back);
    m->back = back;
    r = string_row(m, port, size, true);
    address = linear(env, SEG_DS, R_SI, bits);
    if (r != NULL && (host = plain_memory(env, address, mode, size, false)) != NULL &&
        (count = items(m, env, address, R_SI, size, bits)) > 1) {
        enter_python(m);
        taken = offer(m, r, port - r->first + r->start, size, host, count);
        leave_python(m);
        if (taken) {
            register_add(env, R_SI, (int64_t)((taken - 1) * size), bits);
            register_add(env, R_CX, -(int64_t)(taken - 1), bits);
            count_items(m, env, taken);
            return;
        }
    }
    port_write(m, port, size, value);
}

/* ---- one function for each item size and address size, since translated code passes neither -------- */

#define IN(letter, size, bits)                                             \
    static uint64_t in_##letter##_##bits(void *env, uint32_t port)         \
    {                                                                      \
        return string_in(env, port, size, bits, HERE);                     \
    }
#define OUT(letter, size, bits)                                                       \
    static void out_##letter##_##bits(void *env, uint32_t port, uint32_t value)       \
    {                                                                                 \
        string_out(env, port, value, size, bits, HERE);                               \
    }
#define BOTH(letter, size) IN(letter, size, 16) IN(letter, size, 32) IN(letter, size, 64) \
    OUT(letter, size, 16) OUT(letter, size, 32) OUT(letter, size, 64)

BOTH(b, 1)
BOTH(w, 2)
BOTH(l, 4)

static const struct {
    void *port_helper, *by_address_size[3];
} bulk[] = {
#define WAYS(way, letter)                                                                     \
    {(void *)rem_##way##letter,                                                               \
     {(void *)way##_##letter##_16, (void *)way##_##letter##_32, (void *)way##_##letter##_64}}
    WAYS(in, b), WAYS(in, w), WAYS(in, l), WAYS(out, b), WAYS(out, w), WAYS(out, l),
};

/* A byte of the code that is being translated; 0 where it cannot simply be read. */
static uint8_t code_byte(void *env, uint64_t pc)
{
    TlbEntry *e = entry_of(env, data_mode(env), pc);

    return e->code == (pc & PAGE_MASK) ? *(uint8_t *)(pc + e->addend) : 0;
}

/* Asked while the instruction at linear `pc`, an INS or OUTS, is translated for the state that the CPU is in. */
void *string_io_helper(void *env, void *port_helper, uint64_t pc)
{
    uint32_t hflags = FIELD(uint32_t, env, ENV_HFLAGS);
    bool repeated = false, other_size = false, overridden = false;
    int size;

    for (int i = 0; i < 14; i++) {
        uint8_t byte = code_byte(env, hflags & HF_CS64 ? pc + i : (uint32_t)(pc + i));
        if (byte == 0xf2 || byte == 0xf3) {
            repeated = true;
        } else if (byte == 0x67) {
            other_size = true;
        } else if (byte == 0x26 || byte == 0x2e || byte == 0x36 || byte == 0x3e || byte == 0x64 || byte == 0x65) {
            overridden = true;
        } else if ((byte & 0xfc) == 0x6c) {
            break;
        } else if (byte != 0x66 && byte != 0xf0 && !(hflags & HF_CS64 && (byte & 0xf0) == 0x40)) {
            return NULL;
        }
    }
    if (!repeated || overridden) {
        return NULL;
    }
    size = hflags & HF_CS64 ? 2 - other_size : !!(hflags & HF_CS32) ^ other_size;
    for (size_t i = 0; i < sizeof bulk / sizeof bulk[0]; i++) {
        if (bulk[i].port_helper == port_helper) {
            return bulk[i].by_address_size[size];
        }
    }
    return NULL;
}
