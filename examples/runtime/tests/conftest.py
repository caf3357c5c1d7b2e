"""Pools for the tests: on huge pages where there are some, else on small ones, audited at the end."""

import warnings

import larder
import pytest

import mrm


@pytest.fixture
def pool():
    """32 frames."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mrm.BackingWarning)
        pool = mrm.Pool(32 * mrm.FRAME_SIZE)
    with pool:
        yield pool
        assert pool.audit().held == 0, "a store kept frames"
        assert set(pool.accounts) == {"pool"}


@pytest.fixture
def store(pool):
    """An empty store."""
    with larder.Store(pool) as store:
        yield store
