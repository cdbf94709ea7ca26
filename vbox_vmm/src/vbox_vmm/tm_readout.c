/* A readout, as `vbox_pdm.readout` describes it: an access that is answered from a clock costs no frame of Python. */
#include "tm_line.h"

#define OFFSETS 64

/* The documented function; the limited API of 3.11 lacks its prototype. */
extern PyObject *PyObject_Vectorcall(PyObject *, PyObject *const *, size_t, PyObject *);

typedef struct {
    uint64_t value, step, until;
    uint8_t size; /* 0: nothing is held */
    uint8_t parts, part;
} Held;

typedef struct {
    PyObject_HEAD
    Line *line;
    PyObject *look;
    Held *held; /* by offset */
    bool sync;
    uint32_t hz;
} Readout;

static PyTypeObject *readout_type;

PyObject *readout_new(Line *l, PyObject *look, bool sync, uint32_t hz)
{
    allocfunc allocate = PyType_GetSlot(readout_type, Py_tp_alloc);
    Readout *r = (Readout *)allocate(readout_type, 0);

    if (r == NULL) {
        return NULL;
    }
    r->line = (Line *)Py_NewRef((PyObject *)l);
    r->look = Py_NewRef(look);
    r->sync = sync;
    r->hz = hz;
    r->held = PyMem_Calloc(OFFSETS, sizeof(Held));
    if (r->held == NULL) {
        Py_DECREF(r);
        return PyErr_NoMemory();
    }
    return (PyObject *)r;
}

static int readout_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((Readout *)self)->line);
    Py_VISIT(((Readout *)self)->look);
    return 0;
}

static int readout_clear(PyObject *self)
{
    Py_CLEAR(((Readout *)self)->look);
    return 0;
}

static void readout_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(((Readout *)self)->look);
    Py_XDECREF((PyObject *)((Readout *)self)->line);
    PyMem_Free(((Readout *)self)->held);
    released(self);
}

static bool counted(const char *name, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most)
{
    if (count < least || count > most) {
        PyErr_Format(PyExc_TypeError, "%s() of a readout takes %zd to %zd arguments, not %zd", name, least, most, count);
        return false;
    }
    return true;
}

/* What is held at an offset; NULL where nothing can be. */
static Held *held_at(Readout *r, PyObject *offset)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(offset, &overflow);

    return !overflow && number >= 0 && number < OFFSETS ? r->held + number : NULL;
}

static PyObject *readout_read(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    Readout *r = (Readout *)self;
    Held *h;
    uint64_t now, value;

    if (!counted("read", count, 2, 2)) {
        return NULL;
    }
    h = held_at(r, arguments[0]);
    if (h != NULL && h->size != 0 && PyLong_AsLong(arguments[1]) == h->size) {
        if (line_now(r->line, r->sync, r->hz, &now) < 0) {
            return NULL;
        }
        if (now < h->until) {
            value = h->value + h->step * now;
            if (h->parts > 1) {
                value >>= 8 * h->size * h->part;
                h->part = (uint8_t)(h->part + 1) % h->parts;
            }
            return PyLong_FromUnsignedLongLong(h->size == 8 ? value : value & (((uint64_t)1 << 8 * h->size) - 1));
        }
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (r->look == NULL) { /* its circle is being broken up */
        PyErr_SetString(PyExc_ReferenceError, "the device of a readout is gone");
        return NULL;
    }
    return PyObject_Vectorcall(r->look, arguments, 2, NULL);
}

static PyObject *readout_hold(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    Held *h, fresh;
    long long number[3] = {0, 1, 0}; /* size, parts, part */
    int until_overflow;
    long long until;

    if (!counted("hold", count, 4, 7)) {
        return NULL;
    }
    h = held_at((Readout *)self, arguments[0]);
    number[0] = PyLong_AsLongLong(arguments[1]);
    for (Py_ssize_t i = 5; i < count; i++) {
        number[i - 4] = PyLong_AsLongLong(arguments[i]);
    }
    until = PyLong_AsLongLongAndOverflow(arguments[3], &until_overflow);
    fresh.until = until_overflow ? (until_overflow > 0 ? UINT64_MAX : 0) : until > 0 ? (uint64_t)until : 0;
    fresh.value = PyLong_AsUnsignedLongLongMask(arguments[2]);
    fresh.step = count > 4 ? PyLong_AsUnsignedLongLongMask(arguments[4]) : 0;
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (h == NULL || number[0] <= 0 || number[0] > 8 || (number[0] & (number[0] - 1)) || number[1] < 1 ||
        number[1] > 8 / number[0] || number[2] < 0 || number[2] >= number[1]) {
        return PyErr_Format(PyExc_ValueError, "a readout cannot hold %lld parts of %lld bytes at %S, part %lld next",
                            number[1], number[0], arguments[0], number[2]);
    }
    fresh.size = (uint8_t)number[0];
    fresh.parts = (uint8_t)number[1];
    fresh.part = (uint8_t)number[2];
    *h = fresh;
    Py_RETURN_NONE;
}

static PyObject *readout_drop(PyObject *self, PyObject *offset)
{
    Held *h = held_at((Readout *)self, offset);
    int part = h != NULL && h->size != 0 ? h->part : -1;

    if (PyErr_Occurred()) {
        return NULL;
    }
    if (h != NULL) {
        h->size = 0;
    }
    return PyLong_FromLong(part);
}

static PyMethodDef readout_methods[] = {
    {"read", (PyCFunction)(void (*)(void))readout_read, METH_FASTCALL, NULL},
    {"hold", (PyCFunction)(void (*)(void))readout_hold, METH_FASTCALL, NULL},
    {"drop", readout_drop, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot readout_slots[] = {
    {Py_tp_dealloc, readout_dealloc}, {Py_tp_traverse, readout_traverse}, {Py_tp_clear, readout_clear},
    {Py_tp_methods, readout_methods}, {0, NULL},
};

static PyType_Spec readout_spec = {
    "vbox_vmm._tm_line.Readout", sizeof(Readout), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, readout_slots,
};

int readout_ready(void)
{
    if (readout_type == NULL) {
        readout_type = (PyTypeObject *)PyType_FromSpec(&readout_spec);
    }
    return readout_type == NULL ? -1 : 0;
}
