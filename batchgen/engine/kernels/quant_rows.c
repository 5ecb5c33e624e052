/* Rows of a layer's input in 8 bits. Narrow: a scale for 32 values, as ggml's Q8_0 and Q8_1 have it;
   wide: one for 256, as its Q8_K. A block with a NaN or an infinity gets NaN as its scale. */
#include <math.h>

#include "quant.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define TINY 1e-30f /* a scale whose reciprocal need not be finite: such values become nought */

INLINE void *take(char **at, int64_t size) {
    char *here = *at;
    *at = here + (size + 63) / 64 * 64;
    return here;
}

Rounded rounded_in(void *scratch, int64_t rows, int64_t inputs, int wide) {
    char *at = (char *)(((uintptr_t)scratch + 63) / 64 * 64);
    Rounded to = {.inputs = inputs};
    to.codes = take(&at, rows * inputs);
    to.scale = take(&at, rows * (inputs / (wide ? SUPER : SUB)) * 4);
    if (!wide) to.sum = take(&at, rows * (inputs / SUB) * 4);
    if (wide) to.by_half = take(&at, rows * (inputs / 16) * 2);
    if (wide) to.by_sub = take(&at, rows * (inputs / SUB) * 2);
    return to;
}

#if defined(__AVX2__)
/* Eight values from index i on. */
INLINE __m256 eight(const void *x, int64_t i, const int bf16) {
    if (!bf16) return _mm256_loadu_ps((const float *)x + i);
    __m128i bits = _mm_loadu_si128((const __m128i *)((const uint16_t *)x + i));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

INLINE int total(__m256i x) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

/* 32 codes from their values; the sums of the first and of the last 16. */
INLINE void round32(const void *x, int64_t at, float inverse, int8_t *codes, int sums[2],
                    const int bf16) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i whole[4];
    for (int i = 0; i < 4; i++)
        whole[i] = _mm256_cvtps_epi32(
            _mm256_mul_ps(eight(x, at + 8 * i, bf16), _mm256_set1_ps(inverse)));
    __m256i low = _mm256_packs_epi32(whole[0], whole[1]);
    __m256i all = _mm256_packs_epi16(low, _mm256_packs_epi32(whole[2], whole[3]));
    _mm256_storeu_si256((__m256i *)codes, _mm256_permutevar8x32_epi32(all, order));
    sums[0] = total(_mm256_add_epi32(whole[0], whole[1]));
    sums[1] = total(_mm256_add_epi32(whole[2], whole[3]));
}

/* The largest bits of `size` values without their signs, at least 32. */
INLINE int32_t largest_bits(const void *x, int64_t at, int64_t size, const int bf16) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    for (int64_t i = 0; i < size; i += 8) {
        __m256i bits = _mm256_castps_si256(eight(x, at + i, bf16));
        most = _mm256_max_epi32(most, _mm256_and_si256(bits, magnitude));
    }
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
#else
INLINE void round32(const void *x, int64_t at, float inverse, int8_t *codes, int sums[2],
                    const int bf16) {
    sums[0] = sums[1] = 0;
    for (int i = 0; i < SUB; i++) {
        float value = load1(x, at + i, bf16) * inverse;
        codes[i] = value == value ? (int8_t)(int32_t)rintf(value) : 0;
        sums[i / 16] += codes[i];
    }
}

INLINE int32_t largest_bits(const void *x, int64_t at, int64_t size, const int bf16) {
    int32_t top = 0;
    for (int64_t i = 0; i < size; i++) {
        float value = load1(x, at + i, bf16);
        int32_t bits;
        memcpy(&bits, &value, 4);
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    return top;
}
#endif

/* Without their signs floats are in the order of their bits; infinities and NaN are above all. */
INLINE float scale_of(const void *x, int64_t at, int64_t size, const int bf16) {
    int32_t top = largest_bits(x, at, size, bf16);
    float largest;
    if (top >= 0x7f800000) top = 0x7fc00000;
    memcpy(&largest, &top, 4);
    return largest / 127.0f;
}

INLINE void round_narrow(const void *x, const Rounded *to, int64_t row, int64_t at,
                         const int bf16) {
    int64_t blocks = to->inputs / SUB;
    for (int64_t b = 0; b < blocks; b++) {
        float scale = scale_of(x, at + b * SUB, SUB, bf16);
        float inverse = scale > TINY ? 1.0f / scale : 0.0f;
        int sums[2];
        round32(x, at + b * SUB, inverse, to->codes + row * to->inputs + b * SUB, sums, bf16);
        to->scale[row * blocks + b] = scale;
        to->sum[row * blocks + b] = scale * (float)(sums[0] + sums[1]);
    }
}

INLINE void round_wide(const void *x, const Rounded *to, int64_t row, int64_t at, const int bf16) {
    int64_t blocks = to->inputs / SUPER, first = row * to->inputs;
    for (int64_t b = 0; b < blocks; b++) {
        float scale = scale_of(x, at + b * SUPER, SUPER, bf16);
        float inverse = scale > TINY ? 1.0f / scale : 0.0f;
        for (int64_t i = b * SUPER; i < (b + 1) * SUPER; i += SUB) {
            int sums[2];
            round32(x, at + i, inverse, to->codes + first + i, sums, bf16);
            to->by_half[(first + i) / 16] = (int16_t)sums[0];
            to->by_half[(first + i) / 16 + 1] = (int16_t)sums[1];
            to->by_sub[(first + i) / SUB] = (int16_t)(sums[0] + sums[1]);
        }
        to->scale[row * blocks + b] = scale;
    }
}

/* One row, which begins at value `at` of x. */
void round_row(const void *x, const Rounded *to, int64_t row, int64_t at, int wide, int bf16) {
    if (wide && bf16)
        round_wide(x, to, row, at, 1);
    else if (wide)
        round_wide(x, to, row, at, 0);
    else if (bf16)
        round_narrow(x, to, row, at, 1);
    else
        round_narrow(x, to, row, at, 0);
}
