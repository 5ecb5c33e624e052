/* Linear layers with weights in 8 bits (a scale for each output) and rows in up to 16 (a scale for
   each row): sums are exact in 32-bit integers, so an answer does not depend on the other rows.
   Multiplying pairs of 16 bits costs what pairs of 8 do without VNNI, at twice the speed of float32;
   rows lose nothing to speak of that way. Weights are widened once for all rows of a block.
   With AVX-512 VNNI: int8_vnni.c. */
#include "levels.h"

#if !INT8_GROUPS
#if defined(__AVX512BW__)
#define INTS 16
#define ROWS 8
#define WIDE 3
typedef __m512i vint;
#define LOAD(P) _mm512_loadu_si512(P)
#define STORE(P, X) _mm512_storeu_si512(P, X)
#define WIDEN(P) _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(P)))
#define SPLAT(X) _mm512_set1_epi32(X)
#define DOT(SUM, A, B) _mm512_add_epi32(SUM, _mm512_madd_epi16(A, B))
#elif defined(__AVX2__)
#define INTS 8
#define ROWS 6
#define WIDE 2
typedef __m256i vint;
#define LOAD(P) _mm256_loadu_si256((const __m256i *)(P))
#define STORE(P, X) _mm256_storeu_si256((__m256i *)(P), X)
#define WIDEN(P) _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(P)))
#define SPLAT(X) _mm256_set1_epi32(X)
#if defined(__AVXVNNI__)
#define DOT(SUM, A, B) _mm256_dpwssd_avx_epi32(SUM, A, B)
#else
#define DOT(SUM, A, B) _mm256_add_epi32(SUM, _mm256_madd_epi16(A, B))
#endif
#elif defined(__aarch64__)
#define INTS 4
#define ROWS 6
#define WIDE 2
typedef int32x4_t vint;
#define LOAD(P) vld1q_s32((const int32_t *)(P))
#define STORE(P, X) vst1q_s32((int32_t *)(P), X)
#define WIDEN(P) vreinterpretq_s32_s16(vmovl_s8(vld1_s8((const int8_t *)(P))))
#define SPLAT(X) vdupq_n_s32(X)
INLINE vint dot(vint sum, vint a, vint b) {
    int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
    return vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(x, y)));
}
#define DOT(SUM, A, B) dot(SUM, A, B)
#elif defined(__SSE2__)
#define INTS 4
#define ROWS 6
#define WIDE 2
typedef __m128i vint;
#define LOAD(P) _mm_loadu_si128((const __m128i *)(P))
#define STORE(P, X) _mm_storeu_si128((__m128i *)(P), X)
#define SPLAT(X) _mm_set1_epi32(X)
#define DOT(SUM, A, B) _mm_add_epi32(SUM, _mm_madd_epi16(A, B))
INLINE vint WIDEN(const int8_t *p) {
    vint some = _mm_loadl_epi64((const __m128i *)p);
    return _mm_srai_epi16(_mm_unpacklo_epi8(some, some), 8);
}
#endif

#if defined(INTS)
#define PANEL (WIDE * INTS)
#define LINE 64
#define CHUNK (4096 / PANEL) /* pairs of inputs: 16 KiB of widened weights */
#define ROW_BLOCK 240

typedef int32_t vi_any __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* acc[r] += x[r] . weights; `narrow`: they have 8 bits still. */
INLINE void multiply(const int16_t *x, int64_t stride, const void *weights, int64_t pairs,
                     vint acc[ROWS][WIDE], const int rows, const int narrow) {
    for (int64_t i = 0; i < pairs; i++) {
        vint weight[WIDE];
        for (int c = 0; c < WIDE; c++) {
            int64_t at = (i * PANEL + c * INTS) * 2;
            weight[c] = narrow ? WIDEN((const int8_t *)weights + at)
                               : LOAD((const int16_t *)weights + at);
        }
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, x + r * stride + 2 * i, sizeof pair);
            vint value = SPLAT(pair);
            HOLD(value);
            for (int c = 0; c < WIDE; c++) acc[r][c] = DOT(acc[r][c], value, weight[c]);
            for (int c = 0; c < WIDE; c++) HOLD(acc[r][c]);
        }
    }
}

INLINE void write_row(const Linear *A, const int32_t *sums, int64_t row, int64_t first,
                      const int bf16) {
    int64_t count = A->num_outputs - first < PANEL ? A->num_outputs - first : PANEL;
    int64_t at = row * A->out_stride + first;
    for (int64_t o = 0; o < count; o += LANES) {
        int64_t left = count - o;
        vf value = __builtin_convertvector(*(const vi_any *)(sums + o), vf) * A->x_scale[row];
        value *= load_n(A->weight.scale, first + o, left, 0);
        if (A->weight.bias) value += load_n(A->weight.bias, first + o, left, 0);
        if (A->residual) value += load_n(A->residual, at + o, left, bf16);
        store_n(A->out, at + o, value, left, bf16);
    }
}

ONCE void write_out(const Linear *A, const int32_t *sums, int64_t row, int64_t first,
                    int64_t rows) {
    for (int64_t r = 0; r < rows; r++)
        if (A->bf16)
            write_row(A, sums + r * PANEL, row + r, first, 1);
        else
            write_row(A, sums + r * PANEL, row + r, first, 0);
}

INLINE void one_tile(const Linear *A, const void *weights, int64_t p, int64_t from, int64_t count,
                     int64_t row, int32_t *sums, const int rows, const int narrow) {
    vint acc[ROWS][WIDE];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++)
            acc[r][c] = from ? LOAD(sums + r * PANEL + c * INTS) : SPLAT(0);
    const int16_t *x = (const int16_t *)A->x + row * A->x_stride + 2 * from;
    multiply(x, A->x_stride, weights, count, acc, rows, narrow);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++) STORE(sums + r * PANEL + c * INTS, acc[r][c]);
    if (from + count == A->x_stride / 2) write_out(A, sums, row, p * PANEL, rows);
}

/* One chunk of a panel against rows [row, end) in tiles of near-equal height; the chunk after it is
   fetched meanwhile. `sums` [end - row, PANEL] holds what earlier chunks gave. */
INLINE void chunk_rows(const Linear *A, int64_t p, int64_t from, int64_t count, int64_t row,
                       int64_t end, int32_t *sums) {
    const int8_t *narrow = (const int8_t *)A->weight.data;
    narrow += (p * (A->x_stride / 2) + from) * PANEL * 2;
    const char *next = (const char *)narrow + count * PANEL * 2;
    int64_t tiles = (end - row + ROWS - 1) / ROWS, lines = count * PANEL * 2 / LINE;
    int16_t wide[CHUNK * PANEL * 2] __attribute__((aligned(LINE)));
    for (int64_t i = 0; tiles > 1 && i < count * WIDE; i++)
        STORE(wide + i * INTS * 2, WIDEN(narrow + i * INTS * 2));
    for (int64_t t = 0; t < tiles; t++) {
        int64_t height = (end - row + (tiles - t) - 1) / (tiles - t);
        for (int64_t l = lines * t / tiles; l < lines * (t + 1) / tiles; l++)
            __builtin_prefetch(next + l * LINE, 0, 2);
#define TILE_OF(R)                                                            \
        if (tiles > 1) one_tile(A, wide, p, from, count, row, sums, R, 0);    \
        else one_tile(A, narrow, p, from, count, row, sums, R, 1)
        EACH_HEIGHT(height, TILE_OF)
        row += height;
        sums += height * PANEL;
    }
}

void int8_share(const Linear *A) {
    int64_t panels = (A->num_outputs + PANEL - 1) / PANEL, pairs = A->x_stride / 2;
    int64_t blocks = (A->num_rows + ROW_BLOCK - 1) / ROW_BLOCK;
    int64_t share = panels / (A->threads * 8) + 1;
#pragma omp for collapse(2) schedule(dynamic, share)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t p = 0; p < panels; p++) {
            int32_t sums[ROW_BLOCK * PANEL] __attribute__((aligned(LINE)));
            int64_t row = b * ROW_BLOCK, end = row + ROW_BLOCK;
            if (end > A->num_rows) end = A->num_rows;
            for (int64_t from = 0; from < pairs; from += CHUNK)
                chunk_rows(A, p, from, pairs - from < CHUNK ? pairs - from : CHUNK, row, end, sums);
        }
}
#else
#define PANEL 0
void int8_share(const Linear *A) { (void)A; }
#endif

/* Outputs of a panel; 0 = no kernel for this processor. */
EXPORT int64_t int8_panel(void) { return PANEL; }
EXPORT int64_t int8_panel_bytes(int64_t num_inputs) { return PANEL * level_stride(num_inputs); }

/* Inputs of a row that share a scale; 0 = all. */
EXPORT int64_t int8_group(void) { return 0; }
EXPORT void int8_use_tiles(int64_t wanted) { (void)wanted; }

/* weight [num_outputs, num_inputs] in 8 bits into panels of pairs of inputs; the rest is zeros. */
EXPORT void int8_pack(const int8_t *weight, int8_t *packed, int64_t num_outputs,
                      int64_t num_inputs, int64_t threads) {
#if PANEL
    int64_t panels = (num_outputs + PANEL - 1) / PANEL, stride = level_stride(num_inputs);
#pragma omp parallel for num_threads((int)threads)
    for (int64_t p = 0; p < panels; p++)
        for (int64_t i = 0; i < stride; i++)
            for (int64_t o = 0; o < PANEL; o++) {
                int64_t from = p * PANEL + o, at = (i / 2 * PANEL + o) * 2 + i % 2;
                packed[p * PANEL * stride + at] =
                    from < num_outputs && i < num_inputs ? weight[from * num_inputs + i] : 0;
            }
#endif
}

/* out [count, num_inputs] = the rows `ids` of the weight as it was packed. */
EXPORT void int8_rows(const int8_t *packed, const float *scale, const int64_t *ids, void *out,
                      int64_t count, int64_t num_inputs, int64_t bf16, int64_t threads) {
#if PANEL
    int64_t stride = level_stride(num_inputs);
#pragma omp parallel for num_threads(count * num_inputs < 65536 ? 1 : (int)threads)
    for (int64_t r = 0; r < count; r++) {
        const int8_t *from = packed + ids[r] / PANEL * PANEL * stride + ids[r] % PANEL * 2;
        for (int64_t i = 0; i < num_inputs; i++)
            store1(out, r * num_inputs + i,
                   (float)from[i / 2 * PANEL * 2 + i % 2] * scale[ids[r]], (int)bf16);
    }
#endif
}

#endif

EXPORT int64_t int8_level_stride(int64_t num_inputs) { return level_stride(num_inputs); }

/* out = x weight^T + bias; `levels` and `x_scale` are room for the rows in whole numbers. */
EXPORT void int8_linear(const void *x, const Weight *weight, int16_t *levels, float *x_scale,
                        void *out, int64_t num_rows, int64_t num_inputs, int64_t num_outputs,
                        int64_t bf16, int64_t threads) {
    const Linear layer = {levels, x_scale, *weight, 0, out, num_rows, num_inputs, num_outputs,
                          level_stride(num_inputs), num_outputs, threads, bf16};
#pragma omp parallel num_threads((int)threads)
    {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < num_rows; r++)
            IN_PRECISION(level_row(x, levels, x_scale, r, num_inputs, bf16))
        int8_share(&layer);
    }
}
