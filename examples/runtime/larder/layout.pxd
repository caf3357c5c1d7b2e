"""What an object looks like.

A header of 16 bytes; the fields, references to other objects; the payload, bytes that the
store does not look at. A payload of more than MOST_INLINE bytes lies outside, in a block of
the heap, and its address takes its place.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from larder.space cimport ref_t


cdef enum:
    MOST_FIELDS = 4096
    MOST_INLINE = 16384

cdef struct object_t:
    uint32_t granules           # that it takes on its page, this header included
    uint16_t fields
    uint16_t outside            # 1: the payload is a block of the heap
    uint64_t nbytes             # of payload


cdef inline ref_t *field(object_t *object, uint32_t i) noexcept nogil:
    return <ref_t *>(object + 1) + i


cdef inline void **block(object_t *object) noexcept nogil:
    """Where an object has the address of its block, if it has one."""
    return <void **>field(object, object.fields)


cdef inline void *payload(object_t *object) noexcept nogil:
    return block(object)[0] if object.outside else <void *>block(object)
