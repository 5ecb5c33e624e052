/* A linear layer by itself, and the small operators between them, each in one pass over its rows. */
#include <math.h>

#include "linear.h"

#define PARALLEL_SIZE 65536 /* values below which a second thread costs more than it gives */

INLINE int team(int64_t size, int64_t threads) { return size < PARALLEL_SIZE ? 1 : (int)threads; }

/* out = x weight^T + bias, `packed` by the kernel of that kind: of float32 or bfloat16. */
EXPORT void packed_linear(const void *x, const void *packed, const float *bias, void *out,
                          int64_t num_rows, int64_t num_inputs, int64_t num_outputs,
                          int64_t x_stride, int64_t out_stride, int64_t kind, int64_t threads) {
    const Linear layer = {x, 0, {packed, 0, bias, kind}, 0, out, num_rows, num_inputs,
                          num_outputs, x_stride, out_stride, threads, kind != FLOAT32};
#pragma omp parallel num_threads((int)threads)
    linear_share(&layer);
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

/* out [rows, size] = silu(x[:, :size]) * x[:, size:] for x [rows, 2 * size], row stride given. */
EXPORT void silu_mul(const void *x, void *out, int64_t rows, int64_t size, int64_t stride,
                     int64_t bf16, int64_t threads) {
#pragma omp parallel for num_threads(team(rows * size, threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) IN_PRECISION(silu_row(x, out, r, stride, size, bf16))
}

/* x [tokens, heads, size] by strides -> out [tokens, heads, size]; cos, sin [tokens, size]. */
EXPORT void rope(const void *x, const void *cos, const void *sin, void *out, int64_t tokens,
                 int64_t heads, int64_t size, int64_t token_stride, int64_t head_stride,
                 int64_t angle_stride, int64_t bf16, int64_t threads) {
#pragma omp parallel for num_threads(team(tokens * heads * size, threads)) schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++) {
            int64_t from = t * token_stride + h * head_stride, to = (t * heads + h) * size;
            IN_PRECISION(rope_head(x, cos, sin, out, from, t * angle_stride, to, size / 2, bf16))
        }
}
