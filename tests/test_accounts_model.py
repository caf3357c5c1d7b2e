"""Accounts, the batches that draw on them, and the stock of zeroed frames: any sequence agrees with a model.

What an account may take does not depend on whether the thread that clears is there, nor on
what it has in hand. Watermarks are exact while one processor is used, so this stays on one:
the thread does not touch them.
"""

import os

import pytest
from helpers import FRAME, FakePool, running_on
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

import mrm

NAMES = ("a", "b", "c")
SLOTS = 12


class Model(RuleBasedStateMachine):
    """Accounts as plain numbers, beside the real ones."""

    @initialize()
    def begin(self):
        self.fake = FakePool(24)
        self.pool = self.fake.__enter__()
        self.funds = {"committed": 20, "overdraft": 4, "pause_prevention": 0}
        self.pool.fund("overdraft", 4 * FRAME)
        self.accounts = {name: self.pool.account(name, limit=12) for name in NAMES}
        self.balance = dict.fromkeys(NAMES, 0)
        self.held = {name: [] for name in (*NAMES, "pool")}
        self.strict = dict.fromkeys((*NAMES, "pool"), 0)
        self.high = dict.fromkeys(NAMES, 0)
        self.reservation = self.pool.reserve(SLOTS)
        self.batch = self.reservation.batch()
        self.noted = {}  # frames that the open batch took: slots and accounts by frame
        self.shown = {}  # slots by frame

    def teardown(self):
        if hasattr(self, "pool"):
            self.batch.abort()
            self.reservation.close()
            self.pool.audit()
            self.fake.__exit__(None, None, None)

    def has(self, name):
        return len(self.held[name]) + self.strict[name]

    def over(self, name):
        return max(self.has(name) - self.balance[name], 0)

    def lent(self):
        return sum(self.over(name) for name in NAMES)

    def unpromised(self):
        return self.funds["committed"] - sum(self.balance.values()) - self.has("pool")

    def allowed(self, name, overdraft):
        if name == "pool":
            return self.unpromised()
        own = max(self.balance[name] - self.has(name), 0)
        lendable = self.funds["overdraft"] - self.lent() if overdraft else 0
        return min(own + lendable, 12 - self.has(name))

    @rule(
        name=st.sampled_from((*NAMES, "pool")),
        n=st.integers(1, 14),
        overdraft=st.booleans(),
        zeroed=st.booleans(),
        how=st.sampled_from("oar"),
    )
    def take(self, name, n, overdraft, zeroed, how):
        account = self.pool.accounts[name]
        n = 1 if how == "o" else n
        take = {
            "o": lambda: [account.take(overdraft=overdraft, zeroed=zeroed)],
            "a": lambda: account.take(n, overdraft=overdraft, zeroed=zeroed),
            "r": lambda: account.take_run(n, overdraft=overdraft, zeroed=zeroed),
        }[how]
        if n > self.allowed(name, overdraft):
            with pytest.raises(mrm.OutOfFrames):
                take()
            return
        try:
            self.held[name] += take()
        except mrm.OutOfFrames:
            assert how == "r"
        if name != "pool":
            self.high[name] = max(self.high[name], self.has(name))

    def free_to_give(self, name):
        return [frame for frame in self.held[name] if frame not in self.shown and frame not in self.noted]

    @precondition(lambda self: any(self.free_to_give(name) for name in self.held))
    @rule(data=st.data(), late=st.booleans())
    def give(self, data, late):
        name = data.draw(st.sampled_from([name for name in self.held if self.free_to_give(name)]))
        given = data.draw(st.lists(st.sampled_from(self.free_to_give(name)), min_size=1, unique=True))
        self.pool.give(given if len(given) > 1 else given[0], reuse="after_retire" if late else "now")
        self.held[name] = [frame for frame in self.held[name] if frame not in given]
        self.strict[name] += len(given) if late else 0

    # ---- frames that a batch takes, and zeros in stock ----

    @rule(
        name=st.sampled_from((*NAMES, "pool")),
        n=st.integers(1, 6),
        overdraft=st.booleans(),
        zeroed=st.booleans(),
    )
    def map_from(self, name, n, overdraft, zeroed):
        slots = [slot for slot in range(SLOTS) if slot not in (*self.shown.values(), *self.noted.values())][
            :n
        ]
        pays = {"account": name, "overdraft": overdraft, "zeroed": zeroed}
        before = len(self.batch)
        if len(slots) > self.allowed(name, overdraft):
            with pytest.raises(mrm.OutOfFrames):
                self.batch.map(slots, **pays)
            assert len(self.batch) == before
            return
        frames = self.batch.map(slots, **pays)
        self.held[name] += frames
        self.noted.update(zip(frames, slots, strict=True))
        if name != "pool":
            self.high[name] = max(self.high[name], self.has(name))

    @rule(refused=st.booleans())
    def commit(self, refused):
        if refused:
            self.batch.map(SLOTS, 0)  # there is no such slot
            with pytest.raises(mrm.SlotError):
                self.batch.commit()
            self.abort()
            return
        self.batch.commit()
        self.shown.update(self.noted)
        self.noted = {}

    @rule()
    def abort(self):
        self.batch.abort()
        self.batch = self.reservation.batch()
        for name in self.held:
            self.held[name] = [frame for frame in self.held[name] if frame not in self.noted]
        self.noted = {}

    @precondition(lambda self: self.shown and not self.noted)
    @rule(data=st.data(), deferred=st.booleans())
    def unmap(self, data, deferred):
        frames = data.draw(st.lists(st.sampled_from(list(self.shown)), min_size=1, unique=True))
        self.batch.unmap([self.shown[frame] for frame in frames], deferred=deferred)
        self.batch.commit()
        self.reservation.retire()
        self.strict = dict.fromkeys(self.strict, 0)
        for frame in frames:
            del self.shown[frame]

    @rule(n=st.integers(0, 24))
    def keep_zeroed(self, n):
        self.pool.keep_zeroed(n)

    @rule()
    def retire(self):
        self.pool.retire()
        self.strict = dict.fromkeys(self.strict, 0)

    @rule(name=st.sampled_from(NAMES), n=st.integers(-8, 8))
    def fund(self, name, n):
        left = self.balance[name] + n
        if n < 0 and -n > max(self.balance[name] - self.has(name), 0):
            expected = mrm.OutOfFrames
        elif n >= 0 and left > 12:
            expected = mrm.ArgumentError
        elif n >= 0 and n > self.unpromised():
            expected = mrm.OutOfFrames
        else:
            self.accounts[name].fund(n)
            self.balance[name] = left
            return
        with pytest.raises(expected):
            self.accounts[name].fund(n)

    @rule(name=st.sampled_from(NAMES), to=st.sampled_from(NAMES), n=st.integers(0, 8))
    def transfer(self, name, to, n):
        if name == to:
            self.accounts[name].transfer(to, n)
        elif n > max(self.balance[name] - self.has(name), 0):
            with pytest.raises(mrm.OutOfFrames):
                self.accounts[name].transfer(to, n)
        elif self.balance[to] + n > 12:
            with pytest.raises(mrm.ArgumentError):
                self.accounts[name].transfer(to, n)
        else:
            self.accounts[name].transfer(to, n)
            self.balance[name] -= n
            self.balance[to] += n

    @rule(n=st.integers(0, 8), back=st.booleans())
    def transfer_funds(self, n, back):
        source, to = ("overdraft", "committed") if back else ("committed", "overdraft")
        available = self.funds["overdraft"] - self.lent() if back else self.unpromised()
        if n > available:
            with pytest.raises(mrm.OutOfFrames):
                self.pool.funds[source].transfer(to, n)
            return
        self.pool.funds[source].transfer(to, n)
        self.funds[source] -= n
        self.funds[to] += n

    @rule(name=st.sampled_from(NAMES))
    def flush(self, name):
        self.accounts[name].flush()
        assert self.accounts[name].stats().cached == 0

    @rule(name=st.sampled_from(NAMES))
    def reset(self, name):
        self.accounts[name].reset_watermarks()
        self.high[name] = self.has(name)

    @invariant()
    def agrees(self):
        if not hasattr(self, "pool"):
            return
        self.pool.audit()
        for name in NAMES:
            stats = self.accounts[name].stats()
            assert (stats.balance, stats.allocated, stats.overdrawn) == (
                self.balance[name], self.has(name), max(self.has(name) + stats.cached - self.balance[name], 0),
            )  # fmt: skip
            assert stats.allocated_high == self.high[name]
        for fund in self.pool.funds.values():
            figures = fund.stats()
            assert (
                figures.frames == self.funds[fund.name] == figures.granted + figures.lent + figures.available
            )


def test_any_sequence_agrees_with_a_model():
    with running_on(min(os.sched_getaffinity(0))):
        run_state_machine_as_test(
            Model,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
