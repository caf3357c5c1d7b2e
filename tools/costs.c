/* costs.c - what the kernel charges for the primitives that mrm plans with.
 *
 * mrm/space/plan.pyx chooses between ways of changing a reservation by constants. This
 * program measures them: one thread maps, moves and unmaps 2 MiB pages of a memfd while
 * another reads a GiB at random, so that every invalidation has somebody to interrupt.
 * Each line gives microseconds and TLB shootdowns (/proc/interrupts, all processors).
 *
 *     echo 1024 > /proc/sys/vm/nr_hugepages      # as root: 2 GiB
 *     gcc -O2 -o costs tools/costs.c -lpthread && ./costs
 *
 * No mremap here has a destination that holds a whole aligned GiB: on such a mapping,
 * which may share page tables, kernels wait for a lock that they hold themselves, for ever
 * (6.18: move_hugetlb_page_tables has i_mmap_rwsem, huge_pmd_share wants it).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define PAGE (2UL << 20)
#define GIB (1UL << 30)
#define PAGES 512
#define POPULATE_WRITE 23 /* MADV_POPULATE_WRITE */

static int frames;        /* the memfd: first GiB read by the mutator, second one moved about */
static char *heap, *here, *there;
static volatile int stop;

static void must(int ok, const char *what) {
    if (!ok) { fprintf(stderr, "costs: %s: %s\n", what, strerror(errno)); exit(1); }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

static long shootdowns(void) {
    FILE *file = fopen("/proc/interrupts", "r");
    char line[65536], *at, *end;
    long sum = 0;
    must(file != NULL, "/proc/interrupts");
    while (fgets(line, sizeof line, file)) {
        if (!(at = strstr(line, "TLB:"))) continue;
        for (at += 4;; at = end) {
            long count = strtol(at, &end, 10);
            if (end == at) break;
            sum += count;
        }
    }
    fclose(file);
    return sum;
}

/* Scattered: page i of the moved GiB, so that neighbours never merge into a run. */
static int scattered(int i) { return i * 37 % PAGES; }

static void map(char *at, int n, int frame, int protection, int populate) {
    must(mmap(at, n * PAGE, protection, MAP_SHARED | MAP_FIXED | MAP_NORESERVE | (populate ? MAP_POPULATE : 0), frames,
              GIB + frame * PAGE) != MAP_FAILED, "mmap");
}
static void seal(char *at, size_t n) {
    must(mmap(at, n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED,
         "seal");
}
static void map_all(int run) {
    for (int i = 0; i < PAGES; i += run) map(here + i * PAGE, run, run == 1 ? scattered(i) : PAGES - run - i, 3, 1);
}

static void *mutator(void *unused) {
    uint64_t x = 88172645463325252ULL, sum = 0;
    (void)unused;
    while (!stop) {
        x ^= x << 13; x ^= x >> 7; x ^= x << 17;
        sum += *(volatile uint64_t *)(heap + (x % GIB & ~7UL));
    }
    return (void *)sum;
}

/* Run `code` `rounds` times between `before` and `after`; print its cost per unit. */
#define COST(name, rounds, units, before, code, after)                                                        \
    do {                                                                                                      \
        double spent = 0;                                                                                     \
        long shot = 0;                                                                                        \
        for (int r = 0; r < (rounds); r++) {                                                                  \
            before;                                                                                           \
            long s = shootdowns();                                                                            \
            double t = now();                                                                                 \
            code;                                                                                             \
            spent += now() - t;                                                                               \
            shot += shootdowns() - s;                                                                         \
            after;                                                                                            \
        }                                                                                                     \
        printf("%-66s %8.2f us %7.3f shootdowns\n", name, spent / (rounds) / (units),                         \
               (double)shot / (rounds) / (units));                                                            \
    } while (0)

int main(void) {
    char name[80];
    pthread_t thread;
    frames = memfd_create("costs", MFD_CLOEXEC | MFD_HUGETLB | (21 << 26));
    must(frames >= 0 && ftruncate(frames, 2 * GIB) == 0 && fallocate(frames, 0, 0, 2 * GIB) == 0,
         "2 GiB of huge pages (echo 1024 > /proc/sys/vm/nr_hugepages)");
    char *range = mmap(NULL, 6 * GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(range != MAP_FAILED, "addresses");
    heap = (char *)(((uintptr_t)range + GIB - 1) & ~(GIB - 1));
    here = heap + GIB;
    there = heap + 3 * GIB;
    must(mmap(heap, GIB, 3, MAP_SHARED | MAP_FIXED | MAP_NORESERVE | MAP_POPULATE, frames, 0) != MAP_FAILED, "heap");
    pthread_create(&thread, NULL, mutator, NULL);
    usleep(20000);

    puts("showing 512 scattered pages where nothing was; cost a page");
    COST("  mmap with MAP_POPULATE, a page a call", 50, PAGES, , map_all(1), seal(here, PAGES));
    COST("  mmap without it", 50, PAGES, ,
         for (int i = 0; i < PAGES; i++) map(here + i * PAGE, 1, scattered(i), 3, 0), seal(here, PAGES));
    COST("  ... and one MADV_POPULATE_WRITE for all of them", 50, PAGES,
         for (int i = 0; i < PAGES; i++) map(here + i * PAGE, 1, scattered(i), 3, 0),
         must(madvise(here, GIB, POPULATE_WRITE) == 0, "populate"), seal(here, PAGES));
    COST("  ... and MADV_DONTFORK, MADV_DONTDUMP for all of them", 50, PAGES, map_all(1),
         { madvise(here, GIB, MADV_DONTFORK); madvise(here, GIB, MADV_DONTDUMP); }, seal(here, PAGES));
    for (int run = 8; run <= PAGES; run *= 8) {
        snprintf(name, sizeof name, "  mmap with MAP_POPULATE, runs of %d", run);
        COST(name, 50, PAGES, , map_all(run), seal(here, PAGES));
    }

    puts("taking 512 pages away");
    COST("  one seal over all of them; cost a page", 50, PAGES, map_all(1), seal(here, PAGES), );
    COST("  every other page, a seal each; cost a seal", 20, PAGES / 2, map_all(1),
         for (int i = 0; i < PAGES; i += 2) seal(here + i * PAGE, 1), seal(here, PAGES));
    COST("  the same after MADV_DONTNEED over all 512 mappings", 20, PAGES / 2, map_all(1),
         { madvise(here, GIB, MADV_DONTNEED); for (int i = 0; i < PAGES; i += 2) seal(here + i * PAGE, 1); },
         seal(here, PAGES));
    COST("  the same where all are one mapping", 20, PAGES / 2, map(here, PAGES - 1, 0, 3, 1),
         { madvise(here, GIB - PAGE, MADV_DONTNEED); for (int i = 0; i < PAGES - 1; i += 2) seal(here + i * PAGE, 1); },
         seal(here, PAGES));
    COST("  ... and MADV_POPULATE_WRITE of each survivor", 20, PAGES / 2 - 1,
         { map(here, PAGES - 1, 0, 3, 0); for (int i = 0; i < PAGES - 1; i += 2) seal(here + i * PAGE, 1); },
         for (int i = 1; i < PAGES - 1; i += 2) madvise(here + i * PAGE, PAGE, POPULATE_WRITE), seal(here, PAGES));

    puts("moving runs; cost a run");
    for (int run = 1; run <= 256; run *= 4) {
        snprintf(name, sizeof name, "  mremap of %d, and sealing the hole", run);
        COST(name, 10, PAGES / run, map_all(run), for (int i = 0; i < PAGES; i += run) {
            must(mremap(here + i * PAGE, run * PAGE, run * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, there + i * PAGE)
                     != MAP_FAILED, "mremap");
            seal(here + i * PAGE, run);
        }, seal(there, PAGES));
        snprintf(name, sizeof name, "  mapping %d again, and sealing the source", run);
        COST(name, 10, PAGES / run, map_all(run), for (int i = 0; i < PAGES; i += run) {
            map(there + i * PAGE, run, run == 1 ? scattered(i) : PAGES - run - i, 3, 1);
            seal(here + i * PAGE, run);
        }, seal(there, PAGES));
    }

    puts("protecting single pages; cost a page");
    COST("  mprotect", 10, PAGES, map_all(1),
         for (int i = 0; i < PAGES; i++) must(mprotect(here + i * PAGE, PAGE, PROT_READ) == 0, "mprotect"),
         seal(here, PAGES));
    COST("  mapping again with the other protection", 10, PAGES, map_all(1),
         for (int i = 0; i < PAGES; i++) map(here + i * PAGE, 1, scattered(i), PROT_READ, 1), seal(here, PAGES));
    stop = 1;
    pthread_join(thread, NULL);
    return 0;
}
