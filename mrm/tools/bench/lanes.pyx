"""What a lane is: one way to relocate pages, driven for a given time.

A lane is opened, run and closed for each window of measurement, so that no lane
measures beside another one's mappings. ``cycle`` moves a good number of pages and
leaves things so that it can be called again; ``run`` repeats it without the GIL and
without a look at Python, as a relocator thread of a runtime would.
"""

import os
import time

from libc.stdint cimport int64_t

from mrm.tools.bench.byhand cimport now


cdef class Lane:
    """One way to relocate pages; this one does nothing, and is what mutators are compared with.

    Parameters
    ----------
    fd : int
        File of the frames, funded.
    frames : int
        How many frames it has.
    step : int
        Bytes between two touches that together link all of a mapping: a frame on huge
        pages, 4 KiB on small ones.
    """

    def __init__(self, int fd, size_t frames, size_t step):
        self.fd = fd
        self.frames = frames
        self.step = step

    def open(self):
        """Map what the first cycle moves."""

    def close(self):
        """Unmap it."""

    def note(self):
        """What a reader must know about an open lane's figures, or None."""
        return None

    def refuse(self, int64_t status):
        """Raise what a negative ``status`` of ``cycle`` stands for."""
        raise OSError(-status, os.strerror(-status), type(self).__name__)

    cdef int64_t cycle(self) noexcept nogil:
        """Move pages: how many, or a negative status, ``-errno`` here."""
        return 0

    cdef void settle(self) noexcept nogil:
        """Leave no hole among reserved addresses; called before Python gets to allocate again."""

    def run(self, double seconds):
        """Repeat the cycle for at least ``seconds``: pages moved, and seconds that it took."""
        cdef int64_t start, end, moved, pages = 0
        cdef int64_t limit = <int64_t>(seconds * 1e9)
        with nogil:
            start = now()
            while True:
                moved = self.cycle()
                if moved <= 0:
                    break
                pages += moved
                if now() - start >= limit:
                    break
            end = now()
            self.settle()
        if moved < 0:
            self.refuse(moved)
        if moved == 0:
            time.sleep(seconds)
            end = now()
        return pages, (end - start) / 1e9
