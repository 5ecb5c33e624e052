/* Linear layers with weights in 8 bits on CPUs that multiply bytes (AVX-512 VNNI): twice the speed of
   pairs of 16 bits, see int8.c. Rows have 8 bits too, so that each GROUP of inputs has a scale and a
   zero of its own, from its least to its largest value: numbers on one side of nought, and the few
   large ones that a model has, cost half the levels otherwise. Where there are matrix tiles many rows
   go to them: see int8_tiles.h.
   Every output is one sum over the groups in their order, whatever the number of rows. */
#include "levels.h"

#if INT8_GROUPS
#define ROWS 4 /* times WIDE: sums of a group, and of all groups, in registers */
#define WIDE 3
#define PANEL (WIDE * LANES)
#define LINE 64
#define STEPS (GROUP / 4) /* of a group: four inputs in a lane */
#define CODES (GROUP * PANEL)
#define CHUNK 48 /* groups: 72 KiB of weights stay in the second-level cache while all rows pass */
#define ROW_BLOCK 256
#define BLOCK_TILE 16 /* rows: of a matrix tile too */
#define UNROLL _Pragma("GCC unroll 8")

/* A panel: the codes of each group [STEPS, PANEL, 4], then each group's sums of them [PANEL]. */
INLINE int64_t panel_bytes(int64_t inputs) {
    return (num_groups(inputs) * (CODES + PANEL * 2) + LINE - 1) / LINE * LINE;
}

INLINE int64_t code_at(int64_t input, int64_t output) {
    return input / GROUP * CODES + (input % GROUP / 4 * PANEL + output) * 4 + input % 4;
}

/* The sums of 16 outputs' codes. */
INLINE vf outputs_of(const int16_t *totals) {
    __m256i some = _mm256_loadu_si256((const __m256i *)totals);
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(some));
}

/* acc[r] += x[r] . weights over `count` of a row's groups. `scale`: of the first row and group. */
INLINE void multiply(const char *x, const float *scale, int64_t stride, int64_t groups,
                     const int8_t *codes, const int16_t *totals, int64_t count,
                     vf acc[ROWS][WIDE], const int rows) {
    for (int64_t g = 0; g < count; g++, codes += CODES, totals += PANEL, x += GROUP, scale++) {
        __m512i sum[ROWS][WIDE];
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < WIDE; c++) sum[r][c] = _mm512_setzero_si512();
        UNROLL for (int s = 0; s < STEPS; s++) {
            __m512i weight[WIDE];
            for (int c = 0; c < WIDE; c++) {
                weight[c] = _mm512_loadu_si512(codes + (s * PANEL + c * LANES) * 4);
                HOLD(weight[c]); /* else each product reads it again */
            }
            for (int r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, x + r * stride + 4 * s, 4);
                for (int c = 0; c < WIDE; c++)
                    sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], _mm512_set1_epi32(four), weight[c]);
            }
        }
        vf total[WIDE];
        for (int c = 0; c < WIDE; c++) total[c] = outputs_of(totals + c * LANES);
        for (int r = 0; r < rows; r++) {
            const float *of = (const float *)((const char *)scale + r * stride);
            vf each = splat(*of), zero = splat(of[groups]);
            for (int c = 0; c < WIDE; c++) {
                acc[r][c] = vfma((vf)_mm512_cvtepi32_ps(sum[r][c]), each, acc[r][c]);
                acc[r][c] = vfma(total[c], zero, acc[r][c]);
            }
        }
    }
}

/* The sums of a whole panel are complete: straight from the registers. */
INLINE void finish_as(const Linear *A, vf acc[ROWS][WIDE], int64_t row, int64_t first,
                      const int rows, const int bf16) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++) {
            int64_t output = first + c * LANES, at = (row + r) * A->out_stride + output;
            vf value = acc[r][c] * load(A->weight.scale, output, 0);
            if (A->weight.bias) value += load(A->weight.bias, output, 0);
            if (A->residual) value += load(A->residual, at, bf16);
            store(A->out, at, value, bf16);
        }
}

INLINE void finish(const Linear *A, vf acc[ROWS][WIDE], int64_t row, int64_t first,
                   const int rows) {
    if (A->bf16)
        finish_as(A, acc, row, first, rows, 1);
    else
        finish_as(A, acc, row, first, rows, 0);
}

/* The same of the last panel. */
ONCE void write_out(const Linear *A, const float *sums, int64_t row, int64_t first, int64_t rows) {
    int bf16 = (int)A->bf16;
    for (int64_t r = 0; r < rows; r++, sums += PANEL)
        for (int64_t o = 0; o < A->num_outputs - first; o++) {
            int64_t at = (row + r) * A->out_stride + first + o;
            float value = sums[o] * A->weight.scale[first + o];
            if (A->weight.bias) value += A->weight.bias[first + o];
            if (A->residual) value += load1(A->residual, at, bf16);
            store1(A->out, at, value, bf16);
        }
}

typedef struct {
    const Linear *A;
    const int8_t *panel;
    int64_t first, from, count; /* output; groups of the chunk */
} Chunk;

/* A chunk's part of the rows from one on: codes, scales (`groups` further on the zeros). */
typedef struct {
    const char *x;
    int64_t stride, groups; /* in bytes; of a whole row */
    const float *scale;
    const int8_t *codes;
    const int16_t *totals;
} Rows;

INLINE Rows rows_of(const Chunk *C, int64_t row) {
    int64_t groups = num_groups(C->A->num_inputs), stride = C->A->x_stride * 2;
    const char *x = (const char *)C->A->x + row * stride;
    const int16_t *totals = (const int16_t *)(C->panel + groups * CODES);
    return (Rows){x + C->from * GROUP, stride, groups,
                  (const float *)(x + groups * GROUP) + C->from, C->panel + C->from * CODES,
                  totals + C->from * PANEL};
}

INLINE void one_tile(const Chunk *C, int64_t row, float *sums, const int rows) {
    const Rows R = rows_of(C, row);
    int is_last = C->from + C->count == R.groups;
    vf acc[ROWS][WIDE];
    if (is_last) fetch_out(C->A, row, rows, C->first, PANEL, (int)C->A->bf16);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++)
            acc[r][c] = C->from ? load(sums, r * PANEL + c * LANES, 0) : splat(0.0f);
    multiply(R.x, R.scale, R.stride, R.groups, R.codes, R.totals, C->count, acc, rows);
    if (is_last && C->first + PANEL <= C->A->num_outputs) {
        finish(C->A, acc, row, C->first, rows);
        return;
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++) store(sums, r * PANEL + c * LANES, acc[r][c], 0);
    if (is_last) write_out(C->A, sums, row, C->first, rows);
}

INLINE void some_rows(const Chunk *C, int64_t row, int64_t height, float *sums) {
    switch (height) {
        case 1: one_tile(C, row, sums, 1); break;
        case 2: one_tile(C, row, sums, 2); break;
        case 3: one_tile(C, row, sums, 3); break;
        default: one_tile(C, row, sums, 4); break;
    }
}

#include "int8_tiles.h"

/* One chunk against rows [row, end): on tiles those of many rows, the others in near-equal heights;
   the chunk after it is fetched meanwhile. `sums` [end - row, PANEL] holds what earlier chunks gave.
   */
INLINE void chunk_rows(const Chunk *C, int64_t row, int64_t end, float *sums, int64_t *shape) {
    const char *next = (const char *)C->panel + (C->from + C->count) * CODES;
    int64_t begin = row, lines = C->count * CODES / LINE, fetched = 0, height, on_tiles;
    for (; row < end; row += height, sums += height * PANEL) {
        int64_t left = end - row, few = (left + ROWS - 1) / ROWS;
        on_tiles = tile_height(left);
        height = on_tiles ? on_tiles : (left + few - 1) / few;
        for (; fetched < lines * (row + height - begin) / (end - begin); fetched++)
            __builtin_prefetch(next + fetched * LINE, 0, 2);
        if (on_tiles)
            tile_rows(C, row, height, sums, shape);
        else
            some_rows(C, row, height, sums);
    }
}

void int8_share(const Linear *A) {
    int64_t panels = (A->num_outputs + PANEL - 1) / PANEL, groups = num_groups(A->num_inputs);
    int64_t height = block_rows(A->num_rows, ROW_BLOCK, BLOCK_TILE);
    int64_t blocks = (A->num_rows + height - 1) / height;
    int64_t share = panels / (A->threads * 8) + 1, shape = 0;
#pragma omp for collapse(2) schedule(dynamic, share)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t p = 0; p < panels; p++) {
            float sums[ROW_BLOCK * PANEL] __attribute__((aligned(LINE)));
            int64_t row = b * height, end = row + height;
            const int8_t *panel = (const int8_t *)A->weight.data + p * panel_bytes(A->num_inputs);
            for (int64_t from = 0; from < groups; from += CHUNK) {
                int64_t count = groups - from < CHUNK ? groups - from : CHUNK;
                const Chunk chunk = {A, panel, p * PANEL, from, count};
                chunk_rows(&chunk, row, end < A->num_rows ? end : A->num_rows, sums, &shape);
            }
        }
    if (shape) end_tiles();
}

EXPORT int64_t int8_panel(void) { return PANEL; }
EXPORT int64_t int8_panel_bytes(int64_t num_inputs) { return panel_bytes(num_inputs); }
EXPORT int64_t int8_group(void) { return GROUP; }

/* Whether tiles have many rows from here on, where amx_start() said 1. */
EXPORT void int8_use_tiles(int64_t wanted) { use_tiles(wanted); }

/* weight [num_outputs, num_inputs] into panels; outputs and inputs past the last are zeros. */
EXPORT void int8_pack(const int8_t *weight, int8_t *packed, int64_t num_outputs,
                      int64_t num_inputs, int64_t threads) {
    int64_t size = panel_bytes(num_inputs), groups = num_groups(num_inputs);
#pragma omp parallel for num_threads((int)threads)
    for (int64_t p = 0; p < (num_outputs + PANEL - 1) / PANEL; p++) {
        int8_t *panel = packed + p * size;
        int16_t *totals = (int16_t *)(panel + groups * CODES);
        memset(panel, 0, (size_t)size);
        for (int64_t o = 0; o < PANEL && p * PANEL + o < num_outputs; o++)
            for (int64_t i = 0; i < num_inputs; i++) {
                int8_t code = weight[(p * PANEL + o) * num_inputs + i];
                panel[code_at(i, o)] = code;
                totals[i / GROUP * PANEL + o] += code;
            }
    }
}

/* out [count, num_inputs] = the rows `ids` of the weight as it was packed. */
EXPORT void int8_rows(const int8_t *packed, const float *scale, const int64_t *ids, void *out,
                      int64_t count, int64_t num_inputs, int64_t bf16, int64_t threads) {
#pragma omp parallel for num_threads(count * num_inputs < 65536 ? 1 : (int)threads)
    for (int64_t r = 0; r < count; r++) {
        const int8_t *panel = packed + ids[r] / PANEL * panel_bytes(num_inputs);
        for (int64_t i = 0; i < num_inputs; i++)
            store1(out, r * num_inputs + i,
                   (float)panel[code_at(i, ids[r] % PANEL)] * scale[ids[r]], (int)bf16);
    }
}
#endif
