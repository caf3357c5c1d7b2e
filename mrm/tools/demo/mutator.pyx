"""What the mutators do all day: read, write and replace objects, checking as they go.

A mutator keeps, for each handle, what it has written to the object there: its own counter
in the object, which nobody else writes, must hold exactly that at every read, so a lost
write shows at the next look. The shared counter is added to by all; what each added is
summed at the end and must be what the objects hold, those that were dropped included.

Each handle has one owner, who alone replaces the object in it: makes another, of another
size, swings the handle to it and takes the last values off the old one. Three in four
replacements hit a tenth of the handles, since most objects die young; that leaves frames
sparse, for the relocator.

No operation waits for anything. When the pool is out of frames, a replacement is refused,
and counted. Operations are timed back to back, checkpoint included, so every nanosecond
that a mutator lost is in one of them. Where one took over 5 us, the thread asks the kernel
how much processor time it has had: what is missing was taken by the scheduler, or by the
machine's host, for somebody else. Stalls are told with and without that, unless the thread
slept in the kernel of its own accord, which a mutator should never do: that is counted.
"""

from libc.stdint cimport uint32_t, uint64_t

from mrm cimport MRM_OK
from mrm.physical.taking cimport pool_take
from mrm.system.calls cimport calls_made
from mrm.tools.demo.barrier cimport AGAIN, checkpoint, follow, load
from mrm.tools.demo.heap cimport (
    FLAW_GENERATION, FLAW_OWN, FLAW_PATTERN, FLAW_STAMP, FLAW_STUCK, FRAME_CLOSED, FRAME_OPEN, GONE, NONE,
    address_in, evacuation_t, finals_t, frame_of, heap_flaw, heap_t, mutator_t, pointer, shadow_t,
)
from mrm.tools.demo.latency cimport latency_record, now
from mrm.tools.demo.objects cimport (
    FROZEN, GRANULE_SHIFT, SHARED, VALUE, counter_add, counter_kill, object_flaw, object_granules, object_make,
    object_stamped, object_words, own_counter,
)


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)
    void mrm_store64(uint64_t *p, uint64_t v)
    int mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store8(unsigned char *p, unsigned char v)
    void *mrm_load_ptr(void **p)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from *:
    """
    #include <sys/resource.h>
    /* Times that this thread slept, waiting for something in the kernel. */
    static inline uint64_t demo_sleeps(void) {
        struct rusage usage;
        getrusage(RUSAGE_THREAD, &usage);
        return (uint64_t)usage.ru_nvcsw;
    }
    /* Processor time that this thread has had, ns. */
    static inline uint64_t demo_had(void) {
        struct timespec t;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    /* Sizes in granules: as many objects of each, 18.3 granules (1.1 KiB) in the mean. */
    static const unsigned char demo_sizes[12] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
    """
    uint64_t sleeps "demo_sleeps"() noexcept nogil
    uint64_t had "demo_had"() noexcept nogil
    const unsigned char[12] SIZES "demo_sizes"


cdef enum:
    SUSPICIOUS = 5000           # ns; an operation that takes longer is looked into
    MOST_REPEATS = 1000000      # of one operation; then the protocol is broken
    ONE_IN = 64                 # reads that check a whole pattern; others a word in 16


cdef inline uint64_t _random(mutator_t *m) noexcept nogil:
    """xorshift64*; the upper half is good."""
    cdef uint64_t x = m.random
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    m.random = x
    return x * <uint64_t>0x2545F4914F6CDD1D


# ---- objects come -----------------------------------------------------------------

cdef uint64_t _allocate(heap_t *heap, mutator_t *m, uint64_t granules) noexcept nogil:
    """Room for an object at the end of the mutator's own frame; 0 when no frame is free."""
    cdef uint32_t nbytes = <uint32_t>(granules << GRANULE_SHIFT)
    cdef uint32_t frame
    if m.frame != NONE and m.bump + nbytes > heap.layout.frame_size:
        # The relocator may have it, in the cycle whose marking begins after this.
        mrm_store8(&heap.use[m.frame], FRAME_CLOSED)
        m.frame = NONE
    if m.frame == NONE:
        if pool_take(heap.pool, &frame) != MRM_OK:
            return 0
        heap.use[frame] = FRAME_OPEN
        m.frame = frame
        m.bump = 0
    m.bump += nbytes
    return address_in(heap, m.view, m.frame) + m.bump - nbytes


cdef uint64_t _make(heap_t *heap, mutator_t *m, uint32_t handle, uint32_t generation) noexcept nogil:
    """A new object of some size for ``handle``; its reference, or 0 when the pool is exhausted."""
    cdef uint64_t granules = SIZES[(_random(m) >> 32) * 12 >> 32]
    cdef uint64_t at
    if heap.mutator_count > 4 and granules == 1:
        granules = 2                    # the counters alone fill more than a granule
    at = _allocate(heap, m, granules)
    if at == 0:
        return 0
    object_make(<uint64_t *>at, <uint64_t>generation << 32 | handle, granules, heap.mutator_count)
    return at | granules << 56


# ---- objects are used -----------------------------------------------------------------

cdef void _flaw(
    heap_t *heap, mutator_t *m, uint32_t kind, uint32_t handle, uint64_t expected, uint64_t found
) noexcept nogil:
    heap_flaw(heap, kind, m.number, handle, m.steps, expected, found)


cdef inline uint64_t *_reach(heap_t *heap, mutator_t *m, uint32_t handle) noexcept nogil:
    """The object of a handle, looked at closely enough to trust it; NULL: begin anew."""
    cdef uint64_t held
    cdef uint64_t reference = load(heap, m, handle, &held)
    cdef uint64_t *at = pointer(reference)
    cdef shadow_t *shadow = &m.shadow[handle]
    cdef uint32_t generation
    if reference == AGAIN:
        return NULL
    if heap.jitter and (_random(m) >> 32) % heap.jitter == 0:
        sched_yield()
    if (
        reference == 0 or not object_stamped(at) or (at[0] & 0xFFFFFFFFu) != handle
        or object_granules(at) != reference >> 56
    ):
        _flaw(heap, m, FLAW_STAMP, handle, handle, at[0] if reference else 0)
        return NULL
    generation = <uint32_t>(at[0] >> 32)
    if generation != shadow.generation:
        if generation < shadow.generation:
            _flaw(heap, m, FLAW_GENERATION, handle, shadow.generation, generation)
            return NULL
        shadow.generation = generation
        shadow.own = 0
    return at


cdef inline bint _read(heap_t *heap, mutator_t *m, uint32_t handle) noexcept nogil:
    """Check an object: its stamp, its pattern, and that all this mutator wrote is there."""
    cdef uint64_t *at = _reach(heap, m, handle)
    cdef uint64_t own, shared, flaw
    if at == NULL:
        return False
    own = mrm_load64(own_counter(at, heap.mutator_count, m.number))
    shared = mrm_load64(at + SHARED)
    if (own | shared) & FROZEN:
        return False
    if own & VALUE != m.shadow[handle].own:
        _flaw(heap, m, FLAW_OWN, handle, m.shadow[handle].own, own & VALUE)
        return False
    flaw = object_flaw(at, heap.mutator_count, 1 if m.reads % ONE_IN == 0 else 16)
    if flaw:
        _flaw(heap, m, FLAW_PATTERN, handle, flaw, at[flaw])
        return False
    m.reads += 1
    return True


cdef inline bint _write(heap_t *heap, mutator_t *m, uint32_t handle, bint own) noexcept nogil:
    """Add one to this mutator's own counter or to the shared one, and remember it."""
    cdef uint64_t *at = _reach(heap, m, handle)
    if at == NULL:
        return False
    if own:
        if not counter_add(own_counter(at, heap.mutator_count, m.number)):
            return False
        m.shadow[handle].own += 1
        m.shadow[handle].owns += 1
    else:
        if not counter_add(at + SHARED):
            return False
        m.shadow[handle].shareds += 1
    m.writes += 1
    return True


# ---- objects go --------------------------------------------------------------------

cdef bint _last_values(heap_t *heap, mutator_t *m, uint64_t *at, finals_t *last) noexcept nogil:
    """Kill the counters of an object; False when one is frozen, and the copy has them."""
    cdef uint64_t words = object_words(at)
    cdef uint64_t value = 0
    cdef uint64_t i
    if not counter_kill(at + SHARED, &value):
        return False
    last.shared = value
    last.own = 0
    for i in range(words - heap.mutator_count, words):
        if not counter_kill(at + i, &value):
            return False
        last.own += value
    return True


cdef bint _replace(heap_t *heap, mutator_t *m, uint32_t handle) noexcept nogil:
    """Put a new object into a handle of this mutator's, and settle the old one's account."""
    cdef uint64_t held, old, new
    cdef finals_t last
    cdef evacuation_t *gone
    old = load(heap, m, handle, &held)
    if old == AGAIN:
        return False
    if not object_stamped(pointer(old)):
        _flaw(heap, m, FLAW_STAMP, handle, handle, pointer(old)[0])
        return False
    new = _make(heap, m, handle, <uint32_t>(pointer(old)[0] >> 32) + 1)
    if new == 0:
        m.refused += 1
        return True
    if not mrm_cas64(&heap.handle[handle], &held, new):
        # Someone brought the reference up to date meanwhile.
        m.bump -= <uint32_t>(new >> 56 << GRANULE_SHIFT)
        return False
    while not _last_values(heap, m, pointer(old), &last):
        # It was PENDING when it was loaded, in this view; now it is being copied.
        gone = <evacuation_t *>mrm_load_ptr(<void **>&heap.evacuating[frame_of(heap, old)])
        old = follow(heap, &m.room, m.number, m.view, gone, old) if gone != NULL else 0
        if old == 0:
            _flaw(heap, m, FLAW_STUCK, handle, 0, held)
            return False
    heap.finals[handle].own += last.own
    heap.finals[handle].shared += last.shared
    m.replaced += 1
    return True


# ---- a mutator's life -------------------------------------------------------------

cdef void mutator_fill(heap_t *heap, uint32_t number) noexcept nogil:
    """Put an object into each handle that this mutator owns."""
    cdef mutator_t *m = heap.mutator[number]
    cdef uint32_t handle = number
    cdef uint64_t reference
    while handle < heap.handle_count:
        reference = _make(heap, m, handle, 1)
        if reference == 0:
            _flaw(heap, m, FLAW_STUCK, handle, heap.handle_count, handle)
            return
        mrm_store64(&heap.handle[handle], reference)
        handle += heap.mutator_count


cdef inline bint _operate(heap_t *heap, mutator_t *m, uint64_t dice, uint32_t handle) noexcept nogil:
    """One try at one operation: 5 in 8 read, 2 in 8 write, 1 in 8 replaces."""
    cdef uint32_t owned
    if dice < 5:
        return _read(heap, m, handle)
    if dice < 7:
        return _write(heap, m, handle, dice == 5)
    owned = handle - handle % heap.mutator_count + m.number
    return _replace(heap, m, owned if owned < heap.handle_count else m.number)


cdef struct clock_t:
    uint64_t now                # when the last operation ended
    uint64_t asked              # when the kernel was last asked, and what it said
    uint64_t had
    uint64_t sleeps


cdef inline void _time(mutator_t *m, clock_t *clock) noexcept nogil:
    """An operation ended: how long it took, and how much of that was this thread's own."""
    cdef uint64_t ended = now()
    cdef uint64_t took = ended - clock.now
    cdef uint64_t own = took
    cdef uint64_t processor, slept, away
    clock.now = ended
    m.steps += 1
    latency_record(&m.all, took)
    m.worst_lately = max(m.worst_lately, took)
    if took >= SUSPICIOUS:
        processor = had()
        slept = sleeps()
        away = ended - clock.asked
        away -= min(away, processor - clock.had)
        if slept == clock.sleeps:
            own -= min(own, away)
        m.blocked += slept - clock.sleeps
        clock.had = processor
        clock.sleeps = slept
        clock.asked = clock.now = now()
    latency_record(&m.own, own)


cdef void mutator_run(heap_t *heap, uint32_t number) noexcept nogil:
    """Operate until told to stop."""
    cdef mutator_t *m = heap.mutator[number]
    cdef uint32_t young = heap.handle_count // 10
    cdef uint64_t calls = calls_made()
    cdef uint64_t dice
    cdef uint32_t handle, tries
    cdef clock_t clock
    clock.had = had()
    clock.sleeps = sleeps()
    clock.asked = clock.now = now()
    while not mrm_load32(&heap.stop):
        dice = _random(m)
        # The upper half chooses the handle, the bits below it what to do.
        handle = <uint32_t>((dice >> 32) * heap.handle_count >> 32)
        if dice >> 29 & 7 == 7 and dice >> 27 & 3:
            handle = <uint32_t>((dice >> 32) * young >> 32)
        tries = 0
        while True:
            checkpoint(heap, m)
            if _operate(heap, m, dice >> 29 & 7, handle) or mrm_load32(&heap.stop):
                break
            m.again += 1
            tries += 1
            if tries == MOST_REPEATS:
                _flaw(heap, m, FLAW_STUCK, handle, 0, heap.handle[handle])
        _time(m, &clock)
    m.calls = calls_made() - calls


cdef void mutator_end(heap_t *heap, uint32_t number) noexcept nogil:
    """Leave: nobody waits for this mutator any more."""
    cdef mutator_t *m = heap.mutator[number]
    if m.frame != NONE:
        mrm_store8(&heap.use[m.frame], FRAME_CLOSED)
        m.frame = NONE
    mrm_store64(&m.passed, GONE)
