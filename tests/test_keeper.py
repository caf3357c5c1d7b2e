"""Keeper: settings are put back, whatever ends their owner.

Most of it on made-up kernels, where a setting is a file. The last tests change the real
setting by a few pages, where they may, and only ever compare what the keeper says that it did.
"""

import contextlib
import multiprocessing
import multiprocessing.spawn
import os
import pathlib
import signal
import tempfile
import textwrap
import warnings

import pytest
from helpers import alive, other_process, state, wait_until, waits
from machine import needs_nodes, throwaway
from madeup import POOL, write

import mrm
from mrm.errors import ArgumentError, ClosedError, ForkedError, FundingError, SettingWarning
from mrm.physical import kernelpool
from mrm.physical.keeping import Keeper

MAY_CHANGE = kernelpool.writable() and kernelpool.pages().available >= 16

real = pytest.mark.skipif(
    not MAY_CHANGE, reason="needs the right to change nr_hugepages, and 16 huge pages that are free"
)


@pytest.fixture
def kernel(tmp_path):
    """A machine with 20 huge pages."""
    return made_up(tmp_path)


def made_up(root):
    settings = {"nr_hugepages": 20, "surplus_hugepages": 0, "nr_overcommit_hugepages": 2}
    return write(root, {f"{POOL}/{name}": number for name, number in settings.items()})


def now(root, name="nr_hugepages"):
    text = (root / POOL / name).read_text()
    return int(text) if text else None  # a file in between, which a setting of the kernel never is


@contextlib.contextmanager
def owner_of(code, *arguments):
    """A process that has a keeper: itself, what it has changed, and the keeper's process; both gone in the end."""
    with other_process(code, *arguments) as owner:
        changed, keeper = map(int, owner.stdout.readline().split())
        try:
            yield owner, changed, keeper
        finally:
            owner.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGCONT)  # stopped, it would not see that its owner is gone
            wait_until(lambda: not alive(keeper))


@contextlib.contextmanager
def sends_when_this_waits(pid, number):
    """A process that sends a signal once this one waits, as it does when its order is on its way."""
    code = f"""
    import os, sys
    sys.path.insert(0, {os.path.dirname(__file__)!r})
    from helpers import wait_until, waits
    print("busy", flush=True)
    sys.stdin.readline()
    wait_until(lambda: waits({os.getpid()}))
    os.kill({pid}, {int(number)})
    """
    with other_process(code) as sender:
        assert sender.stdout.readline() == "busy\n"
        sender.stdin.write("now\n")
        sender.stdin.flush()
        yield


# ---- changes -------------------------------------------------------------------------


def test_changes_add_up_and_are_undone(kernel):
    with Keeper(kernel) as keeper:
        assert keeper.pid is None  # nothing was changed yet
        assert keeper.change(5) == 5
        assert keeper.change(-8) == -8
        assert now(kernel) == 17
        assert keeper.sums == {None: -3}
        pid = keeper.pid
    assert now(kernel) == 20
    assert not alive(pid)
    assert keeper.close() == {}
    with pytest.raises(ClosedError):
        keeper.change(1)


def test_what_others_change_meanwhile_stays(kernel):
    with Keeper(kernel) as keeper:
        keeper.change(-6)
        kernelpool.change(100, root=kernel)
    assert now(kernel) == 120


def test_no_change_needs_no_process(kernel):
    with Keeper(kernel) as keeper:
        assert keeper.change(0) == 0
        with pytest.raises(ArgumentError, match="no NUMA node 9"):
            keeper.change(1, 9)
        assert keeper.pid is None


def test_never_more_is_undone_than_was_done(kernel):
    with Keeper(kernel) as keeper:
        assert keeper.change(-50) == -20
        assert keeper.sums == {None: -20}
    assert now(kernel) == 20


def test_a_setting_that_may_not_be_written_is_refused_before_a_process_is_started(tmp_path):
    with Keeper(tmp_path) as keeper:
        with pytest.raises(FundingError, match="/sys is hidden") as refused:
            keeper.change(1)
        assert refused.value.nbytes == mrm.FRAME_SIZE
        assert keeper.pid is None


def test_what_cannot_be_put_back_is_said(kernel):
    keeper = Keeper(kernel)
    keeper.change(-6)
    (kernel / POOL / "nr_hugepages").unlink()
    (kernel / POOL / "nr_hugepages").mkdir()  # whoever writes it now is refused
    with pytest.warns(SettingWarning, match="nr_hugepages by 6"):
        assert keeper.close() == {None: -6}


# ---- the process -----------------------------------------------------------------------


def test_the_process_has_nothing_of_its_owners_but_the_socket(kernel):
    with Keeper(kernel) as keeper, open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        keeper.start()
        folder = pathlib.Path(f"/proc/{keeper.pid}")
        files = {name: os.readlink(folder / "fd" / name) for name in os.listdir(folder / "fd")}
        assert files.pop("0").startswith("socket:")
        assert files.pop("1") == files.pop("2") == "/dev/null"
        assert [each for each in files.values() if "pidfd" not in each] == []
        assert os.getsid(keeper.pid) == keeper.pid
        assert os.readlink(folder / "cwd") == "/"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE])
def test_signals_do_not_end_it(kernel, number):
    with Keeper(kernel) as keeper:
        keeper.change(4)
        pid = keeper.pid
        os.kill(pid, number)
        assert keeper.change(4) == 4
        assert keeper.pid == pid
    assert now(kernel) == 20


def test_if_it_is_killed_another_goes_on(kernel):
    with Keeper(kernel) as keeper:
        keeper.change(-4)
        first = keeper.pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not alive(first))
        assert keeper.change(-3) == -3
        assert keeper.pid != first
        assert now(kernel) == 13
    assert now(kernel) == 20


def test_if_it_is_killed_and_nobody_goes_on_the_owner_puts_things_back(kernel):
    keeper = Keeper(kernel)
    keeper.change(-4)
    os.kill(keeper.pid, signal.SIGKILL)
    assert keeper.close() == {}
    assert now(kernel) == 20


def test_if_it_is_killed_at_work_nobody_says_more_than_is_known(kernel):
    keeper = Keeper(kernel)
    keeper.change(-4)
    os.kill(keeper.pid, signal.SIGSTOP)  # it has not read the order when it ends
    pid = keeper.pid
    wait_until(lambda: state(pid) == "T")
    try:
        with (
            sends_when_this_waits(pid, signal.SIGKILL),
            pytest.raises(FundingError, match="whether it did nobody knows") as refused,
        ):
            keeper.change(-1)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
    assert "-4" in str(refused.value)
    keeper.close()
    assert now(kernel) == 20


def test_dropped_it_is_closed(kernel):
    keeper = Keeper(kernel)
    keeper.change(-4)
    pid = keeper.pid
    del keeper
    assert not alive(pid)
    assert now(kernel) == 20


@pytest.mark.parametrize("name", ["", "/usr/bin/editor", None])
def test_no_python_no_change(kernel, monkeypatch, name):
    monkeypatch.setattr(multiprocessing.spawn, "get_executable", lambda: name)
    with Keeper(kernel) as keeper, pytest.raises(FundingError, match="set_executable"):
        keeper.change(1)
    assert now(kernel) == 20


def test_a_python_that_is_none_is_noticed(kernel, monkeypatch, tmp_path):
    python = tmp_path / "python3"
    monkeypatch.setattr(multiprocessing.spawn, "get_executable", lambda: str(python))
    with Keeper(kernel) as keeper:
        with pytest.raises(FundingError, match="No such file"):
            keeper.change(1)
        python.write_text("#!/bin/sh\nexit 3\n")
        python.chmod(0o755)
        with pytest.raises(FundingError, match="exit status 3"):
            keeper.change(1)
    assert now(kernel) == 20


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_an_owner_that_gives_up_root_keeps_its_keeper():
    with tempfile.TemporaryDirectory() as folder, Keeper(kernel := made_up(pathlib.Path(folder))) as keeper:
        kernel.chmod(0o755)
        keeper.start()
        os.seteuid(65534)
        try:
            assert keeper.change(-3) == -3
            with Keeper(kernel) as other, pytest.raises(FundingError, match="Permission denied"):
                other.change(-1)
        finally:
            os.seteuid(0)
        keeper.close()
        assert now(kernel) == 20


# ---- the owner's end -------------------------------------------------------------------

OWNER = """
    import pathlib, sys, time
    from mrm.physical.keeping import Keeper
    keeper = Keeper(pathlib.Path(sys.argv[1]))
    print(keeper.change(-6), keeper.pid, flush=True)
    {then}
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_owner_that_is_killed(kernel, number):
    with owner_of(OWNER.format(then="time.sleep(600)"), str(kernel)) as (owner, changed, keeper):
        assert (changed, now(kernel)) == (-6, 14)
        owner.send_signal(number)
        owner.wait()
        wait_until(lambda: not alive(keeper))
        assert now(kernel) == 20


def test_an_owner_that_is_killed_in_the_middle_of_a_change(kernel):
    """The order is on its way, and the answer will reach nobody."""
    then = (
        "import os, signal; os.kill(keeper.pid, signal.SIGSTOP); print('now', flush=True); keeper.change(-9)"
    )
    with owner_of(OWNER.format(then=then), str(kernel)) as (owner, _, keeper):
        assert owner.stdout.readline() == "now\n"
        wait_until(lambda: waits(owner.pid))  # for the answer
        owner.kill()
        owner.wait()
        os.kill(keeper, signal.SIGCONT)
        wait_until(lambda: not alive(keeper))
        assert now(kernel) == 20


def test_an_owner_that_just_ends_has_put_things_back_by_then(kernel):
    with owner_of(OWNER.format(then=""), str(kernel)) as (owner, _, keeper):
        owner.wait()
        assert (owner.returncode, now(kernel), alive(keeper)) == (0, 20, False)


@pytest.mark.parametrize(
    "fork", ["os.fork()", "ctypes.PyDLL(None).fork()"], ids=["by Python", "behind Python's back"]
)
def test_a_child_that_lives_on_keeps_nothing_up(kernel, fork):
    """It has a copy of the socket; made by libc's fork, it never closes it."""
    then = f"""
    import ctypes, os
    child = {fork}
    if child == 0:
        time.sleep(600)
    print(child, flush=True)
    time.sleep(600)
    """
    code = OWNER.format(then=textwrap.indent(textwrap.dedent(then), "    ").lstrip())
    with owner_of(code, str(kernel)) as (owner, _, keeper):
        child = int(owner.stdout.readline())
        try:
            owner.kill()
            owner.wait()
            assert alive(child)
            wait_until(lambda: not alive(keeper))
            assert now(kernel) == 20
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_has_no_keeper(kernel):
    with Keeper(kernel) as keeper:
        keeper.change(-2)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                warnings.simplefilter("error")
                try:
                    keeper.change(1)
                except ForkedError:
                    keeper.close()
                    os.write(writing, b"refused")
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            assert pipe.read() == b"refused"
        os.waitpid(child, 0)
        assert now(kernel) == 18
        assert keeper.change(-1) == -1
    assert now(kernel) == 20


def test_ctrl_c_while_waiting_loses_no_count(kernel):
    """The answer that nobody waited for is booked with the next."""
    with Keeper(kernel) as keeper:
        keeper.change(-1)
        os.kill(keeper.pid, signal.SIGSTOP)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            with sends_when_this_waits(os.getpid(), signal.SIGALRM), pytest.raises(KeyboardInterrupt):
                keeper.change(-3)
            assert keeper.sums == {None: -1}
        finally:
            signal.signal(signal.SIGALRM, before)
            os.kill(keeper.pid, signal.SIGCONT)
        assert keeper.change(-2) == -2
        assert keeper.sums == {None: -6}
        assert now(kernel) == 14
    assert now(kernel) == 20


# ---- the real setting --------------------------------------------------------------------


@real
@pytest.mark.parametrize("change", [-8, 8])
def test_the_real_setting_comes_back_after_kill_9(change):
    """Of the machine's own setting: others may change it meanwhile, so it may take a few attempts."""
    code = f"""
        import sys, time
        from mrm.physical.keeping import Keeper
        keeper = Keeper()
        print(keeper.change({change}), keeper.pid, flush=True)
        time.sleep(600)
    """
    for _ in range(5):
        before = kernelpool.pages()
        with owner_of(code) as (owner, changed, keeper):
            between = kernelpool.pages()
            owner.kill()
            wait_until(lambda keeper=keeper: not alive(keeper))
            after = kernelpool.pages()
        quiet = between.total - before.total == changed
        if quiet and after.total == before.total:
            assert changed == change
            return
    pytest.fail(f"{before}, by {changed} {between}, and in the end {after}")


@real
@needs_nodes(2)
def test_a_nodes_own_setting():
    def there():
        return [kernelpool.pages(node).total for node in (0, 1)]

    before = there()
    with Keeper() as keeper:
        assert keeper.change(4, 1) == 4
        assert there() == [before[0], before[1] + 4]
        assert keeper.change(-6, 1) == -6
        assert there() == [before[0], before[1] - 2]
        assert keeper.sums == {1: -2}
    assert there() == before


@real
@throwaway
def test_pages_in_use_become_surplus_and_then_the_systems(needs_huge):
    """What a pool sends on to the system: the setting is lowered while it has the pages."""
    free = kernelpool.pages().available
    with mrm.Pool(8 * mrm.FRAME_SIZE, huge="require") as pool, Keeper() as keeper:
        lowered = keeper.change(-(free - 8 + 4))  # 4 more than are free now
        assert lowered == -(free - 8 + 4)
        assert kernelpool.pages().surplus >= 4
        assert len(pool) == 8
        pool.zero(pool.take(8))
        pool.give(range(8))
    assert kernelpool.pages().surplus == 0
