/* Threads that race through the table of mrm.h, for ThreadSanitizer to watch.
 *
 * Built with -fsanitize=thread and loaded into a Python with libtsan preloaded, beside
 * modules of mrm's that are built the same way. Python starts a round and then waits in
 * it, without the GIL, which would order what is meant to race. The sanitizer reports
 * two accesses to the same memory, one of them a write, that no atomic operation, lock
 * or thread's start orders; it need not see them go wrong.
 *
 * `owner` makes the free lists' own promise visible: whoever takes a frame sees all that
 * was written by whoever gave it. A word for each frame, not atomic, belongs to the one
 * who holds the frame; it lies in plain memory, as the fake kernel's frames do not exist.
 */
#include <mrm/mrm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 64, OWN_SLOTS = 8, MOST = 96, ADDRESSES = 64 };

typedef struct round_t {
    mrm_pool *pool;
    mrm_layout layout;
    mrm_reservation *shared;    /* its slots are divided among the mappers */
    uint32_t threads, steps;
    uint32_t *owner;            /* of each frame: the thread that holds it, from 1; not atomic */
    _Atomic int working;        /* threads that are not lookers */
    _Atomic(void *) seen[ADDRESSES]; /* where something was a moment ago */
    pthread_barrier_t start;
    int on_fake;
} round_t;

typedef struct racer_t {
    round_t *round;
    uint32_t number;            /* from 1 */
    uint64_t random;
    uint32_t held[MOST];
    uint32_t count;
    char wrong[1024];           /* what did not hold; empty if all did */
} racer_t;

static uint32_t draw(racer_t *me, uint32_t n) {
    me->random = me->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((me->random >> 33) * n >> 31);
}

static int wrong(racer_t *me, const char *what, int line) {
    if (!me->wrong[0])
        snprintf(me->wrong, sizeof me->wrong, "thread %u, line %d: %s (%s)", me->number, line, what,
                 mrm->failure()->text);
    return -1;
}
#define CHECK(condition) do { if (!(condition)) return wrong(me, #condition, __LINE__); } while (0)

static void note(racer_t *me, void *address) {
    atomic_store_explicit(&me->round->seen[draw(me, ADDRESSES)], address, memory_order_relaxed);
}

/* ---- frames ------------------------------------------------------------------ */

static int take(racer_t *me, uint32_t n, uint32_t how) {
    round_t *round = me->round;
    uint32_t *got = me->held + me->count, i;
    int status;
    if (how == 0) {
        n = 1;
        status = mrm->take(round->pool, got);
    } else if (how == 1) {
        status = mrm->take_many(round->pool, got, n);
    } else {
        status = mrm->take_run(round->pool, n, got);
        for (i = 1; i < n; i++) got[i] = got[0] + i;
    }
    if (status == MRM_OUT_OF_FRAMES) return 0;
    CHECK(status == MRM_OK);
    for (i = 0; i < n; i++) {
        CHECK(round->owner[got[i]] == 0);
        round->owner[got[i]] = me->number;
    }
    me->count += n;
    return 0;
}

static int give(racer_t *me, uint32_t n, int reuse) {
    round_t *round = me->round;
    uint32_t i;
    for (i = 0; i < n; i++) {
        uint32_t other = draw(me, me->count - i), frame = me->held[other];
        me->held[other] = me->held[me->count - 1 - i];
        me->held[me->count - 1 - i] = frame;
        CHECK(round->owner[frame] == me->number);
        round->owner[frame] = 0;
    }
    me->count -= n;
    if (n == 1)
        CHECK(mrm->give(round->pool, me->held[me->count], reuse) == MRM_OK);
    else
        CHECK(mrm->give_many(round->pool, me->held + me->count, n, reuse) == MRM_OK);
    return 0;
}

/* Takes and gives in every form, up to more than a stack keeps and than arrays of the
 * bitmap's begin with; retires now and then; and does what has to be refused. */
static int race_frames(racer_t *me) {
    round_t *round = me->round;
    uint32_t room = round->layout.frame_count / round->threads;
    if (room > MOST) room = MOST;
    for (uint32_t step = 0; step < round->steps; step++) {
        uint32_t dice = draw(me, 100), n = 1 + draw(me, draw(me, 8) ? 8 : room);
        if (dice < 45 && me->count + n <= room) {
            if (take(me, n, dice % 3) < 0) return -1;
        } else if (dice < 92 && me->count) {
            int reuse = dice % 8 == 0 ? MRM_REUSE_AFTER_RETIRE : MRM_REUSE_NOW;
            if (give(me, n < me->count ? n : me->count, reuse) < 0) return -1;
        } else if (dice == 92) {
            CHECK(mrm->pool_retire(round->pool, NULL) == MRM_OK);
        } else if (dice == 93) {
            /* Another's frame, or a free one, as it comes; or none of the pool's, after some of ours. */
            uint32_t both[2] = {me->count ? me->held[0] : round->layout.frame_count, round->layout.frame_count};
            CHECK(mrm->give_many(round->pool, both, 2, MRM_REUSE_NOW) == MRM_BAD_FRAME);
        } else if (dice == 94) {
            uint32_t too_many[2];
            CHECK(mrm->take_run(round->pool, round->layout.frame_count + 1, too_many) == MRM_OUT_OF_FRAMES);
        }
    }
    while (me->count)
        if (give(me, 1, MRM_REUSE_NOW) < 0) return -1;
    return 0;
}

/* ---- slots ------------------------------------------------------------------- */

static int commit(racer_t *me, mrm_batch *batch) {
    mrm_report report;
    CHECK(mrm->batch_commit(batch, &report) == MRM_OK);
    return 0;
}

/* Maps, moves, swaps and defers in slots that no other thread uses, of a reservation
 * that all use; and in one of its own that comes and goes. */
static int race_in(racer_t *me, mrm_reservation *reservation, uint32_t first, uint32_t slots) {
    round_t *round = me->round;
    uint32_t half = slots / 2, low[SLOTS], high[SLOTS], i, deferred;
    mrm_batch *batch;
    mrm_slot shown;
    for (i = 0; i < half; i++) low[i] = first + i, high[i] = first + half + i;
    if (me->count < half && take(me, half - me->count, 1) < 0) return -1;
    if (me->count < half) return 0;
    CHECK(mrm->reservation_retire(reservation, NULL) == MRM_OK); /* what the step before deferred */
    CHECK(mrm->batch_begin(reservation, &batch) == MRM_OK);
    CHECK(mrm->batch_map(batch, low, me->held, half, MRM_PROT_READ_WRITE) == MRM_OK);
    if (commit(me, batch) < 0) return -1;
    note(me, mrm->reservation_address(reservation, low[0]));
    CHECK(mrm->give(round->pool, me->held[0], MRM_REUSE_NOW) == MRM_BAD_FRAME);
    deferred = draw(me, 2);
    CHECK(mrm->batch_move(batch, low, high, half, deferred ? MRM_DEFERRED : 0) == MRM_OK);
    if (commit(me, batch) < 0) return -1;
    if (!deferred) {
        CHECK(mrm->batch_alias(batch, high, low, half) == MRM_OK);
        if (commit(me, batch) < 0) return -1;
        CHECK(mrm->batch_unmap(batch, low, half, MRM_DEFERRED) == MRM_OK);
        if (commit(me, batch) < 0) return -1;
    }
    CHECK(mrm->reservation_slot(reservation, high[0], &shown) == MRM_OK);
    CHECK(shown.state == MRM_SLOT_SHOWN && shown.frame == me->held[0]);
    if (half > 1) {
        CHECK(mrm->batch_swap(batch, high, high + 1, 1) == MRM_OK);
        if (commit(me, batch) < 0) return -1;
    }
    CHECK(mrm->batch_protect(batch, high, half, MRM_PROT_READ) == MRM_OK);
    if (commit(me, batch) < 0) return -1;
    if (draw(me, 2)) CHECK(mrm->reservation_retire(reservation, NULL) == MRM_OK);
    CHECK(mrm->batch_unmap(batch, high, half, draw(me, 2) ? MRM_DEFERRED : 0) == MRM_OK);
    if (commit(me, batch) < 0) return -1;
    if (draw(me, 3) == 0) CHECK(mrm->pool_retire(round->pool, NULL) == MRM_OK);
    mrm->batch_abort(batch);
    return give(me, half, draw(me, 3) ? MRM_REUSE_NOW : MRM_REUSE_AFTER_RETIRE);
}

static int race_slots(racer_t *me) {
    round_t *round = me->round;
    uint32_t share = SLOTS / round->threads / 2 * 2;
    for (uint32_t step = 0; step < round->steps; step++) {
        mrm_reservation *own;
        if (race_in(me, round->shared, (me->number - 1) * share, share) < 0) return -1;
        CHECK(mrm->reservation_open(round->pool, OWN_SLOTS, 0, &own) == MRM_OK);
        if (race_in(me, own, 0, OWN_SLOTS) < 0) return -1;
        CHECK(mrm->reservation_close(own) == MRM_OK);
    }
    while (me->count)
        if (give(me, 1, MRM_REUSE_NOW) < 0) return -1;
    return 0;
}

/* ---- accounts -------------------------------------------------------------------- */

static void relieve(void *context, mrm_pool *pool, uint32_t account, size_t wanted) {
    (void)account, (void)wanted;
    atomic_fetch_add_explicit((_Atomic uint32_t *)context, 1, memory_order_relaxed);
    mrm->pool_retire(pool, NULL);
}

/* Takes from an account that comes and goes, within its balance, which never fails, and
 * beyond; moves promises between it, one that all share, and funds, meanwhile. */
static int race_accounts(racer_t *me) {
    static _Atomic uint32_t shortages;
    round_t *round = me->round;
    char name[16];
    mrm_account_options options = {.size = sizeof options, .name = name};
    uint32_t account, shared, spare, owner, step, i, flushed;
    snprintf(name, sizeof name, "racer %u", me->number);
    CHECK(mrm->account_find(round->pool, "shared", &shared) == MRM_OK);
    CHECK(mrm->fund_open(round->pool, "spare", &spare) == MRM_OK);
    CHECK(mrm->pool_on_shortage(round->pool, relieve, &shortages) == MRM_OK);
    for (step = 0; step < round->steps; step++) {
        mrm_account_stats stats = {.size = sizeof stats};
        mrm_fund_stats funds = {.size = sizeof funds};
        uint32_t promised = 0;
        options.flags = draw(me, 2) ? MRM_SHARE_CONTENTS : 0;
        CHECK(mrm->account_open(round->pool, &options, &account) == MRM_OK);
        if (mrm->account_fund(round->pool, account, 4) == MRM_OK) promised = 4;
        if (draw(me, 4) == 0) CHECK(mrm->account_credits(round->pool, account, &shared, 1) == MRM_OK);
        for (i = 0; i < promised; i++) CHECK(mrm->account_take(round->pool, account, i % 2 ? MRM_ZEROED : 0, me->held + i) == MRM_OK);
        me->count = promised;
        if (mrm->account_take_many(round->pool, account, MRM_OVERDRAFT, me->held + me->count, 2) == MRM_OK) me->count += 2;
        if (mrm->account_take_run(round->pool, account, MRM_OVERDRAFT, 1, me->held + me->count) == MRM_OK) me->count++;
        for (i = 0; i < me->count; i++) {
            CHECK(round->owner[me->held[i]] == 0);
            round->owner[me->held[i]] = me->number;
            CHECK(mrm->account_of(round->pool, me->held[i], &owner) == MRM_OK && owner == account);
        }
        CHECK(mrm->account_stats(round->pool, account, &stats) == MRM_OK && stats.allocated >= me->count);
        if (give(me, me->count - draw(me, 2) * (me->count > 2), MRM_REUSE_NOW) < 0) return -1;
        while (me->count)
            if (give(me, 1, MRM_REUSE_NOW) < 0) return -1;
        CHECK(mrm->account_flush(round->pool, account, draw(me, 2), &flushed) == MRM_OK);
        mrm->account_transfer(round->pool, account, shared, draw(me, 3));
        mrm->account_transfer(round->pool, shared, account, draw(me, 3));
        mrm->fund_transfer(round->pool, 0, spare, draw(me, 2));
        mrm->fund_transfer(round->pool, spare, 0, draw(me, 2));
        CHECK(mrm->fund_stats(round->pool, spare, &funds) == MRM_OK);
        CHECK(funds.frames == funds.granted + funds.lent + funds.available);
        CHECK(mrm->account_reset_watermarks(round->pool, account) == MRM_OK);
        CHECK(mrm->account_limit(round->pool, account, round->layout.frame_count) == MRM_OK);
        CHECK(mrm->account_close(round->pool, account) == MRM_OK);
    }
    return 0;
}

/* ---- zeros, and batches that pay -------------------------------------------------- */

/* Takes frames as zeroed, itself and by a batch, while the stock comes, grows and goes; looks
 * at what they hold, and leaves something in them. The fake's frames hold nothing. */
static int race_zeros(racer_t *me) {
    round_t *round = me->round;
    char name[16];
    mrm_account_options options = {.size = sizeof options, .name = name};
    uint32_t account, frames[4], slots[4] = {0, 1, 2, 3}, step, i, n;
    snprintf(name, sizeof name, "zeros %u", me->number);
    CHECK(mrm->account_open(round->pool, &options, &account) == MRM_OK);
    for (step = 0; step < round->steps; step++) {
        mrm_reservation *own;
        mrm_batch *batch;
        int promised = mrm->account_fund(round->pool, account, 4) == MRM_OK;
        CHECK(mrm->pool_keep_zeroed(round->pool, draw(me, 4) ? 1 + draw(me, round->layout.frame_count) : 0) == MRM_OK);
        n = 1 + draw(me, 4);
        if (promised && draw(me, 2)) {
            CHECK(mrm->account_take_many(round->pool, account, MRM_ZEROED, frames, n) == MRM_OK);
        } else if (promised) {
            int kept = (int)draw(me, 2);
            CHECK(mrm->reservation_open(round->pool, 4, 0, &own) == MRM_OK);
            CHECK(mrm->batch_begin(own, &batch) == MRM_OK);
            CHECK(mrm->batch_map_from(batch, account, MRM_ZEROED, slots, n, MRM_PROT_READ_WRITE, frames) == MRM_OK);
            if (kept) CHECK(mrm->batch_commit(batch, NULL) == MRM_OK);
            mrm->batch_abort(batch);
            CHECK(mrm->reservation_close(own) == MRM_OK);
            if (!kept) n = 0;
        } else {
            n = 0;
        }
        for (i = 0; i < n; i++) {
            CHECK(round->owner[frames[i]] == 0);
            round->owner[frames[i]] = me->number;
            if (!round->on_fake) {
                uint64_t *at = mrm_address(&round->layout, 0, frames[i]), last = round->layout.frame_size / 8 - 1;
                CHECK(at[0] == 0 && at[last] == 0);
                at[0] = at[last] = me->number;
            }
        }
        for (i = 0; i < n; i++) me->held[i] = frames[i];
        me->count = n;
        while (me->count)
            if (give(me, 1, draw(me, 4) ? MRM_REUSE_NOW : MRM_REUSE_AFTER_RETIRE) < 0) return -1;
        if (draw(me, 3) == 0) CHECK(mrm->account_flush(round->pool, account, 0, NULL) == MRM_OK);
        if (promised) {
            CHECK(mrm->pool_retire(round->pool, NULL) == MRM_OK);
            mrm->account_fund(round->pool, account, -4); /* refused while another's retire has some of ours in hand */
        }
    }
    return 0;
}

/* ---- the balloon, and broken memory ------------------------------------------------ */

/* Takes the memory of some free frames away and fetches it again, while others take and give; and
 * puts frames of a pool of its own into quarantine, which is for good. */
static int race_balloon(racer_t *me) {
    round_t *round = me->round;
    uint32_t few = round->layout.frame_count / 16 + 1, step, done, more;
    for (step = 0; step < round->steps; step++) {
        int status = mrm->pool_inflate(round->pool, 1 + draw(me, few), draw(me, 4) ? MRM_NO_RETIRE : 0, &done);
        CHECK(status == MRM_OK || status == MRM_OUT_OF_FRAMES);
        for (; done; done -= more) {
            status = mrm->pool_deflate(round->pool, 1 + draw(me, done), &more);
            CHECK(status == MRM_OK || status == MRM_UNFUNDED); /* another may have fetched ours */
            if (status == MRM_UNFUNDED) break;
        }
        if (draw(me, 8) == 0) {
            mrm_pool_options options = {.size = sizeof options, .bytes = 4 << 20, .huge = "off", .views = 4};
            mrm_stats stats = {.size = sizeof stats};
            mrm_pool *pool;
            uint32_t frames[2];
            size_t n = 2;
            if (round->on_fake) options.huge = "require";
            CHECK(mrm->pool_open(&options, &pool) == MRM_OK);
            CHECK(mrm->pool_scan(pool, frames, &n) == MRM_OK && n == 0);
            CHECK(mrm->quarantine(pool, 1) == MRM_OK);
            CHECK(mrm->pool_stats(pool, &stats) == MRM_OK && stats.poisoned == 1);
            mrm->pool_release(pool);
        }
    }
    return 0;
}

/* ---- views and pools ----------------------------------------------------------- */

static int race_views(racer_t *me) {
    round_t *round = me->round;
    for (uint32_t step = 0; step < round->steps; step++) {
        mrm_view *view;
        CHECK(mrm->view_open(round->pool, &view) == MRM_OK);
        note(me, mrm->view_address(view, 1));
        if (draw(me, 2)) CHECK(mrm->view_retire(view) == MRM_OK);
        CHECK(mrm->view_close(view) == MRM_OK);
    }
    return 0;
}

/* Opening takes the GIL for a moment, but not for what readers of addresses may see. */
static int race_pools(racer_t *me) {
    for (uint32_t step = 0; step < me->round->steps; step++) {
        mrm_pool_options options = {.size = sizeof options, .bytes = 4 << 20, .huge = "off", .views = 4};
        mrm_pool *pool;
        mrm_layout layout;
        mrm_view *view;
        uint32_t frame;
        if (me->round->on_fake) options.huge = "require";
        CHECK(mrm->pool_open(&options, &pool) == MRM_OK);
        CHECK(mrm->pool_layout(pool, &layout) == MRM_OK);
        note(me, mrm_address(&layout, 0, 1));
        CHECK(mrm->take(pool, &frame) == MRM_OK);
        CHECK(mrm->view_open(pool, &view) == MRM_OK);
        if (draw(me, 2)) mrm->pool_release(pool), pool = NULL; /* the view's user ends it */
        CHECK(mrm->view_close(view) == MRM_OK);
        if (pool) mrm->pool_release(pool);
    }
    return 0;
}

/* ---- looking -------------------------------------------------------------------- */

/* Asks of every address that something was at, and of slots and figures, until the
 * others are done. */
static int look(racer_t *me) {
    round_t *round = me->round;
    while (atomic_load_explicit(&round->working, memory_order_relaxed)) {
        mrm_stats stats = {.size = sizeof stats};
        mrm_slot slot;
        mrm_place place;
        char *address = atomic_load_explicit(&round->seen[draw(me, ADDRESSES)], memory_order_relaxed);
        mrm->classify(address, &place);
        mrm->classify(address + ((uint64_t)draw(me, 4) << round->layout.stride_shift), &place);
        mrm->classify(mrm_address(&round->layout, 0, 1), &place);
        CHECK(place.kind == MRM_PLACE_WINDOW && place.frame == 1);
        mrm->classify(mrm->reservation_address(round->shared, draw(me, SLOTS)), &place);
        CHECK(place.kind == MRM_PLACE_RESERVATION);
        CHECK(mrm->reservation_slot(round->shared, draw(me, SLOTS), &slot) == MRM_OK);
        CHECK(mrm->pool_stats(round->pool, &stats) == MRM_OK && stats.frames == round->layout.frame_count);
    }
    return 0;
}

/* ---- a round ---------------------------------------------------------------------- */

static void *run(void *argument) {
    static int (*const kinds[])(racer_t *) = {race_frames, race_slots,    race_frames, race_slots,  race_views,
                                              race_pools,  race_accounts, race_zeros,  race_balloon};
    racer_t *me = argument;
    round_t *round = me->round;
    pthread_barrier_wait(&round->start);
    if (me->number > round->threads) {
        look(me);
    } else {
        kinds[(me->number - 1) % 9](me);
        atomic_fetch_sub_explicit(&round->working, 1, memory_order_relaxed);
    }
    return NULL;
}

static const char *finish(round_t *round, const char *found) {
    static char text[1024];
    mrm_stats stats = {.size = sizeof stats};
    if (found) return found;
    mrm->pool_on_shortage(round->pool, NULL, NULL);
    uint32_t back;
    mrm->pool_deflate(round->pool, UINT32_MAX, &back); /* until there is nothing left in it */
    if (mrm->reservation_close(round->shared) != MRM_OK || mrm->pool_retire(round->pool, NULL) != MRM_OK ||
        mrm->pool_audit(round->pool, &stats) != MRM_OK)
        return mrm->failure()->text;
    if (stats.ready == stats.frames && !stats.pending && !stats.views_open && !stats.reservations) return NULL;
    snprintf(text, sizeof text, "frames are lost: %llu of %llu are ready", (unsigned long long)stats.ready,
             (unsigned long long)stats.frames);
    return text;
}

/* Races `threads` threads of every kind and two that look, on a pool; NULL, or what went
 * wrong. What ThreadSanitizer finds it reports by itself. */
const char *race(uint64_t table, uint64_t pool_object, int threads, int steps, int on_fake) {
    static round_t round;
    static racer_t racers[64];
    pthread_t running[64];
    const char *found = NULL;
    mrm_account_options shared = {.size = sizeof shared, .name = "shared"};
    uint32_t i;
    memset(&round, 0, sizeof round);
    memset(racers, 0, sizeof racers);
    if (mrm_attach(table) < 0) return "the table is of another version";
    if (threads < 1 || threads + 2 > 64 || SLOTS / threads < 2) return "too many threads";
    round.pool = mrm->pool_from_object((void *)(uintptr_t)pool_object);
    if (!round.pool || mrm->pool_layout(round.pool, &round.layout) != MRM_OK) return mrm->failure()->text;
    if (mrm->reservation_open(round.pool, SLOTS, 0, &round.shared) != MRM_OK) return mrm->failure()->text;
    if (mrm->account_open(round.pool, &shared, &i) != MRM_OK || mrm->account_fund(round.pool, i, 4) != MRM_OK)
        return mrm->failure()->text;
    round.owner = calloc(round.layout.frame_count, sizeof *round.owner);
    round.threads = (uint32_t)threads;
    round.steps = (uint32_t)steps;
    round.on_fake = on_fake;
    round.working = threads;
    pthread_barrier_init(&round.start, NULL, (unsigned)threads + 2);
    for (i = 0; i < (uint32_t)threads + 2; i++) {
        racers[i].round = &round;
        racers[i].number = i + 1;
        racers[i].random = (uint64_t)i * 2 + 1;
        if (pthread_create(&running[i], NULL, run, &racers[i]) != 0) abort();
    }
    for (i = 0; i < (uint32_t)threads + 2; i++) pthread_join(running[i], NULL);
    for (i = 0; i < (uint32_t)threads + 2 && !found; i++) found = racers[i].wrong[0] ? racers[i].wrong : NULL;
    found = finish(&round, found);
    mrm->pool_release(round.pool);
    pthread_barrier_destroy(&round.start);
    free(round.owner);
    return found;
}
