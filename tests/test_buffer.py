"""Buffers and arrays: what looks at them keeps them in place, and they keep heap and pool."""

import contextlib
import copy
import gc
import io
import pickle
import sys
import time
import weakref

import pytest
from heaping import beside, check_figures, holds, write
from helpers import FRAME, MIB, in_child

import mrm


@pytest.fixture
def heap(some_heap):
    return some_heap


@pytest.fixture
def numpy():
    return pytest.importorskip("numpy")


# ---- bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 100, 4096, 4097, MIB, 3 * MIB])
def test_a_buffer_is_bytes_that_can_be_written_to(heap, n):
    buffer = heap.buffer(n)
    assert len(buffer) == n
    assert buffer.address % 16 == 0
    assert heap.owns(buffer.address)
    with memoryview(buffer) as memory:
        assert (memory.format, memory.itemsize, memory.ndim, memory.nbytes) == ("B", 1, 1, n)
        assert (memory.shape, memory.strides) == ((n,), (1,))
        assert not memory.readonly
        assert memory.contiguous
        assert memory.obj is buffer
        memory[:] = b"\x5a" * n
    assert bytes(buffer) == b"\x5a" * n
    assert repr(buffer) == f"<mrm.Buffer of {n} bytes at {buffer.address:#x}>"
    buffer.free()
    assert repr(buffer) == "<mrm.Buffer freed>"


@pytest.mark.parametrize("n", [1, 100, 4097, 3 * MIB])
def test_zeros_are_asked_for(heap, n):
    for _ in range(2):
        buffer = heap.buffer(n, zero=True)
        assert bytes(buffer) == bytes(n)
        write(buffer.address, n, 1)
        buffer.free()


def test_what_reads_and_writes_bytes_takes_one(heap):
    buffer = heap.buffer(11)
    assert io.BytesIO(b"hello world").readinto(buffer) == 11
    assert bytes(buffer) == b"hello world"
    assert b"".join([buffer]) == b"hello world"
    assert memoryview(buffer)[6:].tobytes() == b"world"
    assert bytearray(buffer).upper() == b"HELLO WORLD"
    file = io.BytesIO()
    file.write(buffer)
    assert file.getvalue() == b"hello world"


def test_a_freed_buffer_says_so(heap):
    buffer = heap.buffer(100)
    buffer.free()
    buffer.free()
    assert len(buffer) == 0
    for use in (
        lambda: memoryview(buffer),
        lambda: buffer.address,
        lambda: buffer.resize(5),
        buffer.__dlpack__,
    ):
        with pytest.raises(mrm.ClosedError, match="the buffer was freed; ask its heap for another"):
            use()
    assert check_figures(heap).blocks == 0


def test_it_goes_with_its_last_reference(heap):
    for n in (100, 3 * MIB):
        buffer = heap.buffer(n)
        memory = memoryview(buffer)[10:20]
        del buffer
        gc.collect()
        stats = heap.stats()
        assert stats.blocks + stats.large_blocks == 1
        memory[:] = b"0123456789"
        del memory
        gc.collect()
        stats = heap.stats()
        assert stats.blocks + stats.large_blocks == 0


def test_a_buffer_is_made_by_a_heap_alone():
    with pytest.raises(TypeError, match=r"heap\.buffer"):
        mrm.Buffer()
    bare = mrm.Buffer.__new__(mrm.Buffer)
    with pytest.raises(mrm.ClosedError):
        memoryview(bare)
    bare.free()
    assert repr(bare) == "<mrm.Buffer freed>"


def test_a_buffer_has_no_field_of_its_own():
    """The free list, which makes a small one cheap, is of the base, and serves what is as large."""
    assert mrm.Buffer.__basicsize__ == mrm.Buffer.__base__.__basicsize__


def test_a_buffer_cannot_be_copied_as_if_it_were_its_bytes(heap):
    buffer = heap.buffer(100)
    for use in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            use(buffer)
    out = []
    write(buffer.address, 100, 1)
    data = pickle.dumps(pickle.PickleBuffer(buffer), protocol=5, buffer_callback=out.append)
    assert bytes(pickle.loads(data, buffers=out)) == bytes(buffer)


# ---- resizing ----------------------------------------------------------------------------


def test_resizing_keeps_contents(heap):
    buffer, had = heap.buffer(10), 10
    write(buffer.address, 10, 1)
    for n in (100, 5000, MIB, 3 * MIB, 9 * MIB, 2 * MIB, 50, 0, 7):
        buffer.resize(n)
        assert len(buffer) == n
        assert holds(buffer.address, min(n, had), 1)
        write(buffer.address, n, 1)
        had = n
    with pytest.raises(mrm.ArgumentError):
        buffer.resize(-1)
    assert holds(buffer.address, 7, 1)


def test_nothing_moves_under_who_looks(heap):
    buffer = heap.buffer(3 * MIB)
    assert not buffer.exported
    with memoryview(buffer) as one, memoryview(buffer) as two:
        assert buffer.exported
        for use, what in ((lambda: buffer.resize(10), "resized"), (buffer.free, "freed")):
            way_out = rf"2 views look at the buffer: release them \(.*\) before it is {what}"
            with pytest.raises(mrm.PinnedError, match=way_out):
                use()
        one[0], two[1] = 1, 2
    assert not buffer.exported
    buffer.resize(9 * MIB)
    assert bytes(memoryview(buffer)[:2]) == b"\1\2"


def test_a_resize_that_fails_changes_nothing():
    with mrm.Heap(limit="8MiB") as heap:
        buffer = heap.buffer(3 * MIB)
        write(buffer.address, 3 * MIB, 1)
        at = buffer.address
        with pytest.raises(mrm.OutOfFrames):
            buffer.resize(10 * MIB)
        assert (buffer.address, len(buffer), buffer.exported) == (at, 3 * MIB, False)
        assert holds(at, 3 * MIB, 1)
        buffer.resize(8 * MIB)


def test_nobody_looks_at_a_buffer_that_another_thread_resizes(heap):
    """A view either stops the resize, or is refused, or shows the bytes where they are then."""
    buffer = heap.buffer(2 * FRAME)
    behind = [heap.malloc(FRAME)]

    def look(stop):
        while not stop.is_set():
            try:
                memory = memoryview(buffer)
            except mrm.PinnedError as error:
                assert "another thread is resizing the buffer" in str(error)
                continue
            memory[0] = memory[-1] = 7
            memory.release()

    done = 0
    with beside(look):
        while done < 60:
            try:
                buffer.resize((2 + done % 9) * FRAME)
                done += 1
            except mrm.PinnedError:
                continue
    assert not buffer.exported
    buffer.free()
    for address in behind:
        heap.free(address)


def test_nobody_looks_at_a_buffer_that_another_thread_frees(heap):
    """It is gone before the GIL is: who has a view of it has its bytes."""
    buffers, gone = [heap.buffer(16)], []

    def look(stop):
        while not stop.is_set():
            buffer = buffers[0]
            try:
                view = memoryview(buffer)
            except (BufferError, mrm.ClosedError):
                continue
            try:
                assert buffer.address
            except mrm.ClosedError:
                gone.append(buffer)
            view.release()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with beside(look):
            until = time.monotonic() + 1
            while time.monotonic() < until:
                buffers[0] = heap.buffer(3 * MIB)
                with contextlib.suppress(BufferError):
                    buffers[0].free()
    finally:
        sys.setswitchinterval(interval)
    assert not gone


# ---- arrays ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [5, 0, (), (3, 4), (0, 7), (300, 300, 5), [2, 2]])
@pytest.mark.parametrize("dtype", ["float64", "int8", "complex128", "S5", "datetime64[ns]", "i4,f8"])
def test_arrays_of_any_shape(heap, numpy, shape, dtype):
    zeros, empty = heap.zeros(shape, dtype), heap.empty(shape, dtype)
    expected = numpy.zeros(shape, dtype)
    assert zeros.shape == empty.shape == expected.shape
    assert zeros.dtype == empty.dtype == expected.dtype
    assert zeros.flags.writeable
    assert zeros.flags.c_contiguous
    assert (zeros == expected).all()
    assert heap.owns(zeros.ctypes.data) or zeros.nbytes == 0
    assert not zeros.flags.owndata


def test_an_array_keeps_the_heap(numpy):
    pool = mrm.Pool(16 * FRAME, huge="off")
    heap = mrm.Heap(pool)
    arrays = [heap.zeros(1000), heap.zeros(10**6), heap.empty((10, 10), "int32")]
    views = [arrays[0][5:10], arrays[1].reshape(1000, 1000).T, arrays[2].view("uint8")]
    heap.close()
    pool.close()
    del heap, pool, arrays
    gc.collect()
    for view in views:
        view[...] = 3
        assert (view == 3).all()


def test_what_an_array_cannot_be(heap, numpy):
    with pytest.raises(mrm.ArgumentError, match="holds Python objects"):
        heap.empty(5, object)
    for shape in (-1, (2, -3)):
        with pytest.raises(mrm.ArgumentError, match="lengths are not negative"):
            heap.zeros(shape)
    for shape in ((1 << 40, 1 << 40), (numpy.int64(1 << 40), numpy.int64(1 << 40)), 1 << 62):
        with pytest.raises((mrm.ArgumentError, MemoryError)):
            heap.zeros(shape)
    for shape in (2.5, (2, 2.5), "ab", None):
        with pytest.raises((TypeError, mrm.ArgumentError)):
            heap.zeros(shape)
    assert check_figures(heap).large_blocks == 0


def test_numpys_integers_are_lengths(heap, numpy):
    assert heap.zeros((numpy.int8(100), numpy.int8(100)), "int8").size == 10_000
    assert len(heap.zeros(numpy.uint16(7))) == 7
    assert len(heap.buffer(numpy.int64(100))) == 100
    heap.free(heap.malloc(numpy.int32(10)))


def test_arrays_are_copied_pickled_and_saved(heap, numpy, tmp_path):
    array = heap.empty((50, 40), "int32")
    array[:] = numpy.arange(2000).reshape(50, 40)
    for other in (
        copy.copy(array),
        copy.deepcopy(array),
        pickle.loads(pickle.dumps(array)),
        pickle.loads(pickle.dumps(array, protocol=5)),
        pickle.loads(pickle.dumps(array[::2].T)).T.repeat(2, axis=0) * 0 + array,
    ):
        assert (other == array).all()
        assert other.flags.writeable
        assert not heap.owns(other.ctypes.data)
    out = []
    data = pickle.dumps(array, protocol=5, buffer_callback=out.append)
    assert len(data) < 2000
    shared = pickle.loads(data, buffers=out)
    shared[0, 0] = 77
    assert array[0, 0] == 77
    path = tmp_path / "array.npy"
    numpy.save(path, array)
    mapped = numpy.load(path, mmap_mode="r")
    assert (mapped == array).all()
    again = heap.empty(array.shape, array.dtype)
    again[:] = mapped
    assert (again == array).all()
    del mapped, shared, out


# ---- DLPack ------------------------------------------------------------------------------------


def test_dlpack_shares_the_bytes(heap, numpy):
    buffer = heap.buffer(1000)
    assert buffer.__dlpack_device__() == (1, 0)
    array = numpy.from_dlpack(buffer)
    assert (array.dtype, array.shape) == (numpy.uint8, (1000,))
    assert array.ctypes.data == buffer.address
    write(buffer.address, 1000, 1)
    assert array.tobytes() == bytes(buffer)
    view = array[10:20]
    del array
    gc.collect()
    assert buffer.exported
    with pytest.raises(mrm.PinnedError):
        buffer.resize(5000)
    del view
    gc.collect()
    assert not buffer.exported
    buffer.resize(5000)


def test_a_tensor_that_nobody_takes_goes(heap):
    buffer = heap.buffer(100)
    capsule = buffer.__dlpack__(max_version=(1, 0), dl_device=(1, 0), copy=False)
    assert "dltensor" in repr(capsule)
    assert buffer.exported
    del capsule
    gc.collect()
    assert not buffer.exported
    for wrong in ({"copy": True}, {"stream": 1}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError, match="memory of the CPU"):
            buffer.__dlpack__(**wrong)
    assert not buffer.exported


def test_a_tensor_keeps_its_buffer(heap, numpy):
    array = numpy.from_dlpack(heap.buffer(3 * MIB, zero=True))
    gc.collect()
    assert heap.stats().large_blocks == 1
    assert not array.any()
    del array
    gc.collect()
    assert heap.stats().large_blocks == 0


# ---- what outlives what --------------------------------------------------------------------------


def test_a_buffer_outlives_heap_and_pool():
    pool = mrm.Pool(8 * FRAME, huge="off")
    heap = mrm.Heap(pool)
    gone = weakref.ref(heap)
    buffers = [heap.buffer(n) for n in (100, 3 * MIB)]
    heap.close()
    pool.close()
    del heap, pool
    gc.collect()
    assert gone() is None
    for buffer in buffers:
        write(buffer.address, len(buffer), 1)
        buffer.resize(len(buffer) + 100)
        assert holds(buffer.address, len(buffer) - 100, 1)
        memory = memoryview(buffer)
        memory[0] = 1
    del memory


def test_a_buffer_outlives_a_private_heap():
    heap = mrm.Heap()
    buffer = heap.buffer(3 * MIB)
    del heap
    gc.collect()
    write(buffer.address, 3 * MIB, 1)
    buffer.resize(9 * MIB)
    assert holds(buffer.address, 3 * MIB, 1)


@pytest.mark.parametrize("kind", ["mrm.Heap(pool)", "mrm.Heap()"])
@pytest.mark.parametrize("order", ["buffer, memory, array, tensor", "array, tensor, memory, buffer"])
def test_all_of_it_may_be_there_when_the_interpreter_ends(kind, order):
    pytest.importorskip("numpy")
    ending = in_child(
        f"""
        import atexit, numpy, threading
        pool = mrm.Pool(16 * FRAME, huge=huge)
        heap = {kind}
        buffer = heap.buffer(1000, zero=True)
        memory = memoryview(heap.buffer(3 * MIB, zero=True))
        array = heap.zeros(10**6)
        tensor = numpy.from_dlpack(heap.buffer(100, zero=True))
        class Late:
            def __init__(self, *what):
                self.what = what
            def __del__(self, look=memoryview, write=os.write):
                for each in self.what:
                    with look(each) as memory, memory.cast("B") as seen:
                        assert seen[0] in (0, 3, 1)
                        if not seen.readonly:
                            seen[0] = 1
                write(1, b"used ")
        sys.late = Late({order})
        cycle = [Late({order})]
        cycle.append(cycle)
        atexit.register(lambda: array.fill(3))
        del buffer, memory
        heap.close()
        pool.close()
        """
    )
    assert ending.code == 0, ending
    assert ending.err == "", ending
    assert ending.out.split() == ["used"] * 2, ending
