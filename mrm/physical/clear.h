/* Clearing whole frames: with stores that go past the caches, so that what a mutator has in
 * them stays there. A frame is larger than most second-level caches: memset would wash
 * them out for bytes that nobody may read soon. */
#ifndef MRM_CLEAR_H
#define MRM_CLEAR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

/* p and nbytes are multiples of 64. */
static inline void mrm_clear(void *p, size_t nbytes) {
#if defined(__x86_64__)
    __m128i zero = _mm_setzero_si128();
    for (char *at = p, *end = at + nbytes; at < end; at += 64) {
        _mm_stream_si128((__m128i *)at, zero);
        _mm_stream_si128((__m128i *)(at + 16), zero);
        _mm_stream_si128((__m128i *)(at + 32), zero);
        _mm_stream_si128((__m128i *)(at + 48), zero);
    }
    _mm_sfence(); /* who is handed the frame by an ordinary store sees zeros */
#else
    memset(p, 0, nbytes); /* arm64's C library clears by DC ZVA, which does not read */
#endif
}

#endif
