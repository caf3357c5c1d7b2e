"""System: everything that leaves the process goes through here.

``calls`` makes every system call, and can be told to fail; ``failure`` remembers
what went wrong in this thread; ``pages`` asks for the sizes that the machine sets; ``ranges``
reserves addresses and knows whose they are; ``figures`` reads a number that
the kernel shows; ``atend`` ends what has to end before the interpreter does. Nothing in here knows what a pool is.
"""
