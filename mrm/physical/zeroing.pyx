"""The thread that clears free frames ahead of those who want zeros.

Off unless asked for; one a pool. It knows no Python, blocks every signal, which are for the
program's own threads, and runs under SCHED_IDLE: when a processor has nothing else to do.
Any process may lower a thread so. Where it may not, as under a filter of system calls,
there is no thread, and that is said: at full priority it would take from the mutators what
it is to save them. What it shares with others is made so that few ever wait for it (stock.pyx).

It sleeps while there is nothing to clear, and is woken only by who puts a dirty frame into
the stock, which happens on the slow paths of taking and giving.

The pool's end stops it and waits for it: 64 KiB of clearing at the most, once it runs. A
child after fork has neither the thread nor the pool's memory, and ends the pool without both.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mrm cimport MRM_BAD_ARGUMENT, MRM_NO_MEMORY, MRM_OK, MRM_SYSTEM_CALL
from mrm.physical.stack cimport NO_FRAME, mrm_load32, mrm_store32
from mrm.physical.stock cimport stock_begin, stock_end, stock_resume, stock_withdraw
from mrm.system.calls cimport CALL_SCHED_SETSCHEDULER, call
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "system/sleep.h" nogil:
    void mrm_sleep(uint32_t *word, uint32_t seen)
    void mrm_wake(uint32_t *word)

cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_add32(uint32_t *p, uint32_t v)
    void mrm_fence()

cdef extern from "physical/clear.h" nogil:
    void mrm_clear(void *p, size_t nbytes)

cdef extern from "<string.h>" nogil:
    char *strerror(int error)

cdef extern from "<sched.h>" nogil:
    struct sched_param:
        int sched_priority
    enum:
        SCHED_IDLE

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    enum:
        SIG_SETMASK
    int sigfillset(sigset_t *set)

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int pthread_attr_init(pthread_attr_t *attributes)
    int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t nbytes)
    int pthread_attr_destroy(pthread_attr_t *attributes)
    int pthread_create(
        pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *) noexcept nogil, void *argument
    )
    int pthread_join(pthread_t thread, void **result)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)


cdef enum:
    NO_THREAD = 0               # states of the thread
    STARTING
    RUNNING
    REFUSED
    STACK = 256 << 10           # bytes of its stack: sanitizers want more than it does
    PART = 64 << 10             # bytes that it clears before it looks whether somebody waits


# ---- the thread ----------------------------------------------------------------------------

cdef bint clear(frames_t *frames, uint32_t frame) noexcept nogil:
    """Clear a frame; whether all of it was, as nobody wanted it meanwhile."""
    cdef size_t nbytes = <size_t>1 << frames.frame_shift, offset = 0
    cdef size_t part = min(nbytes, <size_t>PART)
    if frames.contents == NULL:     # on the fake there is no memory
        return True
    while offset < nbytes:
        if mrm_load32(&frames.stock.waiting) or mrm_load32(&frames.stock.stop):
            return False
        mrm_clear(frames.contents + (<size_t>frame << frames.frame_shift) + offset, part)
        offset += part
    return True


cdef void *body(void *argument) noexcept nogil:
    """Clear what is dirty, and sleep when nothing is."""
    cdef frames_t *frames = <frames_t *>argument
    cdef sched_param lowest
    cdef uint32_t seen, frame
    cdef int64_t got
    lowest.sched_priority = 0
    got = call(CALL_SCHED_SETSCHEDULER, 0, SCHED_IDLE, <int64_t>&lowest)
    frames.stock.refused = <int>-got if got < 0 else 0
    mrm_store32(&frames.stock.state, REFUSED if got < 0 else RUNNING)
    mrm_wake(&frames.stock.state)
    while got >= 0 and not mrm_load32(&frames.stock.stop):
        seen = mrm_load32(&frames.stock.work)
        frame = stock_begin(frames)
        stock_end(frames, frame, frame != NO_FRAME and clear(frames, frame))
        if frame == NO_FRAME:
            mrm_store32(&frames.stock.sleeping, True)
            mrm_fence()
            mrm_sleep(&frames.stock.work, seen)
            mrm_store32(&frames.stock.sleeping, False)
    return NULL


# ---- started and stopped -----------------------------------------------------------------------

cdef int start(frames_t *frames) noexcept nogil:
    """Have the thread run."""
    cdef pthread_attr_t attributes
    cdef pthread_t thread
    cdef sigset_t every, before
    cdef int error
    if frames.stock.state == RUNNING:
        return MRM_OK
    frames.stock.stop = 0
    mrm_store32(&frames.stock.state, STARTING)
    error = pthread_attr_init(&attributes)
    if error == 0:
        pthread_attr_setstacksize(&attributes, STACK)
        sigfillset(&every)
        pthread_sigmask(SIG_SETMASK, &every, &before)
        error = pthread_create(&thread, &attributes, body, frames)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        pthread_attr_destroy(&attributes)
    if error:
        frames.stock.state = NO_THREAD
        return mrm_fail(
            failure(), MRM_NO_MEMORY, 0, error, NULL, STACK,
            b"cannot start the thread that clears frames (%s): end threads, or raise the limits of their number "
            b"(ulimit -u, pids.max) or of addresses (ulimit -v)", strerror(error),
        )
    frames.stock.thread = <uint64_t>thread
    while mrm_load32(&frames.stock.state) == <uint32_t>STARTING:
        mrm_sleep(&frames.stock.state, STARTING)
    if mrm_load32(&frames.stock.state) == <uint32_t>RUNNING:
        return MRM_OK
    pthread_join(thread, NULL)
    frames.stock.state = NO_THREAD
    return mrm_fail(
        failure(), MRM_SYSTEM_CALL, CALL_SCHED_SETSCHEDULER, frames.stock.refused, NULL, 0,
        b"the thread that clears frames may not give way to all others (sched_setscheduler to SCHED_IDLE: %s), and "
        b"so there is none: allow the call, or let takers clear what they want cleared",
        strerror(frames.stock.refused),
    )


cdef void stop(frames_t *frames) noexcept nogil:
    """End the thread, if there is one, and wait for it."""
    if frames.stock.state != RUNNING:
        return
    mrm_store32(&frames.stock.stop, 1)
    mrm_add32(&frames.stock.work, 1)
    mrm_wake(&frames.stock.work)
    pthread_join(<pthread_t>frames.stock.thread, NULL)
    frames.stock.state = NO_THREAD


cdef int zeroing_keep(frames_t *frames, uint32_t n) noexcept nogil:
    """Keep ``n`` free frames cleared, from now on; 0: none, and no thread."""
    cdef int status = MRM_OK
    if n > frames.count:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"%u frames cannot be kept cleared: this pool has %u", n, frames.count,
        )
    mrm_lock(&frames.stock.door)
    if n:
        status = start(frames)
    if status == MRM_OK:
        mrm_lock(&frames.lock)
        stock_withdraw(frames)
        frames.stock.wanted = n
        stock_resume(frames)
        mrm_unlock(&frames.lock)
    if n == 0:
        stop(frames)
    mrm_unlock(&frames.stock.door)
    return status


cdef void zeroing_end(frames_t *frames) noexcept nogil:
    """End the thread with its pool, which nobody uses any more."""
    mrm_lock(&frames.stock.door)
    stop(frames)
    mrm_unlock(&frames.stock.door)
