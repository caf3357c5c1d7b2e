"""Who works beside a balloon: one thread that streams through memory, one that changes mappings.

``Stream`` is the triad of STREAM, ``a = b + s c``, over arrays that no cache holds; it touches
none of the pool's pages. It notes each window of some 10 ms: bytes, time on the clock,
and the processor time that it had of it, so that what is lost to whoever shares its processor
can be told from what is lost to memory that is slower, caches that are colder and interrupts.
Like the mutators of the other benchmarks it has a processor of its own, the last, and whoever
enters the context and the threads that it starts have the others, as long as there are others.

``Committer`` commits batches of one slot, again and again, with a pause between, and notes how
long each took: a commit changes the address space, for which it waits until whoever
populates lets go of it.
"""

import os
import threading
import time

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from mrm import errors
from mrm cimport (
    MRM_PROT_READ_WRITE, MRM_REUSE_NOW, api, mrm_batch, mrm_import, mrm_pool, mrm_reservation,
)
from mrm.tools.bench.byhand cimport (
    MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap,
    munmap, now,
)

mrm_import()


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint64_t mrm_load64(const uint64_t *p)
    void mrm_store64(uint64_t *p, uint64_t v)

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_THREAD_CPUTIME_ID
    struct timespec:
        int64_t tv_sec
        int64_t tv_nsec
    int clock_gettime(int clock, timespec *got)
    int nanosleep(const timespec *wanted, timespec *left)

cdef extern from *:
    """
    static void mrm_triad(double *restrict a, const double *restrict b, const double *restrict c, size_t n) {
        for (size_t i = 0; i < n; i++) a[i] = b[i] + 3.0 * c[i];
    }
    """
    void mrm_triad(double *a, const double *b, const double *c, size_t n) nogil


cdef enum:
    STEP = 1 << 14              # elements between two looks at the clock: some 40 us
    MOST_WINDOWS = 1 << 17      # 20 minutes of them
    MOST_COMMITS = 1 << 20


cdef struct window_t:
    int64_t begin               # of CLOCK_MONOTONIC, ns
    int64_t wall                # ns
    int64_t processor           # ns
    int64_t nbytes


cdef struct commit_t:
    int64_t begin
    int64_t wall


cdef int64_t processor_time() noexcept nogil:
    """Nanoseconds that the calling thread ran."""
    cdef timespec ran
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran)
    return ran.tv_sec * 1000000000 + ran.tv_nsec


cdef class Stream:
    """One thread of triads over arrays of ``nbytes`` each; a context manager.

    Parameters
    ----------
    nbytes : int
        Of each of the three arrays.
    window : float
        Seconds of a window.
    """

    cdef double *arrays
    cdef size_t n
    cdef int64_t window
    cdef window_t *windows
    cdef uint64_t noted
    cdef uint32_t stop
    cdef object thread
    cdef object processors
    cdef object failure

    def __cinit__(self, size_t nbytes, double window=0.01):
        cdef void *got
        self.n = max(nbytes // sizeof(double), <size_t>STEP) // STEP * STEP
        self.window = <int64_t>(window * 1e9)
        got = mmap(
            NULL, 3 * self.n * sizeof(double), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
            -1, 0,
        )
        if got == MAP_FAILED:
            raise MemoryError
        self.arrays = <double *>got
        madvise(got, 3 * self.n * sizeof(double), MADV_HUGEPAGE)
        self.windows = <window_t *>calloc(MOST_WINDOWS, sizeof(window_t))
        if self.windows == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.arrays != NULL:
            munmap(self.arrays, 3 * self.n * sizeof(double))
        free(self.windows)

    def __enter__(self):
        cdef size_t i
        for i in range(3 * self.n):
            self.arrays[i] = 1.0
        mrm_store32(&self.stop, 0)
        self.processors = os.sched_getaffinity(0)
        last = max(self.processors)
        self.failure = None
        self.thread = threading.Thread(target=self._run, args=(last,), daemon=True)
        os.sched_setaffinity(0, self.processors - {last} or self.processors)
        try:
            self.thread.start()
            while mrm_load64(&self.noted) == 0:
                if not self.thread.is_alive():
                    raise errors.Error(f"the neighbour ended before it noted a window: {self.failure}")
                time.sleep(0.001)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *exception):
        self.end()

    cdef object end(self):
        mrm_store32(&self.stop, 1)
        if self.thread.ident is not None:       # if it could be started
            self.thread.join()
        os.sched_setaffinity(0, self.processors)

    def between(self, int64_t begin, int64_t end):
        """Windows that lie within a time of ``time.monotonic_ns()``: of each (wall ns, processor ns, bytes)."""
        cdef uint64_t i, noted = mrm_load64(&self.noted)
        cdef window_t *w
        found = []
        for i in range(noted):
            w = &self.windows[i]
            if w.begin >= begin and w.begin + w.wall <= end:
                found.append((w.wall, w.processor, w.nbytes))
        return found

    def _run(self, processor):
        try:
            os.sched_setaffinity(0, [processor])
        except OSError as error:
            self.failure = error
            return
        with nogil:
            self.stream()

    cdef void stream(self) noexcept nogil:
        cdef size_t at = 0
        cdef uint64_t noted = 0
        cdef window_t *w
        cdef int64_t begin = now(), processor = processor_time(), nbytes = 0, later, ran
        while not mrm_load32(&self.stop) and noted < MOST_WINDOWS:
            mrm_triad(self.arrays + at, self.arrays + self.n + at, self.arrays + 2 * self.n + at, STEP)
            at = (at + STEP) % self.n
            nbytes += 3 * STEP * sizeof(double)
            later = now()
            if later - begin < self.window:
                continue
            ran = processor_time()
            w = &self.windows[noted]
            w.begin, w.wall, w.processor, w.nbytes = begin, later - begin, ran - processor, nbytes
            noted += 1
            mrm_store64(&self.noted, noted)
            begin, processor, nbytes = later, ran, 0


cdef class Committer:
    """One thread that commits a batch of one slot every ``pause`` seconds; a context manager.

    Parameters
    ----------
    pool : mrm.Pool
        One of its frames is taken for as long; another pool than the one whose balloon moves.
    pause : float
        Seconds between two commits.
    """

    cdef mrm_pool *pool
    cdef mrm_reservation *reservation
    cdef mrm_batch *batch
    cdef uint32_t frame
    cdef bint held
    cdef int64_t pause
    cdef commit_t *commits
    cdef uint64_t noted
    cdef uint32_t stop
    cdef int status
    cdef object thread

    def __init__(self, pool, double pause=0.001):
        self.pool = api.pool_from_object(<void *>pool)
        if self.pool == NULL:
            raise TypeError(f"not a pool: {pool!r}")
        self.pause = <int64_t>(pause * 1e9)
        self.commits = <commit_t *>calloc(MOST_COMMITS, sizeof(commit_t))
        if self.commits == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.pool != NULL:
            api.pool_release(self.pool)
        free(self.commits)

    def __enter__(self):
        try:
            self.need(api.take_many(self.pool, &self.frame, 1))
            self.held = True
            self.need(api.reservation_open(self.pool, 1, 0, &self.reservation))
            self.need(api.batch_begin(self.reservation, &self.batch))
            self.thread = threading.Thread(target=self._run, daemon=True)
            self.thread.start()
        except BaseException:
            self.close()
            raise
        while mrm_load64(&self.noted) == 0 and self.thread.is_alive():
            time.sleep(0.001)
        return self

    def __exit__(self, *exception):
        mrm_store32(&self.stop, 1)
        self.thread.join()
        self.close()
        if self.status < 0:
            raise errors.Error(f"a batch of one slot was refused, with status {self.status}")

    cdef object close(self):
        if self.batch != NULL:
            api.batch_abort(self.batch)
            self.batch = NULL
        if self.reservation != NULL:
            self.need(api.reservation_close(self.reservation))
            self.reservation = NULL
        if self.held:
            self.need(api.give_many(self.pool, &self.frame, 1, MRM_REUSE_NOW))
            self.held = False

    def between(self, int64_t begin, int64_t end):
        """Commits within a time of ``time.monotonic_ns()``: nanoseconds that each took."""
        cdef uint64_t i, noted = mrm_load64(&self.noted)
        return [
            self.commits[i].wall
            for i in range(noted)
            if self.commits[i].begin >= begin and self.commits[i].begin + self.commits[i].wall <= end
        ]

    cdef int need(self, int status) except -1:
        if status < 0:
            raise errors.Error(api.failure().text.decode())
        return 0

    def _run(self):
        with nogil:
            self.status = self.commit_on()

    cdef int commit_on(self) noexcept nogil:
        """Show a frame in a slot, and show it no more, in turn."""
        cdef uint32_t slot = 0
        cdef uint64_t noted = 0
        cdef int64_t begin
        cdef int status = 0
        cdef timespec pause
        pause.tv_sec = self.pause // 1000000000
        pause.tv_nsec = self.pause % 1000000000
        while not mrm_load32(&self.stop) and noted < MOST_COMMITS:
            if noted & 1:
                status = api.batch_unmap(self.batch, &slot, 1, 0)
            else:
                status = api.batch_map(self.batch, &slot, &self.frame, 1, MRM_PROT_READ_WRITE)
            if status < 0:
                break
            begin = now()
            status = api.batch_commit(self.batch, NULL)
            if status < 0:
                break
            self.commits[noted].begin, self.commits[noted].wall = begin, now() - begin
            noted += 1
            mrm_store64(&self.noted, noted)
            nanosleep(&pause, NULL)
        return status
