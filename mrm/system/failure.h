/* What went wrong last in this thread: a status, the call, and a sentence for people. */
#ifndef MRM_FAILURE_H
#define MRM_FAILURE_H

#include <mrm/mrm.h>
#include <stdarg.h>
#include <stdio.h>

/* Fills the record and returns its status, so that a caller can end with
 * `return mrm_fail(...)`. The text says what, where, how much, and the way out. */
static inline int mrm_fail(mrm_failure *failure, int status, int call, int error, const void *address,
                           size_t bytes, const char *format, ...) {
    va_list values;
    failure->status = status;
    failure->call = call;
    failure->error = error;
    failure->address = (uint64_t)(uintptr_t)address;
    failure->bytes = bytes;
    va_start(values, format);
    vsnprintf(failure->text, sizeof failure->text, format, values);
    va_end(values);
    return status;
}

#endif
