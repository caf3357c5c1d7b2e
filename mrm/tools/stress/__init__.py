"""``mrm stress``: threads racing on one pool, for as long as wanted, and everything checked.

probe      touches an address, and says that it traps instead of dying of it
racer      takes and gives frames without the GIL
mapper     maps, moves, swaps, protects, unmaps and retires, against a model
race       the threads, and the checks at the end
command    the command line
"""

from mrm.tools.stress.race import Broken, Outcome, run

__all__ = ["Broken", "Outcome", "run"]
