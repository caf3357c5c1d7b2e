"""A plain model of a heap, compared with the real one after every step: blocks, contents, figures and refusals.

Hypothesis chooses the steps, wrong ones too. A second thread, and others that end at once, allocate and
free as well; and on a pool, frames are taken by somebody else, so that memory runs out. The model knows when
that may happen: a block of n slots is never refused while n frames are free or kept.
"""

import queue
import threading

import pytest
from heaping import SMALL, check_figures, holds, is_zero, run, walked, write
from helpers import FRAME, MIB
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from machine import THROWAWAY

import mrm

FRAMES = 24
LOOKED_AT = 3000  # bytes at both ends of a block whose contents are compared

SIZES = st.one_of(
    st.integers(0, 300),
    st.integers(0, 40_000),
    st.integers(60_000, SMALL),
    st.integers(SMALL + 1, 8 * MIB),
    st.sampled_from([SMALL, SMALL + 1, FRAME, FRAME + 1, 4 * FRAME, 12 * FRAME]),
)
ALIGNMENTS = st.sampled_from([1, 16, 32, 256, 4096, 1 << 16, 1 << 17, FRAME, 4 * FRAME])
WHICH = st.integers(0, 1 << 20)
WHERE = st.sampled_from(["here", "other", "ending"])


class Worker:
    """A thread that does what it is told, one thing after another."""

    def __init__(self):
        self.jobs, self.answers = queue.SimpleQueue(), queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while (job := self.jobs.get()) is not None:
            try:
                self.answers.put((job(), None))
            except mrm.Error as error:
                self.answers.put((None, error))

    def do(self, job):
        self.jobs.put(job)
        answer, error = self.answers.get()
        if error is not None:
            raise error
        return answer

    def end(self):
        self.jobs.put(None)
        self.thread.join()


class Model(RuleBasedStateMachine):
    """The blocks that there should be: address to (bytes, seed)."""

    kind = None

    @initialize()
    def begin(self):
        self.pool = None if self.kind == "private" else mrm.Pool(FRAMES * FRAME, huge=self.kind)
        self.heap = mrm.Heap(self.pool, limit="256MiB")
        self.live, self.freed_elsewhere, self.held, self.gone = {}, set(), [], set()
        self.seeds = iter(range(1, 1 << 30))
        self.worker = Worker()

    def do(self, where, job):
        """Do something in this thread, in the other one, or in one that ends with it."""
        if where == "other":
            return self.worker.do(job)
        if where == "ending":
            answers = []
            run(lambda: answers.append(job()))
            return answers[0]
        return job()

    # ---- contents --------------------------------------------------------------------

    def add(self, address, nbytes):
        assert address % 16 == 0
        assert address not in self.live
        assert self.heap.usable_size(address) >= nbytes
        seed = next(self.seeds)
        self.live[address] = nbytes, seed
        self.freed_elsewhere.discard(address)
        self.gone.discard(address)
        write(address, min(nbytes, LOOKED_AT), seed)
        if nbytes > 2 * LOOKED_AT:
            write(address + nbytes - LOOKED_AT, LOOKED_AT, seed + 1)

    def check(self, address, upto=None):
        nbytes, seed = self.live[address]
        assert holds(address, min(nbytes, LOOKED_AT), seed), "contents were lost"
        if nbytes > 2 * LOOKED_AT:
            assert holds(address + nbytes - LOOKED_AT, LOOKED_AT, seed + 1), "contents were lost at the end"

    def chosen(self, which):
        return sorted(self.live)[which % len(self.live)]

    def refused(self, slots):
        """Whether memory may be short for so many slots; only where somebody has the rest."""
        stats = self.heap.stats()
        assert stats.memory <= 256 * MIB
        if self.pool is not None and self.pool.stats().free + stats.kept // FRAME >= slots:
            return False
        return self.pool is not None or stats.memory - stats.kept + slots * FRAME > 256 * MIB

    def allocate(self, where, nbytes, use, slots=None):
        slots = slots or (-(-nbytes // FRAME) if nbytes > SMALL else 1)
        try:
            return self.do(where, use)
        except mrm.OutOfFrames:
            assert self.refused(slots)

    # ---- steps -----------------------------------------------------------------------

    @rule(n=SIZES, where=WHERE)
    def malloc(self, n, where):
        address = self.allocate(where, n, lambda: self.heap.malloc(n))
        if address is not None:
            self.add(address, n)

    @rule(n=st.integers(0, 400), count=st.integers(1, 300), where=WHERE)
    def malloc_many(self, n, count, where):
        addresses = self.allocate(
            where, n, lambda: [self.heap.malloc(n) for _ in range(min(count, 40_000 // (n + 1)))]
        )
        for address in addresses or ():
            self.add(address, n)

    @rule(n=SIZES, where=WHERE)
    def calloc(self, n, where):
        address = self.allocate(where, n, lambda: self.heap.calloc(1, n))
        if address is not None:
            assert is_zero(address, n)
            self.add(address, n)

    @rule(n=SIZES, alignment=ALIGNMENTS)
    def aligned(self, n, alignment):
        slots = max(-(-n // FRAME), 1)
        address = self.allocate("here", n, lambda: self.heap.aligned(alignment, n), slots)
        if address is not None:
            assert address % alignment == 0
            self.add(address, n)

    @precondition(lambda self: self.live)
    @rule(which=WHICH, n=SIZES, where=WHERE)
    def realloc(self, which, n, where):
        address = self.chosen(which)
        had, seed = self.live[address]
        large = self.heap.usable_size(address) > SMALL
        slots = -(-n // FRAME) if n > SMALL else 1
        if large and n > SMALL:
            slots -= self.heap.usable_size(address) // FRAME
        try:
            moved = self.do(where, lambda: self.heap.realloc(address, n))
        except mrm.OutOfFrames:
            assert n > had, "a block that becomes smaller needs nothing"
            assert self.refused(slots)
            self.check(address)
            return
        assert holds(moved, min(had, n, LOOKED_AT), seed)
        if had > 2 * LOOKED_AT and n >= had:
            assert holds(moved + had - LOOKED_AT, LOOKED_AT, seed + 1)
        del self.live[address]
        if moved != address:
            self.note_freed(address, had, where, large)
        self.add(moved, n)

    def note_freed(self, address, nbytes, where, large):
        if large:
            self.gone.add(address)
        elif where != "ending":
            self.freed_elsewhere.add(address)

    @precondition(lambda self: self.live)
    @rule(which=WHICH, where=WHERE, many=st.sampled_from([1, 1, 5, 100]))
    def free(self, which, where, many):
        addresses = sorted(self.live)
        which %= len(addresses)
        addresses = addresses[which : which + many]
        sizes = {address: self.heap.usable_size(address) for address in addresses}
        for address in addresses:
            self.check(address)
        self.do(where, lambda: [self.heap.free(address) for address in addresses])
        for address in addresses:
            self.note_freed(address, self.live.pop(address)[0], where, sizes[address] > SMALL)

    @precondition(lambda self: self.gone)
    @rule(which=WHICH, n=SIZES)
    def use_what_is_gone(self, which, n):
        address = sorted(self.gone)[which % len(self.gone)]
        for use in (self.heap.free, self.heap.usable_size, lambda at: self.heap.realloc(at, n)):
            with pytest.raises(mrm.BlockError):
                use(address)

    @rule(where=WHERE)
    def trim(self, where):
        self.do(where, self.heap.trim)
        if where == "here":
            self.do("other", self.heap.trim)
            self.freed_elsewhere.clear()

    @precondition(lambda self: self.pool is not None)
    @rule(n=st.integers(1, FRAMES))
    def somebody_takes(self, n):
        n = min(n, self.pool.stats().free)
        if n:
            self.held += self.pool.take(n)

    @precondition(lambda self: self.pool is not None and self.held)
    @rule(n=st.integers(1, FRAMES))
    def somebody_gives(self, n):
        some, self.held = self.held[:n], self.held[n:]
        self.pool.give(some)

    # ---- what must hold ----------------------------------------------------------------

    @invariant()
    def all_is_well(self):
        if not hasattr(self, "heap"):
            return
        stats = check_figures(self.heap)
        walk = walked(self.heap)
        assert self.live.keys() <= walk.keys()
        assert walk.keys() - self.live.keys() <= self.freed_elsewhere
        for address, (nbytes, _) in self.live.items():
            assert walk[address] >= nbytes
        assert stats.large_blocks == sum(nbytes > SMALL for nbytes in walk.values())
        assert stats.large_bytes <= stats.large_memory
        if self.pool is not None:
            assert self.pool.audit().free == FRAMES - len(self.held) - stats.memory // FRAME

    def teardown(self):
        if not hasattr(self, "heap"):
            return
        self.worker.end()
        for address in self.live:
            self.check(address)
        self.heap.close()
        if self.pool is not None:
            self.pool.give(self.held)
            assert self.pool.audit().free == FRAMES
            self.pool.close()


@pytest.mark.parametrize("kind", ["require", "off", "private"], ids=["huge", "small", "private"])
def test_the_real_thing_does_what_the_model_says(kind, request):
    if kind == "require":
        request.getfixturevalue("needs_huge")

    class ThisModel(Model):
        pass

    ThisModel.kind = kind
    run_state_machine_as_test(
        ThisModel,
        settings=settings(
            # An emulated processor takes a second for a step.
            max_examples=6 if THROWAWAY else 60, stateful_step_count=40,
            deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck), print_blob=True,
        ),
    )  # fmt: skip
