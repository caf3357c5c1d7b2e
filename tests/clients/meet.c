#include "worker.h"

#include <sched.h>
#include <time.h>

int meet(int of) {
    static int inside;
    const time_t end = time(NULL) + 10;
    const int mine = __atomic_fetch_add(&inside, 1, __ATOMIC_SEQ_CST);
    const int wanted = (mine / of + 1) * of;
    while (__atomic_load_n(&inside, __ATOMIC_SEQ_CST) < wanted) {
        if (time(NULL) > end) return -1;
        sched_yield();
    }
    return 0;
}
