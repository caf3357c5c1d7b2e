"""``mrm bench heap``: our heap beside glibc, mimalloc, jemalloc and tcmalloc, on workloads that papers use.

Read in this order: allocator.pyx (an allocator as a table of functions), lanes.pyx (the threads of a
workload, and when their clocks run), small.pyx, larson.pyx, handing.pyx, mixing.pyx and large.pyx (the
workloads), lineup.py (who is measured, and how each is told to use huge pages), workloads.py (on what), child.py (one
measurement, in a process of its own), run.py (all of them, interleaved), and what becomes of the
figures in figures.py, table.py, plots.py, report.py and targets.py.
"""
