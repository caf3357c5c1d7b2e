"""Objects made, and grown.

Where a store is short of frames, for a page or for a block of the heap, a cycle is run and
it is tried again, once: either there is room then, or there is none.

A large payload is a block of the heap and not part of the object. A cycle copies the
object, a few dozen bytes, and the block stays where it is: megabytes are never copied, nor
do they share a page with what is small. And it grows as blocks of the heap do: one of a
mebibyte or more by mapping frames behind it, with no byte of it copied.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from mrm cimport MRM_BAD_ARGUMENT, MRM_OK, MRM_OUT_OF_FRAMES, api, mrm_import

from larder.layout cimport MOST_FIELDS, MOST_INLINE, block, object_t, payload
from larder.moving cimport collect
from larder.space cimport GRANULE_SHIFT, owner_add, ref_t, root_open, space_bump

mrm_import()


cdef void _make_room(space_t *space) noexcept nogil:
    """Have frames of dead objects, and of blocks that the heap keeps for reuse."""
    collect(space)
    api.heap_trim(space.heap)


cdef int root_new(space_t *space, uint32_t *root) noexcept nogil:
    """A root that refers to nothing yet; root_close (space.pxd) ends it."""
    cdef int status = root_open(space, root)
    if status == MRM_OUT_OF_FRAMES:
        _make_room(space)
        status = root_open(space, root)
    return status


cdef int _new(space_t *space, uint32_t root, uint32_t fields, uint64_t nbytes) noexcept nogil:
    """An object, its fields empty and its payload zeros; or nothing at all."""
    cdef bint outside = nbytes > MOST_INLINE
    cdef uint64_t size = sizeof(object_t) + fields * sizeof(ref_t) + (sizeof(void *) if outside else nbytes)
    cdef uint32_t granules = <uint32_t>((size + (1 << GRANULE_SHIFT) - 1) >> GRANULE_SHIFT)
    cdef void *contents = NULL
    cdef object_t *made
    cdef ref_t ref
    cdef int status
    if outside:
        contents = api.heap_calloc(space.heap, 1, nbytes)
        if contents == NULL:
            return MRM_OUT_OF_FRAMES
    status = space_bump(space, granules, &ref)
    if status == MRM_OK:
        made = <object_t *>ref
        memset(made, 0, <size_t>granules << GRANULE_SHIFT)
        made.granules = granules            # from here on the page can be walked
        made.fields = <uint16_t>fields
        if outside:
            status = owner_add(space, ref)
    if status != MRM_OK:
        api.heap_free(space.heap, contents)
        return status
    made.outside = outside
    made.nbytes = nbytes
    if outside:
        block(made)[0] = contents
    space.root[root] = ref
    return MRM_OK


cdef int object_new(space_t *space, uint32_t root, uint32_t fields, uint64_t nbytes) noexcept nogil:
    """Let a root refer to a new object. MRM_OUT_OF_FRAMES: there is no room, whatever was collected."""
    cdef int status
    if fields > MOST_FIELDS:
        return MRM_BAD_ARGUMENT
    status = _new(space, root, fields, nbytes)
    if status == MRM_OUT_OF_FRAMES:
        _make_room(space)
        status = _new(space, root, fields, nbytes)
    return status


cdef int object_resize(space_t *space, uint32_t root, uint64_t nbytes) noexcept nogil:
    """Let the payload of a root's object, a block of the heap, have another size; what is new is zeros."""
    cdef object_t *object = at(space, root)
    cdef uint64_t before = object.nbytes
    cdef void *grown
    if not object.outside or nbytes == 0:
        return MRM_BAD_ARGUMENT
    grown = api.heap_realloc(space.heap, payload(object), nbytes)
    if grown == NULL:
        _make_room(space)
        object = at(space, root)
        grown = api.heap_realloc(space.heap, payload(object), nbytes)
        if grown == NULL:
            return MRM_OUT_OF_FRAMES
    block(object)[0] = grown
    object.nbytes = nbytes
    if nbytes > before:
        memset(<char *>grown + before, 0, nbytes - before)
    return MRM_OK
