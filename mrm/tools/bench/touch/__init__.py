"""``mrm bench touch``: what the first touch of a huge page costs, by where the page has been.

Read in this order: figures.py (what is reported), lanes.py (where a page has been, and how it is
touched), run.py, command.py and table.py.
"""
