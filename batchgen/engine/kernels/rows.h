/* The small operators on one row: norm, gated activation, rotary embedding. In place is fine for
   norms and rotations. */
#ifndef BATCHGEN_CPU_ROWS_H
#define BATCHGEN_CPU_ROWS_H

#include <math.h>

#include "common.h"

/* CALL as compiled for either precision, so that nothing within asks which one it is. */
#define IN_PRECISION(CALL)      \
    if (bf16) {                 \
        const int bf16 = 1;     \
        CALL;                   \
    } else {                    \
        const int bf16 = 0;     \
        CALL;                   \
    }

INLINE vf load_n(const void *p, int64_t i, int64_t left, int bf16) {
    if (left >= LANES) return load(p, i, bf16);
    vf x = splat(0.0f);
    for (int64_t c = 0; c < left; c++) x[c] = load1(p, i + c, bf16);
    return x;
}

INLINE void store_n(void *p, int64_t i, vf x, int64_t left, int bf16) {
    if (left >= LANES) {
        store(p, i, x, bf16);
        return;
    }
    for (int64_t c = 0; c < left; c++) store1(p, i + c, x[c], bf16);
}

/* To bfloat16 and back. */
INLINE vf rounded(vf x) {
    vu bits = (vu)x;
    vf near = (vf)((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
    return vselect(x == x, near, x);
}

INLINE void norm_row(const void *x, const float *weight, void *out, int64_t at, int64_t size,
                     float eps, int round_first, const int bf16) {
    vf squares = splat(0.0f);
    for (int64_t i = 0; i < size; i += LANES) {
        vf value = load_n(x, at + i, size - i, bf16);
        squares += value * value;
    }
    float sum = 0.0f;
    for (int c = 0; c < LANES; c++) sum += squares[c];
    float scale = 1.0f / sqrtf(sum / (float)size + eps);
    for (int64_t i = 0; i < size; i += LANES) {
        vf value = load_n(x, at + i, size - i, bf16) * scale;
        if (bf16 && round_first) value = rounded(value);
        store_n(out, at + i, value * load_n(weight, i, size - i, 0), size - i, bf16);
    }
}

INLINE vf silu_times(vf gate, vf up, const int bf16) {
    vf active = gate / (vexp(-gate) + 1.0f);
    return (bf16 ? rounded(active) : active) * up;
}

INLINE void silu_row(const void *x, void *out, int64_t row, int64_t stride, int64_t size,
                     const int bf16) {
    int64_t from = row * stride, to = row * size, i = 0;
    for (; i + LANES <= size; i += LANES) {
        vf gate = load(x, from + i, bf16), up = load(x, from + size + i, bf16);
        store(out, to + i, silu_times(gate, up, bf16), bf16);
    }
    if (i < size) {
        vf gate = load_n(x, from + i, size - i, bf16), up = load_n(x, from + size + i, size - i, bf16);
        store_n(out, to + i, silu_times(gate, up, bf16), size - i, bf16);
    }
}

/* Rotate halves of one head: out = x * cos + rotate_half(x) * sin; products rounded as PyTorch
   rounds them in bfloat16. */
INLINE void rope_head(const void *x, const void *cos, const void *sin, void *out, int64_t x_at,
                      int64_t angle, int64_t out_at, int64_t half, const int bf16) {
    for (int64_t i = 0; i < half; i += LANES) {
        int64_t left = half - i;
        vf a = load_n(x, x_at + i, left, bf16), b = load_n(x, x_at + half + i, left, bf16);
        vf low = a * load_n(cos, angle + i, left, bf16);
        vf low_turn = -b * load_n(sin, angle + i, left, bf16);
        vf high = b * load_n(cos, angle + half + i, left, bf16);
        vf high_turn = a * load_n(sin, angle + half + i, left, bf16);
        if (bf16) {
            low = rounded(low), low_turn = rounded(low_turn);
            high = rounded(high), high_turn = rounded(high_turn);
        }
        store_n(out, out_at + i, low + low_turn, left, bf16);
        store_n(out, out_at + half + i, high + high_turn, left, bf16);
    }
}

#endif
