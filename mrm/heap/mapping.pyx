"""Memory at slots: shown, moved, taken away. The two kinds of heaps differ here, and nothing above knows.

A heap on a pool has a reservation: a block takes any free frames, and a batch shows them at its slots, those
that go on in one call. Moving a block is a batch of moves, and taking memory away an unmap: contents stay with
their frames, and one commit is one invalidation however many stretches it takes away.

A private heap has a range of anonymous memory, which the kernel fills when it is touched: showing is
nothing. Moving is mremap, which moves page tables; MREMAP_DONTUNMAP (5.7) has the old addresses stay a mapping, so
that nothing else comes to lie there. Where memory is moved the kernel counts a mapping more at each end, and
never less: such slots are noted (``cut``), and mapped anew when their memory is taken away. A block that was
moved and grew is several mappings, which one call moves since 6.17; before, each has its own. Other memory is let
go by MADV_DONTNEED, in one call for each stretch. Where every byte that can be written to is promised memory
(vm.overcommit_memory 2), slots are writable only while they have some.
"""

from libc.errno cimport EFAULT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from mrm cimport (
    MRM_INCONSISTENT, MRM_NO_MEMORY, MRM_OK, MRM_OUT_OF_FRAMES, MRM_PROT_READ_WRITE, MRM_REUSE_NOW, MRM_SLOT_SHOWN,
    MRM_SYSTEM_CALL, MRM_ZEROED,
)
from mrm.heap.page cimport SEGMENT_SHIFT
from mrm.physical.taking cimport account_take_many, pool_give_many
from mrm.space.batch cimport batch_abort, batch_begin, batch_map, batch_move, batch_unmap
from mrm.space.commit cimport batch_commit
from mrm.system.calls cimport CALL_MADVISE, CALL_MMAP, CALL_MPROTECT, CALL_MREMAP, advise, call, call_name
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.room cimport ROOM_TEXT, why_refused


cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED
        MREMAP_MAYMOVE, MREMAP_FIXED, MADV_DONTNEED, MADV_HUGEPAGE

cdef extern from "<string.h>" nogil:
    char *strerror(int error)


cdef enum:
    DONTUNMAP = 4               # MREMAP_DONTUNMAP: older headers do not know it
    NOT_UNDONE = 4096           # no errno

# Bits of run_t.cut.
cdef enum:
    CUT_BEGINS = 1
    CUT_ENDS = 2


cdef inline char *at_slot(const heap_t *heap, uint32_t slot) noexcept nogil:
    return heap.runs.base + (<uint64_t>slot << SEGMENT_SHIFT)


cdef int refused(const heap_t *heap, int which, int64_t got, uint32_t slot, uint32_t n) noexcept nogil:
    """The failure of a call on private memory; ENOMEM is a shortage."""
    cdef char text[ROOM_TEXT]
    return mrm_fail(
        failure(), MRM_OUT_OF_FRAMES if got == -12 else MRM_SYSTEM_CALL, which, <int>-got, at_slot(heap, slot),
        <size_t>n << SEGMENT_SHIFT, b"%s of %u MiB at %p for heap %s: %s. Nothing is changed.%s",
        call_name(which), n * 2, <void *>at_slot(heap, slot), heap.label, strerror(<int>-got),
        why_refused(<int>-got, 0, text),
    )


# ---- frames of a pool ---------------------------------------------------------------------

cdef uint32_t *numbers(size_t n) noexcept nogil:
    """Memory for an array of slots or frames; NULL, with the failure."""
    cdef uint32_t *found = <uint32_t *>malloc(n * sizeof(uint32_t))
    if found == NULL:
        mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, n * 4, b"no memory for a list of %zu slots", n)
    return found


cdef int mapping_take(heap_t *heap, uint32_t n, bint zero, uint32_t **frames) noexcept nogil:
    """Take frames for n slots, if the heap is on a pool; without the lock of the runs."""
    cdef int status
    frames[0] = NULL
    if heap.pool == NULL or n == 0:
        return MRM_OK
    frames[0] = numbers(n)
    if frames[0] == NULL:
        return failure().status
    status = account_take_many(heap.pool, heap.account, heap.how | (MRM_ZEROED if zero else 0), frames[0], n)
    if status != MRM_OK:
        free(frames[0])
        frames[0] = NULL
    return status


cdef void mapping_give(heap_t *heap, uint32_t *frames, uint32_t n) noexcept nogil:
    """Give frames back that were taken and are not shown."""
    if frames != NULL:
        pool_give_many(heap.pool, frames, n, MRM_REUSE_NOW)
        free(frames)


cdef int commit(heap_t *heap, int status) noexcept nogil:
    """Commit what was noted, if it could be; begin a new batch if not."""
    if status == MRM_OK:
        status = batch_commit(heap.runs.batch, NULL)
    if status != MRM_OK:
        batch_abort(heap.runs.batch)
        heap.runs.batch = NULL
    return status


cdef int begin(heap_t *heap) noexcept nogil:
    """There is a batch; it is kept from one commit to the next."""
    if heap.runs.batch != NULL:
        return MRM_OK
    return batch_begin(heap.runs.reservation, &heap.runs.batch)


cdef size_t slots_of(const stretch_t *stretches, size_t count, uint32_t *slots) noexcept nogil:
    """Write the numbers of all slots, unless slots is NULL; how many."""
    cdef size_t i, n = 0
    cdef uint32_t k
    for i in range(count):
        if slots != NULL:
            for k in range(stretches[i].n):
                slots[n + k] = stretches[i].first + k
        n += stretches[i].n
    return n


cdef int show_frames(
    heap_t *heap, const stretch_t *stretches, size_t count, uint32_t *frames, uint32_t *left
) noexcept nogil:
    cdef size_t n = slots_of(stretches, count, NULL), i
    cdef uint32_t *slots = numbers(n)
    cdef int status = begin(heap) if slots != NULL else failure().status
    if status == MRM_OK:
        slots_of(stretches, count, slots)
        status = commit(heap, batch_map(heap.runs.batch, slots, frames, n, MRM_PROT_READ_WRITE))
    left[0] = <uint32_t>n
    if status == MRM_OK:
        free(frames)
        left[0] = 0
    elif slots != NULL:
        left[0] = 0
        for i in range(n):      # what a commit that could not be undone shows stays the slots'
            if not mapping_shown(heap, slots[i]):
                frames[left[0]] = frames[i]
                left[0] += 1
    free(slots)
    return status


cdef int hide_frames(heap_t *heap, const stretch_t *stretches, size_t count) noexcept nogil:
    cdef size_t n = slots_of(stretches, count, NULL), i
    cdef uint32_t *slots = numbers(2 * n)
    cdef uint32_t *frames = slots + n
    cdef size_t gone = 0
    cdef int status = begin(heap) if slots != NULL else failure().status
    if status == MRM_OK:
        slots_of(stretches, count, slots)
        for i in range(n):
            frames[i] = heap.runs.reservation.slot[slots[i]].frame
        status = commit(heap, batch_unmap(heap.runs.batch, slots, n, 0))
        for i in range(n):      # all of them, or none; some, if a commit could not be undone
            if not mapping_shown(heap, slots[i]):
                frames[gone] = frames[i]
                gone += 1
        pool_give_many(heap.pool, frames, gone, MRM_REUSE_NOW)
    free(slots)
    return status


cdef int move_frames(heap_t *heap, uint32_t source, uint32_t target, uint32_t n) noexcept nogil:
    cdef stretch_t stretches[2]
    cdef uint32_t *slots = numbers(2 * <size_t>n)
    cdef int status = begin(heap) if slots != NULL else failure().status
    stretches[0].first = source
    stretches[1].first = target
    stretches[0].n = stretches[1].n = n
    if status == MRM_OK:
        slots_of(stretches, 2, slots)
        status = commit(heap, batch_move(heap.runs.batch, slots, slots + n, n, 0))
    free(slots)
    return status


# ---- private memory ------------------------------------------------------------------------

cdef int hide_private(heap_t *heap, uint32_t first, uint32_t n) noexcept nogil:
    """Let the kernel take what a stretch holds; it reads as zeros afterwards, or traps where memory is promised."""
    cdef char *at = at_slot(heap, first)
    cdef size_t nbytes = <size_t>n << SEGMENT_SHIFT
    cdef bint anew = heap.strict
    cdef uint32_t i
    cdef int64_t got
    for i in range(first, first + n):
        anew |= heap.runs.run[i].cut
    if not anew:
        got = advise(at, nbytes, MADV_DONTNEED)
        return MRM_OK if got >= 0 else refused(heap, CALL_MADVISE, got, first, n)
    got = call(
        CALL_MMAP, <int64_t>at, <int64_t>nbytes, PROT_NONE if heap.strict else PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0,
    )
    if got < 0:
        got = advise(at, nbytes, MADV_DONTNEED)     # at vm.max_map_count, say
        return MRM_OK if got >= 0 else refused(heap, CALL_MMAP, got, first, n)
    advise(at, nbytes, MADV_HUGEPAGE)
    for i in range(first, first + n):
        heap.runs.run[i].cut = 0
    return MRM_OK


cdef int show_private(heap_t *heap, uint32_t first, uint32_t n) noexcept nogil:
    cdef int64_t got
    if not heap.strict:
        return MRM_OK
    got = call(
        CALL_MPROTECT, <int64_t>at_slot(heap, first), <int64_t>n << SEGMENT_SHIFT, PROT_READ | PROT_WRITE
    )
    return MRM_OK if got >= 0 else refused(heap, CALL_MPROTECT, got, first, n)


cdef int move_piece(heap_t *heap, uint32_t source, uint32_t target, uint32_t n) noexcept nogil:
    """Move what is one mapping, or what the kernel takes for one."""
    cdef int64_t nbytes = <int64_t>n << SEGMENT_SHIFT
    cdef int64_t from_ = <int64_t>at_slot(heap, source)
    cdef int64_t to = <int64_t>at_slot(heap, target)
    cdef int64_t got = call(CALL_MREMAP, from_, nbytes, nbytes, MREMAP_MAYMOVE | MREMAP_FIXED | DONTUNMAP, to)
    if got == -22:
        # Before 5.7. The hole that this leaves is closed at once; it lies among addresses that the kernel
        # has no reason to choose before higher ones.
        got = call(CALL_MREMAP, from_, nbytes, nbytes, MREMAP_MAYMOVE | MREMAP_FIXED, to)
        if got > 0:
            call(
                CALL_MMAP, from_, nbytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0,
            )
            advise(<void *>from_, <size_t>nbytes, MADV_HUGEPAGE)
    return <int>got if got < 0 else MRM_OK


cdef uint32_t piece_of(const heap_t *heap, uint32_t first, uint32_t n) noexcept nogil:
    """Slots from the first on that are one mapping."""
    cdef uint32_t i = 1
    while i < n and not (heap.runs.run[first + i - 1].cut & CUT_ENDS or heap.runs.run[first + i].cut & CUT_BEGINS):
        i += 1
    return i


cdef int move_pieces(heap_t *heap, uint32_t source, uint32_t target, uint32_t n) noexcept nogil:
    """Move mapping by mapping; what was moved moves back if one cannot."""
    cdef uint32_t done = 0, piece
    cdef int got = 0
    while done < n and got == 0:
        piece = piece_of(heap, source + done, n - done)
        got = move_piece(heap, source + done, target + done, piece)
        if got == 0:
            done += piece
    if got == 0:
        return 0
    n = done
    done = 0
    while done < n:
        piece = piece_of(heap, source + done, n - done)
        if move_piece(heap, target + done, source + done, piece) != 0:
            return -NOT_UNDONE
        done += piece
    return got


cdef int move_private(heap_t *heap, uint32_t source, uint32_t target, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int got = move_piece(heap, source, target, n)
    if got == -EFAULT and piece_of(heap, source, n) < n:
        # Before 6.17 a call moves one mapping.
        got = move_pieces(heap, source, target, n)
    if got == -NOT_UNDONE:
        return mrm_fail(
            failure(), MRM_INCONSISTENT, CALL_MREMAP, 12, at_slot(heap, source), <size_t>n << SEGMENT_SHIFT,
            b"a block of %u MiB at %p was moved in part, which could not be undone: its contents lie there and at %p",
            n * 2, <void *>at_slot(heap, source), <void *>at_slot(heap, target),
        )
    if got < 0:
        return refused(heap, CALL_MREMAP, got, source, n)
    for i in range(n):
        heap.runs.run[target + i].cut = heap.runs.run[source + i].cut
    heap.runs.run[source].cut |= CUT_BEGINS
    heap.runs.run[target].cut |= CUT_BEGINS
    heap.runs.run[source + n - 1].cut |= CUT_ENDS
    heap.runs.run[target + n - 1].cut |= CUT_ENDS
    if heap.strict:
        call(CALL_MPROTECT, <int64_t>at_slot(heap, source), <int64_t>n << SEGMENT_SHIFT, PROT_NONE)
    return MRM_OK


# ---- either ------------------------------------------------------------------------------

cdef bint mapping_shown(const heap_t *heap, uint32_t slot) noexcept nogil:
    """Whether a slot of a heap on a pool has memory; after a failure that left some with it and some without."""
    return heap.runs.reservation.slot[slot].state == MRM_SLOT_SHOWN


cdef int mapping_show(
    heap_t *heap, const stretch_t *stretches, size_t count, uint32_t *frames, uint32_t *left
) noexcept nogil:
    """Have memory at slots that have none; the frames, as many in all, are the slots' if that succeeds.

    ``left`` says of how many slots the memory is still the caller's: none, or all; after MRM_INCONSISTENT, of
    those that ``mapping_shown`` denies. Their frames come first then.
    """
    cdef size_t i
    cdef int status = MRM_OK
    if heap.pool != NULL:
        return show_frames(heap, stretches, count, frames, left)
    left[0] = 0
    for i in range(count):
        status = show_private(heap, stretches[i].first, stretches[i].n)
        if status != MRM_OK:
            while i:
                i -= 1
                hide_private(heap, stretches[i].first, stretches[i].n)
            left[0] = <uint32_t>slots_of(stretches, count, NULL)
            break
    return status


cdef int mapping_move(heap_t *heap, uint32_t source, uint32_t target, uint32_t n) noexcept nogil:
    """Move the memory of n slots to n others that have none."""
    if heap.pool != NULL:
        return move_frames(heap, source, target, n)
    return move_private(heap, source, target, n)


cdef int mapping_hide(heap_t *heap, const stretch_t *stretches, size_t count) noexcept nogil:
    """Take the memory of slots away, and give it back; all of it, or (for a failure) that of some stretches or none."""
    cdef size_t i
    cdef int status = MRM_OK
    if heap.pool != NULL:
        return hide_frames(heap, stretches, count)
    for i in range(count):
        status = hide_private(heap, stretches[i].first, stretches[i].n)
        if status != MRM_OK:
            break
    return status
