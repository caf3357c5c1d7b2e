"""Free frames as bits, with summaries: the lowest one, or a run of n, without scanning.

A word has a bit for each of 64 frames, set when the frame is free. Over the words
stands a tree: a node of level 0 sums up one word, a node of level k sums up 16 of
level k - 1, and a million frames need five levels. A node's summary is three lengths:
the run of free frames that it begins with (head), the longest within it (best), and
the run that it ends with (tail). Three are enough to compute a parent's from its
children's, runs that cross from child to child included.

So a node says, without a look below it, whether a run of n lies within it, and a
search only ever goes down: 16 nodes a level, however the free frames are scattered.
A frame is free below a node when its best is not 0, which is how the lowest is found.

Changes are made in the words, many at a time. Each marks its word's node stale; at
the end of the call the stale nodes are computed anew, level by level, each once,
and a parent only when a child's summary did change. Bits that are scattered at
random seldom change anything above the second level.

Every level is padded to a multiple of 16 with nodes that have nothing free, so that
no loop has to ask where a level ends.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from mrm cimport MRM_BAD_ARGUMENT, MRM_NO_MEMORY, MRM_OK
from mrm.system.failure cimport failure, mrm_fail


cdef extern from * nogil:
    int trailing_zeros "__builtin_ctzll"(uint64_t word)
    int leading_zeros "__builtin_clzll"(uint64_t word)
    int count_ones "__builtin_popcountll"(uint64_t word)


cdef enum:
    WORD = 64                   # frames of a word
    FANOUT = 16                 # children of a node: a cache line of each field
    LINE = 64                   # bytes of a cache line

cdef struct sum_t:
    uint32_t head
    uint32_t best
    uint32_t tail

cdef uint64_t ALL = <uint64_t>-1


# ---- summaries -------------------------------------------------------------------

cdef inline uint32_t longest_run(uint64_t word) noexcept nogil:
    """The most consecutive bits that are set in ``word``, which has some set and some not."""
    # at_least[k] has a bit where a run of 2**k or more begins. Doubling finds the
    # power of two, and going back down adds the smaller ones that still fit.
    cdef uint64_t at_least[7]
    cdef uint64_t begins, longer
    cdef uint32_t length
    cdef int k = 0
    at_least[0] = word
    while True:
        longer = at_least[k] & (at_least[k] >> (1 << k))
        if longer == 0:
            break
        k += 1
        at_least[k] = longer
    length = 1 << k
    begins = at_least[k]
    while k > 0:
        k -= 1
        longer = begins & (at_least[k] >> length)
        if longer:
            begins = longer
            length += 1 << k
    return length


cdef inline sum_t sum_of_word(uint64_t word) noexcept nogil:
    """Summary of one word."""
    cdef sum_t total
    if word == 0:
        total.head = total.best = total.tail = 0
    elif word == ALL:
        total.head = total.best = total.tail = WORD
    else:
        total.head = trailing_zeros(~word)
        total.tail = leading_zeros(~word)
        total.best = longest_run(word)
    return total


cdef inline sum_t sum_of_children(const level_t *level, uint32_t first) noexcept nogil:
    """Summary of the 16 nodes of ``level`` from ``first`` on."""
    cdef sum_t total
    cdef uint32_t child, run = 0, whole = 1, full
    total.head = total.best = 0
    for child in range(first, first + FANOUT):
        full = level.head[child] == level.span
        # Without branches: whether a child is full is a coin toss in a busy pool.
        total.head += level.head[child] & -whole
        whole &= full
        total.best = max(total.best, max(run + level.head[child], level.best[child]))
        run = (run & -full) + level.tail[child]
    total.tail = run
    return total


cdef inline sum_t sum_of(const bitmap_t *bitmap, uint32_t k, uint32_t node) noexcept nogil:
    """Summary of a node as what lies below it says."""
    if k == 0:
        return sum_of_word(bitmap.words[node])
    return sum_of_children(&bitmap.level[k - 1], node * FANOUT)


cdef inline bint agrees(const level_t *level, uint32_t node, sum_t total) noexcept nogil:
    """Whether ``total`` is what is recorded of ``node``."""
    return level.head[node] == total.head and level.best[node] == total.best and level.tail[node] == total.tail


cdef inline void record(level_t *level, uint32_t node, sum_t total) noexcept nogil:
    """Note ``total`` as the summary of ``node``."""
    level.head[node] = total.head
    level.best[node] = total.best
    level.tail[node] = total.tail


cdef inline void mark(level_t *level, uint32_t node) noexcept nogil:
    """Note that ``node`` has to be computed anew."""
    level.stale[node // 64] |= <uint64_t>1 << node % 64


cdef void settle(bitmap_t *bitmap, uint32_t low, uint32_t high) noexcept nogil:
    """Compute the stale nodes anew; those of level 0 lie from ``low`` to ``high``."""
    cdef uint32_t k, group, node
    cdef uint64_t stale
    cdef level_t *level
    cdef sum_t total
    cdef bint changed
    for k in range(bitmap.levels):
        level = &bitmap.level[k]
        changed = False
        for group in range(low // 64, high // 64 + 1):
            stale = level.stale[group]
            level.stale[group] = 0
            while stale:
                node = group * 64 + trailing_zeros(stale)
                stale &= stale - 1
                total = sum_of(bitmap, k, node)
                if not agrees(level, node, total):
                    record(level, node, total)
                    if k + 1 < bitmap.levels:
                        mark(level + 1, node // FANOUT)
                        changed = True
        if not changed:
            return
        low //= FANOUT
        high //= FANOUT


# ---- one at a time, and runs -------------------------------------------------------

cdef int64_t next_free_word(const bitmap_t *bitmap, uint32_t word, uint32_t end) noexcept nogil:
    """The lowest word from ``word`` on with a free frame, or -1: there need not be one below frame ``end``."""
    cdef uint32_t k = 0, node = word
    # Up, until a node between here and the last of its siblings has a free frame ...
    while True:
        if <uint64_t>node * bitmap.level[k].span >= end:
            return -1
        if bitmap.level[k].best[node]:
            break
        node += 1
        if node % FANOUT == 0:
            node //= FANOUT
            k += 1
            if k == bitmap.levels:
                return -1
    # ... and down, to the lowest word below it that has one.
    while k > 0:
        k -= 1
        node *= FANOUT
        while bitmap.level[k].best[node] == 0:
            node += 1
    return node


cdef int64_t last_free_word(const bitmap_t *bitmap, uint32_t word) noexcept nogil:
    """The highest word up to ``word`` with a free frame, or -1."""
    cdef uint32_t k = 0, node = word
    # As above, to the left.
    while bitmap.level[k].best[node] == 0:
        while node % FANOUT == 0:
            node //= FANOUT
            k += 1
            if k == bitmap.levels:
                return -1
        node -= 1
    while k > 0:
        k -= 1
        node = node * FANOUT + FANOUT - 1
        while bitmap.level[k].best[node] == 0:
            node -= 1
    return node


cdef uint32_t first_run_in(uint64_t word, uint32_t n) noexcept nogil:
    """The bit where the lowest run of ``n`` bits begins that are set in a word; there must be one."""
    # The bits left over are those where a run of `have` begins.
    cdef uint32_t have = 1, more
    while have < n:
        more = min(have, n - have)
        word &= word >> more
        have += more
    return trailing_zeros(word)


cdef uint32_t run_below(const bitmap_t *bitmap, uint32_t k, uint32_t node, uint32_t n) noexcept nogil:
    """First frame of the lowest run of ``n`` free ones within a node; there must be one."""
    cdef uint32_t run
    cdef const level_t *level
    while k > 0:
        k -= 1
        level = &bitmap.level[k]
        node *= FANOUT
        run = 0
        # The lowest run ends in the first child that completes what the children
        # before it ended with, or that has one within.
        while run + level.head[node] < n and level.best[node] < n:
            run = level.tail[node] + (run if level.head[node] == level.span else 0)
            node += 1
        if run + level.head[node] >= n:
            return node * level.span - run
    return node * WORD + first_run_in(bitmap.words[node], n)


cdef int64_t find_run(const bitmap_t *bitmap, uint32_t n) noexcept nogil:
    """First frame of the lowest run of ``n`` (1 or more) free ones, or -1."""
    cdef uint32_t top = bitmap.levels - 1
    if bitmap.level[top].best[0] < n:
        return -1
    return run_below(bitmap, top, 0, n)


cdef inline uint64_t within(uint32_t word, uint32_t first, uint32_t end) noexcept nogil:
    """The bits of a word that stand for frames from ``first`` to before ``end``; some of it lies there."""
    cdef uint64_t bits = ALL
    if word == first // WORD:
        bits &= ALL << first % WORD
    if word == (end - 1) // WORD:
        bits &= ALL >> (WORD - 1 - (end - 1) % WORD)
    return bits


cdef int64_t find_run_within(const bitmap_t *bitmap, uint32_t n, uint32_t first, uint32_t end) noexcept nogil:
    """The same, of those that lie from ``first`` to before ``end`` whole."""
    cdef uint32_t at = first // WORD * WORD, run = 0, k
    cdef uint64_t bits
    cdef sum_t total
    cdef const level_t *level
    # From left to right, over nodes as large as fit between: a run ends in the first that completes it.
    while at < end:
        if at < first or end - at < WORD:
            k = 0
            bits = bitmap.words[at // WORD] & within(at // WORD, first, end)
            total = sum_of_word(bits)
            level = &bitmap.level[0]
        else:
            bits = ALL
            k = 1
            while k < bitmap.levels and at % bitmap.level[k].span == 0 and end - at >= bitmap.level[k].span:
                k += 1
            k -= 1
            level = &bitmap.level[k]
            total.head = level.head[at // level.span]
            total.best = level.best[at // level.span]
            total.tail = level.tail[at // level.span]
        if run + total.head >= n:
            return <int64_t>at - run
        if total.best >= n:
            if bits != ALL:
                return <int64_t>at + first_run_in(bits, n)
            return run_below(bitmap, k, at // level.span, n)
        run = total.tail + (run if total.head == level.span else 0)
        at += level.span
    return -1


cdef void write_run(bitmap_t *bitmap, uint32_t first, uint32_t n, bint is_free) noexcept nogil:
    """Set or clear the bits of ``n`` (1 or more) frames from ``first`` on."""
    cdef uint32_t low = first // WORD, high = (first + n - 1) // WORD, word
    for word in range(low, high + 1):
        if is_free:
            bitmap.words[word] |= within(word, first, first + n)
        else:
            bitmap.words[word] &= ~within(word, first, first + n)
        mark(&bitmap.level[0], word)
    settle(bitmap, low, high)


cdef size_t bitmap_take(bitmap_t *bitmap, uint32_t *frames, size_t n) noexcept nogil:
    """Take the ``n`` lowest free frames, ascending; how many there were."""
    return bitmap_take_within(bitmap, frames, n, 0, bitmap.frames)


cdef size_t bitmap_take_within(
    bitmap_t *bitmap, uint32_t *frames, size_t n, uint32_t first, uint32_t end
) noexcept nogil:
    """Take the ``n`` lowest free frames from ``first`` to before ``end``, ascending; how many there were."""
    cdef size_t taken = 0
    cdef uint32_t low, high, i
    cdef int64_t word
    cdef uint64_t bits
    if n == 0 or first >= end:
        return 0
    word = next_free_word(bitmap, first // WORD, end)
    if word < 0 or word * WORD >= end:
        return 0
    low = high = <uint32_t>word
    while word >= 0 and word * WORD < end:
        high = <uint32_t>word
        bits = bitmap.words[high] & within(high, first, end)
        if bits == ALL and n - taken >= <size_t>WORD:
            for i in range(<uint32_t>WORD):
                frames[taken + i] = high * WORD + i
            taken += WORD
            bitmap.words[high] = bits = 0
        while bits and taken < n:
            frames[taken] = high * WORD + trailing_zeros(bits)
            bitmap.words[high] ^= <uint64_t>1 << frames[taken] % WORD
            bits &= bits - 1
            taken += 1
        mark(&bitmap.level[0], high)
        if taken == n:
            break
        # Stale nodes are all behind: a search to the right reads none of them.
        word = next_free_word(bitmap, high + 1, end)
    bitmap.free -= <uint32_t>taken
    settle(bitmap, low, high)
    return taken


cdef size_t bitmap_take_high(
    bitmap_t *bitmap, uint32_t *frames, size_t n, uint32_t first, uint32_t below
) noexcept nogil:
    """Take the ``n`` highest free frames from ``first`` to before ``below``, descending; how many there were."""
    cdef size_t taken = 0
    cdef uint32_t high, bit
    cdef int64_t word, low
    cdef uint64_t bits
    if below <= first or n == 0 or bitmap.free == 0:
        return 0
    high = (below - 1) // WORD
    word = low = high
    while word * WORD + WORD > first:
        bits = bitmap.words[word] & within(<uint32_t>word, first, below)
        while bits and taken < n:
            bit = WORD - 1 - leading_zeros(bits)
            bits ^= <uint64_t>1 << bit
            bitmap.words[word] ^= <uint64_t>1 << bit
            frames[taken] = <uint32_t>word * WORD + bit
            taken += 1
        mark(&bitmap.level[0], <uint32_t>word)
        low = word
        if taken == n:
            break
        # Stale nodes are all behind: a search to the left reads none of them.
        word = last_free_word(bitmap, <uint32_t>word - 1) if word else -1
    bitmap.free -= <uint32_t>taken
    settle(bitmap, <uint32_t>low, high)
    return taken


cdef int64_t bitmap_take_run(bitmap_t *bitmap, uint32_t n) noexcept nogil:
    """Take the lowest run of ``n`` free frames; the first of them, or -1."""
    cdef int64_t first
    if n == 0:
        return -1
    first = find_run(bitmap, n)
    if first >= 0:
        write_run(bitmap, <uint32_t>first, n, False)
        bitmap.free -= n
    return first


cdef int64_t bitmap_take_run_within(bitmap_t *bitmap, uint32_t n, uint32_t begin, uint32_t end) noexcept nogil:
    """The same, of those from ``begin`` to before ``end``."""
    cdef int64_t first
    if n == 0 or begin >= end or end - begin < n:
        return -1
    first = find_run_within(bitmap, n, begin, end)
    if first >= 0:
        write_run(bitmap, <uint32_t>first, n, False)
        bitmap.free -= n
    return first


cdef void bitmap_give(bitmap_t *bitmap, const uint32_t *frames, size_t n) noexcept nogil:
    """Make ``n`` frames free, none of which is; in any order."""
    cdef uint32_t low = <uint32_t>-1, high = 0, word
    cdef uint64_t bits
    cdef size_t i = 0
    while i < n:
        # Neighbours mostly come together: they go into their word in one step.
        word = frames[i] // WORD
        bits = 0
        while i < n and frames[i] // WORD == word:
            bits |= <uint64_t>1 << frames[i] % WORD
            i += 1
        bitmap.words[word] |= bits
        mark(&bitmap.level[0], word)
        low = min(low, word)
        high = max(high, word)
    if n:
        bitmap.free += <uint32_t>n
        settle(bitmap, low, high)


cdef void bitmap_give_run(bitmap_t *bitmap, uint32_t first, uint32_t n) noexcept nogil:
    """Make ``n`` frames from ``first`` on free, none of which is."""
    if n:
        write_run(bitmap, first, n, True)
        bitmap.free += n


cdef void bitmap_withhold(bitmap_t *bitmap, uint32_t first, uint32_t n) noexcept nogil:
    """Take ``n`` frames from ``first`` on, all of which are free."""
    if n:
        write_run(bitmap, first, n, False)
        bitmap.free -= n


cdef bint bitmap_has(const bitmap_t *bitmap, uint32_t frame) noexcept nogil:
    """Whether ``frame`` is free."""
    return bitmap.words[frame // WORD] >> frame % WORD & 1


cdef uint32_t bitmap_count(const bitmap_t *bitmap, uint32_t first, uint32_t end) noexcept nogil:
    """How many frames from ``first`` to before ``end`` are free: a look at every word."""
    cdef uint32_t word, n = 0
    if first < end:
        for word in range(first // WORD, (end - 1) // WORD + 1):
            n += count_ones(bitmap.words[word] & within(word, first, end))
    return n


cdef uint32_t bitmap_longest(const bitmap_t *bitmap) noexcept nogil:
    """Length of the longest run of free frames."""
    return bitmap.level[bitmap.levels - 1].best[0]


# ---- as a whole --------------------------------------------------------------------

cdef inline uint32_t padded(uint32_t nodes) noexcept nogil:
    """``nodes`` and as many more as fill up the last family of 16."""
    return (nodes + FANOUT - 1) // FANOUT * FANOUT


cdef inline size_t stale_words(uint32_t nodes) noexcept nogil:
    """Words of a bit per node, in whole cache lines."""
    return (<size_t>nodes + 8 * LINE - 1) // (8 * LINE) * 8


cdef int bitmap_open(bitmap_t *bitmap, uint32_t frames) noexcept nogil:
    """Make a bitmap of ``frames`` free frames."""
    cdef uint32_t nodes, k, node
    cdef uint64_t span = WORD
    cdef size_t nbytes
    cdef char *at
    cdef level_t *level
    bitmap.memory = NULL
    if frames == 0 or frames > BITMAP_FRAMES:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            "a pool has 1 to %u frames, not %u", <unsigned int>BITMAP_FRAMES, frames,
        )

    nodes = (frames + WORD - 1) // WORD
    nbytes = LINE + padded(nodes) * sizeof(uint64_t)
    bitmap.levels = 0
    while True:
        level = &bitmap.level[bitmap.levels]
        level.nodes = nodes
        level.span = <uint32_t>span
        nbytes += 3 * padded(nodes) * sizeof(uint32_t) + stale_words(nodes) * sizeof(uint64_t)
        bitmap.levels += 1
        if nodes == 1:
            break
        nodes = padded(nodes) // FANOUT
        span *= FANOUT

    bitmap.memory = calloc(1, nbytes)
    if bitmap.memory == NULL:
        return mrm_fail(
            failure(), MRM_NO_MEMORY, 0, 0, NULL, nbytes,
            "no memory for the free lists of %u frames: %zu bytes", frames, nbytes,
        )
    at = <char *>((<uintptr_t>bitmap.memory + LINE - 1) & ~<uintptr_t>(LINE - 1))
    bitmap.words = <uint64_t *>at
    at += padded(bitmap.level[0].nodes) * sizeof(uint64_t)
    for k in range(bitmap.levels):
        level = &bitmap.level[k]
        level.head = <uint32_t *>at
        level.best = level.head + padded(level.nodes)
        level.tail = level.best + padded(level.nodes)
        level.stale = <uint64_t *>(level.tail + padded(level.nodes))
        at = <char *>(level.stale + stale_words(level.nodes))

    bitmap.frames = frames
    bitmap.free = frames
    for node in range(frames // WORD):
        bitmap.words[node] = ALL
    if frames % WORD:
        bitmap.words[frames // WORD] = ALL >> (WORD - frames % WORD)
    for k in range(bitmap.levels):
        level = &bitmap.level[k]
        for node in range(level.nodes):
            record(level, node, sum_of(bitmap, k, node))
    return MRM_OK


cdef void bitmap_close(bitmap_t *bitmap) noexcept nogil:
    """Free its memory."""
    free(bitmap.memory)
    bitmap.memory = NULL


cdef int64_t bitmap_check(const bitmap_t *bitmap) noexcept nogil:
    """Compute all summaries anew; first frame of the lowest node that differs, or -1."""
    cdef uint32_t k, node
    cdef const level_t *level
    for k in range(bitmap.levels):
        level = &bitmap.level[k]
        for node in range(level.nodes):
            if level.stale[node // 64] >> node % 64 & 1 or not agrees(level, node, sum_of(bitmap, k, node)):
                return <int64_t>node * level.span
    return -1
