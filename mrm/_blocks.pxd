"""The blocks of a heap as Python has them: the base of mrm.Heap."""

from libc.stdint cimport uint64_t

from mrm.heap.state cimport heap_t


cdef class Blocks:
    cdef object __weakref__
    cdef heap_t *heap                   # NULL once closed
    cdef heap_t *open_one(self) except NULL


cdef uint64_t address_of(object address) except? 0
cdef void let_go(heap_t *heap) noexcept
