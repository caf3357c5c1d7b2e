"""What a pool says of itself: what was funded, and which ways of this kernel it goes.

One sentence a fact, for people and logs. Every lack that makes something dearer is among
them, with what it costs: nothing is slower in silence.
"""

from mrm.physical.backings import HUGETLB, THP
from mrm.physical.funding import Funded
from mrm.sizes import format_size
from mrm.system import features
from mrm.system.pages import page_table_span

SHARING = "shared page tables"

# Features that a backing has use for, besides shared page tables.
_USED = {
    HUGETLB: ("hugetlb mremap", "MADV_POPULATE_WRITE", "hugetlb MADV_DONTNEED"),
    THP: ("MADV_POPULATE_WRITE", "MADV_COLLAPSE"),
}


def describe(funded: Funded, numa_node: int | str | None, maximum: int, unseen: str = "") -> str:
    """The text of ``pool.description``.

    Parameters
    ----------
    funded : Funded
        What funding got.
    numa_node : int, str or None
        The node that was asked for, or how to spread over all.
    maximum : int
        Bytes that it may be deflated to.
    unseen : str, optional
        Why the books are where nobody can watch them.
    """
    place = funded.place
    if maximum > funded.frame_count * funded.frame_size:
        place += f", with numbers for up to {format_size(maximum)}"
    if numa_node is None:
        place += ", on whichever NUMA nodes the memory policy chose"
    said = [f"{funded.description}, {place}", *_sharing(funded.backing), *_lacks(funded.backing)]
    if unseen:
        said.append(f"`mrm top` cannot watch this pool: {unseen}. Cost: none to the pool")
    return ". ".join(said) + "."


def lack(name: str) -> str:
    """The sentence of a feature that a plan goes without, for ``explain()``."""
    row = features.TABLE[features.NAMES.index(name)]
    return f"{name} is missing here: {row.instead}"


def _sharing(backing: int) -> list[str]:
    """How a view gets its page tables, and what that costs."""
    row = features.TABLE[features.NAMES.index(SHARING)]
    if backing != HUGETLB:
        said = (
            "Page tables are not shared, as those of huge pages are: the first touch of each page of the "
            "kernel's through a view takes a fault, and retiring it visits each"
        )
        return [said]
    answer = features.answers()[SHARING]
    if answer is None:
        return ["Whether page tables are shared is not known: that takes a pool of two frames to be seen"]
    if answer:
        span = format_size(page_table_span())
        usual = f"Page tables are shared: a view costs a fault every {span}"
        return [f"{usual} (a fault a page where userfaultfd is armed on it)"]
    return [f"Page tables are not shared: {row.instead}. Cost: {row.cost}"]


def _lacks(backing: int) -> list[str]:
    """The features that it could use and has not, and what it does instead."""
    return [
        f"{row.name} is missing (Linux {row.since}): {row.instead}. Cost: {row.cost}"
        for row in features.TABLE
        if row.name in _USED.get(backing, ()) and features.is_missing(row.name)
    ]
