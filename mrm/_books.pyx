"""The books of a pool as somebody else reads them: figures, from the descriptor of its shared memory.

What is there, and that it costs the owner nothing, is in mrm/physical/ledger.pyx. Here it
is read, by pread and piece by piece, and becomes plain dicts. Nothing is locked, as the
locks are the owner's own: each figure is one that was there, but what belongs together may
be of moments that are microseconds apart, as ``account.stats()`` of a busy pool is.

Frames are counted by the reader, one record after the other; of pools beyond
``MOST_COUNTED`` frames, in as many pieces from end to end as make up that number, and
scaled up. ``counted`` says how many were.

How often stacks have changed is kept in 32 bits each, which come round: whoever makes rates
of ``changes`` subtracts stack by stack, modulo 2**32.
"""

import os

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from mrm._frames import backings, frame_states
from mrm.errors import Error
from mrm.physical.books cimport NO_FUND, POOL_ACCOUNT, account_t, fund_t
from mrm.physical.ledger cimport LEDGER_LAYOUT, figures_t, head_sizes, head_t
from mrm.physical.stack cimport NO_FRAME, STATE_BITS, frame_t, stack_t
from mrm.system.ranges cimport STATE_OPEN


cdef enum:
    STATES = STATE_BITS + 1     # that a record can hold
    CHUNK = 1 << 16             # records that are read at a time: a MiB
    TRIES = 8                   # looks at the top of a stack that keeps changing

#: Frames beyond which they are sampled: 8 TiB of 2 MiB pages, whose records are 64 MiB.
MOST_COUNTED = 1 << 22


class UnknownBooks(Error):
    """Books that this version cannot read."""


cdef bytes piece(int fd, uint64_t offset, uint64_t nbytes):
    """So many bytes; fewer are an end too early."""
    read = os.pread(fd, nbytes, offset)
    if <uint64_t>len(read) != nbytes:
        raise UnknownBooks("the books end before what they say is in them: they are damaged, or were never finished")
    return read


cdef int get_head(int fd, head_t *head) except -1:
    """The head, once it is one that is known."""
    cdef head_t own
    cdef bytes read = os.pread(fd, sizeof(head_t), 0)
    memset(head, 0, sizeof(head_t))
    memcpy(head, <const char *>read, len(read))
    if len(read) < 48 or memcmp(head.magic, b"mrmbooks", 8) != 0:
        raise UnknownBooks("these are no books of a pool, or the pool is still opening")
    head.version[sizeof(head.version) - 1] = 0
    head_sizes(own.sizes)
    if head.layout != LEDGER_LAYOUT or memcmp(head.sizes, own.sizes, sizeof(own.sizes)) != 0:
        from mrm import __version__

        theirs = head.version.decode("utf-8", "replace")
        raise UnknownBooks(
            f"the pool is of mrm {theirs} (books of layout {head.layout}), which this mrm {__version__} (layout "
            f"{LEDGER_LAYOUT}) cannot read: watch it with the mrm command of that version"
        )
    return 0


def read_head(int fd):
    """What a pool is, as a dict.

    Parameters
    ----------
    fd : int
        A descriptor of its books.

    Raises
    ------
    Error
        If they are of another version's layout, or no books at all; the message says which.
    """
    cdef head_t head
    get_head(fd, &head)
    return told(&head)


cdef dict told(const head_t *head):
    return {
        "name": (<bytes>head.name).decode("utf-8", "replace"),
        "number": head.pool,
        "pid": head.pid,
        "open": head.state == STATE_OPEN,
        "backing": backings().get(head.backing, str(head.backing)),
        "frames": head.frames,
        "frame_size": 1 << head.frame_shift,
        "version": (<bytes>head.version).decode("utf-8", "replace"),
        "opened": head.opened,
    }


def read_books(int fd, uint64_t most=MOST_COUNTED):
    """Everything that the books of a pool say.

    Parameters
    ----------
    fd : int
        A descriptor of them.
    most : int, optional
        Frames to count at the most; a sample of more.

    Returns
    -------
    dict
        ``pool``, ``frames`` by state, ``counted``, ``mapped``, ``pending``, ``figures``, ``accounts``,
        ``funds``, and ``changes`` of each stack, by the account's number.
    """
    cdef head_t head
    get_head(fd, &head)
    figures = get_figures(fd, &head)
    funds = get_funds(fd, &head)
    accounts, changes = get_accounts(fd, &head, funds)
    found = {"pool": told(&head), **get_frames(fd, &head, most)}
    # Memory that it has now: frames in the balloon have none.
    found["pool"]["size"] = (head.frames - found["frames"].get("inflated", 0)) << head.frame_shift
    found["figures"] = figures
    found["accounts"] = accounts
    found["funds"] = funds
    found["changes"] = changes
    return found


cdef dict get_figures(int fd, const head_t *head):
    cdef figures_t figures
    cdef bytes read = piece(fd, head.figures, sizeof(figures_t))
    memcpy(&figures, <const char *>read, sizeof(figures_t))
    return figures


cdef list get_funds(int fd, const head_t *head):
    cdef bytes read = piece(fd, head.funds, head.most_funds * sizeof(fund_t))
    cdef const fund_t *fund = <const fund_t *><const char *>read
    cdef uint32_t i
    found = []
    for i in range(head.most_funds):
        if fund[i].name[0] == 0:
            break
        found.append({
            "name": (<bytes>fund[i].name).decode("utf-8", "replace"),
            "frames": fund[i].frames,
            "granted": fund[i].granted,
            "lent": fund[i].lent,
            "available": max(0, <int64_t>fund[i].frames - fund[i].granted - fund[i].lent),
        })
    return found


cdef uint32_t depth_of(int fd, const head_t *head, uint32_t number, const stack_t *seen) except? 0xFFFFFFFF:
    """Frames in a stack; of one that is never still, the fewest that it had of late."""
    cdef uint64_t top = seen.head
    cdef frame_t record
    cdef bytes read
    cdef int _try
    for _try in range(TRIES):
        if <uint32_t>top == NO_FRAME:
            return 0
        if <uint32_t>top >= head.frames:
            break
        read = piece(fd, head.records + <uint32_t>top * sizeof(frame_t), sizeof(frame_t))
        memcpy(&record, <const char *>read, sizeof(frame_t))
        read = piece(fd, head.stacks + number * sizeof(stack_t), sizeof(uint64_t))
        if memcmp(<const char *>read, &top, sizeof(top)) == 0:
            return record.depth
        memcpy(&top, <const char *>read, sizeof(top))
    return seen.least


cdef tuple get_accounts(int fd, const head_t *head, list funds):
    cdef bytes read = piece(fd, head.accounts, head.most_accounts * sizeof(account_t)), stacks
    cdef const account_t *account = <const account_t *><const char *>read
    cdef const stack_t *stack
    cdef uint32_t i, k, cached, least, most, charged, allocated
    found = []
    changes = {}
    for i in range(POOL_ACCOUNT, head.most_accounts):
        if not account[i].open:
            continue
        stacks = piece(fd, head.stacks + ((<uint64_t>i << head.cpu_shift) * sizeof(stack_t)),
                       head.stack_count * sizeof(stack_t))
        stack = <const stack_t *><const char *>stacks
        cached = least = most = 0
        for k in range(head.stack_count):
            cached += depth_of(fd, head, (i << head.cpu_shift) + k, &stack[k])
            least += stack[k].least
            most += stack[k].most
        changes[i] = tuple([stack[k].head >> 32 for k in range(head.stack_count)])
        charged = account[i].charged
        allocated = charged - min(cached, charged)
        found.append({
            "name": (<bytes>account[i].name).decode("utf-8", "replace"),
            "number": i,
            "balance": account[i].balance.now,
            "balance_low": account[i].balance.low,
            "balance_high": account[i].balance.high,
            "allocated": allocated,
            # As the owner does it: what was written down last, and what its stacks have noted since.
            "allocated_low": min(account[i].allocated.low, allocated, charged - min(most, charged)),
            "allocated_high": max(account[i].allocated.high, allocated, charged - min(least, charged)),
            "limit": account[i].maximum.now,
            "limit_low": account[i].maximum.low,
            "limit_high": account[i].maximum.high,
            "cached": cached,
            "overdrawn": charged - min(account[i].balance.now, charged),
            "committed": funds[account[i].committed]["name"],
            "overdraft": None if account[i].overdraft == NO_FUND else funds[account[i].overdraft]["name"],
        })
    return found, changes


cdef dict get_frames(int fd, const head_t *head, uint64_t most):
    """The frames by state, counted or estimated."""
    cdef uint64_t by_state[STATES]
    cdef uint64_t released = 0, mapped = 0, pending = 0, counted = 0, first, n, chunks, k, step
    cdef const frame_t *record
    cdef bytes read
    cdef uint32_t i
    names = frame_states()
    ready = {name: state for state, name in names.items()}["ready"]
    memset(by_state, 0, sizeof(by_state))
    chunks = (head.frames + CHUNK - 1) // CHUNK
    step = 1
    if head.frames > most:
        step = (head.frames + most - 1) // most
    for k in range(0, chunks, step):
        first = k * CHUNK
        n = min(<uint64_t>CHUNK, head.frames - first)
        read = piece(fd, head.records + first * sizeof(frame_t), n * sizeof(frame_t))
        record = <const frame_t *><const char *>read
        counted += n
        for i in range(n):
            by_state[record[i].status & STATE_BITS] += 1
            mapped += (record[i].status >> 8) != 0
            pending += record[i].pending
            released += record[i].pending != 0 and record[i].status & STATE_BITS == <uint32_t>ready
    by_state[<uint32_t>ready] -= released
    states = {}
    for state, name in sorted(names.items()):
        states[name] = by_state[<uint32_t>state]
    for i in range(<uint32_t>STATES):
        if by_state[i] and i not in names:
            states[f"state {i}"] = by_state[i]
    states["released"] = released
    if counted < head.frames:           # estimates, which shall add up
        scaled = {name: n * head.frames // counted for name, n in states.items()}
        largest = max(scaled, key=lambda name: scaled[name])
        scaled[largest] += head.frames - sum(scaled.values())
        states = scaled
        mapped = mapped * head.frames // counted
        pending = pending * head.frames // counted
    return {"frames": states, "counted": counted, "mapped": mapped, "pending": pending}
