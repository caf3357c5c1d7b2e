"""The store as Python sees it: objects that refer to each other, held on to by a Ref.

A Ref is a root. What a Ref refers to lives, and what can be reached from there; the Ref
says where the object is, whenever it is asked.

Every method holds the GIL from beginning to end, cycles included: that is what stops the
world here. Code without the GIL (churn.pyx) has a store for itself as long as it works.
"""

import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_FORKED, MRM_NO_MEMORY, MRM_OK, MRM_OUT_OF_FRAMES, api, mrm_import, mrm_pool,
)

import mrm

from larder.cycle import Cycle
from larder.layout cimport MOST_FIELDS, MOST_INLINE, object_t, payload
from larder.moving cimport collect
from larder.objects cimport at, load, object_new, object_resize, root_new, store
from larder.space cimport HISTORY, cycle_t, root_close, space_close, space_open

mrm_import()

# A child after fork has none of its parent's frames, and so none of its stores. This number is
# another in the child, which must not even look at the store's own tables: they lie on frames.
cdef unsigned int generation = 0


def _in_child():
    global generation
    generation += 1


os.register_at_fork(after_in_child=_in_child)


cdef int check(int status) except -1:
    """Raise what a status means, with mrm's sentence about it."""
    if status == MRM_OK:
        return 0
    kind = {
        MRM_OUT_OF_FRAMES: mrm.OutOfFrames, MRM_NO_MEMORY: mrm.OutOfFrames, MRM_FORKED: mrm.ForkedError,
        MRM_BAD_ARGUMENT: mrm.ArgumentError,
    }.get(status, mrm.Error)
    raise kind(api.failure().text.decode())


cdef class Store:
    """Objects on the frames of a pool, one store a pool.

    Parameters
    ----------
    pool : mrm.Pool
        Where pages, and the heap with all tables, come from. It may have other users.
    sparse : float, optional
        Pages of which no larger part lives are emptied by a cycle.
    mark_stack : int, optional
        Objects that marking can put aside. One that is too small costs time, and nothing else.

    Raises
    ------
    mrm.OutOfFrames
        If the pool has no room for the tables, about 2 % of it, and the collector's reserve.
    """

    def __init__(self, pool, *, double sparse=0.75, mark_stack=1 << 16):
        cdef mrm_pool *handle
        cdef int status
        if self.space != NULL:
            raise mrm.ArgumentError("the store is open already")
        if not 0 <= sparse < 1:
            raise mrm.ArgumentError(f"sparse={sparse} is no part of a page: give a number from 0 to below 1")
        if mark_stack < 1:
            raise mrm.ArgumentError(f"mark_stack={mark_stack}: marking needs room for one object at least")
        handle = api.pool_from_object(<void *>pool)
        if handle == NULL:
            raise mrm.ArgumentError(f"{pool!r} is no open mrm.Pool: {api.failure().text.decode()}")
        status = space_open(&self.space, handle, mark_stack, sparse)
        api.pool_release(handle)                # the space is a user of its own
        check(status)
        self.pool = pool
        self.generation = generation

    def __dealloc__(self):
        if self.space != NULL and self.generation == generation:
            space_close(self.space)

    cdef space_t *open_one(self) except NULL:
        if self.generation != generation:
            raise mrm.ForkedError("the store is the parent's, and so are its frames: open a store of the child's own")
        if self.space == NULL:
            raise mrm.ClosedError("the store is closed")
        return self.space

    cdef Ref refer(self):
        """A Ref to nothing yet."""
        cdef Ref ref = Ref.__new__(Ref)
        check(root_new(self.open_one(), &ref.root))
        ref.owner = self
        return ref

    def new(self, *, size_t fields=0, data=b""):
        """Make an object.

        Parameters
        ----------
        fields : int, optional
            How many references it has; they are empty at first.
        data : bytes-like, optional
            Its payload. More than 16 KiB lie on the heap, and may be resized.

        Raises
        ------
        mrm.OutOfFrames
            If there is no room for it, even after a cycle.
        """
        cdef space_t *space = self.open_one()
        cdef const uint8_t[::1] view = memoryview(data).cast("B")
        cdef Ref ref = self.refer()
        if fields > MOST_FIELDS:
            raise mrm.ArgumentError(
                f"{fields} fields are more than an object has, {MOST_FIELDS}: make a tree of several"
            )
        check(object_new(space, ref.root, fields, view.shape[0]))
        if view.shape[0]:
            memcpy(payload(at(space, ref.root)), &view[0], view.shape[0])
        return ref

    def collect(self):
        """Run a cycle, and say what it did.

        Raises
        ------
        mrm.Error
            If the kernel refused to move pages: everything is where it was.
        """
        cdef space_t *space = self.open_one()
        check(collect(space))
        return _cycle(&space.cycle[(space.cycles - 1) % HISTORY])

    @property
    def history(self):
        """The last 64 cycles, oldest first, those that allocations have run too."""
        cdef space_t *space = self.open_one()
        cdef uint64_t i
        return [_cycle(&space.cycle[i % HISTORY]) for i in range(max(0, <int64_t>space.cycles - HISTORY), space.cycles)]

    @property
    def cycles(self):
        """How many there were."""
        return self.open_one().cycles

    @property
    def pages(self):
        """Pages in use: frames that the account "larder objects" holds."""
        return self.open_one().used

    @property
    def closed(self):
        """Whether it was closed."""
        return self.space == NULL

    def close(self):
        """End all objects, and give every frame back. A Ref is of no use any more."""
        cdef space_t *space = self.space
        self.space = NULL
        if space != NULL and self.generation == generation:
            space_close(space)

    def __enter__(self):
        self.open_one()
        return self

    def __exit__(self, kind, value, traceback):
        self.close()


cdef _cycle(const cycle_t *cycle):
    """What Python sees of a cycle."""
    return Cycle(
        objects=cycle.objects,
        live_bytes=cycle.live_bytes,
        blocks_freed=cycle.blocks,
        pages=cycle.pages,
        emptied=cycle.emptied,
        filled=cycle.filled,
        bytes_copied=cycle.copied,
        passes=cycle.passes,
        system_calls=cycle.batch.system_calls + cycle.retire.system_calls,
        shootdowns=cycle.batch.shootdowns + cycle.retire.shootdowns,
        mark_seconds=cycle.mark_ns / 1e9,
        move_seconds=cycle.move_ns / 1e9,
        pause_seconds=cycle.pause_ns / 1e9,
    )


cdef class Ref:
    """An object that is held on to. ``ref[i]`` is a field, ``ref.data`` the payload."""

    def __init__(self):
        raise TypeError("a Ref is made by its store: use store.new()")

    def __dealloc__(self):
        if self.owner is not None and self.owner.space != NULL and self.owner.generation == generation:
            root_close(self.owner.space, self.root)

    cdef object_t *here(self) except NULL:
        return at(self.owner.open_one(), self.root)

    @property
    def address(self):
        """Where the object is now. A cycle may move it."""
        return <uint64_t>self.here()

    def __eq__(self, other):
        """Whether both refer to the same object."""
        if not isinstance(other, Ref) or (<Ref>other).owner is not self.owner:
            return NotImplemented
        return self.here() == (<Ref>other).here()

    __hash__ = None                             # by address it would change

    def __len__(self):
        """How many fields it has."""
        return self.here().fields

    cdef uint32_t index(self, Py_ssize_t i) except? 0xFFFFFFFF:
        cdef Py_ssize_t fields = self.here().fields
        if not -fields <= i < fields:
            raise IndexError(f"field {i} of an object with {fields}")
        return <uint32_t>(i if i >= 0 else i + fields)

    def __getitem__(self, Py_ssize_t i):
        """What a field refers to: a Ref, or None."""
        cdef uint32_t where = self.index(i)
        cdef Ref found
        if load(self.owner.space, self.here(), where) == NULL:
            return None
        found = self.owner.refer()
        self.owner.space.root[found.root] = <uint64_t>load(self.owner.space, self.here(), where)
        return found

    def __setitem__(self, Py_ssize_t i, Ref other):
        """Let a field refer to an object of the same store, or to nothing (None)."""
        cdef uint32_t where = self.index(i)
        if other is None:
            store(self.here(), where, NULL)
        elif other.owner is not self.owner:
            raise mrm.ArgumentError("an object of another store: objects refer to their own store's only")
        else:
            store(self.here(), where, other.here())

    @property
    def nbytes(self):
        """Bytes of payload."""
        return self.here().nbytes

    @property
    def data(self):
        """A copy of the payload."""
        cdef object_t *object = self.here()
        return PyBytes_FromStringAndSize(<const char *>payload(object), object.nbytes)

    def write(self, size_t offset, data):
        """Write bytes into the payload."""
        cdef const uint8_t[::1] view = memoryview(data).cast("B")
        cdef object_t *object = self.here()
        if offset > object.nbytes or <size_t>view.shape[0] > object.nbytes - offset:
            raise mrm.ArgumentError(
                f"bytes {offset} to {offset + view.shape[0]} of a payload of {object.nbytes}: resize it first"
            )
        if view.shape[0]:
            memcpy(<uint8_t *>payload(object) + offset, &view[0], view.shape[0])

    def resize(self, size_t nbytes):
        """Change the size of a payload that lies on the heap; from 1 MiB on, no byte is copied for that.

        Raises
        ------
        mrm.ArgumentError
            If the payload lies in the object, or would be empty.
        """
        if not self.here().outside or nbytes == 0:
            raise mrm.ArgumentError(
                f"only a payload of more than {MOST_INLINE} bytes has a size that can change, and not to 0: "
                "make another object"
            )
        check(object_resize(self.owner.space, self.root, nbytes))
