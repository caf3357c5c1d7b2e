"""``mrm replay``: a log of calls (``mrm.adaptors.Log``) again, on any heap.

Read in this order: ``calls`` (the file, as an array of calls), ``books`` (which call is about which block, and
what that tells by itself: peaks, leaks, frees of what is no block), ``run`` (the calls again, on a heap), and
what becomes of it: ``replay`` puts it together, ``report`` says it, ``command`` is the command line.
"""

from mrm.tools.replay.replay import Found, Leak, Mismatch, Replayed, examine, replay, sufficient

__all__ = ["Found", "Leak", "Mismatch", "Replayed", "examine", "replay", "sufficient"]
