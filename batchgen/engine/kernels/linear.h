/* One linear layer of a step, and the kernels that compute a thread's share of it. Call them from
   every thread of a parallel region; they return when the whole layer is done. */
#ifndef BATCHGEN_CPU_LINEAR_H
#define BATCHGEN_CPU_LINEAR_H

#include "rows.h"

enum { FLOAT32 = 0, TILES = 1, INT8 = 2, BLOCKS = 3, BFLOAT16 = 4 }; /* which kernel packed a weight */

typedef struct {
    const void *data;   /* packed by its kernel; BLOCKS: a QuantWeight of quant.h */
    const float *scale; /* [num_outputs] of INT8, else null */
    const float *bias;  /* [num_outputs] or null */
    int64_t kind;
} Weight;

typedef struct {
    const void *x;        /* [num_rows, num_inputs], row stride x_stride; INT8: levels */
    const float *x_scale; /* of levels, see levels.h */
    Weight weight;
    const void *residual; /* added to the answer, laid out like it (may be it); or null */
    void *out;            /* [num_rows, num_outputs], row stride out_stride */
    int64_t num_rows, num_inputs, num_outputs, x_stride, out_stride, threads;
    int64_t bf16;         /* of the answer and what is added */
} Linear;

void gemm_share(const Linear *A); /* float32 */
void amx_share(const Linear *A);  /* bfloat16, where amx_start() said 1 */
void bf16_share(const Linear *A); /* bfloat16, on any CPU */
void int8_share(const Linear *A); /* where int8_panel() is not 0 */

INLINE void linear_share(const Linear *A) {
    if (A->weight.kind == INT8)
        int8_share(A);
    else if (A->weight.kind == TILES)
        amx_share(A);
    else if (A->weight.kind == BFLOAT16)
        bf16_share(A);
    else
        gemm_share(A);
}

/* The panel that begins at output `first` of a weight [num_outputs, num_inputs], as [num_inputs,
   width]: one output's numbers of `bytes` each lie `width` apart. Those past the last are zeros. */
INLINE void pack_panel(const void *weight, void *packed, int64_t first, int64_t num_outputs,
                       int64_t num_inputs, const int64_t width, const size_t bytes) {
    char *to = (char *)packed + first * num_inputs * bytes;
    for (int64_t i = 0; i < num_inputs; i++)
        for (int64_t o = first; o < first + width; o++, to += bytes)
            if (o < num_outputs)
                memcpy(to, (const char *)weight + (o * num_inputs + i) * bytes, bytes);
            else
                memset(to, 0, bytes);
}

/* Rows of near-equal blocks, whole tiles of `tile` rows, of at most `most` rows each. */
INLINE int64_t block_rows(int64_t rows, int64_t most, int64_t tile) {
    int64_t blocks = (rows + most - 1) / most, tiles = (rows + tile - 1) / tile;
    return rows ? (tiles + blocks - 1) / blocks * tile : tile;
}

/* Ask for the lines that a tile's answers go to, `width` from output `first` on: those of many rows
   lie in memory, and would hold up the tiles after it. */
INLINE void fetch_out(const Linear *A, int64_t row, int64_t rows, int64_t first, int64_t width,
                      const int bf16) {
    const int64_t size = bf16 ? 2 : 4;
    const char *to = (const char *)A->out + (row * A->out_stride + first) * size;
    for (int64_t r = 0; r < rows; r++, to += A->out_stride * size)
        for (int64_t at = 0; at < width * size; at += 64) __builtin_prefetch(to + at, 1);
}

/* For what ends a tile of any height: compilers take their time over each copy of it. */
#define ONCE static __attribute__((noinline))

/* ROWS * WIDE accumulators in float32, WIDE weights and one input fit the registers: 32, or AVX2's
   16. */
#if defined(__AVX512F__)
#define FLOAT_ROWS 8
#define FLOAT_WIDE 3
#elif defined(__aarch64__)
#define FLOAT_ROWS 6
#define FLOAT_WIDE 4
#else
#define FLOAT_ROWS 6
#define FLOAT_WIDE 2
#endif

#define EACH_HEIGHT(COUNT, CALL) \
    switch (COUNT) {                \
        case 1: CALL(1); break;     \
        case 2: CALL(2); break;     \
        case 3: CALL(3); break;     \
        case 4: CALL(4); break;     \
        case 5: CALL(5); break;     \
        case 6: CALL(6); break;     \
        case 7: CALL((ROWS < 7 ? ROWS : 7)); break; \
        default: CALL(ROWS); break; \
    }

#endif
