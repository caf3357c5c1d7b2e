"""The sizes that small blocks come in, and the pages that hold them.

Up to 128 bytes the classes are 16 bytes apart; from there each doubling has eight, so that no block
is more than an eighth larger than what was asked for. The last one is of 1 MiB.

A page holds blocks of one class. It is made of *slices*, 32 KiB each, 64 to a segment: of as few as
leave no more than a sixteenth of it unused behind the last block, since what a page wastes comes on top
of what its blocks do. Pages of blocks up to 3 KiB are a slice.
"""

from libc.stdint cimport uint32_t

from mrm.heap.page cimport SLICE_BYTES, SLICES


cdef enum:
    TAIL = 16                   # the part of a page that may be unused behind its last block


cdef shape_t shapes[CLASSES]


cdef const shape_t *shape_of(uint32_t number) noexcept nogil:
    """How many slices a page of a class has, and how many blocks."""
    return &shapes[number]


cdef shape_t _best_shape(size_t nbytes) noexcept nogil:
    cdef shape_t shape
    cdef size_t room
    shape.slices = 1
    while True:
        room = <size_t>shape.slices * SLICE_BYTES
        shape.blocks = <uint32_t>(room // nbytes)
        if shape.blocks and (room % nbytes) * TAIL <= room or shape.slices == SLICES:
            return shape
        shape.slices += 1


cdef void _fill() noexcept nogil:
    cdef uint32_t number
    for number in range(<uint32_t>CLASSES):
        shapes[number] = _best_shape(class_bytes(number))


_fill()


def size_classes():
    """Bytes of each class, slices of its pages and blocks in one, as a list of tuples."""
    return [(class_bytes(i), shapes[i].slices, shapes[i].blocks) for i in range(<uint32_t>CLASSES)]


def class_for(size_t nbytes):
    """The number of the class that a small block of so many bytes is of."""
    return class_of(nbytes)
