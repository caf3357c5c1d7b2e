"""A machine of several nodes that is made up: its table, its huge pages, and a kernel that fetches by policy.

On the fake (``calls.Script``), which maps nothing: what funding asks the kernel for is answered
from here, with the policies of threads, pages that run out, and the places that come of it; what
the core asks for goes to the fake, and is recorded. Processors 0 and 1 are where a test puts them: on any
of the nodes.
"""

import contextlib
import ctypes
import errno
import threading
from unittest import mock

from helpers import FRAME

import mrm.system.calls
from mrm.physical import filling, kept, placement, spread
from mrm.physical.limits import HugePages
from mrm.physical.topology import Topology, pretend

DEFAULT, _, BIND, INTERLEAVE = range(4)
POPULATE_WRITE = 23


def ring(count, *homes, memory=None):
    """So many nodes in a ring, with processors on ``homes``: a step costs 10 more, in either direction."""
    nodes = tuple(range(count))
    distances = {
        a: tuple(10 + 10 * min((a - b) % count, (b - a) % count) for b in nodes) for a in nodes
    }  # fmt: skip
    return Topology(nodes, nodes if memory is None else tuple(memory), dict(enumerate(homes)), distances)


def order_of(table, node, among):
    """Nodes by distance from one, worked out anew: of those equally far, the ones that follow it come first."""
    row = table.distances[node]
    return sorted(among, key=lambda other: (row[table.online.index(other)], other < node, other))


class Kernel:
    """Huge pages on nodes, and who fetched them."""

    def __init__(self, table, free):
        self.table = table
        self.free = dict(free)
        self.total = dict(free)
        self.places = {}  # frame of the file: node
        self.fetched = []  # (first frame, frames) of each call for some that were missing
        self._policy = threading.local()
        self._lock = threading.Lock()
        self._at = 0
        self._real = mrm.system.calls.system_call

    def huge_pages(self, page_size=None, node=None, root=None):
        nodes = self.free if node is None else [node]
        return HugePages(FRAME, sum(self.total[n] for n in nodes), sum(self.free[n] for n in nodes))

    def call(self, name, *arguments):
        """What a thread of funding asks for."""
        if name == "set_mempolicy":
            mask = int.from_bytes(arguments[1], "little") if arguments[1] else 0
            self._policy.now = arguments[0], [n for n in range(1024) if mask >> n & 1]
        elif name == "mmap" and len(arguments) > 4 and arguments[4] >= 0:
            wanted = arguments[1] // FRAME - len(self.places)
            if wanted > sum(self.free.values()):
                raise OSError(errno.ENOMEM, "Cannot allocate memory", name)
            self._at = arguments[0]
        elif name == "madvise" and arguments[2] == POPULATE_WRITE:
            self._fetch(arguments[0] - self._at, arguments[1], name)
            return 0
        elif name == "fallocate":
            self._fetch(arguments[2], arguments[3], name)
            return 0
        elif name == "move_pages":
            self._tell(*arguments[1:5])
            return 0
        return self._real(name, *arguments)

    def _fetch(self, offset, nbytes, name):
        first, end = offset // FRAME, (offset + nbytes) // FRAME
        if not all(frame in self.places for frame in range(first, end)):
            self.fetched.append((first, end - first))
        for frame in range(first, end):
            with self._lock:
                if frame not in self.places:
                    node = self._choose(frame)
                    if node is None:
                        raise OSError(errno.ENOSPC, "No space left on device", name)
                    self.free[node] -= 1
                    self.places[frame] = node

    def _choose(self, frame):
        mode, nodes = getattr(self._policy, "now", (DEFAULT, []))
        everywhere = sorted(self.free)
        if mode == INTERLEAVE:
            nodes = [nodes[frame % len(nodes)], *everywhere]
        elif mode == DEFAULT:
            nodes = everywhere
        return next((node for node in nodes if self.free[node]), None)

    def _tell(self, count, pages, _, where):
        addresses = (ctypes.c_uint64 * count).from_address(pages)
        answers = (ctypes.c_int * count).from_address(where)
        for i, address in enumerate(addresses):
            answers[i] = self.places.get((address - self._at) // FRAME, -errno.ENOENT)


@contextlib.contextmanager
def machine(table, free=1 << 20, record=False):
    """The fake with these nodes, each with so many huge pages free (or by node); its Kernel and its Script."""
    pages = free if isinstance(free, dict) else dict.fromkeys(table.memory, free)
    kernel = Kernel(table, pages)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pretend(table))
        for module in (filling, kept, placement):
            stack.enter_context(mock.patch.object(module, "system_call", kernel.call))
        stack.enter_context(mock.patch.object(spread, "huge_pages", kernel.huge_pages))
        script = stack.enter_context(mrm.system.calls.Script(fake=True, record=record))
        yield kernel, script
