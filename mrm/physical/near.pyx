"""Taking frames from the nearest node that has some: the slow path of pools with ``numa_node="local"``.

frames.pyx comes here when the taker's own stack is empty (which holds frames of the nearest node
alone, nodes.pyx says how). For each node, in the order of its distance from the taker's processor:
what the account is promised, out of the bitmap and then out of the stock; and what lies free in the
account's stacks there. Only the nearest node's frames fill the taker's stack up; of the others come as
many as are needed at this moment, so that the next taker looks near again.

So a taker gets a frame of the nearest node that has one free for its account, down to the last frame
anywhere. What an account is promised goes before what it would have to borrow, near or far.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t

from mrm.physical.bitmap cimport bitmap_take_run, bitmap_take_run_within, bitmap_take_within
from mrm.physical.books cimport account_t, entitled
from mrm.physical.common cimport common_charge, common_charge_run
from mrm.physical.nodes cimport nodes_order, nodes_t
from mrm.physical.stack cimport stack_pop_many, stack_t
from mrm.physical.stock cimport stock_take


cdef inline uint32_t own_of(const frames_t *frames, uint32_t account, uint32_t stack) noexcept nogil:
    """The stack's place among its account's."""
    return stack - (account << frames.cpu_shift)


cdef uint32_t from_list(
    frames_t *frames, uint32_t account, uint32_t place, uint32_t *taken, uint32_t least, uint32_t n
) noexcept nogil:
    """Charge an account for up to ``n`` frames of a node, those in stock up to ``least``; how many."""
    cdef nodes_t *nodes = frames.nodes
    cdef uint32_t i, found = 0
    for i in range(nodes.begin[place], nodes.begin[place + 1]):
        found += <uint32_t>bitmap_take_within(
            &frames.bitmap, taken + found, n - found, nodes.part[i].first, nodes.part[i].end
        )
    least = min(least, n)
    if found < least and frames.stock.count:
        found += stock_take(frames, place, taken + found, least - found)
    common_charge(frames, account, taken, found)
    return found


cdef size_t from_stacks(
    frames_t *frames, uint32_t account, uint32_t place, uint32_t *taken, size_t least, size_t most
) noexcept nogil:
    """Take what lies in the account's stacks on a node, until there are ``least``; how many."""
    cdef nodes_t *nodes = frames.nodes
    cdef stack_t *stacks = &frames.stacks[account << frames.cpu_shift]
    cdef uint32_t i
    cdef size_t n = 0
    for i in range(nodes.near_begin[place], nodes.near_begin[place + 1]):
        if n >= least:
            break
        n += stack_pop_many(frames.frame, &stacks[nodes.near[i]], taken + n, 1, most - n)
    return n


cdef size_t near_take(
    frames_t *frames, uint32_t account, uint32_t stack, uint32_t *taken, size_t least, size_t most
) noexcept nogil:
    """``least`` to ``most`` frames that the account is promised or has in its stacks, the nearest first; or too few."""
    cdef account_t *payer = &frames.books.account[account]
    cdef uint32_t k, place, promised
    cdef size_t n = 0, wanted = most
    for k in range(frames.nodes.count):
        place = nodes_order(frames.nodes, own_of(frames, account, stack))[k]
        promised = <uint32_t>min(<size_t>entitled(&frames.books, payer, False), wanted - n)
        n += from_list(frames, account, place, taken + n, <uint32_t>(least - n), promised)
        if n < least:
            n += from_stacks(frames, account, place, taken + n, least - n, wanted - n)
        if n >= least:
            break
        wanted = least
    return n


cdef size_t near_borrow(
    frames_t *frames, uint32_t account, uint32_t stack, uint32_t *taken, uint32_t n
) noexcept nogil:
    """Charge an account for up to ``n`` frames that it may have, lent ones too, the nearest first; how many."""
    cdef uint32_t k, place, found = 0
    for k in range(frames.nodes.count):
        place = nodes_order(frames.nodes, own_of(frames, account, stack))[k]
        found += from_list(frames, account, place, taken + found, n - found, n - found)
        if found == n:
            break
    return found


cdef int64_t near_take_run(frames_t *frames, uint32_t account, uint32_t stack, uint32_t n) noexcept nogil:
    """The first frame of a run of ``n``: within the nearest node that has one, else across nodes; or -1."""
    cdef nodes_t *nodes = frames.nodes
    cdef int64_t first = -1
    cdef uint32_t k, i, place
    for k in range(nodes.count):
        place = nodes_order(nodes, own_of(frames, account, stack))[k]
        for i in range(nodes.begin[place], nodes.begin[place + 1]):
            if first < 0:
                first = bitmap_take_run_within(&frames.bitmap, n, nodes.part[i].first, nodes.part[i].end)
        if first >= 0:
            break
    if first < 0:
        first = bitmap_take_run(&frames.bitmap, n)
    if first >= 0:
        common_charge_run(frames, account, <uint32_t>first, n)
    return first
