"""What an address is: asked from Python, and from a signal handler in C."""

import shutil
import subprocess

import pytest
from helpers import FRAME, ROOT, commit, fill, in_child
from machine import CHECKOUT

import mrm


def test_addresses_that_are_none_of_ours(pool):
    layout = pool.layout
    end = layout["base"] + (layout["view_count"] << layout["stride_shift"])
    for address in (0, 1, 2**47, 2**63, 2**64 - 1, -1, id(pool), layout["base"] - 1, end):
        assert mrm.classify(address) == mrm.Place("nothing", "unused", 0, 0, None, None, 0, "none", 0)


def test_the_window(pool):
    frame = pool.take()
    place = mrm.classify(pool.address(frame) + 5)
    assert place == mrm.Place("window", "open", pool.number, 0, frame, "held", frame, "rw", 5)
    pool.give(frame)
    assert mrm.classify(pool.address(frame)).frame_state == "ready"


def test_beyond_the_last_frame(pool):
    place = mrm.classify(pool.address(15) + FRAME + 1)
    assert (place.kind, place.frame, place.frame_state, place.slot, place.protection) == (
        "window",
        None,
        None,
        16,
        "none",
    )


def test_a_views_life(pool):
    view = pool.open_view()
    address, number = view.address(4) + FRAME - 1, view.number
    opened = mrm.Place("view", "open", pool.number, number, 4, "ready", 4, "rw", FRAME - 1)
    assert mrm.classify(address) == opened
    view.retire()
    place = mrm.classify(address)
    assert (place.kind, place.state, place.frame, place.protection) == ("view", "retired", 4, "none")
    view.close()
    assert mrm.classify(address).state == "unused"


def test_a_slots_life(pool):
    with pool.reserve(8) as r:
        address = r.address(3) + 17

        def told():
            place = mrm.classify(address)
            assert (place.kind, place.pool, place.number, place.slot, place.offset) == (
                "reservation", pool.number, r.number, 3, 17
            )  # fmt: skip
            return place.state, place.frame, place.frame_state, place.protection

        assert told() == ("empty", None, None, "none")
        (frame,) = fill(r, [3])
        assert told() == ("shown", frame, "held", "rw")
        commit(r, "protect", 3, "r")
        assert told() == ("shown", frame, "held", "r")
        commit(r, "unmap", 3, deferred=True)
        pool.give(frame)
        assert told() == ("deferred", frame, "released", "r")
        r.retire()
        assert told() == ("empty", None, None, "none")
    assert mrm.classify(address).kind == "nothing"


def test_many_ranges(huge):
    """More than one chunk of the registry holds."""
    with mrm.Pool(FRAME, huge=huge) as pool:
        all_of_them = [pool.reserve(2) for _ in range(150)]
        for r in all_of_them:
            assert mrm.classify(r.address(1)).number == r.number
        for r in all_of_them[::2]:
            r.close()
        for r in all_of_them[1::2]:
            assert mrm.classify(r.address(1)).number == r.number
            r.close()


def test_what_is_no_address_is_refused():
    for wrong in ("0x1000", None, 1.5):
        with pytest.raises(TypeError):
            mrm.classify(wrong)


# ---- from a signal handler ---------------------------------------------------------------


@pytest.fixture(scope="session")
def trap(tmp_path_factory):
    """The handler as a shared library."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None and not CHECKOUT:
        pytest.skip(
            "compiles a signal handler, and there is no C compiler here: install one (cc, gcc or clang)"
        )
    assert compiler, "whoever built mrm has a C compiler"
    library = tmp_path_factory.mktemp("trap") / "trap.so"
    subprocess.run(
        [compiler, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC",
         "-I", mrm.get_include(), str(ROOT / "tests/trap.c"), "-o", str(library)],
        check=True, timeout=60,
    )  # fmt: skip
    return library


_HANDLER = """
class Place(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in
                ("kind", "state", "pool", "number", "frame", "frame_state", "slot", "protection")]
    _fields_ += [("offset", ctypes.c_uint64)]
trap = ctypes.CDLL({library!r})
trap.trap_install.argtypes = [ctypes.c_void_p]
trap.trap_touch.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Place)]
assert trap.trap_install(mrm.api_address()) == 0
def told(address, expected, writing=False):
    answer = touch(address, writing)
    assert answer == expected, (answer, expected)
def touch(address, writing=False):
    place = Place()
    if not trap.trap_touch(address, writing, place):
        return "passed"
    return place.kind, place.state, place.slot, place.frame if place.frame != 2**32 - 1 else None, place.offset
"""


def test_a_handler_knows_why_it_was_called(trap, huge):
    ending = in_child(
        _HANDLER.format(library=str(trap))
        + """
pool = mrm.Pool(8 * FRAME, huge=huge)
view, r = pool.open_view(), pool.reserve(8)
frames = fill(r, range(3))
WINDOW, VIEW, RESERVATION = 1, 2, 3
RETIRED, EMPTY, SHOWN = 2, 3, 4
told(view.address(5), "passed")
told(r.address(0), "passed", True)
told(r.address(7) + 9, (RESERVATION, EMPTY, 7, None, 9))
view.retire()
told(view.address(5) + 1234, (VIEW, RETIRED, 5, 5, 1234))
commit(r, "protect", 1, "r")
told(r.address(1), "passed")
told(r.address(1) + 3, (RESERVATION, SHOWN, 1, frames[1], 3), True)
commit(r, "unmap", 2, deferred=True)
told(r.address(2), "passed", True)
r.retire()
told(r.address(2), (RESERVATION, EMPTY, 2, None, 0))
told(8, (0, 0, 0, None, 0))
window = pool.address(1)
pid = os.fork()
if pid == 0:
    os._exit(0 if touch(window + 2)[:2] == (WINDOW, 6) else 1)
assert os.waitpid(pid, 0)[1] == 0
say("all told")
view.close(); r.close(); pool.close()
""",
        huge,
    )
    assert (ending.out, ending.code) == ("all told\n", 0), ending


def test_a_handler_asks_while_the_ranges_change(trap, huge):
    """Readers in handlers, on several threads, while ranges come and go."""
    ending = in_child(
        _HANDLER.format(library=str(trap))
        + """
import threading
pool = mrm.Pool(2 * FRAME, huge=huge)
r = pool.reserve(4)
begin, done = threading.Event(), threading.Event()
def come_and_go():
    begin.wait()
    for _ in range(300):
        pool.reserve(4).close()
    done.set()
threads = [threading.Thread(target=come_and_go) for _ in range(3)]
for thread in threads: thread.start()
count = 0
while not done.is_set():
    told(r.address(2), (3, 3, 2, None, 0))
    count += 1
    begin.set()
for thread in threads: thread.join()
assert count > 0
say("all told")
r.close(); pool.close()
""",
        huge,
    )
    assert (ending.out, ending.code) == ("all told\n", 0), ending
