/* Bits that two threads change without a lock, and searches in masks.
 *
 * A thread that frees another's block sets the page's bit, then one in its owner's notice; an owner takes
 * the notice first, and then the bits. So what a notice stands for is seen by whoever sees the notice.
 */
#ifndef MRM_BITS_H
#define MRM_BITS_H

#include <stdint.h>

static inline uint64_t mrm_bits_or64(uint64_t *p, uint64_t bits) { return __atomic_fetch_or(p, bits, __ATOMIC_ACQ_REL); }
static inline uint64_t mrm_bits_swap64(uint64_t *p, uint64_t bits) { return __atomic_exchange_n(p, bits, __ATOMIC_ACQ_REL); }
static inline void *mrm_owner(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void mrm_set_owner(void **p, void *owner) { __atomic_store_n(p, owner, __ATOMIC_RELEASE); }
/* Owners change rarely, and who asks "is it me" cannot be wrong about that. */
static inline void *mrm_relaxed(void *const *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }

/* The lowest place of `n` set bits in a row, or -1. */
static inline int mrm_bits_run(uint64_t mask, unsigned n) {
    uint64_t run = mask;
    for (unsigned have = 1; run && have < n;) {
        unsigned step = have < n - have ? have : n - have;
        run &= run >> step;
        have += step;
    }
    return run ? __builtin_ctzll(run) : -1;
}

static inline int mrm_lowest64(uint64_t bits) { return __builtin_ctzll(bits); }
static inline int mrm_log2(uint64_t v) { return 63 - __builtin_clzll(v); }

#endif
