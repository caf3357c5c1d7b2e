"""When a pool that scales by itself grows and shrinks, and by how much: rules, and nothing else.

A ``Policy`` is given a ``Reading`` of how things stand and answers with a ``Decision``, or with None.
It looks at no file and no clock, so that it can be tested by readings that are made up.

**Shrinking** comes first. Somebody else is short of huge pages when fewer than ``leave_free`` are free.
Nobody says how many are wanted: the kernel refuses who asks for more than there are, and records
nothing. So the cushion is filled up again whenever somebody has taken from it, and each time within
a second to twice its size, up to 16 times: somebody who asks again for a second gets 31 cushions and more
(the first within a quarter of a second, the others every 50 ms: autoscale.py). Memory in general is
short when an event says so, or when a control group is near its limit; then a step is given back to the
system, if pages may go there. It is short as well when less than ``leave_memory`` is available, and
then it is known how much is missing: all of that is given back.

**Growing** is ahead of demand: when fewer than ``low`` frames are free, up to ``headroom`` of them.
Its marks are others than those of shrinking, or the two would chase each other: half as much again
as ``leave_free`` and ``leave_memory`` has to be left, and no pressure seen for ``calm`` seconds.

What cannot be done is a decision of no frames, once until something changes: pressure that comes again
before ``calm`` seconds have passed is the same.
"""

from dataclasses import dataclass

from mrm.sizes import format_size

#: The cushion grows to this many times its size, at the most (as a shift).
_MOST_DOUBLINGS = 4

#: Seconds after which somebody who took from the cushion has enough, and until frames that all turned
#: out to be promised are asked for again.
A_WHILE = 1.0


@dataclass(frozen=True)
class Marks:
    """What was asked for, in frames.

    Attributes
    ----------
    frame_size : int
        Bytes of a frame.
    minimum, maximum : int
        Frames that the pool has memory for, at the least and at the most.
    headroom, low : int
        Free frames to grow to, and those below which it grows.
    step : int
        Frames at a time.
    leave_free : int
        Huge pages of the kernel's to be left to others.
    calm : float
        Seconds without pressure before it grows.
    huge : bool
        Whether the pool consists of huge pages, which come out of the kernel's pool of them.
    to : str
        ``"pool"`` or ``"system"``: where pages may go when memory in general is short.
    leave_memory : int
        Ordinary memory to be left to the rest of the machine; 0 for as much as there happens to be.
    """

    frame_size: int
    minimum: int
    maximum: int
    headroom: int
    low: int
    step: int
    leave_free: int
    calm: float
    huge: bool
    to: str
    leave_memory: int = 0


@dataclass(frozen=True)
class Near:
    """A limit, and how far it is.

    Attributes
    ----------
    name : str
        The file that it stands in.
    kind : str
        ``"memory"`` or ``"huge pages"``.
    left : int
        Frames until then.
    margin : int
        Frames that are to be left.
    gives : bool
        Whether the pool shrinks when fewer are; else it only does not grow.
    """

    name: str
    kind: str
    left: int
    margin: int
    gives: bool = True


@dataclass(frozen=True)
class Reading:
    """How things stand.

    Attributes
    ----------
    time : float
        Seconds, of any clock that goes forward.
    funded, free, spare, inflated : int
        Frames that have memory; those of them that may be taken; those that no old address shows,
        either; and frames that have no memory.
    available : int or None
        Huge pages of the kernel's that are to be had; None for a pool that does not consist of them.
    surplus : int
        Pages that the kernel frees by itself when they are given back.
    makes : bool
        Whether ``available`` has pages in it that the kernel would make of ordinary memory.
    refused : int
        Huge pages that the kernel could not make for somebody since the last reading.
    limits : tuple of Near
        Limits that count.
    events : tuple of (str, str)
        What has happened: kind, and in words.
    memory : int or None
        Ordinary memory that is available; None where it is not known, or not asked for.
    """

    time: float
    funded: int
    free: int
    spare: int
    inflated: int
    available: int | None = None
    surplus: int = 0
    makes: bool = False
    refused: int = 0
    limits: tuple[Near, ...] = ()
    events: tuple[tuple[str, str], ...] = ()
    memory: int | None = None


@dataclass(frozen=True)
class Decision:
    """What to do.

    Attributes
    ----------
    action : str
        ``"shrink"``, ``"grow"`` or ``"stay"``.
    frames : int
        How many.
    where : str
        ``"pool"`` or ``"system"``: where pages go, or come from.
    reason : str
        Why, with figures.
    partly : bool
        Whether more is wanted than a step.
    """

    action: str
    frames: int
    where: str
    reason: str
    partly: bool = False


class Policy:
    """The rules, with what they have to remember.

    Parameters
    ----------
    marks : Marks
        What was asked for.
    """

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._pressed: float | None = None  # when there was pressure last
        self._streak = 0  # readings with fewer pages free than the cushion, a while not between
        self._held_until = float("-inf")  # growing has failed: not before
        self._kept_until = float("-inf")  # shrinking has
        self._growing = False  # towards the headroom, in steps
        # The last decision of no frames, of each branch: they are asked one after the other, with every reading.
        self._said: dict[str, str] = {}
        self._unable: float | None = None  # when memory was short last, and nothing could be done for it
        self._sent = 0  # huge pages that went on to the system
        self._dry_until = float("-inf")  # the system had none: not before

    def decide(self, reading: Reading) -> Decision | None:
        """What to do now; None if nothing is to be done, nor to be said."""
        shortage = self._shortage_of_pages(reading) or self._shortage_of_memory(reading)
        if shortage is not None:
            if self._is_past(self._pressed, reading.time):
                self._said.pop("shrink", None)
            self._pressed = reading.time
            self._growing = False
            return self._shrink(reading, *shortage)
        if unable := self._unable_to_help(reading):
            return unable
        if reading.funded > self._marks.maximum:
            over = reading.funded - self._marks.maximum
            return self._shrink(reading, over, self._marks.to, f"{over} frames above the maximum")
        return self._grow(reading)

    def done(self, decision: Decision, frames: int, time: float) -> None:
        """Take note of what came of a decision."""
        if decision.action == "grow" and frames < decision.frames:
            if decision.where == "system" and self._sent:
                self._dry_until = time + self._marks.calm  # the kernel's pool may have some
            else:
                self._held_until = time + self._marks.calm
                self._growing = False
        if decision.action == "shrink" and not frames:
            # Promised to accounts, all of them, or not in the common list: that changes, but not at once.
            self._kept_until = time + A_WHILE
        if decision.where == "system" and self._marks.huge:
            self._sent += frames if decision.action == "shrink" else -frames
            self._sent = max(0, self._sent)

    # ---- shrinking ---------------------------------------------------------------------

    def _shortage_of_pages(self, reading: Reading) -> tuple[int, str, str] | None:
        """Huge pages that somebody else is short of: how many, where to, why."""
        cushion = self._marks.leave_free
        wanted, reason = 0, ""
        if reading.available is not None and cushion:
            if reading.available < cushion or reading.refused:
                target = cushion << min(self._streak, _MOST_DOUBLINGS)
                self._streak += 1
                # Where the kernel has refused somebody, what is free was too little, however much it is.
                wanted = max(target - reading.available, cushion if reading.refused else 0)
                reason = f"{reading.available} huge pages are to be had, {target} are to be left"
                if reading.refused:
                    reason += f", and the kernel could not make {reading.refused} for somebody"
            elif self._pressed is None or reading.time - self._pressed >= A_WHILE:
                self._streak = 0
        for near in reading.limits:
            if near.kind == "huge pages" and near.gives and near.margin - near.left > wanted:
                wanted, reason = near.margin - near.left, self._too_near(near)
        for kind, words in reading.events:
            if kind == "huge pages" and not wanted:
                wanted, reason = self._marks.step, words
        return (wanted, "pool", reason) if wanted else None

    def _shortage_of_memory(self, reading: Reading) -> tuple[int, str, str] | None:
        """The same of memory in general, if what this pool gives back becomes ordinary memory."""
        found = self._memory_is_short(reading)
        if found is None or self._marks.to == "system":
            return None if found is None else (found[0], "system", found[1])
        if reading.surplus:
            return min(found[0], reading.surplus), "pool", f"{found[1]}; surplus pages become ordinary memory"
        # Pages that the kernel would make for us are not fetched now.
        return (0, "pool", found[1]) if reading.makes else None

    def _memory_is_short(self, reading: Reading) -> tuple[int, str] | None:
        missing = 0 if reading.memory is None else max(0, self._marks.leave_memory - reading.memory)
        for kind, words in reading.events:
            if kind == "memory":
                return max(self._marks.step, missing), f"memory is short: {words}"
        if reading.memory is not None and missing:
            return missing, self._too_little(reading.memory, self._marks.leave_memory)
        for near in reading.limits:
            if near.kind == "memory" and near.gives and near.left < near.margin:
                return min(near.margin - near.left, self._marks.step), self._too_near(near)
        return None

    def _unable_to_help(self, reading: Reading) -> Decision | None:
        """What is said where memory is short, and pages go to the kernel's pool of huge pages only."""
        found = self._memory_is_short(reading)
        if found is None:
            return None
        if self._is_past(self._unable, reading.time):
            self._said.pop("help", None)
        self._unable = reading.time
        said = f'{found[1]}; with to="pool" nothing is sent on to the system'
        return self._stay("help", "short", said)

    def _is_past(self, pressed: float | None, now: float) -> bool:
        """Whether what pressed then is over, so that the next is another pressure, of which is told again."""
        return pressed is None or now - pressed >= max(self._marks.calm, A_WHILE)

    def _shrink(self, reading: Reading, wanted: int, where: str, reason: str) -> Decision | None:
        if not wanted:
            return self._stay("shrink", "waits", f"{reason}; it does not grow meanwhile")
        if reading.funded <= self._marks.minimum:
            said = f"{reason}; the pool is at its minimum of {self._size(reading.funded)}"
            return self._stay("shrink", "minimum", said)
        if reading.spare <= 0:
            return self._stay("shrink", "held", f"{reason}; every frame is held, or shown by an old address")
        if reading.time < self._kept_until:
            return None  # what came of the last attempt has been said
        self._said.pop("shrink", None)
        frames = min(wanted, reading.funded - self._marks.minimum, reading.spare)
        return Decision("shrink", frames, where, reason)

    # ---- growing -----------------------------------------------------------------------

    def _grow(self, reading: Reading) -> Decision | None:
        marks = self._marks
        if reading.funded < marks.minimum:
            wanted, reason = marks.minimum - reading.funded, f"{reading.funded} frames are below the minimum"
        elif reading.free < (marks.headroom if self._growing else marks.low):
            wanted = marks.headroom - reading.free
            reason = f"{reading.free} frames are free, {marks.headroom} are to be"
        else:
            self._growing = False
            self._said.pop("grow", None)
            return None
        wanted = min(wanted, reading.inflated, marks.maximum - reading.funded)
        if wanted <= 0:
            said = f"{reason}; the pool has all {self._size(reading.funded)} that it may"
            return self._stay("grow", "maximum", said)
        if self._pressed is not None and reading.time - self._pressed < marks.calm:
            said = f"{reason}; it waits until {marks.calm:g} s have passed without pressure"
            return self._stay("grow", "calm", said)
        if reading.time < self._held_until:
            return None  # what came of the last attempt has been said
        frames, where, limit = self._room(reading, min(wanted, marks.step))
        if frames <= 0:
            return self._stay("grow", "room", f"{reason}; {limit}")
        self._growing = True
        self._said.pop("grow", None)
        return Decision("grow", frames, where, reason, partly=frames < wanted)

    def _room(self, reading: Reading, wanted: int) -> tuple[int, str, str]:
        """How many frames there is room for, where they come from, and what is in the way of more."""
        where, limit = "system", ""
        if reading.available is not None:
            if self._sent and reading.time >= self._dry_until:
                # Back from where it went: then the kernel's pool is what the administrator wanted.
                left = self._sent
            else:
                where, limit = "pool", f"of {reading.available} huge pages too few would be left"
                left = reading.available - self._marks.leave_free - self._marks.leave_free // 2
            wanted = min(wanted, left)
        if reading.memory is not None and (where == "system" or reading.makes):
            # Pages of the kernel's pool are not memory that is available, before or after.
            leave = self._marks.leave_memory + self._marks.leave_memory // 2
            if reading.memory - leave < wanted:
                wanted, limit = reading.memory - leave, self._too_little(reading.memory, leave)
        for near in reading.limits:
            if near.left - near.margin < wanted:
                wanted, limit = near.left - near.margin, self._too_near(near)
        return wanted, where, limit

    # ---- words -------------------------------------------------------------------------

    def _stay(self, branch: str, key: str, reason: str) -> Decision | None:
        """A decision of no frames; None if it was the last one of its branch, too."""
        if self._said.get(branch) == key:
            return None
        self._said[branch] = key
        return Decision("stay", 0, "", reason)

    def _too_near(self, near: Near) -> str:
        return f"{near.name} leaves {self._size(near.left)}, {self._size(near.margin)} are to be left"

    def _too_little(self, memory: int, leave: int) -> str:
        return f"{self._size(memory)} of memory are available, {self._size(leave)} are to be left"

    def _size(self, frames: int) -> str:
        return format_size(frames * self._marks.frame_size)
