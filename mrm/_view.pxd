"""Windows and views as Python sees them, and the buffers that show one frame."""

from libc.stdint cimport uint32_t, uint64_t

from mrm.physical.pool cimport pool_t
from mrm.space.views cimport view_t


cdef class Window:
    cdef object __weakref__
    cdef pool_t *pool               # NULL once closed
    cdef char *start                # address of frame 0
    cdef Py_ssize_t exports         # buffers that look through it
    cdef dict looked_at             # of these, those that look at frames that were free, by frame; or None
    cdef object owner               # keeps the pool alive
    cdef int check_open(self) except -1
    cdef int check_shown(self) except -1
    cdef int look(self, frame) except -1
    cdef int look_away(self, frame) except -1
    cdef uint64_t address_of(self, Py_ssize_t f, object frame) except 0
    cdef object buffer_of(self, Py_ssize_t f, object frame)
    cdef uint32_t view_number(self) noexcept


cdef class View(Window):
    cdef view_t *view
    cdef int busy                   # threads in a call that has let go of the GIL
    cdef int _check_unpinned(self, str verb) except -1


cdef class FrameBuffer:
    cdef object owner               # Window, View, Reservation or Attachment; has _exported() and _released()
    cdef void *address
    cdef Py_ssize_t nbytes
    cdef bint readonly
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]
    cdef Py_ssize_t key             # frame, or slot


cdef Py_ssize_t index(object number) except? -1
cdef Window make_window(pool_t *pool, object owner)
cdef View make_view(pool_t *pool, object owner)
cdef object make_buffer(object owner, void *address, Py_ssize_t nbytes, bint readonly, Py_ssize_t key)
