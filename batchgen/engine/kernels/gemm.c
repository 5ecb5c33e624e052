/* Linear layers in float32 for a few to a few hundred rows: the weights are packed once into
   panels of PANEL outputs, each panel is read once from memory, rows come from the cache. A panel
   is taken in chunks of inputs that stay in a cache while all rows pass (of few rows the first, of
   many the second), and the next chunk is fetched meanwhile, evenly, so that memory and arithmetic
   overlap.
   Every output is one sum over the inputs in their order, whatever the number of rows.
   In bfloat16, on CPUs that multiply it, the same with a pair of inputs where one was. */
#include "linear.h"

#define ROWS FLOAT_ROWS
#define WIDE FLOAT_WIDE
#define PANEL (WIDE * LANES)
#define LINE 64
#define ROW_BLOCK 256 /* rows kept in the second-level cache while a panel passes, at most */
#define MANY_ROWS 24  /* from here on arithmetic hides memory: fewer, longer chunks */
#define FEW_CHUNK (3072 / PANEL)   /* inputs: 12 KiB of weights */
#define MANY_CHUNK (36864 / PANEL) /* inputs: 144 KiB */
#define FETCH_EVERY 4 /* inputs between two bursts of prefetches */

EXPORT int64_t gemm_panel(void) { return PANEL; }

/* weight [num_outputs, num_inputs] into panels; outputs past the last are zeros. */
EXPORT void gemm_pack(const float *weight, float *packed, int64_t num_outputs, int64_t num_inputs,
                      int64_t threads) {
#pragma omp parallel for num_threads((int)threads)
    for (int64_t o = 0; o < num_outputs; o += PANEL)
        pack_panel(weight, packed, o, num_outputs, num_inputs, PANEL, sizeof(float));
}

INLINE vf add_product(vf a, vf b, vf c, const int pairs) {
    return pairs && BF16_PAIRS ? add_pairs(a, b, c) : vfma(a, b, c);
}

/* acc[r] += x[r] . panel; meanwhile `burst` lines are fetched every FETCH_EVERY inputs. */
INLINE void multiply(const float *x, int64_t stride, const float *panel, int64_t num_inputs,
                     const char *next, int64_t burst, vf acc[ROWS][WIDE], const int rows,
                     const int pairs) {
    for (int64_t i = 0; i < num_inputs; i++) {
        vf weight[WIDE];
        if (i % FETCH_EVERY == 0)
            for (int64_t l = 0; l < burst; l++, next += LINE) __builtin_prefetch(next, 0, 2);
        for (int c = 0; c < WIDE; c++) weight[c] = load(panel, i * PANEL + c * LANES, 0);
        for (int r = 0; r < rows; r++) {
            vf value = splat(x[r * stride + i]);
            for (int c = 0; c < WIDE; c++) acc[r][c] = add_product(value, weight[c], acc[r][c], pairs);
        }
    }
}

/* The sums so far; zeros where there are none. */
INLINE void begin_sums(vf acc[ROWS][WIDE], const float *sums, const int rows) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++)
            acc[r][c] = sums ? load(sums, r * PANEL + c * LANES, 0) : splat(0.0f);
}

INLINE void keep_sums(vf acc[ROWS][WIDE], float *sums, const int rows) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++) store(sums, r * PANEL + c * LANES, acc[r][c], 0);
}

ONCE void write_out(const Linear *A, const float *sums, int64_t row, int64_t first, int64_t rows,
                    int bf16) {
    int64_t count = A->num_outputs - first < PANEL ? A->num_outputs - first : PANEL;
    for (int64_t r = 0; r < rows; r++, sums += PANEL) {
        int64_t at = (row + r) * A->out_stride + first;
        for (int64_t o = 0; o < count; o += LANES) {
            int64_t left = count - o;
            vf value = load(sums, o, 0);
            if (A->weight.bias) value += load_n(A->weight.bias, first + o, left, 0);
            if (A->residual) value += load_n(A->residual, at + o, left, bf16);
            store_n(A->out, at + o, value, left, bf16);
        }
    }
}

/* The sums of a whole panel are complete: straight from the registers. */
INLINE void finish(const Linear *A, vf acc[ROWS][WIDE], int64_t row, int64_t first,
                   const int rows, const int bf16) {
    const float *bias = A->weight.bias;
    const void *residual = A->residual;
    void *out = A->out;
    int64_t at = row * A->out_stride + first, stride = A->out_stride;
    for (int r = 0; r < rows; r++, at += stride)
        for (int c = 0; c < WIDE; c++) {
            vf value = acc[r][c];
            if (bias) value += load(bias, first + c * LANES, 0);
            if (residual) value += load(residual, at + c * LANES, bf16);
            store(out, at + c * LANES, value, bf16);
        }
}

/* One chunk of a panel, inputs (or pairs of them) [from, from + count) of `inputs`, against rows
   [row, end) in tiles of near-equal height. `sums` [end - row, PANEL] holds what earlier chunks
   gave. */
INLINE void chunk_rows(const Linear *A, int64_t p, int64_t from, int64_t count, int64_t inputs,
                       int64_t row, int64_t end, float *sums, const int pairs) {
    int64_t stride = pairs ? A->x_stride / 2 : A->x_stride;
    const float *chunk = (const float *)A->weight.data + (p * inputs + from) * PANEL;
    const char *next = (const char *)(chunk + count * PANEL);
    const char *fetched = next + count * PANEL * (int64_t)sizeof(float);
    int64_t tiles = (end - row + ROWS - 1) / ROWS;
    int64_t burst = (FETCH_EVERY * PANEL * 4 / LINE + tiles - 1) / tiles;
    int64_t bursts = (count + FETCH_EVERY - 1) / FETCH_EVERY;
    int last = from + count == inputs, whole = (p + 1) * PANEL <= A->num_outputs;
    for (int64_t t = 0; t < tiles; t++) {
        int64_t height = (end - row + (tiles - t) - 1) / (tiles - t);
        const float *x = (const float *)A->x + row * stride + from;
        vf acc[ROWS][WIDE];
        if (last) fetch_out(A, row, height, p * PANEL, PANEL, pairs);
#define TILE_OF(R)                                                                             \
        begin_sums(acc, from ? sums : 0, R);                                                   \
        multiply(x, stride, chunk, count, next, next < fetched ? burst : 0, acc, R, pairs);    \
        if (last && whole) finish(A, acc, row, p * PANEL, R, pairs);                           \
        else keep_sums(acc, sums, R)
        EACH_HEIGHT(height, TILE_OF)
        if (last && !whole) write_out(A, sums, row, p * PANEL, height, pairs);
        row += height;
        sums += height * PANEL;
        next += bursts * burst * LINE;
    }
}

INLINE void panel_rows(const Linear *A, int64_t p, int64_t row, int64_t end, const int pairs) {
    float sums[ROW_BLOCK * PANEL] __attribute__((aligned(LINE)));
    int64_t step = end - row < MANY_ROWS ? FEW_CHUNK : MANY_CHUNK;
    int64_t inputs = pairs ? A->num_inputs / 2 : A->num_inputs;
    for (int64_t from = 0; from < inputs; from += step) {
        int64_t left = inputs - from;
        chunk_rows(A, p, from, left < step ? left : step, inputs, row, end, sums, pairs);
    }
}

INLINE void share(const Linear *A, const int pairs) {
    int64_t panels = (A->num_outputs + PANEL - 1) / PANEL;
    int64_t height = block_rows(A->num_rows, ROW_BLOCK, ROWS);
    int64_t blocks = (A->num_rows + height - 1) / height;
    int64_t each = panels / (A->threads * 8) + 1;
#pragma omp for collapse(2) schedule(dynamic, each)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t p = 0; p < panels; p++) {
            int64_t end = (b + 1) * height;
            panel_rows(A, p, b * height, end < A->num_rows ? end : A->num_rows, pairs);
        }
}

void gemm_share(const Linear *A) { share(A, 0); }

#if BF16_PAIRS
EXPORT int64_t bf16_panel(void) { return PANEL; }
EXPORT int64_t bf16_step(void) { return 2; }

/* An even number of inputs: see `pack_panel`, a pair of them is one number. */
EXPORT void bf16_pack(const uint16_t *weight, uint16_t *packed, int64_t num_outputs,
                      int64_t num_inputs, int64_t threads) {
#pragma omp parallel for num_threads((int)threads)
    for (int64_t o = 0; o < num_outputs; o += PANEL)
        pack_panel(weight, packed, o, num_outputs, num_inputs / 2, PANEL, 2 * sizeof(uint16_t));
}

void bf16_share(const Linear *A) { share(A, 1); }
#endif
