from mrm.tools.bench.lanes import Lane

class Stock(Lane):
    """What these lanes have in common: two ranges, one that shows the frames and one to move to."""

class Kernel(Lane):
    """munmap and mmap(MAP_HUGETLB | MAP_POPULATE), a page a call: the kernel clears each."""

class Mremap(Stock):
    """mremap, a page a call."""

class MremapRangeHugetlb(Stock):
    """mremap of the whole range of huge pages in one call."""

class MremapRangeThp(Stock):
    """mremap of a whole range of ordinary memory with transparent huge pages, in one call."""

class Fresh(Stock):
    """lanes.c's better lane by hand: each scattered page to a fresh address by one mmap, one bulk unmap."""

class ViewByHand(Stock):
    """lanes.c's best lane by hand: link every page in a view that shares page tables, one bulk zap."""
