from mrm.tools.bench.heap.lanes import Workload

class Larson(Workload):
    """``slots`` blocks, replaced at random; after ``turn`` of them another thread goes on."""
