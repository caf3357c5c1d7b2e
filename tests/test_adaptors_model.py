"""A stack of all adaptors: any sequence of calls agrees with plain numbers, and contents are what was written."""

import ctypes
import io

import pytest
from fakeheap import FakeHeap, rows
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import mrm
from mrm.adaptors import Limit, Log, Statistics, Track


class Model(RuleBasedStateMachine):
    """A stack of all of them beside plain numbers: bytes asked for, bytes had, and contents."""

    def heap_below(self):
        return FakeHeap()

    @initialize()
    def begin(self):
        self.below = self.heap_below()
        self.limit = Limit(self.below, 1 << 16)
        self.counted = Statistics(self.limit)
        self.tracked = Track(self.counted, 2)
        self.file = io.StringIO()
        self.heap = Log(self.tracked, self.file)
        self.blocks = {}  # address: asked for, what is in it
        self.calls = 0
        self.peak = 0
        self.stamp = 0

    def teardown(self):
        if hasattr(self, "heap"):
            self.heap.flush()
            assert len(rows(self.file.getvalue())) == self.calls
            self.heap.close()

    def has(self):
        return sum(self.below.usable_size(address) for address in self.blocks)

    def write(self, address, nbytes):
        self.stamp = self.stamp % 250 + 1
        ctypes.memset(address, self.stamp, nbytes)
        self.blocks[address] = nbytes, bytes([self.stamp]) * nbytes
        self.peak = max(self.peak, self.has())

    @rule(nbytes=st.integers(0, 40_000), how=st.sampled_from(("malloc", "calloc", "aligned")))
    def make(self, nbytes, how):
        self.calls += 1
        arguments = {"malloc": (nbytes,), "calloc": (1, nbytes), "aligned": (64, nbytes)}[how]
        before = self.has()
        try:
            address = getattr(self.heap, how)(*arguments)
        except mrm.OutOfFrames:
            assert before + nbytes * 9 // 8 + 4096 > self.limit.limit
            return
        assert address not in self.blocks
        if how == "calloc":
            assert ctypes.string_at(address, nbytes) == bytes(nbytes)
        self.write(address, nbytes)

    @rule(which=st.integers(0, 1 << 20), nbytes=st.integers(0, 40_000))
    def change(self, which, nbytes):
        if not self.blocks:
            return
        self.calls += 1
        address = list(self.blocks)[which % len(self.blocks)]
        had, content = self.blocks[address]
        try:
            moved = self.heap.realloc(address, nbytes)
        except mrm.OutOfFrames:
            assert ctypes.string_at(address, had) == content
            return
        assert ctypes.string_at(moved, min(had, nbytes)) == content[:nbytes]
        del self.blocks[address]
        self.write(moved, nbytes)

    @rule(which=st.integers(0, 1 << 20))
    def end(self, which):
        if not self.blocks:
            return
        self.calls += 1
        address = list(self.blocks)[which % len(self.blocks)]
        had, content = self.blocks.pop(address)
        assert ctypes.string_at(address, had) == content
        self.heap.free(address)

    @invariant()
    def all_agree(self):
        if not hasattr(self, "heap"):
            return
        counts = self.counted.counts()
        assert counts.blocks == len(self.blocks) == len(self.tracked)
        assert counts.bytes == self.has() == self.limit.used
        assert counts.peak_bytes >= self.peak
        asked = {tracked.address: tracked.nbytes for tracked in self.tracked.live()}
        assert asked == {address: nbytes for address, (nbytes, _) in self.blocks.items()}


class OnAHeap(Model):
    """The same on a real one."""

    def heap_below(self):
        return mrm.Heap()


@pytest.mark.parametrize("model", [Model, OnAHeap])
def test_any_sequence_agrees_with_the_model(model):
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=checks,
        ),
    )
