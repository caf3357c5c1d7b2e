"""Makes garbage at full speed, collects it, checks every object, and says what each cycle cost.

$ python -m larder.demo --pool 256MiB --rounds 5
"""

import argparse
import statistics
import time

import mrm
from larder.churn import Churn
from larder.store import Store

LIVE = 0.45  # of the pool, when every cell is full
STEPS = 2  # objects made in a round, for each cell
PER_CELL = 330  # bytes: an object, its cell, and now and then one that another object refers to


def big_objects(store: Store) -> str:
    """Let one payload grow, and say what that took."""
    largest = 8 * mrm.FRAME_SIZE
    payload = store.new(data=b"begin" + bytes(mrm.FRAME_SIZE))
    took = []
    while payload.nbytes < largest:
        begun = time.perf_counter()
        payload.resize(payload.nbytes + mrm.FRAME_SIZE)
        took.append(time.perf_counter() - begun)
    assert payload.data[:5] == b"begin"
    middle = statistics.median(took) * 1e6
    return f"a payload grew to {payload.nbytes >> 20} MiB by pages: {middle:.0f} us each, nearly all of it clearing"


def stale(store: Store) -> str:
    """Move one object, and say what its old address is."""
    kept = store.new(data=b"moved")
    for _ in range(200):  # a page that is nearly all garbage, and is no longer the open one
        store.new(data=bytes(16000))
    before = kept.address
    store.collect()
    assert kept.data == b"moved"
    place = mrm.classify(before)
    return f"an object moved from {before:#x} to {kept.address:#x}; the old address is a slot that is {place.state}"


def report(store: Store) -> list[str]:
    """All cycles in a few lines."""
    cycles = store.history
    moved = [cycle for cycle in cycles if cycle.emptied]
    pages = sum(cycle.emptied for cycle in moved)
    calls = sum(cycle.system_calls for cycle in moved)
    shootdowns = sum(cycle.shootdowns for cycle in moved)
    pauses = sorted(cycle.pause_seconds * 1e3 for cycle in cycles)
    return [
        f"{store.cycles} cycles, the last {len(cycles)} of them:",
        f"  pages emptied    {pages}, into {sum(cycle.filled for cycle in moved)}",
        f"  copied           {sum(cycle.bytes_copied for cycle in moved) >> 20} MiB",
        f"  system calls     {calls}, {calls / max(1, pages):.2f} a page",
        f"  shootdowns       {shootdowns}, {shootdowns / max(1, pages):.3f} a page",
        f"  pause            {statistics.median(pauses):.1f} ms, {pauses[0]:.1f} to {pauses[-1]:.1f}",
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="python -m larder.demo")
    parser.add_argument("--pool", default="256MiB", metavar="SIZE", help="memory to use (256MiB)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of garbage (5)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another one, other objects (1)")
    options = parser.parse_args()
    with mrm.Pool(options.pool) as pool:
        print(f"a pool of {pool.stats().frames} frames, backing: {pool.backing}")
        with Store(pool) as store:
            churn = Churn(store, int(pool.stats().nbytes * LIVE) // PER_CELL, options.seed)
            for number in range(options.rounds):
                begun, before = time.perf_counter(), store.cycles
                churn.run(STEPS * churn.cells)
                took = time.perf_counter() - begun
                print(
                    f"round {number + 1}: {STEPS * churn.cells} objects made in {took:.2f} s, "
                    f"with {store.cycles - before} cycles for want of pages; then one more:"
                )
                print(f"    {store.collect()}")
                print(f"    {churn.verify()} objects are what was last put there")
            print(big_objects(store))
            print(stale(store))
            print(*report(store), sep="\n")
            print(f"{pool.audit().held} frames held, each where the books say;", end=" ")
            del churn
        assert pool.audit().held == 0
        print("and none when the store is closed")


if __name__ == "__main__":
    main()
