"""What a heap with debug tells: stacks, the environment's settings, what it holds; to Python, and to C."""

import gc
import re
import signal
import textwrap
import threading

import pytest
from helpers import MIB, python
from mistaken import read, release, stack, told, write

import mrm
from mrm.heap.debug import debug_settings


@pytest.fixture
def heap(debug_heap):
    return debug_heap


# ---- what is known -------------------------------------------------------------------------


def test_explain(heap):
    at = heap.malloc(100)
    text = heap.explain(at)
    assert text.startswith(f"{at:#x} is a block of 100 bytes of heap {heap.number}, in use\n")
    assert f"Allocated in thread {threading.get_native_id()}:" in text
    assert stack(text, "Allocated")[0] == "test_explain"
    assert "it lies 50 bytes into the block of 100 bytes" in heap.explain(at + 50)
    release(heap, at)
    assert stack(heap.explain(at), "Freed")[:2] == ["release", "test_explain"]
    assert "none is known to have been there" in heap.explain(8)


def test_every_way_of_allocating_knows_python(heap):
    ways = {
        "small": heap.malloc(10),
        "large": heap.malloc(MIB),
        "calloc": heap.calloc(1, 10),
        "aligned": heap.aligned(4096, 10),
        "realloc": heap.realloc(heap.malloc(10), 20),
        "buffer": heap.buffer(10),
        "large buffer": heap.buffer(MIB),
        "array": heap.zeros(1000),
    }
    ways["resized"] = ways["buffer"]
    ways["resized"].resize(30)
    for way, what in ways.items():
        at = getattr(what, "address", what) if way != "array" else what.ctypes.data
        assert "test_every_way_of_allocating_knows_python" in stack(heap.explain(at), "Allocated"), way
    address = ways["large buffer"].address
    ways["large buffer"].free()
    assert "test_every_way_of_allocating_knows_python" in stack(heap.explain(address), "Freed")


def test_stacks_are_bounded(heap):
    def deep(n):
        return heap.malloc(10) if n == 0 else deep(n - 1)

    assert stack(heap.explain(deep(500)), "Allocated") == ["test_stacks_are_bounded.<locals>.deep"] * 16


def test_long_names_are_cut_at_a_line(heap):
    scope = {}
    name = "n" * 500
    exec(f"def {name}(n, heap): return heap.malloc(10) if n == 0 else {name}(n - 1, heap)", scope)
    text = heap.explain(scope[name](10, heap))
    assert 3 <= text.count(name) <= 10
    assert all(line.startswith("    ") for line in text.splitlines()[2:])


def test_names_that_are_no_utf8(heap):
    scope = {}
    exec(compile("def f(heap): return heap.malloc(10)", "\udcff.py", "exec"), scope)
    assert 'File "?", line 1, in f\n' in heap.explain(scope["f"](heap))


def test_an_error_on_its_way_stays(heap):
    buffer = heap.buffer(100)
    write(buffer.address + 100, b"A")
    with pytest.raises(ZeroDivisionError):
        try:
            1 / 0  # noqa: B018
        finally:
            del buffer
    assert heap.check() == 1


def test_a_heap_without_debug_says_so():
    with mrm.Heap(debug=False) as heap:
        assert not heap.debug
        for call in (heap.check, lambda: heap.explain(8)):
            with pytest.raises(mrm.ArgumentError, match="MRM_DEBUG=1"):
                call()


def test_blocks_of_buffers(heap, capfd):
    assert heap.debug
    buffer = heap.buffer(1001)
    array = heap.zeros((10, 10))
    assert sorted(n for _, n in heap.blocks()) == [800, 1001]
    array[:] = 1
    write(buffer.address + 1001, b"A")
    del buffer, array
    assert "was written past its end" in capfd.readouterr().err
    assert list(heap.blocks()) == []


def test_a_slot_that_a_closed_heap_had():
    """A thread finds its part of a heap by the heap's number, and parts are used again."""
    for _ in range(10):
        with mrm.Heap(debug=False) as heap:
            number = heap.number
            heap.free(heap.malloc(100))
        while True:
            with mrm.Heap(debug=True) as heap:
                at = heap.malloc(100)
                assert heap.usable_size(at) == 100
                heap.free(at)
                assert "twice" in told(heap.free, at)
                if heap.number % 8 == number % 8:
                    break


def test_buffers_that_outlive_their_heap(capfd):
    heap = mrm.Heap(debug=True)
    buffer = heap.buffer(100)
    at = buffer.address
    heap.close()
    write(at + 100, b"A")
    del buffer
    gc.collect()
    assert "seen when it was freed" in capfd.readouterr().err


def test_close_tells_and_closes():
    heap = mrm.Heap(debug=True)
    write(heap.malloc(10) + 10, b"A")
    assert "past its end" in told(heap.close)
    assert heap.closed
    heap.close()


# ---- the quarantine ------------------------------------------------------------------------


def test_the_quarantine_is_bounded():
    with mrm.Heap(debug=True, limit="32MiB") as heap:  # an eighth of it is held
        first = heap.malloc(1000)
        heap.free(first)
        for n in (1, 10_000, 300_000, 2 * MIB):
            for _ in range(3 * 4 * MIB // max(n, 512)):
                heap.free(heap.malloc(n))
            stats = heap.stats()
            assert stats.bytes + stats.large_bytes <= 7 * MIB
        told(heap.free, first)


def test_what_leaves_the_quarantine_is_looked_at():
    with mrm.Heap(debug=True, limit="8MiB") as heap:
        at = heap.malloc(1000)
        heap.free(at)
        write(at + 10, b"A")
        report = ""
        with pytest.raises(mrm.BlockError) as caught:
            for _ in range(100):
                heap.free(heap.malloc(100_000))
        report = str(caught.value)
        assert f"at {at:#x}" in report
        assert "seen when it left the quarantine" in report


def test_blocks_that_the_quarantine_has_no_room_for(pool):
    with mrm.Heap(pool, debug=True) as heap:
        at = heap.malloc(20 * MIB)
        heap.free(at)
        assert heap.check() == 0
        assert "was freed twice" in told(heap.free, at)


def test_memory_that_is_short_is_taken_from_the_quarantine(pool):
    with mrm.Heap(pool, debug=True) as heap:
        for _ in range(20):
            heap.free(heap.malloc(2 * MIB))
        at = heap.malloc(31 * MIB)
        heap.free(at)
        with pytest.raises(mrm.OutOfFrames):
            heap.malloc(33 * MIB)


def test_a_block_can_always_be_made_smaller(pool):
    with mrm.Heap(pool, debug=True) as heap:
        at = heap.malloc(31 * MIB)
        write(at, b"abc")
        with pytest.raises(mrm.OutOfFrames):
            heap.realloc(at, 32 * MIB)
        assert heap.realloc(at, 31 * MIB - 1) == at
        assert heap.usable_size(at) == 31 * MIB - 1
        assert read(at, 3) == b"abc"
        write(at + 31 * MIB - 1, b"A")
        assert "past its end" in told(heap.free, at)


def test_a_mistake_while_somebody_is_asked_for_memory(pool, capfd):
    """What a shortage's callback gets wrong is told, and the call that it is asked for goes on."""
    with mrm.Heap(pool, debug=True) as heap:
        large, other = heap.malloc(20 * MIB), heap.malloc(9 * MIB)
        reports = []

        def help_out(account, wanted):
            if not reports:
                reports.append(told(heap.free, large + 1))
                heap.free(other)
                heap.trim()

        pool.on_shortage(help_out)
        write(large, b"abc")
        moved = heap.realloc(heap.malloc(100), 5 * MIB)
        pool.on_shortage(None)
        assert "it lies 1 bytes into" in reports[0]
        assert capfd.readouterr().err.count("mrm: ") == 1
        assert heap.usable_size(moved) == 5 * MIB
        assert heap.check() >= 2


# ---- C, and the environment ----------------------------------------------------------------


def open_from_c(flags):
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    options = ffi.new("mrm_heap_options *", {"size": ffi.sizeof("mrm_heap_options"), "flags": flags})
    heap = ffi.new("mrm_heap **")
    assert api.heap_open(ffi.NULL, options, heap) == 0
    return api, ffi, heap[0]


def test_from_c(capfd):
    api, ffi, heap = open_from_c(1)
    count = ffi.new("uint64_t *")
    block = api.heap_malloc(heap, 100)
    assert api.heap_usable_size(heap, block) == 100
    assert api.heap_check(heap, count) == 0 and count[0] == 1
    ffi.cast("char *", block)[100] = b"A"
    assert api.heap_check(heap, count) == -12
    text = ffi.string(api.failure().text).decode()
    assert text.endswith(
        "was written past its end: 1 byte from offset 100 on, seen when the heap was checked"
    )
    assert capfd.readouterr().err.startswith(
        f"mrm: {text}\n  There is 41 where fd was\n  Allocated in thread "
    )
    assert api.heap_free(heap, block) == 0
    assert api.heap_free(heap, block) == -12
    assert api.heap_realloc(heap, block, 10) == ffi.NULL
    assert api.heap_usable_size(heap, block) == 0
    assert capfd.readouterr().err.count("mrm: ") == 2
    ffi.cast("char *", block)[0] = b"A"
    api.heap_trim(heap)
    assert "seen when the heap was trimmed" in capfd.readouterr().err
    block = api.heap_lua_alloc(heap, ffi.NULL, 0, 10)
    block = api.heap_lua_alloc(heap, block, 10, 20)
    ffi.cast("char *", block)[-1] = b"A"
    assert api.heap_close(heap) == 0
    assert "seen when the heap was closed" in capfd.readouterr().err


def test_c_stacks_where_there_are_any():
    with mrm.Heap(debug=True) as heap:
        text = heap.explain(heap.malloc(10))
    if "libc.so" not in text and ".so+0x" not in text:
        pytest.skip("this C library has no backtrace()")
    assert "mrm/heap/" not in text, "the allocator's own calls are left out"
    assert "_blocks." in text


def child(code, debug):
    """What a program says whose environment has MRM_DEBUG: its end, its stdout and its stderr."""
    before = "import ctypes, mrm\ndef write(at): ctypes.memset(at, 65, 1)\n"
    done = python("-W", "ignore", "-c", before + textwrap.dedent(code), MRM_DEBUG=debug)
    return done.returncode, done.stdout, done.stderr


def test_the_environment_turns_it_on():
    code = """
        with mrm.Heap() as heap, mrm.Heap(debug=False) as plain:
            print(heap.debug, plain.debug, heap.usable_size(heap.malloc(1)), plain.usable_size(plain.malloc(1)))
    """
    assert child(code, "1") == (0, "True False 1 16\n", "")
    for off in ("0", ""):
        assert child(code, off) == (0, "False False 16 16\n", "")


def test_the_environment_turns_it_on_for_c():
    code = """
        from mrm.cffi import api, ffi
        for flags in (0, 4):
            options = ffi.new("mrm_heap_options *", {"size": ffi.sizeof("mrm_heap_options"), "flags": flags})
            heap = ffi.new("mrm_heap **")
            assert api.heap_open(ffi.NULL, options, heap) == 0
            print(api.heap_usable_size(heap[0], api.heap_malloc(heap[0], 1)))
            assert api.heap_close(heap[0]) == 0
    """
    pytest.importorskip("cffi")
    assert child(code, "1") == (0, "1\n16\n", "")


def test_leaks():
    code = """
        def leaky(heap):
            return heap.malloc(1000)

        with mrm.Heap() as heap:
            for _ in range(3):
                leaky(heap)
            heap.malloc(5)
            heap.free(heap.malloc(10))
        with mrm.Heap() as heap:
            heap.free(heap.malloc(10))
    """
    status, out, err = child(code, "leaks")
    assert (status, out) == (0, "")
    assert err.startswith("mrm: heap 1 is closed with 4 blocks in use, of 3005 bytes\n")
    # One place, or two: from 3.13 on the interpreter calls from another one of its own once it has seen the call.
    places = re.findall(r"  (\d+), of (\d+) bytes, allocated in thread \d+:\n    File .*, in leaky\n", err)
    assert 1 <= len(places) <= 2
    assert (sum(int(n) for n, _ in places), sum(int(n) for _, n in places)) == (3, 3000)
    assert "  1, of 5 bytes, allocated in thread" in err
    assert "heap 2" not in err
    assert child(code, "1") == (0, "", "")


def test_abort():
    code = """
        heap = mrm.Heap()
        at = heap.malloc(10)
        write(at + 10)
        heap.free(at)
        print("not reached")
    """
    status, out, err = child(code, "abort")
    assert status == -signal.SIGABRT
    assert out == ""
    assert "was written past its end" in err


def test_how_much_is_held():
    code = """
        heap = mrm.Heap()
        at = heap.malloc(1000)
        for _ in range(100):
            heap.free(heap.malloc(1000))
        heap.free(at)
        print(heap.check())
        for _ in range(5):
            heap.free(heap.malloc(1000))
        print(heap.check())
        print(heap.explain(at).splitlines()[0].endswith("which was freed"))
    """
    assert child(code, "quarantine=10000") == (0, "10\n10\nTrue\n", "")
    assert child(code, "quarantine=0")[1] == "0\n0\nFalse\n"
    assert child(code, "leaks, quarantine=1MiB")[1] == "101\n106\nTrue\n"


@pytest.mark.parametrize("huge_pool", [False, True])
def test_settings_that_are_none(huge_pool):
    code = f"""
        pool = mrm.Pool("4MiB", huge="off") if {huge_pool} else None
        try:
            mrm.Heap(pool)
        except mrm.ArgumentError as error:
            print(error)
        if pool:
            pool.close()
        print(set(mrm.live_handles().values()))
    """
    status, out, _ = child(code, "yes")
    said, left = out.splitlines()
    assert status == 0
    assert "MRM_DEBUG=yes: 'yes' is none of 0, 1, leaks, abort and quarantine=SIZE" in said
    assert left == "{0}"


def test_a_heap_that_is_there_at_the_end():
    code = """
        import atexit
        heap = mrm.Heap()
        kept = [heap.buffer(100), heap.malloc(10)]
        atexit.register(lambda: heap.free(heap.malloc(20)))
        class Late:
            def __del__(self):
                heap.free(kept[1])
        late = Late()
    """
    status, _, err = child(code, "leaks")
    assert status == 0
    assert "Traceback" not in err


def test_settings():
    assert debug_settings("1") == (None, False, False)
    assert debug_settings("leaks") == (None, True, False)
    assert debug_settings(" abort , quarantine=2MiB,leaks") == (2 * MIB, True, True)
    for wrong in ("leaks=1", "quarantine", "quarantine=", "quarantine=many", "2", "true"):
        with pytest.raises(mrm.ArgumentError):
            debug_settings(wrong)
