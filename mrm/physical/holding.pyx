"""Frames that are held from the pool's first moment on: those that came with contents.

The books of frames are their owner's memory, and end with it; the pages of a named file do
not. So a pool that keeps a file's contents cannot know which frames were free, nor who held
the others. It takes all of them to be held, by its own account: nobody is handed one that
still means something, and nobody's contents are taken for zeros. Whoever knows which mean
nothing gives those.

What is charged here is an account's in all respects: the audit counts it, funds lend it,
and giving it takes it off.

A file has pages wherever its last owner's balloon had left some. A pool opens with a run of frames
that have memory, from 0 on, and all others in the balloon; those that are not there come out of it
here, before anybody has seen the pool.
"""

from mrm cimport MRM_FRAME_HELD, MRM_FRAME_INFLATED, MRM_FRAME_READY
from mrm.physical.bitmap cimport bitmap_give_run, bitmap_withhold
from mrm.physical.books cimport COMMITTED, NOBODY, POOL_ACCOUNT, charge
from mrm.physical.common cimport books_begin, books_end
from mrm.physical.near cimport near_home
from mrm.physical.stack cimport mrm_load32, mrm_store16, mrm_store32


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef void frames_hold_first(frames_t *frames, uint32_t n, const uint32_t *holes, size_t count) noexcept nogil:
    """Have the pool's own account hold the first ``n`` frames of a new pool, but for the ``holes``, ascending.

    Those were fetched a moment ago: they stay what a new pool's frames are, free and zero. And
    what is in the balloon stays there.
    """
    cdef uint32_t stack = <uint32_t>POOL_ACCOUNT << frames.cpu_shift, i, run = 0, held = 0
    cdef size_t k = 0
    if n == 0:
        return
    mrm_lock(&frames.lock)
    books_begin(frames, &frames.books.account[<int>POOL_ACCOUNT])
    for i in range(n):
        if k < count and holes[k] == i:
            k += 1
        elif mrm_load32(&frames.frame[i].status) != MRM_FRAME_INFLATED:
            mrm_store16(
                &frames.frame[i].depth, <unsigned short>near_home(frames, stack, i)
            )
            mrm_store32(&frames.frame[i].status, MRM_FRAME_HELD)
            run += 1
            held += 1
            continue
        bitmap_withhold(&frames.bitmap, i - run, run)
        run = 0
    bitmap_withhold(&frames.bitmap, n - run, run)
    charge(&frames.books, &frames.books.account[<int>POOL_ACCOUNT], held)
    books_end(frames, &frames.books.account[<int>POOL_ACCOUNT])
    mrm_unlock(&frames.lock)


cdef void frames_bring(frames_t *frames, uint32_t first, uint32_t n) noexcept nogil:
    """Free ``n`` frames from ``first`` on, which have memory although a new pool has them in the balloon."""
    cdef uint32_t i
    mrm_lock(&frames.lock)
    for i in range(first, first + n):
        mrm_store16(&frames.frame[i].depth, <unsigned short>(NOBODY << frames.cpu_shift))
        mrm_store32(&frames.frame[i].status, MRM_FRAME_READY)
    bitmap_withhold(&frames.balloon, first, n)
    bitmap_give_run(&frames.bitmap, first, n)
    frames.books.fund[<int>COMMITTED].frames += n
    mrm_unlock(&frames.lock)
