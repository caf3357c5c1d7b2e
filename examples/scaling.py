"""A pool that grows before it is empty, and says why.

$ python scaling.py
"""

import time

import mrm

with mrm.Pool("8MiB", maximum="64MiB") as pool:  # memory for 4 frames, numbers for 32
    scaler = pool.autoscale("8MiB", "48MiB", headroom="16MiB", leave_free=0, interval=0.02)
    frames = []
    while len(frames) < 20:
        try:
            frames.append(pool.take())
        except mrm.OutOfFrames:  # faster than the scaler looks
            time.sleep(0.02)
    print(*scaler.log, sep="\n")
    print(len(frames), "frames taken;", pool.size >> 20, "MiB of", pool.maximum >> 20)
    pool.give(frames)
