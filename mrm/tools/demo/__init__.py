"""``mrm demo``: mutators at work while a relocator moves the pages under them.

From the bottom up, each module using only those above it:

    objects     stamped objects, and the words in them that change
    latency     how long operations took
    heap        handles, references, frames, room for copies
    barrier     the load barrier and the copying: the protocol, and why it is sound
    mutator     reads, writes and replaces objects, checking as it goes
    marking     what is live, and which frames are sparse
    relocator   the cycle: mark, flip, empty
    accounts    the reckoning at the end
    world       all of that as Python sees it
    run         threads, samples, outcome; report, plots and display show it
    stale       a process that dies of a stale access
    command     the command line
"""
