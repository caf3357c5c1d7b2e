from mrm.tools.bench.heap.lanes import Workload

class Mixed(Workload):
    """Rounds of ``slots`` blocks, of which one in 16 lives on."""
