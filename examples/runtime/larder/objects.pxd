"""How code without the GIL makes and reads objects; churn.pyx is an example of it.

    root_new(space, &root)                      # may run a cycle
    object_new(space, root, fields, nbytes)     # may run a cycle
    at(space, root)                             # the object of a root
    load(space, object, i)                      # the object of a field, or NULL
    store(object, i, other)
    payload(object)                             # of layout.pxd

A pointer is good until the next call that may run a cycle, object_resize and collect among them:
what it points to may be moved, and a root or a field has to be loaded again. What has to outlive them lies in a root.
"""

from libc.stdint cimport uint32_t, uint64_t

from larder.barrier cimport heal
from larder.layout cimport field, object_t
from larder.space cimport ref_t, space_t


cdef inline object_t *at(const space_t *space, uint32_t root) noexcept nogil:
    return <object_t *>heal(space, &space.root[root])


cdef inline object_t *load(const space_t *space, object_t *object, uint32_t i) noexcept nogil:
    return <object_t *>heal(space, field(object, i))


cdef inline void store(object_t *object, uint32_t i, object_t *other) noexcept nogil:
    field(object, i)[0] = <ref_t>other


cdef int root_new(space_t *space, uint32_t *root) noexcept nogil
cdef int object_new(space_t *space, uint32_t root, uint32_t fields, uint64_t nbytes) noexcept nogil
cdef int object_resize(space_t *space, uint32_t root, uint64_t nbytes) noexcept nogil
