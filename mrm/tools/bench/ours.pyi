from mrm import Pool
from mrm.tools.bench.lanes import Lane

def file_of(pool: Pool) -> int:
    """Descriptor of the file that the pool's frames lie in, for lanes that map it by hand."""

class Ours(Lane):
    """What our lanes have in common: the pool, through its C handle."""

    def __init__(self, pool: Pool, step: int) -> None: ...

class Batch(Ours):
    """Scattered frames to fresh slots by one batch, deferred; then one retire."""

class BatchRuns(Batch):
    """The same, with frames that were taken in runs, which go in one call each."""

class View(Ours):
    """Everything at once by view: open the next, reach every frame in it, retire the last."""
