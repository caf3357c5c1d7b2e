/* Atomics, branch hints and the number of the processor: what Cython cannot say.
 *
 * Loads acquire, stores release, read-modify-writes do both: on x86-64 that is
 * what the plain instructions do anyway, and on arm64 it is what is meant.
 */
#ifndef MRM_ATOMIC_H
#define MRM_ATOMIC_H

#include <sched.h>
#include <stdint.h>
#include <unistd.h>

#define MRM_LIKELY(x) __builtin_expect(!!(x), 1)
#define MRM_UNLIKELY(x) __builtin_expect(!!(x), 0)

static inline uint8_t mrm_load8(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void mrm_store8(uint8_t *p, uint8_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

static inline uint16_t mrm_load16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void mrm_store16(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint16_t mrm_sub16(uint16_t *p, uint16_t v) { return __atomic_sub_fetch(p, v, __ATOMIC_ACQ_REL); }
static inline int mrm_cas16(uint16_t *p, uint16_t *expected, uint16_t v) {
    return __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline uint32_t mrm_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void mrm_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint32_t mrm_add32(uint32_t *p, uint32_t v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
static inline uint32_t mrm_sub32(uint32_t *p, uint32_t v) { return __atomic_sub_fetch(p, v, __ATOMIC_ACQ_REL); }
static inline uint32_t mrm_swap32(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
/* 1 when *p held *expected and now holds v; else 0, and *expected says what is there. */
static inline int mrm_cas32(uint32_t *p, uint32_t *expected, uint32_t v) {
    return __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline uint64_t mrm_load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void mrm_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t mrm_add64(uint64_t *p, uint64_t v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
static inline int mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v) {
    return __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline void *mrm_load_ptr(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void mrm_store_ptr(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* Orders what stands before against what stands after, loads included. */
static inline void mrm_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline void mrm_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* The processor that this thread runs on, as a hint: it may move at any time.
 * glibc >= 2.35 registers rseq for each thread, and its cpu_id is one load from
 * thread-local memory; before, sched_getcpu() is a vDSO call of some 20 ns. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));
static inline unsigned mrm_cpu(void) {
#if defined(__x86_64__) || defined(__aarch64__)
    if (&__rseq_size && __rseq_size) {
        int cpu = *(volatile int *)((char *)__builtin_thread_pointer() + __rseq_offset + 4);
        if (MRM_LIKELY(cpu >= 0)) return (unsigned)cpu;
    }
#endif
    int cpu = sched_getcpu();
    return cpu < 0 ? 0 : (unsigned)cpu;
}

/* How many numbers mrm_cpu() can give, as far as that can be known beforehand.
 *
 * glibc 2.36 and later tell the processors that are possible, those that may yet be plugged
 * in among them; but earlier ones tell those that are there, one that finds no /sys those
 * that are online, and musl those that this process may use: fewer than the numbers, which
 * have gaps then. Hence the second look, at the highest number allowed. */
static inline unsigned mrm_cpus(void) {
    unsigned long allowed[1024] = {0}; /* a bit each: 65,536 processors */
    const int bits = 8 * sizeof *allowed;
    long told = sysconf(_SC_NPROCESSORS_CONF);
    unsigned count = told < 1 ? 1 : (unsigned)told;
    if (sched_getaffinity(0, sizeof allowed, (cpu_set_t *)allowed) == 0)
        for (int i = 1024; i-- > 0;)
            if (allowed[i]) {
                unsigned above = (unsigned)((i + 1) * bits - __builtin_clzl(allowed[i]));
                return above > count ? above : count;
            }
    return count;
}

#endif
