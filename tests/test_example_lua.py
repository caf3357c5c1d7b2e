"""Lua on a heap of mrm's, from C through cffi: the same output as on malloc, and nothing left behind."""

import importlib.util
import json
import sys

import pytest
from installed import ROOT, folder, run
from machine import needs_checkout, not_tried

import mrm

pytest.importorskip("cffi")
pytestmark = needs_checkout

LUA = ROOT / "examples" / "lua"
PROGRAMS = sorted(path.stem for path in LUA.glob("programs/*.lua"))

# A line that each prints at this size, so that it is known to have done its work.
SIZES = {
    "closures": (4000, "composed: 4000 calls, "),
    "queens": (6, "6 queens: 4 solutions, "),
    "strings": (3000, "formatted"),
    "tables": (30_000, "array 3: 30000 elements, "),
    "trees": (9, "the tree of depth 9 that lived throughout: 1023 nodes"),
}


@pytest.fixture(scope="module")
def lua():
    """examples/lua/liblua.py, as a module; skips where there is no Lua."""
    spec = importlib.util.spec_from_file_location("example_liblua", LUA / "liblua.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.load()
    except module.LuaMissingError as error:
        not_tried("examples/lua", str(error))
        pytest.skip(str(error))
    return module


@pytest.fixture
def heap(pool):
    """A heap on the pool of this test; afterwards it has no block, and the pool all frames."""
    with mrm.Heap(pool) as heap:
        yield heap
        assert list(heap.blocks()) == [], "Lua left blocks behind"
    assert pool.audit().held == 0


def compared(*arguments, **environment):
    """Run the command line; what its JSON says."""
    said = run(sys.executable, LUA / "run.py", "--json", *arguments, cwd=folder("lua"), PYTHONPATH=str(ROOT),
               PYTHONDONTWRITEBYTECODE="1", PYTHONWARNINGS="default", **environment)  # fmt: skip
    return json.loads(said)["programs"]


def test_every_program_is_tried():
    assert sorted(SIZES) == PROGRAMS


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_same_is_printed_on_malloc_and_on_mrm(lua, huge, program):
    size, line = SIZES[program]
    arguments = ("--program", program, "--repeat", 2, "--size", size, "--pool", "64MiB", "--huge", huge)
    (result,) = compared(*arguments)
    assert line in result["printed"]
    assert {setup: len(seconds) for setup, seconds in result["seconds"].items()} == {"malloc": 2, "mrm": 2}
    assert result["backing"] == {"require": "hugetlb", "off": "small"}[huge]
    assert 0 < result["peak"]["mrm"] < 64 << 20


def test_it_runs_on_whatever_pages_there_are(lua):
    (result,) = compared("--program", "queens", "--repeat", 1, "--size", 6, "--pool", "16MiB")
    assert (result["backing"] == "hugetlb") == (result["warning"] == "")


def test_a_whole_state_lies_on_the_heap(lua, heap):
    with lua.State(heap) as state:
        function, context = state.allocator
        assert context == heap._c_heap
        assert not heap.owns(function)  # C of mrm's, and no callback of Python's
        blocks = len(list(heap.blocks()))
        assert blocks > 100  # the libraries' tables and names
        assert state.run("return select('#', ...), ...", "a", "b") == ["2", "a", "b"]
        assert state.run("t = {} for i = 1, 100000 do t[i] = tostring(i) end return #t") == ["100000"]
        assert len(list(heap.blocks())) > blocks + 100_000


def test_a_state_keeps_the_heap_that_it_lies_on(lua, pool):
    heap = mrm.Heap(pool)
    state = lua.State(heap)
    state.run("kept = string.rep('x', 1000)")
    heap.close()
    assert pool.audit().held > 0
    assert state.run("return #kept") == ["1000"]
    del state
    assert pool.audit().held == 0


def test_states_side_by_side_share_a_heap(lua, heap):
    with lua.State(heap) as one, lua.State(heap) as other, lua.State() as stranger:
        for state in (one, other, stranger):
            assert state.run("x = (x or 0) + 1 return x") == ["1"]
        assert one.run("return string.rep('ab', 3)") == ["ababab"]


def test_out_of_memory_is_an_error_of_luas_and_the_state_goes_on(lua, pool, heap):
    with lua.State(heap) as state:
        much = pool.stats().nbytes * 2
        assert state.run(f"return pcall(string.rep, 'x', {much})") == ["", "not enough memory"]
        with pytest.raises(lua.LuaMemoryError, match="open a larger pool"):
            state.run("local t = {} for i = 1, 1e9 do t[i] = {i} end")
        assert state.run("collectgarbage() return 'still here'") == ["still here"]
        pool.audit()


def test_errors_say_what_is_wrong(lua, heap):
    with lua.State(heap) as state:
        with pytest.raises(lua.LuaError, match="program:1: bad argument"):
            state.run("return ('x'):rep({})")
        with pytest.raises(lua.LuaError, match="near"):
            state.run("return return")
        assert state.run("return 1.5") == ["1.5"]
    with pytest.raises(lua.LuaError, match="closed"):
        state.run("return 1")
    with pytest.raises(mrm.ArgumentError, match=r"no open mrm\.Heap"):
        lua.State("heap")


def test_without_lua_it_is_said_what_to_install(lua, monkeypatch):
    monkeypatch.setattr(lua, "NAMES", ("libnone.so",))
    with pytest.raises(lua.LuaMissingError, match=r"liblua5\.4-0"):
        lua.State()
