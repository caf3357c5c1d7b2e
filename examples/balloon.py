"""Memory that comes and goes: a pool that breathes while a frame that is held stays what it is.

$ python balloon.py
"""

import mrm

with mrm.Pool("64MiB", maximum="256MiB", huge="prefer") as pool:  # numbers for 128 frames, memory for 32
    frame = pool.take()
    pool[frame][:5] = b"still"

    given = pool.inflate("60MiB")  # free frames give their memory back to the kernel
    print(f"gave {given.frames} frames back; {pool.size >> 20} MiB are left")

    with pool.deflate("128MiB", background=True) as arriving:  # a server starts on what is there
        first = pool.take()
        print("frame", first, "can be used while others arrive")
        arriving.wait()
    print(f"fetched {arriving.nbytes >> 20} MiB; the pool has {pool.size >> 20} MiB")

    more = pool.deflate("1GiB")  # what was done is said exactly, and why it was not all
    print(more.frames, "frames more:", more.error)

    pool.resize("32MiB").or_raise()
    print(
        bytes(pool[frame][:5]).decode(),
        "in frame",
        frame,
        "of",
        len(pool),
        "numbers;",
        pool.audit().inflated,
        "empty",
    )
    pool.give([frame, first])
