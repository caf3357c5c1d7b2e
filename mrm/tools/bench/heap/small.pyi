from mrm.tools.bench.heap.lanes import Workload

class Pairs(Workload):
    """A block is allocated and freed at once."""

class Lifo(Workload):
    """Up to ``slots`` blocks are allocated, then freed in the reverse order."""

class Churn(Workload):
    """Of ``slots`` blocks one after another, at random, is freed and replaced by one of another size."""
