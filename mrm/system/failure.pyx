"""The failure record of a thread, and the exception that it becomes.

Code without the GIL cannot raise: it fills the record of its thread and returns
a negative status. Whoever holds the GIL again calls ``check(status)``, which
raises the exception of that status with the record's sentence and figures.
"""

from libc.stdint cimport uint64_t

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_BAD_BLOCK, MRM_BAD_FRAME, MRM_BAD_SLOT, MRM_CLOSED, MRM_FORKED, MRM_INCONSISTENT,
    MRM_NO_ADDRESSES, MRM_NO_MEMORY, MRM_OK, MRM_OUT_OF_FRAMES, MRM_SYSTEM_CALL, MRM_UNFUNDED, mrm_failure,
)
from mrm import errors
from mrm.system.calls cimport call_name
from mrm.system.calls import KINDS


cdef extern from *:
    """
    #include <string.h>
    static _Thread_local mrm_failure mrm_thread_failure;
    static _Thread_local const char *mrm_thread_longer;
    static void mrm_set_longer(const char *text) { mrm_thread_longer = text; }
    /* What there is to say: the longer text, if it is of this failure. */
    static const char *mrm_whole_text(void) {
        const char *text = mrm_thread_failure.text;
        int of_this = mrm_thread_longer != NULL && *text && strncmp(mrm_thread_longer, text, strlen(text)) == 0;
        return of_this ? mrm_thread_longer : text;
    }
    """
    mrm_failure mrm_thread_failure
    void mrm_set_longer(const char *text) nogil
    const char *mrm_whole_text()


cdef dict CLASSES = {
    MRM_BAD_ARGUMENT: errors.ArgumentError,
    MRM_BAD_FRAME: errors.FrameError,
    MRM_OUT_OF_FRAMES: errors.OutOfFrames,
    MRM_BAD_SLOT: errors.SlotError,
    MRM_NO_ADDRESSES: errors.AddressSpaceError,
    MRM_SYSTEM_CALL: errors.SystemCallError,
    MRM_CLOSED: errors.ClosedError,
    MRM_FORKED: errors.ForkedError,
    MRM_NO_MEMORY: errors.MetadataMemoryError,
    MRM_INCONSISTENT: errors.InconsistentError,
    MRM_UNFUNDED: errors.FundingError,
    MRM_BAD_BLOCK: errors.BlockError,
}


cdef mrm_failure *failure() noexcept nogil:
    """This thread's record; valid for the thread's life."""
    return &mrm_thread_failure


cdef void failure_longer(const char *text) noexcept nogil:
    """Tell more than the record has room for, to whoever gets an exception: a text that begins with the record's.

    It is the caller's, and lasts as long as the thread. It is not told of another failure, whose text is another.
    """
    mrm_set_longer(text)


cdef int check(int status) except -1:
    """Raise what ``status`` stands for; 0 when all is well."""
    cdef mrm_failure *record = &mrm_thread_failure
    if status == MRM_OK:
        return 0
    raise CLASSES[status](
        mrm_whole_text().decode("utf-8", "replace"),
        call=call_name(record.call).decode() if record.call else None,
        error=record.error or None,
        address=record.address or None,
        nbytes=record.bytes or None,
    )


cdef int remember(object error, size_t nbytes) noexcept:
    """The way back: make an exception this thread's failure; its status."""
    cdef int status = MRM_UNFUNDED
    for known, kind in CLASSES.items():
        if type(error) is kind:
            status = known
    text = (str(error) if isinstance(error, errors.Error) else f"{type(error).__name__}: {error}").encode()
    return mrm_fail(
        &mrm_thread_failure, status, call_number(getattr(error, "call", None)), getattr(error, "errno", None) or 0,
        <void *><uint64_t>(getattr(error, "address", None) or 0), nbytes, b"%s", <char *>text,
    )


cdef int call_number(object name) except -1:
    """A call's number by its name; 0 for none."""
    return KINDS.get(name, 0)
