"""numpy arrays on frames: no copy, and the memory stays where it is while one looks at it.

$ python arrays.py
"""

import ctypes

import numpy as np

import mrm

with mrm.Pool("64MiB") as pool:
    frame = pool.take()
    with pool.open_view() as view:
        through_view = np.frombuffer(view[frame], dtype=np.float64)
        through_view[:] = np.arange(through_view.size)
        # An array pins what it looks at: the view cannot be retired under it.
        try:
            view.retire()
        except mrm.PinnedError as error:
            print(error)
        del through_view
        view.retire()

    # The same bytes, at the address that they have for the pool's life.
    values = np.frombuffer(pool[frame], dtype=np.float64)
    print(f"{values.size} numbers, their sum is {values.sum():.0f}")
    del values
    pool.give(frame)

    # Frames of a run lie side by side in the window: one array over 16 MiB. Nothing pins
    # an array that was made of an address, so it must go before the frames do.
    run = pool.take_run(8)
    memory = (ctypes.c_byte * (len(run) * pool.frame_size)).from_address(pool.address(run[0]))
    matrix = np.frombuffer(memory, dtype=np.float32).reshape(2048, 2048)
    matrix[:] = 1
    print(f"{matrix.nbytes >> 20} MiB in one array, trace {np.trace(matrix):.0f}")
    del matrix, memory
    pool.give(run)
