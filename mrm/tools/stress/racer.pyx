"""A thread that takes and gives frames as fast as it can, and knows whose each one is.

A frame that is taken must belong to nobody: its first word, in the window, holds the
owner's tag while it is held and 0 otherwise, and is changed by compare-and-swap. So a
frame that was handed out twice is noticed by whoever comes second, or by the first one
when it gives it back. Everything here runs without the GIL, to race for real.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from mrm cimport MRM_OK, MRM_OUT_OF_FRAMES, MRM_REUSE_AFTER_RETIRE, MRM_REUSE_NOW
from mrm._core cimport Pool
from mrm.physical.pool cimport pool_address, pool_release, pool_retain, pool_t
from mrm.physical.taking cimport pool_give, pool_give_many, pool_take, pool_take_many, pool_take_run
from mrm.system.failure cimport check


cdef extern from "system/atomic.h" nogil:
    int mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)


cdef enum:
    MOST_AT_ONCE = 8

cdef tuple OPERATIONS = ("take", "take(n)", "take_run", "give", "give(n)")


cdef class Racer:
    """One racing thread's frames.

    Parameters
    ----------
    pool : Pool
    tag : int
        Other than 0, and no other thread's.
    seed : int
        What it does follows from it; which frames it gets does not.
    room : int
        Frames that it holds at the most.
    """

    cdef pool_t *pool
    cdef uint32_t *held
    cdef uint32_t count
    cdef uint32_t room
    cdef uint64_t tag
    cdef uint64_t random
    cdef readonly uint64_t steps
    cdef uint32_t operation             # index of OPERATIONS
    cdef uint32_t frame                 # that something is wrong with
    cdef uint64_t expected
    cdef uint64_t found

    def __init__(self, Pool pool, uint64_t tag, uint64_t seed, uint32_t room) -> None:
        self.held = <uint32_t *>malloc(room * sizeof(uint32_t))
        if self.held == NULL:
            raise MemoryError
        self.pool = pool.pool
        pool_retain(self.pool)
        self.tag = tag
        self.room = room
        self.random = seed * 2 + 1

    def __dealloc__(self):
        free(self.held)
        if self.pool != NULL:
            pool_release(self.pool)

    @property
    def holds(self) -> int:
        """Frames that it holds now."""
        return self.count

    def burst(self, uint32_t steps) -> tuple[str, int, int, int] | None:
        """Take and give ``steps`` times; (operation, frame, expected, found) when something is wrong."""
        cdef uint32_t _
        cdef int status = MRM_OK
        with nogil:
            for _ in range(steps):
                status = self._step()
                if status != MRM_OK:
                    break
                self.steps += 1
        return self._told(status)

    def finish(self) -> tuple[str, int, int, int] | None:
        """Give everything back."""
        cdef int status = MRM_OK
        with nogil:
            while self.count and status == MRM_OK:
                status = self._give(1, MRM_REUSE_NOW)
        return self._told(status)

    cdef object _told(self, int status):
        if status > 0:
            return OPERATIONS[self.operation], self.frame, self.expected, self.found
        check(status)
        return None

    cdef uint32_t _draw(self, uint32_t n) noexcept nogil:
        """A number under ``n``."""
        self.random = self.random * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        return <uint32_t>((self.random >> 33) * n >> 31)

    cdef int _step(self) noexcept nogil:
        """One operation; 0, a negative status, or 1 when a frame is not as it should be."""
        cdef uint32_t n = 1 + self._draw(MOST_AT_ONCE)
        cdef uint32_t dice = self._draw(100)
        if dice < 25 + 50 * (self.room - self.count) // self.room and self.count + n <= self.room:
            return self._take(dice % 3, n)
        if self.count == 0:
            return MRM_OK
        return self._give(min(n, self.count), MRM_REUSE_AFTER_RETIRE if dice % 8 == 0 else MRM_REUSE_NOW)

    cdef int _take(self, uint32_t how, uint32_t n) noexcept nogil:
        cdef uint32_t *got = self.held + self.count
        cdef uint32_t i
        cdef int status
        cdef uint64_t nobody
        self.operation = how
        if how == 0:
            n = 1
            status = pool_take(self.pool, got)
        elif how == 1:
            status = pool_take_many(self.pool, got, n)
        else:
            status = pool_take_run(self.pool, n, got)
            for i in range(1, n):
                got[i] = got[0] + i
        if status == MRM_OUT_OF_FRAMES:
            return MRM_OK
        if status != MRM_OK:
            return status
        for i in range(n):
            nobody = 0
            if not mrm_cas64(<uint64_t *>pool_address(self.pool, got[i]), &nobody, self.tag):
                return self._wrong(got[i], 0, nobody)
        self.count += n
        return MRM_OK

    cdef int _give(self, uint32_t n, int reuse) noexcept nogil:
        """Give ``n`` of those held, chosen at random."""
        cdef uint32_t i, other, frame
        cdef uint64_t mine
        self.operation = 3 if n == 1 else 4
        for i in range(n):
            # The chosen ones come to lie at the end.
            other = self._draw(self.count - i)
            frame = self.held[other]
            self.held[other] = self.held[self.count - 1 - i]
            self.held[self.count - 1 - i] = frame
            mine = self.tag
            if not mrm_cas64(<uint64_t *>pool_address(self.pool, frame), &mine, 0):
                return self._wrong(frame, self.tag, mine)
        self.count -= n
        if n == 1:
            return pool_give(self.pool, self.held[self.count], reuse)
        return pool_give_many(self.pool, self.held + self.count, n, reuse)

    cdef int _wrong(self, uint32_t frame, uint64_t expected, uint64_t found) noexcept nogil:
        self.frame = frame
        self.expected = expected
        self.found = found
        return 1
