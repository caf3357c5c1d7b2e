"""The command line, and mrm fund: on a made-up kernel, so that no setting is touched."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import madeup
import pytest
from helpers import environment, wait_until, waits
from madeup import POOL

from mrm.errors import ArgumentError
from mrm.physical import keeper, kernelpool
from mrm.tools import cli, fund

pytest.importorskip("click")
pytest.importorskip("rich")

MIB = 1 << 20


def run_python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


# ---- mrm -----------------------------------------------------------------------------


def test_help_imports_nothing_of_what_it_lists(capsys):
    assert cli.run(["--help"]) == 0
    said = capsys.readouterr().out
    for name in ("doctor", "fund", "demo", "bench", "stress", "Begin with", "3  this machine"):
        assert name in said
    code = "import sys; from mrm.tools import cli; cli.run(['--help']); print(sorted(sys.modules))"
    modules = run_python("-c", code).stdout.splitlines()[-1]
    assert "mrm.tools.commands" in modules
    for module in ("rich", "mrm.tools.doctor", "mrm.tools.fund"):
        assert f"'{module}'" not in modules


def test_without_the_extra_one_sentence_says_what_to_install():
    code = "import sys; sys.modules['click'] = None; from mrm.tools.cli import main; main()"
    done = run_python("-c", code)
    assert done.returncode == 3
    assert (
        done.stderr
        == "mrm: the command line needs click and rich: pip install 'managed-runtime-memory[cli]'\n"
    )


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mrm ")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["fund"], ["fund", "2 apples"], ["fund", "--persist", "--release", "1M"]]
)
def test_usage_errors_are_2(arguments, capsys):
    assert cli.run(arguments) == 2
    assert "Usage" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["doctor", "fund"])
def test_every_help_has_examples_and_exit_codes(name, capsys):
    assert cli.run([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Examples:" in said
    assert "Exit status:" in said


def test_failures_have_their_exit_codes(monkeypatch, capsys):
    import click

    from mrm import errors
    from mrm.tools import commands

    def failing(error):
        @click.command()
        def command():
            raise error

        return command

    for error, status in (
        (errors.FundingError("no pages"), 3),
        (errors.AuditError("lost"), 1),
        (ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib"), 3),
        (ModuleNotFoundError("No module named 'mrm.core'", name="mrm.core"), 3),
        (KeyboardInterrupt(), 130),
    ):
        command = failing(error)
        monkeypatch.setattr(commands.LazyGroup, "get_command", lambda *_, command=command: command)
        assert cli.run(["demo"]) == status
        assert capsys.readouterr().err.lstrip().startswith("mrm: ")


# ---- mrm fund ------------------------------------------------------------------------


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A machine with 10 huge pages, 4 of them free, and memory for up to 100."""
    files = {
        f"{POOL}/nr_hugepages": 10,
        f"{POOL}/free_hugepages": 4,
        "proc/meminfo": "MemFree: 204800 kB",
        "proc/buddyinfo": "Node 0, zone Normal 1 1 1 1 1 1 1 1 1 2 3",
    }
    madeup.write(tmp_path, files)

    def write(file, number):
        if file.endswith("compact_memory"):
            return
        setting, number = Path(file), min(number, 100)
        free = setting.with_name("free_hugepages")
        left = max(0, int(free.read_text()) + number - int(setting.read_text()))
        setting.write_text(f"{number}\n")
        free.write_text(f"{left}\n")

    monkeypatch.setattr(keeper, "write", write)
    return tmp_path


def pool(root):
    found = kernelpool.pages(None, root)
    return found.total, found.free


def test_what_is_free_counts(kernel):
    outcome = kernelpool.raise_available(8 * MIB, root=kernel)
    assert (outcome.enough, outcome.added, pool(kernel)) == (True, 0, (10, 4))
    outcome = kernelpool.raise_available(15 * MIB, root=kernel)
    assert (outcome.enough, outcome.added, pool(kernel)) == (True, 4, (14, 8))


def test_fewer_than_wanted(kernel):
    outcome = kernelpool.raise_available(1 << 30, root=kernel)
    assert (outcome.enough, pool(kernel)) == (False, (100, 94))
    assert "drop the file cache" in kernelpool.why_not_all(outcome, kernel)
    assert kernelpool.free_blocks(kernel) == 2 + 3 * 2
    (kernel / "proc/meminfo").write_text("MemFree: 99999999 kB\n")
    assert "fragmented" in kernelpool.why_not_all(outcome, kernel)


def test_release_takes_only_free_ones(kernel):
    assert kernelpool.release(4 * MIB, root=kernel).added == -2
    assert pool(kernel) == (8, 2)
    kernelpool.release(1 << 30, root=kernel)
    assert pool(kernel) == (6, 0)


def test_available_takes_back_what_it_added_and_nothing_else(kernel):
    with fund.available(20 * MIB, kernel) as outcome:
        assert (outcome.added, pool(kernel)[0]) == (6, 16)
        kernelpool.change(2, root=kernel)  # somebody else wants 2 more
    assert pool(kernel)[0] == 12
    with pytest.raises(KeyboardInterrupt), fund.available(20 * MIB, kernel):
        raise KeyboardInterrupt
    assert pool(kernel)[0] == 12


def test_available_without_the_right_to_says_so_and_goes_on(tmp_path):
    with fund.available(4 * MIB, tmp_path) as outcome:
        assert (outcome.added, outcome.enough) == (0, False)
        assert "/sys is hidden" in outcome.refused


def test_no_such_node(kernel):
    with pytest.raises(ArgumentError, match="no NUMA node 3"):
        kernelpool.raise_available(MIB, 3, kernel)


def test_persistent_setting(kernel):
    outcome = kernelpool.raise_available(2 * MIB, root=kernel)
    assert kernelpool.persistent_setting(outcome, kernel) == (
        "etc/sysctl.d/60-mrm.conf",
        "vm.nr_hugepages = 10\n",
    )
    on_node = kernelpool.Outcome(1, outcome.before, outcome.after, node=1)
    file, line = kernelpool.persistent_setting(on_node, kernel)
    assert file == "etc/tmpfiles.d/60-mrm-node1.conf"
    assert "node1/hugepages/hugepages-2048kB/nr_hugepages - - - - 10" in line


def test_where_the_default_size_is_another_one_it_is_named(kernel):
    """vm.nr_hugepages and hugepages= are about the default size: the number would be of GiBs."""
    (kernel / "proc/meminfo").write_text("MemFree: 99999999 kB\nHugepagesize: 1048576 kB\n")
    outcome = kernelpool.raise_available(1 << 30, root=kernel)
    file, line = kernelpool.persistent_setting(outcome, kernel)
    assert file == "etc/tmpfiles.d/60-mrm.conf"
    assert line == f"w /{POOL}/nr_hugepages - - - - 100\n"
    assert "hugepagesz=2M hugepages=" in kernelpool.why_not_all(outcome, kernel)


def test_where_sys_is_hidden_proc_serves_if_it_means_the_same(tmp_path):
    (tmp_path / "proc/sys/vm").mkdir(parents=True)
    setting = tmp_path / "proc/sys/vm/nr_hugepages"
    for size in (1048576, 2048):
        (tmp_path / "proc/meminfo").write_text(
            f"HugePages_Total: 3\nHugePages_Free: 2\nHugepagesize: {size} kB\n"
        )
        outcome = kernelpool.raise_available(16 * MIB, root=tmp_path)
        if size == 2048:
            assert setting.read_text() == "9\n"
        else:
            assert "/sys is hidden" in outcome.refused
            assert not setting.exists()


def test_fund_command(kernel, capsys):
    root = ["--root", str(kernel)]
    assert cli.run(["fund", "16MiB", "--persist", *root]) == 0
    assert "4 were added" in capsys.readouterr().out
    assert (kernel / "etc/sysctl.d/60-mrm.conf").read_text().endswith("vm.nr_hugepages = 14\n")
    assert cli.run(["fund", "1GiB", "--json", *root]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["done"], said["added"], said["wanted"]) == (False, 86, 512)
    assert said["reason"]
    assert cli.run(["fund", "--release", "172MiB", *root]) == 0
    assert "172 MiB given back" in capsys.readouterr().out
    assert pool(kernel) == (14, 8)


def test_fund_without_the_right_to_says_whom_to_ask(kernel, monkeypatch, capsys):
    def refuse(file, number):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(keeper, "write", refuse)
    assert cli.run(["fund", "16MiB", "--root", str(kernel)]) == 3
    assert "ask the administrator to set vm.nr_hugepages=14" in capsys.readouterr().err


# ---- python -m mrm.tools.fund with -----------------------------------------------------


def test_with_runs_the_command_and_hands_on_its_status():
    done = run_python(
        "-m", "mrm.tools.fund", "with", "2MiB", "--", sys.executable, "-c", "print(3); raise SystemExit(7)"
    )
    assert (done.returncode, done.stdout) == (7, "3\n")
    assert run_python("-m", "mrm.tools.fund", "with", "2MiB", "--", "/no/such/command").returncode == 127


@pytest.mark.parametrize(
    "arguments", [[], ["with"], ["with", "2MiB", "true"], ["with", "much", "--", "true"]]
)
def test_with_usage(arguments):
    assert run_python("-m", "mrm.tools.fund", *arguments).returncode == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_with_a_signal_while_the_command_is_being_started_ends_it(monkeypatch, number):
    started = []

    class Late(subprocess.Popen):
        """A child that runs, and whose number nobody knows yet, when the signal comes."""

        def __init__(self, command):
            super().__init__(command)
            started.append(self)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(fund.subprocess, "Popen", Late)
    with fund._Forwarding() as forwarding:
        status = fund._run([sys.executable, "-c", "import time; time.sleep(60)"], forwarding)
    assert status == 128 + number
    assert started[0].returncode == -number


def test_with_a_signal_while_a_command_that_is_none_is_being_started_ends_us(monkeypatch):
    def refuse(command):
        os.kill(os.getpid(), signal.SIGTERM)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(fund.subprocess, "Popen", refuse)
    with fund._Forwarding() as forwarding, pytest.raises(SystemExit) as ended:
        fund._run(["/nowhere"], forwarding)
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_with_restores_after_a_signal(kernel, number):
    """The signal reaches the command; the setting is taken back all the same."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # A command in the same group, as under a terminal.
            os._exit(fund.run_with(20 * MIB, ["sleep", "30"], kernel))
        finally:
            os._exit(99)
    wait_until(lambda: pool(kernel)[0] == 16)
    children = Path(f"/proc/{child}/task/{child}/children")
    # The keeper of the setting, and the command.
    wait_until(lambda: len(children.read_text().split()) == 2 and waits(child))
    children = children.read_text().split()
    os.kill(child, number)
    if number == signal.SIGINT:
        os.kill(int(children[-1]), number)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + number
    assert pool(kernel) == (10, 4)


def test_with_kill_9_leaves_no_pages_behind(kernel):
    file = kernel / POOL / "nr_hugepages"
    code = "import pathlib, sys; from mrm.tools.fund import run_with; "
    code += "run_with(int(sys.argv[1]), ['sleep', '1'], pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(20 * MIB), str(kernel)], env=environment())
    wait_until(lambda: file.read_text() == "16\n")
    process.kill()
    process.wait()
    wait_until(lambda: file.read_text() == "10\n")
