"""A plain model of a pool, its views and reservations, compared with the real one after every step.

Hypothesis chooses the steps, wrong ones too, and finds the shortest sequence when one of
them goes wrong. The model says what every slot shows, which error a batch raises, what
state every frame is in, and what stamp it carries.
"""

import contextlib
import dataclasses
import os

import pytest
from helpers import FRAME, stamp, stamp_at
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

FRAMES = 12
SLOTS = 20
PROTECTIONS = st.sampled_from(["rw", "r", "none"])
ONE_SLOT = st.integers(0, SLOTS)  # one beyond the last
SOME_SLOTS = st.one_of(
    st.lists(ONE_SLOT, min_size=1, max_size=6, unique=True),
    st.builds(
        lambda first, n: list(range(first, min(first + n, SLOTS))),
        st.integers(0, SLOTS - 1),
        st.integers(1, 8),
    ),
)


@dataclasses.dataclass
class Slot:
    """What a slot of the model shows."""

    frame: int
    protection: str
    deferred: bool = False


class Objection(Exception):
    """The model would refuse the batch."""


class Table(dict):
    """The slots of one reservation that show something, and batches on them."""

    def commit(self, changes, held):
        """Make the changes, all or none; the frames that they end a mapping of follow."""
        vacated, filled, changed, stays = set(), {}, set(), set()

        def vacate(slot, into, operation):
            if slot >= SLOTS or slot in vacated | changed:
                raise Objection(operation)
            if slot not in self or self[slot].deferred:
                raise Objection(operation)
            into.add(slot)

        for name, *what in changes:
            if name == "unmap":
                slot, deferred, missing_ok = what
                if missing_ok and slot < SLOTS and (slot not in self or self[slot].deferred):
                    continue
                vacate(slot, vacated, name)
                if deferred:
                    stays.add(slot)
            elif name == "move":
                vacate(what[0], vacated, name)
                if what[2]:
                    stays.add(what[0])
            elif name == "swap":
                vacate(what[0], changed, name)
                vacate(what[1], changed, name)
            elif name == "protect":
                vacate(what[0], changed, name)
        for name, *what in changes:
            if name == "map":
                self._fill(filled, what[0], Slot(what[1], what[2]), vacated, changed, stays)
            elif name in ("move", "alias"):
                source = self.get(what[0])
                if source is None or source.deferred:
                    raise Objection(name)
                self._fill(filled, what[1], Slot(source.frame, source.protection), vacated, changed, stays)
        if any(name == "map" and what[1] not in held for name, *what in changes):
            raise Objection("map")
        for name, *what in changes:
            if name == "swap":
                filled[what[0]], filled[what[1]] = self[what[1]], self[what[0]]
            elif name == "protect":
                filled[what[0]] = Slot(self[what[0]].frame, what[1])
        for slot in stays:
            self[slot] = Slot(self[slot].frame, self[slot].protection, True)
        for slot in vacated - stays:
            del self[slot]
        self.update(filled)

    def _fill(self, filled, slot, shown, vacated, changed, stays):
        if slot >= SLOTS or slot in filled or slot in changed or slot in stays:
            raise Objection("fill")
        if slot in self and slot not in vacated:
            raise Objection("fill")
        filled[slot] = shown


class Model(RuleBasedStateMachine):
    """The real thing and the model, side by side."""

    huge = "off"

    @initialize()
    def open(self):
        self.pool = mrm.Pool(FRAMES * FRAME, huge=self.huge, views=4)
        self.stamps = dict.fromkeys(range(FRAMES), 0)
        self.held = []
        self.strict = set()
        self.views = []
        self.reservations = []  # (real, table)
        self.count = 0

    # ---- frames ------------------------------------------------------------------------

    @rule(n=st.one_of(st.none(), st.integers(0, 5)), run=st.booleans())
    def take(self, n, run):
        free = [f for f in range(FRAMES) if f not in self.held and f not in self.strict]
        wanted = 1 if n is None else n
        longest = max((sum(1 for _ in _going_on(f, free)) for f in free), default=0)
        try:
            if n is not None and run:
                taken = list(self.pool.take_run(n))
                assert taken == list(range(taken[0], taken[0] + n)) if n else taken == []
            else:
                taken = self.pool.take(n)
                taken = [taken] if n is None else list(taken)
        except mrm.OutOfFrames:
            assert wanted > (longest if run and n is not None else len(free))
            return
        assert len(taken) == wanted
        assert set(taken) <= set(free)
        self.held += taken

    @rule(picks=st.lists(st.integers(0, FRAMES), min_size=1, max_size=4), strict=st.booleans())
    def give(self, picks, strict):
        shown = {slot.frame for _, table in self.reservations for slot in table.values() if not slot.deferred}
        good = len(set(picks)) == len(picks) and all(f in self.held and f not in shown for f in picks)
        with contextlib.nullcontext() if good else pytest.raises(mrm.FrameError):
            self.pool.give(picks, reuse="after_retire" if strict else "now")
        if good:
            self.held = [f for f in self.held if f not in picks]
            if strict:
                self.strict.update(picks)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def zero_or_copy(self, data):
        target = data.draw(st.sampled_from(self.held))
        source = data.draw(st.sampled_from([None, *self.held]))
        if source is None:
            self.pool.zero(target)
            self.stamps[target] = 0
        else:
            self.pool.copy_frame(target, source)
            self.stamps[target] = self.stamps[source]

    def _write(self, address, frame):
        self.count += 1
        stamp(address, self.count)
        self.stamps[frame] = self.count

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def write_somewhere(self, data):
        frame = data.draw(st.sampled_from(self.held))
        places = [self.pool.address(frame)]
        places += [view.address(frame) for view in self.views if view.state == "open"]
        places += [
            real.address(number)
            for real, table in self.reservations
            for number, slot in table.items()
            if slot.frame == frame and slot.protection == "rw"
        ]
        self._write(data.draw(st.sampled_from(places)), frame)

    # ---- views -------------------------------------------------------------------------

    @rule()
    def open_view(self):
        numbers_left = self.pool.layout["view_count"] - 1 - len(self.views)
        with contextlib.nullcontext() if numbers_left else pytest.raises(mrm.AddressSpaceError):
            self.views.append(self.pool.open_view())

    @precondition(lambda self: self.views)
    @rule(data=st.data(), end=st.booleans())
    def retire_or_close_a_view(self, data, end):
        view = data.draw(st.sampled_from(self.views))
        was_open = view.state == "open"
        if end:
            view.close()
            self.views.remove(view)
        else:
            with contextlib.nullcontext() if was_open else pytest.raises(mrm.ClosedError):
                view.retire()
        if was_open:
            self._retired()

    def _retired(self):
        pending = {slot.frame for _, table in self.reservations for slot in table.values() if slot.deferred}
        self.strict &= pending

    # ---- reservations ------------------------------------------------------------------

    @precondition(lambda self: len(self.reservations) < 3)
    @rule()
    def reserve(self):
        self.reservations.append((self.pool.reserve(SLOTS), Table()))

    @precondition(lambda self: self.reservations)
    @rule(data=st.data())
    def close_a_reservation(self, data):
        pair = data.draw(st.sampled_from(self.reservations))
        pair[0].close()
        self.reservations.remove(pair)
        self._retired()

    @precondition(lambda self: self.reservations)
    @rule(data=st.data(), whole=st.booleans())
    def retire(self, data, whole):
        pairs = self.reservations if whole else [data.draw(st.sampled_from(self.reservations))]
        report = (self.pool if whole else pairs[0][0]).retire()
        assert report.pages == sum(slot.deferred for _, table in pairs for slot in table.values())
        for _, table in pairs:
            for number in [number for number, slot in table.items() if slot.deferred]:
                del table[number]
        self._retired()

    def _draw_changes(self, data, table):
        """A few operations: mostly on slots that fit, now and then on any."""
        changes = []
        for _ in range(data.draw(st.integers(1, 4))):
            shown = [s for s, slot in table.items() if not slot.deferred]
            empty = [s for s in range(SLOTS) if s not in table]
            name = data.draw(st.sampled_from(["map", "map", "unmap", "move", "alias", "swap", "protect"]))
            slots = data.draw(SOME_SLOTS)
            if data.draw(st.integers(0, 9)):
                wanted = empty if name == "map" else shown
                slots = [s for s in slots if s in wanted] or wanted[: len(slots)]
            n = len(slots)
            first = data.draw(st.integers(0, SLOTS - 1))
            others = [(first + i) % SLOTS for i in range(n)]
            if name in ("move", "alias") and data.draw(st.booleans()) and len(empty) >= n:
                others = empty[-n:] if n else []
            if name == "map":
                frames = data.draw(st.lists(st.sampled_from(self.held or [0]), min_size=n, max_size=n))
                protection = data.draw(PROTECTIONS)
                changes += [("map", s, f, protection) for s, f in zip(slots, frames, strict=True)]
            elif name == "unmap":
                deferred, missing_ok = data.draw(st.booleans()), data.draw(st.booleans())
                changes += [("unmap", s, deferred, missing_ok) for s in slots]
            elif name == "move":
                deferred = data.draw(st.booleans())
                changes += [("move", s, o, deferred) for s, o in zip(slots, others, strict=True)]
            elif name == "protect":
                protection = data.draw(PROTECTIONS)
                changes += [("protect", s, protection) for s in slots]
            else:
                changes += [(name, s, o) for s, o in zip(slots, others, strict=True)]
        return changes

    @precondition(lambda self: self.reservations)
    @rule(data=st.data(), fate=st.sampled_from(["commit", "commit", "commit", "explain", "abort"]))
    def batch(self, data, fate):
        real, table = data.draw(st.sampled_from(self.reservations))
        changes = self._draw_changes(data, table)
        batch = real.batch()
        for name, *what in changes:
            if name == "unmap":
                batch.unmap(what[0], deferred=what[1], missing_ok=what[2])
            elif name == "move":
                batch.move(what[0], what[1], deferred=what[2])
            else:
                getattr(batch, name)(*what)
        assert len(batch) == len(changes)
        after = Table(table)
        try:
            after.commit(changes, self.held)
            expected = contextlib.nullcontext()
        except Objection:
            after = table
            expected = pytest.raises((mrm.SlotError, mrm.FrameError))
        if fate == "explain":
            with expected:
                batch.explain()
        elif fate == "commit":
            with expected:
                batch.commit()
            self.reservations[[r for r, _ in self.reservations].index(real)] = (real, after)
        batch.abort()

    # ---- what must hold ----------------------------------------------------------------

    @invariant()
    def contents_and_tables_agree(self):
        if not hasattr(self, "pool"):
            return
        for frame, expected in self.stamps.items():
            assert stamp_at(self.pool.address(frame)) == expected
        for view in self.views:
            if view.state == "open":
                assert all(
                    stamp_at(view.address(frame)) == expected for frame, expected in self.stamps.items()
                )
        for real, table in self.reservations:
            for number in range(SLOTS):
                slot = table.get(number)
                told = real.mapping(number)
                if slot is None:
                    assert told is None
                    continue
                assert (told.protection, told.deferred) == (slot.protection, slot.deferred)
                assert real[number] == (None if slot.deferred else slot.frame)
                if slot.protection != "none":
                    assert stamp_at(real.address(number)) == self.stamps[slot.frame]

    @invariant()
    def frames_are_conserved(self):
        if not hasattr(self, "pool"):
            return
        slots = [slot for _, table in self.reservations for slot in table.values()]
        pending = [slot.frame for slot in slots if slot.deferred]
        free = set(range(FRAMES)) - set(self.held) - self.strict
        stats = self.pool.audit()
        assert (stats.held, stats.strict) == (len(self.held), len(self.strict))
        assert (stats.pending, stats.released) == (len(pending), len(free & set(pending)))
        assert stats.mapped == len({slot.frame for slot in slots if not slot.deferred})
        for real, _ in self.reservations:
            real.check()

    def teardown(self):
        if not hasattr(self, "pool"):
            return
        for handle in [*self.views, *(real for real, _ in self.reservations)]:
            handle.close()
        stats = self.pool.audit()
        assert (stats.mapped, stats.pending, stats.reservations, stats.views_open) == (0, 0, 0, 0)
        self.pool.close()


def _going_on(first, free):
    while first in free:
        yield first
        first += 1


@pytest.fixture
def one_processor():
    """Which frame is taken depends on the processor: what draws on it is only repeated on one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_the_real_thing_does_what_the_model_says(huge, one_processor):
    class ThisModel(Model):
        pass

    ThisModel.huge = huge
    run_state_machine_as_test(
        ThisModel,
        settings=settings(
            # An emulated processor takes a second for a step.
            max_examples=6 if THROWAWAY else 60, stateful_step_count=40,
            deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck), print_blob=True,
        ),
    )  # fmt: skip
