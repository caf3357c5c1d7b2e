"""Worker processes that attach to a pool's frames: one fills them, the others read, no byte is copied.

$ python workers.py
"""

import multiprocessing

import numpy as np

import mrm


def add_up(ticket, frame, sums):
    """What a worker does with a frame that it is told of."""
    with mrm.attach(ticket) as frames:
        numbers = np.frombuffer(frames[frame], dtype=np.float64)
        sums.put((frame, float(numbers.sum())))
        del numbers  # an array pins what it looks at: the attachment could not be closed


def main(method):
    """Start workers by ``spawn`` or ``forkserver``, which inherit nothing but what they are given."""
    context = multiprocessing.get_context(method)
    sums = context.Queue()
    with mrm.Pool("64MiB") as pool, pool.share() as ticket:  # share(writable=True) lets them write
        frames = pool.take(3)
        for frame in frames:
            np.frombuffer(pool[frame], dtype=np.float64)[:] = frame + 1
        workers = [context.Process(target=add_up, args=(ticket, frame, sums)) for frame in frames]
        for worker in workers:
            worker.start()
        found = dict(sums.get() for _ in workers)
        for worker in workers:
            worker.join()
        print(method, [f"frame {frame}: {found[frame]:.0f}" for frame in sorted(found)])
        pool.give(frames)


if __name__ == "__main__":
    main("spawn")
    main("forkserver")
