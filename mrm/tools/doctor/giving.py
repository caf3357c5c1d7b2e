"""Which ways this machine allows for memory to be given back, and what it tells of when that is wanted."""

from collections.abc import Iterator
from pathlib import Path

from mrm.errors import FundingError
from mrm.physical.autoscale import INTERVAL
from mrm.physical.cgroups import ROOT
from mrm.physical.keeper import NR
from mrm.physical.keeping import keepers_python
from mrm.physical.kernelpool import setting, writable
from mrm.physical.limits import huge_pages
from mrm.physical.pressure import events
from mrm.sizes import format_size
from mrm.system.pages import frame_size
from mrm.tools.doctor.finding import NOTE, OK, WARNING, Finding

OVERCOMMIT = "nr_overcommit_hugepages"


def giving(root: Path = ROOT) -> Iterator[Finding]:
    """Where a balloon's pages can go."""
    topic = "giving memory back"
    found = huge_pages(None, None, root)
    if found is None:
        advice = "there are none of a frame's size"
        yield Finding(topic, "to the kernel's huge pages", value=False, status=NOTE, advice=advice)
    else:
        advice = "any user: whoever uses huge pages has them at once, the rest of the system does not"
        yield Finding(topic, "to the kernel's huge pages", value=True, advice=advice)
        yield from _on_to_the_system(topic, found.growth, found.overcommit, root)
    advice = "any user: pools on transparent huge pages and on small ones know no other way"
    yield Finding(topic, "on to the system, from other pages", value=True, advice=advice)


def _on_to_the_system(topic: str, growth: int, overcommit: int, root: Path) -> Iterator[Finding]:
    """The two ways that settings have to allow: one that the administrator sets, one that a pool changes itself."""
    name = "on to the system, as surplus"
    if overcommit:
        advice = (
            f"any user: {OVERCOMMIT} is {overcommit}, and {growth} pages more "
            f"({format_size(growth * frame_size())}) may be made on demand, which the kernel frees by itself"
        )
        yield Finding(topic, name, value=True, advice=advice)
    else:
        advice = f"{OVERCOMMIT} is 0, and no pool changes it: sysctl vm.{OVERCOMMIT}=N, as root"
        yield Finding(topic, name, value=False, status=NOTE, advice=advice)
    name, may = "on to the system, by nr_hugepages", writable(None, root)
    if may:
        advice = f"this user may change {NR}: a pool that is asked to does, and puts it back"
        yield Finding(topic, name, value=True, advice=advice)
    else:
        advice = f"this user may not write {setting(None, root)}: `mrm fund --release SIZE`, as root"
        yield Finding(topic, name, value=False, status=NOTE, advice=advice)
    if may:
        name = "settings are put back by"
        try:
            yield Finding(topic, name, keepers_python())
        except FundingError as error:
            yield Finding(topic, name, "nothing", WARNING, str(error))


def pressure(root: Path = ROOT) -> Iterator[Finding]:
    """What ``pool.autoscale`` can wait for."""
    topic = "pressure"
    made, refused = events(root)
    for event in made:
        event.close()
        yield Finding(
            topic,
            event.name,
            f"tells when {event.kind} {'are' if event.kind == 'huge pages' else 'is'} short",
            OK,
        )
    for sentence in refused:
        path, _, why = sentence.partition(" ")
        yield Finding(topic, path, "not heard of", NOTE, why)
    rate = f"{1 / INTERVAL:g} times a second"
    advice = f"no event tells of them: autoscale, where it is on, looks {rate}"
    yield Finding(topic, "the machine's free huge pages", "looked at", OK, advice)
