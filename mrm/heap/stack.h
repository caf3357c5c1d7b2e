/* Where a thread is: its stack in C, and in Python if it holds the GIL; and text, put together piece by piece.
 *
 * C's stack is what backtrace() finds from the tables that compilers write for exceptions. musl has no
 * such function: there is Python's stack then, or none.
 *
 * Python's is walked by the public calls only. They make objects of frames, which costs some 100 ns each;
 * before 3.12 that could start a collection, and with it any code, so that it is held off meanwhile. An error that
 * is on its way stays as it is.
 */
#ifndef MRM_STACK_H
#define MRM_STACK_H

#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__has_include)
#if __has_include(<execinfo.h>)
#include <execinfo.h>
#define MRM_HAS_BACKTRACE 1
#endif
#endif

/* ---- text ------------------------------------------------------------------ */

typedef struct mrm_text {
    char *at;                   /* what comes next goes here */
    size_t room;                /* bytes from there, the final zero's too */
} mrm_text;

/* Adds to a text, as far as there is room; it ends with a zero at any time. */
__attribute__((format(printf, 2, 3))) static inline void mrm_say(mrm_text *text, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int n = vsnprintf(text->at, text->room, format, values);
    va_end(values);
    if (n <= 0 || text->room == 0) return;
    size_t written = (size_t)n < text->room ? (size_t)n : text->room - 1;
    text->at += written;
    text->room -= written;
}

/* ---- this thread ----------------------------------------------------------- */

static inline uint32_t mrm_thread_number(void) { return (uint32_t)syscall(SYS_gettid); }

/* Return addresses, the innermost first; how many. */
static inline int mrm_stack_c(void **found, int most) {
#ifdef MRM_HAS_BACKTRACE
    return backtrace(found, most);
#else
    (void)found, (void)most;
    return 0;
#endif
}

/* Whether this thread may call Python. PyGILState_Check says yes to everybody once there was a
 * second interpreter. */
static inline int mrm_has_python(void) {
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked() != NULL;
#else
    PyThreadState *own = PyGILState_GetThisThreadState();
    return own != NULL && own == _PyThreadState_UncheckedGet();
#endif
}

static inline const char *mrm_utf8(PyObject *string) {
    const char *text = PyUnicode_AsUTF8(string);
    if (text == NULL) PyErr_Clear();    /* a path with lone surrogates */
    return text == NULL ? "?" : text;
}

static inline void mrm_say_frames(mrm_text *text, int most) {
    PyFrameObject *frame = PyEval_GetFrame();
    Py_XINCREF(frame);
    for (; frame != NULL && most > 0; most--) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        mrm_say(text, "    File \"%s\", line %d, in %s\n", mrm_utf8(code->co_filename), PyFrame_GetLineNumber(frame),
                mrm_utf8(code->co_qualname));
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(code);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
}

/* Python's stack as lines of text, the innermost first; how many bytes, 0 without the GIL. */
static inline size_t mrm_stack_python(char *found, size_t room, int most) {
    static _Thread_local int inside;    /* memory for a frame object may come from a heap that asks again */
    mrm_text text = {found, room};
    if (inside || !mrm_has_python()) return 0;
    inside = 1;
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *error = PyErr_GetRaisedException();
    mrm_say_frames(&text, most);
    PyErr_SetRaisedException(error);
#else
    PyObject *type, *error, *traceback;
    int collecting = PyGC_Disable();
    PyErr_Fetch(&type, &error, &traceback);
    mrm_say_frames(&text, most);
    PyErr_Restore(type, error, traceback);
    if (collecting) PyGC_Enable();
#endif
    inside = 0;
    if (text.room == 1) text.at[-1] = '\n';     /* cut off in the middle of a line */
    return (size_t)(text.at - found);
}

/* ---- names ----------------------------------------------------------------- */

/* Bytes of the folder that this module lies in, at the beginning of its path. */
static inline size_t mrm_own_folder(const char **path) {
    Dl_info own;
    const char *slash;
    if (!dladdr((void *)mrm_own_folder, &own) || own.dli_fname == NULL) return 0;
    slash = strrchr(own.dli_fname, '/');
    *path = own.dli_fname;
    return slash == NULL ? 0 : (size_t)(slash - own.dli_fname) + 1;
}

/* How many of the innermost calls are the allocator's own. A sanitizer may have its own before them. */
static inline int mrm_own_calls(void *const *found, int n, int deepest) {
    const char *path = NULL;
    size_t own = mrm_own_folder(&path);
    int calls = 0;
    Dl_info of;
    for (int i = 0; own > 0 && i < n && i < deepest; i++)
        if (dladdr((const char *)found[i] - 1, &of) && of.dli_fname != NULL && strncmp(of.dli_fname, path, own) == 0)
            calls = i + 1;
    return calls;
}

/* C's stack as lines of text. What the allocator called within itself, up to `deepest` calls, is left out, and so
 * is, if Python's stack is known, what is below the interpreter's loop. */
static inline void mrm_say_addresses(mrm_text *text, void *const *found, int n, int deepest, int with_python) {
    int first = mrm_own_calls(found, n, deepest);
    for (int i = first; i < n; i++) {
        /* An address to return to is behind its call, which may be the last of its function. */
        const char *at = (const char *)found[i] - 1;
        Dl_info of;
        if (!dladdr(at, &of) || of.dli_fname == NULL) {
            mrm_say(text, "    %p\n", (const void *)at);
            continue;
        }
        if (with_python && of.dli_sname != NULL && strncmp(of.dli_sname, "_PyEval_", 8) == 0) return;
        mrm_say(text, "    %s+%#zx", of.dli_fname, (size_t)(at - (const char *)of.dli_fbase));
        if (of.dli_sname != NULL) mrm_say(text, " in %s+%#zx", of.dli_sname, (size_t)(at - (const char *)of.dli_saddr));
        mrm_say(text, "\n");
    }
}

#endif
