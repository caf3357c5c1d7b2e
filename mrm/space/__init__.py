"""Address space: which address shows which frame.

``views`` show the whole pool at once; ``reservation`` is a range of slots, changed by
batches: ``batch`` notes what is wanted, ``claims`` checks it, ``plan`` makes steps of it,
``commit`` carries the steps out and undoes them when one fails; ``place`` says what an
address is.
"""
