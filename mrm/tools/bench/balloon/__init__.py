"""``mrm bench balloon``: how fast memory goes to the kernel and comes again, beside the kernel's own rate.

Read in this order: byhand.pyx (the kernel's own calls), rates.py (cycles, interleaved),
neighbour.pyx and beside.py (who works meanwhile), run.py, and what becomes of the figures
in table.py, plots.py, report.py and targets.py.
"""
