"""Frames that lie on several nodes, between Python and the core: spread.py decides, nodes.pyx has the tables."""

from libc.stdint cimport uint32_t

from mrm cimport MRM_FRAME_INFLATED, MRM_FRAME_POISONED
from mrm._arrays cimport Numbers, own_numbers
from mrm.physical.bitmap cimport bitmap_count
from mrm.physical.frames cimport frames_state
from mrm.physical.nodes cimport nodes_open, nodes_t
from mrm.physical.placement import node_at
from mrm.physical.pool cimport pool_address, pool_t
from mrm.system.failure cimport check
from mrm.system.policy cimport POLICY_BIND, POLICY_INTERLEAVE, policy_add, policy_begin


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef nodes_t *nodes_made(object spread) except? NULL:
    """The tables of a pool that is spread locally; NULL for any other."""
    cdef nodes_t *nodes = NULL
    cdef Numbers numbers, parts, orders, by_processor
    if spread is None or spread.kind != "local":
        return NULL
    told = spread.table()
    numbers = own_numbers(told[0], "nodes")
    parts = own_numbers(told[1], "frames")
    orders = own_numbers(told[2], "nodes")
    by_processor = own_numbers(told[4], "nodes")
    check(nodes_open(
        &nodes, numbers.data, <uint32_t>numbers.n, parts.data, <uint32_t>(parts.n // 3), orders.data, told[3],
        by_processor.data, <uint32_t>by_processor.n,
    ))
    return nodes


cdef int follow_node(pool_t *pool, object numa_node, object spread) except -1:
    """Have what is fetched later come from where the rest came from, too."""
    if isinstance(numa_node, int):
        policy_begin(&pool.policy, POLICY_BIND)
        policy_add(&pool.policy, numa_node)
    elif spread is not None and spread.kind == "interleave":
        policy_begin(&pool.policy, POLICY_INTERLEAVE)
        for node in spread.nodes:
            policy_add(&pool.policy, node)
    return 0


cdef dict balloon_by_node(pool_t *pool):
    """Frames without memory that belong to each node; empty where frames belong to none."""
    cdef nodes_t *nodes = pool.frames.nodes
    cdef uint32_t i
    cdef dict found = {}
    if nodes == NULL:
        return found
    mrm_lock(&pool.frames.lock)
    for i in range(nodes.parts):
        node = nodes.number[nodes.part[i].node]
        found[node] = found.get(node, 0) + bitmap_count(&pool.frames.balloon, nodes.part[i].first, nodes.part[i].end)
    mrm_unlock(&pool.frames.lock)
    return found


cdef object node_of_frame(pool_t *pool, uint32_t frame):
    """The node that the kernel says a frame's memory lies on; None where it has none, or nobody touched it yet."""
    if frames_state(&pool.frames, frame) in (MRM_FRAME_INFLATED, MRM_FRAME_POISONED):
        return None
    return node_at(<size_t>pool_address(pool, frame))
