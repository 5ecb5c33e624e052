/* Vectors of the products in 8 bits: GCC's, of 64 or 32 bytes. Two operations are written for
   x86 and NEON by hand; the same source compiles for nothing at all. */
#ifndef BATCHGEN_CPU_QUANT_LANES_H
#define BATCHGEN_CPU_QUANT_LANES_H

#include "quant.h"

#if defined(__AVX512BW__)
#define WIDTH 64
#else
#define WIDTH 32
#endif
#define TILE 4 /* rows: their sums of 16 bits fit the registers */
#if defined(__AVX2__) || defined(__AVX512BW__) || defined(__F16C__)
#include <immintrin.h>
#endif
#define HALVES (QLINE / WIDTH) /* registers for a line */
#define WORDS (WIDTH / 4)      /* outputs of a register */
#define UNROLL _Pragma("GCC unroll 8")

typedef int32_t wi __attribute__((vector_size(WIDTH)));
typedef float wf __attribute__((vector_size(WIDTH)));
typedef int16_t ws __attribute__((vector_size(WIDTH)));
typedef uint16_t wu __attribute__((vector_size(WIDTH)));
typedef wu wu_any __attribute__((aligned(1), may_alias));

INLINE wi splat_i(int32_t x) { return (wi){0} + x; }
INLINE wu line_at(const uint8_t *p, int h) { return *(const wu_any *)(p + h * WIDTH); }

/* Four bytes, in every lane. */
INLINE ws four(const void *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return (ws)splat_i(word);
}

/* Neighbouring bytes: unsigned w times signed x, added in pairs. Never above 16 bits here. */
INLINE ws mul_bytes(wu w, ws x) {
#if defined(__AVX512BW__)
    return (ws)_mm512_maddubs_epi16((__m512i)w, (__m512i)x);
#elif defined(__AVX2__)
    return (ws)_mm256_maddubs_epi16((__m256i)w, (__m256i)x);
#elif defined(__aarch64__)
    union { ws all; int8x16_t by[2]; int16x8_t sums[2]; } a = {(ws)w}, b = {x};
    for (int i = 0; i < 2; i++) { /* codes stay below 2^7: their sign is never set */
        int16x8_t low = vmull_s8(vget_low_s8(a.by[i]), vget_low_s8(b.by[i]));
        a.sums[i] = vpaddq_s16(low, vmull_high_s8(a.by[i], b.by[i]));
    }
    return a.all;
#else
    ws even = (ws)(w & 0xff) * (((ws)((wu)x << 8)) >> 8);
    return even + (ws)(w >> 8) * (x >> 8);
#endif
}

#if defined(__AVX512VNNI__)
#define BYTES_TO_WORDS 1 /* four products of bytes are added to a sum of 32 bits at once */
INLINE wi add_bytes(wi sum, wu w, ws x) {
    return (wi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
}
#else
#define BYTES_TO_WORDS 0
INLINE wi add_bytes(wi sum, wu w, ws x) { return sum; }
#endif

/* Neighbouring 16-bit numbers multiplied and added in pairs. */
INLINE wi mul_words(ws a, ws b) {
#if defined(__AVX512BW__)
    return (wi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (wi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__aarch64__)
    union { ws all; int16x8_t by[2]; int32x4_t sums[2]; wi out; } x = {a}, y = {b};
    for (int i = 0; i < 2; i++) {
        int32x4_t low = vmull_s16(vget_low_s16(x.by[i]), vget_low_s16(y.by[i]));
        x.sums[i] = vpaddq_s32(low, vmull_high_s16(x.by[i], y.by[i]));
    }
    return x.out;
#else
    wi low = (((wi)a << 16) >> 16) * (((wi)b << 16) >> 16);
    return low + ((wi)a >> 16) * ((wi)b >> 16);
#endif
}

INLINE wf halves_at(const uint8_t *p, int h) {
    p += h * WORDS * 2;
#if defined(__AVX512BW__)
    return (wf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__AVX2__) && defined(__F16C__)
    return (wf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    wf out;
    for (int c = 0; c < WORDS; c++) {
        uint16_t x;
        memcpy(&x, p + 2 * c, 2);
        out[c] = half_to_float(x);
    }
    return out;
#endif
}

INLINE wf to_float(wi x) { return __builtin_convertvector(x, wf); }

/* A byte an output, with its sign where it has one, a lane each. */
INLINE wi bytes_at(const uint8_t *p, int h, const int is_signed) {
    p += h * WORDS;
#if defined(__AVX512BW__)
    __m128i some = _mm_loadu_si128((const __m128i *)p);
    return (wi)(is_signed ? _mm512_cvtepi8_epi32(some) : _mm512_cvtepu8_epi32(some));
#elif defined(__AVX2__)
    __m128i some = _mm_loadl_epi64((const __m128i *)p);
    return (wi)(is_signed ? _mm256_cvtepi8_epi32(some) : _mm256_cvtepu8_epi32(some));
#else
    wi out;
    for (int c = 0; c < WORDS; c++) out[c] = is_signed ? (int8_t)p[c] : p[c];
    return out;
#endif
}

/* Two numbers of 16 bits a lane. */
INLINE ws pair(wi low, wi high) { return (ws)((low & 0xffff) | high << 16); }

INLINE wu shifted(wu x, const int right) { return right < 0 ? x << -right : x >> right; }

#endif
