/* Port and MMIO tables, and the way from a guest's access to a Python handler.
 *
 * Rows are found by index (ports) or by binary search after a look at the last hit (MMIO).  The GIL
 * is taken for the call of the handler only.  Handlers may replace the tables, the memory map or the
 * translations while they run: nothing found before the call is looked at after it.
 */
#include "rem.h"

/* ---- tables ------------------------------------------------------------------------------------ */

static void row_free(Row *r)
{
    Py_XDECREF(r->read);
    Py_XDECREF(r->write);
    Py_XDECREF(r->adapted_read);
    Py_XDECREF(r->adapted_write);
    Py_XDECREF(r->read_string);
    Py_XDECREF(r->write_string);
    Py_XDECREF(r->owner);
    PyBuffer_Release(&r->answers);
    PyBuffer_Release(&r->keeps);
}

void table_free(Table *t)
{
    Table old = *t;

    memset(t, 0, sizeof *t);
    for (size_t i = 0; i < old.count; i++) {
        row_free(old.rows + i);
    }
    PyMem_Free(old.rows);
    PyMem_Free(old.index);
}

static int number_of(PyObject *row, const char *name, uint64_t *out)
{
    PyObject *value = PyObject_GetAttrString(row, name);

    if (value == NULL) {
        return -1;
    }
    *out = PyLong_AsUnsignedLongLong(value);
    Py_DECREF(value);
    return *out == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

/* The bytes that serve a row instead of a handler, which has None when there are none. */
static int bytes_of(PyObject *row, const char *name, uint64_t end, int flags, Py_buffer *out)
{
    PyObject *value = PyObject_GetAttrString(row, name);
    int error = value == NULL;

    if (!error && value != Py_None) {
        error = PyObject_GetBuffer(value, out, flags);
        if (!error && (uint64_t)out->len < end) {
            PyErr_Format(PyExc_ValueError, "'%s' of an exit row has %zd bytes, its last offset is %llu", name,
                         out->len, (unsigned long long)end - 1);
            error = -1;
        }
    }
    Py_XDECREF(value);
    return error ? -1 : 0;
}

static int row_read(Row *r, PyObject *exit, uint64_t previous, bool is_first, uint64_t highest)
{
    uint64_t size, direct;

    if (number_of(exit, "first", &r->first) < 0 || number_of(exit, "size", &size) < 0 ||
        number_of(exit, "start", &r->start) < 0 || number_of(exit, "direct", &direct) < 0 ||
        !(r->read = PyObject_GetAttrString(exit, "read")) || !(r->write = PyObject_GetAttrString(exit, "write")) ||
        !(r->adapted_read = PyObject_GetAttrString(exit, "adapted_read")) ||
        !(r->adapted_write = PyObject_GetAttrString(exit, "adapted_write")) ||
        !(r->read_string = PyObject_GetAttrString(exit, "read_string")) ||
        !(r->write_string = PyObject_GetAttrString(exit, "write_string")) ||
        !(r->owner = PyObject_GetAttrString(exit, "owner"))) {
        return -1;
    }
    r->direct = (uint32_t)direct;
    r->last = r->first + size - 1;
    if (size == 0 || r->last < r->first || r->last > highest || (!is_first && r->first <= previous)) {
        PyErr_Format(PyExc_ValueError, "exit rows must be sorted, not empty and apart; wrong at 0x%llx",
                     (unsigned long long)r->first);
        return -1;
    }
    if (bytes_of(exit, "answers", r->start + size, PyBUF_SIMPLE, &r->answers) < 0 ||
        bytes_of(exit, "keeps", r->start + size, PyBUF_WRITABLE, &r->keeps) < 0) {
        return -1;
    }
    return 0;
}

int table_set(Table *t, PyObject *rows, uint64_t highest, bool ports)
{
    Table fresh = {0};
    Py_ssize_t count = PySequence_Size(rows);

    if (count < 0) {
        return -1;
    }
    fresh.rows = PyMem_Calloc(count ? count : 1, sizeof(Row));
    if (ports) {
        fresh.index = PyMem_Calloc(0x10000, sizeof(uint16_t));
    }
    if (fresh.rows == NULL || (ports && fresh.index == NULL)) {
        PyErr_NoMemory();
        goto failed;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Row *r = fresh.rows + i;
        PyObject *exit = PySequence_GetItem(rows, i);
        int error;

        fresh.count = i + 1;
        error = exit == NULL || row_read(r, exit, i ? r[-1].last : 0, i == 0, highest) < 0;
        Py_XDECREF(exit);
        if (error) {
            goto failed;
        }
        if (ports) {
            for (uint64_t p = r->first; p <= r->last; p++) {
                fresh.index[p] = (uint16_t)(i + 1);
            }
        }
    }
    table_free(t);
    *t = fresh;
    return 0;

failed:
    table_free(&fresh);
    return -1;
}

/* The row that holds `address`; else NULL, and `*next` is where the next one begins. */
static inline Row *mmio_find(Table *t, uint64_t address, uint64_t *next)
{
    size_t low = 0, high = t->count;

    if (likely(t->hit < high)) {
        Row *r = t->rows + t->hit;
        if (likely(address >= r->first && address <= r->last)) {
            return r;
        }
    }
    while (low < high) {
        size_t middle = (low + high) / 2;
        Row *r = t->rows + middle;
        if (address < r->first) {
            high = middle;
        } else if (address > r->last) {
            low = middle + 1;
        } else {
            t->hit = middle;
            return r;
        }
    }
    *next = low < t->count ? t->rows[low].first : UINT64_MAX;
    return NULL;
}

/* ---- calling a handler ------------------------------------------------------------------------- */

PyObject *take_exception(void)
{
    PyObject *type, *error, *trace;

    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (error != NULL && trace != NULL) {
        PyException_SetTraceback(error, trace);
    }
    Py_XDECREF(type);
    Py_XDECREF(trace);
    if (error == NULL) {
        error = Py_None;
        Py_INCREF(error);
    }
    return error;
}

void report_failure(Machine *m, PyObject *owner, uint64_t offset, unsigned size, const uint64_t *value,
                    PyObject *result)
{
    PyObject *error, *outcome, *v;

    if (result != NULL) {
        PyErr_Format(PyExc_TypeError, "a handler must not return %R", (PyObject *)Py_TYPE(result));
    }
    error = take_exception();
    if (value != NULL) {
        v = PyLong_FromUnsignedLongLong(*value);
    } else {
        v = Py_None;
        Py_INCREF(v);
    }
    outcome = PyObject_CallMethod(m->host, "handler_failed", "OKIOO", owner, (unsigned long long)offset, size, v,
                                  error);
    if (outcome == NULL) {
        PyErr_WriteUnraisable(m->host);
    }
    Py_XDECREF(outcome);
    Py_XDECREF(v);
    Py_DECREF(error);
}

static inline uint64_t width_mask(unsigned size)
{
    return size == 8 ? UINT64_MAX : ((uint64_t)1 << size * 8) - 1;
}

static uint64_t call_read(Machine *m, Row *r, bool direct, uint64_t offset, unsigned size)
{
    PyObject *handler = direct ? r->read : r->adapted_read, *owner = r->owner, *result = NULL;
    PyObject *arguments[3] = {NULL, NULL, NULL};
    uint64_t value = UINT64_MAX;

    enter_python(m);
    m->exits++;
    Py_INCREF(handler);
    Py_INCREF(owner);
    arguments[1] = PyLong_FromUnsignedLongLong(offset);
    arguments[2] = PyLong_FromLong(size);
    if (likely(arguments[1] != NULL && arguments[2] != NULL)) {
        result = PyObject_Vectorcall(handler, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    if (likely(result != NULL && PyLong_Check(result))) {
        value = PyLong_AsUnsignedLongLongMask(result);
    } else {
        report_failure(m, owner, offset, size, NULL, result);
    }
    Py_XDECREF(result);
    Py_XDECREF(arguments[1]);
    Py_XDECREF(arguments[2]);
    Py_DECREF(owner);
    Py_DECREF(handler);
    leave_python(m);
    return value & width_mask(size);
}

static void call_write(Machine *m, Row *r, bool direct, uint64_t offset, unsigned size, uint64_t value)
{
    PyObject *handler = direct ? r->write : r->adapted_write, *owner = r->owner, *result = NULL;
    PyObject *arguments[4] = {NULL, NULL, NULL, NULL};

    value &= width_mask(size);
    enter_python(m);
    m->exits++;
    Py_INCREF(handler);
    Py_INCREF(owner);
    arguments[1] = PyLong_FromUnsignedLongLong(offset);
    arguments[2] = PyLong_FromLong(size);
    arguments[3] = PyLong_FromUnsignedLongLong(value);
    if (likely(arguments[1] != NULL && arguments[2] != NULL && arguments[3] != NULL)) {
        result = PyObject_Vectorcall(handler, arguments + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    if (unlikely(result == NULL)) {
        report_failure(m, owner, offset, size, &value, NULL);
    }
    Py_XDECREF(result);
    Py_XDECREF(arguments[1]);
    Py_XDECREF(arguments[2]);
    Py_XDECREF(arguments[3]);
    Py_DECREF(owner);
    Py_DECREF(handler);
    leave_python(m);
}

/* ---- accesses ---------------------------------------------------------------------------------- */

static inline uint64_t row_load(Machine *m, Row *r, bool direct, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    if (r->answers.buf == NULL || !direct) {
        return call_read(m, r, direct, offset, size);
    }
    memcpy(&value, (char *)r->answers.buf + offset, size);
    return value;
}

static inline void row_store(Machine *m, Row *r, bool direct, uint64_t offset, unsigned size, uint64_t value)
{
    if (r->keeps.buf == NULL || !direct) {
        call_write(m, r, direct, offset, size, value);
    } else {
        memcpy((char *)r->keeps.buf + offset, &value, size);
    }
}

uint64_t port_read(Machine *m, uint32_t port, unsigned size)
{
    Row *r = port_find(&m->ports, port);
    uint64_t value = 0;

    if (likely(r != NULL && port + size - 1 <= r->last)) {
        return row_load(m, r, size & r->direct, port - r->first + r->start, size);
    }
    if (size == 1) {
        return 0xff;
    }
    for (unsigned i = 0; i < size; i++) {
        value |= port_read(m, (port + i) & 0xffff, 1) << i * 8;
    }
    return value;
}

void port_write(Machine *m, uint32_t port, unsigned size, uint64_t value)
{
    Row *r = port_find(&m->ports, port);

    if (likely(r != NULL && port + size - 1 <= r->last)) {
        row_store(m, r, size & r->direct, port - r->first + r->start, size, value);
    } else if (size > 1) {
        for (unsigned i = 0; i < size; i++) {
            port_write(m, (port + i) & 0xffff, 1, value >> i * 8 & 0xff);
        }
    }
}

uint64_t mmio_read(Machine *m, uint64_t address, unsigned size)
{
    uint64_t next = 0, value = 0;
    Row *r = mmio_find(&m->mmio, address, &next);

    if (likely(r != NULL && address + size - 1 <= r->last)) {
        return row_load(m, r, (size & r->direct) && !(address & (size - 1)), address - r->first + r->start, size);
    }
    if (size == 1 || (r == NULL && address + size - 1 < next)) {
        return width_mask(size);
    }
    for (unsigned i = 0; i < size; i++) {
        value |= mmio_read(m, address + i, 1) << i * 8;
    }
    return value;
}

void mmio_write(Machine *m, uint64_t address, unsigned size, uint64_t value)
{
    uint64_t next = 0;
    Row *r;

    if (slot_store(m, address, value, size)) {
        return; /* reads from ROM, writes to the RAM below */
    }
    r = mmio_find(&m->mmio, address, &next);
    if (likely(r != NULL && address + size - 1 <= r->last)) {
        row_store(m, r, (size & r->direct) && !(address & (size - 1)), address - r->first + r->start, size, value);
    } else if (size > 1 && !(r == NULL && address + size - 1 < next)) {
        for (unsigned i = 0; i < size; i++) {
            mmio_write(m, address + i, 1, value >> i * 8 & 0xff);
        }
    }
}

/* ---- where Unicorn's accesses come in ----------------------------------------------------------- */

/* Instruction fetches and helpers that access memory themselves arrive here, always aligned. */
static uint32_t (*orig_dispatch_read)(void *, void *, uint64_t, uint64_t *, int, uint32_t);
static uint32_t (*orig_dispatch_write)(void *, void *, uint64_t, uint64_t, int, uint32_t);

static uint32_t rem_dispatch_read(void *uc, void *region, uint64_t address, uint64_t *value, int op, uint32_t attributes)
{
    Machine *m = machine_of(uc);

    if (m == NULL) {
        return orig_dispatch_read(uc, region, address, value, op, attributes);
    }
    *value = mmio_read(m, address, 1u << (op & 3));
    return 0;
}

static uint32_t rem_dispatch_write(void *uc, void *region, uint64_t address, uint64_t value, int op, uint32_t attributes)
{
    Machine *m = machine_of(uc);

    if (m == NULL) {
        return orig_dispatch_write(uc, region, address, value, op, attributes);
    }
    mmio_write(m, address, 1u << (op & 3), value);
    return 0;
}

/* Loads and stores of translated code arrive here.  Unicorn would make two aligned accesses of one that
 * is not aligned, which a device would notice. */
static inline bool hits(uint64_t tag, uint64_t address)
{
    return (tag & (PAGE_MASK | TLB_INVALID)) == (address & PAGE_MASK);
}

static TlbEntry *entry_filled(void *env, unsigned mode, uint64_t address, unsigned size, bool store, uintptr_t back)
{
    TlbEntry *e = entry_of(env, mode, address);

    if (!hits(store ? e->write : e->read, address)) {
        rem_tlb_fill((char *)env - CPU_ENV, address, size, store, mode, false, back);
        e = entry_of(env, mode, address);
    }
    return e;
}

/* The entry of an access that lies in one page of I/O, or NULL. */
static inline TlbEntry *io_entry(void *env, unsigned oi, uint64_t address, unsigned size, bool store, uintptr_t back)
{
    unsigned mode = oi & 15;
    TlbEntry *e = entry_of(env, mode, address);
    uint64_t tag = store ? e->write : e->read;

    if ((address & (PAGE_SIZE - 1)) + size > PAGE_SIZE) {
        return NULL;
    }
    if (!hits(tag, address)) {
        if (!(address & (size - 1))) {
            return NULL; /* Unicorn does it right */
        }
        e = entry_filled(env, mode, address, size, store, back);
        tag = store ? e->write : e->read;
    }
    return hits(tag, address) && tag & TLB_MMIO ? e : NULL;
}

/* An access that begins in one page and ends in the next: is either of them I/O?  Both may fault, which
 * must happen before any byte of it is done. */
static bool spans_io(void *env, unsigned oi, uint64_t address, unsigned size, bool store, uintptr_t back)
{
    uint64_t next = (address & PAGE_MASK) + PAGE_SIZE;
    unsigned first_size = (unsigned)(next - address);
    uint64_t tags;
    TlbEntry *e;

    if (likely(first_size >= size)) {
        return false;
    }
    if (!(FIELD(uint32_t, env, ENV_HFLAGS) & HF_CS64)) {
        next = (uint32_t)next;
    }
    e = entry_filled(env, oi & 15, address, first_size, store, back);
    tags = store ? e->write : e->read;
    e = entry_filled(env, oi & 15, next, size - first_size, store, back);
    return (tags | (store ? e->write : e->read)) & TLB_MMIO;
}

static uint64_t load_bytes(void *env, uint64_t address, unsigned oi, unsigned size, uintptr_t back);
static void store_bytes(void *env, uint64_t address, uint64_t value, unsigned oi, unsigned size, uintptr_t back);

#define LOAD(name, size)                                                                     \
    static uint64_t (*orig_##name)(void *, uint64_t, unsigned, uintptr_t);                   \
    static uint64_t rem_##name(void *env, uint64_t address, unsigned oi, uintptr_t back)     \
    {                                                                                        \
        Machine *m = machine_of(FIELD(void *, env, ENV_UC));                                 \
        TlbEntry *e;                                                                         \
        if (unlikely(m == NULL)) {                                                           \
            return orig_##name(env, address, oi, back);                                      \
        }                                                                                    \
        if (unlikely(m->watching)) {                                                         \
            watch_access(m, address, size, false, back);                                     \
        }                                                                                    \
        e = io_entry(env, oi, address, size, false, back);                                   \
        m->back = back;                                                                      \
        if (e != NULL) {                                                                     \
            return mmio_read(m, e->paddr | (address & (PAGE_SIZE - 1)), size);               \
        }                                                                                    \
        if (size > 1 && unlikely(spans_io(env, oi, address, size, false, back))) {           \
            return load_bytes(env, address, oi, size, back);                                 \
        }                                                                                    \
        return orig_##name(env, address, oi, back);                                          \
    }
#define STORE(name, size)                                                                               \
    static void (*orig_##name)(void *, uint64_t, uint64_t, unsigned, uintptr_t);                        \
    static void rem_##name(void *env, uint64_t address, uint64_t value, unsigned oi, uintptr_t back)    \
    {                                                                                                   \
        Machine *m = machine_of(FIELD(void *, env, ENV_UC));                                            \
        TlbEntry *e;                                                                                    \
        if (unlikely(m == NULL)) {                                                                      \
            orig_##name(env, address, value, oi, back);                                                 \
            return;                                                                                     \
        }                                                                                               \
        if (unlikely(m->watching)) {                                                                    \
            watch_access(m, address, size, true, back);                                                 \
        }                                                                                               \
        e = io_entry(env, oi, address, size, true, back);                                               \
        m->back = back;                                                                                 \
        if (e != NULL) {                                                                                \
            mmio_write(m, e->paddr | (address & (PAGE_SIZE - 1)), size, value);                         \
        } else if (size > 1 && unlikely(spans_io(env, oi, address, size, true, back))) {                \
            store_bytes(env, address, value, oi, size, back);                                           \
        } else {                                                                                        \
            orig_##name(env, address, value, oi, back);                                                 \
        }                                                                                               \
    }

LOAD(helper_ret_ldub_mmu, 1)
LOAD(helper_le_lduw_mmu, 2)
LOAD(helper_le_ldul_mmu, 4)
LOAD(helper_le_ldq_mmu, 8)
STORE(helper_ret_stb_mmu, 1)
STORE(helper_le_stw_mmu, 2)
STORE(helper_le_stl_mmu, 4)
STORE(helper_le_stq_mmu, 8)

static uint64_t next_address(void *env, uint64_t address)
{
    return FIELD(uint32_t, env, ENV_HFLAGS) & HF_CS64 ? address + 1 : (uint32_t)(address + 1);
}

static uint64_t load_bytes(void *env, uint64_t address, unsigned oi, unsigned size, uintptr_t back)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++, address = next_address(env, address)) {
        value |= (rem_helper_ret_ldub_mmu(env, address, oi & 15, back) & 0xff) << i * 8;
    }
    return value;
}

static void store_bytes(void *env, uint64_t address, uint64_t value, unsigned oi, unsigned size, uintptr_t back)
{
    for (unsigned i = 0; i < size; i++, address = next_address(env, address)) {
        rem_helper_ret_stb_mmu(env, address, value >> i * 8 & 0xff, oi & 15, back);
    }
}

static void note_caller(void *env, uintptr_t back)
{
    Machine *m = machine_of(FIELD(void *, env, ENV_UC));

    if (m != NULL) {
        m->back = back;
    }
}

/* Loads and stores of Unicorn's helpers (interrupt frames, descriptors, FXSAVE) arrive here.  Unicorn walks
 * its hooks and regions for each; what is plain memory needs neither. */
#define HELPER_LOAD(name, type, size)                                                            \
    static uint64_t (*orig_##name)(void *, uint64_t, int, uintptr_t);                            \
    static uint64_t rem_##name(void *env, uint64_t address, int mode, uintptr_t back)            \
    {                                                                                            \
        void *host = plain_memory(env, address, mode, size, false);                                     \
        type value;                                                                              \
        if (host == NULL || unlikely(machine_of(FIELD(void *, env, ENV_UC)) == NULL)) {          \
            note_caller(env, back);                                                              \
            return orig_##name(env, address, mode, back);                                        \
        }                                                                                        \
        memcpy(&value, host, size);                                                              \
        return value;                                                                            \
    }
#define HELPER_STORE(name, type, size)                                                            \
    static void (*orig_##name)(void *, uint64_t, uint64_t, int, uintptr_t);                       \
    static void rem_##name(void *env, uint64_t address, uint64_t wide, int mode, uintptr_t back)  \
    {                                                                                             \
        void *host = plain_memory(env, address, mode, size, true);                                       \
        type value = (type)wide;                                                                  \
        if (host == NULL || unlikely(machine_of(FIELD(void *, env, ENV_UC)) == NULL)) {           \
            note_caller(env, back);                                                               \
            orig_##name(env, address, wide, mode, back);                                          \
        } else {                                                                                  \
            memcpy(host, &value, size);                                                           \
        }                                                                                         \
    }

HELPER_LOAD(cpu_ldub_mmuidx_ra, uint8_t, 1)
HELPER_LOAD(cpu_lduw_mmuidx_ra, uint16_t, 2)
HELPER_LOAD(cpu_ldl_mmuidx_ra, uint32_t, 4)
HELPER_LOAD(cpu_ldq_mmuidx_ra, uint64_t, 8)
HELPER_STORE(cpu_stb_mmuidx_ra, uint8_t, 1)
HELPER_STORE(cpu_stw_mmuidx_ra, uint16_t, 2)
HELPER_STORE(cpu_stl_mmuidx_ra, uint32_t, 4)
HELPER_STORE(cpu_stq_mmuidx_ra, uint64_t, 8)

#define OURS(name) {#name, (void *)rem_##name, (void **)&orig_##name}
const Reroute slow_path_reroutes[] = {
    OURS(helper_ret_ldub_mmu), OURS(helper_le_lduw_mmu), OURS(helper_le_ldul_mmu), OURS(helper_le_ldq_mmu),
    OURS(helper_ret_stb_mmu),  OURS(helper_le_stw_mmu),  OURS(helper_le_stl_mmu),  OURS(helper_le_stq_mmu),
    {NULL, NULL, NULL},
};

const Reroute exits_reroutes[] = {
    {"memory_region_dispatch_read", (void *)rem_dispatch_read, (void **)&orig_dispatch_read},
    {"memory_region_dispatch_write", (void *)rem_dispatch_write, (void **)&orig_dispatch_write},
    OURS(cpu_ldub_mmuidx_ra),
    OURS(cpu_lduw_mmuidx_ra),
    OURS(cpu_ldl_mmuidx_ra),
    OURS(cpu_ldq_mmuidx_ra),
    OURS(cpu_stb_mmuidx_ra),
    OURS(cpu_stw_mmuidx_ra),
    OURS(cpu_stl_mmuidx_ra),
    OURS(cpu_stq_mmuidx_ra),
    {NULL, NULL, NULL},
};
