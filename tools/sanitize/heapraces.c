/* Threads that race on a heap through the table of mrm.h, for ThreadSanitizer to watch.
 *
 * Each writes to the blocks that it allocates, and swaps them with what others left in a table of
 * places, by an atomic exchange; whoever gets a block reads all that was written, writes to it
 * and frees it, or makes it larger. None of these accesses is atomic: that a block's memory
 * passes from one owner to the next in order is the heap's own promise, by its lists of what
 * other threads freed. Every so many steps a thread ends, and another one begins, so that its
 * pages are adopted. races.c says how the sanitizer looks on.
 */
#include <mrm/mrm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { PLACES = 256, GENERATIONS = 4 };

typedef struct block_t {
    size_t nbytes;
    unsigned char fill;
    unsigned char bytes[];
} block_t;

typedef struct world_t {
    mrm_heap *heap;
    uint32_t steps;
    _Atomic(block_t *) place[PLACES];
} world_t;

typedef struct racer_t {
    world_t *world;
    uint64_t random;
    char wrong[1024];           /* what did not hold; empty if all did */
} racer_t;

static uint32_t draw(racer_t *me, uint32_t n) {
    me->random = me->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((me->random >> 33) * n >> 31);
}

static void wrong(racer_t *me, const char *what) {
    if (!me->wrong[0]) snprintf(me->wrong, sizeof me->wrong, "%s (%s)", what, mrm->failure()->text);
}

/* Mostly small; some of several pages, and now and then one that is a run of slots. */
static size_t some_size(racer_t *me) {
    uint32_t kind = draw(me, 100);
    uint32_t most = kind < 70 ? 500 : kind < 95 ? 20000 : kind < 99 ? 300000 : 3 << 20;
    return sizeof(block_t) + draw(me, most);
}

static void fill(racer_t *me, block_t *block, size_t nbytes) {
    block->nbytes = nbytes;
    block->fill = (unsigned char)draw(me, 256);
    memset(block->bytes, block->fill, nbytes - sizeof *block);
}

static void look(racer_t *me, const block_t *block, size_t nbytes) {
    for (size_t i = 0; i < nbytes - sizeof *block; i++)
        if (block->bytes[i] != block->fill) return wrong(me, "a block was written to by somebody else");
}

static void step(racer_t *me) {
    world_t *world = me->world;
    size_t nbytes = some_size(me), had;
    uint32_t kind = draw(me, 16);
    block_t *block = kind == 0   ? mrm->heap_calloc(world->heap, 1, nbytes)
                     : kind == 1 ? mrm->heap_aligned(world->heap, 256, nbytes)
                                 : mrm->heap_malloc(world->heap, nbytes);
    block_t *other;
    if (!block) {
        if (mrm->failure()->status != MRM_OUT_OF_FRAMES) wrong(me, "malloc");
    } else {
        fill(me, block, nbytes);
    }
    other = atomic_exchange_explicit(&world->place[draw(me, PLACES)], block, memory_order_acq_rel);
    if (!other) return;
    had = other->nbytes;
    look(me, other, had);
    if (draw(me, 4) == 0) {
        nbytes = some_size(me);
        block = mrm->heap_realloc(world->heap, other, nbytes);
        if (block) {
            other = block;
            if (nbytes < had) had = nbytes;
            look(me, other, had);
            fill(me, other, nbytes);
        }
    }
    if (!mrm->heap_owns(world->heap, other) || mrm->heap_usable_size(world->heap, other) < had) wrong(me, "whose");
    if (draw(me, 2))
        mrm->heap_lua_alloc(world->heap, other, had, 0);
    else if (mrm->heap_free(world->heap, other) != MRM_OK)
        wrong(me, "free");
}

/* A heap that comes and goes while others are at work on theirs. One at a time: the next one may be mapped
 * where the last one was, and the kernel's order of the two is not known to the sanitizer, since mrm makes its
 * system calls by itself. */
static void open_another(racer_t *me) {
    static pthread_mutex_t alone = PTHREAD_MUTEX_INITIALIZER;
    mrm_heap_options options = {.size = sizeof options, .flags = MRM_HEAP_NO_DEBUG};
    mrm_heap *heap;
    pthread_mutex_lock(&alone);
    if (mrm->heap_open(NULL, &options, &heap) != MRM_OK)
        wrong(me, "open");
    else if (!mrm->heap_malloc(heap, some_size(me)) || mrm->heap_close(heap) != MRM_OK)
        wrong(me, "another heap");
    pthread_mutex_unlock(&alone);
}

static void *run(void *argument) {
    racer_t *me = argument;
    for (uint32_t i = 0; i < me->world->steps; i++) {
        step(me);
        if (draw(me, 500) == 0) mrm->heap_trim(me->world->heap);
        if (draw(me, 1000) == 0) open_another(me);
    }
    return NULL;
}

/* Races so many threads on a heap, a few times over; NULL, or what went wrong. */
const char *race(uint64_t table, uint64_t heap_object, int threads, int steps) {
    static world_t world;
    static racer_t racers[64];
    pthread_t running[64];
    mrm_heap_stats stats = {.size = sizeof stats};
    const char *found = NULL;
    int i, generation;
    memset(&world, 0, sizeof world);
    memset(racers, 0, sizeof racers);
    if (mrm_attach(table) < 0) return "the table is of another version";
    if (threads < 1 || threads > 64) return "too many threads";
    world.heap = mrm->heap_from_object((void *)(uintptr_t)heap_object);
    if (!world.heap) return mrm->failure()->text;
    world.steps = (uint32_t)steps;
    for (i = 0; i < threads; i++) racers[i] = (racer_t){.world = &world, .random = (uint64_t)i * 2 + 1};
    for (generation = 0; generation < GENERATIONS; generation++) {
        for (i = 0; i < threads; i++)
            if (pthread_create(&running[i], NULL, run, &racers[i]) != 0) return "no thread";
        for (i = 0; i < threads; i++) pthread_join(running[i], NULL);
    }
    for (i = 0; i < threads && !found; i++) found = racers[i].wrong[0] ? racers[i].wrong : NULL;
    for (i = 0; i < PLACES; i++) mrm->heap_free(world.heap, world.place[i]);
    mrm->heap_trim(world.heap);
    if (!found && (mrm->heap_stats(world.heap, &stats) != MRM_OK || stats.blocks || stats.large_blocks || stats.memory))
        found = "blocks are left, or memory";
    mrm->heap_close(world.heap);
    return found;
}
