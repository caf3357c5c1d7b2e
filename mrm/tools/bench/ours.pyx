"""Our lanes: what a runtime would write against mrm.h, in loops without the GIL.

``Batch`` moves scattered frames to fresh slots and retires the old ones together;
``BatchRuns`` does it with frames that were taken in contiguous runs; ``View`` opens
the next view, reaches every frame in it and retires the last one.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc

from mrm cimport (
    MRM_DEFERRED, MRM_PROT_READ_WRITE, MRM_REUSE_NOW,
    api, mrm_batch, mrm_import, mrm_pool, mrm_reservation, mrm_view,
)
from mrm import errors
from mrm.physical.pool cimport pool_t
from mrm.system.pages cimport frame_bytes
from mrm.tools.bench.byhand cimport touch
from mrm.tools.bench.lanes cimport Lane

mrm_import()


def file_of(pool):
    """Descriptor of the file that the pool's frames lie in, for lanes that map it by hand."""
    cdef mrm_pool *handle = api.pool_from_object(<void *>pool)
    if handle == NULL:
        raise TypeError(f"not a pool: {pool!r}")
    fd = (<pool_t *>handle).fd
    api.pool_release(handle)
    return fd


cdef class Ours(Lane):
    """What our lanes have in common: the pool, through its C handle.

    Parameters
    ----------
    pool : mrm.Pool
        All of its frames must be free.
    step : int
        Bytes between two touches that together link all of a mapping.
    """

    cdef mrm_pool *pool

    def __init__(self, pool, size_t step):
        super().__init__(-1, len(pool), step)
        self.pool = api.pool_from_object(<void *>pool)
        if self.pool == NULL:
            raise TypeError(f"not a pool: {pool!r}")

    def __dealloc__(self):
        if self.pool != NULL:
            api.pool_release(self.pool)

    def refuse(self, int64_t status):
        """Raise with the engine's own sentence."""
        raise errors.Error(api.failure().text.decode())

    cdef int need(self, int status) except -1:
        if status < 0:
            self.refuse(status)
        return 0


cdef class Batch(Ours):
    """Scattered frames to fresh slots by one batch, deferred; then one retire."""

    cdef mrm_reservation *reservation
    cdef mrm_batch *batch
    cdef uint32_t *held             # the frames, in the order of their slots
    cdef uint32_t *source           # slots that show them
    cdef uint32_t *target           # slots that they move to

    def open(self):
        cdef uint32_t i, n = self.frames
        # One block, so that source and target can change places in it.
        self.held = <uint32_t *>malloc(3 * n * sizeof(uint32_t))
        if self.held == NULL:
            raise MemoryError
        self.source = self.held + n
        self.target = self.source + n
        self.take()
        for i in range(n):
            self.source[i] = i
            self.target[i] = n + i
        self.need(api.reservation_open(self.pool, 2 * n, 0, &self.reservation))
        self.need(api.batch_begin(self.reservation, &self.batch))
        self.need(api.batch_map(self.batch, self.source, self.held, n, MRM_PROT_READ_WRITE))
        self.need(api.batch_commit(self.batch, NULL))

    def close(self):
        if self.batch != NULL:
            api.batch_abort(self.batch)
            self.batch = NULL
        if self.reservation != NULL:
            self.need(api.reservation_close(self.reservation))
            self.reservation = NULL
        if self.held != NULL:
            self.need(api.give_many(self.pool, self.held, self.frames, MRM_REUSE_NOW))
            free(self.held)
            self.held = NULL

    cdef int take(self) except -1:
        """Take every frame, and put neighbours apart, as in lanes.c."""
        cdef uint32_t i, n = self.frames
        self.need(api.take_many(self.pool, self.held, n))
        for i in range(n):
            self.held[i] = i * 37 % n
        return 0

    cdef int64_t cycle(self) noexcept nogil:
        cdef int status = api.batch_move(
            self.batch, self.source, self.target, self.frames, MRM_DEFERRED
        )
        if status == 0:
            status = api.batch_commit(self.batch, NULL)
        if status == 0:
            status = api.reservation_retire(self.reservation, NULL)
        self.source, self.target = self.target, self.source
        return status if status < 0 else <int64_t>self.frames


cdef class BatchRuns(Batch):
    """The same, with frames that were taken in runs of ``RUN``, which go in one call each."""

    cdef int take(self) except -1:
        cdef uint32_t i, j, at, first, runs = self.frames // RUN
        for i in range(runs):
            self.need(api.take_run(self.pool, RUN, &first))
            # No run next to the one that follows it in the pool: they would become one.
            at = i * 5 % runs * RUN
            for j in range(<uint32_t>RUN):
                self.held[at + j] = first + j
        return 0


cdef class View(Ours):
    """Everything at once by view: open the next, reach every frame in it, retire the last."""

    cdef mrm_view *shown

    def open(self):
        self.need(api.view_open(self.pool, &self.shown))
        self.reach(self.shown)

    def close(self):
        if self.shown != NULL:
            self.need(api.view_close(self.shown))
            self.shown = NULL

    cdef void reach(self, mrm_view *view) noexcept nogil:
        touch(<char *>api.view_address(view, 0), self.frames * frame_bytes(), self.step, False)

    cdef int64_t cycle(self) noexcept nogil:
        cdef mrm_view *last = self.shown
        cdef int status = api.view_open(self.pool, &self.shown)
        if status == 0:
            self.reach(self.shown)
            status = api.view_retire(last)
        if status == 0:
            # Addresses of a retired view can be given back once no reference has them;
            # here nobody has.
            status = api.view_close(last)
        return status if status < 0 else <int64_t>self.frames
