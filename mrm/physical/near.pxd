"""Taking frames from the nearest node that has some."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t

from mrm.physical.frames cimport frames_t
from mrm.physical.nodes cimport nodes_home


# Only where frames.nodes is there, and with frames_t.lock held. stack is the number of one of the account's stacks,
# as in a frame's record: that of the processor for which frames are taken.
cdef size_t near_take(
    frames_t *frames, uint32_t account, uint32_t stack, uint32_t *taken, size_t least, size_t most
) noexcept nogil
cdef size_t near_borrow(
    frames_t *frames, uint32_t account, uint32_t stack, uint32_t *taken, uint32_t n
) noexcept nogil
cdef int64_t near_take_run(frames_t *frames, uint32_t account, uint32_t stack, uint32_t n) noexcept nogil


cdef inline uint32_t near_home(const frames_t *frames, uint32_t stack, uint32_t frame) noexcept nogil:
    """Number of the stack that a frame goes back to which is taken for ``stack``: that, unless it lies on a far node.

    Needs no lock.
    """
    cdef uint32_t own
    if frames.nodes == NULL:
        return stack
    own = stack & ((<uint32_t>1 << frames.cpu_shift) - 1)
    return stack - own + nodes_home(frames.nodes, own, frame)
