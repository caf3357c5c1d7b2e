"""The same system calls as one of our lanes makes, made by hand.

How much of a lane's time is ours, and how much the kernel's? The lane is opened and
its system calls are recorded for an even number of cycles, after which everything is
where it was; then the very same calls, with the same addresses, are made again and
again with nothing in between. What the lane takes longer is what mrm costs.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

from mrm.errors import Error
from mrm.system.calls import Script
from mrm.system.pages cimport frame_bytes
from mrm.tools.bench.byhand cimport MAP_SHARED, PROT_NONE, touch
from mrm.tools.bench.lanes cimport Lane


cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    """
    enum:
        SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise
    int64_t syscall(long number, ...) nogil

# Calls without pointers to anything that would be gone by now.
cdef dict NUMBERS = {
    "mmap": SYS_mmap,
    "munmap": SYS_munmap,
    "mremap": SYS_mremap,
    "mprotect": SYS_mprotect,
    "madvise": SYS_madvise,
}

cdef enum:
    CYCLES = 2                  # there and back
    TOUCH = -1                  # in place of a call's number


cdef struct step_t:
    long number
    int64_t arguments[6]


cdef class Replay(Lane):
    """``lane`` without mrm.

    Parameters
    ----------
    lane : Lane
        One of our lanes, closed.
    touched : bool
        Whether the lane reaches every frame in what it has mapped, as ``View`` does.
    """

    cdef object lane
    cdef bint touched
    cdef step_t *steps
    cdef size_t count

    def __init__(self, Lane lane, bint touched):
        super().__init__(lane.fd, lane.frames, lane.step)
        self.lane = lane
        self.touched = touched

    def __dealloc__(self):
        free(self.steps)

    def open(self):
        self.lane.open()
        self.lane.run(0)
        self.lane.run(0)
        with Script() as script:
            for _ in range(CYCLES):
                self.lane.run(0)
        self._keep(self._plan(script.calls()))

    def close(self):
        self.lane.close()

    def _plan(self, calls):
        """The calls as numbers, with the touches between a mapping and the retire that follows it."""
        steps, fresh = [], None
        for name, arguments, _ in calls:
            if name not in NUMBERS:
                raise Error(f"{name} cannot be made again by hand")
            if fresh and name == "mmap" and arguments[2] == PROT_NONE:
                steps.append((TOUCH, fresh))
                fresh = None
            steps.append((NUMBERS[name], arguments))
            if self.touched and name == "mmap" and arguments[3] & MAP_SHARED:
                # The mapping may be longer than the file; the lane reaches its frames only.
                fresh = (arguments[0], self.frames * frame_bytes(), self.step, 0, 0, 0)
        return steps

    def _keep(self, steps):
        free(self.steps)
        self.count = len(steps)
        self.steps = <step_t *>malloc(self.count * sizeof(step_t))
        if self.steps == NULL:
            raise MemoryError
        for i, (number, arguments) in enumerate(steps):
            self.steps[i].number = number
            for j in range(6):
                self.steps[i].arguments[j] = arguments[j]

    cdef int64_t cycle(self) noexcept nogil:
        cdef size_t i
        cdef int64_t *a
        for i in range(self.count):
            a = self.steps[i].arguments
            if self.steps[i].number == TOUCH:
                touch(<char *>a[0], a[1], a[2], False)
            elif syscall(self.steps[i].number, a[0], a[1], a[2], a[3], a[4], a[5]) == -1:
                return -errno
        return CYCLES * self.frames
