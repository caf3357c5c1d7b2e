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
        print(account, "is short of", wanted, "frame: the cache gives one back")
        pool.give(cached.pop())

    pool.on_shortage(on_shortage)
    pages.append(heap.take(overdraft=True))  # the overdraft is used up: the callback helps
    spare = collector.take()  # never fails: nobody else can have it

    for account in pool.accounts.values():
        print(account)
    print(pool.audit().held, "frames held;", heap.stats().allocated_high, "at the most by the heap")
    pool.give([*pages, *cached, spare])
