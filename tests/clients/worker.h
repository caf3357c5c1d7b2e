/* What both clients do, so that a test can call either from several threads at once. */
#include <stdint.h>

/* Wait until `of` threads are inside, which only happens if none of them holds the GIL:
 * 0, or -1 after ten seconds. Every caller passes the same `of`. */
int meet(int of);

/* Work on a pool without the GIL, as one of `of` threads: NULL, or what went wrong. */
const char *work(uint64_t table, uint64_t pool_object, int of, int rounds);
