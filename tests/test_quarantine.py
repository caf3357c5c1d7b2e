"""Frames whose memory is broken: kept out of use for good, while the rest of the pool goes on.

Real broken memory is made by MADV_HWPOISON, on machines that are thrown away: the page is lost to
the machine until it boots.
"""

import errno
import signal
import subprocess
import sys

import pytest
from helpers import FRAME, FakePool, commit, environment
from machine import throwaway

import mrm
import mrm.system.calls as calls

EHWPOISON = 133  # the errno module does not know it


def test_a_free_frame_is_never_handed_out_again(pool):
    pool.quarantine(3)
    pool.quarantine(15)
    stats = pool.audit()
    assert (stats.poisoned, stats.ready, stats.nbytes) == (2, 14, 14 * FRAME)
    assert pool.size == 14 * FRAME
    assert [pool.state_of(frame) for frame in (2, 3, 15)] == ["ready", "poisoned", "poisoned"]
    assert pool.funds["committed"].frames == 14
    frames = pool.take(14)
    assert not {3, 15} & set(frames)
    with pytest.raises(mrm.OutOfFrames, match="14 are held"):
        pool.take()
    pool.give(frames)
    assert mrm.classify(pool.address(3)).frame_state == "poisoned"


def test_a_held_frame_is_charged_to_nobody_then(pool):
    frame = pool.take()
    pool.quarantine(frame)
    assert pool.audit().held == 0
    for use in (pool.give, pool.quarantine, pool.zero):
        with pytest.raises(mrm.FrameError):
            use(frame)


def test_a_frame_that_lies_in_a_stack_is_found(pool):
    account = pool.account("heap")
    account.fund(8)
    pool.give(account.take(8))
    for frame in range(16):
        pool.quarantine(frame)
    assert pool.audit().poisoned == 16
    assert account.balance == 0


def test_a_frame_in_use_is_refused(pool):
    frame, strict, shown = pool.take(3)
    pool.give(strict, reuse="after_retire")
    with pool.reserve(1) as r:
        commit(r, "map", 0, shown)
        for wrong in (strict, shown):
            with pytest.raises(mrm.FrameError):
                pool.quarantine(wrong)
        for wrong in (16, -1):
            with pytest.raises(mrm.FrameError):
                pool.quarantine(wrong)
        pool.audit()
        commit(r, "unmap", 0)
        pool.quarantine(shown)
    pool.retire()
    pool.quarantine(strict)
    assert pool.audit().poisoned == 2
    pool.give(frame)


def test_a_frame_in_the_balloon_is_refused(pool):
    pool.inflate(4 * FRAME)
    with pytest.raises(mrm.FrameError, match="in the balloon"):
        pool.quarantine(15)


def test_promises_give_way_in_order(pool):
    """First what nobody was promised, then other funds, then the balance of who held it, then any."""
    pool.fund("pause_prevention", 2 * FRAME)
    first, second = pool.account("first"), pool.account("second")
    first.fund(6)
    second.fund(6)
    held = [*first.take(5), *second.take(5)]
    expected = [(2, 6, 6), (2, 6, 6), (1, 6, 6), (0, 6, 6), (0, 5, 6), (0, 4, 6), (0, 4, 5), (0, 4, 4)]
    order = [held[0], held[5], held[1], held[2], held[3], held[4], held[6], held[7]]
    for frame, figures in zip(order, expected):
        pool.quarantine(frame)
        pool.audit()
        assert (pool.funds["pause_prevention"].frames, first.balance, second.balance) == figures
    for account in (first, second):
        account.take(account.balance - account.stats().allocated)  # what is promised can be taken
    pool.audit()
    pool.give([frame for frame in range(16) if pool.state_of(frame) == "held"])


def test_a_pool_that_is_broken_through_and_through():
    with FakePool(64) as pool:
        for frame in range(64):
            pool.quarantine(frame)
        assert pool.audit().poisoned == 64
        with pytest.raises(mrm.OutOfFrames):
            pool.take()


def test_the_balloon_leaves_them_alone(pool):
    pool.quarantine(15)
    assert pool.inflate(16 * FRAME).frames == 15
    assert pool.deflate(15 * FRAME).frames == 15
    assert pool.resize(4 * FRAME)
    assert pool.audit().poisoned == 1


# ---- finding them ------------------------------------------------------------------------


def test_a_whole_pool_has_none(pool):
    try:
        pool.scan()
    except mrm.SystemCallError as refused:
        pytest.skip(str(refused))
    pool.inflate(6 * FRAME)
    assert list(pool.scan()) == []
    assert pool.audit().inflated == 6  # nothing was fetched by asking


def test_what_the_kernel_says_is_broken_is_found(pool):
    with calls.Script(fail=1, times=3, error=EHWPOISON, kinds={"madvise"}):
        assert list(pool.scan()) == (
            [0, 1] if pool.backing == "hugetlb" else [0, 1, 2]
        )  # there the first is about all
    with calls.Script(fail=1, times=None, error=EHWPOISON, kinds={"madvise"}):
        assert list(pool.scan()) == list(range(16))


def test_a_kernel_that_cannot_say_is_no_pool_without_broken_frames(pool):
    with (
        calls.Script(fail=1, times=None, error=errno.EINVAL, kinds={"madvise"}),
        pytest.raises(mrm.SystemCallError, match=r"5\.14"),
    ):
        pool.scan()


# Whoever asks for it is told by a signal, so somebody else asks, who has the file mapped too.
_TOUCHES = """
import ctypes, os, subprocess, sys
import mrm
BREAKS = '''
import ctypes, mmap, os, sys
pid, fd, size, offset, nbytes = map(int, sys.argv[1:])
file = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
mapped = mmap.mmap(file, size)
address = ctypes.addressof(ctypes.c_uint8.from_buffer(mapped)) + offset
ctypes.c_uint8.from_address(address).value  # MADV_HWPOISON is about pages that are mapped
libc = ctypes.CDLL(None, use_errno=True)
if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), 100):
    print("refused", ctypes.get_errno())
'''
F = mrm.FRAME_SIZE
with mrm.Pool(8 * F, huge="require", name="breaks") as pool:
    fds = os.listdir("/proc/self/fd")
    [fd] = [n for n in fds if os.path.realpath(f"/proc/self/fd/{n}").startswith("/memfd:breaks ")]
    broken = subprocess.run(
        [sys.executable, "-c", BREAKS, *map(str, (os.getpid(), fd, 8 * F, 5 * F, F))], capture_output=True, text=True
    )
    if "refused" in broken.stdout:
        sys.exit(f"HWPOISON {broken.stdout}")
    print(list(pool.scan()), flush=True)
    address = pool.address(5)
    if sys.argv[1] == "touch":
        ctypes.c_uint8.from_address(address).value
    for _ in range(2):  # what is in quarantine is broken still
        for frame in pool.scan():
            if pool.state_of(frame) != "poisoned":
                pool.quarantine(frame)
    for frame in pool.take(7):
        pool[frame][:4] = b"good"
        assert frame != 5
        pool.give(frame)
    print(pool.audit().poisoned, mrm.classify(address).frame_state)
"""


def touches(word):
    """A process that breaks the memory of frame 5, and touches it, or not."""
    command = [sys.executable, "-c", _TOUCHES, word]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)


@throwaway
def test_broken_memory_is_found_and_the_rest_works(needs_huge):
    done = touches("leave")
    if "HWPOISON" in done.stderr:
        pytest.skip(f"no broken memory can be made here: {done.stderr}")
    assert (done.returncode, done.stdout) == (0, "[5]\n1 poisoned\n"), done.stderr


@throwaway
def test_a_touch_of_broken_memory_is_a_bus_error(needs_huge):
    done = touches("touch")
    if "HWPOISON" in done.stderr:
        pytest.skip(f"no broken memory can be made here: {done.stderr}")
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "[5]\n"), done.stderr
