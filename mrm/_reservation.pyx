"""Reservations as Python sees them.

What changes them is a batch (_batch.pyx); here they are opened and closed, and their slots
looked at. Exported buffers pin their slots: batches from Python leave those alone.

Without a GIL methods run in their object's critical section (see _core.pyx).
"""

import warnings

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from mrm cimport (
    MRM_PROT_NONE, MRM_PROT_READ_WRITE, MRM_SLOT_DEFERRED, MRM_SLOT_EMPTY, MRM_SLOT_SHOWN, mrm_slot,
)
from mrm._batch cimport PROTECTION_NAMES, Report, Slots, make_batch
from mrm._live cimport LIVE_RESERVATIONS, live_changed
from mrm._view cimport index, make_buffer
from mrm.errors import ArgumentError, ClosedError, PinnedError, SlotError
from mrm.physical.pool cimport pool_release, pool_retain, pool_t, pool_usable
from mrm.space.commit cimport reservation_retire
from mrm.space.reservation cimport (
    reservation_address, reservation_close, reservation_open, reservation_release, reservation_retain,
    reservation_slot, reservation_t,
)
from mrm.stats import Mapping
from mrm.system.failure cimport check
from mrm.system.ranges cimport STATE_FORKED, STATE_OPEN


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)

cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef class Reservation(Slots):
    """A range of slots in which any slot can show any frame; ``pool.reserve(slots)``.

    Slots are changed by batches and looked at by indexing. Batches of one reservation
    are carried out one after another, those of different ones side by side.

    A context manager: it closes the reservation at its end.
    """

    def __init__(self):
        raise TypeError("a reservation is made by its pool: use pool.reserve(slots)")

    cdef reservation_t *open_one(self) except NULL:
        if self.reservation == NULL:
            raise ClosedError("the reservation is closed")
        if self.reservation.state == STATE_FORKED:
            check(pool_usable(self.reservation.pool))
        return self.reservation

    def __del__(self):
        if self.reservation != NULL and self.reservation.state == STATE_OPEN:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self)

    def __dealloc__(self):
        if self.reservation != NULL:
            live_changed(LIVE_RESERVATIONS, -1)
            reservation_close(self.reservation)
            self.reservation = NULL

    @property
    @cython.critical_section
    def base(self):
        """Address of slot 0, as an int."""
        return <uint64_t>self.open_one().base

    @property
    @cython.critical_section
    def number(self):
        """Its number in this process, from 1; what ``mrm.classify`` says."""
        return self.open_one().number

    @property
    def closed(self):
        """Whether it was closed."""
        return self.reservation == NULL

    @property
    @cython.critical_section
    def deferred(self):
        """Slots that wait for ``retire()``."""
        return mrm_load32(&self.open_one().deferred)

    @property
    def pool(self):
        """The pool whose frames it shows."""
        return self.owner

    @cython.critical_section
    def __len__(self):
        """Slots that it has."""
        return self.open_one().slots

    def __iter__(self):
        raise TypeError("a reservation is not iterable: its slots are range(len(reservation))")

    @cython.critical_section
    def address(self, slot):
        """Where a slot lies, as an int, whether it shows something or not.

        Raises
        ------
        SlotError
            If there is no such slot.
        """
        cdef uint32_t s = self._slot(slot)
        return <uint64_t>reservation_address(self.open_one(), s)

    cdef uint32_t _slot(self, slot) except? 0xFFFFFFFF:
        """A slot of this reservation, checked; what __index__ does comes before the pointer."""
        cdef Py_ssize_t s = index(slot)
        cdef reservation_t *r = self.open_one()
        if not 0 <= s < r.slots:
            number, last = r.number, r.slots - 1
            raise SlotError(f"slot {slot} is none of reservation {number}'s: they are 0 to {last}")
        return <uint32_t>s

    @cython.critical_section
    def __getitem__(self, slot):
        """What a slot shows.

        Returns
        -------
        int or None
            The frame; None if the slot shows nothing, or only until the next retire.
        """
        cdef mrm_slot shown
        cdef uint32_t s = self._slot(slot)
        check(reservation_slot(self.open_one(), s, &shown))
        return shown.frame if shown.state != MRM_SLOT_EMPTY and shown.state != MRM_SLOT_DEFERRED else None

    @cython.critical_section
    def mapping(self, slot):
        """All that is known of a slot.

        Returns
        -------
        mrm.Mapping or None
            None if the slot shows nothing.
        """
        cdef mrm_slot shown
        cdef uint32_t s = self._slot(slot)
        check(reservation_slot(self.open_one(), s, &shown))
        if shown.state == MRM_SLOT_EMPTY:
            return None
        return Mapping(
            "reservation", self.open_one().number, s, shown.address, PROTECTION_NAMES[shown.protection],
            shown.state == MRM_SLOT_DEFERRED,
        )

    def buffer(self, slot):
        """A memoryview of what a slot shows, writable if the slot is.

        While it lives the slot is pinned: batches from Python that would change it
        raise PinnedError, and so does close. Batches from C do not ask.

        Raises
        ------
        SlotError
            If the slot shows nothing that can be read, or only until the next retire.
        """
        cdef mrm_slot shown
        cdef uint32_t s
        cdef Py_ssize_t nbytes
        with cython.critical_section(self):
            s = self._slot(slot)
            check(reservation_slot(self.open_one(), s, &shown))
            nbytes = self.reservation.pool.layout.frame_size
        if shown.state == MRM_SLOT_EMPTY or shown.protection == MRM_PROT_NONE:
            raise SlotError(f"slot {slot} shows nothing that can be read")
        if shown.state == MRM_SLOT_DEFERRED:
            # Any retire of the pool ends it, and does not ask who looks.
            raise SlotError(
                f"slot {slot} was unmapped, deferred until the next retire: look at another slot of its frame"
            )
        return make_buffer(
            self, <void *>shown.address, nbytes, shown.protection != MRM_PROT_READ_WRITE, s
        )       # which looks once more

    @cython.critical_section
    def _exported(self, slot, readonly):
        cdef mrm_slot shown
        cdef uint32_t s = slot
        while self.busy:            # a batch that began before may change the slot
            with nogil:
                sched_yield()
        check(reservation_slot(self.open_one(), s, &shown))
        if shown.state != MRM_SLOT_SHOWN or shown.protection == MRM_PROT_NONE:
            raise SlotError(f"slot {s} shows nothing that can be read")
        if shown.protection != MRM_PROT_READ_WRITE and not readonly:
            raise SlotError(f"slot {s} is mapped for reading only")
        self.pinned[s] = self.pinned.get(s, 0) + 1

    @cython.critical_section
    def _released(self, slot):
        self.pinned[slot] -= 1
        if not self.pinned[slot]:
            del self.pinned[slot]

    @cython.critical_section
    def batch(self, *, measure=False):
        """Begin a batch of changes.

        Use it as a context manager: its end commits, an exception aborts.

        Parameters
        ----------
        measure : bool, optional
            Count shootdowns while it commits (``report.shootdowns_measured``); reading
            the counter costs some 100 us.
        """
        return make_batch(self, self.open_one(), measure)

    @cython.critical_section
    def retire(self):
        """Take every deferred alias away: from now on their addresses trap.

        One call and one invalidation where nothing else is mapped among them; for
        scattered ones the cheaper of run by run and emptying their mapping once.

        Returns
        -------
        Report

        Raises
        ------
        SystemCallError
            If the kernel refused; then all aliases are still there.
        """
        cdef Report report = Report.__new__(Report)
        cdef reservation_t *r = self.open_one()
        cdef int status
        reservation_retain(r)       # another thread may close it while the GIL is away
        with nogil:
            status = reservation_retire(r, &report.figures)
            reservation_release(r)
        check(status)
        return report

    @cython.critical_section
    def close(self):
        """End every mapping and give the addresses back: one shootdown, one unmapping.

        Frames that were shown stay held by whoever took them. Closing twice does nothing.

        Raises
        ------
        PinnedError
            If exported buffers look at its slots.
        """
        cdef reservation_t *r = self.reservation
        cdef int status
        if r == NULL:
            return
        if self.pinned and r.state == STATE_OPEN:
            raise PinnedError(
                f"cannot close reservation {r.number}: exported buffers look at slots {list(self.pinned)}"
            )
        self.reservation = NULL
        with nogil:
            status = reservation_close(r)
        if status:
            self.reservation = r
        check(status)
        live_changed(LIVE_RESERVATIONS, -1)

    def check(self):
        """Compare the table with /proc/self/maps and the page map, for tests and doubters.

        Raises
        ------
        AuditError
            Naming the first slot that is not what the table says.
        """
        from mrm.verify import check_reservation

        check_reservation(self)

    @cython.critical_section
    def __enter__(self):
        self.open_one()
        return self

    def __exit__(self, *exception):
        self.close()

    @cython.critical_section
    def __repr__(self):
        if self.reservation == NULL:
            return "<mrm.Reservation closed>"
        if self.reservation.state == STATE_FORKED:
            return f"<mrm.Reservation {self.reservation.number} of the parent process>"
        return (
            f"<mrm.Reservation {self.reservation.number}: {self.reservation.slots} slots "
            f"at {<uint64_t>self.reservation.base:#x}>"
        )


cdef Reservation make_reservation(object owner, void *pool, uint64_t slots, uint64_t where):
    """Reserve slots in a pool."""
    cdef Reservation made
    cdef int status
    pool_retain(<pool_t *>pool)     # another thread may close the Pool while the GIL is away
    made = Reservation.__new__(Reservation)
    made.pinned = {}
    made.owner = owner
    with nogil:
        status = reservation_open(<pool_t *>pool, slots, where, &made.reservation)
        pool_release(<pool_t *>pool)
    check(status)
    live_changed(LIVE_RESERVATIONS, 1)
    return made


cdef uint64_t check_reservation(object slots, object at, uint64_t *where) except 0:
    """How many slots are asked for, and where (0 for anywhere), checked."""
    if isinstance(slots, bool) or not hasattr(slots, "__index__") or not 0 < slots.__index__() < 2**31:
        raise ArgumentError(f"a reservation has 1 to {2**28} slots, not {slots!r}")
    if at is not None:
        if not isinstance(at, int) or not 0 < at < 2**63:
            raise ArgumentError(f"at= is an address, not {at!r}")
        where[0] = at
    return slots.__index__()
