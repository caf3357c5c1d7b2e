"""A flip: a whole pool to a new view. Open it, link it by one touch a GiB, retire the old one.

It is what a collector's cycle costs in mappings. ``Flip`` is ours; ``FlipByHand`` makes
the steps of lanes.c on the same file. Ours makes two calls more, for the advice that
keeps views out of children and core dumps, and can still be the faster: a pool always
has another mapping that shares the page tables. By hand the last two views share them,
so retiring one leaves an only owner, and Linux 6.18 then interrupts every processor
once more (smp_call_function under __unmap_hugepage_range): 18 us instead of 3, alone
on 2 processors. Those are interrupts of the row CAL, which no count of shootdowns sees.
"""

from libc.stdint cimport int64_t

from mrm import errors
from mrm cimport api, mrm_import, mrm_pool, mrm_view
from mrm.system.pages cimport frame_bytes
from mrm.tools.bench.byhand cimport MAP_POPULATE, linked_span, map_file, now, reserve, seal, touch

mrm_import()


cdef enum:
    VIEWS = 64                  # ranges by hand, used in turn
    MOST = 1024                 # flips of one run


# Nanoseconds of each step of one flip.
cdef struct steps_t:
    int64_t open
    int64_t link
    int64_t retire
    int64_t close


cdef list in_microseconds(const steps_t *steps, int n):
    """What was noted of n flips, as tuples."""
    return [
        (steps[i].open / 1e3, steps[i].link / 1e3, steps[i].retire / 1e3, steps[i].close / 1e3)
        for i in range(n)
    ]


cdef class Flip:
    """Flips of ``pool``; one view is open from the beginning to ``close()``."""

    cdef mrm_pool *pool
    cdef mrm_view *shown
    cdef size_t nbytes

    def __init__(self, pool):
        self.pool = api.pool_from_object(<void *>pool)
        self.nbytes = len(pool) * frame_bytes()
        if self.pool == NULL:
            raise TypeError(f"not a pool: {pool!r}")
        if api.view_open(self.pool, &self.shown) < 0:
            self.refuse()

    def close(self):
        """Close the view that is open, and let the pool go."""
        if self.shown != NULL:
            api.view_close(self.shown)
            self.shown = NULL
        if self.pool != NULL:
            api.pool_release(self.pool)
            self.pool = NULL

    def refuse(self):
        """Raise with the engine's own sentence."""
        raise errors.Error(api.failure().text.decode())

    cdef int flip(self, steps_t *steps) noexcept nogil:
        cdef mrm_view *last = self.shown
        cdef int64_t begin = now(), opened, linked, retired
        cdef int status = api.view_open(self.pool, &self.shown)
        opened = now()
        if status < 0:
            return status
        touch(<char *>api.view_address(self.shown, 0), self.nbytes, linked_span(), False)
        linked = now()
        status = api.view_retire(last)
        retired = now()
        if status == 0:
            status = api.view_close(last)
        steps.open = opened - begin
        steps.link = linked - opened
        steps.retire = retired - linked
        steps.close = now() - retired
        return status

    def run(self, int flips):
        """Flip so many times: of each flip, microseconds of open, link, retire and close."""
        cdef steps_t steps[MOST]
        cdef int status = 0, i
        with nogil:
            for i in range(min(flips, MOST)):
                status = self.flip(&steps[i])
                if status < 0:
                    break
        if status < 0:
            self.refuse()
        return in_microseconds(steps, min(flips, MOST))


cdef class FlipByHand:
    """The same steps, as lanes.c makes them, on the file ``fd`` of ``nbytes``."""

    cdef int fd
    cdef size_t nbytes
    cdef char *base
    cdef int number

    def __init__(self, int fd, size_t nbytes):
        self.fd = fd
        self.nbytes = nbytes
        self.base = reserve(VIEWS * nbytes, 0)
        if self.base == NULL:
            raise MemoryError("no address space for views by hand")
        map_file(self.base, nbytes, fd, 0, MAP_POPULATE)

    def close(self):
        """Make all of it trap."""
        seal(self.base, VIEWS * self.nbytes)

    def run(self, int flips):
        """The same as ``Flip.run``; there is nothing to close."""
        cdef steps_t steps[MOST]
        cdef int status = 0, i
        with nogil:
            for i in range(min(flips, MOST)):
                status = self.flip(&steps[i])
                if status < 0:
                    break
        if status < 0:
            raise OSError(-status, "flip by hand")
        return in_microseconds(steps, min(flips, MOST))

    cdef int flip(self, steps_t *steps) noexcept nogil:
        cdef int64_t begin, opened, linked
        cdef char *last = self.base + self.number * self.nbytes
        cdef char *shown
        cdef int status
        self.number = (self.number + 1) % VIEWS
        shown = self.base + self.number * self.nbytes
        begin = now()
        status = map_file(shown, self.nbytes, self.fd, 0, 0)
        opened = now()
        if status < 0:
            return status
        touch(shown, self.nbytes, linked_span(), False)
        linked = now()
        status = seal(last, self.nbytes)
        steps.open = opened - begin
        steps.link = linked - opened
        steps.retire = now() - linked
        steps.close = 0
        return status
