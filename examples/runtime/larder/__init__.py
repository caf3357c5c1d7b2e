"""larder: an object store with a compacting collector, on mrm's pages.

::

    import larder
    import mrm

    with mrm.Pool("64MiB") as pool, larder.Store(pool) as store:
        pair = store.new(fields=2)
        pair[0] = store.new(data=b"hello")
        pair[1] = pair
        print(store.collect())

README.md says what lies where, and why.
"""

from larder.cycle import Cycle
from larder.store import Ref, Store

__all__ = ["Cycle", "Ref", "Store"]
