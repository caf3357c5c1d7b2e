"""The balloon in random sequences, against frames as sets."""

import pytest
from ballooning import audit
from helpers import FRAME, stamp, stamp_at
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import mrm

MANY = 64


class Model(RuleBasedStateMachine):
    """Frames as sets, beside the real ones."""

    @initialize(size=st.integers(1, MANY))
    def begin(self, size):
        self.pool = mrm.Pool(size * FRAME, maximum=MANY * FRAME, huge="off", name="balloon")
        self.account = self.pool.account("heap")
        self.balance = 0
        self.held = {}
        self.memory = size
        self.stamps = 0

    def teardown(self):
        if hasattr(self, "pool"):
            self.pool.close()

    def promised(self):
        own = sum(name == "heap" for name, _ in self.held.values())
        return max(self.balance - own, 0)

    def free(self):
        return self.memory - len(self.held)

    @rule(n=st.integers(0, MANY))
    def inflate(self, n):
        can = min(n, self.free() - self.promised())
        done = self.pool.inflate(n * FRAME)
        assert done.frames == can
        assert bool(done) == (can == n)
        self.memory -= can

    @rule(n=st.integers(0, MANY), threads=st.integers(1, 3))
    def deflate(self, n, threads):
        can = min(n, MANY - self.memory)
        done = self.pool.deflate(n * FRAME, threads=threads)
        assert done.frames == can
        assert bool(done) == (can == n)
        self.memory += can

    @rule(n=st.integers(1, MANY))
    def resize(self, n):
        if n >= self.memory or self.memory - n <= self.free() - self.promised():
            assert self.pool.resize(n * FRAME)
            self.memory = n

    @rule(n=st.integers(0, 8))
    def fund(self, n):
        if n - self.promised() <= self.free() - self.promised() and n >= sum(
            name == "heap" for name, _ in self.held.values()
        ):
            self.account.fund(n - self.balance)
            self.balance = n

    @rule(name=st.sampled_from(["pool", "heap"]), n=st.integers(1, 12))
    def take(self, name, n):
        can = self.promised() if name == "heap" else self.free() - self.promised()
        taker = self.account if name == "heap" else self.pool
        if n > can:
            with pytest.raises(mrm.OutOfFrames):
                taker.take(n)
            return
        for frame in taker.take(n):
            assert frame not in self.held
            self.stamps += 1
            stamp(self.pool.address(frame), self.stamps)
            self.held[frame] = name, self.stamps

    @rule(data=st.data())
    def give(self, data):
        if self.held:
            frame = data.draw(st.sampled_from(sorted(self.held)))
            self.pool.give(frame)
            del self.held[frame]

    @invariant()
    def adds_up(self):
        stats = audit(self.pool)
        assert stats.frames - stats.inflated == self.memory
        assert stats.held == len(self.held)
        for frame, (_, value) in self.held.items():
            assert stamp_at(self.pool.address(frame)) == value


def test_random_sequences():
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
