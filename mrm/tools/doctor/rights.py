"""What this process may do: capabilities and the settings that stand for them."""

import os
from collections.abc import Iterator
from pathlib import Path

from mrm.physical.cgroups import ROOT
from mrm.physical.files import read_int, read_text
from mrm.physical.permission import explain_permission
from mrm.system.calls import system_call
from mrm.tools.doctor.finding import NOTE, OK, Finding

# Number of the capability, and what mrm gets from it.
CAPABILITIES = {
    "CAP_SYS_ADMIN": (21, "mount hugetlbfs, write nr_hugepages in containers"),
    "CAP_DAC_OVERRIDE": (1, "write nr_hugepages (`mrm fund`)"),
    "CAP_IPC_LOCK": (14, "lock memory beyond RLIMIT_MEMLOCK"),
    "CAP_SYS_NICE": (23, "move pages of other processes; mrm's own need nothing"),
    "CAP_SYS_PTRACE": (19, "userfaultfd for faults in the kernel"),
    "CAP_SYS_RESOURCE": (24, "hear of stalls after one second rather than two (before Linux 6.5: at all)"),
    "CAP_PERFMON": (38, "count this process's own shootdowns (tracepoint tlb:tlb_flush)"),
}


def rights(root: Path = ROOT) -> Iterator[Finding]:
    """Capabilities in force, and what goes without them."""
    topic = "rights"
    yield Finding(topic, "user", "root" if os.geteuid() == 0 else str(os.geteuid()))
    status = _status(root)
    text = status.get("CapEff")
    if text is None:
        yield Finding(topic, "capabilities", None, NOTE, "/proc/self/status is not readable")
    else:
        held = int(text, 16)
        for name, (bit, use) in CAPABILITIES.items():
            has = bool(held >> bit & 1)
            yield Finding(topic, name, has, OK if has else NOTE, "" if has else f"needed only to {use}")
    if status.get("Seccomp", "0") != "0":
        advice = "system calls are filtered: what is refused below may be refused by the filter (container runtime)"
        yield Finding(topic, "seccomp", value=True, status=NOTE, advice=advice)
    yield _memory_policy()
    paranoid = read_int(root / "proc/sys/kernel/perf_event_paranoid")
    yield Finding(topic, "kernel.perf_event_paranoid", paranoid, NOTE)
    faults = read_int(root / "proc/sys/vm/unprivileged_userfaultfd")
    yield Finding(topic, "vm.unprivileged_userfaultfd", faults, NOTE)


def _memory_policy() -> Finding:
    """Whether the memory policy may be asked, which filters allow or refuse together with setting it."""
    try:
        system_call("get_mempolicy", 0, 0, 0, 0, 0)
    except OSError as error:
        advice = explain_permission("get_mempolicy", error.errno) or f"get_mempolicy says {error.strerror}"
        return Finding("rights", "memory policy", value=False, status=NOTE, advice=advice)
    return Finding("rights", "memory policy", value=True)


def _status(root: Path) -> dict[str, str]:
    lines = read_text(root / "proc/self/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
