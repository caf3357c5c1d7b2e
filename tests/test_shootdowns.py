"""mrm.shootdowns(): counts what must shoot, says what it counts, and mounts nothing."""

import mmap
import os
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from mrm import errors
from mrm.shootdowns import Shootdowns, shootdowns

needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor shoots at nobody")


def permitted(scope: str) -> bool:
    try:
        Shootdowns(scope).stop()  # type: ignore[arg-type]
    except errors.Error:
        return False
    return True


@pytest.fixture
def spinner() -> Iterator[None]:
    """A thread that runs on a processor of its own, so that unmapping here must be told to it."""
    processors = os.sched_getaffinity(0)
    here, there = sorted(processors)[0], sorted(processors)[-1]
    stop = threading.Event()

    def spin() -> None:
        os.sched_setaffinity(0, [there])
        block = bytes(1 << 20)
        while not stop.is_set():
            zlib.crc32(block)  # without the GIL

    thread = threading.Thread(target=spin)
    thread.start()
    os.sched_setaffinity(0, [here])
    yield
    os.sched_setaffinity(0, processors)
    stop.set()
    thread.join()


def unmap() -> None:
    with mmap.mmap(-1, 64 << 10) as pages:
        pages[0] = 1


def unmap_until(s: Shootdowns, count: int) -> int:
    """Unmap until so many were counted, or for five seconds: how often.

    Not every one is told: when another process has the spinner's processor, it is not.
    """
    deadline = time.monotonic() + 5
    unmapped = 0
    while s.count < count and time.monotonic() < deadline:
        unmap()
        unmapped += 1
    return unmapped


@needs_two
@pytest.mark.skipif(not permitted("system"), reason="no row TLB")
def test_system_counts_unmapping_beside_a_running_thread(spinner: None) -> None:
    with shootdowns("system") as s:
        unmap_until(s, 20)
    assert s.scope == "system"
    assert s.count >= 20


@needs_two
@pytest.mark.skipif(not permitted("process"), reason="tlb:tlb_flush: not permitted here")
def test_process_counts_no_more_than_was_unmapped(spinner: None) -> None:
    with shootdowns("process") as s:
        unmapped = unmap_until(s, 20)
    assert s.scope == "process"
    assert 20 <= s.count <= 20 + unmapped


@needs_two
@pytest.mark.skipif(not permitted("process"), reason="tlb:tlb_flush: not permitted here")
def test_process_counts_threads_that_start_later(spinner: None) -> None:
    with shootdowns("process") as s:
        thread = threading.Thread(target=unmap_until, args=(s, 20))
        thread.start()
        thread.join()
    assert s.count >= 20


@pytest.mark.skipif(not permitted("system"), reason="no row TLB")
def test_count_freezes_at_the_end_and_starts_anew(spinner: None) -> None:
    s = shootdowns("system")
    unmap_until(s, 20)
    frozen = s.stop()
    for _ in range(100):
        unmap()
    assert s.count == frozen
    with s:
        assert s.count < frozen


def test_auto_says_what_it_became() -> None:
    if not permitted("auto"):
        pytest.skip("nothing counts shootdowns here")
    s = shootdowns()
    assert s.scope == ("process" if permitted("process") else "system")
    assert ("this process" if s.scope == "process" else "whole system") in s.source
    assert s.source in repr(s)
    s.stop()


def test_refused_process_scope_says_the_way_out() -> None:
    if permitted("process"):
        pytest.skip("permitted here")
    with pytest.raises(errors.Error, match="mount -t tracefs|CAP_PERFMON|takes root"):
        shootdowns("process")


def test_unknown_scope_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="'system'"):
        shootdowns("thread")  # type: ignore[arg-type]


def test_no_descriptor_is_left_open() -> None:
    if not permitted("auto"):
        pytest.skip("nothing counts shootdowns here")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with shootdowns():
            pass
    assert len(os.listdir("/proc/self/fd")) == before
