"""Which ways this machine allows for memory to be given back, and what it tells of when that is wanted."""

from collections.abc import Iterator
from pathlib import Path

from mrm.errors import FundingError
from mrm.physical.autoscale import INTERVAL
from mrm.physical.cgroups import ROOT
from mrm.physical.keeper import NR, OVERCOMMIT
from mrm.physical.keeping import keepers_python
from mrm.physical.kernelpool import setting, writable
from mrm.physical.limits import huge_pages
from mrm.physical.pressure import events
from mrm.sizes import format_size
from mrm.system.pages import frame_size
from mrm.tools.doctor.finding import NOTE, OK, WARNING, Finding


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
    """The two ways that settings have to allow."""
    name = "on to the system, as surplus"
    if overcommit:
        advice = (
            f"any user: {OVERCOMMIT} is {overcommit}, and {growth} pages more "
            f"({format_size(growth * frame_size())}) may be made on demand, which the kernel frees by itself"
        )
        yield Finding(topic, name, value=True, advice=advice)
    else:
        yield _by_setting(topic, name, OVERCOMMIT, "sysctl vm.nr_overcommit_hugepages=N, as root", root)
    yield _by_setting(
        topic, "on to the system, by nr_hugepages", NR, "`mrm fund --release SIZE`, as root", root
    )
    if writable(NR, None, root) or writable(OVERCOMMIT, None, root):
        name = "settings are put back by"
        try:
            yield Finding(topic, name, keepers_python())
        except FundingError as error:
            yield Finding(topic, name, "nothing", WARNING, str(error))


def _by_setting(topic: str, name: str, what: str, instead: str, root: Path) -> Finding:
    if writable(what, None, root):
        advice = f"this user may change {what}: a pool that is asked to does, and puts it back"
        return Finding(topic, name, value=True, advice=advice)
    advice = f"this user may not write {setting(what, None, root)}: {instead}"
    return Finding(topic, name, value=False, status=NOTE, advice=advice)


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
