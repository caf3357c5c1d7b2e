"""From a size to a pool: funding, in Python, and the pool made of what it got.

Both ways to a pool go through here: the class Pool and the C table's pool_open.
"""

import os
from time import monotonic

from libc.stdint cimport uint32_t

from mrm._arrays cimport Numbers, own_numbers
from mrm._nodes cimport follow_node, nodes_made
from mrm._ways import describe
from mrm.errors import ArgumentError
from mrm.physical.backings import NAMES
from mrm.physical.funding import fund
from mrm.physical.holding cimport frames_bring, frames_hold_first
from mrm.physical.ledger cimport ledger_publish, ledger_t
from mrm.physical.limits import overcommit_memory
from mrm.physical.nodes cimport nodes_t
from mrm.physical.pool cimport pool_describe, pool_fill_tables, pool_open, pool_release, pool_t
from mrm.sizes import parse_size
from mrm.space.views cimport views_attach
from mrm.system.calls cimport call_name, is_fake
from mrm.system.events import event
from mrm.system.failure cimport check
from mrm.system.pages import frame_size


cdef str why_unseen(const ledger_t *ledger):
    """Why the books of a pool are private; an empty string if they can be watched."""
    if ledger.fd >= 0 or is_fake():
        return ""
    return f"{call_name(ledger.call).decode()} of its books says {os.strerror(ledger.error)}"


cdef pool_t *open_pool(
    object size, object huge, object numa_node, object path, object name, object threads, object progress,
    object views, object dump, object maximum, int stacklevel, object keep=False, list told=None
) except NULL:
    """Fund and open a pool; raises, and leaves nothing behind, if it cannot. Adds what was funded to ``told``."""
    from mrm import __version__ as text_of_version      # which is not there yet while mrm is imported

    cdef pool_t *pool = NULL
    cdef nodes_t *nodes
    cdef bytes kept_name, kept_version = text_of_version.encode()
    cdef const char *books_name
    cdef const char *version = kept_version
    cdef bint strict = overcommit_memory() == 2
    cdef int status, fd, backing, dumped = bool(dump)
    cdef uint32_t frame_count, funded_count, frame_shift, first, n, lead = 0, view_numbers = 0
    cdef Numbers holes
    began = monotonic()
    if views is not None:
        if isinstance(views, bool) or not isinstance(views, int) or not 1 <= views <= 2**20 - 1:
            raise ArgumentError(f"views= is how many view numbers the pool needs, 1 to {2**20 - 1}, not {views!r}")
        view_numbers = views + 1 + dumped       # the window takes one, and so does the keeper
    frame = frame_size()
    nbytes = -(-parse_size(size) // frame) * frame
    largest = nbytes if maximum is None else -(-parse_size(maximum) // frame) * frame
    if largest >= 2**52:
        raise ArgumentError(f"{size if maximum is None else maximum!r} is over 4 PiB, more than a process can address")
    if largest < nbytes:
        raise ArgumentError(f"a pool of {size!r} has a maximum of as much at the least, not {maximum!r}")
    funded = fund(
        nbytes, length=largest, huge=huge, numa_node=numa_node, path=path, keep=bool(keep), name=name,
        threads=threads, progress=progress,
        stacklevel=stacklevel,
    )
    fd = funded.fd
    backing = funded.backing
    funded_count = funded.frame_count
    frame_count = largest // frame
    # Where there is memory: one run from 0 on, but for an earlier owner's file with frames in the balloon.
    runs = funded.kept.runs(funded_count)
    if runs[0][0] == 0:
        lead = runs.pop(0)[1]
    frame_shift = funded.frame_size.bit_length() - 1
    kept_name = (name or "").encode()
    books_name = kept_name
    try:
        nodes = nodes_made(funded.spread)
        with nogil:
            status = pool_open(
                &pool, fd, backing, frame_count, lead, frame_shift, view_numbers, dumped, books_name, strict, nodes
            )
        check(status)
        follow_node(pool, numa_node, funded.spread)
        status = views_attach(pool)
        check(status)
        unseen = why_unseen(pool.frames.ledger)
        text = describe(funded, numa_node, largest, unseen).encode("utf-8", "surrogateescape")
        check(pool_describe(pool, text))
        for first, n in runs:
            frames_bring(&pool.frames, first, n)
            pool_fill_tables(pool, first, n)
        holes = own_numbers(funded.kept.holes, "holes")
        frames_hold_first(&pool.frames, funded.kept.size // funded.frame_size, holes.data, holes.n)
        if told is not None:
            told.append(funded)
        ledger_publish(pool.frames.ledger, version, pool.layout.pool, backing)
        event(
            "fund", pool=pool.layout.pool, name=name or None, size=funded_count << frame_shift, frames=frame_count,
            backing=NAMES[backing], seconds=monotonic() - began,
            cannot_be_watched=unseen or None,
        )
        funded.finish()
    except BaseException:
        if pool != NULL:
            pool.fd = -1            # given up below, with its name
            pool_release(pool)
        funded.give_up()
        raise
    return pool
