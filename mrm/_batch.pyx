"""Batches as Python sees them, and the reports of what they did.

Everything that costs time is in mrm/space and runs without the GIL; here arguments
become arrays, and statuses exceptions. A batch knows its reservation as ``Slots``: which
of them buffers look at, and whether a batch is being carried out.

Without a GIL methods run in their object's critical section (see _core.pyx). A batch
that commits looks at its reservation's pins and says that it is busy in both sections
at once: whoever makes a buffer is either seen, or waits.
"""

cimport cython
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from mrm cimport (
    MRM_DEFERRED, MRM_MISSING_OK, MRM_OVERDRAFT, MRM_PROT_NONE, MRM_PROT_READ, MRM_PROT_READ_WRITE, MRM_ZEROED,
)
from mrm._arrays cimport Numbers, new_array, numbers, own_numbers
from mrm._live cimport LIVE_BATCHES, live_changed
from mrm._ways import lack
from mrm.errors import ArgumentError, ClosedError, PinnedError
from mrm.physical.pool cimport pool_usable
from mrm.space.batch cimport (
    OP_MOVE, OP_SWAP, batch_abort, batch_alias, batch_begin, batch_map, batch_map_from, batch_move, batch_protect,
    batch_swap, batch_t, batch_unmap,
)
from mrm.space.commit cimport batch_commit
from mrm.space.plan cimport STEP_ADVISE, STEP_MREMAP, plan_batch, plan_withdraw, step_name
from mrm.space.reservation cimport reservation_enter, reservation_leave, reservation_t, step_t
from mrm.system.failure cimport check
from mrm.system.features import NAMES as _FEATURES
from mrm.system.ranges cimport STATE_FORKED


cdef dict PROTECTIONS = {"rw": MRM_PROT_READ_WRITE, "r": MRM_PROT_READ, "none": MRM_PROT_NONE}
cdef dict PROTECTION_NAMES = {value: name for name, value in PROTECTIONS.items()}


cdef int _protection(object name) except -1:
    try:
        return PROTECTIONS[name]
    except (KeyError, TypeError):
        raise ArgumentError(f"a protection is 'rw', 'r' or 'none', not {name!r}") from None


cdef class Report:
    """What a commit or a retire did.

    Attributes
    ----------
    shootdowns_measured : int or None
        Counted while it ran, if the batch was made with ``measure=True``.
    measured_by : str or None
        What counted them.
    """

    def __init__(self):
        raise TypeError("a report is made by a commit or a retire")

    @property
    def pages(self):
        """Slots changed."""
        return self.figures.pages

    @property
    def runs(self):
        """Runs of slots and frames that they were changed in."""
        return self.figures.runs

    @property
    def system_calls(self):
        """Calls made."""
        return self.figures.system_calls

    @property
    def shootdowns(self):
        """Invalidations that the plan predicted."""
        return self.figures.shootdowns

    @property
    def seconds(self):
        """From the first call to the last."""
        return self.figures.nanoseconds * 1e-9

    def __repr__(self):
        return (
            f"Report(pages={self.pages}, runs={self.runs}, system_calls={self.system_calls}, "
            f"shootdowns={self.shootdowns}, seconds={self.seconds:.9f}, "
            f"shootdowns_measured={self.shootdowns_measured})"
        )


cdef class Slots:
    """What a batch has to know of its reservation; the base of Reservation."""


cdef class Batch:
    """Changes to a reservation that are committed together; ``reservation.batch()``.

    Adding notes the change and looks at nothing; ``commit`` checks all of it first, and
    then carries it out, or raises and has changed nothing. In a batch a slot may be
    vacated once and filled once, so that pages can slide along; anything more is an
    error. Slots and frames are an int each, or arrays of the same length.

    Attributes
    ----------
    report : Report or None
        What the last commit did.
    """

    def __init__(self):
        raise TypeError("a batch is made by its reservation: use reservation.batch()")

    def __dealloc__(self):
        if self.batch != NULL:
            live_changed(LIVE_BATCHES, -1)
            self._keep_pinned(self.batch)
            batch_abort(self.batch)
            self.batch = NULL

    cdef batch_t *open_one(self) except NULL:
        if self.batch == NULL:
            raise ClosedError("the batch is over: begin another one")
        if self.batch.reservation.state == STATE_FORKED:
            check(pool_usable(self.batch.reservation.pool))
        return self.batch

    @cython.critical_section
    def map(self, slots, frames=None, protection="rw", *, account=None, overdraft=False, zeroed=False):
        """Let empty slots show held frames, or frames that an account pays for.

        Parameters
        ----------
        slots, frames : int or array of int
            Of the same length.
        protection : {"rw", "r", "none"}, optional
        account : Account or str, optional
            Without ``frames``: take as many as there are slots from this account, now.
        overdraft, zeroed : bool, optional
            As ``account.take`` has them.

        Returns
        -------
        array.array('I') or None
            The frames that were taken. The batch gives them back when it is aborted, or
            dropped; once it is committed they are held, and yours to give.

        Raises
        ------
        OutOfFrames
            If the account was not promised as many; then none is taken, and nothing noted.
        """
        cdef Numbers s, f
        cdef int how = _protection(protection)
        if (frames is None) == (account is None):
            raise ArgumentError("map either frames, or frames of an account: one of the two is needed")
        if account is not None:
            return self._map_from(own_numbers(slots, "slots"), account, overdraft, zeroed, how)
        if overdraft or zeroed:
            raise ArgumentError("overdraft= and zeroed= are for frames that are taken: name an account, and no frames")
        s, f = numbers(slots, "slots"), numbers(frames, "frames")
        _same_length(s, f)
        check(batch_map(self.open_one(), s.data, f.data, s.n, how))

    cdef object _map_from(self, Numbers s, account, overdraft, zeroed, int protection):
        """Map frames that are taken from an account."""
        from mrm._accounts import account_in

        cdef uint32_t number = account_in(self.reservation.owner, account)
        cdef int how = (MRM_OVERDRAFT if overdraft else 0) | (MRM_ZEROED if zeroed else 0)
        cdef batch_t *batch = self.open_one()
        cdef uint32_t *taken
        cdef int status
        frames = new_array(min(s.n, <size_t>batch.reservation.pool.layout.frame_count), &taken)
        batch = self.open_one()
        self.batch = NULL               # until it is done, for other threads and for callbacks it is over
        with nogil:
            status = batch_map_from(batch, number, how, s.data, s.n, protection, taken)
        self.batch = batch
        check(status)
        return frames

    @cython.critical_section
    def unmap(self, slots, *, deferred=False, missing_ok=False):
        """Let slots show nothing, so that any access traps.

        Parameters
        ----------
        slots : int or array of int
        deferred : bool, optional
            Leave the alias until the next retire and let the frame be given now: no
            invalidation, no system call.
        missing_ok : bool, optional
            Pass over slots that show nothing.
        """
        cdef Numbers s = numbers(slots, "slots")
        check(batch_unmap(
            self.open_one(), s.data, s.n, (MRM_DEFERRED if deferred else 0) | (MRM_MISSING_OK if missing_ok else 0)
        ))

    @cython.critical_section
    def move(self, sources, targets, *, deferred=False):
        """Let targets show what sources show, and sources nothing.

        Parameters
        ----------
        sources, targets : int or array of int
            Slots, of the same length.
        deferred : bool, optional
            As for ``unmap``: the sources show their frames until the next retire.
        """
        cdef Numbers s = numbers(sources, "slots"), t = numbers(targets, "slots")
        _same_length(s, t)
        check(batch_move(self.open_one(), s.data, t.data, s.n, MRM_DEFERRED if deferred else 0))

    @cython.critical_section
    def alias(self, sources, targets):
        """Let targets show what sources show, too.

        Parameters
        ----------
        sources, targets : int or array of int
            Slots, of the same length.
        """
        cdef Numbers s = numbers(sources, "slots"), t = numbers(targets, "slots")
        _same_length(s, t)
        check(batch_alias(self.open_one(), s.data, t.data, s.n))

    @cython.critical_section
    def swap(self, slots, others):
        """Let each slot and its other change places, protection included.

        Parameters
        ----------
        slots, others : int or array of int
            Of the same length.
        """
        cdef Numbers s = numbers(slots, "slots"), t = numbers(others, "slots")
        _same_length(s, t)
        check(batch_swap(self.open_one(), s.data, t.data, s.n))

    @cython.critical_section
    def protect(self, slots, protection):
        """Let slots be accessed this way and no other.

        Parameters
        ----------
        slots : int or array of int
        protection : {"rw", "r", "none"}
        """
        cdef Numbers s = numbers(slots, "slots")
        check(batch_protect(self.open_one(), s.data, s.n, _protection(protection)))

    @cython.critical_section
    def __len__(self):
        """Changes noted."""
        return self.open_one().count

    cdef int _check_pins(self) except -1:
        cdef size_t i
        for i in range(self.batch.count):
            for slot in (self.batch.ops[i].slot, self.batch.ops[i].source):
                if slot in self.reservation.pinned and (
                    slot == self.batch.ops[i].slot or self.batch.ops[i].op in (OP_MOVE, OP_SWAP)
                ):
                    raise PinnedError(f"an exported buffer looks at slot {slot}: release it before the slot changes")
        return 0

    def commit(self):
        """Check the whole batch, then carry it out; afterwards it is empty and serves again.

        Costs the system calls that ``explain()`` shows, and 1 us besides.

        Returns
        -------
        Report

        Raises
        ------
        SlotError, FrameError
            If something in it cannot be; nothing was changed.
        AddressSpaceError
            If it needs more mappings than vm.max_map_count leaves; nothing was changed.
        PinnedError
            If an exported buffer looks at a slot that it changes.
        SystemCallError
            If the kernel refused; what had been done was undone.
        InconsistentError
            If undoing failed, too; the message says which slots show what.
        """
        cdef batch_t *batch
        cdef Report report = Report.__new__(Report)
        cdef int status
        counter = None
        if self.measure:
            from mrm.shootdowns import shootdowns

            counter = shootdowns()
            counter.__enter__()
        with cython.critical_section(self, self.reservation):
            batch = self.open_one()
            if self.reservation.pinned:
                self._check_pins()
            self.batch = NULL           # until it is done, for other threads it is over
            self.reservation.busy += 1  # ... and no buffer of its slots is made
        with nogil:
            status = batch_commit(batch, &report.figures)
        with cython.critical_section(self, self.reservation):
            self.reservation.busy -= 1
            self.batch = batch
        if counter is not None:
            counter.__exit__(None, None, None)
            report.shootdowns_measured = counter.count
            report.measured_by = counter.source
        check(status)
        with cython.critical_section(self):
            self.report = report
        return report

    cdef int _keep_pinned(self, batch_t *batch) except -1:
        """Leave frames that were taken for the batch, and that an exported buffer looks at, to the caller; how many."""
        cdef size_t i
        cdef int kept = 0
        if self.reservation is None:    # cleared before it, as a part of the same rubbish: and so are buffers
            return 0
        for i in range(batch.count):
            if batch.ops[i].taken and self.reservation.owner._is_pinned(batch.ops[i].source):
                batch.ops[i].taken = 0
                kept += 1
        return kept

    @cython.critical_section
    def abort(self):
        """Forget what was not committed; ends the batch. Aborting twice does nothing.

        Frames that an account paid for are given back, but for those that an exported buffer
        looks at: they stay held, and are the caller's to give.
        """
        cdef batch_t *batch = self.batch
        if batch != NULL:
            self.batch = NULL
            self._keep_pinned(batch)
            with nogil:
                batch_abort(batch)
            live_changed(LIVE_BATCHES, -1)

    def explain(self):
        """The plan of what was noted so far, as text: steps, system calls, shootdowns.

        A line a step, and one for each feature of the kernel that the plan would use and has
        to do without. Checks the batch as commit does, and changes nothing.
        """
        cdef batch_t *batch
        cdef reservation_t *r
        cdef step_t *steps = NULL
        cdef const step_t *step
        cdef size_t i, n = 0, changes = 0, runs = 0
        cdef uint32_t without = 0
        cdef int status
        # The plan is copied, since no Python may run under the reservation's lock: it could
        # let go of the GIL, and whoever has it then could wait for the lock.
        with cython.critical_section(self):
            batch = self.open_one()
            r = batch.reservation
            check(reservation_enter(r))
            status = plan_batch(batch)
            if status == 0:
                n, changes, runs = r.plan.step_count, r.plan.change_count, r.plan.runs
                without = r.plan.without
                steps = <step_t *>malloc((n + 1) * sizeof(step_t))
                if steps != NULL:
                    memcpy(steps, r.plan.steps, n * sizeof(step_t))
                plan_withdraw(r)
            reservation_leave(r)
        check(status)
        if steps == NULL:
            raise MemoryError
        calls = shoots = 0
        lines = []
        try:
            for i in range(n):
                step = &steps[i]
                many = 2 if step.kind == STEP_MREMAP or step.kind == STEP_ADVISE else 1
                calls += many
                shoots += step.shoots
                lines.append(_describe(step, many))
        finally:
            free(steps)
        lines += [lack(name) for i, name in enumerate(_FEATURES) if without >> i & 1]
        title = f"{changes} slots change in {runs} runs"
        return "\n".join([f"{title}: {calls} system calls, {shoots} shootdowns expected", *lines])

    @cython.critical_section
    def __enter__(self):
        self.open_one()
        return self

    def __exit__(self, kind, value, traceback):
        try:
            if kind is None and self.batch != NULL:     # it may have been aborted inside
                self.commit()
        finally:
            self.abort()


cdef str _describe(const step_t *step, int calls):
    """One line of explain()."""
    name = step_name(step.kind).decode()
    span = f"slot {step.first}" if step.n == 1 else f"slots {step.first}-{step.first + step.n - 1}"
    what = ""
    if name in ("map", "replace", "mremap", "mprotect"):
        frames = f"frame {step.frame}" if step.n == 1 else f"frames {step.frame}-{step.frame + step.n - 1}"
        what = f" {frames} {PROTECTION_NAMES[step.protection]}"
        if name == "mremap":
            what += f" from slot {step.source}"
        elif step.populate:
            what += ", populated"
    return f"  {name:<9} {span}{what}: {calls} call{'s' if calls > 1 else ''}, {step.shoots} shootdowns"


cdef int _same_length(Numbers a, Numbers b) except -1:
    if a.n != b.n:
        raise ArgumentError(f"two arrays of the same length are needed, not {a.n} and {b.n}")
    return 0


cdef Batch make_batch(Slots slots, reservation_t *reservation, bint measure):
    """Begin a batch of changes to a reservation that is open."""
    cdef Batch batch = Batch.__new__(Batch)
    check(batch_begin(reservation, &batch.batch))
    batch.reservation = slots
    batch.measure = measure
    live_changed(LIVE_BATCHES, 1)
    return batch
