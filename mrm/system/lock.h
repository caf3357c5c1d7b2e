/* A lock of one word, for the rare paths: taken uncontended it is one compare-and-swap.
 *
 * 0 is free, 1 held, 2 held with somebody asleep in futex(2). It spins briefly before
 * it sleeps, since most of what it guards takes less than a microsecond. After a fork
 * the child simply starts with it free (0): its sleepers did not come along.
 */
#ifndef MRM_LOCK_H
#define MRM_LOCK_H

#include "atomic.h"
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline void mrm_lock(uint32_t *lock) {
    uint32_t expected = 0;
    if (MRM_LIKELY(mrm_cas32(lock, &expected, 1))) return;
    for (int spins = 0; spins < 128; spins++) {
        expected = 0;
        if (mrm_load32(lock) == 0 && mrm_cas32(lock, &expected, 1)) return;
        mrm_pause();
    }
    while (mrm_swap32(lock, 2) != 0) syscall(SYS_futex, lock, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
}

static inline void mrm_unlock(uint32_t *lock) {
    if (mrm_swap32(lock, 0) == 2) syscall(SYS_futex, lock, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

#endif
