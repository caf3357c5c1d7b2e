"""The features of the kernel, each tried in a process that may die of it.

    python -m mrm.tools.doctor.probes NAME ...

tries those named and prints a line of JSON for each as soon as it is done. The doctor
reads them (see ``trial``): a trial that crashes its process, or never comes back, costs
only its own answer.

What is tried, and how, is mrm's own table (mrm/system/features.pyx, mrm/features.py):
here is only what has to be there first. Shared page tables are seen when a pool is
opened, of two huge pages that are given back at once; unnamed files, on a hugetlbfs
mount. An answer is True, False or None for unknown, with a sentence.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable

import mrm
from mrm.errors import Error
from mrm.physical.limits import huge_pages
from mrm.shootdowns import Shootdowns
from mrm.system.pages import FRAME_SIZE
from mrm.tools.doctor import facts
from mrm.tools.doctor.finding import OK

Answer = tuple[bool | None, str]

_NO_PAGES = "needs 2 free huge pages to try: run `mrm fund 2GiB` as root"


def _shared_page_tables() -> str:
    """Open a pool, which tries it."""
    found = huge_pages()
    if found is None or found.available + found.growth < 2:
        return _NO_PAGES
    mrm.Pool(2 * FRAME_SIZE, huge="require").close()
    return ""


def _unnamed_files() -> str:
    """Make one, on the first mount that there is."""
    for mount in facts.mounts():
        if mount.status != OK:
            continue
        try:
            # A pool of one page, in a file without a name.
            mrm.Pool(FRAME_SIZE, path=mount.name).close()
        except Error as error:
            return str(error)
        return ""
    return "needs a hugetlbfs mount of 2 MiB pages to try, and only Pool(path=...) uses one"


def _own_shootdowns() -> str:
    """Say what it takes."""
    try:
        Shootdowns("process").stop()
    except Error as error:
        return str(error)
    return ""


# What has to be done first; each returns what is to be said of the answer.
FIRST: dict[str, Callable[[], str]] = {
    "shared page tables": _shared_page_tables,
    "unnamed hugetlbfs files": _unnamed_files,
    "tracepoint tlb:tlb_flush": _own_shootdowns,
}


def answer(name: str) -> Answer:
    """Try one."""
    said = ""
    if name in FIRST:
        try:
            said = FIRST[name]()
        except Error as error:
            said = str(error)
    present = {feature.name: feature.present for feature in mrm.features()}[name]
    if present is None and not said:
        said = "the kernel's answer says neither: no huge pages in a memfd to try it on, or no room"
    return present, said


def main(names: list[str]) -> None:
    """Try those named, a line of JSON each."""
    warnings.simplefilter("ignore")
    for name in names:
        present, said = answer(name)
        print(json.dumps([name, present, said]), flush=True)
    os._exit(0)  # whatever a trial has left is the kernel's to tidy


if __name__ == "__main__":
    main(sys.argv[1:])
