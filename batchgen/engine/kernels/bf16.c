/* Linear layers in bfloat16 on CPUs that do not multiply it (those that do: amx.c, gemm.c): weights
   packed once into panels of PANEL outputs, widened to float32 on the way into the registers. A
   chunk of a panel is widened once for all rows of a block, a chunk of the rows once for GROUP panels.
   Every output is one sum in float32 over the inputs in their order, whatever the number of rows. */
#include "linear.h"

#if !BF16_PAIRS
#define ROWS FLOAT_ROWS
#define WIDE FLOAT_WIDE
#define PANEL (WIDE * LANES)
#define GROUP 4      /* panels that take one widened chunk of rows */
#define ROW_BLOCK 96 /* rows that are widened together */
#define CHUNK 192    /* inputs: a widened chunk of rows or of a panel stays in the caches */
#define LINE 64

EXPORT int64_t bf16_panel(void) { return PANEL; }

/* Inputs are to be a multiple of it. */
EXPORT int64_t bf16_step(void) { return 1; }

/* weight [num_outputs, num_inputs] into panels; outputs past the last are zeros. */
EXPORT void bf16_pack(const uint16_t *weight, uint16_t *packed, int64_t num_outputs,
                      int64_t num_inputs, int64_t threads) {
#pragma omp parallel for num_threads((int)threads)
    for (int64_t o = 0; o < num_outputs; o += PANEL)
        pack_panel(weight, packed, o, num_outputs, num_inputs, PANEL, sizeof(uint16_t));
}

/* acc[r] += x[r] . panel, a panel in float32 or (narrow) bfloat16. */
INLINE void multiply(const float *x, const void *panel, int64_t num_inputs, vf acc[ROWS][WIDE],
                     const int rows, const int narrow) {
    for (int64_t i = 0; i < num_inputs; i++) {
        vf weight[WIDE];
        for (int c = 0; c < WIDE; c++) weight[c] = load(panel, i * PANEL + c * LANES, narrow);
        for (int r = 0; r < rows; r++) {
            vf value = splat(x[r * CHUNK + i]);
            for (int c = 0; c < WIDE; c++) acc[r][c] = vfma(value, weight[c], acc[r][c]);
        }
    }
}

ONCE void write_out(const Linear *A, const float *sums, int64_t row, int64_t first, int64_t rows) {
    int64_t count = A->num_outputs - first < PANEL ? A->num_outputs - first : PANEL;
    for (int64_t r = 0; r < rows; r++, sums += PANEL) {
        int64_t at = (row + r) * A->out_stride + first;
        for (int64_t o = 0; o < count; o++) {
            float value = sums[o];
            if (A->weight.bias) value += A->weight.bias[first + o];
            if (A->residual) value += load1(A->residual, at + o, 1);
            store1(A->out, at + o, value, 1);
        }
    }
}

/* One chunk of one panel, inputs [from, from + count), against the widened rows x. `sums` [rows,
   PANEL] holds what earlier chunks gave. */
INLINE void chunk_rows(const Linear *A, int64_t p, int64_t from, int64_t count, const float *x,
                       int64_t row, int64_t end, const void *panel, float *sums,
                       const int narrow) {
    while (row < end) {
        int64_t height = end - row < ROWS ? end - row : ROWS;
        vf acc[ROWS][WIDE];
#define TILE_OF(R)                                                                              \
        for (int r = 0; r < R; r++)                                                             \
            for (int c = 0; c < WIDE; c++)                                                      \
                acc[r][c] = from ? load(sums, r * PANEL + c * LANES, 0) : splat(0.0f);          \
        multiply(x, panel, count, acc, R, narrow);                                              \
        for (int r = 0; r < R; r++)                                                             \
            for (int c = 0; c < WIDE; c++) store(sums, r * PANEL + c * LANES, acc[r][c], 0)
        EACH_HEIGHT(height, TILE_OF)
        if (from + count == A->num_inputs) write_out(A, sums, row, p * PANEL, height);
        row += height;
        x += height * CHUNK;
        sums += height * PANEL;
    }
}

INLINE void widen(const uint16_t *from, float *to, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(to, i, load(from, i, 1), 0);
    for (; i < count; i++) to[i] = bf16_to_float(from[i]);
}

/* Panels [p, last) against rows [row, end). */
static void group_rows(const Linear *A, int64_t p, int64_t last, int64_t row, int64_t end) {
    float x[ROW_BLOCK * CHUNK] __attribute__((aligned(LINE)));
    float wide[CHUNK * PANEL] __attribute__((aligned(LINE)));
    float sums[GROUP][ROW_BLOCK * PANEL] __attribute__((aligned(LINE)));
    const uint16_t *rows = (const uint16_t *)A->x;
    for (int64_t from = 0; from < A->num_inputs; from += CHUNK) {
        int64_t left = A->num_inputs - from, count = left < CHUNK ? left : CHUNK;
        for (int64_t r = row; r < end; r++)
            widen(rows + r * A->x_stride + from, x + (r - row) * CHUNK, count);
        for (int64_t i = p; i < last; i++) {
            const uint16_t *panel = (const uint16_t *)A->weight.data + (i * A->num_inputs + from) * PANEL;
            if (end - row > ROWS) {
                widen(panel, wide, count * PANEL);
                chunk_rows(A, i, from, count, x, row, end, wide, sums[i - p], 0);
            } else {
                chunk_rows(A, i, from, count, x, row, end, panel, sums[i - p], 1);
            }
        }
    }
}

void bf16_share(const Linear *A) {
    int64_t panels = (A->num_outputs + PANEL - 1) / PANEL, groups = (panels + GROUP - 1) / GROUP;
    int64_t blocks = (A->num_rows + ROW_BLOCK - 1) / ROW_BLOCK;
    int64_t share = groups / (A->threads * 8) + 1;
#pragma omp for collapse(2) schedule(dynamic, share)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t end = (b + 1) * ROW_BLOCK, last = (g + 1) * GROUP;
            group_rows(A, g * GROUP, last < panels ? last : panels, b * ROW_BLOCK,
                       end < A->num_rows ? end : A->num_rows);
        }
}
#endif
