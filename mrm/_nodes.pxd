"""Frames that lie on several nodes, between Python and the core."""

from libc.stdint cimport uint32_t

from mrm.physical.nodes cimport nodes_t
from mrm.physical.pool cimport pool_t


cdef nodes_t *nodes_made(object spread) except? NULL
cdef int follow_node(pool_t *pool, object numa_node, object spread) except -1
cdef dict balloon_by_node(pool_t *pool)
cdef object node_of_frame(pool_t *pool, uint32_t frame)
