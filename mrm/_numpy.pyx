"""NumPy's data allocator on heaps: what is called for the data of each array, without Python.

NumPy calls functions through a *handler* (NEP 49): a struct in a capsule, to which every array that was made by
it holds a reference. Here a handler's context is a ``lane_t``: where large arrays go, and all heaps
that arrays may come back to. An array's size is asked for once, when it is made. What is freed or made larger
afterwards is found by its address: in one of these heaps, whose functions know what it has, or it is NumPy's own,
and goes to the functions that NumPy would have called. The size that NumPy says goes there, too, and nowhere
else.

There are two kinds. ``handler_of`` makes a handler for a context; it keeps its heap until its last array is
gone. ``install`` puts one under the capsule of NumPy's *default* handler, which is what every thread and every context
has that chose no other, those that begin later too. Arrays that are made by it hold that capsule and no
other, so that heaps are kept by counting blocks; and once it was there it stays, since arrays may come back at any
time: uninstalled, it sends everything new to NumPy's own functions.

A heap that is called by its methods (an adaptor) is called with the GIL, which NumPy has anyway.

NumPy's headers are not needed to build this: the struct has 168 bytes that NEP 49 fixed, and functions are found in
the table that NumPy gives to all C extensions, by indices that never change while its version is one of those
that are known.
"""

from cpython.exc cimport PyErr_Fetch, PyErr_Restore
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strlen

from mrm cimport MRM_FORKED
from mrm._heap cimport Heap
from mrm.adaptors.block cimport heap_below
from mrm.errors import ArgumentError, ClosedError
from mrm.heap.blocks cimport heap_calloc, heap_free, heap_malloc, heap_realloc
from mrm.heap.heap cimport heap_owns, heap_release
from mrm.heap.state cimport heap_t
from mrm.system.failure cimport failure


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_add64(uint64_t *p, uint64_t v)
    uint64_t mrm_load64(const uint64_t *p)
    void mrm_store64(uint64_t *p, uint64_t v)

cdef extern from "<malloc.h>" nogil:
    size_t malloc_usable_size(void *block)

cdef extern from "Python.h":
    int PyCapsule_SetPointer(object capsule, void *pointer) except -1

cdef extern from * nogil:
    """
    #define MRM_MUL_OVERFLOWS(a, b, product) __builtin_mul_overflow(a, b, product)
    """
    bint overflows "MRM_MUL_OVERFLOWS"(size_t a, size_t b, size_t *product)


# PyDataMemAllocator and PyDataMem_Handler of NEP 49, version 1.
cdef struct allocator_t:
    void *context
    void *(*malloc)(void *context, size_t nbytes) noexcept nogil
    void *(*calloc)(void *context, size_t count, size_t size) noexcept nogil
    void *(*realloc)(void *context, void *block, size_t nbytes) noexcept nogil
    void (*free)(void *context, void *block, size_t nbytes) noexcept nogil

cdef struct handler_t:
    char name[127]
    uint8_t version
    allocator_t allocator


cdef enum:
    # Of NumPy's table for C extensions (numpy/__multiarray_api.h).
    GET_ABI_VERSION = 0
    GET_API_VERSION = 211
    SET_HANDLER = 304
    GET_HANDLER = 305
    DEFAULT_HANDLER = 306
    # What these have to say: NumPy 1 or 2, and an API of 1.22 or later.
    ABI_1 = 0x01000009
    ABI_2 = 0x02000000
    API_LEAST = 0xF

ctypedef unsigned int (*version_t)() noexcept
ctypedef object (*set_handler_t)(object handler)
ctypedef object (*get_handler_t)()

cdef const char *CAPSULE = b"mem_handler"


cdef struct route_t:
    heap_t *heap                # retained; NULL: a heap that is none of mrm's
    PyObject *methods           # what is called by its methods; NULL: the heap's functions are called
    uint64_t blocks             # that are alive; atomic
    uint64_t calls              # that are on their way: Python code may let other threads run meanwhile; atomic
    route_t *next               # another heap that arrays may come back to


cdef struct lane_t:
    handler_t handler           # first: the capsule points at it
    size_t threshold            # bytes from which arrays go to ``into``
    route_t *into               # NULL: nothing goes anywhere but to NumPy's functions
    route_t *all


cdef void **numpy_table = NULL
cdef allocator_t usual          # what NumPy would call
cdef lane_t everywhere          # installed


# ---- a heap by its methods ---------------------------------------------------------------
#
# An array may go while an exception is on its way, which is left alone. What a method raises itself, but for a want
# of memory, has nowhere to go: Python writes it where it writes what destructors raise (sys.unraisablehook).

cdef struct pending_t:
    PyObject *kind
    PyObject *value
    PyObject *traceback


cdef void *method_make(route_t *route, size_t nbytes, bint zero) noexcept with gil:
    """A block; NULL if there is no memory."""
    cdef pending_t pending
    cdef void *block
    PyErr_Fetch(&pending.kind, &pending.value, &pending.traceback)
    block = asked_to_make(<object>route.methods, nbytes, zero)
    PyErr_Restore(pending.kind, pending.value, pending.traceback)
    return block


cdef void *asked_to_make(object heap, size_t nbytes, bint zero) noexcept:
    try:
        return <void *><uint64_t>(heap.calloc(1, nbytes) if zero else heap.malloc(nbytes))
    except MemoryError:
        return NULL


cdef void *method_change(route_t *route, void *block, size_t nbytes) noexcept with gil:
    """A block made larger or smaller; NULL if there is no memory."""
    cdef pending_t pending
    cdef void *moved
    PyErr_Fetch(&pending.kind, &pending.value, &pending.traceback)
    moved = asked_to_change(<object>route.methods, block, nbytes)
    PyErr_Restore(pending.kind, pending.value, pending.traceback)
    return moved


cdef void *asked_to_change(object heap, void *block, size_t nbytes) noexcept:
    try:
        return <void *><uint64_t>heap.realloc(<uint64_t>block, nbytes)
    except MemoryError:
        return NULL


cdef void method_end(route_t *route, void *block) noexcept with gil:
    """Free a block."""
    cdef pending_t pending
    PyErr_Fetch(&pending.kind, &pending.value, &pending.traceback)
    asked_to_end(route, block)
    PyErr_Restore(pending.kind, pending.value, pending.traceback)


cdef void asked_to_end(route_t *route, void *block) noexcept:
    try:
        (<object>route.methods).free(<uint64_t>block)
    except ClosedError:
        if route.heap != NULL:
            heap_free(route.heap, block)


cdef bint method_owns(route_t *route, const void *block) noexcept with gil:
    """Whether it is a block of a heap that is none of mrm's."""
    cdef pending_t pending
    cdef bint owns
    PyErr_Fetch(&pending.kind, &pending.value, &pending.traceback)
    owns = asked_whether_it_owns(<object>route.methods, block)
    PyErr_Restore(pending.kind, pending.value, pending.traceback)
    return owns


cdef bint asked_whether_it_owns(object heap, const void *block) noexcept:
    return heap.owns(<uint64_t>block)


# ---- what NumPy calls ---------------------------------------------------------------------

cdef inline bint owns(route_t *route, const void *block) noexcept nogil:
    cdef bint found
    if route.heap != NULL:
        return heap_owns(route.heap, block)
    mrm_add64(&route.calls, 1)
    found = method_owns(route, block)
    mrm_add64(&route.calls, <uint64_t>-1)
    return found


cdef inline route_t *route_of(lane_t *lane, const void *block) noexcept nogil:
    """The heap that a block is of; NULL: it is NumPy's own."""
    cdef route_t *route = lane.all
    while route != NULL and not owns(route, block):
        route = route.next
    return route


cdef void *make(route_t *route, size_t nbytes, bint zero) noexcept nogil:
    """Data in a heap; NULL if there is no memory. In a child that has not the heap it is NumPy's own."""
    cdef void *block
    cdef bint forked = False
    mrm_add64(&route.calls, 1)
    if route.methods != NULL:
        block = method_make(route, nbytes, zero)
    else:
        block = heap_calloc(route.heap, 1, nbytes) if zero else heap_malloc(route.heap, nbytes)
        forked = block == NULL and failure().status == MRM_FORKED
    if block != NULL:
        mrm_add64(&route.blocks, 1)
    mrm_add64(&route.calls, <uint64_t>-1)
    if forked:
        return usual.calloc(usual.context, 1, nbytes) if zero else usual.malloc(usual.context, nbytes)
    return block


cdef void *data_malloc(void *context, size_t nbytes) noexcept nogil:
    cdef lane_t *lane = <lane_t *>context
    if lane.into == NULL or nbytes < lane.threshold:
        return usual.malloc(usual.context, nbytes)
    return make(lane.into, nbytes, False)


cdef void *data_calloc(void *context, size_t count, size_t size) noexcept nogil:
    cdef lane_t *lane = <lane_t *>context
    cdef size_t nbytes = 0
    if overflows(count, size, &nbytes):
        return NULL
    if lane.into == NULL or nbytes < lane.threshold:
        return usual.calloc(usual.context, count, size)
    return make(lane.into, nbytes, True)


cdef void data_free(void *context, void *block, size_t nbytes) noexcept nogil:
    cdef lane_t *lane = <lane_t *>context
    cdef route_t *route = route_of(lane, block) if block != NULL else NULL
    if route == NULL:
        usual.free(usual.context, block, nbytes)
        return
    if route.methods != NULL:
        method_end(route, block)
    else:
        heap_free(route.heap, block)    # in a child without the heap there is nothing to free
    if mrm_add64(&route.blocks, <uint64_t>-1) == 0 and route != lane.into:
        release_old(lane)


cdef void *data_realloc(void *context, void *block, size_t nbytes) noexcept nogil:
    """Data made larger or smaller; NULL leaves it as it was.

    What is in a heap stays in it, below the threshold too: it shrinks where it is. NumPy's own goes to the heap with
    the first growth past the threshold, which copies it; from then on it grows by mapping.
    """
    cdef lane_t *lane = <lane_t *>context
    cdef route_t *route
    cdef void *moved
    cdef size_t has
    if block == NULL:
        return data_malloc(context, nbytes)
    route = route_of(lane, block)
    if route != NULL:
        return method_change(route, block, nbytes) if route.methods != NULL else heap_realloc(route.heap, block, nbytes)
    if lane.into == NULL or nbytes < lane.threshold:
        return usual.realloc(usual.context, block, nbytes)
    moved = make(lane.into, nbytes, False)
    if moved != NULL:
        has = malloc_usable_size(block)
        memcpy(moved, block, min(has, nbytes))
        # NumPy keeps small blocks for arrays of this very size: what it has is at least what it had to have.
        usual.free(usual.context, block, has)
    return moved


# ---- handlers -----------------------------------------------------------------------------

cdef route_t *new_route(object heap) except NULL:
    """A way to a heap, which it keeps."""
    cdef route_t *route = <route_t *>calloc(1, sizeof(route_t))
    if route == NULL:
        raise MemoryError
    try:
        route.heap = heap_below(heap)
    except BaseException:
        free(route)
        raise
    if not isinstance(heap, Heap):
        Py_INCREF(heap)
        route.methods = <PyObject *>heap
    return route


cdef void end_route(route_t *route) noexcept:
    """Let a heap go."""
    if route.methods != NULL:
        Py_DECREF(<object>route.methods)
    if route.heap != NULL:
        with nogil:
            heap_release(route.heap)
    free(route)


cdef void release_old(lane_t *lane) noexcept with gil:
    """Let heaps go that get nothing new, and have no blocks any more."""
    cdef route_t **at = &lane.all
    cdef route_t *route
    while at[0] != NULL:
        route = at[0]
        if route == lane.into or mrm_load64(&route.blocks) or mrm_load64(&route.calls):
            at = &route.next
            continue
        at[0] = route.next
        end_route(route)


cdef void take_over(lane_t *lane, route_t *new) noexcept:
    """Let the newest way to a heap be the only one: what came by another one comes back by it."""
    cdef route_t *old = lane.all
    while old != NULL:
        if old.heap == new.heap and (new.heap != NULL or old.methods == new.methods):
            mrm_add64(&new.blocks, mrm_load64(&old.blocks))
            mrm_store64(&old.blocks, 0)
        old = old.next


cdef void describe(lane_t *lane, const char *name) noexcept:
    """Fill in what NumPy reads."""
    memcpy(lane.handler.name, name, min(strlen(name), sizeof(lane.handler.name) - 1))
    lane.handler.version = 1
    lane.handler.allocator.context = lane
    lane.handler.allocator.malloc = data_malloc
    lane.handler.allocator.calloc = data_calloc
    lane.handler.allocator.realloc = data_realloc
    lane.handler.allocator.free = data_free


cdef void end_lane(object capsule) noexcept:
    """The last reference to a handler is gone: no array has data of it."""
    cdef lane_t *lane = <lane_t *>PyCapsule_GetPointer(capsule, CAPSULE)
    end_route(lane.all)
    free(lane)


def handler_of(heap, size_t threshold):
    """A handler that makes arrays from ``threshold`` bytes on in a heap, as the capsule that NumPy takes."""
    cdef lane_t *lane
    _connected()
    lane = <lane_t *>calloc(1, sizeof(lane_t))
    if lane == NULL:
        raise MemoryError
    try:
        lane.into = lane.all = new_route(heap)
    except BaseException:
        free(lane)
        raise
    lane.threshold = threshold
    describe(lane, b"mrm")
    return PyCapsule_New(lane, CAPSULE, end_lane)


def set_handler(handler):
    """Set this context's handler; returns the one before."""
    _connected()
    return (<set_handler_t>numpy_table[SET_HANDLER])(handler)


def get_handler():
    """This context's handler."""
    _connected()
    return (<get_handler_t>numpy_table[GET_HANDLER])()


def install(heap, size_t threshold):
    """Have NumPy's default handler make arrays from ``threshold`` bytes on in a heap; None: in none any more."""
    cdef route_t *route = NULL
    _connected()
    if heap is not None:
        route = new_route(heap)
        take_over(&everywhere, route)
        route.next = everywhere.all
        everywhere.all = route
    everywhere.threshold = threshold
    everywhere.into = route
    release_old(&everywhere)
    if route != NULL:
        PyCapsule_SetPointer(default_handler(), &everywhere.handler)


cdef object default_handler():
    """The capsule that every thread and context has whose program chose no other."""
    return <object>(<PyObject **>numpy_table[DEFAULT_HANDLER])[0]


cdef int _connected() except -1:
    if numpy_table == NULL:
        raise ArgumentError("mrm is not connected to NumPy: import mrm.numpy")
    return 0


def connect(table):
    """Find NumPy's functions.

    Parameters
    ----------
    table : capsule
        ``_ARRAY_API`` of NumPy's ``_multiarray_umath``.

    Raises
    ------
    ArgumentError
        If this NumPy is older than 1.22, or of a kind that is not known.
    """
    global numpy_table, usual
    cdef void **found = <void **>PyCapsule_GetPointer(table, NULL)
    cdef unsigned int abi = (<version_t>found[GET_ABI_VERSION])()
    cdef unsigned int api = (<version_t>found[GET_API_VERSION])()
    cdef handler_t *handler
    if abi not in (ABI_1, ABI_2) or api < API_LEAST:
        raise ArgumentError(
            f"NumPy says ABI {abi:#x} and API {api:#x}; mrm.numpy knows NumPy 1.22 to 2.x: install one of these"
        )
    handler = <handler_t *>PyCapsule_GetPointer((<object>(<PyObject **>found[DEFAULT_HANDLER])[0]), CAPSULE)
    if handler.version != 1:
        raise ArgumentError(f"NumPy's data handlers are of version {handler.version}; mrm.numpy knows version 1")
    if numpy_table == NULL:
        usual = handler.allocator
        # It stays the default one for who asks for its name, as programs do to see whether there is another.
        describe(&everywhere, handler.name)
        numpy_table = found
