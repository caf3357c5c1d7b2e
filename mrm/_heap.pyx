"""A heap as Python sees it: opened, looked at, checked for its callers' mistakes, and closed.

Its blocks, by address and in buffers and arrays, are a class below this one (_blocks.pyx), which also says how
calls let go of the GIL. Without a GIL methods run in their object's critical section (see _core.pyx).
"""

import warnings

cimport cython
from libc.errno cimport ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset, strlen

from mrm cimport (
    MRM_BAD_BLOCK, MRM_HEAP_DEBUG, MRM_HEAP_NO_DEBUG, MRM_HEAP_OVERDRAFT, MRM_KEEP_NONE, MRM_OK, mrm_heap_options,
    mrm_heap_stats,
)
from mrm._accounts cimport Account
from mrm._blocks cimport Blocks, address_of, let_go
from mrm._core cimport Pool
from mrm._live cimport LIVE_HEAPS, live_changed
from mrm.errors import ArgumentError, BackingWarning, BlockError
from mrm.heap.classes cimport CLASSES, class_bytes
from mrm.heap.heap cimport heap_open, heap_release, heap_retain
from mrm.heap.inspection cimport debug_explain, heap_check
from mrm.heap.page cimport SEGMENT_SHIFT
from mrm.heap.slow cimport heap_trim
from mrm.heap.state cimport heap_t
from mrm.heap.traces cimport text_t, trace_note
from mrm.heap.walk cimport class_figures_t, heap_classes, heap_stats, heap_walk
from mrm.physical.pool cimport pool_release, pool_retain, pool_t
from mrm.sizes import format_size, parse_size, parse_size_or_zero
from mrm.stats import ClassStats, HeapStats
from mrm.system.failure cimport check
from mrm.system.room cimport ROOM_TEXT, why_private_refused, why_refused


cdef enum:
    EXPLAINED = 16 << 10        # bytes of what is said of an address: two stacks

# Where the kernel says whether anonymous memory may be huge pages.
THP_SETTING = "/sys/kernel/mm/transparent_hugepage/enabled"


cdef class Heap(Blocks):
    """malloc on frames.

    Blocks up to 1 MiB come in size classes, at most an eighth larger than asked for, and cost no system
    call. Larger ones are runs of slots, made of any free frames: they grow and move without a byte being
    copied. Any thread may use it, and free what another one allocated.

    Parameters
    ----------
    source : Pool or Account, optional
        Whose frames it takes, as it needs them, and who pays. When not given the heap is *private*: its
        memory is the process's own, on huge pages as far as the kernel gives them, and a child of fork
        has a copy of all blocks, as with malloc. In a child, a heap on a pool is of no use.
    limit : int or str, optional
        Bytes of memory that it may have.
    keep : int or str, optional
        Bytes of freed blocks above 1 MiB whose memory it keeps mapped, for the next ones, in whole frames; 0: none.
        An eighth of the pool when not given, or a 32nd of the machine's memory.
    name : str, optional
        Said with its number in errors and reports about it; up to 47 bytes.
    debug : bool, optional
        Look for mistakes of callers, at some microseconds a call (docs/heap.md); as the environment's
        MRM_DEBUG says when not given.
    overdraft : bool, optional
        Let frames be lent to the account.

    Raises
    ------
    ArgumentError
        A source, size or option that is none.
    AddressSpaceError
        If there are no addresses for it.

    Notes
    -----
    A private heap takes several times the addresses of the machine's memory. Where a limit of
    the process (``ulimit -v``) leaves it too few for all memory that it may have, a BackingWarning says so.

    Opening costs three to eight system calls. ``heap.close()`` ends the use of the object; blocks in
    Buffers and arrays live, with heap and pool, until their last reference goes.
    """

    def __init__(self, source=None, *, limit=None, keep=None, name=None, debug=None, overdraft=False):
        cdef mrm_heap_options options
        cdef pool_t *pool = NULL
        cdef bytes kept_name
        cdef Account account
        cdef Pool given
        cdef int status
        if self.heap != NULL:
            raise ArgumentError("a heap is opened once")
        memset(&options, 0, sizeof(options))
        options.size = sizeof(options)
        if isinstance(source, Account):
            account = source
            options.account = account.number
            given = account.pool
            pool = given.open_one()
        elif isinstance(source, Pool):
            given = source
            pool = given.open_one()
        elif source is not None:
            raise ArgumentError(f"a heap is opened on a Pool, an Account, or None for private memory, not {source!r}")
        options.limit = 0 if limit is None else parse_size(limit)
        options.keep = 0 if keep is None else parse_size_or_zero(keep) or MRM_KEEP_NONE
        if name is not None and (not isinstance(name, str) or "\0" in name):
            raise ArgumentError(f"the name of a heap is a str, not {name!r}")
        if name is not None:
            kept_name = name.encode()
            options.name = kept_name
        if debug is not None:
            options.flags = MRM_HEAP_DEBUG if debug else MRM_HEAP_NO_DEBUG
        if overdraft:
            options.flags |= MRM_HEAP_OVERDRAFT
        if pool != NULL:
            pool_retain(pool)
        with nogil:
            status = heap_open(pool, &options, &self.heap)
            if pool != NULL:
                pool_release(pool)
        check(status)
        self.source = source
        self.name = name
        live_changed(LIVE_HEAPS, 1)
        if pool == NULL and never_huge():
            warnings.warn(
                f"{THP_SETTING} is 'never': a private heap lies on small pages. "
                "Write 'madvise' to it as root, or open the heap on a pool", BackingWarning,
            )
        if self.heap.lacking:
            warnings.warn(why_lacking(self.heap), BackingWarning)

    def __del__(self):
        if self.heap != NULL and self.heap.pool != NULL:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self)

    def __dealloc__(self):
        if self.heap != NULL:
            live_changed(LIVE_HEAPS, -1)
            with nogil:
                heap_release(self.heap)
            self.heap = NULL

    # ---- looking, and giving back --------------------------------------------------------

    @cython.critical_section
    def blocks(self):
        """Every block, as an iterator of ``(address, bytes that it has)``. For a heap at rest.

        Notes
        -----
        Costs some ns a block, and no system call. A block that another thread has freed may show for
        as long as that thread has it at hand: until it frees some more, ends, or calls ``trim``.
        """
        cdef heap_t *heap = self.open_one()
        cdef list_t list_
        cdef size_t i
        memset(&list_, 0, sizeof(list_))
        heap_retain(heap)
        with nogil:
            heap_walk(heap, _note, &list_)
            heap_release(heap)
        try:
            if list_.failed:
                raise MemoryError
            found = [(list_.pairs[2 * i], list_.pairs[2 * i + 1]) for i in range(list_.n)]
        finally:
            free(list_.pairs)
        return iter(found)

    @cython.critical_section
    def stats(self):
        """Figures at this moment, by size class too: a HeapStats. Looks at every page that there is."""
        cdef heap_t *heap = self.open_one()
        cdef mrm_heap_stats figures
        cdef class_figures_t classes[CLASSES]
        cdef uint32_t i
        figures.size = sizeof(figures)
        heap_retain(heap)
        with nogil:
            heap_stats(heap, &figures)
            heap_classes(heap, classes)
            heap_release(heap)
        return HeapStats(
            figures.memory, figures.memory_peak, figures.blocks, figures.bytes, figures.segments,
            figures.large_blocks, figures.large_bytes, figures.large_memory, figures.kept, figures.addresses,
            figures.addresses_lacking,
            tuple([
                ClassStats(class_bytes(i), classes[i].blocks, classes[i].room, classes[i].pages, classes[i].memory)
                for i in range(<uint32_t>CLASSES) if classes[i].pages
            ]),
        )

    @cython.critical_section
    def trim(self):
        """Give back all memory that no block is in: to the pool, or to the kernel; how many bytes.

        Of pages that other threads have at hand nothing is taken. One system call for each 64 stretches of kept slots,
        with one shootdown; on a private heap, one for each stretch and each segment.

        Raises
        ------
        BlockError
            If a heap with ``debug``, which looks at all blocks then, finds one written around; memory is
            given back all the same.
        """
        cdef heap_t *heap = self.open_one()
        cdef uint64_t n
        heap_retain(heap)
        damage = self._damage()
        with nogil:
            n = heap_trim(heap)
            heap_release(heap)
        if damage is not None:
            raise damage
        return n

    # ---- mistakes of callers -------------------------------------------------------------

    @property
    @cython.critical_section
    def debug(self):
        """Whether it looks for mistakes of its callers."""
        return self.open_one().debug != NULL

    @cython.critical_section
    def check(self):
        """Look whether something was written around a block, or into one that was freed; how many were looked at.

        Freed blocks are looked at as long as they are in the quarantine. What is found is mended, so that it is
        told once.

        Raises
        ------
        ArgumentError
            If the heap was opened without ``debug``.
        BlockError
            If there is something: which block, what was written, and where it was allocated and freed.
        """
        cdef heap_t *heap = self.open_one()
        cdef uint64_t blocks = 0
        cdef int status
        heap_retain(heap)
        let_go(heap)
        with nogil:
            status = heap_check(heap, &blocks)
            heap_release(heap)
        check(status)
        return blocks

    @cython.critical_section
    def explain(self, address):
        """What an address is, as text: which block it lies in, and where that was allocated and freed.

        Raises
        ------
        ArgumentError
            If the heap was opened without ``debug``: it does not know.
        """
        cdef heap_t *heap = self.open_one()
        cdef void *at = <void *>address_of(address)
        cdef char room[EXPLAINED]
        cdef size_t n
        cdef text_t text
        if heap.debug == NULL:
            raise ArgumentError(
                f"heap {label_of(heap)} does not know where its blocks are from: open it with debug=True, "
                "or run the program with MRM_DEBUG=1"
            )
        text.at = room
        text.room = EXPLAINED
        debug_explain(heap, at, &text)
        n = strlen(room)
        while n and room[n - 1] == 10:      # its last newline
            n -= 1
        return room[:n].decode("utf-8", "replace")

    cdef object _damage(self):
        """What ``check`` finds in a heap with debug, as an exception; None if all is well, or cannot be looked at."""
        cdef heap_t *heap = self.heap
        cdef uint64_t blocks
        cdef int status
        if heap.debug == NULL:
            return None
        trace_note()
        with nogil:
            status = heap_check(heap, &blocks)
        if status != MRM_BAD_BLOCK:
            return None
        try:
            check(status)
        except BlockError as error:
            return error

    # ---- its end -----------------------------------------------------------------------

    @property
    def closed(self):
        """Whether it was closed."""
        return self.heap == NULL

    @property
    @cython.critical_section
    def number(self):
        """Its number in this process, from 1: what messages call it."""
        return self.open_one().number

    @property
    @cython.critical_section
    def private(self):
        """Whether its memory is the process's own, and survives fork."""
        return self.open_one().pool == NULL

    @cython.critical_section
    def close(self):
        """End the use of this object; closing twice does nothing.

        Blocks that were allocated by address end with it, unless Buffers or arrays keep the heap.

        Raises
        ------
        BlockError
            If a heap with ``debug`` finds a block written around; it is closed all the same.
        """
        cdef heap_t *heap = self.heap
        cdef int status
        if heap == NULL:
            return
        heap_retain(heap)
        damage = self._damage()
        heap_release(heap)
        if self.heap == NULL:
            return              # another thread was faster
        self.heap = NULL
        with nogil:
            status = heap_release(heap)
        if status != MRM_OK:
            self.heap = heap
            check(status)
        live_changed(LIVE_HEAPS, -1)
        if damage is not None:
            raise damage

    def __enter__(self):
        self.open_one()
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    @cython.critical_section
    def _c_heap(self):
        """Address of the C handle."""
        return <uint64_t>self.open_one()

    @cython.critical_section
    def _c_heap_retained(self):
        """The same, with one user more: what the table's heap_from_object gives out."""
        cdef heap_t *heap = self.open_one()
        heap_retain(heap)
        return <uint64_t>heap

    @cython.critical_section
    def __repr__(self):
        if self.heap == NULL:
            return "<mrm.Heap closed>"
        name = f" {self.name!r}" if self.name else ""
        where = "private" if self.heap.pool == NULL else f"on pool {self.heap.pool.layout.pool}"
        return f"<mrm.Heap {self.heap.number}{name}: {where}, {self.heap.bytes_now >> 10} KiB>"


cdef bint never_huge():
    """Whether the kernel is told to make no huge pages of anonymous memory."""
    try:
        with open(THP_SETTING) as setting:
            return "[never]" in setting.read()
    except OSError:
        return False            # nobody can tell: mrm coverage has what came of it


cdef str label_of(const heap_t *heap):
    """What messages call it."""
    return (<const char *>heap.label).decode("utf-8", "replace")


cdef str why_lacking(const heap_t *heap):
    """What a private heap lacks in addresses, which limit refused them, and the way out."""
    cdef char text[ROOM_TEXT]
    cdef uint64_t large = <uint64_t>heap.runs.slots << SEGMENT_SHIFT
    # A heap of the next size was refused: twice this one at the most, and a GiB to align each of its two ranges.
    cdef uint64_t refused = 2 * (heap.nbytes + large) + (<uint64_t>2 << 30)
    if heap.strict:
        why_refused(ENOMEM, refused, text)      # its addresses are not to be written to yet
    else:
        why_private_refused(ENOMEM, refused, text)
    return (
        f"heap {label_of(heap)} has {format_size(heap.nbytes)} of addresses for blocks up to 1 MiB and "
        f"{format_size(large)} for larger ones, and needs {format_size(heap.lacking)} more for all memory that it may "
        f"have: it may be full before.{text.decode()} A heap with a lower limit= needs fewer."
    )


# Blocks that a walk finds: address and bytes, in turn.
cdef struct list_t:
    uint64_t *pairs
    size_t n
    size_t room
    bint failed


cdef void _note(void *context, void *block, size_t nbytes) noexcept nogil:
    cdef list_t *list_ = <list_t *>context
    cdef void *grown
    if list_.n == list_.room:
        grown = realloc(list_.pairs, (2 * list_.room + 256) * 16)
        if grown == NULL:
            list_.failed = True
            return
        list_.pairs = <uint64_t *>grown
        list_.room = 2 * list_.room + 256
    list_.pairs[2 * list_.n] = <uint64_t>block
    list_.pairs[2 * list_.n + 1] = nbytes
    list_.n += 1
