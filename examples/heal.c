/* A pointer that heals itself. The page that it points into moves to another view, the
 * old view is retired, and the first stale access traps. The SIGSEGV handler asks what
 * the address was, and gives the pointer its new one: a collector's load barrier that
 * costs nothing while nothing moves.
 *
 *     $ cc -shared -fPIC -I $(python -c "import mrm; print(mrm.get_include())") heal.c -o heal.so
 *     $ python -c "import ctypes, mrm; ctypes.CDLL('./heal.so').heal(ctypes.c_uint64(mrm.api_address()))"
 */
#define _GNU_SOURCE
#include <mrm/mrm.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>

static mrm_layout layout;
static volatile uint32_t current;           /* number of the view that is in use */
static sigjmp_buf retry;
static char *volatile healed;

static void on_trap(int signal_number, siginfo_t *info, void *context) {
    mrm_place place;
    (void)context;
    mrm->classify(info->si_addr, &place);
    if (place.kind != MRM_PLACE_VIEW || place.state != MRM_STATE_RETIRED || place.pool != layout.pool) {
        signal(signal_number, SIG_DFL);     /* none of ours: a crash, as it would be without us */
        return;
    }
    healed = (char *)mrm_address(&layout, current, place.frame) + place.offset;
    siglongjmp(retry, 1);
}

/* Read through a pointer that may be stale, and leave it healed. */
static char load(char **pointer) {
    if (sigsetjmp(retry, 1)) {
        printf("%p is stale: %p\n", (void *)*pointer, (void *)healed);
        *pointer = healed;
    }
    return *(volatile char *)*pointer;
}

int heal(uint64_t table) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, before;
    mrm_pool_options options = {.size = sizeof options, .bytes = 64 << 20};
    mrm_pool *pool;
    mrm_view *first, *second;
    uint32_t frame;
    if (mrm_attach(table) < 0) return puts("another version of mrm"), 1;
    if (mrm->pool_open(&options, &pool) < 0) return puts(mrm->failure()->text), 1;
    mrm->pool_layout(pool, &layout);
    mrm->take(pool, &frame);
    mrm->view_open(pool, &first);
    mrm->view_open(pool, &second);
    sigaction(SIGSEGV, &action, &before);

    char *pointer = (char *)mrm->view_address(first, frame) + 100;
    *pointer = 'x';
    current = mrm->view_number(first);
    char fresh = load(&pointer);
    current = mrm->view_number(second);     /* from now on, pages are at home here */
    mrm->view_retire(first);
    char stale = load(&pointer), again = load(&pointer);
    printf("read %c, %c through a trap, and %c without\n", fresh, stale, again);

    sigaction(SIGSEGV, &before, NULL);
    mrm->view_close(first);
    mrm->view_close(second);
    mrm->give(pool, frame, MRM_REUSE_NOW);
    mrm->pool_release(pool);
    return fresh == 'x' && stale == 'x' && again == 'x' ? 0 : 1;
}
