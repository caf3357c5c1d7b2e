"""A program with a mistake in each line that says so: the type checker finds them all."""

import mrm

mrm.Pool(64.0)  # wrong
mrm.Pool("64MiB", huge=True)  # wrong
mrm.Pool("64MiB", False)  # wrong
with mrm.Pool("64MiB") as pool:
    several: int = pool.take(8)  # wrong
    pool.give("0")  # wrong
    pool.give(0, reuse=1)  # wrong
    pool.size = 2  # wrong
    slots = pool.reserve(8)
    slots.batch().map(0, 0, 3)  # wrong
    frame: int = slots[0]  # wrong
    mrm.classify(b"0").frame + 1  # wrong
    pool.stats().frames = 2  # wrong
    pool.open_view().base()  # wrong
