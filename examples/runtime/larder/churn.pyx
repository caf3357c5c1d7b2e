"""A program that makes garbage, and knows what has to be left of it: the demo's, and the tests'.

It is written as a runtime's own code would be: in C, on objects, without the GIL. A table of
tables has a cell for each number; what lies there is replaced again and again, at random,
by an object of another size with a field and a stamp. The field refers to the object of
another cell, so that objects outlive their cells. Nothing here knows when a cycle is run: objects
are loaded again after each allocation.
"""

from libc.stdint cimport uint32_t, uint64_t

from mrm cimport MRM_OK

from larder.layout cimport MOST_FIELDS, object_t, payload
from larder.objects cimport at, load, object_new, store as set_field
from larder.space cimport space_t
from larder.store cimport Ref, Store, check


cdef enum:
    CELLS = 1024                # of a table
    MOST_WORDS = 64             # of an object, beyond its stamp


cdef uint64_t mix(uint64_t x) noexcept nogil:
    """Another number, as good as a random one (the finalizer of splitmix64)."""
    x = (x ^ x >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ x >> 27) * <uint64_t>0x94D049BB133111EB
    return x ^ x >> 31


cdef void stamp(object_t *object, uint64_t cell, uint64_t version) noexcept nogil:
    """Fill an object's payload: whose it is, and words that follow from that."""
    cdef uint64_t *word = <uint64_t *>payload(object)
    cdef uint64_t i
    word[0] = cell
    word[1] = version
    for i in range(2, object.nbytes // 8):
        word[i] = mix(cell << 40 ^ version << 8 ^ i)


cdef bint is_stamped(object_t *object) noexcept nogil:
    """Whether an object's payload is what it was filled with."""
    cdef const uint64_t *word = <const uint64_t *>payload(object)
    cdef uint64_t i
    for i in range(2, object.nbytes // 8):
        if word[i] != mix(word[0] << 40 ^ word[1] << 8 ^ i):
            return False
    return True


cdef object_t *cell_of(space_t *space, uint32_t root, uint64_t cell) noexcept nogil:
    """The object of a cell, or NULL."""
    return load(space, load(space, at(space, root), <uint32_t>(cell // CELLS)), <uint32_t>(cell % CELLS))


cdef int replace(space_t *space, uint32_t root, uint32_t made, uint64_t cell, uint64_t other, uint64_t version,
                 uint64_t nbytes) noexcept nogil:
    """Let a cell have a new object, which refers to what another cell has."""
    cdef object_t *object
    cdef object_t *linked
    cdef int status = object_new(space, made, 1, nbytes)
    if status != MRM_OK:
        return status
    object = at(space, made)
    stamp(object, cell, version)
    linked = cell_of(space, root, other)
    if linked != NULL:
        set_field(linked, 0, NULL)              # so that no chain gets longer and longer
    set_field(object, 0, linked)
    set_field(load(space, at(space, root), <uint32_t>(cell // CELLS)), <uint32_t>(cell % CELLS), object)
    return MRM_OK


cdef class Churn:
    """Cells whose objects are replaced at random.

    Parameters
    ----------
    store : Store
        Where objects are made.
    cells : int
        How many there are; about 300 bytes live for each.
    seed : int, optional
        The same one makes the same objects.
    """

    cdef Store store
    cdef Ref table
    cdef Ref made
    cdef Ref versions           # how often each cell was replaced: a payload on the heap
    cdef readonly uint64_t cells
    cdef uint64_t random

    def __init__(self, Store store, uint64_t cells, uint64_t seed=1):
        if not 0 < cells <= CELLS * MOST_FIELDS:
            raise ValueError(f"{cells} cells: a table of tables has 1 to {CELLS * MOST_FIELDS}")
        self.store = store
        self.cells = cells
        self.random = mix(seed + 1)
        self.table = store.new(fields=(cells + CELLS - 1) // CELLS)
        for i in range(len(self.table)):
            self.table[i] = store.new(fields=CELLS)
        self.made = store.new()
        self.versions = store.new(data=bytes(max(8 * cells, <uint64_t>(1 << 15))))

    def run(self, uint64_t steps):
        """Replace so many objects.

        Raises
        ------
        mrm.OutOfFrames
            If what lives leaves no room.
        """
        cdef space_t *space = self.store.open_one()
        cdef uint64_t cell, other
        cdef uint64_t *versions = <uint64_t *>payload(self.versions.here())    # a block: cycles leave it alone
        cdef int status = MRM_OK
        with nogil:
            for _ in range(steps):
                self.random = mix(self.random + <uint64_t>0x9E3779B97F4A7C15)
                cell = self.random % self.cells
                other = (self.random >> 32) % self.cells
                status = replace(
                    space, self.table.root, self.made.root, cell, other, versions[cell] + 1,
                    16 + 8 * (self.random >> 20) % (8 * MOST_WORDS),
                )
                if status != MRM_OK:
                    break
                versions[cell] += 1
        check(status)

    def verify(self):
        """Look at every object, and at what it refers to; how many there are.

        Raises
        ------
        AssertionError
            If one is not what was last put there.
        """
        cdef space_t *space = self.store.open_one()
        cdef const uint64_t *versions = <const uint64_t *>payload(self.versions.here())
        cdef const uint64_t *word
        cdef object_t *object
        cdef object_t *linked
        cdef uint64_t cell, found = 0
        for cell in range(self.cells):
            object = cell_of(space, self.table.root, cell)
            if object == NULL:
                assert versions[cell] == 0, f"cell {cell} has lost its object"
                continue
            word = <const uint64_t *>payload(object)
            assert word[0] == cell and word[1] == versions[cell], (
                f"cell {cell}, version {versions[cell]}, has the object of cell {word[0]}, version {word[1]}"
            )
            assert is_stamped(object), f"the object of cell {cell} was overwritten"
            linked = load(space, object, 0)
            if linked != NULL:
                word = <const uint64_t *>payload(linked)
                assert word[0] < self.cells and word[1] <= versions[word[0]] and is_stamped(linked), (
                    f"what the object of cell {cell} refers to was overwritten"
                )
            found += 1
        return found
