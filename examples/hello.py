"""Frames and views: a page moves to a new address, and its contents come along.

$ python hello.py
"""

import mrm

with mrm.Pool("64MiB") as pool:  # 32 frames of 2 MiB, funded now
    frame = pool.take()  # nanoseconds, no system call
    old = pool.open_view()  # every frame at a fresh address
    old[frame][:5] = b"hello"
    new = pool.open_view()  # ... and at another one
    old.retire()  # one invalidation, and the old addresses trap
    print(bytes(new[frame][:5]), "moved from", hex(old.address(frame)), "to", hex(new.address(frame)))
    print(mrm.classify(old.address(frame)))
    old.close()
    new.close()
    pool.give(frame)
