"""Carrying out a plan, whole or not at all.

Steps are made in order. The slot table still says what was shown before, so undoing
needs no log: when a call fails, every run that a step has touched, the failed one
included (a failed MAP_FIXED may have unmapped already), is mapped again as the table
says. Only if that fails too are the tables made to agree with /proc/self/maps, and the
error says which slots are what.

When all steps are made, the table is changed, a slot at a time by one aligned store,
for readers without the lock. Frames that the batch ended the mapping of are counted
off then and not before: nobody can give a frame that some address still shows.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf

from mrm cimport (
    MRM_BACKING_HUGETLB, MRM_CLOSED, MRM_INCONSISTENT, MRM_OK, MRM_PROT_NONE, MRM_PROT_READ_WRITE, MRM_SLOT_DEFERRED,
    MRM_SLOT_EMPTY, MRM_SLOT_SHOWN, MRM_SYSTEM_CALL, mrm_report,
)
from mrm.physical.pool cimport map_frames, pool_t, pool_usable
from mrm.physical.showing cimport (
    frames_map, frames_retire_begin, frames_retire_end, frames_settle, frames_unmap,
)
from mrm.physical.stack cimport NO_FRAME
from mrm.space.batch cimport batch_t
from mrm.space.plan cimport (
    STEP_ADVISE, STEP_MPROTECT, STEP_MREMAP, STEP_POPULATE, STEP_SEAL, STEP_ZAP,
    plan_batch, plan_growth, plan_retire, plan_withdraw, step_name,
)
from mrm.space.reservation cimport (
    change_t, mappings_allow, mappings_forget, note_mapping, note_split, list_release, list_reservations,
    reservation_address, reservation_enter, reservation_leave, reservation_t, slot_t, step_t,
)
from mrm.system.calls cimport (
    CALL_MADVISE, CALL_MMAP, CALL_MPROTECT, CALL_MREMAP, CALL_MUNMAP, advise, call, call_name, calls_made, seal,
)
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.features cimport FEATURE_MREMAP, FEATURE_POPULATE, FEATURE_ZAP, feature_is_missing
from mrm.system.maps cimport mapping_t, maps_within
from mrm.system.ranges cimport range_is_low
from mrm.system.room cimport ROOM_TEXT, why_refused


cdef extern from "system/atomic.h" nogil:
    void mrm_store8(uint8_t *p, uint8_t v)
    void mrm_store32(uint32_t *p, uint32_t v)
    void mrm_store64(uint64_t *p, uint64_t v)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_NONE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE
        MREMAP_MAYMOVE, MREMAP_FIXED, MADV_DONTNEED, MADV_DONTFORK, MADV_DONTDUMP

cdef extern from "<errno.h>" nogil:
    enum:
        EINVAL, EFAULT, ENOMEM, EEXIST

cdef extern from "<string.h>" nogil:
    char *strerror(int error)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *t)


cdef enum:
    ADVICE_POPULATE_READ = 22   # MADV_POPULATE_READ: older headers do not know them
    ADVICE_POPULATE_WRITE = 23
    AGREE = 64                  # slots compared by one reading of /proc/self/maps


cdef uint64_t _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


# ---- one step ------------------------------------------------------------------

cdef int64_t _advise_run(reservation_t *r, uint32_t first, uint32_t n) noexcept nogil:
    """Not for a child, not for a core dump: the window is what is dumped, if anything."""
    cdef void *at = reservation_address(r, first)
    cdef size_t nbytes = <size_t>n << r.pool.layout.frame_shift
    cdef int64_t got = advise(at, nbytes, MADV_DONTFORK)
    return advise(at, nbytes, MADV_DONTDUMP) if got >= 0 else got


cdef int64_t _move(reservation_t *r, const step_t *step, int *which) noexcept nogil:
    """mremap a run, and seal the hole that it leaves."""
    cdef size_t nbytes = <size_t>step.n << r.pool.layout.frame_shift
    cdef int64_t source = <int64_t>reservation_address(r, step.source)
    cdef int64_t target = <int64_t>reservation_address(r, step.first)
    cdef int64_t got
    which[0] = CALL_MREMAP
    got = call(CALL_MREMAP, source, <int64_t>nbytes, <int64_t>nbytes, MREMAP_MAYMOVE | MREMAP_FIXED, target)
    if got == -EINVAL or got == -EFAULT:
        # It was tried, and yet it is refused (EINVAL): by a filter that came later. Or somebody
        # else has split the mapping (EFAULT). Showing and sealing has the same end.
        if got == -EINVAL and r.pool.layout.backing == MRM_BACKING_HUGETLB:
            feature_is_missing(FEATURE_MREMAP)
        which[0] = CALL_MMAP
        got = map_frames(r.pool, <void *>target, step.frame, step.n, step.protection, step.protection != MRM_PROT_NONE)
        if got > 0:
            _advise_run(r, step.first, step.n)
            got = seal(<void *>source, nbytes)
    elif got > 0:
        which[0] = CALL_MMAP
        # Not over what may have come to lie in the hole: then the commit fails, loudly.
        got = call(
            CALL_MMAP, source, <int64_t>nbytes, PROT_NONE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0,
        )
    if got > 0:
        note_mapping(r, step.source, step.n)
    return got


cdef int64_t _make(reservation_t *r, const step_t *step, int *which) noexcept nogil:
    """Make one step: not negative, or ``-errno`` and which call it was."""
    cdef void *at = reservation_address(r, step.first)
    cdef size_t nbytes = <size_t>step.n << r.pool.layout.frame_shift
    cdef int64_t got
    if step.kind == STEP_POPULATE:
        # Whatever it says, the frames are funded: a page that it leaves out is linked by the first touch.
        got = advise(
            at, nbytes, ADVICE_POPULATE_WRITE if step.protection == MRM_PROT_READ_WRITE else ADVICE_POPULATE_READ
        )
        if got == -EINVAL:
            feature_is_missing(FEATURE_POPULATE)
        return 0
    if step.kind == STEP_ZAP:
        # Without it the steps that follow cost an invalidation each, and do the same.
        got = advise(at, nbytes, MADV_DONTNEED)
        if got == -EINVAL:
            feature_is_missing(FEATURE_ZAP)
        return 0
    if step.kind == STEP_ADVISE:
        which[0] = CALL_MADVISE
        return _advise_run(r, step.first, step.n)
    if step.kind == STEP_MREMAP:
        got = _move(r, step, which)
    elif step.kind == STEP_MPROTECT:
        which[0] = CALL_MPROTECT
        got = call(CALL_MPROTECT, <int64_t>at, <int64_t>nbytes, step.protection)
        if got >= 0:
            note_split(r, step.first, step.n)
        return got
    elif step.kind == STEP_SEAL:
        which[0] = CALL_MMAP
        got = seal(at, nbytes)
    else:
        which[0] = CALL_MMAP
        got = map_frames(r.pool, at, step.frame, step.n, step.protection, step.populate)
    if got >= 0:
        note_mapping(r, step.first, step.n)
    return got


# ---- undoing -------------------------------------------------------------------

cdef bint _changes_mappings(const step_t *step) noexcept nogil:
    return step.kind != STEP_POPULATE and step.kind != STEP_ZAP and step.kind != STEP_ADVISE


cdef uint32_t _same_run(const reservation_t *r, uint32_t first, uint32_t end) noexcept nogil:
    """Slots from ``first`` on that the table says one call can show."""
    cdef const slot_t *s = r.slot
    cdef uint32_t i = first + 1
    while i < end and (
        (s[first].state == MRM_SLOT_EMPTY and s[i].state == MRM_SLOT_EMPTY)
        or (
            s[first].state != MRM_SLOT_EMPTY and s[i].state != MRM_SLOT_EMPTY
            and s[i].frame == s[i - 1].frame + 1 and s[i].protection == s[first].protection
        )
    ):
        i += 1
    return i - first


cdef int64_t _empty(reservation_t *r, uint32_t first, uint32_t n) noexcept nogil:
    """Seal a run that a step had filled, at vm.max_map_count too; not negative, or ``-errno``.

    There mmap is refused, even where it would make mappings fewer, and munmap serves;
    once it has, there is room for the seal. In the hole meanwhile nothing comes to lie,
    as after an mremap.
    """
    cdef void *at = reservation_address(r, first)
    cdef size_t nbytes = <size_t>n << r.pool.layout.frame_shift
    cdef int64_t got = seal(at, nbytes)
    if got == -ENOMEM and range_is_low(r.range) and call(CALL_MUNMAP, <int64_t>at, <int64_t>nbytes) == 0:
        got = seal(at, nbytes)
    return got


cdef bint _restore(reservation_t *r, uint32_t first, uint32_t n) noexcept nogil:
    """Map the run as the table says; whether every call succeeded."""
    cdef uint32_t end = first + n, run
    cdef bint restored = True
    cdef slot_t *s
    cdef int64_t got
    while first < end:
        run = _same_run(r, first, end)
        s = &r.slot[first]
        if s.state == MRM_SLOT_EMPTY:
            got = _empty(r, first, run)
        else:
            got = map_frames(
                r.pool, reservation_address(r, first), s.frame, run, s.protection, s.protection != MRM_PROT_NONE
            )
            if got > 0:
                _advise_run(r, first, run)
        if got > 0:
            note_mapping(r, first, run)
        else:
            restored = False
        first += run
    return restored


cdef void _agree(reservation_t *r, uint32_t first, uint32_t n, char *text, size_t room) noexcept nogil:
    """Make the table say what /proc/self/maps says of a run, and add to ``text`` what differs."""
    cdef uint32_t some
    # No mapping of the kernel's is smaller than a slot: so many slots, so many mappings.
    while n:
        some = min(n, <uint32_t>AGREE)
        _agree_on(r, first, some, text, room)
        first += some
        n -= some


cdef void _agree_on(reservation_t *r, uint32_t first, uint32_t n, char *text, size_t room) noexcept nogil:
    """The same for AGREE slots at the most."""
    cdef mapping_t found[AGREE]
    cdef uint32_t shift = r.pool.layout.frame_shift
    cdef uint64_t start = <uint64_t>reservation_address(r, first)
    cdef uint64_t at
    cdef int64_t known = maps_within(start, start + (<uint64_t>n << shift), found, AGREE)
    cdef uint32_t i, j
    cdef slot_t old, seen
    cdef size_t used = 0
    cdef bint reserved
    while used < room and text[used]:
        used += 1
    if known < 0 or known > AGREE:
        used += snprintf(text + used, room - used, b" slots %u to %u cannot be told;", first, first + n - 1)
        return
    for i in range(first, first + n):
        at = start + (<uint64_t>(i - first) << shift)
        old = seen = r.slot[i]
        seen.state = MRM_SLOT_EMPTY
        reserved = False
        for j in range(<uint32_t>known):
            if not found[j].start <= at < found[j].end:
                continue
            reserved = True
            if found[j].inode:
                seen.state = old.state if old.state != MRM_SLOT_EMPTY else MRM_SLOT_SHOWN
                seen.frame = <uint32_t>((found[j].offset + (at - found[j].start)) >> shift)
                seen.protection = <uint8_t>found[j].protection
        if not reserved and used < room:
            # The hole of an mremap that could not be sealed. Mapping or unmapping there closes it.
            used += snprintf(text + used, room - used, b" slot %u is not reserved any more;", i)
        if seen.state == old.state and (seen.state == MRM_SLOT_EMPTY or seen.frame == old.frame):
            mrm_store8(&r.slot[i].protection, seen.protection)
            continue
        # Count the old mapping off and the new one on, as if a commit had made the change.
        if seen.state != MRM_SLOT_EMPTY and old.state != MRM_SLOT_DEFERRED:
            frames_map(&r.pool.frames, seen.frame)
        if old.state == MRM_SLOT_SHOWN:
            frames_unmap(&r.pool.frames, old.frame)
        elif old.state == MRM_SLOT_DEFERRED and seen.state == MRM_SLOT_EMPTY:
            frames_settle(&r.pool.frames, old.frame)
            mrm_store32(&r.deferred, r.deferred - 1)
        mrm_store64(<uint64_t *>&r.slot[i], (<uint64_t *>&seen)[0])
        if used < room and seen.state == MRM_SLOT_EMPTY:
            used += snprintf(text + used, room - used, b" slot %u shows nothing;", i)
        elif used < room:
            used += snprintf(text + used, room - used, b" slot %u shows frame %u;", i, seen.frame)


cdef int _undo(reservation_t *r, size_t failed, int which, int error) noexcept nogil:
    """Undo the steps up to the failed one, and say what failed."""
    cdef step_t *steps = r.plan.steps
    cdef size_t i, k
    cdef size_t broken = 0
    cdef char text[512]
    cdef char reason[ROOM_TEXT]
    cdef const char *different = text
    cdef step_t at = steps[failed]
    text[0] = 0
    # Asked before anything is undone: the figures are those that the kernel refused with.
    why_refused(error, 0, reason)
    if error == ENOMEM:
        mappings_forget()
    for i in range(failed + 1):
        k = failed - i
        if not _changes_mappings(&steps[k]):
            continue
        steps[k].shoots = 0                     # from here on: what could not be restored
        if not _restore(r, steps[k].first, steps[k].n):
            steps[k].shoots |= 1
        if steps[k].kind != STEP_MREMAP:
            continue
        # Something of somebody else's lies in the hole: it is not ours to map over.
        if (k == failed and error == EEXIST) or not _restore(r, steps[k].source, steps[k].n):
            steps[k].shoots |= 2
    for k in range(failed + 1):
        # Once more: what was emptied since may have made room for mappings.
        if not _changes_mappings(&steps[k]):
            continue
        if steps[k].shoots & 1 and _restore(r, steps[k].first, steps[k].n):
            steps[k].shoots &= ~1
        if steps[k].shoots & 2 and not (k == failed and error == EEXIST) and _restore(r, steps[k].source, steps[k].n):
            steps[k].shoots &= ~2
        broken += steps[k].shoots != 0
    if broken == 0:
        plan_withdraw(r)
        return mrm_fail(
            failure(), MRM_SYSTEM_CALL, which, error, reservation_address(r, at.first),
            <size_t>at.n << r.pool.layout.frame_shift,
            b"%s (%s) of %u slots from slot %u on at %p: %s. Nothing is changed: what the batch had done was undone.%s",
            call_name(which), step_name(at.kind), at.n, at.first, reservation_address(r, at.first), strerror(error),
            reason,
        )
    for k in range(failed + 1):
        if not _changes_mappings(&steps[k]):
            continue
        if steps[k].shoots & 1:
            _agree(r, steps[k].first, steps[k].n, text, sizeof(text))
        if steps[k].shoots & 2:
            _agree(r, steps[k].source, steps[k].n, text, sizeof(text))
    plan_withdraw(r)
    if text[0] == 0:
        different = b" nothing"
    return mrm_fail(
        failure(), MRM_INCONSISTENT, which, error, reservation_address(r, at.first),
        <size_t>at.n << r.pool.layout.frame_shift,
        b"%s (%s) of %u slots from slot %u on: %s; and undoing it failed for %zu runs. "
        b"The reservation says what the kernel shows now; all else is as before. Different:%s",
        call_name(which), step_name(at.kind), at.n, at.first, strerror(error), broken,
        different,
    )


# ---- the whole -----------------------------------------------------------------

cdef void _apply(reservation_t *r) noexcept nogil:
    """Make the table say what the steps have done."""
    cdef size_t i
    cdef change_t *c
    cdef slot_t old, new
    for i in range(r.plan.change_count):
        c = &r.plan.changes[i]
        old = new = r.slot[c.slot]
        if c.deferred:
            new.state = MRM_SLOT_DEFERRED
            if r.deferred == 0:
                r.deferred_first = r.deferred_end = c.slot
            mrm_store32(&r.deferred, r.deferred + 1)
            r.deferred_first = min(r.deferred_first, c.slot)
            r.deferred_end = max(r.deferred_end, c.slot + 1)
        elif c.frame == NO_FRAME:
            new.state = MRM_SLOT_EMPTY
        else:
            new.state = MRM_SLOT_SHOWN
            new.frame = c.frame
            new.protection = c.protection
        mrm_store64(<uint64_t *>&r.slot[c.slot], (<uint64_t *>&new)[0])
        if old.state == MRM_SLOT_SHOWN and (c.counted or c.frame == NO_FRAME):
            frames_unmap(&r.pool.frames, old.frame)
        elif old.state == MRM_SLOT_DEFERRED:
            frames_settle(&r.pool.frames, old.frame)
            mrm_store32(&r.deferred, r.deferred - 1)


cdef int _carry_out(reservation_t *r, mrm_report *report) noexcept nogil:
    """Make the plan's steps; under the lock."""
    cdef size_t k
    cdef int which = CALL_MMAP
    cdef int64_t got
    cdef uint64_t calls = calls_made(), began = _now(), shoots = 0
    cdef int status = mappings_allow(plan_growth(r))
    if status != MRM_OK:
        plan_withdraw(r)
        return status
    for k in range(r.plan.step_count):
        shoots += r.plan.steps[k].shoots
        got = _make(r, &r.plan.steps[k], &which)
        if got < 0:
            status = _undo(r, k, which, <int>-got)
            mrm_add64(&r.pool.frames.figures.system_calls, calls_made() - calls)
            return status
    _apply(r)
    calls = calls_made() - calls
    mrm_add64(&r.pool.frames.figures.system_calls, calls)
    if report != NULL:
        report.pages += r.plan.change_count
        report.runs += r.plan.runs
        report.system_calls += calls
        report.shootdowns += shoots
        report.nanoseconds += _now() - began
    r.plan.change_count = r.plan.step_count = 0
    return MRM_OK


cdef void _clear_report(mrm_report *report) noexcept nogil:
    if report != NULL:
        report.pages = report.runs = report.system_calls = report.shootdowns = report.nanoseconds = 0


cdef int batch_commit(batch_t *batch, mrm_report *report) noexcept nogil:
    """Carry the whole batch out, or nothing."""
    cdef reservation_t *r = batch.reservation
    cdef int status
    _clear_report(report)
    status = reservation_enter(r)
    if status != MRM_OK:
        return status
    status = plan_batch(batch)
    if status == MRM_OK:
        status = _carry_out(r, report)
    if status == MRM_OK:
        batch.count = 0
        mrm_add64(&r.pool.frames.figures.batches, 1)
    reservation_leave(r)
    return status


cdef int _retire_one(reservation_t *r, mrm_report *report) noexcept nogil:
    """Take the deferred aliases of one reservation away."""
    cdef int status = reservation_enter(r)
    if status != MRM_OK:
        return status
    status = plan_retire(r)
    if status == MRM_OK:
        status = _carry_out(r, report)
    reservation_leave(r)
    return status


cdef int reservation_retire(reservation_t *r, mrm_report *report) noexcept nogil:
    """Take every deferred alias of the reservation away: the frames' old addresses trap."""
    cdef uint64_t begun
    cdef int status = pool_usable(r.pool)
    _clear_report(report)
    if status != MRM_OK:
        return status
    begun = frames_retire_begin(&r.pool.frames)
    status = _retire_one(r, report)
    if status == MRM_OK:
        frames_retire_end(&r.pool.frames, begun)
    return status


cdef int pool_retire(pool_t *pool, mrm_report *report) noexcept nogil:
    """The same for every reservation of the pool, as one retire of the pool's."""
    cdef reservation_t **listed
    cdef size_t n, i
    cdef uint64_t begun
    cdef int status = pool_usable(pool)
    _clear_report(report)
    if status != MRM_OK:
        return status
    begun = frames_retire_begin(&pool.frames)
    status = list_reservations(pool, &listed, &n)
    if status != MRM_OK:
        return status
    for i in range(n):
        if status == MRM_OK:
            status = _retire_one(listed[i], report)
            if status == MRM_CLOSED:
                # By another thread: retired when that is done, which holds the lock till then.
                mrm_lock(&listed[i].lock)
                mrm_unlock(&listed[i].lock)
                status = MRM_OK
    list_release(listed, n)
    if status == MRM_OK:
        frames_retire_end(&pool.frames, begun)
    return status
