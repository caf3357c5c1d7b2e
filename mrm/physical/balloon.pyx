"""The balloon: frames whose memory went back to the kernel, and how it comes again.

A frame in the balloon keeps its number and its addresses; what it lost is the memory behind
them. Frames go in from the top of the common list, so that the low numbers, which takers
get, stay together, and come out from the bottom. The kernel takes memory away by a hole in
the file (PUNCH_HOLE), a run of neighbours a call: it unmaps the run wherever it is shown,
by one invalidation for each mapping, and frees the pages. Contents are gone: what comes
back is zero, and nobody's.

Promises are kept by memory, so a frame in the balloon is no part of any fund: inflating
takes frames off what the committed fund has promised to nobody, deflating adds them to
it. So no account is ever short of what it was granted because of the balloon.

What an old address still shows stays out: the hole would be under it, and a late read
would have the kernel fetch a page there that nobody has funded. Deferred aliases are
retired first, by who can (space/inflate.pyx).

Fetching is what funding.py does, a few frames at a time: populate through the window,
which several threads do side by side, and then fallocate, which passes over what is there
and whose answer is final. A thread has one share in hand, and what it fetched may be taken
at once. While the kernel populates it keeps others from changing the address space, and
so each call is short: 8 MiB.

A thread that fetches alone does it the other way round: fallocate first, which has nothing to do
with the address space, and then populate, which finds the pages there and only fills page tables.
It is as fast, and a commit waits for some microseconds. Populating alone, it would take the lock
of the address space again before whoever waits for it has woken up, until the kernel lets nobody
pass any more, after 4 ms (6.18: a lone reader may steal the lock; of two, neither may): a commit
beside it took 5.5 ms.

A share that comes short is asked for again, frame by frame, so that what is there is kept,
to the last frame; and what an incomplete frame got is given back.

A pool that was asked for on a node, or on all in turn, gets its memory there again, by the policy
of the thread that fetches it: set for as long as that takes. Where frames are told apart by nodes
(nodes.pyx), both ways are divided among the nodes so that what each has left, of free frames or of
missing memory, is as even as it can be. A frame gets its memory from its own node. Where a node has
no more, the others are asked for the rest.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from mrm cimport (
    MRM_BACKING_HUGETLB, MRM_BACKING_SMALL, MRM_BACKING_THP, MRM_FRAME_INFLATED, MRM_FRAME_READY, MRM_OK,
    MRM_OUT_OF_FRAMES, MRM_SYSTEM_CALL, MRM_UNFUNDED, mrm_address, mrm_failure,
)
from mrm.physical.bitmap cimport bitmap_count, bitmap_give, bitmap_take_high, bitmap_take_within
from mrm.physical.books cimport COMMITTED, available
from mrm.physical.common cimport SOMEBODY, common_add
from mrm.physical.frames cimport frames_t
from mrm.physical.funds cimport free_promises
from mrm.physical.nodes cimport MOST_NODES, nodes_share, nodes_t
from mrm.physical.pool cimport ADVICE_COLLAPSE, ADVICE_POPULATE_WRITE, pool_fill_tables, pool_t, pool_usable
from mrm.physical.refusals cimport holders
from mrm.physical.stack cimport mrm_load16, mrm_store16, mrm_store32
from mrm.physical.stock cimport stock_resume, stock_withdraw
from mrm.system.calls cimport CALL_FALLOCATE, advise, fallocate
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.features cimport FEATURE_COLLAPSE, FEATURE_POPULATE, feature_missing
from mrm.system.policy cimport POLICY_BIND, policy_add, policy_begin, policy_get, policy_set, policy_t


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<string.h>" nogil:
    char *strerror(int error)

cdef extern from "<errno.h>" nogil:
    enum:
        ENOSPC, ENOMEM


cdef enum:
    KEEP_SIZE = 1               # FALLOC_FL_...
    PUNCH_HOLE = 2
    CHUNK = 256                 # frames that go in at a time, on the C stack
    SHARE = 32                  # frames that a thread fetches at a time, before they may be taken
    POPULATED = 8 << 20         # bytes populated by a call


cdef uint32_t run_of(const uint32_t *frames, uint32_t n, int step) noexcept nogil:
    """How many frames of an array go on from the first one, up (step 1) or down (-1)."""
    cdef uint32_t i = 1
    while i < n and frames[i] == frames[i - 1] + <uint32_t>step:
        i += 1
    return i


cdef uint32_t balloon_frames(pool_t *pool) noexcept nogil:
    """Frames without memory that could be used at this moment, those on their way counted, and broken ones."""
    cdef uint32_t n
    mrm_lock(&pool.frames.lock)
    n = pool.frames.balloon.free + pool.frames.moving + pool.frames.poisoned
    mrm_unlock(&pool.frames.lock)
    return n


# ---- in ----------------------------------------------------------------------------------

cdef uint32_t claim(
    frames_t *frames, uint32_t *claimed, uint32_t most, uint32_t first, uint32_t *below
) noexcept nogil:
    """Take up to ``most`` frames that are promised to nobody and not shown, the highest from ``first`` to ``below``.

    They are in no list and no fund then, and marked as without memory: nobody gets them.
    """
    cdef uint32_t skipped[CHUNK]
    cdef uint32_t i, found, kept = 0, passed = 0
    mrm_lock(&frames.lock)
    free_promises(frames, COMMITTED, most)
    found = <uint32_t>bitmap_take_high(
        &frames.bitmap, claimed, min(most, available(&frames.books.fund[COMMITTED])), first, below[0]
    )
    below[0] = claimed[found - 1] if found else 0
    for i in range(found):
        if mrm_load16(&frames.frame[claimed[i]].pending):
            skipped[passed] = claimed[i]
            passed += 1
        else:
            mrm_store32(&frames.frame[claimed[i]].status, MRM_FRAME_INFLATED)
            claimed[kept] = claimed[i]
            kept += 1
    bitmap_give(&frames.bitmap, skipped, passed)
    frames.books.fund[COMMITTED].frames -= kept
    frames.moving += kept
    mrm_unlock(&frames.lock)
    return kept


cdef void unclaim(frames_t *frames, const uint32_t *claimed, uint32_t n) noexcept nogil:
    """Make claimed frames free again, that may or may not have kept their contents."""
    cdef uint32_t i
    mrm_lock(&frames.lock)
    for i in range(n):
        # Not as before: the account may have ended meanwhile, and its number be another's.
        mrm_store16(&frames.frame[claimed[i]].depth, <uint16_t>SOMEBODY)
        mrm_store32(&frames.frame[claimed[i]].status, MRM_FRAME_READY)
    frames.books.fund[COMMITTED].frames += n
    frames.moving -= n
    common_add(frames, claimed, n)
    mrm_unlock(&frames.lock)


cdef void put_in(frames_t *frames, const uint32_t *claimed, uint32_t n) noexcept nogil:
    """Note that claimed frames have no memory any more."""
    cdef uint32_t i
    mrm_lock(&frames.lock)
    for i in range(n):
        mrm_store16(&frames.frame[claimed[i]].depth, 0)     # nobody's: what comes back is zero
    frames.moving -= n
    bitmap_give(&frames.balloon, claimed, n)
    mrm_unlock(&frames.lock)


cdef int64_t punch(pool_t *pool, uint32_t first, uint32_t n) noexcept nogil:
    """Take the memory of ``n`` frames from ``first`` on away; ``-errno`` if it is still there."""
    return fallocate(
        pool.fd, PUNCH_HOLE | KEEP_SIZE, <uint64_t>first << pool.layout.frame_shift,
        <uint64_t>n << pool.layout.frame_shift,
    )


cdef int balloon_inflate(pool_t *pool, uint32_t n, uint32_t *done) noexcept nogil:
    """Give the memory of up to ``n`` free frames to the kernel.

    MRM_OK also when fewer could go: ``done`` says how many did, with and without a failure.
    """
    cdef frames_t *frames = &pool.frames
    cdef int status = inflate_from_list(pool, n, done)
    cdef uint32_t more
    cdef bint stocked
    if status != MRM_OK or done[0] == n:
        return status
    # Those in stock last: who wants zeros waited for them to be cleared.
    mrm_lock(&frames.lock)
    stocked = frames.stock.count
    if stocked:
        stock_withdraw(frames)
    mrm_unlock(&frames.lock)
    if stocked:
        status = inflate_from_list(pool, n - done[0], &more)
        done[0] += more
        mrm_lock(&frames.lock)
        stock_resume(frames)
        mrm_unlock(&frames.lock)
    return status


cdef int inflate_from_list(pool_t *pool, uint32_t n, uint32_t *done) noexcept nogil:
    """The same, of the frames in the bitmap, from the top down: of each node, where they are told apart, its share."""
    cdef frames_t *frames = &pool.frames
    cdef nodes_t *nodes = frames.nodes
    cdef uint32_t share[MOST_NODES]
    cdef bint without[MOST_NODES]
    cdef uint32_t place, i, more
    cdef int status = MRM_OK
    done[0] = 0
    if nodes != NULL:
        memset(without, 0, sizeof(without))
        mrm_lock(&frames.lock)
        free_promises(frames, COMMITTED, n)
        nodes_share(nodes, &frames.bitmap, n, without, share)
        mrm_unlock(&frames.lock)
        for place in range(nodes.count):
            i = nodes.begin[place + 1]
            while i > nodes.begin[place] and share[place] and status == MRM_OK:
                i -= 1
                status = inflate_within(pool, share[place], nodes.part[i].first, nodes.part[i].end, &more)
                share[place] -= more
                done[0] += more
    # What is missing then is shown by old addresses, or was taken by others meanwhile.
    if status == MRM_OK and done[0] < n:
        status = inflate_within(pool, n - done[0], 0, pool.layout.frame_count, &more)
        done[0] += more
    return status


cdef int inflate_within(pool_t *pool, uint32_t n, uint32_t first, uint32_t below, uint32_t *done) noexcept nogil:
    """The same, from ``first`` to before ``below``."""
    cdef uint32_t claimed[CHUNK]
    cdef uint32_t found, i, run
    cdef int64_t got
    done[0] = 0
    while done[0] < n and below > first:
        found = claim(&pool.frames, claimed, min(n - done[0], <uint32_t>CHUNK), first, &below)
        i = 0
        while i < found:
            run = run_of(claimed + i, found - i, -1)
            got = punch(pool, claimed[i + run - 1], run)
            if got < 0:
                unclaim(&pool.frames, claimed + i, found - i)
                return mrm_fail(
                    failure(), MRM_SYSTEM_CALL, CALL_FALLOCATE, <int>-got,
                    mrm_address(&pool.layout, 0, claimed[i + run - 1]), <size_t>run << pool.layout.frame_shift,
                    b"cannot give the memory of %u frames from %u on to the kernel (%s); %u frames went before",
                    run, claimed[i + run - 1], strerror(<int>-got), done[0],
                )
            put_in(&pool.frames, claimed + i, run)
            done[0] += run
            i += run
    return MRM_OK


cdef int balloon_refuse(pool_t *pool, uint32_t n, uint32_t done) noexcept nogil:
    """Say that of ``n`` frames only ``done`` could go into the balloon, and who has the others."""
    cdef frames_t *frames = &pool.frames
    cdef char holding[400]
    cdef int status
    mrm_lock(&frames.lock)
    holders(&frames.books, holding, sizeof(holding))
    status = mrm_fail(
        failure(), MRM_OUT_OF_FRAMES, 0, 0, NULL, <size_t>n << pool.layout.frame_shift,
        b"of %u frames that were to give their memory back, %u did: of the pool's %u, %u are in the balloon, and the "
        b"others held, strict, shown by an old address or an exported buffer, or promised to accounts: %s; "
        b"give frames back, lower balances, or release buffers",
        n, done, frames.count, frames.balloon.free + frames.moving, holding,
    )
    mrm_unlock(&frames.lock)
    return status


# ---- out ---------------------------------------------------------------------------------

cdef int64_t fetch_run(pool_t *pool, uint32_t first, uint32_t n, bint alone) noexcept nogil:
    """Fetch memory for ``n`` frames from ``first`` on; ``-errno`` if some of it was not to be had."""
    cdef char *at = <char *>mrm_address(&pool.layout, 0, first)
    cdef uint64_t nbytes = <uint64_t>n << pool.layout.frame_shift, offset = 0, part
    cdef bint huge = pool.layout.backing == MRM_BACKING_HUGETLB
    cdef bint populates = pool.layout.backing != MRM_BACKING_SMALL and not feature_missing(FEATURE_POPULATE)
    cdef int64_t got
    # Of transparent huge pages fallocate makes small ones where the setting is "advise": populate comes first.
    if populates and not (alone and huge):
        while offset < nbytes:
            part = min(nbytes - offset, max(<uint64_t>POPULATED, pool.layout.frame_size))
            # What it says does not matter: fallocate says it again, of each page.
            if advise(at + offset, part, ADVICE_POPULATE_WRITE) < 0:
                break
            offset += part
    got = fallocate(pool.fd, 0, <uint64_t>first << pool.layout.frame_shift, nbytes)
    if got == 0 and huge and (alone or not populates):
        pool_fill_tables(pool, first, n)
    if got == 0 and pool.layout.backing == MRM_BACKING_THP and not feature_missing(FEATURE_COLLAPSE):
        advise(at, nbytes, ADVICE_COLLAPSE)
    return got


cdef uint32_t fetch(pool_t *pool, const uint32_t *claimed, uint32_t n, bint alone, int64_t *got) noexcept nogil:
    """Fetch memory for frames, ascending; how many of the first got it."""
    cdef uint32_t i = 0, run, end = 0
    got[0] = 0
    # The kernel undoes what a signal interrupts of ordinary memory: frame by frame it comes to an end.
    if pool.layout.backing != MRM_BACKING_HUGETLB:
        end = n
    while i < n:
        run = 1 if i < end else run_of(claimed + i, n - i, 1)
        got[0] = fetch_run(pool, claimed[i], run, alone)
        if got[0] == 0:
            i += run
        elif run > 1:
            end = i + run       # frame by frame up to there: what is there is kept
        else:
            # Pages of this frame may have come, and of others after it: the balloon holds none.
            punch(pool, claimed[i], run_of(claimed + i, n - i, 1))
            return i
    return n


cdef void take_out(frames_t *frames, const uint32_t *fetched, uint32_t n) noexcept nogil:
    """Let everybody take frames that got memory. The lock is held."""
    cdef uint32_t i
    for i in range(n):
        mrm_store32(&frames.frame[fetched[i]].status, MRM_FRAME_READY)
    frames.books.fund[COMMITTED].frames += n
    common_add(frames, fetched, n)


cdef int pool_deflate(pool_t *pool, uint32_t n, uint32_t *done) noexcept nogil:
    """Fetch memory for ``n`` frames in the balloon, the lowest; ``done`` says how many got it, whatever comes."""
    cdef policy_t own
    cdef bint placed = pool.frames.nodes != NULL or pool.policy.mode
    cdef int status = pool_usable(pool)
    done[0] = 0
    if status == MRM_OK and placed:
        status = policy_get(&own)
    if status != MRM_OK:
        return status
    if pool.frames.nodes != NULL:
        status = deflate_near(pool, n, done)
    else:
        if placed:
            status = policy_set(&pool.policy)
        if status == MRM_OK:
            status = deflate_within(pool, n, 0, pool.layout.frame_count, done)
    if placed:
        return put_back(&own, status)
    return status


cdef int put_back(const policy_t *own, int status) noexcept nogil:
    """Give the thread its own policy back; ``status``, whose failure stays the last one, unless that cannot be done."""
    cdef mrm_failure kept = failure()[0]
    cdef int done = policy_set(own)
    if done == MRM_OK:
        failure()[0] = kept
        return status
    return done


cdef int deflate_near(pool_t *pool, uint32_t n, uint32_t *done) noexcept nogil:
    """The same, from each node its share, as long as it has memory. The thread's policy is changed."""
    cdef frames_t *frames = &pool.frames
    cdef nodes_t *nodes = frames.nodes
    cdef uint32_t share[MOST_NODES]
    cdef bint without[MOST_NODES]
    cdef policy_t policy
    cdef uint32_t place, i, more, asked = 1
    cdef int status = MRM_OK, short_of = MRM_OK
    memset(without, 0, sizeof(without))
    while done[0] < n and asked:
        mrm_lock(&frames.lock)
        nodes_share(nodes, &frames.balloon, n - done[0], without, share)
        mrm_unlock(&frames.lock)
        asked = 0
        for place in range(nodes.count):
            if share[place] == 0:
                continue
            policy_begin(&policy, POLICY_BIND)
            policy_add(&policy, nodes.number[place])
            status = policy_set(&policy)
            if status != MRM_OK:
                return status
            for i in range(nodes.begin[place], nodes.begin[place + 1]):
                if share[place] == 0:
                    break
                more = min(share[place], count_in(frames, nodes.part[i].first, nodes.part[i].end))
                if more == 0:
                    continue
                asked += more
                share[place] -= more
                status = deflate_within(pool, more, nodes.part[i].first, nodes.part[i].end, &more)
                done[0] += more
                if status == MRM_UNFUNDED and failure().call == 0:
                    status = MRM_OK         # another thread had the last of them
                if status == MRM_UNFUNDED:
                    without[place] = True
                    short_of = status
                    break
                if status != MRM_OK:
                    return say_done(pool, n, done[0], status)
    if done[0] == n:
        return MRM_OK
    return say_done(pool, n, done[0], short_of)


cdef uint32_t count_in(frames_t *frames, uint32_t first, uint32_t end) noexcept nogil:
    """Frames of the balloon from ``first`` to before ``end``."""
    cdef uint32_t n
    mrm_lock(&frames.lock)
    n = bitmap_count(&frames.balloon, first, end)
    mrm_unlock(&frames.lock)
    return n


cdef int say_done(pool_t *pool, uint32_t n, uint32_t done, int status) noexcept nogil:
    """Say how many of all frames got memory, where the failure of a share spoke of that; why, it has said."""
    cdef mrm_failure last
    if status == MRM_OK:
        return refuse_more(pool, n, done)
    last = failure()[0]
    return mrm_fail(
        failure(), status, last.call, last.error, <void *>last.address, <size_t>n << pool.layout.frame_shift,
        b"of %u frames that were to get memory, %u did: the kernel gives no more on the nodes that the others belong "
        b"to (%s)", n, done, strerror(last.error),
    )


cdef int refuse_more(pool_t *pool, uint32_t n, uint32_t done) noexcept nogil:
    """Say that the balloon was empty before ``n`` frames had memory."""
    return mrm_fail(
        failure(), MRM_UNFUNDED, 0, 0, NULL, <size_t>n << pool.layout.frame_shift,
        b"of %u frames that were to get memory, %u did: no more were in the balloon; a pool grows to what "
        b"it was opened with (maximum=)", n, done,
    )


cdef int deflate_within(pool_t *pool, uint32_t n, uint32_t first, uint32_t end, uint32_t *done) noexcept nogil:
    """The same, of the frames from ``first`` to before ``end``."""
    cdef frames_t *frames = &pool.frames
    cdef uint32_t claimed[SHARE]
    cdef uint32_t found, fetched
    cdef int64_t got
    cdef bint alone
    done[0] = 0
    while done[0] < n:
        mrm_lock(&frames.lock)
        found = <uint32_t>bitmap_take_within(
            &frames.balloon, claimed, min(n - done[0], <uint32_t>SHARE), first, end
        )
        frames.moving += found
        alone = frames.moving == found
        mrm_unlock(&frames.lock)
        if found == 0:
            return refuse_more(pool, n, done[0])
        fetched = fetch(pool, claimed, found, alone, &got)
        mrm_lock(&frames.lock)
        take_out(frames, claimed, fetched)
        bitmap_give(&frames.balloon, claimed + fetched, found - fetched)
        frames.moving -= found
        mrm_unlock(&frames.lock)
        done[0] += fetched
        if fetched < found:
            return mrm_fail(
                failure(), MRM_UNFUNDED if got == -ENOSPC or got == -ENOMEM else MRM_SYSTEM_CALL, CALL_FALLOCATE,
                <int>-got, mrm_address(&pool.layout, 0, claimed[fetched]), <size_t>n << pool.layout.frame_shift,
                b"of %u frames that were to get memory, %u did: the kernel has no more (%s)", n, done[0],
                strerror(<int>-got),
            )
    return MRM_OK
