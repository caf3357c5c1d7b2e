"""mrm doctor: findings on made-up machines, and probes that crash and hang."""

import json
import textwrap
import time

import pytest
from madeup import POOL, write

import mrm
from mrm.errors import FundingError
from mrm.system.features import NAMES, pretended_features
from mrm.tools.doctor import facts, giving, probes, trial, virtual
from mrm.tools.doctor.features import features
from mrm.tools.doctor.finding import NOTE, OK, PROBLEM, STATUSES, WARNING
from mrm.tools.doctor.findings import findings
from mrm.tools.doctor.rights import rights
from mrm.tools.doctor.sight import FILES, sight


def by_name(found):
    return {finding.name: finding for finding in found}


def all_work(names):
    return dict.fromkeys(names, (True, ""))


# ---- facts -----------------------------------------------------------------------------


def test_this_machine_has_every_topic():
    found = findings(trial=all_work)
    assert {
        "machine",
        "huge pages",
        "hugetlbfs",
        "transparent huge pages",
        "limits",
        "control groups",
        "giving memory back",
        "pressure",
        "virtual machine",
        "rights",
        "features",
    } == {finding.topic for finding in found}
    for finding in found:
        assert finding.status in STATUSES
        if finding.status in (WARNING, PROBLEM):
            assert finding.advice, finding


def test_a_machine_without_files_is_no_crash(tmp_path):
    found = by_name(findings(tmp_path, all_work))
    assert found["of 2 MiB"].status == PROBLEM
    assert found["vm.max_map_count"].value is None


@pytest.mark.parametrize(
    ("total", "free", "overcommit", "status"), [(0, 0, 0, PROBLEM), (4, 0, 8, WARNING), (4, 2, 0, OK)]
)
def test_free_huge_pages_are_what_counts(tmp_path, total, free, overcommit, status):
    files = {"nr_hugepages": total, "free_hugepages": free, "nr_overcommit_hugepages": overcommit}
    write(tmp_path, {f"{POOL}/{name}": value for name, value in files.items()})
    finding = by_name(facts.huge_page_pools(tmp_path))["of 2 MiB"]
    assert finding.status == status
    assert status == OK or "mrm fund" in finding.advice


def test_huge_pages_by_node(tmp_path):
    node = "sys/devices/system/node"
    files = {f"{POOL}/nr_hugepages": 4, f"{POOL}/free_hugepages": 4, f"{node}/online": "0-1"}
    files |= {f"{node}/node{n}/hugepages/hugepages-2048kB/nr_hugepages": 4 * n for n in (0, 1)}
    files |= {f"{node}/node{n}/hugepages/hugepages-2048kB/free_hugepages": 4 * n for n in (0, 1)}
    found = by_name(facts.huge_page_pools(write(tmp_path, files)))
    assert "--node 0" in found["of 2 MiB on node 0"].advice
    assert found["of 2 MiB on node 1"].status == OK


def test_mounts(tmp_path):
    lines = (
        "40 23 0:30 / /mnt/huge rw - hugetlbfs none rw,pagesize=2M,size=64M\n"
        "41 23 0:31 / /mnt/huge1g rw - hugetlbfs none rw,pagesize=1024M"
    )
    found = by_name(facts.mounts(write(tmp_path, {"proc/self/mountinfo": lines})))
    assert found["/mnt/huge"].status == OK
    assert "size=64M" in found["/mnt/huge"].value
    assert "pagesize=2M" in found["/mnt/huge1g"].advice


def test_limits_that_are_low(tmp_path):
    files = {"proc/sys/vm/max_map_count": 1000, "proc/sys/vm/overcommit_memory": 2}
    found = by_name(facts.limits(write(tmp_path, files)))
    assert found["vm.max_map_count"].status == WARNING
    assert found["vm.overcommit_memory"].status == WARNING


def test_a_group_without_huge_pages_is_a_problem(tmp_path):
    files = {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": "29 23 0:26 / /cg rw - cgroup2 cgroup2 rw,memory_hugetlb_accounting",
        "cg/hugetlb.2MB.max": 0,
        "cg/memory.max": 1 << 30,
    }
    huge, memory = facts.groups(write(tmp_path, files))
    assert huge.status == PROBLEM
    assert "memory_hugetlb_accounting" in memory.advice


def test_a_processor_that_broadcasts_invalidations(tmp_path):
    assert "INVLPGB" not in by_name(facts.machine(tmp_path))
    found = by_name(facts.machine(write(tmp_path, {"proc/cpuinfo": "flags : fpu invlpgb"})))
    assert found["INVLPGB"].value is True


def test_rights(tmp_path):
    found = by_name(rights(write(tmp_path, {"proc/self/status": "CapEff:\t0000000000200000\nSeccomp:\t2"})))
    assert found["CAP_SYS_ADMIN"].value is True
    assert (found["CAP_PERFMON"].value, found["CAP_PERFMON"].status) == (False, NOTE)
    assert found["seccomp"].value is True


def test_what_is_hidden_is_a_finding(tmp_path):
    hidden = by_name(sight(tmp_path))
    assert hidden["/proc/self/maps"].status == WARNING
    assert hidden["/proc/interrupts"].status == NOTE
    assert "no control group" in hidden["control groups' limits"].advice or "cannot be read" in (
        hidden["control groups' limits"].advice
    )
    everything = dict.fromkeys((name for name, *_ in FILES), "x") | {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": "29 23 0:26 / /cg rw - cgroup2 cgroup2 rw",
    }
    seen = list(sight(write(tmp_path, everything)))
    assert [finding.status for finding in seen] == [OK]


def test_a_default_size_other_than_a_frames(tmp_path):
    write(tmp_path, {"proc/meminfo": "Hugepagesize: 1048576 kB", f"{POOL}/nr_hugepages": 4})
    found = by_name(facts.huge_page_pools(tmp_path))
    assert (found["default size"].value, found["default size"].status) == ("1 GiB", WARNING)


def test_memory_that_counts_huge_pages_is_a_warning(tmp_path):
    files = {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": "29 23 0:26 / /cg rw - cgroup2 cgroup2 rw,memory_hugetlb_accounting",
        "cg/memory.max": 1 << 30,
    }
    (memory,) = facts.groups(write(tmp_path, files))
    assert memory.status == WARNING


# ---- a virtual machine -------------------------------------------------------------------

GUEST = {"proc/cpuinfo": "flags\t\t: fpu hypervisor"}
ORDER = "sys/module/page_reporting/parameters/page_reporting_order"


def virtio(number, kind, *bits, driven=True):
    """Files of a virtio device that has these features, besides what all have."""
    folder = f"sys/bus/virtio/devices/virtio{number}"
    features = "".join("1" if bit in (*bits, 32) else "0" for bit in range(128))
    files = {f"{folder}/device": f"0x{kind:04x}", f"{folder}/features": features}
    return files | ({f"{folder}/driver/bind": ""} if driven else {})


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"proc/cpuinfo": "flags : fpu sse"}, "none"),
        ({}, None),
        (GUEST, "of unknown make"),
        (GUEST | {"sys/class/dmi/id/sys_vendor": "QEMU"}, "QEMU"),
        (
            GUEST | {"sys/hypervisor/type": "xen", "sys/class/dmi/id/product_name": "HVM domU"},
            "xen on HVM domU",
        ),
        (
            GUEST | {"sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc kvm-clock"},
            "KVM",
        ),
        ({"proc/cpuinfo": "Features : fp asimd"} | virtio(0, 1), "of unknown make"),
    ],
)
def test_virtual_or_not(tmp_path, files, kind):
    found = by_name(virtual.virtual(write(tmp_path, files)))
    assert found["hypervisor"].value == kind
    assert ("balloon" in found) == (kind != "none")


def test_a_balloon_and_what_it_is_like(tmp_path):
    found = by_name(
        virtual.virtual(write(tmp_path, GUEST | virtio(0, 2) | virtio(1, 5, 1, 2, 5) | {ORDER: 9}))
    )
    assert found["balloon"].value == "virtio1: statistics, deflates when memory runs out, free page reporting"
    assert 'leave_memory="1GiB", to="system"' in found["balloon"].advice
    assert found["balloon, when memory runs out"].value == "gives back"
    assert "count as used" in found["balloon, what the host is told"].advice
    assert found["free page reporting"].value == "on, from 2 MiB (order 9)"
    assert "next touch of it waits for the host" in found["free page reporting"].advice
    assert found["virtio-mem"].value == "none"


def test_a_balloon_of_few_words(tmp_path):
    found = by_name(virtual.virtual(write(tmp_path, GUEST | virtio(0, 5) | {ORDER: -1})))
    assert found["balloon"].value == "virtio0: no features"
    assert "killed for what the balloon holds" in found["balloon, when memory runs out"].advice
    assert "balloon, what the host is told" not in found
    assert found["free page reporting"].value == "off"
    assert "the host only by a balloon" in found["free page reporting"].advice


def test_a_balloon_that_no_driver_has(tmp_path):
    found = by_name(virtual.virtual(write(tmp_path, GUEST | virtio(3, 5, driven=False))))
    assert found["balloon"].value == "virtio3, without a driver"
    assert "modprobe virtio_balloon" in found["balloon"].advice


def test_no_balloon_or_another(tmp_path):
    found = by_name(virtual.virtual(write(tmp_path, GUEST)))
    assert (found["balloon"].value, found["free page reporting"].value) == ("none", "off")
    assert "stays with this machine" in found["balloon"].advice
    write(tmp_path, {"sys/bus/vmbus/drivers/hv_balloon/uevent": "", ORDER: 9})
    found = by_name(virtual.virtual(tmp_path))
    assert found["balloon"].value == "Hyper-V's dynamic memory"
    assert found["free page reporting"].value == "on, from 2 MiB (order 9)"


def test_what_is_reported_is_larger_than_a_frame(tmp_path):
    """An order of 10, or base pages of another size; kernels before 5.14 do not say."""
    found = by_name(virtual.virtual(write(tmp_path, GUEST | virtio(0, 5, 5) | {ORDER: 10})))
    assert found["free page reporting"].value == "on, from 4 MiB (order 10)"
    assert "whose neighbours are free as well" in found["free page reporting"].advice
    (tmp_path / ORDER).unlink()
    assert by_name(virtual.virtual(tmp_path))["free page reporting"].value == "on"


def test_memory_that_is_plugged(tmp_path):
    found = by_name(virtual.virtual(write(tmp_path, GUEST | virtio(0, 24, 1) | virtio(1, 24, driven=False))))
    assert found["virtio-mem"].value == "virtio0, virtio1, without a driver"
    assert "pinned" in found["virtio-mem"].advice


def test_devices_whose_files_say_nothing_are_left_out(tmp_path):
    files = {"sys/bus/virtio/devices/virtio0/device": "", "sys/bus/virtio/devices/virtio1/device": "0x0005"}
    (device,) = virtual.devices(write(tmp_path, files))
    assert (device.name, device.kind, device.driven, device.features) == ("virtio1", 5, False, frozenset())


@pytest.mark.parametrize(
    ("files", "value", "status"),
    [
        ({"sys/hypervisor/guest_type": "PV"}, "no", WARNING),
        ({"proc/cmdline": "quiet nested_pvm=1"}, "unknown", NOTE),
        ({}, "unknown", NOTE),
    ],
)
def test_nested_paging_as_far_as_it_can_be_seen(tmp_path, files, value, status):
    finding = by_name(virtual.virtual(write(tmp_path, GUEST | files)))["nested paging"]
    assert (finding.value, finding.status) == (value, status)
    assert finding.advice


# ---- giving memory back ------------------------------------------------------------------

TO_KERNEL = "to the kernel's huge pages"
SURPLUS = "on to the system, as surplus"
BY_NUMBER = "on to the system, by nr_hugepages"
KEPT = "settings are put back by"


def test_the_ways_that_settings_allow(tmp_path, monkeypatch):
    files = {"nr_hugepages": 4, "free_hugepages": 4, "surplus_hugepages": 2, "nr_overcommit_hugepages": 0}
    write(tmp_path, {f"{POOL}/{name}": number for name, number in files.items()})
    found = by_name(giving.giving(tmp_path))
    assert [found[name].value for name in (TO_KERNEL, SURPLUS, BY_NUMBER)] == [True, False, True]
    assert "puts it back" in found[BY_NUMBER].advice
    assert found[KEPT].value.rpartition("/")[2].startswith("python")
    monkeypatch.setattr(giving, "writable", lambda *_: False)
    found = by_name(giving.giving(tmp_path))
    assert [found[name].value for name in (TO_KERNEL, SURPLUS, BY_NUMBER)] == [True, False, False]
    assert "no pool changes it: sysctl vm.nr_overcommit_hugepages=N" in found[SURPLUS].advice
    assert "mrm fund --release" in found[BY_NUMBER].advice
    assert KEPT not in found
    write(tmp_path, {f"{POOL}/nr_overcommit_hugepages": 10})
    found = by_name(giving.giving(tmp_path))
    assert (found[SURPLUS].value, found[SURPLUS].status) == (True, OK)
    assert "is 10, and 8 pages more (16 MiB)" in found[SURPLUS].advice


def test_without_huge_pages_there_is_the_system_alone(tmp_path):
    found = by_name(giving.giving(tmp_path))
    assert {name: finding.value for name, finding in found.items()} == {
        TO_KERNEL: False,
        "on to the system, from other pages": True,
    }


def test_no_python_to_put_settings_back_is_a_warning(tmp_path, monkeypatch):
    write(tmp_path, {f"{POOL}/nr_hugepages": 4, f"{POOL}/nr_overcommit_hugepages": 0})
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: "/usr/bin/editor")
    found = by_name(giving.giving(tmp_path))
    assert found[KEPT].status == WARNING
    assert "set_executable" in found[KEPT].advice


def test_what_tells_of_pressure(tmp_path):
    (missing, _) = giving.pressure(tmp_path)
    assert (missing.value, missing.status) == ("not heard of", NOTE)
    assert "is not there" in missing.advice
    (there, looked) = giving.pressure(write(tmp_path, {"proc/pressure/memory": ""}))
    assert (there.value, there.status) == ("tells when memory is short", OK)
    assert "4 times a second" in looked.advice


# ---- features ----------------------------------------------------------------------------


def test_features_that_are_missing_or_unknown():
    answers = dict.fromkeys(NAMES, (True, ""))
    answers["hugetlb memfd"] = (False, "")
    answers["hugetlb mremap"] = (False, "said so")
    answers["shared page tables"] = (None, "needs 2 free huge pages")
    found = by_name(features(lambda names: answers))
    assert list(found) == list(NAMES)
    assert found["hugetlb memfd"].status == PROBLEM
    assert found["hugetlb mremap"].status == WARNING
    assert found["hugetlb mremap"].advice.startswith("said so. runs are mapped anew and their sources sealed")
    assert "5.16" in found["hugetlb mremap"].advice and "Cost: a call more" in found["hugetlb mremap"].advice
    assert found["shared page tables"].value is None
    assert "unknown: needs 2" in found["shared page tables"].advice


def test_the_doctor_and_the_pool_agree():
    """A process of its own tries the same table, and finds what this one found."""
    answers = trial.try_all(NAMES)
    assert list(answers) == list(NAMES)
    told = {feature.name: feature.present for feature in mrm.features()}
    pretended = pretended_features()
    for name, (present, said) in answers.items():
        if name not in pretended and present is not None and told[name] is not None:
            assert present == told[name], name
        assert present is not None or said


def test_a_probe_without_pages_is_unknown(monkeypatch):
    monkeypatch.setattr(probes, "huge_pages", lambda: None)
    assert (
        probes.FIRST["shared page tables"]() == "needs 2 free huge pages to try: run `mrm fund 2GiB` as root"
    )


def test_a_trial_that_is_refused_says_so(monkeypatch):
    def refuse():
        raise FundingError("no page is free")

    monkeypatch.setitem(probes.FIRST, "shared page tables", refuse)
    assert probes.answer("shared page tables")[1] == "no page is free"


def test_unnamed_files_are_tried_on_a_mount(monkeypatch):
    made = []
    monkeypatch.setattr(probes.facts, "mounts", lambda: [facts.Finding("hugetlbfs", "/mnt/huge", "", OK)])

    class Made:
        def __init__(self, size, path):
            made.append(path)

        def close(self):
            made.append("closed")

    monkeypatch.setattr(probes.mrm, "Pool", Made)
    assert probes.FIRST["unnamed hugetlbfs files"]() == ""
    assert made == ["/mnt/huge", "closed"]


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A module of probes that crash, hang, and talk nonsense."""
    (tmp_path / "hostile_probes.py").write_text(
        textwrap.dedent("""
            import json, os, signal, sys, time
            for name in sys.argv[1:]:
                if name == "crash":
                    os.kill(os.getpid(), signal.SIGBUS)
                if name == "hang":
                    time.sleep(60)
                if name == "leave":
                    sys.exit(5)
                print(json.dumps([name, True, ""]), flush=True)
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "hostile_probes"


def test_probes_that_crash_or_hang_cost_only_their_own_answer(hostile):
    began = time.monotonic()
    assert trial.try_all(["one"], hostile) == {"one": (True, "")}
    # On an emulated machine Python takes its time to start.
    patience = max(1.0, 5 * (time.monotonic() - began))
    answers = trial.try_all(["one", "crash", "two", "hang", "leave", "three"], hostile, patience)
    assert answers["crash"] == (None, "the attempt died of SIGBUS")
    assert answers["hang"][1].startswith("the attempt did not come back")
    assert answers["leave"] == (None, "the attempt failed (exit status 5)")
    assert [answers[name] for name in ("one", "two", "three")] == [(True, "")] * 3


def test_no_interpreter_no_answers(monkeypatch):
    monkeypatch.setattr(trial.sys, "executable", "/no/such/python")
    answers = trial.try_all(["one", "two"])
    assert answers["two"] == (None, "/no/such/python cannot be started: No such file or directory")


# ---- the command ---------------------------------------------------------------------------


def test_json_and_exit_status(monkeypatch):
    testing = pytest.importorskip("click.testing")
    command = pytest.importorskip("mrm.tools.doctor.command")
    good = [facts.Finding("topic", "name", 3)]
    bad = [*good, facts.Finding("topic", "other", None, PROBLEM, "do [this]")]
    for found, status in ((good, 0), (bad, 1)):
        monkeypatch.setattr(command, "findings", lambda found=found: found)
        result = testing.CliRunner().invoke(command.command, ["--json"])
        assert result.exit_code == status
        said = json.loads(result.stdout)
        assert said["counts"]["problem"] == status
        assert said["findings"][0] == {
            "topic": "topic",
            "name": "name",
            "value": 3,
            "status": "ok",
            "advice": "",
        }
        shown = testing.CliRunner().invoke(command.command, [])
        assert shown.exit_code == status
        assert "[this]" in shown.stdout or not status
