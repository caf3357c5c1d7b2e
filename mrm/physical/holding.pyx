"""Frames that are held from the pool's first moment on: those that came with contents.

The books of frames are their owner's memory, and end with it; the pages of a named file do
not. So a pool that keeps a file's contents cannot know which frames were free, nor who held
the others. It takes all of them to be held, by its own account: nobody is handed one that
still means something, and nobody's contents are taken for zeros. Whoever knows which mean
nothing gives those.

What is charged here is an account's in all respects: the audit counts it, funds lend it,
and giving it takes it off.
"""

from mrm cimport MRM_FRAME_HELD, MRM_FRAME_READY
from mrm.physical.bitmap cimport bitmap_give, bitmap_take_run
from mrm.physical.books cimport NOBODY, POOL_ACCOUNT, charge, uncharge
from mrm.physical.common cimport books_begin, books_end
from mrm.physical.near cimport near_home
from mrm.physical.stack cimport mrm_store16, mrm_store32


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef void frames_hold_first(frames_t *frames, uint32_t n, const uint32_t *holes, size_t count) noexcept nogil:
    """Have the pool's own account hold the first ``n`` frames of a new pool, but for the ``holes``.

    Those were fetched a moment ago: they stay what a new pool's frames are, free and zero.
    """
    cdef uint32_t stack = <uint32_t>POOL_ACCOUNT << frames.cpu_shift, i
    cdef size_t k
    if n == 0:
        return
    mrm_lock(&frames.lock)
    books_begin(frames, &frames.books.account[<int>POOL_ACCOUNT])
    bitmap_take_run(&frames.bitmap, n)      # the lowest, and all are free
    charge(&frames.books, &frames.books.account[<int>POOL_ACCOUNT], n)
    for i in range(n):
        mrm_store16(
            &frames.frame[i].depth, <unsigned short>(stack if frames.nodes == NULL else near_home(frames, stack, i))
        )
        mrm_store32(&frames.frame[i].status, MRM_FRAME_HELD)
    for k in range(count):
        mrm_store16(&frames.frame[holes[k]].depth, <unsigned short>(NOBODY << frames.cpu_shift))
        mrm_store32(&frames.frame[holes[k]].status, MRM_FRAME_READY)
    if count:
        uncharge(&frames.books, &frames.books.account[<int>POOL_ACCOUNT], <uint32_t>count)
        bitmap_give(&frames.bitmap, holes, count)
    books_end(frames, &frames.books.account[<int>POOL_ACCOUNT])
    mrm_unlock(&frames.lock)
