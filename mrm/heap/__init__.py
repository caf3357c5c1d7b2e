"""The allocator: malloc on frames.

``classes`` has the sizes that small blocks come in; ``page`` is what is kept of a page of them and of
the segment that it lies in; ``state`` is the heap, and what a thread has of it.

``blocks`` are the functions that callers call, and what they do nearly always; ``slow`` is the rest of it, and
``pages`` what a thread does with its pages. ``supply`` is where it finds one with room. ``local`` gives a thread its
part of the heap, and takes it back when the thread ends; ``orphans`` is how what it had goes on in others.

``segments`` are where pages come from: 2 MiB each, a frame of a pool, or private memory. ``runs`` are blocks
above a MiB: slots in a row. ``extents`` are the books of which are free, and ``mapping`` shows memory there, moves
it and takes it away.

``heap`` opens and closes all that, and ``walk`` looks at it: figures, and every block.

``debug`` is a heap that finds its callers' mistakes: ``fences`` around blocks, ``records`` of each, ``traces`` of
where it was allocated and freed, ``held`` for those that were freed, ``inspection`` of all of them, and ``reports`` of
what is wrong.
"""
