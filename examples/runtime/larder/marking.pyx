"""Marking: every object that can be reached from the roots, and every reference healed.

An object's bits are set for all granules that it takes, so that the bits of a page are a map of
what there is to copy, and their number is what it takes elsewhere.

The stack of objects to be looked at has a fixed size, since a collector that needs memory
to find memory may not finish. An object that finds it full is marked all the same, and
its fields are found by walking over all objects in the order in which they lie, once the
stack is empty. Each such pass marks something, so that there is a last one.

After marking, no reference to a page that was moved in an earlier cycle is left: such
pages' slots are free to show something else.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from mrm cimport api, mrm_import

from larder.layout cimport block, field, object_t
from larder.space cimport GRANULE_SHIFT, PAGE_FREE, PAGE_MOVED, PAGE_USED, page_address

mrm_import()


cdef void _clear(space_t *space) noexcept nogil:
    """Forget which objects lived. The bits of pages that were moved say where to, and stay."""
    cdef uint32_t slot
    for slot in range(space.slot_count):
        if space.page[slot].state == PAGE_USED:
            memset(page_bits(space, slot), 0, space.words * sizeof(uint64_t))
            space.page[slot].live = 0


cdef void _set_bits(uint64_t *bits, uint32_t first, uint32_t n) noexcept nogil:
    """Set n bits from the first on."""
    cdef uint32_t here
    while n:
        here = min(n, 64 - first % 64)
        bits[first // 64] |= (~<uint64_t>0 >> (64 - here)) << first % 64
        first += here
        n -= here


cdef void _visit(space_t *space, ref_t ref, cycle_t *cycle) noexcept nogil:
    """Mark an object, if it is not yet, and have its fields looked at later."""
    cdef object_t *object = <object_t *>ref
    cdef uint32_t slot
    if ref == 0 or is_marked(space, ref):
        return
    slot = slot_of(space, ref)
    _set_bits(page_bits(space, slot), granule_of(space, ref), object.granules)
    space.page[slot].live += object.granules
    cycle.objects += 1
    cycle.live_bytes += <uint64_t>object.granules << GRANULE_SHIFT
    if object.fields == 0:
        return
    if space.stack_count == space.stack_room:
        space.stack_full = True
        return
    space.stack[space.stack_count] = ref
    space.stack_count += 1


cdef void _scan(space_t *space, object_t *object, cycle_t *cycle) noexcept nogil:
    """Visit what an object refers to."""
    cdef uint32_t i
    for i in range(object.fields):
        _visit(space, heal(space, field(object, i)), cycle)


cdef void _drain(space_t *space, cycle_t *cycle) noexcept nogil:
    """Look at the fields of all objects on the stack, and of those that come on it thereby."""
    while space.stack_count:
        space.stack_count -= 1
        _scan(space, <object_t *>space.stack[space.stack_count], cycle)


cdef void _walk(space_t *space, cycle_t *cycle) noexcept nogil:
    """Look at the fields of every marked object, page by page."""
    cdef uint32_t slot, granule
    cdef object_t *object
    for slot in range(space.slot_count):
        if space.page[slot].state != PAGE_USED:
            continue
        granule = 0
        while granule < space.page[slot].top:
            object = <object_t *>(page_address(space, slot) + (<uint64_t>granule << GRANULE_SHIFT))
            granule += object.granules
            if is_marked(space, <ref_t>object):
                _scan(space, object, cycle)
                _drain(space, cycle)


cdef void mark(space_t *space, cycle_t *cycle) noexcept nogil:
    """Mark what lives; afterwards the pages that the last cycle moved are forgotten."""
    cdef uint32_t i
    _clear(space)
    for i in range(space.root_count):
        if not space.root[i] & 1:               # in use
            _visit(space, heal(space, &space.root[i]), cycle)
            _drain(space, cycle)
    while space.stack_full:
        space.stack_full = False
        cycle.passes += 1
        _walk(space, cycle)
    for i in range(space.slot_count):
        if space.page[i].state == PAGE_MOVED:
            space.page[i].state = PAGE_FREE


cdef void free_blocks(space_t *space, cycle_t *cycle) noexcept nogil:
    """Free the blocks of objects that were not marked: they can still be read, but not reached."""
    cdef uint64_t i, kept = 0
    cdef object_t *object
    for i in range(space.owner_count):
        object = <object_t *>space.owner[i]
        if is_marked(space, space.owner[i]):
            space.owner[kept] = space.owner[i]
            kept += 1
        else:
            api.heap_free(space.heap, block(object)[0])
            cycle.blocks += 1
    space.owner_count = kept
