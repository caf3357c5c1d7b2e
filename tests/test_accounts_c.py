"""Accounts, funds and shortages through the C interface, by cffi; on the fake, as nothing is touched."""

import pytest
from helpers import MANY


@pytest.fixture
def pool(fake_pool):
    return fake_pool


@pytest.fixture
def table(pool):
    """The C table by cffi, and the pool's handle."""
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    handle = api.pool_from_object(ffi.cast("void *", id(pool)))
    yield api, ffi, handle
    api.pool_release(handle)


def test_accounts_from_c(table, pool):
    api, ffi, handle = table
    number, fund, frame = ffi.new("uint32_t *"), ffi.new("uint32_t *"), ffi.new("uint32_t *")
    name = ffi.new("char[]", b"heap")
    options = ffi.new("mrm_account_options *", {"size": ffi.sizeof("mrm_account_options"), "name": name})
    assert api.account_open(handle, options, number) == 0
    assert api.account_open(handle, options, number) == -1
    found = ffi.new("uint32_t *")
    assert api.account_find(handle, name, found) == 0
    assert found[0] == number[0] == pool.accounts["heap"].number
    assert api.fund_open(handle, b"overdraft", fund) == 0
    assert api.fund_transfer(handle, 0, fund[0], 2) == 0
    assert api.account_fund(handle, number[0], 1) == 0
    assert api.account_take(handle, number[0], 0, frame) == 0
    assert api.account_take(handle, number[0], 0, frame) == -3
    assert api.account_take(handle, number[0], 1, frame) == 0
    assert api.account_of(handle, frame[0], found) == 0
    assert found[0] == number[0]
    stats = ffi.new("mrm_account_stats *", {"size": ffi.sizeof("mrm_account_stats")})
    assert api.account_stats(handle, number[0], stats) == 0
    assert (stats.balance, stats.allocated, stats.overdrawn, stats.limit) == (1, 2, 1, MANY)
    known = stats.size = 24  # an older caller's: no more of it is written
    stats.allocated = 99
    assert api.account_stats(handle, number[0], stats) == 0
    assert (stats.size, stats.balance, stats.allocated) == (known, 1, 99)


def test_what_c_gets_wrong_is_refused(table, pool):
    api, ffi, handle = table
    frame = ffi.new("uint32_t *")
    said = lambda: ffi.string(api.failure().text).decode()  # noqa: E731
    for wrong in (0, 7, 2**32 - 1):
        assert api.account_take(handle, wrong, 0, frame) == -1
        assert f"account {wrong} is none of this pool's" in said()
        assert api.account_fund(handle, wrong, 1) == -1
        assert api.fund_stats(handle, wrong + 3 if wrong < 9 else wrong, ffi.new("mrm_fund_stats *")) == -1
    assert api.account_take(handle, 1, 4, frame) == -1
    assert "not 4" in said()
    assert api.account_flush(handle, 1, 2, ffi.NULL) == -1
    for size in (0, 1000):
        options = ffi.new("mrm_account_options *", {"size": size})
        assert api.account_open(handle, options, frame) == -1
        assert "sizeof(mrm_account_options)" in said()
    assert api.account_find(handle, ffi.NULL, frame) == -1


def test_a_c_callback_is_called_on_a_shortage(table, pool):
    api, ffi, handle = table
    held = list(pool.take(MANY))

    @ffi.callback("void (void *, mrm_pool *, uint32_t, size_t)")
    def relieve(context, which, account, wanted):
        assert (int(ffi.cast("intptr_t", context)), which, account, wanted) == (42, handle, 1, 1)
        assert api.give(which, held.pop(), 0) == 0

    frame = ffi.new("uint32_t *")
    assert api.pool_on_shortage(handle, relieve, ffi.cast("void *", 42)) == 0
    assert api.take(handle, frame) == 0
    assert api.pool_on_shortage(handle, ffi.NULL, ffi.NULL) == 0
    assert api.take(handle, frame) == -3
