"""From a size to a pool: funding, in Python, and the pool made of what it got."""

from mrm.physical.pool cimport pool_t


cdef pool_t *open_pool(
    object size, object huge, object numa_node, object path, object name, object threads, object progress,
    object views, object dump, object maximum, int stacklevel, object keep=*, list told=*
) except NULL
