"""Address space: which address shows which frame.

``views`` show the whole pool at once; ``reservation`` is a range of slots, changed by
batches: ``batch`` collects them, ``plan`` makes steps of them, ``commit`` carries the
steps out and undoes them when one fails; ``place`` says what an address is.
"""
