/* The coder as a Python extension, codecswap._coder; one build for every CPython from 3.11 on (abi3). */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

#include "codecswap.h"

static const char CAPSULE[] = "codecswap._coder.tables";

typedef struct {
    csw_tables tables;
    PyObject *bytes;  /* what `tables` points into */
} opened;

static PyObject *fail(csw_error error)
{
    PyErr_SetString(PyExc_ValueError, csw_error_text(error));
    return NULL;
}

/* The string that stands at the end of `out`, which is freed. */
static PyObject *string_of(unsigned char *out, size_t capacity, size_t written, csw_error error)
{
    PyObject *result = NULL;
    if (!out)
        PyErr_NoMemory();
    else if (error)
        fail(error);
    else
        result = PyBytes_FromStringAndSize((char *)out + capacity - written, (Py_ssize_t)written);
    free(out);
    return result;
}

static void close_tables(PyObject *capsule)
{
    opened *o = PyCapsule_GetPointer(capsule, CAPSULE);
    Py_DECREF(o->bytes);
    free(o);
}

static PyObject *open_tables(PyObject *module, PyObject *bytes)
{
    char *content;
    Py_ssize_t size;
    opened *o;
    csw_error error;
    PyObject *capsule;
    (void)module;
    if (PyBytes_AsStringAndSize(bytes, &content, &size)) return NULL;
    if (!(o = malloc(sizeof *o))) return PyErr_NoMemory();
    if ((error = csw_tables_open(&o->tables, content, (size_t)size)) || !(capsule = PyCapsule_New(o, CAPSULE, close_tables))) {
        free(o);
        return error ? fail(error) : NULL;
    }
    o->bytes = bytes;
    Py_INCREF(bytes);
    return capsule;
}

/* Symbols per channel of a buffer of int32, or -1. */
static Py_ssize_t count_of(const opened *o, Py_ssize_t size)
{
    Py_ssize_t row = 4 * (Py_ssize_t)o->tables.channels;
    if (size % row == 0) return size / row;
    PyErr_SetString(PyExc_ValueError, "not the same number of symbols for each channel");
    return -1;
}

static PyObject *encode(PyObject *module, PyObject *arguments)
{
    PyObject *capsule, *symbols, *result = NULL;
    Py_buffer view;
    opened *o;
    Py_ssize_t count;
    size_t capacity, written = 0;
    unsigned char *out = NULL, *larger;
    csw_error error = CSW_OK;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO", &capsule, &symbols)) return NULL;
    if (!(o = PyCapsule_GetPointer(capsule, CAPSULE)) || PyObject_GetBuffer(symbols, &view, PyBUF_SIMPLE)) return NULL;
    if ((count = count_of(o, view.len)) >= 0) {
        capacity = (size_t)view.len / 2 + 16; /* enough where all symbols are in the tables */
        Py_BEGIN_ALLOW_THREADS
        if ((out = malloc(capacity))) error = csw_encode(&o->tables, view.buf, (size_t)count, out, capacity, &written);
        if (out && error == CSW_ROOM) {
            capacity *= 3;
            if ((larger = realloc(out, capacity))) {
                out = larger;
                error = csw_encode(&o->tables, view.buf, (size_t)count, out, capacity, &written);
            }
        }
        Py_END_ALLOW_THREADS
        result = string_of(out, capacity, written, error);
    }
    PyBuffer_Release(&view);
    return result;
}

static PyObject *decode(PyObject *module, PyObject *arguments)
{
    PyObject *capsule, *symbols, *result = NULL;
    Py_buffer view, string;
    opened *o;
    Py_ssize_t count;
    csw_error error;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "Oy*O", &capsule, &string, &symbols)) return NULL;
    if ((o = PyCapsule_GetPointer(capsule, CAPSULE)) && !PyObject_GetBuffer(symbols, &view, PyBUF_WRITABLE)) {
        if ((count = count_of(o, view.len)) >= 0) {
            Py_BEGIN_ALLOW_THREADS
            error = csw_decode(&o->tables, string.buf, (size_t)string.len, (size_t)count, view.buf);
            Py_END_ALLOW_THREADS
            if (error) {
                fail(error);
            } else {
                result = Py_None;
                Py_INCREF(result);
            }
        }
        PyBuffer_Release(&view);
    }
    PyBuffer_Release(&string);
    return result;
}

/* The buffers of a call with a row for each symbol, and where the rows begin; NULL, with an exception, where they do not fit. */
static uint32_t *rows_of(const opened *o, const Py_buffer *rows, const Py_buffer *symbols)
{
    const unsigned char *number = rows->buf;
    uint32_t *starts;
    Py_ssize_t i;
    if (symbols->len != 4 * rows->len) {
        PyErr_SetString(PyExc_ValueError, "not as many symbols as rows");
        return NULL;
    }
    for (i = 0; i < rows->len; i++)
        if (number[i] >= o->tables.channels) {
            PyErr_SetString(PyExc_ValueError, "there is no such row");
            return NULL;
        }
    if ((starts = malloc(4 * (size_t)o->tables.channels))) csw_row_starts(&o->tables, starts);
    else PyErr_NoMemory();
    return starts;
}

static PyObject *encode_rows(PyObject *module, PyObject *arguments)
{
    PyObject *capsule, *result = NULL;
    Py_buffer rows, symbols;
    opened *o;
    uint32_t *starts;
    unsigned char *out;
    size_t capacity, written = 0;
    csw_error error = CSW_OK;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "Oy*y*", &capsule, &rows, &symbols)) return NULL;
    if ((o = PyCapsule_GetPointer(capsule, CAPSULE)) && (starts = rows_of(o, &rows, &symbols))) {
        capacity = 6 * (size_t)rows.len + 16; /* 48 bits a symbol at most, see csw_write_size() */
        Py_BEGIN_ALLOW_THREADS
        if ((out = malloc(capacity)))
            error = csw_encode_rows(&o->tables, starts, rows.buf, symbols.buf, (size_t)rows.len, out, capacity, &written);
        Py_END_ALLOW_THREADS
        result = string_of(out, capacity, written, error);
        free(starts);
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&rows);
    return result;
}

static PyObject *decode_rows(PyObject *module, PyObject *arguments)
{
    PyObject *capsule, *result = NULL;
    Py_buffer rows, string, symbols;
    opened *o;
    uint32_t *starts;
    csw_error error;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "Oy*y*w*", &capsule, &rows, &string, &symbols)) return NULL;
    if ((o = PyCapsule_GetPointer(capsule, CAPSULE)) && (starts = rows_of(o, &rows, &symbols))) {
        Py_BEGIN_ALLOW_THREADS
        error = csw_decode_rows(&o->tables, starts, rows.buf, string.buf, (size_t)string.len, (size_t)rows.len, symbols.buf);
        Py_END_ALLOW_THREADS
        if (error) {
            fail(error);
        } else {
            result = Py_None;
            Py_INCREF(result);
        }
        free(starts);
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&string);
    PyBuffer_Release(&rows);
    return result;
}

static const char NETWORK[] = "codecswap._coder.network";

typedef struct {
    csw_network network;
    PyObject *bytes;  /* what `network` points into */
} opened_network;

static void close_network(PyObject *capsule)
{
    opened_network *o = PyCapsule_GetPointer(capsule, NETWORK);
    Py_DECREF(o->bytes);
    free(o);
}

static PyObject *open_network(PyObject *module, PyObject *bytes)
{
    char *content;
    Py_ssize_t size;
    opened_network *o;
    csw_error error;
    PyObject *capsule;
    (void)module;
    if (PyBytes_AsStringAndSize(bytes, &content, &size)) return NULL;
    if (!(o = malloc(sizeof *o))) return PyErr_NoMemory();
    if ((error = csw_network_open(&o->network, content, (size_t)size)) || !(capsule = PyCapsule_New(o, NETWORK, close_network))) {
        free(o);
        return error ? fail(error) : NULL;
    }
    o->bytes = bytes;
    Py_INCREF(bytes);
    return capsule;
}

static PyObject *predict(PyObject *module, PyObject *arguments)
{
    PyObject *capsule, *result = NULL;
    Py_buffer symbols, indexes, means;
    opened_network *o;
    unsigned int rows, columns, step;
    float gain;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "Oy*IIfIw*w*", &capsule, &symbols, &rows, &columns, &gain, &step, &indexes, &means)) return NULL;
    if ((o = PyCapsule_GetPointer(capsule, NETWORK))) {
        const uint64_t places = (uint64_t)rows * columns;
        const uint64_t values = places * o->network.factor * o->network.factor * o->network.channels;
        if (!places || places > 1 << 24 || 4 * places * o->network.hyper_channels != (uint64_t)symbols.len
            || values != (uint64_t)indexes.len || 4 * values != (uint64_t)means.len) {
            PyErr_SetString(PyExc_ValueError, "the arrays do not fit the network");
        } else {
            const uint64_t size = csw_predict_size(&o->network, rows, columns);
            csw_error error = CSW_ROOM;
            void *work = size > SIZE_MAX ? NULL : malloc((size_t)size);
            Py_BEGIN_ALLOW_THREADS
            if (work) error = csw_predict(&o->network, gain, step, symbols.buf, rows, columns, indexes.buf, means.buf, work, (size_t)size);
            Py_END_ALLOW_THREADS
            free(work);
            if (!work) PyErr_NoMemory();
            else if (error) fail(error);
            else result = Py_NewRef(Py_None);
        }
    }
    PyBuffer_Release(&means);
    PyBuffer_Release(&indexes);
    PyBuffer_Release(&symbols);
    return result;
}

static PyMethodDef METHODS[] = {
    {"open", open_tables, METH_O, "open(bytes) -> tables: entropy.bin's content."},
    {"encode", encode, METH_VARARGS, "encode(tables, symbols) -> bytes: a buffer of int32, channel by channel."},
    {"decode", decode, METH_VARARGS, "decode(tables, string, symbols): fills a buffer of int32."},
    {"encode_rows", encode_rows, METH_VARARGS, "encode_rows(tables, rows, symbols) -> bytes: a row of bytes for each int32."},
    {"decode_rows", decode_rows, METH_VARARGS, "decode_rows(tables, rows, string, symbols): fills a buffer of int32."},
    {"open_network", open_network, METH_O, "open_network(bytes) -> network: hyper_decoder.bin's content."},
    {"predict", predict, METH_VARARGS,
     "predict(network, symbols, rows, columns, gain, step, indexes, means): fills buffers of bytes and floats; step 0: 1."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_coder", "The entropy coder, in C.", 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__coder(void) { return PyModuleDef_Init(&MODULE); }
