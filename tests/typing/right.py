"""A program that a type checker has nothing to say about."""

from array import array

import mrm


def relocate(pool: mrm.Pool, frames: array[int]) -> mrm.PoolStats:
    slots: mrm.Reservation = pool.reserve(2 * len(frames))
    with slots.batch(measure=True) as batch:
        batch.map(range(len(frames)), frames)
        batch.protect([0, 1], "r")
    report = batch.report
    if report is not None:
        shootdowns: int = report.shootdowns
        seconds: float = report.seconds
        print(shootdowns, seconds, report.shootdowns_measured or 0)
    frame = slots[0]
    if frame is not None:
        place: mrm.Place = mrm.classify(pool.address(frame))
        print(place.kind, place.offset + 1)
    slots.buffer(0)[0] = 1
    with pool.open_view() as view:
        view[frames[0]][:2] = b"hi"
        at: int = view.address(frames[0])
        print(at, view.state == "open")
    slots.close()
    return pool.audit()


with mrm.Pool("64MiB", huge="prefer", progress=lambda done, total: print(done / total)) as pool:
    one: int = pool.take()
    several: array[int] = pool.take(8)
    run: range = pool.take_run(4)
    pool.give(one, reuse="after_retire")
    pool.give(memoryview(several))
    pool.give(run)
    stats = relocate(pool, pool.take(2))
    free: int = stats.free
    window: mrm.Window = pool.window
    words: str = pool.description
    lacks: list[str] = [feature.instead for feature in mrm.features() if feature.present is False]
    try:
        pool.take(2**30)
    except mrm.OutOfFrames as error:
        print(error.errno, error.nbytes)
