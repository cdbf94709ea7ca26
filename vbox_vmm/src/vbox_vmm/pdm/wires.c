/* Interrupt lines as `wires` describes them, without a frame of Python: what raises a line from outside runs with
 * cold caches, where each frame takes the better part of a microsecond. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <structmember.h>

/* The documented function; the limited API of 3.11 lacks its prototype. */
extern PyObject *PyObject_Vectorcall(PyObject *, PyObject *const *, size_t, PyObject *);

typedef struct {
    PyObject_HEAD
    PyObject *number, *report, *report_pulse, *failed;
    Py_ssize_t holders;
} Line;

typedef struct {
    PyObject_HEAD
    Line *line;
    char level;
} Handle;

typedef struct {
    PyObject_HEAD
    PyObject *hears;
    char level;
} Wire;

static PyTypeObject *handle_type;

static PyObject *boolean(bool value)
{
    return value ? Py_True : Py_False; /* borrowed */
}

/* -1 with an exception set. */
static int truth(PyObject *value)
{
    return value == Py_True ? 1 : value == Py_False ? 0 : PyObject_IsTrue(value);
}

static PyObject *allocate(PyTypeObject *type)
{
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);

    return allocate(type, 0);
}

static void released(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);

    release(self);
    Py_DECREF(type);
}

/* ---- a line, and who holds it --------------------------------------------------------------------------- */

static PyObject *line_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"number", "failed", NULL};
    PyObject *number, *failed;
    Line *l;

    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO", names, &number, &failed)) {
        return NULL;
    }
    l = (Line *)allocate(type);
    if (l != NULL) {
        l->number = Py_NewRef(number);
        l->failed = Py_NewRef(failed);
        l->report = Py_NewRef(Py_None);
        l->report_pulse = Py_NewRef(Py_None);
    }
    return (PyObject *)l;
}

static int line_traverse(PyObject *self, visitproc visit, void *arg)
{
    Line *l = (Line *)self;

    Py_VISIT(Py_TYPE(self));
    Py_VISIT(l->number);
    Py_VISIT(l->report);
    Py_VISIT(l->report_pulse);
    Py_VISIT(l->failed);
    return 0;
}

static int line_clear(PyObject *self)
{
    Line *l = (Line *)self;

    Py_CLEAR(l->report);
    Py_CLEAR(l->report_pulse);
    Py_CLEAR(l->failed);
    return 0;
}

static void line_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    line_clear(self);
    Py_CLEAR(((Line *)self)->number);
    released(self);
}

static PyObject *line_handle(PyObject *self, PyObject *nothing)
{
    Handle *h = (Handle *)allocate(handle_type);

    (void)nothing;
    if (h != NULL) {
        h->line = (Line *)Py_NewRef(self);
    }
    return (PyObject *)h;
}

/* What a controller's method returned: its failure is told to `failed`, and is not the caller's.  `what` takes the
 * line's number and `level`. */
static PyObject *heard(Line *l, PyObject *result, const char *what, PyObject *level)
{
    PyObject *type, *error, *trace, *where, *told = NULL;

    if (result != NULL) {
        Py_DECREF(result);
        Py_RETURN_NONE;
    }
    if (!PyErr_ExceptionMatches(PyExc_Exception) || l->failed == NULL) {
        return NULL;
    }
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace != NULL) {
        PyException_SetTraceback(error, trace);
    }
    where = PyUnicode_FromFormat(what, l->number, level);
    if (where != NULL) {
        told = PyObject_CallFunctionObjArgs(l->failed, where, error, NULL);
    }
    Py_XDECREF(where);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return told;
}

static PyObject *report(Line *l, bool level)
{
    PyObject *arguments[] = {l->number, boolean(level)}, *callee = l->report, *result;

    if (callee == NULL || callee == Py_None) {
        Py_RETURN_NONE;
    }
    Py_INCREF(callee); /* it may be replaced meanwhile */
    result = PyObject_Vectorcall(callee, arguments, 2, NULL);
    Py_DECREF(callee);
    return heard(l, result, "set_irq(%S, %S)", arguments[1]);
}

static PyObject *drive(Handle *h, bool level)
{
    Line *l = h->line;

    if (level == h->level) {
        Py_RETURN_NONE;
    }
    h->level = level;
    l->holders += level ? 1 : -1;
    if (l->holders != level) {
        Py_RETURN_NONE; /* others hold it, too */
    }
    return report(l, level);
}

static PyObject *handle_set(PyObject *self, PyObject *level)
{
    int value = truth(level);

    return value < 0 ? NULL : drive((Handle *)self, value);
}

static PyObject *handle_pulse(PyObject *self, PyObject *nothing)
{
    Line *l = ((Handle *)self)->line;
    PyObject *callee = l->report_pulse, *result;

    (void)nothing;
    if (((Handle *)self)->level) {
        return drive((Handle *)self, false);
    }
    if (l->holders != 0 || callee == NULL || callee == Py_None) {
        Py_RETURN_NONE;
    }
    Py_INCREF(callee);
    result = PyObject_Vectorcall(callee, &l->number, 1, NULL);
    Py_DECREF(callee);
    return heard(l, result, "pulse_irq(%S)", NULL);
}

static PyObject *handle_load(PyObject *self, PyObject *level)
{
    Handle *h = (Handle *)self;
    int value = truth(level);

    if (value < 0) {
        return NULL;
    }
    h->line->holders += value - h->level;
    h->level = (char)value;
    Py_RETURN_NONE;
}

static PyObject *handle_number(PyObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(((Handle *)self)->line->number);
}

/* The line is what breaks a circle: a handle always has one. */
static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((Handle *)self)->line);
    return 0;
}

static void handle_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF((PyObject *)((Handle *)self)->line);
    released(self);
}

/* ---- a wire --------------------------------------------------------------------------------------------- */

static PyObject *wire_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"hears", NULL};
    PyObject *hears;
    Wire *w;

    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O", names, &hears)) {
        return NULL;
    }
    w = (Wire *)allocate(type);
    if (w != NULL) {
        w->hears = Py_NewRef(hears);
    }
    return (PyObject *)w;
}

static PyObject *wire_set(PyObject *self, PyObject *level)
{
    Wire *w = (Wire *)self;
    int value = truth(level);
    PyObject *argument = boolean(value), *callee = w->hears, *result;

    if (value < 0) {
        return NULL;
    }
    if (value == w->level || callee == NULL) {
        Py_RETURN_NONE;
    }
    w->level = (char)value;
    Py_INCREF(callee);
    result = PyObject_Vectorcall(callee, &argument, 1, NULL);
    Py_DECREF(callee);
    return result;
}

static int wire_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Wire *)self)->hears);
    return 0;
}

static int wire_clear(PyObject *self)
{
    Py_CLEAR(((Wire *)self)->hears);
    return 0;
}

static void wire_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    wire_clear(self);
    released(self);
}

/* ---- the module ----------------------------------------------------------------------------------------- */

#define GC_TYPE Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC

static PyMethodDef line_methods[] = {{"handle", line_handle, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyMemberDef line_members[] = {
    {"number", T_OBJECT_EX, offsetof(Line, number), READONLY, NULL},
    {"holders", T_PYSSIZET, offsetof(Line, holders), READONLY, NULL},
    {"report", T_OBJECT, offsetof(Line, report), 0, NULL},
    {"report_pulse", T_OBJECT, offsetof(Line, report_pulse), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot line_slots[] = {
    {Py_tp_new, line_new}, {Py_tp_dealloc, line_dealloc}, {Py_tp_traverse, line_traverse}, {Py_tp_clear, line_clear},
    {Py_tp_methods, line_methods}, {Py_tp_members, line_members}, {0, NULL},
};
static PyType_Spec line_spec = {"vbox_vmm.pdm._wires.Line", sizeof(Line), 0, GC_TYPE, line_slots};

static PyMethodDef handle_methods[] = {
    {"set", handle_set, METH_O, NULL},
    {"pulse", handle_pulse, METH_NOARGS, NULL},
    {"load", handle_load, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef handle_members[] = {
    {"level", T_BOOL, offsetof(Handle, level), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef handle_getters[] = {{"number", handle_number, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot handle_slots[] = {
    {Py_tp_dealloc, handle_dealloc}, {Py_tp_traverse, handle_traverse}, {Py_tp_methods, handle_methods},
    {Py_tp_members, handle_members}, {Py_tp_getset, handle_getters}, {0, NULL},
};
static PyType_Spec handle_spec = {
    "vbox_vmm.pdm._wires.Handle", sizeof(Handle), 0, GC_TYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, handle_slots,
};

static PyMethodDef wire_methods[] = {{"set", wire_set, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyMemberDef wire_members[] = {
    {"level", T_BOOL, offsetof(Wire, level), 0, NULL},
    {"hears", T_OBJECT, offsetof(Wire, hears), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot wire_slots[] = {
    {Py_tp_new, wire_new}, {Py_tp_dealloc, wire_dealloc}, {Py_tp_traverse, wire_traverse}, {Py_tp_clear, wire_clear},
    {Py_tp_methods, wire_methods}, {Py_tp_members, wire_members}, {0, NULL},
};
static PyType_Spec wire_spec = {"vbox_vmm.pdm._wires.Wire", sizeof(Wire), 0, GC_TYPE, wire_slots};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_wires", "The native half of vbox_vmm.pdm.wires.", -1, NULL, NULL, NULL, NULL, NULL,
};

static int add_type(PyObject *module, const char *name, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);
    int result = type != NULL ? PyModule_AddObjectRef(module, name, type) : -1;

    Py_XDECREF(type);
    return result;
}

PyMODINIT_FUNC PyInit__wires(void)
{
    PyObject *module = PyModule_Create(&definition);

    if (module == NULL || add_type(module, "Line", &line_spec) < 0 || add_type(module, "Wire", &wire_spec) < 0 ||
        (handle_type == NULL && !(handle_type = (PyTypeObject *)PyType_FromSpec(&handle_spec)))) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
