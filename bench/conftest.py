"""Pools to measure on: huge pages where enough are free, else ordinary memory.

Run a file alone (``python bench/run.py`` does): what one subject leaves behind in
caches, page tables and free lists must not be measured with the next.
"""

from collections.abc import Iterator

import pytest

import mrm

FRAMES = 512
FRAME = mrm.FRAME_SIZE


@pytest.fixture(scope="session")
def pool() -> Iterator[mrm.Pool]:
    """A pool of 512 frames, all free at the beginning and at the end of a test."""
    with mrm.Pool(FRAMES * FRAME, huge="prefer") as opened:
        yield opened


@pytest.fixture(autouse=True)
def label(request: pytest.FixtureRequest, pool: mrm.Pool) -> None:
    """Say in every figure what it was measured on."""
    if "benchmark" in request.fixturenames:
        request.getfixturevalue("benchmark").extra_info["backing"] = pool.backing
