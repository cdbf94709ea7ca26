/* The CPU state as plain Python objects, between runs.  `engine.py` makes a CpuState of them.
 *
 * Between runs Unicorn keeps all flags in EFLAGS; entering the loop takes the arithmetic ones and DF
 * out of it again.
 */
#include "rem.h"

#define U64(offset) FIELD(uint64_t, m->env, offset)
#define U32(offset) FIELD(uint32_t, m->env, offset)

enum { ATTRIBUTES = 0x00f0ff00, TR = 7 };

static const struct {
    uint32_t number;
    uint16_t offset, size;
} msrs[] = {
    {0x174, ENV_SYSENTER_CS, 4},       {0x175, ENV_SYSENTER_ESP, 8},     {0x176, ENV_SYSENTER_EIP, 8},
    {0x1a0, ENV_MISC_ENABLE, 8},       {0x277, ENV_PAT, 8},              {0x2ff, ENV_MTRR_DEFTYPE, 8},
    {0xc0000081, ENV_STAR, 8},         {0xc0000082, ENV_LSTAR, 8},       {0xc0000083, ENV_CSTAR, 8},
    {0xc0000084, ENV_FMASK, 8},        {0xc0000102, ENV_KERNELGSBASE, 8}, {0xc0000103, ENV_TSC_AUX, 8},
    {0x250, ENV_MTRR_FIXED, 8},        {0x258, ENV_MTRR_FIXED + 8, 8},   {0x259, ENV_MTRR_FIXED + 16, 8},
    {0x268, ENV_MTRR_FIXED + 24, 8},   {0x269, ENV_MTRR_FIXED + 32, 8},  {0x26a, ENV_MTRR_FIXED + 40, 8},
    {0x26b, ENV_MTRR_FIXED + 48, 8},   {0x26c, ENV_MTRR_FIXED + 56, 8},  {0x26d, ENV_MTRR_FIXED + 64, 8},
    {0x26e, ENV_MTRR_FIXED + 72, 8},   {0x26f, ENV_MTRR_FIXED + 80, 8},  {0x200, ENV_MTRR_VAR, 8},
    {0x201, ENV_MTRR_VAR + 8, 8},      {0x202, ENV_MTRR_VAR + 16, 8},    {0x203, ENV_MTRR_VAR + 24, 8},
    {0x204, ENV_MTRR_VAR + 32, 8},     {0x205, ENV_MTRR_VAR + 40, 8},    {0x206, ENV_MTRR_VAR + 48, 8},
    {0x207, ENV_MTRR_VAR + 56, 8},     {0x208, ENV_MTRR_VAR + 64, 8},    {0x209, ENV_MTRR_VAR + 72, 8},
    {0x20a, ENV_MTRR_VAR + 80, 8},     {0x20b, ENV_MTRR_VAR + 88, 8},    {0x20c, ENV_MTRR_VAR + 96, 8},
    {0x20d, ENV_MTRR_VAR + 104, 8},    {0x20e, ENV_MTRR_VAR + 112, 8},   {0x20f, ENV_MTRR_VAR + 120, 8},
};
enum { MSR_TSC_ADJUST = 0x3b };

/* ---- x87 and SSE as FXSAVE writes them -------------------------------------------------------------- */

static void fpu_get(Machine *m, uint8_t image[512])
{
    uint32_t top = U32(ENV_FPSTT) & 7;
    uint16_t status = (FIELD(uint16_t, m->env, ENV_FPUS) & ~0x3800) | top << 11;
    uint8_t tags = 0;
    const uint32_t mxcsr_mask = 0xffff;

    memset(image, 0, 512);
    for (int i = 0; i < 8; i++) {
        tags |= !FIELD(uint8_t, m->env, ENV_FPTAGS + i) << i;
        memcpy(image + 32 + i * 16, (char *)m->env + ENV_FPREGS + ((top + i) & 7) * 16, 10);
    }
    for (int i = 0; i < 16; i++) {
        memcpy(image + 160 + i * 16, (char *)m->env + ENV_XMM + i * 64, 16);
    }
    memcpy(image, &FIELD(uint16_t, m->env, ENV_FPUC), 2);
    memcpy(image + 2, &status, 2);
    image[4] = tags;
    memcpy(image + 6, &FIELD(uint16_t, m->env, ENV_FPOP), 2);
    memcpy(image + 8, &U64(ENV_FPIP), 8);
    memcpy(image + 16, &U64(ENV_FPDP), 8);
    memcpy(image + 24, &U32(ENV_MXCSR), 4);
    memcpy(image + 28, &mxcsr_mask, 4);
}

static void fpu_set(Machine *m, const uint8_t image[512])
{
    uint16_t status;
    uint32_t top;

    memcpy(&status, image + 2, 2);
    top = status >> 11 & 7;
    U32(ENV_FPSTT) = top;
    FIELD(uint16_t, m->env, ENV_FPUS) = status & ~0x3800;
    memcpy(&FIELD(uint16_t, m->env, ENV_FPUC), image, 2);
    for (int i = 0; i < 8; i++) {
        FIELD(uint8_t, m->env, ENV_FPTAGS + i) = !(image[4] >> i & 1);
        memcpy((char *)m->env + ENV_FPREGS + ((top + i) & 7) * 16, image + 32 + i * 16, 10);
    }
    for (int i = 0; i < 16; i++) {
        memcpy((char *)m->env + ENV_XMM + i * 64, image + 160 + i * 16, 16);
    }
    memcpy(&FIELD(uint16_t, m->env, ENV_FPOP), image + 6, 2);
    memcpy(&U64(ENV_FPIP), image + 8, 8);
    memcpy(&U64(ENV_FPDP), image + 16, 8);
    memcpy(&U32(ENV_MXCSR), image + 24, 4);
    lib.update_fp_status(m->env);
    lib.update_mxcsr_status(m->env);
}

/* ---- out ------------------------------------------------------------------------------------------- */

static SegmentCache *segment(Machine *m, int i)
{
    /* es cs ss ds fs gs ldtr tr gdtr idtr, in this order in memory too */
    return &FIELD(SegmentCache, m->env, ENV_SEGS + i * sizeof(SegmentCache));
}

static int put(PyObject *dict, const char *name, PyObject *value)
{
    int error = value == NULL ? -1 : PyDict_SetItemString(dict, name, value);

    Py_XDECREF(value);
    return error;
}

static PyObject *numbers(const uint64_t *values, int count)
{
    PyObject *list = PyList_New(count);

    for (int i = 0; list != NULL && i < count; i++) {
        PyList_SetItem(list, i, PyLong_FromUnsignedLongLong(values[i]));
    }
    return list;
}

static PyObject *msrs_get(Machine *m)
{
    PyObject *dict = PyDict_New();

    for (size_t i = 0; dict != NULL && i <= sizeof msrs / sizeof msrs[0]; i++) {
        bool is_last = i == sizeof msrs / sizeof msrs[0];
        uint64_t v = is_last ? m->tsc_offset : msrs[i].size == 8 ? U64(msrs[i].offset) : U32(msrs[i].offset);
        PyObject *key = PyLong_FromUnsignedLong(is_last ? MSR_TSC_ADJUST : msrs[i].number);
        PyObject *value = PyLong_FromUnsignedLongLong(v);
        if (key == NULL || value == NULL || PyDict_SetItem(dict, key, value) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *segments_get(Machine *m)
{
    PyObject *list = PyList_New(8);

    for (int i = 0; list != NULL && i < 8; i++) {
        SegmentCache *s = segment(m, i);
        uint32_t attributes = s->flags & ATTRIBUTES;
        if (i == TR && ((attributes & TSS_TYPE) == TSS16 || (attributes & TSS_TYPE) == TSS32)) {
            attributes |= TSS_BUSY; /* Unicorn has it clear, and aborts when it is not */
        }
        PyList_SetItem(list, i,
                       Py_BuildValue("(IKII)", s->selector & 0xffff, (unsigned long long)s->base, s->limit,
                                     attributes));
    }
    return list;
}

PyObject *state_get(Machine *m)
{
    PyObject *d = PyDict_New();
    uint8_t image[512];

    if (d == NULL) {
        return NULL;
    }
    fpu_get(m, image);
    if (put(d, "gpr", numbers(&U64(ENV_REGS), 16)) < 0 ||
        put(d, "rip", PyLong_FromUnsignedLongLong(U64(ENV_EIP))) < 0 ||
        put(d, "rflags", PyLong_FromUnsignedLongLong(U64(ENV_EFLAGS) | 2)) < 0 ||
        put(d, "segments", segments_get(m)) < 0 ||
        put(d, "gdtr", Py_BuildValue("(KI)", (unsigned long long)segment(m, 8)->base, segment(m, 8)->limit)) < 0 ||
        put(d, "idtr", Py_BuildValue("(KI)", (unsigned long long)segment(m, 9)->base, segment(m, 9)->limit)) < 0 ||
        put(d, "cr", numbers(&U64(ENV_CR), 5)) < 0 ||
        put(d, "cr8", PyLong_FromLong(FIELD(uint8_t, m->env, ENV_V_TPR))) < 0 ||
        put(d, "efer", PyLong_FromUnsignedLongLong(U64(ENV_EFER))) < 0 ||
        put(d, "dr", numbers(&U64(ENV_DR), 8)) < 0 ||
        put(d, "fpu", PyBytes_FromStringAndSize((char *)image, 512)) < 0 || put(d, "msr", msrs_get(m)) < 0 ||
        put(d, "interrupt_shadow", PyBool_FromLong(U32(ENV_HFLAGS) & HF_INHIBIT_IRQ)) < 0 ||
        put(d, "nmi_blocked", PyBool_FromLong(U32(ENV_HFLAGS2) & HF2_NMI)) < 0 ||
        put(d, "ignores_fpu_errors", PyBool_FromLong(FIELD(uint8_t, m->env, ENV_X87_ERROR) == ERROR_IGNORED)) < 0 ||
        put(d, "nmi_pending", PyBool_FromLong(atomic_load(&m->nmi))) < 0 ||
        put(d, "halted", PyBool_FromLong(m->halted)) < 0) {
        Py_DECREF(d);
        return NULL;
    }
    return d;
}

/* ---- in -------------------------------------------------------------------------------------------- */

static uint64_t number(PyObject *value)
{
    return value == NULL ? 0 : PyLong_AsUnsignedLongLongMask(value);
}

static uint64_t item(PyObject *dict, const char *name)
{
    PyObject *value = PyDict_GetItemString(dict, name);

    if (value == NULL) {
        PyErr_SetString(PyExc_KeyError, name);
    }
    return number(value);
}

static void numbers_set(PyObject *dict, const char *name, uint64_t *out, Py_ssize_t count)
{
    PyObject *list = PyDict_GetItemString(dict, name);

    if (list == NULL || !PyList_Check(list) || PyList_Size(list) != count) {
        PyErr_Format(PyExc_ValueError, "%s must be a list of %zd", name, count);
        return;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        out[i] = number(PyList_GetItem(list, i));
    }
}

static void segments_set(Machine *m, PyObject *dict)
{
    PyObject *list = PyDict_GetItemString(dict, "segments");

    for (int i = 0; i < 8; i++) {
        PyObject *entry = list && PyList_Check(list) ? PyList_GetItem(list, i) : NULL;
        SegmentCache *s = segment(m, i);
        unsigned long long base;
        unsigned selector, limit, attributes;
        if (entry == NULL || !PyArg_ParseTuple(entry, "IKII", &selector, &base, &limit, &attributes)) {
            return;
        }
        s->selector = selector & 0xffff;
        s->base = base;
        s->limit = limit;
        s->flags = attributes & ATTRIBUTES;
        if (i == TR && !(attributes & DESC_S)) {
            s->flags &= ~TSS_BUSY;
        }
    }
}

static void table_register_set(Machine *m, PyObject *dict, const char *name, int i)
{
    PyObject *pair = PyDict_GetItemString(dict, name);
    unsigned long long base;
    unsigned limit;

    if (pair != NULL && PyArg_ParseTuple(pair, "KI", &base, &limit)) {
        segment(m, i)->base = base;
        segment(m, i)->limit = limit;
    }
}

static void msrs_set(Machine *m, PyObject *dict)
{
    PyObject *all = PyDict_GetItemString(dict, "msr"), *key, *value;
    Py_ssize_t at = 0;

    if (all == NULL || !PyDict_Check(all)) {
        PyErr_SetString(PyExc_TypeError, "msr must be a dict");
        return;
    }
    while (PyDict_Next(all, &at, &key, &value)) {
        uint64_t n = number(key), v = number(value);
        if (n == MSR_TSC_ADJUST) {
            m->tsc_offset = v;
        }
        for (size_t i = 0; i < sizeof msrs / sizeof msrs[0]; i++) {
            if (msrs[i].number == n) {
                memcpy((char *)m->env + msrs[i].offset, &v, msrs[i].size);
            }
        }
    }
}

int state_set(Machine *m, PyObject *d)
{
    PyObject *fpu = PyDict_GetItemString(d, "fpu");
    uint64_t cr[5] = {0}, dr[8] = {0};

    if (fpu == NULL || !PyBytes_Check(fpu) || PyBytes_Size(fpu) != 512) {
        PyErr_SetString(PyExc_ValueError, "fpu must be the 512 bytes of FXSAVE");
        return -1;
    }
    machine_reset(m, false);
    numbers_set(d, "cr", cr, 5);
    numbers_set(d, "dr", dr, 8);
    numbers_set(d, "gpr", &U64(ENV_REGS), 16);
    segments_set(m, d);
    table_register_set(m, d, "gdtr", 8);
    table_register_set(m, d, "idtr", 9);
    msrs_set(m, d);
    U64(ENV_EIP) = item(d, "rip");
    U64(ENV_EFLAGS) = item(d, "rflags") | 2;
    U64(ENV_EFER) = item(d, "efer");
    FIELD(uint8_t, m->env, ENV_V_TPR) = item(d, "cr8") & 15;
    U64(ENV_CR + 2 * 8) = cr[2];
    U64(ENV_CR + 3 * 8) = cr[3];
    U64(ENV_CR) = cr[0] | 0x10;
    lib.cpu_x86_update_cr4(m->env, (uint32_t)cr[4]);
    update_hflags(m->env);
    if (item(d, "interrupt_shadow")) {
        U32(ENV_HFLAGS) |= HF_INHIBIT_IRQ;
    }
    if (item(d, "nmi_blocked")) {
        U32(ENV_HFLAGS2) |= HF2_NMI;
    }
    atomic_store(&m->nmi, item(d, "nmi_pending") != 0);
    m->halted = item(d, "halted") != 0;
    fpu_set(m, (const uint8_t *)PyBytes_AsString(fpu));
    FIELD(uint8_t, m->env, ENV_X87_ERROR) = item(d, "ignores_fpu_errors") ? ERROR_IGNORED : ERROR_NONE;
    memcpy(&U64(ENV_DR), dr, sizeof dr);
    U64(ENV_DR + 7 * 8) = 0x400;
    lib.cpu_x86_update_dr7(m->env, (uint32_t)dr[7]);
    lib.tlb_flush(m->cpu);
    lib.tb_flush(m->cpu);
    return PyErr_Occurred() ? -1 : 0;
}
