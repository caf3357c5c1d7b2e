"""``mrm bench programs``: Python programs that wait for the TLB, as they are and with their memory on huge pages.

Read in this order: programs.py (what they do; it runs in an interpreter of its own, which need not know mrm),
lineup.py (the programs, and the setups that each runs in), always.py (a setting of the machine's that one
of them needs), run.py (all of them, interleaved), and what becomes of the figures in figures.py, table.py,
plots.py, report.py and targets.py.
"""
