"""Promises about pages: a heap, a collector that never has to wait for one, and a cache that lives on what is left.

$ python economy.py
"""

import mrm

with mrm.Pool("64MiB") as pool:  # 32 frames, all in the fund "committed"
    pool.fund("pause_prevention", "8MiB")  # 4 of them for those who name it
    pool.fund("overdraft", "16MiB")  # 8 to be lent, where a call allows it

    heap = pool.account("heap")
    heap.fund(12)  # a promise: 12 frames, whatever others do
    collector = pool.account("collector", committed="pause_prevention", overdraft=None)
    collector.fund(4)
    cache = pool.account("cache")  # no promise at all

    pages = [*heap.take(12), heap.take(overdraft=True)]
    cached = list(cache.take(7, overdraft=True))
    try:
        cache.take(overdraft=True)
    except mrm.OutOfFrames as error:
        print(error)

    def on_shortage(account, wanted):
        print("frames that", account, "is short of:", wanted, "- the cache gives as many back")
        for _ in range(wanted):
            pool.give(cached.pop())

    pool.on_shortage(on_shortage)
    pages.append(heap.take(overdraft=True))  # the overdraft is used up: the callback helps
    spare = collector.take()  # never fails: nobody else can have it

    pool.give(pages.pop())
    pool.keep_zeroed(4)  # cleared ahead, when a processor has nothing else to do
    with pool.reserve(8) as reservation:
        with (
            reservation.batch() as batch
        ):  # the heap pays for what the batch maps; an exception gives it back
            mapped = batch.map([0, 1], account=heap, overdraft=True, zeroed=True)
        print(
            "slots 0 and 1 show frames",
            *mapped,
            "which hold",
            int.from_bytes(reservation.buffer(0), "little"),
        )
    pages += mapped

    for account in pool.accounts.values():
        print(account)
    print(pool.audit().held, "frames held;", heap.stats().allocated_high, "at the most by the heap")
    pool.give([*pages, *cached, spare])
