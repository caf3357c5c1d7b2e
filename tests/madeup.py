"""Kernels that are made up: settings and figures as files below a folder; a pool that lives on one, and its scaler."""

import threading
from types import SimpleNamespace

from helpers import FRAME

from mrm.errors import ClosedError
from mrm.physical.autoscale import Autoscaler
from mrm.system.pages import huge_pages_folder

#: The kernel's pool of huge pages of a frame's size, on all nodes and on node 1.
POOL = f"sys/kernel/mm/hugepages/{huge_pages_folder()}"
NODE = f"sys/devices/system/node/node1/hugepages/{huge_pages_folder()}"


def write(root, files):
    """Files with their contents, below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


#: What memory that is short says to Autoscaler.
STALL = (("memory", "stalls of 150 ms in 1 s"),)


class Kernel:
    """Its files: free pages, and the failures to make one."""

    def __init__(self, root):
        self.root = root
        self.set(nr=100, free=20)
        self.write("proc/vmstat", "htlb_buddy_alloc_fail 7")
        self.write("proc/meminfo", f"MemTotal: {100 * FRAME >> 10} kB\nMemAvailable: {50 * FRAME >> 10} kB")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # At once, as the kernel's figures change: a thread may be reading.
        new = path.with_name(f"new-{threading.get_ident()}")
        new.write_text(f"{text}\n")
        new.replace(path)

    def set(self, nr=None, free=None, surplus=0, overcommit=0):
        names = {"nr_hugepages": nr, "free_hugepages": free}
        names |= {"surplus_hugepages": surplus, "nr_overcommit_hugepages": overcommit, "resv_hugepages": 0}
        for name, number in names.items():
            if number is not None:
                self.write(f"{POOL}/{name}", number)

    @property
    def free(self):
        return int((self.root / POOL / "free_hugepages").read_text())

    @free.setter
    def free(self, number):
        self.set(free=number)


class ScaledPool:
    """A pool that does what it is told, from and to the made-up kernel."""

    frame_size = FRAME
    backing = "hugetlb"

    def __init__(self, kernel, frames=100, funded=60, held=20):
        self.kernel, self.frames, self.funded, self.held = kernel, frames, funded, held
        self.shown = self.promised = self.broken = 0
        self.calls = []
        self.fail = None
        self.system = 0  # pages that went on to the system
        self.keepers = 0  # how often a keeper of settings was started
        self.keeper_fails = None
        self.closed = False

    def stats(self):
        if self.closed:
            raise ClosedError("the pool is closed")
        free = self.funded - self.held
        memory = {"nbytes": (self.funded - self.broken) * FRAME, "frame_size": FRAME}
        return SimpleNamespace(
            frames=self.frames,
            inflated=self.frames - self.funded,
            free=free,
            ready=free - self.shown,
            **memory,
        )

    def inflate(self, size, *, retire, to="pool"):
        assert not retire
        return self._move(
            "inflate", -min(size // FRAME, self.funded - self.held - self.promised), self.way(to)
        )

    def deflate(self, size, *, source="pool"):
        room = self.kernel.free if source == "pool" else self.system
        if self.backing != "hugetlb":
            room = 100
        return self._move("deflate", min(size // FRAME, self.frames - self.funded, room), self.way(source))

    def _keeper(self):
        def start():
            if self.keeper_fails:
                raise self.keeper_fails
            self.keepers += 1

        return SimpleNamespace(start=start)

    def way(self, where):
        """Memory that is no huge pages has one way only."""
        assert self.backing == "hugetlb" or where == "system"
        return where if self.backing == "hugetlb" else "the"

    def _move(self, name, frames, where):
        if self.fail:
            raise self.fail
        self.funded += frames
        if self.backing != "hugetlb":
            pass
        elif where == "pool":
            self.kernel.free -= frames
        else:
            self.system -= frames
        assert self.held <= self.funded <= self.frames
        frames = abs(frames)
        self.calls.append((name, frames, where))  # when all is done: another thread may look
        return SimpleNamespace(frames=frames, nbytes=frames * FRAME, seconds=0.001, error=None)


def scaler(pool, now, minimum=30, maximum=80, **options):
    """An Autoscaler of a made-up pool, that is told when to look."""
    sizes = {"headroom": 20, "leave_free": 10, "step": 8} | options
    sizes = {
        name: value * FRAME if name in ("headroom", "leave_free", "leave_memory", "step") else value
        for name, value in sizes.items()
    }
    made = Autoscaler(
        pool,
        minimum * FRAME,
        maximum * FRAME,
        root=pool.kernel.root,
        clock=lambda: now.time,
        start=False,
        **sizes,
    )
    made.turn()
    return made


def actions(pool):
    """What the pool was told since this was asked last."""
    done, pool.calls = pool.calls, []
    return done


def in_group(kernel, options="", **files):
    """This process is in a group whose files these are, by their names with "_" for "." and "__" for the size."""
    kernel.write("proc/self/cgroup", "0::/g")
    kernel.write("proc/self/mountinfo", f"29 23 0:26 / /cg rw - cgroup2 cgroup2 rw{options}")
    for name, text in files.items():
        kernel.write(f"cg/g/{name.replace('__', f'.{FRAME >> 20}MB.').replace('_', '.')}", text)
