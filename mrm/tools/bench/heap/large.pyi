from mrm.tools.bench.heap.lanes import Workload

class Large(Workload):
    """One of ``slots`` blocks, at random, is freed and replaced by another, which is written whole."""

class Grow(Workload):
    """A block grows from ``least`` to ``most``; of what is new, the first word is written."""

class GrowWritten(Workload):
    """The same, and all that is new is written."""
