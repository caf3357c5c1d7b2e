"""Threads at work while pages move: they read a heap at random, and count their reads.

The same loop as in lanes.c, on a heap that no lane touches. What a relocation takes
away from them, by invalidations that interrupt and by cold TLBs, shows as fewer
reads per second than with no relocator beside them.

Each thread has a processor, as long as there are some: the relocator (whoever enters
the context) the first, the mutators the others. A mutator that shares the relocator's
processor is never shot at, and what would be measured then is the scheduler.
"""

import os
import threading

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint64_t mrm_load64(const uint64_t *p)
    void mrm_store64(uint64_t *p, uint64_t v)

cdef extern from *:
    """
    /* 64 reads; volatile, so that all of them are made. words is a power of two. */
    static inline uint64_t mrm_read_at_random(const volatile uint64_t *heap, uint64_t words, uint64_t x) {
        for (int i = 0; i < 64; i++) {
            x ^= x << 13; x ^= x >> 7; x ^= x << 17;
            (void)heap[x & (words - 1)];
        }
        return x;
    }
    """
    uint64_t mrm_read_at_random(const uint64_t *heap, uint64_t words, uint64_t x) nogil


# One thread's count, on a cache line of its own.
cdef struct counter_t:
    uint64_t reads
    uint64_t unused[7]


cdef class Mutators:
    """``threads`` readers of the ``nbytes`` (a power of two) at ``heap``; a context manager."""

    cdef const uint64_t *heap
    cdef uint64_t words
    cdef uint32_t stop
    cdef counter_t *counters
    cdef readonly int threads
    cdef list running
    cdef object processors

    def __cinit__(self, size_t heap, size_t nbytes, int threads):
        if nbytes < 8 or nbytes & (nbytes - 1):
            raise ValueError(f"a heap is a power of two of bytes, not {nbytes}")
        self.heap = <const uint64_t *>heap
        self.words = nbytes // 8
        self.threads = threads
        self.counters = <counter_t *>calloc(max(threads, 1), sizeof(counter_t))
        if self.counters == NULL:
            raise MemoryError
        self.running = []

    def __dealloc__(self):
        free(self.counters)

    def __enter__(self):
        mrm_store32(&self.stop, 0)
        self.processors = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(self.processors)[:1])
        self.running = [
            threading.Thread(target=self._read, args=(i,), daemon=True) for i in range(self.threads)
        ]
        for thread in self.running:
            thread.start()
        # A thread that has read something has its share of the TLB; only then may anyone measure.
        while any(self.counters[i].reads == 0 for i in range(self.threads)):
            threading.Event().wait(0.001)
        return self

    def __exit__(self, *exception):
        mrm_store32(&self.stop, 1)
        for thread in self.running:
            thread.join()
        os.sched_setaffinity(0, self.processors)

    @property
    def reads(self):
        """Reads so far, of all threads."""
        return sum(mrm_load64(&self.counters[i].reads) for i in range(self.threads))

    def _read(self, int number):
        cdef uint64_t x = 88172645463325252 + <uint64_t>number * 7919
        cdef uint64_t reads = 0
        cdef counter_t *counter = &self.counters[number]
        order = sorted(self.processors)
        os.sched_setaffinity(0, [order[(number + 1) % len(order)]])
        with nogil:
            while not mrm_load32(&self.stop):
                x = mrm_read_at_random(self.heap, self.words, x)
                reads += 64
                mrm_store64(&counter.reads, reads)
