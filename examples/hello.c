/* The same as hello.py from C: a page moves to a new address. No GIL, nothing to link.
 *
 *     $ cc -shared -fPIC -I $(python -c "import mrm; print(mrm.get_include())") hello.c -o hello.so
 *     $ python -c "import ctypes, mrm; ctypes.CDLL('./hello.so').hello(ctypes.c_uint64(mrm.api_address()))"
 */
#include <mrm/mrm.h>
#include <stdio.h>
#include <string.h>

int hello(uint64_t table) {
    mrm_pool_options options = {.size = sizeof options, .bytes = 64 << 20};
    mrm_pool *pool;
    mrm_view *old, *new;
    uint32_t frame;
    if (mrm_attach(table) < 0) return puts("another version of mrm"), 1;
    if (mrm->pool_open(&options, &pool) < 0) return puts(mrm->failure()->text), 1;
    mrm->take(pool, &frame);                            /* nanoseconds, no system call */
    mrm->view_open(pool, &old);
    mrm->view_open(pool, &new);
    strcpy(mrm->view_address(old, frame), "hello");
    mrm->view_close(old);                               /* one invalidation */
    printf("%s at %p\n", (char *)mrm->view_address(new, frame), mrm->view_address(new, frame));
    mrm->view_close(new);
    mrm->give(pool, frame, MRM_REUSE_NOW);
    mrm->pool_release(pool);
    return 0;
}
