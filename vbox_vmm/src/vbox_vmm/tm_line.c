/* The line on which the virtual clocks run, as `tm_line` describes it, without a frame of Python: devices read
 * the time at nearly every access.
 *
 * Times are ns below 2^63.  A source that is None is the host's monotonic clock, the one of time.monotonic_ns.
 */
#include "tm_line.h"

#include <time.h>

#define NS_PER_SECOND 1000000000
#define FAR ((int64_t)1 << 62) /* that of tm_timer */

typedef struct {
    PyObject_HEAD
    Line *line;
    bool sync;
    uint32_t hz;
} Reader;

static PyTypeObject *reader_type;

static __int128 floor_divided(__int128 value, int64_t by)
{
    return value / by - (value % by < 0);
}

static int64_t floor_hundredth(__int128 value)
{
    return (int64_t)floor_divided(value, 100);
}

/* -1 with an exception set when the source raises. */
static int source_now(Line *l, int64_t *now)
{
    PyObject *value;

    if (l->source == NULL) {
        struct timespec at;

        clock_gettime(CLOCK_MONOTONIC, &at);
        *now = (int64_t)at.tv_sec * NS_PER_SECOND + at.tv_nsec;
        return 0;
    }
    value = PyObject_CallNoArgs(l->source);
    if (value == NULL) {
        return -1;
    }
    *now = PyLong_AsLongLong(value);
    Py_DECREF(value);
    return *now == -1 && PyErr_Occurred() ? -1 : 0;
}

static int64_t virtual_at(Line *l, int64_t now)
{
    now -= l->anchor;
    return l->base + (l->warp == 100 ? now : floor_hundredth((__int128)now * l->warp));
}

static int virtual_now(Line *l, int64_t *out)
{
    int64_t now;

    if (l->warp == 0) {
        *out = l->base;
        return 0; /* it stands */
    }
    if (source_now(l, &now) < 0) {
        return -1;
    }
    *out = virtual_at(l, now);
    return 0;
}

static int64_t unlimited_at(Line *l, int64_t virtual)
{
    int64_t sync = l->s0 + virtual - l->v0;

    if (l->rate) {
        int64_t fast = (virtual < l->v_end ? virtual : l->v_end) - l->v0;

        sync += floor_hundredth((__int128)fast * l->rate);
    }
    return sync;
}

static int64_t limited(Line *l, int64_t sync)
{
    return sync < l->limit ? sync : l->limit;
}

static int sync_now(Line *l, int64_t *out)
{
    if (virtual_now(l, out) < 0) {
        return -1;
    }
    *out = limited(l, unlimited_at(l, *out));
    return 0;
}

int line_now(Line *l, bool sync, uint32_t hz, uint64_t *out)
{
    int64_t now;
    uint64_t ns;

    if ((sync ? sync_now(l, &now) : virtual_now(l, &now)) < 0) {
        return -1;
    }
    ns = (uint64_t)now; /* a virtual clock begins at 0; each part of the product fits in 64 bits */
    *out = hz == NS_PER_SECOND ? ns : ns / NS_PER_SECOND * hz + ns % NS_PER_SECOND * hz / NS_PER_SECOND;
    return 0;
}

/* ---- the line ------------------------------------------------------------------------------------------ */

static PyObject *line_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"source", NULL};
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    PyObject *source;
    Line *l;

    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O", names, &source)) {
        return NULL;
    }
    l = (Line *)allocate(type, 0);
    if (l != NULL && source != Py_None) {
        l->source = Py_NewRef(source);
    }
    return (PyObject *)l;
}

static int line_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Line *)self)->source);
    return 0;
}

/* A line without its source would follow the host's clock: it stands instead. */
static int line_clear(PyObject *self)
{
    ((Line *)self)->warp = 0;
    Py_CLEAR(((Line *)self)->source);
    return 0;
}

void released(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);

    release(self);
    Py_DECREF(type);
}

static void line_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    line_clear(self);
    released(self);
}

static PyObject *line_set(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    Line *l = (Line *)self;
    int64_t value[8];

    if (count != 8) {
        return PyErr_Format(PyExc_TypeError, "set() takes 8 numbers, not %zd", count);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        value[i] = PyLong_AsLongLong(arguments[i]);
        if (value[i] == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    l->anchor = value[0];
    l->base = value[1];
    l->warp = value[2];
    l->v0 = value[3];
    l->s0 = value[4];
    l->rate = value[5];
    l->v_end = value[6];
    l->limit = value[7];
    Py_RETURN_NONE;
}

static PyObject *line_hold(PyObject *self, PyObject *limit)
{
    int64_t value = PyLong_AsLongLong(limit);

    if (value == -1 && PyErr_Occurred()) {
        return NULL;
    }
    ((Line *)self)->limit = value;
    Py_RETURN_NONE;
}

static PyObject *line_virtual(PyObject *self, PyObject *unused)
{
    int64_t now;

    (void)unused;
    return virtual_now((Line *)self, &now) < 0 ? NULL : PyLong_FromLongLong(now);
}

static PyObject *line_sync(PyObject *self, PyObject *unused)
{
    int64_t now;

    (void)unused;
    return sync_now((Line *)self, &now) < 0 ? NULL : PyLong_FromLongLong(now);
}

static PyObject *line_unlimited(PyObject *self, PyObject *virtual)
{
    int64_t value = PyLong_AsLongLong(virtual);

    if (value == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return PyLong_FromLongLong(unlimited_at((Line *)self, value));
}

static int64_t virtual_of(Line *l, int64_t sync)
{
    int64_t need = sync - l->s0, span, fast;

    if (sync >= FAR) {
        return FAR;
    }
    if (l->rate == 0 || need <= 0) {
        return l->v0 + need;
    }
    span = l->v_end - l->v0;
    fast = span + floor_hundredth((__int128)span * l->rate);
    if (need <= fast) {
        return l->v0 - (int64_t)floor_divided(-(__int128)need * 100, 100 + l->rate);
    }
    return l->v_end + need - fast;
}

static PyObject *line_virtual_of(PyObject *self, PyObject *sync)
{
    int64_t value = PyLong_AsLongLong(sync);

    return value == -1 && PyErr_Occurred() ? NULL : PyLong_FromLongLong(virtual_of((Line *)self, value));
}

static PyObject *line_deadline(PyObject *self, PyObject *virtual)
{
    Line *l = (Line *)self;
    int64_t value = PyLong_AsLongLong(virtual), held = virtual_of(l, l->limit);
    __int128 at;

    if (value == -1 && PyErr_Occurred()) {
        return NULL;
    }
    value = held < value ? held : value;
    if (l->rate != 0 && l->v_end < value) {
        value = l->v_end;
    }
    if (value >= FAR || l->warp == 0) {
        return PyLong_FromLongLong(FAR);
    }
    at = l->anchor - floor_divided(((__int128)l->base - value) * 100, l->warp);
    return PyLong_FromLongLong(at < FAR ? (int64_t)at : FAR);
}

static uint64_t ticks_at(int64_t sync, int64_t offset, int64_t hz)
{
    __int128 ticks = offset + (__int128)sync * hz / NS_PER_SECOND;

    return ticks < UINT64_MAX ? (uint64_t)ticks : UINT64_MAX;
}

static PyObject *line_mapping(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    Line *l = (Line *)self;
    int64_t offset, hz, now, virtual, rate;
    unsigned long long ticks;

    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "mapping() takes an offset and a frequency, not %zd numbers", count);
    }
    offset = PyLong_AsLongLong(arguments[0]);
    hz = PyLong_AsLongLong(arguments[1]);
    if (((offset == -1 || hz == -1) && PyErr_Occurred()) || source_now(l, &now) < 0) {
        return NULL;
    }
    virtual = l->warp ? virtual_at(l, now) : l->base;
    ticks = ticks_at(limited(l, unlimited_at(l, virtual)), offset, hz);
    if (l->warp == 0) {
        return Py_BuildValue("KLiK", ticks, (long long)now, 0, (unsigned long long)UINT64_MAX);
    }
    rate = virtual < l->v_end ? l->rate : 0;
    return Py_BuildValue("KLLK", ticks, (long long)now, (long long)((__int128)hz * l->warp * (100 + rate) / 10000),
                         (unsigned long long)(l->limit == FAR ? UINT64_MAX : ticks_at(l->limit, offset, hz)));
}

static PyObject *line_reader(PyObject *self, PyObject *arguments)
{
    allocfunc allocate = PyType_GetSlot(reader_type, Py_tp_alloc);
    PyObject *read;
    Reader *r;
    int sync;
    unsigned hz;

    if (!PyArg_ParseTuple(arguments, "pI", &sync, &hz)) {
        return NULL;
    }
    r = (Reader *)allocate(reader_type, 0);
    if (r == NULL) {
        return NULL;
    }
    r->line = (Line *)Py_NewRef(self);
    r->sync = sync;
    r->hz = hz;
    read = PyObject_GetAttrString((PyObject *)r, "read"); /* what is called at no cost for its lookup */
    Py_DECREF(r);
    return read;
}

static PyObject *line_readout(PyObject *self, PyObject *arguments)
{
    PyObject *look;
    int sync;
    unsigned hz;

    return PyArg_ParseTuple(arguments, "OpI", &look, &sync, &hz) ? readout_new((Line *)self, look, sync, hz) : NULL;
}

static PyMethodDef line_methods[] = {
    {"set", (PyCFunction)(void (*)(void))line_set, METH_FASTCALL, NULL},
    {"hold", line_hold, METH_O, NULL},
    {"virtual", line_virtual, METH_NOARGS, NULL},
    {"sync", line_sync, METH_NOARGS, NULL},
    {"unlimited", line_unlimited, METH_O, NULL},
    {"virtual_of", line_virtual_of, METH_O, NULL},
    {"deadline", line_deadline, METH_O, NULL},
    {"mapping", (PyCFunction)(void (*)(void))line_mapping, METH_FASTCALL, NULL},
    {"reader", line_reader, METH_VARARGS, NULL},
    {"readout", line_readout, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot line_slots[] = {
    {Py_tp_new, line_new},         {Py_tp_dealloc, line_dealloc},
    {Py_tp_traverse, line_traverse}, {Py_tp_clear, line_clear},
    {Py_tp_methods, line_methods}, {Py_tp_doc, "The line of the virtual clocks; see vbox_vmm.tm_line.Line."},
    {0, NULL},
};

static PyType_Spec line_spec = {
    "vbox_vmm._tm_line.Line", sizeof(Line), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, line_slots,
};

/* ---- what reads it ------------------------------------------------------------------------------------- */

/* Called as if it took arguments, which costs less than a function that takes none. */
static PyObject *reader_read(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    Reader *r = (Reader *)self;
    uint64_t now;

    (void)arguments;
    if (count != 0) {
        return PyErr_Format(PyExc_TypeError, "a clock's reader takes no arguments, not %zd", count);
    }
    return line_now(r->line, r->sync, r->hz, &now) < 0 ? NULL : PyLong_FromUnsignedLongLong(now);
}

static int reader_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((Reader *)self)->line);
    return 0;
}

/* The line is what breaks a circle: a reader always has one. */
static void reader_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF((PyObject *)((Reader *)self)->line);
    released(self);
}

static PyMethodDef reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))reader_read, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_dealloc, reader_dealloc}, {Py_tp_traverse, reader_traverse}, {Py_tp_methods, reader_methods}, {0, NULL},
};

static PyType_Spec reader_spec = {
    "vbox_vmm._tm_line.Reader", sizeof(Reader), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, reader_slots,
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_tm_line", "The native half of vbox_vmm.tm_line.", -1, NULL, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__tm_line(void)
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *line = module ? PyType_FromSpec(&line_spec) : NULL;

    if (line == NULL || PyModule_AddObjectRef(module, "Line", line) < 0 ||
        (reader_type == NULL && !(reader_type = (PyTypeObject *)PyType_FromSpec(&reader_spec))) ||
        readout_ready() < 0) {
        Py_XDECREF(line);
        Py_XDECREF(module);
        return NULL;
    }
    Py_DECREF(line);
    return module;
}
