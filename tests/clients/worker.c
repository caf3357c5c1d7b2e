/* A client in C, with the table from mrm.api_address(): cffi builds it in its API mode. */
#include "worker.h"

#include <mrm/mrm.h>
#include <stdio.h>

enum { SLOTS = 16, FRAMES = 8 };

static _Thread_local char said[1024];

/* What did not hold, and what mrm says of it. */
static const char *wrong(const char *what) {
    snprintf(said, sizeof said, "%s (%s)", what, mrm->failure()->text);
    return said;
}
#define CHECK(condition) do { if (!(condition)) return wrong(#condition); } while (0)

static const char *look_through_view(mrm_pool *pool, const mrm_layout *layout, const uint32_t *frames) {
    mrm_view *view;
    mrm_place place;
    CHECK(mrm->view_open(pool, &view) == MRM_OK);
    for (int i = 0; i < FRAMES; i++) {
        uint64_t *shown = mrm->view_address(view, frames[i]);
        CHECK(shown == mrm_address(layout, mrm->view_number(view), frames[i]));
        CHECK(mrm_frame_of(layout, shown) == frames[i] && mrm_view_of(layout, shown) == mrm->view_number(view));
        CHECK(*shown == frames[i] + 1000u);
        mrm->classify(shown + 1, &place);
        CHECK(place.kind == MRM_PLACE_VIEW && place.state == MRM_STATE_OPEN && place.pool == layout->pool);
        CHECK(place.frame == frames[i] && place.offset == 8 && place.protection == MRM_PROT_READ_WRITE);
    }
    CHECK(mrm->view_retire(view) == MRM_OK);
    CHECK(mrm->view_retire(view) == MRM_CLOSED);
    mrm->classify(mrm->view_address(view, 0), &place);
    CHECK(place.state == MRM_STATE_RETIRED);
    CHECK(mrm->view_close(view) == MRM_OK);
    return NULL;
}

static const char *move_in_batches(mrm_reservation *reservation, const uint32_t *frames) {
    static const uint32_t low[FRAMES] = {0, 1, 2, 3, 4, 5, 6, 7}, high[FRAMES] = {8, 9, 10, 11, 12, 13, 14, 15};
    mrm_batch *batch;
    mrm_report report;
    mrm_slot slot;
    mrm_place place;
    CHECK(mrm->batch_begin(reservation, &batch) == MRM_OK);
    CHECK(mrm->batch_map(batch, low, frames, FRAMES, MRM_PROT_READ_WRITE) == MRM_OK);
    CHECK(mrm->batch_commit(batch, &report) == MRM_OK && report.pages == FRAMES && report.shootdowns == 0);
    CHECK(mrm->batch_move(batch, low, high, FRAMES, MRM_DEFERRED) == MRM_OK);
    CHECK(mrm->batch_commit(batch, NULL) == MRM_OK);
    for (int i = 0; i < FRAMES; i++) {
        uint64_t *shown = mrm->reservation_address(reservation, high[i]);
        CHECK(*shown == frames[i] + 1000u);
        CHECK(mrm->reservation_slot(reservation, low[i], &slot) == MRM_OK && slot.state == MRM_SLOT_DEFERRED);
        mrm->classify(shown, &place);
        CHECK(place.kind == MRM_PLACE_RESERVATION && place.slot == high[i] && place.frame == frames[i]);
    }
    CHECK(mrm->reservation_retire(reservation, &report) == MRM_OK && report.pages == FRAMES);
    /* Nothing of a batch with a mistake happens, and it can be taken up again by abort. */
    CHECK(mrm->batch_unmap(batch, high, FRAMES, 0) == MRM_OK);
    CHECK(mrm->batch_unmap(batch, high, 1, 0) == MRM_OK);
    CHECK(mrm->batch_commit(batch, NULL) == MRM_BAD_SLOT && mrm->failure()->status == MRM_BAD_SLOT);
    mrm->batch_abort(batch);
    CHECK(mrm->reservation_slot(reservation, high[0], &slot) == MRM_OK && slot.state == MRM_SLOT_SHOWN);
    CHECK(mrm->batch_begin(reservation, &batch) == MRM_OK);
    CHECK(mrm->batch_unmap(batch, high, FRAMES, 0) == MRM_OK);
    CHECK(mrm->batch_commit(batch, NULL) == MRM_OK);
    mrm->batch_abort(batch);
    return NULL;
}

static const char *rounds_on(mrm_pool *pool, int rounds) {
    mrm_layout layout;
    mrm_reservation *reservation;
    const char *failed = NULL;
    uint32_t frames[FRAMES];
    CHECK(mrm->pool_layout(pool, &layout) == MRM_OK);
    CHECK(mrm->reservation_open(pool, SLOTS, 0, &reservation) == MRM_OK);
    while (!failed && rounds-- > 0) {
        CHECK(mrm->take_many(pool, frames, FRAMES - 1) == MRM_OK);
        CHECK(mrm->take(pool, &frames[FRAMES - 1]) == MRM_OK);
        for (int i = 0; i < FRAMES; i++) *(uint64_t *)mrm_address(&layout, 0, frames[i]) = frames[i] + 1000u;
        failed = look_through_view(pool, &layout, frames);
        if (!failed) failed = move_in_batches(reservation, frames);
        CHECK(mrm->give_many(pool, frames, FRAMES, MRM_REUSE_NOW) == MRM_OK);
    }
    CHECK(mrm->reservation_close(reservation) == MRM_OK);
    return failed;
}

const char *work(uint64_t table, uint64_t pool_object, int of, int rounds) {
    if (mrm_attach(table) < 0) return "the table is of another version";
    mrm_pool *pool = mrm->pool_from_object((void *)(uintptr_t)pool_object);
    if (!pool) return wrong("pool_from_object");
    const char *failed = meet(of) < 0 ? "the threads never met: somebody holds the GIL" : rounds_on(pool, rounds);
    mrm->pool_release(pool);
    return failed;
}

/* A pool of C's own, from opening to audit. */
const char *own_pool(uint64_t table) {
    mrm_pool_options options = {.size = sizeof options, .bytes = 16 << 20, .huge = "off", .name = "of C"};
    mrm_stats stats = {.size = sizeof stats};
    mrm_layout layout;
    mrm_pool *pool;
    uint32_t first;
    if (mrm_attach(table) < 0) return "the table is of another version";
    options.size = 0;
    CHECK(mrm->pool_open(&options, &pool) == MRM_BAD_ARGUMENT);
    options.size = sizeof options;
    CHECK(mrm->pool_open(&options, &pool) == MRM_OK);
    CHECK(mrm->pool_layout(pool, &layout) == MRM_OK && layout.frame_count == 8);
    CHECK(layout.backing == MRM_BACKING_SMALL && layout.pool > 0);
    CHECK(mrm->take_run(pool, 4, &first) == MRM_OK);
    CHECK(mrm->copy_frame(pool, first, first + 1) == MRM_OK && mrm->zero(pool, &first, 1) == MRM_OK);
    CHECK(mrm->take_run(pool, 8, &first) == MRM_OUT_OF_FRAMES);
    CHECK(mrm->pool_audit(pool, &stats) == MRM_OK && stats.held == 4 && stats.ready == 4);
    mrm->pool_release(pool);
    return NULL;
}
