/* Small operators between the linear layers, each in one pass over its rows. */
#include <math.h>

#include "common.h"

#define PARALLEL_SIZE 65536 /* values below which a second thread costs more than it gives */

INLINE int team(int64_t size, int64_t threads) { return size < PARALLEL_SIZE ? 1 : (int)threads; }

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

/* out = x / sqrt(mean(x^2) + eps) * weight over rows of `size` values; `round_first`: round to the
   output's precision before multiplying by the weight. */
EXPORT void rms_norm(const void *x, const float *weight, void *out, int64_t rows, int64_t size,
                     double eps, int64_t round_first, int64_t bf16, int64_t threads) {
#pragma omp parallel for num_threads(team(rows * size, threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        if (bf16)
            norm_row(x, weight, out, r * size, size, (float)eps, (int)round_first, 1);
        else
            norm_row(x, weight, out, r * size, size, (float)eps, 0, 0);
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

/* out [rows, size] = silu(x[:, :size]) * x[:, size:] for x [rows, 2 * size], row stride given. */
EXPORT void silu_mul(const void *x, void *out, int64_t rows, int64_t size, int64_t stride,
                     int64_t bf16, int64_t threads) {
#pragma omp parallel for num_threads(team(rows * size, threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        if (bf16)
            silu_row(x, out, r, stride, size, 1);
        else
            silu_row(x, out, r, stride, size, 0);
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

/* x [tokens, heads, size] by strides -> out [tokens, heads, size]; cos, sin [tokens, size]. */
EXPORT void rope(const void *x, const void *cos, const void *sin, void *out, int64_t tokens,
                 int64_t heads, int64_t size, int64_t token_stride, int64_t head_stride,
                 int64_t angle_stride, int64_t bf16, int64_t threads) {
#pragma omp parallel for num_threads(team(tokens * heads * size, threads)) schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++) {
            int64_t from = t * token_stride + h * head_stride, to = (t * heads + h) * size;
            if (bf16)
                rope_head(x, cos, sin, out, from, t * angle_stride, to, size / 2, 1);
            else
                rope_head(x, cos, sin, out, from, t * angle_stride, to, size / 2, 0);
        }
}

INLINE void quantize_row(const void *x, int8_t *out, float *scale, int64_t row, int64_t size,
                         const int bf16) {
    vf most = splat(0.0f);
    for (int64_t i = 0; i < size; i += LANES) {
        vf value = load_n(x, row * size + i, size - i, bf16);
        most = vmax(vmax(value, -value), most);
    }
    float top = 0.0f;
    for (int c = 0; c < LANES; c++) top = most[c] > top ? most[c] : top;
    scale[row] = top / 127.0f;
    float inverse = top > 0.0f ? 127.0f / top : 0.0f;
    for (int64_t i = 0; i < size; i++) {
        float value = load1(x, row * size + i, bf16);
        if (value != value) scale[row] = value;
        out[row * size + i] = (int8_t)(int32_t)rintf(value * inverse);
    }
}

/* Rows of x in 8 bits, each with its own scale (its largest value is 127); a row with a NaN gets
   NaN as its scale. */
EXPORT void quantize_rows(const void *x, int8_t *out, float *scale, int64_t rows, int64_t size,
                          int64_t bf16, int64_t threads) {
#pragma omp parallel for num_threads(team(rows * size, threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        if (bf16)
            quantize_row(x, out, scale, r, size, 1);
        else
            quantize_row(x, out, scale, r, size, 0);
    }
}

/* x [rows, size] times its row's scale, in place. */
EXPORT void scale_rows(void *x, const float *scale, int64_t rows, int64_t size, int64_t bf16,
                       int64_t threads) {
#pragma omp parallel for num_threads(team(rows * size, threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < size; i += LANES) {
            int64_t left = size - i;
            if (bf16)
                store_n(x, r * size + i, load_n(x, r * size + i, left, 1) * scale[r], left, 1);
            else
                store_n(x, r * size + i, load_n(x, r * size + i, left, 0) * scale[r], left, 0);
        }
}
