"""scaling: the rules that Autoscaler decides by, on readings that are made up."""

import itertools

from helpers import FRAME

from mrm.physical.scaling import Marks, Near, Policy, Reading


def test_bounds_hold_on_every_reading_and_the_two_never_chase_each_other():
    """All combinations of a few figures; and no shrinking right after growing on what that has made of them."""
    marks = Marks(FRAME, 8, 40, 10, 5, 6, 8, 0.0, True, "system")
    figures = itertools.product((0, 4, 8, 20, 40), (0, 2, 5, 12), (None, 0, 7, 8, 12, 13, 30), (0, 9), (0, 3))
    seen = set()
    for funded, held, available, streak, refused in figures:
        if held > funded:
            continue
        policy = Policy(marks)
        policy._streak = streak
        reading = Reading(1.0, funded, funded - held, funded - held, 48 - funded, available, refused=refused)
        decision = policy.decide(reading)
        if decision is None:
            continue
        seen.add(decision.action)
        if decision.action == "shrink":
            assert 0 < decision.frames <= min(funded - marks.minimum, funded - held)
        elif decision.action == "grow":
            assert 0 < decision.frames <= min(marks.maximum - funded, marks.step)
            left = None if available is None else available - decision.frames
            after = Reading(2.0, funded + decision.frames, funded - held, funded - held, 48, left)
            again = Policy(marks).decide(after)
            assert again is None or again.action != "shrink", (reading, again)
    assert seen == {"shrink", "grow", "stay"}


def test_growing_never_takes_memory_that_shrinking_would_give_back():
    marks = Marks(FRAME, 8, 40, 10, 5, 6, 0, 0.0, True, "system", 7)
    grown = 0
    for funded, held, memory in itertools.product((8, 20, 39), (0, 8, 20), range(30)):
        if held > funded:
            continue
        policy = Policy(marks)
        policy._sent = 30
        decision = policy.decide(
            Reading(1.0, funded, funded - held, funded - held, 48 - funded, 0, memory=memory)
        )
        if decision is not None and decision.action == "grow":
            grown += 1
            left = memory - decision.frames
            after = Reading(2.0, funded + decision.frames, 0, funded - held, 48, 0, memory=left)
            again = policy.decide(after)
            assert again is None or again.action != "shrink", (memory, decision, again)
    assert grown


def test_a_limit_that_only_gates_growing_takes_nothing():
    marks = Marks(FRAME, 8, 40, 10, 5, 6, 0, 0.0, False, "system")
    near = Near("MemAvailable", "memory", 1, 5, gives=False)
    assert Policy(marks).decide(Reading(0.0, 20, 20, 20, 20, limits=(near,))) is None
    decision = Policy(marks).decide(Reading(0.0, 20, 2, 2, 20, limits=(near,)))
    assert (decision.action, decision.frames) == ("stay", 0)
    assert "MemAvailable leaves" in decision.reason


def test_pressure_that_comes_again_when_it_had_gone_is_told_of_again():
    marks = Marks(FRAME, 8, 40, 0, 0, 6, 0, 10.0, True, "pool")
    policy = Policy(marks)
    near = Near("memory.max", "memory", 1, 5)

    def told(time, *limits):
        return policy.decide(Reading(time, 20, 20, 20, 20, 30, limits=limits)) is not None

    assert told(0.0, near)
    assert not told(0.25, near)
    assert not told(0.5)
    assert not told(0.75, near)
    assert not told(5.0)
    assert told(11.0, near)
