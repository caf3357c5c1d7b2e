"""Which node's setting is changed by how much, when a pool that is spread goes on to the system and comes back.

The pool and the keeper are made up: what counts is what is asked of the keeper, when nodes refuse, give less,
or when another thread is at the same pool meanwhile.
"""

from types import SimpleNamespace

import pytest
from helpers import FRAME

import mrm
from mrm import _balloon
from mrm.errors import FundingError


class Keeper:
    """Notes what is asked, and gives what it is told to; a node may refuse."""

    def __init__(self, gives=None, refuses=()):
        self.gives, self.refuses, self.asked = gives or {}, refuses, []

    def check(self, n, node):
        pass

    def change(self, n, node):
        self.asked.append((n, node))
        if node in self.refuses and n > 0:
            raise FundingError(f"node {node} is locked")
        return min(n, self.gives.get(node, n))


def pool_of(keeper, missing, *, deflates=None):
    """A spread pool; ``missing`` is what it says at each asking, the last one from then on."""
    told = list(missing)
    return SimpleNamespace(
        number=1,
        name=None,
        backing="hugetlb",
        numa_node="local",
        frame_size=FRAME,
        _keeper=lambda: keeper,
        _missing_by_node=lambda: told.pop(0) if len(told) > 1 else told[0],
        _inflate=lambda n, retire: (n, None),
        _deflate=lambda n: (n if deflates is None else min(n, deflates), None),
    )


def surplus_of(monkeypatch, by_node):
    """Surplus pages that the kernel's pool has on each node."""
    monkeypatch.setattr(_balloon, "pages", lambda node: SimpleNamespace(surplus=by_node[node]))


def test_each_node_gives_up_what_went_in_there_but_for_its_surplus(monkeypatch):
    surplus_of(monkeypatch, {0: 1, 1: 0})
    keeper = Keeper()
    pool = pool_of(keeper, [{0: 0, 1: 0}, {0: 3, 1: 2}])
    assert _balloon._Giving(pool, 5, "system")._to_system(5) == (5, None)
    assert keeper.asked == [(-2, 0), (-2, 1)]


def test_where_others_are_at_it_no_page_of_others_is_taken(monkeypatch):
    surplus_of(monkeypatch, {0: 2, 1: 2})
    keeper = Keeper()
    # Another thread had one go in meanwhile: which node's were ours, nobody knows.
    pool = pool_of(keeper, [{0: 0, 1: 0}, {0: 3, 1: 3}])
    assert _balloon._Giving(pool, 5, "system")._to_system(5) == (5, None)
    assert keeper.asked == [(-1, None)]


def test_what_one_node_gave_is_fetched_though_the_next_refuses():
    keeper = Keeper(refuses=[1])
    pool = pool_of(keeper, [{0: 2, 1: 2}, {0: 0, 1: 2}])
    done, error = _balloon._Fetching(pool, 4, "system")._from_system(4)
    assert (done, str(error)) == (2, "node 1 is locked")
    assert keeper.asked == [(2, 0), (2, 1)]


def test_a_first_node_that_refuses_is_an_error():
    keeper = Keeper(refuses=[0])
    with pytest.raises(mrm.FundingError, match="node 0 is locked"):
        _balloon._Fetching(pool_of(keeper, [{0: 2, 1: 2}]), 4, "system")._from_system(4)


def test_what_was_not_fetched_goes_back_to_its_node():
    keeper = Keeper()
    pool = pool_of(keeper, [{0: 2, 1: 2}, {0: 0, 1: 1}], deflates=3)
    assert _balloon._Fetching(pool, 4, "system")._from_system(4) == (3, None)
    assert keeper.asked == [(2, 0), (2, 1), (-1, 1)]


def test_a_node_that_gives_less_is_told_of():
    keeper = Keeper(gives={1: 1})
    pool = pool_of(keeper, [{0: 2, 1: 2}, {0: 0, 1: 1}])
    done, error = _balloon._Fetching(pool, 4, "system")._from_system(4)
    assert done == 3
    assert "the system has no more of it" in str(error)
    assert keeper.asked == [(2, 0), (2, 1)]
