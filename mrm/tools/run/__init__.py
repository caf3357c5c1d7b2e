"""``mrm run``: any Python program, unchanged, with its objects and arrays on huge pages.

``plan`` reads the command line, ``memory`` puts objects and arrays in place, ``program`` runs the
program as ``python`` would, ``account`` says in the end what it used. Nothing here imports what
does not come with Python: the program shall find its own versions.
"""
