"""Whether this is a virtual machine, and what its hypervisor offers for memory to come and go.

Three things, each of which a pool has to know of. A *balloon* takes free pages away when the host asks for them.
*Free page reporting* tells the host of pages that lie free, and the host takes them back unasked: the next
touch pays for a page of the host's. *virtio-mem* plugs and unplugs blocks of memory. What is
below, /sys shows: each virtio device with a number that says what it is, and the features that its driver
and the host have agreed upon, as a string of bits, lowest first.

What the host does with its own page tables cannot be seen from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mrm.physical.cgroups import ROOT
from mrm.physical.files import read_int, read_text
from mrm.sizes import format_size
from mrm.system.pages import base_page_size, frame_size
from mrm.tools.doctor.facts import cpu_flags
from mrm.tools.doctor.finding import NOTE, OK, WARNING, Finding

TOPIC = "virtual machine"

#: Numbers of virtio devices (virtio_ids.h).
BALLOON, MEM = 5, 24

#: Features of a balloon by their bit (virtio_balloon.h).
TELLS, STATISTICS, DEFLATES, HINTS, POISON, REPORTING = range(6)
NAMES = (
    *("tells the host before it gives pages back", "statistics", "deflates when memory runs out"),
    *("free page hints", "page poisoning", "free page reporting"),
)

_REPORTING_ORDER = "sys/module/page_reporting/parameters/page_reporting_order"
_LARGEST_ORDER = 10

# Balloons that are no virtio devices.
_OTHERS = (
    ("sys/bus/vmbus/drivers/hv_balloon", "Hyper-V's dynamic memory"),
    ("sys/module/vmw_balloon", "VMware's"),
    ("sys/devices/system/xen_memory", "Xen's"),
)

# What a clock that the hypervisor keeps says of who that is.
_CLOCKS = {"kvm-clock": "KVM", "hyperv_clocksource_tsc_page": "Hyper-V", "xen": "Xen"}


@dataclass(frozen=True)
class Device:
    """A virtio device.

    Attributes
    ----------
    name : str
        Such as ``virtio0``.
    kind : int
        Its number.
    driven : bool
        Whether a driver has it.
    features : frozenset of int
        Bits that driver and host have agreed upon.
    """

    name: str
    kind: int
    driven: bool
    features: frozenset[int]


def devices(root: Path = ROOT) -> list[Device]:
    """The virtio devices, by name."""
    found = []
    for folder in sorted((root / "sys/bus/virtio/devices").glob("*")):
        try:
            kind = int(read_text(folder / "device"), 16)
        except ValueError:
            continue
        bits = read_text(folder / "features").strip()
        features = frozenset(number for number, bit in enumerate(bits) if bit == "1")
        found.append(Device(folder.name, kind, (folder / "driver").exists(), features))
    return found


def virtual(root: Path = ROOT) -> Iterator[Finding]:
    """The hypervisor, and what it offers."""
    flags = cpu_flags(root)
    there = devices(root)
    if flags and "hypervisor" not in flags and not there:
        yield Finding(TOPIC, "hypervisor", "none", OK, _maker(root))
        return
    if not flags:
        yield Finding(TOPIC, "hypervisor", None, NOTE, "/proc/cpuinfo shows no flags here")
    else:
        advice = "an invalidation interrupts other virtual processors, which is dearer than on bare metal"
        yield Finding(TOPIC, "hypervisor", _kind(root), NOTE, advice)
        yield Finding(TOPIC, "nested paging", *_nested_paging(root))
    balloons = [device for device in there if device.kind == BALLOON]
    others = [words for path, words in _OTHERS if (root / path).exists()]
    yield from _balloons(balloons, others)
    yield _reporting(balloons, root)
    yield _plugged([device for device in there if device.kind == MEM])


# ---- the hypervisor --------------------------------------------------------------------


def _kind(root: Path) -> str:
    """Who it is, as far as it says."""
    clocks = read_text(root / "sys/devices/system/clocksource/clocksource0/available_clocksource").split()
    kind = read_text(root / "sys/hypervisor/type").strip()
    kind = kind or next((_CLOCKS[clock] for clock in clocks if clock in _CLOCKS), "")
    return " on ".join(filter(None, (kind, _maker(root)))) or "of unknown make"


def _maker(root: Path) -> str:
    names = ("sys_vendor", "product_name")
    return " ".join(filter(None, (read_text(root / f"sys/class/dmi/id/{name}").strip() for name in names)))


def _nested_paging(root: Path) -> tuple[str, str, str]:
    """How the host manages page tables; little of it can be seen from inside."""
    if read_text(root / "sys/hypervisor/guest_type").strip() == "PV":
        return (
            "no",
            WARNING,
            "a paravirtual guest's page tables are changed by calls to the host, which is slow",
        )
    if "pvm" in read_text(root / "proc/cmdline"):
        return (
            "unknown",
            NOTE,
            "the kernel's command line speaks of PVM, which shadows page tables: if it does, changing them is slow",
        )
    return (
        "unknown",
        NOTE,
        "it cannot be seen from inside: `mrm bench remap` shows what remapping costs, `mrm bench touch` a first touch",
    )


# ---- what it offers --------------------------------------------------------------------


def _balloons(balloons: list[Device], others: list[str]) -> Iterator[Finding]:
    """Balloons, and what each is like."""
    if not balloons:
        value = ", ".join(others) or "none"
        advice = (
            'it takes free memory only: a pool follows it by autoscale(leave_memory="1GiB", to="system")'
            if others
            else "the host cannot ask for memory back; what pools give back stays with this machine"
        )
        yield Finding(TOPIC, "balloon", value, NOTE, advice)
    for device in balloons:
        if not device.driven:
            advice = "no driver has it, so the host asks for memory in vain: modprobe virtio_balloon, as root"
            yield Finding(TOPIC, "balloon", f"{device.name}, without a driver", NOTE, advice)
            continue
        names = [NAMES[bit] for bit in range(len(NAMES)) if bit in device.features]
        advice = (
            "the host may ask for memory; it gets free pages, and no huge page that is set aside. A pool follows "
            'it by autoscale(leave_memory="1GiB", to="system")'
        )
        value = f"{device.name}: {', '.join(names) or 'no features'}"
        yield Finding(TOPIC, "balloon", value, NOTE, advice)
        name = "balloon, when memory runs out"
        if DEFLATES in device.features:
            advice = (
                "1 MiB comes back each time before a process is killed, and huge pages never: leave it memory"
            )
            yield Finding(TOPIC, name, "gives back", NOTE, advice)
        else:
            advice = "processes are killed for what the balloon holds: leave it memory, by autoscale(leave_memory=...)"
            yield Finding(TOPIC, name, "keeps what it has", NOTE, advice)
        if STATISTICS in device.features:
            advice = "huge pages that are set aside count as used, free or not: the host does not see them as spare"
            yield Finding(TOPIC, "balloon, what the host is told", "statistics", NOTE, advice)


def _reporting(balloons: list[Device], root: Path) -> Finding:
    """Whether the host is told of free pages, and takes them back."""
    name = "free page reporting"
    order = read_int(root / _REPORTING_ORDER)
    asked = any(REPORTING in device.features for device in balloons)
    # Others than virtio balloons report, too (Hyper-V); the order is -1 until somebody does (5.14).
    by_other = not balloons and order is not None and 0 <= order <= _LARGEST_ORDER
    if not asked and not by_other:
        advice = 'the host does not see what lies free: to="system" helps this machine, and the host only by a balloon'
        return Finding(TOPIC, name, "off", NOTE, advice)
    value = "on"
    if order is not None and 0 <= order <= _LARGEST_ORDER:
        size = base_page_size() << order
        value = f"on, from {format_size(size)} (order {order})"
        if size > frame_size():
            advice = (
                "of what is given back, frames whose neighbours are free as well. Keep what is needed again"
            )
            return Finding(TOPIC, name, value, NOTE, advice)
    advice = (
        'within seconds the host has what to="system" gave back, and the next touch of it waits for the host: keep '
        "what is needed again; huge pages that are set aside are not reported. `mrm bench touch` says what it costs"
    )
    return Finding(TOPIC, name, value, NOTE, advice)


def _plugged(there: list[Device]) -> Finding:
    """Memory that the host plugs in and out."""
    name = "virtio-mem"
    if not there:
        return Finding(TOPIC, name, "none", NOTE, "")
    value = ", ".join(device.name + ("" if device.driven else ", without a driver") for device in there)
    advice = (
        "the host plugs memory in and takes it out again, in blocks of which every page can be moved: frames that a "
        "device has registered (pinned) keep theirs; after memory came, pool.deflate or `mrm fund` uses it"
    )
    return Finding(TOPIC, name, value, NOTE, advice)
