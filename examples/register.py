"""Registering a pool with a device, in chunks and in the background: here, by locking it in memory.

$ python register.py

A driver that is to reach frames by DMA pins them, page by page, and 64 GiB take it seconds. Until
then a server can already work with the frames that are registered. What `lock` and `unlock`
do here is what cudaHostRegister and cudaHostUnregister, ibv_reg_mr and ibv_dereg_mr, or
VFIO_IOMMU_MAP_DMA do there: each gets an address in the window, which stays for the pool's life.
"""

import ctypes
import os
import threading

import mrm

libc = ctypes.CDLL(None, use_errno=True)
libc.mlock.argtypes = libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def lock(address, nbytes):
    """Register a chunk."""
    if libc.mlock(address, nbytes):
        raise OSError(ctypes.get_errno(), f"mlock: {os.strerror(ctypes.get_errno())} (see ulimit -l)")


def unlock(address, nbytes):
    """The way back."""
    libc.munlock(address, nbytes)


class Registration:
    """A pool's frames, registered chunk by chunk by a thread of its own, and released at the end."""

    def __init__(self, pool, chunk=64 << 30):
        self._pool = pool
        self._chunk = max(1, chunk // pool.frame_size)  # frames of a call: drivers refuse too many at once
        self._changed = threading.Condition()
        self._stop = False
        self.done = 0  # frames 0 to done - 1 are registered
        self.error = None
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _chunks(self, end):
        for first in range(0, end, self._chunk):
            n = min(self._chunk, end - first)
            yield first + n, self._pool.window.address(first), n * self._pool.frame_size

    def _work(self):
        for done, address, nbytes in self._chunks(len(self._pool)):
            if self._stop:
                return
            error = None
            try:
                lock(address, nbytes)
            except OSError as refused:
                error = refused
            with self._changed:
                self.error = error
                self.done = self.done if error else done
                self._changed.notify_all()
            if error:
                return

    def wait(self, frame):
        """Wait until a frame is registered; False if it never will be."""
        with self._changed:
            self._changed.wait_for(lambda: frame < self.done or self.error or not self._thread.is_alive(), 60)
            return frame < self.done

    def close(self):
        """Cancel what has not begun, and release the rest; before the pool is closed."""
        self._stop = True
        self._thread.join()
        for _, address, nbytes in self._chunks(self.done):
            unlock(address, nbytes)


with mrm.Pool("8MiB", huge="off") as pool:
    registration = Registration(pool, chunk=4 << 20)
    try:
        frame = pool.take()
        print(
            "frame", frame, "is registered:", registration.wait(frame)
        )  # the others may still be on their way
        print("and all of them:", registration.wait(len(pool) - 1), registration.error or "")
        pool.give(frame)
    finally:
        registration.close()
