"""Which frames lie on which node, and which of them are near whom."""

from libc.stdint cimport uint16_t, uint32_t

from mrm.physical.bitmap cimport bitmap_t


cdef enum:
    MOST_NODES = 64             # that a pool's frames can lie on
    MOST_PARTS = 1024           # stretches of numbers that those can have


cdef struct part_t:
    uint32_t first              # the frames of it, up to ...
    uint32_t end                # ... and without this one
    uint32_t node               # as a place in nodes_t.number


# Set when the pool opens, and only read from then on.
cdef struct nodes_t:
    uint32_t count              # nodes that have frames
    uint32_t parts
    uint32_t stacks             # of an account: a processor's each, and one for each node that no processor is near
    uint32_t rows               # different orders
    uint32_t number[MOST_NODES]  # the kernel's, by place
    uint32_t begin[MOST_NODES + 1]  # where in part those of a place begin
    part_t *part                # by place, ascending
    uint16_t *order             # rows of count places, the nearest first
    uint16_t *row               # by stack: its row
    uint32_t near_begin[MOST_NODES + 1]  # where in near those of a place begin
    uint16_t *near              # stacks whose nearest place that is
    void *memory                # what all of these lie in


cdef int nodes_open(
    nodes_t **opened, const uint32_t *numbers, uint32_t count, const uint32_t *parts, uint32_t n,
    const uint32_t *orders, uint32_t rows, const uint32_t *row_of, uint32_t processors,
) noexcept nogil
cdef void nodes_close(nodes_t *nodes) noexcept nogil
cdef void nodes_share(
    const nodes_t *nodes, const bitmap_t *bitmap, uint32_t n, const bint *without, uint32_t *share
) noexcept nogil


cdef inline uint32_t nodes_place(const nodes_t *nodes, uint32_t frame) noexcept nogil:
    """The place of the node that a frame lies on."""
    cdef uint32_t i = 0
    while not nodes.part[i].first <= frame < nodes.part[i].end:
        i += 1
    return nodes.part[i].node


cdef inline const uint16_t *nodes_order(const nodes_t *nodes, uint32_t stack) noexcept nogil:
    """All places, by their distance from the processor of a stack."""
    return nodes.order + <size_t>nodes.row[stack] * nodes.count


cdef inline uint32_t nodes_home(const nodes_t *nodes, uint32_t stack, uint32_t frame) noexcept nogil:
    """The stack that a frame belongs to which was taken from where ``stack`` is: that, or one on the frame's node."""
    cdef uint32_t place = nodes_place(nodes, frame)
    cdef uint32_t first = nodes.near_begin[place]
    if nodes_order(nodes, stack)[0] == place:
        return stack
    return nodes.near[first + stack % (nodes.near_begin[place + 1] - first)]
