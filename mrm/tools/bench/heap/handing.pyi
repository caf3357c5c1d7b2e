from mrm.tools.bench.heap.lanes import Workload

class HandedOn(Workload):
    """Half of the threads allocate, and the others free."""
