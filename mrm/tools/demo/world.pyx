"""A heap, its mutators and its relocator, as Python starts, watches and ends them.

Each of ``fill``, ``mutate`` and ``collect`` is a thread's whole life, without the GIL;
whoever holds the ``World`` starts the threads, may read ``counters`` at any time, says
``stop`` and then ``finish``, and asks for the ``check`` when all of them have ended.
"""

from libc.stdint cimport uint32_t, uint64_t

from mrm._core cimport Pool
from mrm.system.failure cimport check as check_status
from mrm.tools.demo.accounts cimport settle_accounts
from mrm.tools.demo.heap cimport (
    FLAW_ENGINE, FLAW_GENERATION, FLAW_NO_ROOM, FLAW_NO_TRAP, FLAW_OWN, FLAW_PATTERN, FLAW_SHARED, FLAW_STALE,
    FLAW_STAMP, FLAW_STUCK, FLAW_UNMARKED, HISTORY, SABOTAGE_BARRIER, SABOTAGE_FREEZE, SABOTAGE_NONE,
    heap_close, heap_open, heap_t, mutator_t,
)
from mrm.tools.demo.latency cimport latency_counts
from mrm.tools.demo.mutator cimport mutator_end, mutator_fill, mutator_run
from mrm.tools.demo.objects cimport MOST_MUTATORS
from mrm.tools.demo.relocator cimport relocator_run

from mrm.errors import ArgumentError, ClosedError
from mrm.tools.demo.results import Counters, Cycle, Latency


cdef extern from "system/atomic.h" nogil:
    void mrm_store32(uint32_t *p, uint32_t v)


cdef dict FLAWS = {
    FLAW_STAMP: "no object, or another handle's, where the handle points",
    FLAW_PATTERN: "a word of an object's pattern changed",
    FLAW_OWN: "a write was lost: a mutator's own counter is not what it wrote",
    FLAW_SHARED: "a write was lost: a shared counter is not the sum of what was written",
    FLAW_GENERATION: "an object came back that had been replaced",
    FLAW_UNMARKED: "an object was reached that marking had not seen",
    FLAW_NO_ROOM: "what was live did not fit where it had to go",
    FLAW_STUCK: "an operation did not come to an end",
    FLAW_STALE: "no cycle brought the handle up to date",
    FLAW_NO_TRAP: "a retired view could still be read",
    FLAW_ENGINE: "the memory manager refused a call",
}
cdef dict SABOTAGES = {None: SABOTAGE_NONE, "barrier": SABOTAGE_BARRIER, "freeze": SABOTAGE_FREEZE}

cdef uint64_t MEAN_OBJECT = 1173        # bytes; the mean of the sizes in mutator.pyx


cdef class World:
    """A heap of stamped objects on a pool.

    Parameters
    ----------
    pool : Pool
        Where the frames come from; all of them may be used.
    mutators : int
        Threads that will call ``mutate``; at most 8.
    seed : int
        Each mutator's sequence of operations follows from it and from its number.
    live : float
        Share of the pool that live objects fill.
    jitter : int
        One operation in so many yields the processor between loading a reference and
        using it, which makes races more likely; 0 for none.
    sabotage : {None, "barrier", "freeze"}
        Break the protocol on purpose, so that tests see the checks fail.
    """

    cdef heap_t *heap
    cdef Pool pool
    cdef readonly uint32_t handles
    cdef readonly uint32_t mutators

    def __init__(self, Pool pool, *, mutators: int = 2, seed: int = 0, live: float = 0.6, jitter: int = 0,
                 sabotage: str | None = None) -> None:
        if not 1 <= mutators <= MOST_MUTATORS:
            raise ArgumentError(f"1 to {MOST_MUTATORS} mutators, not {mutators}")
        if sabotage not in SABOTAGES:
            raise ArgumentError(f"sabotage is one of {', '.join(map(repr, SABOTAGES))}, not {sabotage!r}")
        handles = int(pool.size * live / MEAN_OBJECT)
        if len(pool) < 16 * (mutators + 1) or handles < 1000:
            raise ArgumentError(f"a pool of {pool.size} bytes is too small for {mutators} mutators and a relocator")
        self.pool = pool
        self.mutators = mutators
        self.handles = handles
        check_status(
            heap_open(
                &self.heap, pool.pool, self.handles, mutators, seed & 0xFFFFFFFFFFFF, SABOTAGES[sabotage], jitter
            )
        )

    def __dealloc__(self):
        if self.heap != NULL:
            heap_close(self.heap)

    cdef heap_t *open(self) except NULL:
        if self.heap == NULL:
            raise ClosedError("the world was closed")
        return self.heap

    def close(self) -> None:
        """Give every frame back; no thread may be at work."""
        if self.heap != NULL:
            heap_close(self.heap)
            self.heap = NULL

    def fill(self, mutator: int) -> None:
        """Make the objects of one mutator's handles."""
        cdef heap_t *heap = self.open()
        cdef uint32_t number = mutator
        with nogil:
            mutator_fill(heap, number)

    def mutate(self, mutator: int) -> None:
        """Run one mutator until ``stop``."""
        cdef heap_t *heap = self.open()
        cdef uint32_t number = mutator
        with nogil:
            mutator_run(heap, number)
            mutator_end(heap, number)

    def collect(self) -> None:
        """Run the relocator until ``finish``; completes the cycle that it is in."""
        cdef heap_t *heap = self.open()
        with nogil:
            relocator_run(heap)

    def stop(self) -> None:
        """Mutators come to an end."""
        mrm_store32(&self.open().stop, 1)

    def finish(self) -> None:
        """The relocator comes to an end."""
        mrm_store32(&self.open().finish, 1)

    @property
    def stopped(self) -> bool:
        """Whether mutators were told to end, by ``stop`` or because something was wrong."""
        return self.open().stop != 0

    def check(self) -> str | None:
        """Check every object and every write; what is wrong first, or None. For a world at rest."""
        cdef heap_t *heap = self.open()
        if not heap.flaw.kind:
            with nogil:
                settle_accounts(heap)
        return self.flaw

    @property
    def flaw(self) -> str | None:
        """The first thing that was found wrong, in a sentence; None while all is well."""
        cdef heap_t *heap = self.open()
        if not heap.flaw.kind:
            return None
        who = f"mutator {heap.flaw.who}" if heap.flaw.who < heap.mutator_count else "the relocator or the last check"
        return (
            f"{FLAWS[heap.flaw.kind]} (found by {who} in step {heap.flaw.step}, handle {heap.flaw.handle}: "
            f"expected {heap.flaw.expected:#x}, found {heap.flaw.found:#x})"
        )

    def counters(self) -> Counters:
        """Totals so far, and the longest operation since the last call."""
        cdef heap_t *heap = self.open()
        cdef mutator_t *m
        cdef uint64_t copied = 0, lost = heap.room.lost, worst = 0, blocked = 0, calls = heap.calls
        cdef uint64_t steps = 0, reads = 0, writes = 0, replaced = 0, refused = 0, healed = 0, in_place = 0, again = 0
        cdef uint32_t i
        for i in range(heap.mutator_count):
            m = heap.mutator[i]
            copied += m.room.copied
            lost += m.room.lost
            steps += m.steps
            reads += m.reads
            writes += m.writes
            replaced += m.replaced
            refused += m.refused
            healed += m.healed
            in_place += m.in_place
            again += m.again
            blocked += m.blocked
            calls += m.calls
            worst = max(worst, m.worst_lately)
            m.worst_lately = 0
        return Counters(
            cycles=heap.cycles, flips=heap.flips, sparse=heap.sparse, empty=heap.empty, batches=heap.batches,
            checkpoints=heap.checkpoints, copied_bytes=heap.copied, copied_objects=heap.room.copied + copied,
            copied_by_mutators=copied, copies_lost=lost, traps=heap.traps, slowest_checkpoint_ns=heap.slowest,
            operations=steps, reads=reads, writes=writes, replaced=replaced, refused=refused, healed=healed,
            in_place=in_place, again=again, blocked=blocked, system_calls=calls,
            worst_lately_ns=worst,
        )

    def cycles(self) -> list[Cycle]:
        """The cycles so far, the first 65,536 of them."""
        cdef heap_t *heap = self.open()
        cdef uint64_t i
        return [Cycle(**heap.history[i]) for i in range(min(heap.cycles, <uint64_t>HISTORY))]

    def latency(self, own: bool = False) -> Latency:
        """How long operations took; with ``own`` less the time in which others had the processor."""
        cdef heap_t *heap = self.open()
        cdef mutator_t *m
        cdef uint32_t i
        cdef uint64_t worst = 0
        counts: list[tuple[int, int]] = []
        for i in range(heap.mutator_count):
            m = heap.mutator[i]
            counts += latency_counts(&m.own if own else &m.all)
            worst = max(worst, m.own.worst if own else m.all.worst)
        return Latency(counts, worst)
