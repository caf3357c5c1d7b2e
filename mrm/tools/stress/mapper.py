"""A thread that maps, moves, swaps, protects, unmaps and retires, against a model of its own.

It works on two reservations: one of its own, and one that it shares with all others, of
which every n-th slot is its. The model says which frame each of its slots shows and how
it may be accessed. Every frame that it holds carries a stamp at both ends, so whatever
an address shows can be told by reading there. Slots that show nothing must trap.

What it does follows from its seed. Which frame numbers it gets depends on the race.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mrm import FrameError, OutOfFrames, Pool, Reservation, SlotError
from mrm.tools.stress.probe import Probe


class Mismatch(Exception):
    """Something is not as the model says."""

    def __init__(self, what: str, expected: object, found: object) -> None:
        super().__init__(what)
        self.what, self.expected, self.found = what, expected, found


@dataclass
class Place:
    """A reservation, as far as one thread is concerned."""

    reservation: Reservation
    empty: list[int]
    shown: dict[int, tuple[int, str]] = field(default_factory=dict)  # slot: frame, protection
    deferred: list[int] = field(default_factory=list)


class Mapper:
    """One mapping thread.

    Parameters
    ----------
    pool : Pool
    number : int
        Of the thread, from 0.
    seed : int
    shared : Reservation
        Of which the slots number, number + of, number + 2 * of ... are this thread's.
    of : int
        Threads that share it.
    room : int
        Frames that it holds at the most.
    """

    def __init__(self, pool: Pool, number: int, seed: int, shared: Reservation, of: int, room: int) -> None:
        self._pool = pool
        self._random = random.Random(f"{seed}/{number}")
        self._probe = Probe()
        self._room = room
        self._stamps: dict[int, int] = {}  # of the frames that it holds
        self._serial = number << 40
        own = pool.reserve(2 * room)
        self._own = own
        self._places = [
            Place(own, list(range(len(own)))),
            Place(shared, list(range(number, len(shared), of))),
        ]
        self.steps = 0
        self.operation = "none"

    # ---- a life ------------------------------------------------------------------------

    def step(self) -> None:
        """Do one thing, and check what came of it."""
        operation, weight = zip(*_WEIGHTS.items(), strict=True)
        self.operation = self._random.choices(operation, weight)[0]
        _OPERATIONS[self.operation](self)
        self.steps += 1

    def check(self) -> None:
        """Compare every slot and every frame with the model."""
        self.operation = "check"
        for place in self._places:
            for slot in place.shown:
                self._look(place, slot)
            for slot in place.empty:
                self._must_trap(place, slot)
        self._own.check()
        for frame in self._stamps:
            self._read(self._pool.address(frame), frame, "through the window")

    def finish(self) -> None:
        """Unmap everything and give every frame back."""
        self.operation = "finish"
        for place in self._places:
            with place.reservation.batch() as batch:
                batch.unmap(list(place.shown))
        self._own.retire()
        self._pool.give(list(self._stamps))

    def close(self) -> None:
        """End what it opened, whatever state it is in."""
        self._own.close()
        self._probe.close()

    @property
    def holds(self) -> int:
        """Frames that it holds now."""
        return len(self._stamps)

    # ---- frames --------------------------------------------------------------------------

    def _take(self) -> None:
        n = self._random.randint(1, 6)
        if len(self._stamps) + n > self._room:
            return self._give()
        try:
            frames = list(self._pool.take_run(n) if self._random.random() < 0.3 else self._pool.take(n))
        except OutOfFrames:
            self._pool.retire()
            return None
        for frame in frames:
            if frame in self._stamps:
                raise Mismatch("a frame was handed out that this thread holds", "another one", frame)
            self._stamp(frame, self._pool.address(frame))
        return None

    def _give(self) -> None:
        free = self._unmapped()
        chosen = self._random.sample(free, min(len(free), self._random.randint(1, 6)))
        for frame in chosen:
            self._read(self._pool.address(frame), frame, "through the window, before it was given")
            # Racers expect to find nobody's tag in a free frame.
            self._probe.store(self._pool.address(frame), 0)
            del self._stamps[frame]
        self._pool.give(chosen, reuse=self._random.choice(("now", "now", "after_retire")))

    def _unmapped(self) -> list[int]:
        mapped = {frame for place in self._places for frame, _ in place.shown.values()}
        return [frame for frame in self._stamps if frame not in mapped]

    def _stamp(self, frame: int, address: int) -> None:
        """Give a frame a new stamp, through whichever address."""
        self._serial += 1
        for at in (address, address + self._pool.frame_size - 8):
            if not self._probe.store(at, self._serial):
                raise Mismatch(f"frame {frame} could not be written at {at:#x}", "writable", "traps")
        self._stamps[frame] = self._serial

    def _read(self, address: int, frame: int, how: str) -> None:
        for at in (address, address + self._pool.frame_size - 8):
            found = self._probe.load(at)
            if found != self._stamps[frame]:
                raise Mismatch(f"frame {frame} at {at:#x}, {how}", self._stamps[frame], found)

    # ---- slots ----------------------------------------------------------------------------

    def _place(self) -> Place:
        return self._random.choice(self._places)

    def _some(self, slots: list[int]) -> list[int]:
        """A few slots, often neighbours, so that there are runs."""
        n = min(len(slots), self._random.randint(1, 8))
        if n and self._random.random() < 0.5:
            first = self._random.randint(0, len(slots) - n)
            return sorted(slots)[first : first + n]
        return self._random.sample(slots, n)

    def _look(self, place: Place, slot: int) -> None:
        """Check that a slot shows its frame, and can be accessed as it should and no more."""
        frame, protection = place.shown[slot]
        if place.reservation[slot] != frame:
            raise Mismatch(f"what slot {slot} shows, by the table", frame, place.reservation[slot])
        address = place.reservation.address(slot)
        if protection == "none":
            self._must_trap(place, slot)
            return
        self._read(address, frame, f"through slot {slot}")
        if protection == "rw":
            self._stamp(frame, address)
        elif self._probe.store(address, self._stamps[frame]):
            raise Mismatch(f"slot {slot}, which is read-only", "traps", "writable")

    def _must_trap(self, place: Place, slot: int) -> None:
        found = self._probe.load(place.reservation.address(slot))
        if found is not None:
            raise Mismatch(f"slot {slot} at {place.reservation.address(slot):#x}", "traps", found)

    def _map(self) -> None:
        place, frames = self._place(), list(self._stamps)
        slots = self._some(place.empty)[: len(frames)]
        chosen = self._random.sample(frames, len(slots))
        protection = self._random.choice(("rw", "rw", "r", "none"))
        with place.reservation.batch() as batch:
            batch.map(slots, chosen, protection)
        for slot, frame in zip(slots, chosen, strict=True):
            self._fill(place, slot, frame, protection)

    def _unmap(self) -> None:
        place = self._place()
        slots = self._some(list(place.shown))
        deferred = self._random.random() < 0.5
        with place.reservation.batch() as batch:
            batch.unmap(slots, deferred=deferred)
        self._vacate(place, slots, deferred)

    def _move(self) -> None:
        place = self._place()
        sources, targets = self._pairs(place)
        deferred = self._random.random() < 0.5
        with place.reservation.batch() as batch:
            batch.move(sources, targets, deferred=deferred)
        moved = [place.shown[slot] for slot in sources]
        self._vacate(place, sources, deferred)
        for slot, (frame, protection) in zip(targets, moved, strict=True):
            self._fill(place, slot, frame, protection)

    def _alias(self) -> None:
        place = self._place()
        sources, targets = self._pairs(place)
        with place.reservation.batch() as batch:
            batch.alias(sources, targets)
        for source, target in zip(sources, targets, strict=True):
            self._fill(place, target, *place.shown[source])

    def _swap(self) -> None:
        place = self._place()
        slots = self._some(list(place.shown))
        half = len(slots) // 2
        pairs = list(zip(slots[:half], slots[half : 2 * half], strict=True))
        with place.reservation.batch() as batch:
            batch.swap([a for a, _ in pairs], [b for _, b in pairs])
        for a, b in pairs:
            place.shown[a], place.shown[b] = place.shown[b], place.shown[a]
            self._look(place, a)
            self._look(place, b)

    def _protect(self) -> None:
        place = self._place()
        slots = self._some(list(place.shown))
        protection = self._random.choice(("rw", "r", "none"))
        with place.reservation.batch() as batch:
            batch.protect(slots, protection)
        for slot in slots:
            self._fill(place, slot, place.shown[slot][0], protection)

    def _retire(self) -> None:
        place = self._place()
        place.reservation.retire()
        for slot in place.deferred:
            self._must_trap(place, slot)
        place.empty += place.deferred
        place.deferred.clear()

    def _pairs(self, place: Place) -> tuple[list[int], list[int]]:
        sources, targets = self._some(list(place.shown)), self._some(place.empty)
        n = min(len(sources), len(targets))
        return sources[:n], targets[:n]

    def _fill(self, place: Place, slot: int, frame: int, protection: str) -> None:
        if slot in place.empty:
            place.empty.remove(slot)
        place.shown[slot] = (frame, protection)
        self._look(place, slot)

    def _vacate(self, place: Place, slots: list[int], deferred: bool) -> None:
        for slot in slots:
            del place.shown[slot]
            if place.reservation[slot] is not None:
                raise Mismatch(f"what slot {slot} shows after it was unmapped", None, place.reservation[slot])
            if deferred:
                place.deferred.append(slot)
            else:
                place.empty.append(slot)
                self._must_trap(place, slot)

    # ---- views, and what must be refused ------------------------------------------------

    def _view(self) -> None:
        with self._pool.open_view() as view:
            for frame in self._random.sample(list(self._stamps), min(len(self._stamps), 4)):
                self._read(view.address(frame), frame, f"through view {view.number}")
                self._stamp(frame, view.address(frame))
            view.retire()
            for frame in list(self._stamps)[:2]:
                found = self._probe.load(view.address(frame))
                if found is not None:
                    raise Mismatch(f"frame {frame} through view {view.number}, retired", "traps", found)

    def _misuse(self) -> None:
        """What must be refused, and change nothing."""
        place = self._place()
        if not place.shown:
            return
        slot, (frame, _) = self._random.choice(list(place.shown.items()))
        self._refused(FrameError, "giving a mapped frame", lambda: self._pool.give(frame))
        batch = place.reservation.batch()
        batch.map(slot, frame)
        self._refused(SlotError, "mapping to a slot that is taken", batch.commit)
        batch.abort()
        self._look(place, slot)

    def _refused(self, error: type[Exception], what: str, act: Callable[[], object]) -> None:
        try:
            act()
        except error:
            return
        raise Mismatch(what, error.__name__, "no error")


_OPERATIONS: dict[str, Callable[[Mapper], None]] = {
    "take": Mapper._take,
    "give": Mapper._give,
    "map": Mapper._map,
    "unmap": Mapper._unmap,
    "move": Mapper._move,
    "alias": Mapper._alias,
    "swap": Mapper._swap,
    "protect": Mapper._protect,
    "retire": Mapper._retire,
    "view": Mapper._view,
    "misuse": Mapper._misuse,
}
_WEIGHTS = {
    "take": 8, "give": 5, "map": 8, "unmap": 5, "move": 6, "alias": 3, "swap": 3, "protect": 3, "retire": 3,
    "view": 1, "misuse": 1,
}  # fmt: skip
