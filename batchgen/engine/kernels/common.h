/* Vectors and conversions shared by the CPU kernels. Plain C with GCC's vector extensions, so the
   same source compiles for AVX-512, AVX2, NEON or nothing at all; threads come from the OpenMP
   runtime that PyTorch has loaded. */
#ifndef BATCHGEN_CPU_COMMON_H
#define BATCHGEN_CPU_COMMON_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* A vector is one register, never more: GCC keeps accumulators of wider types in memory. Caches and
   tables are laid out in sixteens, of which LANES is a divisor. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

/* A value that is to be in a register here: left alone, GCC moves loads of a loop to its beginning
   until accumulators find no register, and adds to them in memory. */
#if defined(__AVX512F__)
#define HOLD(X) __asm__ volatile("" : "+v"(X))
#elif defined(__x86_64__)
#define HOLD(X) __asm__ volatile("" : "+x"(X))
#elif defined(__aarch64__)
#define HOLD(X) __asm__ volatile("" : "+w"(X))
#else
#define HOLD(X)
#endif

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));
typedef float vf_any __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

INLINE vf splat(float x) {
#if LANES == 16
    return (vf){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif LANES == 8
    return (vf){x, x, x, x, x, x, x, x};
#else
    return (vf){x, x, x, x};
#endif
}

/* a * b + c in one rounding, where the CPU has that. Left to itself (-ffp-contract=fast), GCC joins
   products and sums in one copy of a loop and not in another: then a row's bits depend on how many
   rows are beside it. */
INLINE vf vfma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE vf vselect(vi mask, vf yes, vf no) {
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

/* a > b ? a : b of each lane, so b where one is NaN: what x86's instruction answers. */
INLINE vf vmax(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return vselect(a > b, a, b);
#endif
}

/* Of a vector without NaN. */
INLINE float largest(vf x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float most = x[0];
    for (int c = 1; c < LANES; c++) most = x[c] > most ? x[c] : most;
    return most;
#endif
}

INLINE float bf16_to_float(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

/* Whether pairs of bfloat16 are multiplied as they are. */
#if defined(__AVX512BF16__)
#define BF16_PAIRS 1

/* c + a . b, of pairs. */
INLINE vf add_pairs(vf a, vf b, vf c) {
    return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}
#else
#define BF16_PAIRS 0
INLINE vf add_pairs(vf a, vf b, vf c) { return c; }
#endif

/* Round to nearest even, NaN stays NaN. */
INLINE uint16_t float_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

/* LANES values of a float32 (bf16 = 0) or bfloat16 (bf16 = 1) array from index i. */
INLINE vf load(const void *p, int64_t i, int bf16) {
    if (!bf16) return *(const vf_any *)((const float *)p + i);
    return (vf)(__builtin_convertvector(*(const vh_any *)((const uint16_t *)p + i), vu) << 16);
}

INLINE void store(void *p, int64_t i, vf x, int bf16) {
    if (!bf16) {
        *(vf_any *)((float *)p + i) = x;
        return;
    }
#if defined(__AVX512BF16__)
    *(vh_any *)((uint16_t *)p + i) = (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    vu bits = (vu)x;
    vu round = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    vu quiet = (bits >> 16) | 0x40u;
    vi nan = (vi)((bits & 0x7fffffffu) > 0x7f800000u);
    vu out = (vu)(((vi)quiet & nan) | ((vi)round & ~nan));
    *(vh_any *)((uint16_t *)p + i) = __builtin_convertvector(out, vh);
#endif
}

INLINE float load1(const void *p, int64_t i, int bf16) {
    return bf16 ? bf16_to_float(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

INLINE void store1(void *p, int64_t i, float x, int bf16) {
    if (bf16)
        ((uint16_t *)p)[i] = float_to_bf16(x);
    else
        ((float *)p)[i] = x;
}

/* x, or nought where `of` is below `least`. */
INLINE vf none_below(vf x, vf of, float least) {
#if defined(__AVX512F__)
    __mmask16 some = _mm512_cmp_ps_mask((__m512)of, _mm512_set1_ps(least), _CMP_NLT_UQ);
    return (vf)_mm512_maskz_mov_ps(some, (__m512)x);
#else
    return vselect(of < splat(least), splat(0.0f), x);
#endif
}

/* e^x of x up to 88.7, by 2^n * poly(r); below -87.3 it is 0, NaN stays NaN. To 2 ulp (Cephes'
   expf), or `rough`: to 2^-13, where what comes of it is rounded to bfloat16. */
INLINE vf vexp_to_88(vf x, const int rough) {
    vf shifted = vfma(x, splat(1.44269504088896341f), splat(12582912.0f));
    vf n = shifted - splat(12582912.0f), r, y;
    if (rough) {
        r = vfma(n, splat(-0.69314718056f), x);
        y = vfma(r, splat(0.16675f), splat(0.504f));
    } else {
        r = vfma(n, splat(2.12194440e-4f), vfma(n, splat(-0.693359375f), x));
        y = splat(1.9875691500e-4f);
        y = vfma(y, r, splat(1.3981999507e-3f));
        y = vfma(y, r, splat(8.3334519073e-3f));
        y = vfma(y, r, splat(4.1665795894e-2f));
        y = vfma(y, r, splat(1.6666665459e-1f));
        y = vfma(y, r, splat(5.0000001201e-1f));
    }
    y = vfma(vfma(y, r, splat(1.0f)), r, splat(1.0f));
    vi power = ((vi)shifted << 23) + 0x3f800000;
    return none_below(y * (vf)power, x, -87.3f);
}

/* e^x of any x; above 88.7 it is that of 88.7. */
INLINE vf vexp(vf x) { return vexp_to_88(-vmax(splat(-88.7f), -x), 0); }

#endif
