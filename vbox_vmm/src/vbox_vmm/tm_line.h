/* What the native halves of `tm_line` share: a line, and its time. */
#ifndef TM_LINE_H
#define TM_LINE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    PyObject_HEAD
    PyObject *source; /* a callable; NULL: the host's clock */
    int64_t anchor, base, warp, v0, s0, rate, v_end, limit;
} Line;

/* VIRTUAL_SYNC's time or VIRTUAL's in periods of `hz`, rounded down; -1 with an exception set when the source
 * raises. */
int line_now(Line *l, bool sync, uint32_t hz, uint64_t *out);

/* Frees an object of a type of ours; what it refers to is gone already. */
void released(PyObject *self);

int readout_ready(void); /* -1 with an exception set */
PyObject *readout_new(Line *l, PyObject *look, bool sync, uint32_t hz);

#endif
