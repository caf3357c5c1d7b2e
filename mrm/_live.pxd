"""Handles that are alive in this process, by kind."""

cdef enum:
    LIVE_POOLS = 0
    LIVE_VIEWS
    LIVE_RESERVATIONS
    LIVE_BATCHES
    LIVE_ATTACHMENTS
    LIVE_HEAPS
    LIVE_KINDS


cdef void live_changed(int kind, int by) noexcept nogil
