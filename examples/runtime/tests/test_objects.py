"""Objects, fields, payloads, and the errors that say what cannot be."""

import os
import signal

import larder
import pytest

import mrm


def test_objects_refer_to_each_other(store):
    pair = store.new(fields=2, data=b"pair")
    assert (len(pair), pair[0], pair[1], pair.data) == (2, None, None, b"pair")
    pair[0] = store.new(data=b"hello")
    pair[-1] = pair
    assert pair[0].data == b"hello"
    assert pair[1] == pair
    assert pair[1] != pair[0]
    pair[0] = None
    assert pair[0] is None


@pytest.mark.parametrize("nbytes", [0, 1, 15, 16, 17, 16384, 16385, 1 << 20, 3 << 20])
def test_a_payload_of_any_size_is_kept(store, nbytes):
    data = bytes(i * 7 % 251 for i in range(min(nbytes, 4096))) * (nbytes // 4096 + 1)
    data = data[:nbytes]
    one = store.new(fields=3, data=data)
    assert (one.nbytes, one.data) == (nbytes, data)
    store.collect()
    assert one.data == data
    if nbytes:
        one.write(nbytes - 1, b"!")
        assert one.data == data[:-1] + b"!"


def test_a_large_payload_grows_and_shrinks(store):
    one = store.new(data=b"begin" + bytes(20_000))
    for nbytes in (1 << 20, 5 << 20, 9 << 20, 2 << 20, 17_000):
        one.resize(nbytes)
        store.collect()
        assert one.nbytes == nbytes
        assert one.data == b"begin" + bytes(nbytes - 5)


def test_what_cannot_be_is_said(store):
    one = store.new(fields=1, data=b"abc")
    with pytest.raises(IndexError, match="field 1 of an object with 1"):
        one[1]
    with pytest.raises(mrm.ArgumentError, match="more than an object has, 4096"):
        store.new(fields=4097)
    with pytest.raises(mrm.ArgumentError, match="a payload of 3"):
        one.write(2, b"xy")
    with pytest.raises(mrm.ArgumentError, match="more than 16384 bytes"):
        one.resize(10)
    with pytest.raises(TypeError, match=r"store\.new"):
        larder.Ref()
    with pytest.raises(TypeError):
        hash(one)


def test_one_store_a_pool_and_its_own_objects_only(pool, store):
    with pytest.raises(mrm.ArgumentError, match="larder objects"):
        larder.Store(pool)
    with mrm.Pool(8 * mrm.FRAME_SIZE, huge="off") as other, larder.Store(other) as stranger:
        with pytest.raises(mrm.ArgumentError, match="another store"):
            store.new(fields=1)[0] = stranger.new()


def test_a_closed_store_says_so(pool):
    store = larder.Store(pool)
    one = store.new(data=b"x")
    store.close()
    store.close()
    assert store.closed
    with pytest.raises(mrm.ClosedError, match="the store is closed"):
        one.data
    with pytest.raises(mrm.ClosedError):
        store.new()
    with pytest.raises(mrm.ArgumentError, match="no open mrm"):
        larder.Store(None)


def test_a_store_that_is_dropped_gives_its_frames_back(pool):
    one = larder.Store(pool).new(data=b"x")
    assert one.data == b"x"
    assert pool.audit().held > 0
    del one
    assert pool.audit().held == 0


def test_a_child_has_no_store_and_is_told(store):
    one = store.new(data=b"parent's")
    child = os.fork()
    if child == 0:
        try:
            one.data
        except mrm.ForkedError:
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        pytest.fail(f"the child died of {signal.Signals(os.WTERMSIG(status)).name}")
    assert os.WEXITSTATUS(status) == 0
    assert one.data == b"parent's"
