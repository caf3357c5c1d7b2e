"""tools.machines: what the matrix is made of, as far as it can be seen without booting a machine."""

import dataclasses
import io
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from helpers import ROOT, wait_until

pytest.importorskip(
    "tools.machines", reason="a checkout's tools are not here: it is an installed mrm that is tested"
)
from click.testing import CliRunner
from rich.console import Console

import tools.machines.boot
import tools.machines.matrix
from tools.machines import host, needs
from tools.machines.__main__ import main
from tools.machines.boot import FAILED, TIMED_OUT, Machine, Outcome, _arguments, boot, in_words
from tools.machines.guest import write_scripts
from tools.machines.initrd import initrd
from tools.machines.kernels import Kernel, match
from tools.machines.lineup import LINEUP, Entry
from tools.machines.matrix import Counts, Row, collect, run_matrix
from tools.machines.record import read
from tools.machines.report import as_json, merged, page, show
from tools.machines.suites import ELSEWHERE, SUITES, files, suite_of

TEST_FILES = {path.stem for path in (ROOT / "tests").glob("test_*.py")}


# ---- the line-up -----------------------------------------------------------------------


def test_every_test_file_is_in_one_suite_or_has_a_reason_not_to_be():
    placed = [name for names in SUITES.values() for name in names] + list(ELSEWHERE)
    assert sorted(placed) == sorted(TEST_FILES)


def test_a_test_is_counted_in_the_suite_of_its_file():
    assert suite_of("tests/test_pool.py::test_x[huge]") == "frames"
    assert suite_of("tests/test_new.py::test_x") == "test_new"
    assert files(("tools",)) == ["tests/test_doctor.py", "tests/test_cli.py", "tests/test_coverage.py"]


def test_machines_have_names_of_their_own_and_suites_that_are_there():
    names = [entry.name for entry in LINEUP]
    assert len(set(names)) == len(names)
    for entry in LINEUP:
        assert entry.suites, entry
        assert set(entry.suites) <= SUITES.keys(), entry
        assert entry.machine.processors % entry.machine.nodes == 0, entry
    assert 1 <= sum(entry.quick for entry in LINEUP) <= 2, "CI has the time for two"


def test_a_kernel_is_named_by_the_beginning_of_its_version():
    versions = ["6.12.9-cloud-amd64", "6.1.10-cloud-amd64", "6.1.9-cloud-amd64"]
    assert match(versions, "6.1") == ["6.1.9-cloud-amd64", "6.1.10-cloud-amd64"]
    assert match(versions, "6.12") == ["6.12.9-cloud-amd64"]
    assert match(versions, "5.10") == []


# ---- what a guest is given -------------------------------------------------------------


def test_the_first_file_system_is_what_cpio_reads(tmp_path):
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF")
    modules = tmp_path / "kernel"
    modules.mkdir()
    (modules / "virtiofs.ko").write_bytes(b"\0depends=fuse\0")
    (modules / "fuse.ko").write_bytes(b"\0depends=\0")
    archive = initrd(busybox, tmp_path)
    assert archive.startswith(b"070701")
    assert archive.index(b"modules/fuse.ko") < archive.index(b"modules/virtiofs.ko")
    assert b"fuse.ko\nvirtiofs.ko\n" in archive
    assert archive.count(b"TRAILER!!!") == 1
    assert len(archive) % 4 == 0


def test_a_setup_line_that_fails_ends_the_job(tmp_path):
    def job(*setup):
        write_scripts(
            tmp_path, ["echo", "it's on"], directory=tmp_path, environment={"A": "b c"}, setup=setup
        )
        return subprocess.run(["sh", tmp_path / "job"], capture_output=True, text=True, check=False)

    assert job("true").stdout == "it's on\n"
    refused = job("echo 'x' | grep y")
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "grep y" in refused.stderr


# ---- the host's side of a balloon ------------------------------------------------------


class Qemu:
    """What QEMU says of a balloon that does as it is told, a query later."""

    def __init__(self, path):
        self.left, self.next, self.asked = 3 << 30, 3 << 30, []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self):
        connection, _ = self._socket.accept()
        with connection, connection.makefile("rw") as lines:
            lines.write('{"QMP": {}}\n')
            lines.flush()
            for line in lines:
                order = json.loads(line)
                answer = {"return": {"actual": self.left}}
                self.left = self.next
                if order["execute"] == "balloon":
                    self.next = order["arguments"]["value"]
                    self.asked.append(self.next)
                    answer = {"return": {}}
                    lines.write('{"event": "BALLOON_CHANGE"}\n')
                lines.write(json.dumps(answer) + "\n")
                lines.flush()

    def close(self):
        self._thread.join()
        self._socket.close()


@pytest.fixture
def balloon(tmp_path, monkeypatch):
    """What ``host.drive`` drives, its folder, and what ends it."""
    monkeypatch.setattr(host, "_SECONDS", 0.001)
    qemu, over = Qemu(tmp_path / "qmp"), threading.Event()
    thread = threading.Thread(target=host.drive, args=(tmp_path / "qmp", tmp_path, over))
    thread.start()
    yield qemu, tmp_path
    over.set()
    thread.join()
    qemu.close()


def test_the_host_drives_the_balloon_at_the_guests_word(balloon):
    qemu, folder = balloon

    def told():
        file = folder / "actual"
        return file.read_text() if file.exists() else ""

    wait_until(lambda: told() == f"0 {3 << 30}")
    for wanted in (2 << 30, 3 << 30):
        host.write(folder / "wanted", str(wanted))
        wait_until(lambda wanted=wanted: told() == f"{wanted} {wanted}")
    assert qemu.asked == [2 << 30, 3 << 30]  # each once, however often it looks


def test_a_machine_that_ends_is_no_fault_of_the_hosts(tmp_path):
    over = threading.Event()
    over.set()
    host.drive(tmp_path / "qmp", tmp_path, over)
    with pytest.raises(needs.MachineError, match="does not answer"):
        host.drive(tmp_path / "qmp", tmp_path, Never())


class Never:
    """An event that does not come, without waiting for it."""

    def wait(self, seconds):
        return False


def test_a_machine_with_a_balloon_has_one_that_reports():
    found = Kernel("6.18", Path("vmlinuz"), Path("modules"))
    assert "balloon" not in " ".join(_arguments(Machine(), found))
    assert "virtio-balloon-pci,id=balloon,free-page-reporting=on" in _arguments(Machine(balloon=True), found)
    assert "a balloon" in in_words(Machine(balloon=True))


# ---- the record ------------------------------------------------------------------------


def test_a_test_that_ends_its_process_is_known_and_the_others_are_run(tmp_path):
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import os, pytest
            def test_a(): pass
            def test_kills(): os.kill(os.getpid(), 9)
            def test_fails(): assert 1 == 2
            @pytest.mark.skip(reason="not today")
            def test_skipped(): pass
            @pytest.fixture
            def broken():
                yield
                raise LookupError("afterwards")
            def test_fails_afterwards(broken): pass
            """
        )
    )
    record = tmp_path / "record"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tools.machines.record",
        "--rootdir",
        tmp_path,
        tmp_path,
    ]
    environment = os.environ | {"MRM_RECORD": str(record)}
    codes = [
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode
        for _ in range(2)
    ]
    assert codes == [-9, 1]
    row = Row(LINEUP[0], Outcome(1, "6.1"))
    collect(row, read(record))
    assert row.suites == {"test_it": Counts(passed=1, failed=3, skipped=1, reasons={"not today": 1})}
    said = {name.partition("::")[2]: why for name, why in row.failures.items()}
    assert "took its process with it" in said["test_kills"]
    assert "assert 1 == 2" in said["test_fails"]
    assert "afterwards" in said["test_fails_afterwards"]
    assert not row.passed


def test_a_line_that_is_being_written_is_left_for_the_next_reading(tmp_path):
    record = tmp_path / "record"
    record.write_text('{"test": "a"}\n{"test": "b", "outc')
    assert read(record) == [{"test": "a"}]
    assert read(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("status", "passed", "said"),
    [
        (0, True, ""),
        (TIMED_OUT, False, "ended after"),
        (FAILED, False, "kernel panic"),
        (3, False, "status 3"),
    ],
)
def test_a_machine_that_ends_badly_has_failed(status, passed, said):
    row = Row(LINEUP[0], Outcome(status, "6.1", console="kernel panic"))
    collect(row, [{"test": "tests/test_pool.py::test_x", "outcome": "passed", "why": ""}])
    assert row.passed == passed
    assert said in "".join(row.failures.values())


def test_a_machine_on_which_nothing_ran_has_failed():
    row = Row(LINEUP[0], Outcome(0, "6.1"))
    collect(row, [])
    assert not row.passed


def _outcomes(monkeypatch, module, name, outcomes):
    """Have a function return these, one after the other; how many are left is seen in what is returned."""
    left = list(outcomes)
    monkeypatch.setattr(module, name, lambda *_, **__: left.pop(0))
    return left


def test_a_machine_that_never_came_up_is_booted_again(monkeypatch):
    panicked, up = Outcome(FAILED, "7.3", console="Kernel panic - x"), Outcome(0, "7.3", boot_seconds=5.0)
    left = _outcomes(monkeypatch, tools.machines.boot, "_boot_once", [panicked, up])
    outcome = boot(Machine(), ["true"])
    assert (outcome.status, outcome.boots, left) == (0, 2, [])


def test_a_machine_that_never_comes_up_has_failed(monkeypatch):
    panicked = [Outcome(FAILED, "7.3", console="Kernel panic - x") for _ in range(3)]
    left = _outcomes(monkeypatch, tools.machines.boot, "_boot_once", panicked)
    outcome = boot(Machine(), ["true"])
    assert (outcome.status, outcome.boots, left) == (FAILED, 3, [])


@pytest.mark.parametrize(
    "last", [Outcome(0, "7.3", 5.0), Outcome(FAILED, "7.3", 5.0, console="Kernel panic - y")]
)
def test_tests_are_run_again_once_if_the_kernel_panicked(monkeypatch, tmp_path, last):
    panicked = Outcome(FAILED, "7.3", 5.0, console="so far\n[ 4.6] Kernel panic - x\nand on")
    left = _outcomes(monkeypatch, tools.machines.matrix, "boot", [panicked, last])
    [row] = run_matrix([LINEUP[0]], jobs=1, seconds=1, told=lambda *_: None, log=tmp_path)
    assert (row.outcome, row.panics, left) == (last, ["[ 4.6] Kernel panic - x"], [])
    assert not row.passed  # no test ran
    console = Console(file=io.StringIO(), width=80)
    show([row], console)
    assert "Kernel panic - x" in console.file.getvalue()


def test_what_failed_before_a_panic_is_said_and_both_outputs_are_there(monkeypatch, tmp_path):
    panicked = Outcome(FAILED, "7.3", 5.0, console="Kernel panic - x")
    outcomes = [panicked, Outcome(0, "7.3", 5.0)]
    noted = [{"test": "tests/test_pool.py::test_x", "outcome": "failed", "why": "it was 3"}]
    records = [noted, [noted[0] | {"outcome": "passed", "why": ""}]]

    def boot(*_, output, **__):
        output.write(b"%d" % len(outcomes))
        return outcomes.pop(0)

    monkeypatch.setattr(tools.machines.matrix, "boot", boot)
    monkeypatch.setattr(tools.machines.matrix, "read", lambda _: records[1 - len(outcomes)])
    [row] = run_matrix([LINEUP[0]], jobs=1, seconds=1, told=lambda *_: None, log=tmp_path)
    assert (row.passed, row.earlier) == (True, {"tests/test_pool.py::test_x": "it was 3"})
    assert sorted(path.read_text() for path in tmp_path.glob("*-[01].txt") if "console" not in path.name) == [
        "1",
        "2",
    ]


# ---- the report ------------------------------------------------------------------------


@pytest.fixture
def rows():
    good, bad = (
        Row(LINEUP[0], Outcome(0, "5.10.0-46-cloud-amd64")),
        Row(Entry("limit", "why", Machine(), ("space",))),
    )
    collect(good, [{"test": "tests/test_pool.py::test_x", "outcome": "skipped", "why": "no huge pages"}] * 2)
    collect(good, [{"test": "tests/test_view.py::test_y", "outcome": "passed", "why": ""}])
    bad.failures["the machine"] = "no virtiofsd"
    return [good, bad]


def test_the_page_has_a_row_a_machine_and_says_what_was_skipped(rows):
    text = page(as_json(rows, "abc"))
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    cells = dict(zip(lines[0], next(line for line in lines if line[1:2] == ["5.10"])))
    assert (cells["kernel"], cells["frames"], cells["space"]) == ("5.10.0-46", "0 - 1", "1")
    assert "no huge pages (5.10: 1)" in text
    assert "no virtiofsd" in text
    assert "did not boot" in text


def test_the_table_is_whole_in_a_log_of_80_columns(rows):
    console = Console(file=io.StringIO(), width=80)
    rows[0].entry = dataclasses.replace(rows[0].entry, suites=tuple(SUITES))
    show(rows, console)
    assert re.search(r"machine +kernel +" + " +".join(SUITES), console.file.getvalue())


def test_the_json_has_what_the_table_has(rows):
    found = json.loads(json.dumps(as_json(rows)))
    assert found["passed"] is False
    first = found["machines"][0]
    assert first["suites"]["space"] == {"passed": 1, "failed": 0, "skipped": 0, "reasons": {}, "commit": ""}
    assert first["suites"]["frames"]["reasons"] == {"no huge pages": 1}
    assert found["machines"][1]["kernel"] == "did not boot"


def test_a_machine_that_was_not_tried_again_keeps_what_is_known_of_it(rows):
    before = as_json([rows[0]], "old")
    again = Row(LINEUP[1], Outcome(0, "6.1.0"))
    collect(again, [{"test": "tests/test_view.py::test_y", "outcome": "passed", "why": ""}])
    known = merged(before, as_json([again], "new"))
    commits = [[suite["commit"] for suite in machine["suites"].values()] for machine in known["machines"]]
    assert commits == [["old", "old"], ["new"]]
    assert known["passed"]


def test_a_suite_that_was_not_tried_again_keeps_what_is_known_of_it(rows):
    bad = Row(LINEUP[0], Outcome(1, "5.10.0"))
    collect(bad, [{"test": "tests/test_view.py::test_y", "outcome": "failed", "why": "x"}])
    bad.failures["the machine"] = "ended"
    known = merged(as_json([rows[0]], "old"), as_json([bad], "new"))
    (machine,) = known["machines"]
    assert {name: suite["commit"] for name, suite in machine["suites"].items()} == {
        "frames": "old",
        "space": "new",
    }
    assert not known["passed"]
    (machine,) = merged(known, as_json([rows[0]], "newer"))["machines"]
    assert machine["passed"], "that test passes now, and so does the machine"


def test_a_machine_in_words_names_what_is_special():
    assert in_words(Machine(processors=4, nodes=2, hugepages="0:80,1:20")) == (
        "4 processors, 3GiB, 2 nodes, huge pages 0:80,1:20"
    )


# ---- the command -----------------------------------------------------------------------


def test_the_list_says_why_each_machine_is_there():
    said = CliRunner().invoke(main, ["matrix", "--list"])
    assert said.exit_code == 0
    for entry in LINEUP:
        assert entry.name in said.output


def test_a_machine_that_is_not_there_is_refused():
    said = CliRunner().invoke(main, ["matrix", "--only", "2.6"])
    assert said.exit_code == 2
    assert "5.10" in said.output


@pytest.mark.parametrize(("option", "status"), [((), 3), (("--if-possible",), 0)])
def test_without_what_it_takes_it_says_so(monkeypatch, option, status):
    monkeypatch.setattr(needs, "program", lambda name: None)
    monkeypatch.setattr(needs.os, "geteuid", lambda: 1000)
    said = CliRunner().invoke(main, ["matrix", *option])
    assert said.exit_code == status
    for word in ("was not run", "root", "qemu-system-x86", "busybox-static"):
        assert word in said.output
