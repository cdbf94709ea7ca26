/* The Python face: `load(path)` and the type `Core`, whose methods are those of the Engine protocol that
 * need nothing but C.  Python's class Rem derives from it and adds the rest.
 */
#include "rem.h"

static int check_open(Machine *m)
{
    if (m->closed || m->uc == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the engine is closed");
        return -1;
    }
    if (m->running && !pthread_equal(m->runner, pthread_self())) {
        PyErr_SetString(PyExc_RuntimeError, "while the engine runs, other threads may only kick and raise interrupts");
        return -1;
    }
    return 0;
}

static int check_idle(Machine *m, const char *what)
{
    if (check_open(m) < 0) {
        return -1;
    }
    if (m->running) {
        PyErr_Format(PyExc_RuntimeError, "%s is not possible while the engine runs", what);
        return -1;
    }
    return 0;
}

static int check_pages(uint64_t address, uint64_t size)
{
    if ((address | size) & (PAGE_SIZE - 1) || size == 0 || address + size < address) {
        PyErr_Format(PyExc_ValueError, "0x%llx bytes at 0x%llx are not whole pages", (unsigned long long)size,
                     (unsigned long long)address);
        return -1;
    }
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------------ */

static int cpuid_set(Machine *m, PyObject *rows)
{
    Py_ssize_t count = PySequence_Size(rows);

    if (count < 0) {
        return -1;
    }
    m->cpuid = PyMem_Calloc(count + 1, sizeof *m->cpuid);
    if (m->cpuid == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        CpuidRow *r = m->cpuid + i;
        PyObject *row = PySequence_GetItem(rows, i);
        int ok = row && PyArg_ParseTuple(row, "IIIIII", &r->leaf, &r->subleaf, r->value, r->value + 1, r->value + 2,
                                         r->value + 3);
        Py_XDECREF(row);
        if (!ok) {
            return -1;
        }
    }
    m->cpuid_count = count;
    return 0;
}

/* What the translator asks when it decides whether an instruction exists. */
static int features_set(Machine *m, PyObject *words)
{
    Py_ssize_t count = PySequence_Size(words);

    if (count < 0 || count > ENV_FEATURE_WORDS) {
        PyErr_SetString(PyExc_ValueError, "too many feature words");
        return -1;
    }
    for (Py_ssize_t i = 0; i < ENV_FEATURE_WORDS; i++) {
        PyObject *word = i < count ? PySequence_GetItem(words, i) : NULL;
        FIELD(uint64_t, m->env, ENV_FEATURES + i * 8) = word ? PyLong_AsUnsignedLongLongMask(word) : 0;
        Py_XDECREF(word);
    }
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *core_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"host", "reasons", "cpuid", "features", "vendor", "signature", "translation_buffer",
                            "fast_stores", NULL};
    PyObject *host, *reasons, *cpuid, *features;
    const char *vendor;
    Py_ssize_t vendor_size;
    unsigned signature, buffer;
    int fast_stores;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    Machine *m;

    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO!OOy#IIp", names, &host, &PyTuple_Type, &reasons, &cpuid,
                                     &features, &vendor, &vendor_size, &signature, &buffer, &fast_stores)) {
        return NULL;
    }
    if (lib.handle == NULL || vendor_size != 12 || PyTuple_Size(reasons) != RUN_FAILED + 1) {
        PyErr_SetString(PyExc_RuntimeError, "load libunicorn first; a vendor has 12 letters, a run four ends");
        return NULL;
    }
    m = (Machine *)allocate(type, 0);
    if (m == NULL) {
        return NULL;
    }
    Py_INCREF(host);
    m->host = host;
    Py_INCREF(reasons);
    m->reasons = reasons;
    m->acknowledge = PyUnicode_InternFromString("acknowledge_interrupt");
    m->attend = PyUnicode_InternFromString("attend");
    m->fast_stores = fast_stores;
    m->signature = signature;
    m->a20 = true;
    m->delivering = -1;
    m->tsc_limit = UINT64_MAX;
    m->tsc_scale = (unsigned __int128)1 << 40; /* 1 GHz until told otherwise */
    m->tsc_host_ns = monotonic_ns();
    if (m->acknowledge == NULL || m->attend == NULL || cpuid_set(m, cpuid) < 0 || engine_open(m, buffer) < 0 ||
        features_set(m, features) < 0) {
        Py_DECREF(m);
        return NULL;
    }
    memcpy((char *)m->env + ENV_CPUID_VENDOR, vendor, 12);
    FIELD(uint32_t, m->env, ENV_CPUID_VERSION) = signature;
    machine_reset(m, false);
    return (PyObject *)m;
}

static void core_free(Machine *m)
{
    if (!m->closed) {
        m->closed = true;
        Py_BEGIN_ALLOW_THREADS timer_stop(m);
        Py_END_ALLOW_THREADS engine_close(m);
        table_free(&m->ports);
        table_free(&m->mmio);
        slots_free(m);
        PyMem_Free(m->cpuid);
        m->cpuid = NULL;
        m->cpuid_count = 0;
    }
}

static void core_dealloc(PyObject *self)
{
    Machine *m = (Machine *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);

    PyObject_GC_UnTrack(self);
    core_free(m);
    Py_CLEAR(m->host);
    Py_CLEAR(m->reasons);
    Py_CLEAR(m->acknowledge);
    Py_CLEAR(m->attend);
    release(self);
    Py_DECREF(type);
}

static int core_traverse(PyObject *self, visitproc visit, void *arg)
{
    Machine *m = (Machine *)self;
    const Table *tables[] = {&m->ports, &m->mmio};

    Py_VISIT(Py_TYPE(self));
    Py_VISIT(m->host);
    Py_VISIT(m->reasons);
    Py_VISIT(m->acknowledge);
    Py_VISIT(m->attend);
    for (int t = 0; t < 2; t++) {
        for (size_t i = 0; i < tables[t]->count; i++) {
            Row *r = tables[t]->rows + i;
            Py_VISIT(r->read);
            Py_VISIT(r->write);
            Py_VISIT(r->adapted_read);
            Py_VISIT(r->adapted_write);
            Py_VISIT(r->read_string);
            Py_VISIT(r->write_string);
            Py_VISIT(r->owner);
        }
    }
    return 0;
}

static int core_clear(PyObject *self)
{
    Machine *m = (Machine *)self;

    table_free(&m->ports);
    table_free(&m->mmio);
    Py_CLEAR(m->host);
    Py_CLEAR(m->reasons);
    Py_CLEAR(m->acknowledge);
    Py_CLEAR(m->attend);
    return 0;
}

static PyObject *core_close(PyObject *self, PyObject *unused)
{
    Machine *m = (Machine *)self;

    (void)unused;
    if (m->running) {
        return check_idle(m, "close"), NULL;
    }
    core_free(m);
    Py_RETURN_NONE;
}

/* ---- memory ---------------------------------------------------------------------------------------- */

static PyObject *core_map_ram(PyObject *self, PyObject *arguments)
{
    Machine *m = (Machine *)self;
    unsigned long long address, size, host, write_host = 0;
    PyObject *write;

    if (!PyArg_ParseTuple(arguments, "KKKO", &address, &size, &host, &write) || check_open(m) < 0 ||
        check_pages(address, size) < 0) {
        return NULL;
    }
    if (write != Py_None) {
        write_host = PyLong_AsUnsignedLongLong(write);
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    if (host == 0 || (host | write_host) & (PAGE_SIZE - 1)) {
        PyErr_SetString(PyExc_ValueError, "host memory must be page aligned");
        return NULL;
    }
    if (slot_map(m, address, size, (uint8_t *)host, (uint8_t *)write_host) < 0) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyObject *core_unmap(PyObject *self, PyObject *arguments)
{
    Machine *m = (Machine *)self;
    unsigned long long address, size;

    if (!PyArg_ParseTuple(arguments, "KK", &address, &size) || check_open(m) < 0 || check_pages(address, size) < 0) {
        return NULL;
    }
    if (slot_map(m, address, size, NULL, NULL) < 0) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyObject *core_invalidate(PyObject *self, PyObject *arguments)
{
    Machine *m = (Machine *)self;
    unsigned long long address, size;

    if (!PyArg_ParseTuple(arguments, "KK", &address, &size) || check_open(m) < 0) {
        return NULL;
    }
    memory_invalidate(m, address, size);
    Py_RETURN_NONE;
}

static PyObject *core_dirty_pages(PyObject *self, PyObject *arguments)
{
    Machine *m = (Machine *)self;
    unsigned long long address, size;
    PyObject *result;

    if (!PyArg_ParseTuple(arguments, "KK", &address, &size) || check_open(m) < 0 || check_pages(address, size) < 0) {
        return NULL;
    }
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(size >> PAGE_BITS));
    if (result != NULL && !memory_dirty(m, address, size, (uint8_t *)PyBytes_AsString(result))) {
        Py_DECREF(result);
        return PyErr_NoMemory();
    }
    return result;
}

static PyObject *core_set_ports(PyObject *self, PyObject *rows)
{
    Machine *m = (Machine *)self;

    return check_open(m) < 0 || table_set(&m->ports, rows, 0xffff, true) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *core_set_mmio(PyObject *self, PyObject *rows)
{
    Machine *m = (Machine *)self;

    return check_open(m) < 0 || table_set(&m->mmio, rows, UINT64_MAX, false) < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- lines and time ------------------------------------------------------------------------------- */

static PyObject *core_interrupt(PyObject *self, PyObject *level)
{
    Machine *m = (Machine *)self;
    int raised = PyObject_IsTrue(level);

    if (raised < 0) {
        return NULL;
    }
    atomic_store(&m->irq, raised != 0);
    if (raised && !m->closed) {
        machine_attend(m);
    }
    Py_RETURN_NONE;
}

static PyObject *core_nmi(PyObject *self, PyObject *unused)
{
    Machine *m = (Machine *)self;

    (void)unused;
    atomic_store(&m->nmi, true);
    if (!m->closed) {
        machine_attend(m);
    }
    Py_RETURN_NONE;
}

static PyObject *core_kick(PyObject *self, PyObject *unused)
{
    Machine *m = (Machine *)self;

    (void)unused;
    if (!m->closed) {
        machine_kick(m);
    }
    Py_RETURN_NONE;
}

static PyObject *core_ignore_fpu_errors(PyObject *self, PyObject *unused)
{
    Machine *m = (Machine *)self;

    (void)unused;
    if (!m->closed && FIELD(uint8_t, m->env, ENV_X87_ERROR) == ERROR_TOLD) {
        FIELD(uint8_t, m->env, ENV_X87_ERROR) = ERROR_IGNORED;
    }
    Py_RETURN_NONE;
}

static PyObject *core_a20(PyObject *self, PyObject *enabled)
{
    Machine *m = (Machine *)self;
    int on = PyObject_IsTrue(enabled);

    if (on < 0 || check_open(m) < 0) {
        return NULL;
    }
    m->a20 = on;
    lib.x86_cpu_set_a20(m->cpu, on);
    machine_attend(m);
    Py_RETURN_NONE;
}

static PyObject *core_set_tsc(PyObject *self, PyObject *arguments)
{
    Machine *m = (Machine *)self;
    unsigned long long ticks, host_ns, hz, limit;

    if (!PyArg_ParseTuple(arguments, "KKKK", &ticks, &host_ns, &hz, &limit)) {
        return NULL;
    }
    m->tsc_ticks = ticks;
    m->tsc_host_ns = host_ns;
    m->tsc_limit = limit;
    m->tsc_scale = ((unsigned __int128)hz << 40) / 1000000000;
    Py_RETURN_NONE;
}

static PyObject *core_set_deadline(PyObject *self, PyObject *host_ns)
{
    Machine *m = (Machine *)self;
    unsigned long long at = PyLong_AsUnsignedLongLong(host_ns);

    if ((at == UINT64_MAX && PyErr_Occurred()) || check_open(m) < 0) {
        return NULL;
    }
    timer_set(m, at);
    Py_RETURN_NONE;
}

static PyObject *core_count_instructions(PyObject *self, PyObject *arguments)
{
    Machine *m = (Machine *)self;
    unsigned long long ns, executed, seed;

    if (!PyArg_ParseTuple(arguments, "KKK", &ns, &executed, &seed) || check_idle(m, "count_instructions") < 0) {
        return NULL;
    }
    count_start(m, ns, executed, seed);
    Py_RETURN_NONE;
}

static PyObject *core_executed(PyObject *self, PyObject *unused)
{
    Machine *m = (Machine *)self;

    (void)unused;
    if (check_open(m) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(executed_now(m, m->running ? m->back : 0));
}

static PyObject *core_stop_at(PyObject *self, PyObject *executed)
{
    Machine *m = (Machine *)self;
    unsigned long long at = PyLong_AsUnsignedLongLong(executed);

    if ((at == UINT64_MAX && PyErr_Occurred()) || check_open(m) < 0) {
        return NULL;
    }
    count_stop_at(m, at);
    Py_RETURN_NONE;
}

/* ---- running and state ------------------------------------------------------------------------------ */

static PyObject *core_run(PyObject *self, PyObject *unused)
{
    Machine *m = (Machine *)self;
    PyObject *reason;

    (void)unused;
    if (check_idle(m, "run") < 0) {
        return NULL;
    }
    reason = PyTuple_GetItem(m->reasons, machine_run(m));
    Py_INCREF(reason);
    return reason;
}

static PyObject *core_reset(PyObject *self, PyObject *unused)
{
    Machine *m = (Machine *)self;

    (void)unused;
    if (check_idle(m, "reset") < 0) {
        return NULL;
    }
    machine_reset(m, false);
    Py_RETURN_NONE;
}

static PyObject *core_init(PyObject *self, PyObject *unused)
{
    Machine *m = (Machine *)self;

    (void)unused;
    if (check_idle(m, "INIT") < 0) {
        return NULL;
    }
    machine_reset(m, true);
    Py_RETURN_NONE;
}

static PyObject *core_state(PyObject *self, PyObject *unused)
{
    (void)unused;
    return check_idle((Machine *)self, "get_state") < 0 ? NULL : state_get((Machine *)self);
}

static PyObject *core_load_state(PyObject *self, PyObject *state)
{
    if (check_idle((Machine *)self, "set_state") < 0 || state_set((Machine *)self, state) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *core_get_failure(PyObject *self, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((Machine *)self)->failure);
}

static PyObject *core_get_exits(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Machine *)self)->exits);
}

static PyMethodDef methods[] = {
    {"map_ram", core_map_ram, METH_VARARGS, NULL},
    {"unmap", core_unmap, METH_VARARGS, NULL},
    {"invalidate", core_invalidate, METH_VARARGS, NULL},
    {"dirty_pages", core_dirty_pages, METH_VARARGS, NULL},
    {"set_ports", core_set_ports, METH_O, NULL},
    {"set_mmio", core_set_mmio, METH_O, NULL},
    {"interrupt", core_interrupt, METH_O, NULL},
    {"nmi", core_nmi, METH_NOARGS, NULL},
    {"kick", core_kick, METH_NOARGS, NULL},
    {"ignore_fpu_errors", core_ignore_fpu_errors, METH_NOARGS, NULL},
    {"a20", core_a20, METH_O, NULL},
    {"set_tsc", core_set_tsc, METH_VARARGS, NULL},
    {"set_deadline", core_set_deadline, METH_O, NULL},
    {"count_instructions", core_count_instructions, METH_VARARGS, NULL},
    {"executed", core_executed, METH_NOARGS, NULL},
    {"stop_at", core_stop_at, METH_O, NULL},
    {"run", core_run, METH_NOARGS, NULL},
    {"reset", core_reset, METH_NOARGS, NULL},
    {"init", core_init, METH_NOARGS, NULL},
    {"state", core_state, METH_NOARGS, NULL},
    {"load_state", core_load_state, METH_O, NULL},
    {"close", core_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"failure", core_get_failure, NULL, NULL, NULL},
    {"exits", core_get_exits, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, core_new},
    {Py_tp_dealloc, core_dealloc},
    {Py_tp_traverse, core_traverse},
    {Py_tp_clear, core_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {Py_tp_doc, "One vCPU on Unicorn; see vbox_pdm.engine.Engine."},
    {0, NULL},
};

static PyType_Spec spec = {
    "vbox_vmm.rem._native.Core", sizeof(Machine), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots,
};

static PyObject *native_load(PyObject *module, PyObject *path)
{
    PyObject *bytes;
    int error;

    (void)module;
    if (!PyUnicode_FSConverter(path, &bytes)) {
        return NULL;
    }
    error = library_load(PyBytes_AsString(bytes));
    Py_DECREF(bytes);
    return error < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef functions[] = {
    {"load", native_load, METH_O, "Load libunicorn from this path and take it in hand; once for the process."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The native half of the REM engine.", -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module ? PyType_FromSpec(&spec) : NULL;

    if (type == NULL || PyModule_AddObjectRef(module, "Core", type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(module);
        return NULL;
    }
    Py_DECREF(type);
    return module;
}
