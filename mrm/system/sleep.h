/* Sleeping until a word changes: the futex that lock.h is made of, for those who wait for
 * something other than a lock. Spurious wake-ups happen: look again. */
#ifndef MRM_SLEEP_H
#define MRM_SLEEP_H

#include "atomic.h"
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Sleep while *word is `seen`; at once back if it is not. */
static inline void mrm_sleep(uint32_t *word, uint32_t seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

/* Wake all who sleep on a word, which was changed before. */
static inline void mrm_wake(uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#endif
