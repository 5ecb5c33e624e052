/* Rows in whole numbers, for products with weights in 8 bits. On CPUs that multiply bytes (AVX-512
   VNNI) groups of inputs in 8 bits, elsewhere rows in up to 16. */
#ifndef BATCHGEN_CPU_LEVELS_H
#define BATCHGEN_CPU_LEVELS_H

#include "linear.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define INT8_GROUPS 1
#define GROUP 32 /* inputs that share a scale and a zero: value = scale * code + zero */

INLINE int64_t num_groups(int64_t inputs) { return (inputs + GROUP - 1) / GROUP; }

/* Of a row, in 16 bits: its codes, then a scale for each group, then the zeros. */
INLINE int64_t level_stride(int64_t inputs) {
    return num_groups(inputs) * (GROUP + 2 * (int64_t)sizeof(float)) / 2;
}

/* The largest of x, and of the values of y. */
INLINE void both_tops(__m512 x, __m512 y, float *of_x, float *of_y) {
    __m512 a = _mm512_shuffle_f32x4(x, y, 0x44), b = _mm512_shuffle_f32x4(x, y, 0xee);
    a = _mm512_max_ps(a, b);
    a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0xb1));
    a = _mm512_max_ps(a, _mm512_permute_ps(a, 0x4e));
    a = _mm512_max_ps(a, _mm512_permute_ps(a, 0xb1));
    *of_x = _mm512_cvtss_f32(a);
    *of_y = _mm_cvtss_f32(_mm512_extractf32x4_ps(a, 2));
}

/* Row `row` of x [.., size]; a group with a NaN or an infinity gets NaN as its scale. */
INLINE void level_row(const void *x, int16_t *levels, float *unused, int64_t row, int64_t size,
                      const int bf16) {
    const __m512 none = _mm512_setzero_ps();
    const int odd = 0x99; /* NaN and infinities */
    int64_t groups = num_groups(size);
    uint8_t *codes = (uint8_t *)(levels + row * level_stride(size));
    float *scales = (float *)(codes + groups * GROUP), *zeros = scales + groups;
    for (int64_t g = 0, i = row * size, left = size; g < groups; g++, i += GROUP, left -= GROUP) {
        __m512 a = (__m512)load_n(x, i, left, bf16), b = none;
        if (left > LANES) b = (__m512)load_n(x, i + LANES, left - LANES, bf16);
        float most, least;
        both_tops(_mm512_max_ps(_mm512_max_ps(a, b), none),
                  _mm512_sub_ps(none, _mm512_min_ps(_mm512_min_ps(a, b), none)), &most, &least);
        float scale = (most + least) / 255.0f, inverse = scale > 1e-30f ? 1.0f / scale : 0.0f;
        __m512i zero = _mm512_cvtps_epi32(_mm512_set1_ps(least * inverse));
        __m512 factor = _mm512_set1_ps(inverse);
        __m512i low = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(a, factor)), zero);
        __m512i high = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(b, factor)), zero);
        _mm_storeu_si128((__m128i *)(codes + g * GROUP), _mm512_cvtusepi32_epi8(low));
        _mm_storeu_si128((__m128i *)(codes + g * GROUP + LANES), _mm512_cvtusepi32_epi8(high));
        if (_mm512_fpclass_ps_mask(a, odd) | _mm512_fpclass_ps_mask(b, odd)) scale = NAN;
        scales[g] = scale;
        zeros[g] = -scale * (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(zero));
    }
}
#else
#define INT8_GROUPS 0

/* Levels of a row: whole numbers whose products with 8 bits never leave 32, in pairs. */
INLINE int64_t level_stride(int64_t num_inputs) { return (num_inputs + 1) / 2 * 2; }

INLINE float level_limit(int64_t num_inputs) {
    int64_t most = INT32_MAX / 127 / level_stride(num_inputs);
    return most < INT16_MAX ? (float)most : (float)INT16_MAX;
}

/* Row `row` of x [.., size] as levels; a row with a NaN gets NaN as its scale. */
INLINE void level_row(const void *x, int16_t *levels, float *scale, int64_t row, int64_t size,
                      const int bf16) {
    int64_t from = row * size, to = row * level_stride(size);
    float limit = level_limit(size), top = 0.0f;
    vf most = splat(0.0f), odd = splat(0.0f);
    for (int64_t i = 0; i < size; i += LANES) {
        vf value = load_n(x, from + i, size - i, bf16);
        most = vmax(vmax(value, -value), most);
        odd += value * 0.0f; /* NaN where one is, or an infinity */
    }
    for (int c = 0; c < LANES; c++) top = most[c] > top ? most[c] : top;
    float inverse = top > 1e-30f ? limit / top : 0.0f, spoilt = 0.0f;
    for (int c = 0; c < LANES; c++) spoilt += odd[c];
    scale[row] = (inverse > 0.0f ? top / limit : 0.0f) + spoilt;
    for (int64_t i = 0; i < size; i += LANES) {
        int64_t left = size - i;
        vf value = load_n(x, from + i, left, bf16);
        vi near = (vi)vfma(value, splat(inverse), splat(12582912.0f)) - 0x4b400000;
        if (left >= LANES)
            *(vh_any *)(levels + to + i) = __builtin_convertvector(near, vh);
        else
            for (int64_t c = 0; c < left; c++) levels[to + i + c] = (int16_t)near[c];
    }
    if (size % 2) levels[to + size] = 0;
}
#endif

#endif
