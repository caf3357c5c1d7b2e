"""Whether the kernel gives private memory transparent huge pages, to those who ask by madvise.

Three settings can stand in the way: the kernel's (``enabled``, "never"), since Linux 6.8 that of
one size, and the process's own (PR_SET_THP_DISABLE, inherited from whoever set it). None
of them makes madvise fail; so they are looked at.
"""

from pathlib import Path

from mrm.physical.cgroups import ROOT
from mrm.physical.limits import chosen_word, meminfo
from mrm.sizes import format_size
from mrm.system.calls import system_call
from mrm.system.pages import frame_size, huge_pages_folder

_FOLDER = "sys/kernel/mm/transparent_hugepage"
_GET_THP_DISABLE = 42  # of prctl; PR_SET_THP_DISABLE is 41


def why_not(root: Path = ROOT) -> str:
    """What stands in the way of transparent huge pages, as a sentence with the way out; an empty string if nothing.

    Parameters
    ----------
    root : path, optional
        Where /sys and /proc are; tests make them up.
    """
    if not (root / _FOLDER).is_dir():
        return "this kernel has no transparent huge pages (CONFIG_TRANSPARENT_HUGEPAGE)"
    size = format_size(frame_size())
    of_size = f"{_FOLDER}/{huge_pages_folder()}/enabled"
    word = chosen_word(root / of_size)
    if word in (None, "inherit"):
        of_size = f"{_FOLDER}/enabled"
        word = chosen_word(root / of_size)
    if word == "never":
        return f"transparent huge pages of {size} are switched off: as root, echo madvise > /{of_size}"
    try:
        if system_call("prctl", _GET_THP_DISABLE) == 1:
            return (
                "transparent huge pages are switched off for this process (PR_SET_THP_DISABLE, by itself or by what "
                "started it): start it without"
            )
    except OSError:
        pass  # a filter refuses the question: then nothing is known
    return ""


def swap_and_memory(root: Path = ROOT) -> int:
    """Bytes of memory that processes can have together, on disk too; a TiB where it is not told."""
    told = meminfo(root)
    return told.get("MemTotal", 1 << 40) + told.get("SwapTotal", 0)
