/* Products of rows in 8 bits with weights in 4 to 8 bits, sums in integers, dequantised in registers.
   A panel of 16 outputs is read once for a block of rows. Each output is one sum over the blocks of
   inputs in their order, whatever the number of rows and the width of the vectors. */
#include "quant_lanes.h"

#define ROW_BYTES 262144 /* of rounded rows, which stay in the second-level cache */

/* Unsigned codes of group g (four inputs) of a sub-block, half h of the outputs. `plane`: of 8 bits
   the low or the high four, or (-1) all. */
INLINE wu codes_of(const uint8_t *codes, const uint8_t *high, const int g, const int h,
                   const int plane, const int kind) {
    if (kind == Q8_0 && plane < 0) return line_at(codes + g * QLINE, h);
    if (kind == Q8_0) return shifted(line_at(codes + g * QLINE, h), 4 * plane) & 0x0f0f;
    wu found = shifted(line_at(codes + g % 4 * QLINE, h), g / 4 * 4) & 0x0f0f;
    if (kind == Q6_K)
        found |= shifted(line_at(high + g / 4 * QLINE, h), g % 4 * 2 - 4) & 0x3030;
    else if (high_bits(kind))
        found |= shifted(line_at(high, h), g - 4) & 0x1010;
    return found;
}

/* Groups whose products are added in 16 bits: 2 * 127 * largest code * groups stays below 2^15. */
INLINE int groups_in_16_bits(const int kind) {
    return kind == Q6_K ? 2 : high_bits(kind) ? 4 : 8;
}

/* sum[r] += scale * (codes . x[r]) over the 32 inputs of a sub-block; `scales`: two of 16 bits a
   lane, for the first and the last 16 inputs. */
INLINE void dot_sub_pairs(wi sum[TILE][HALVES], const int8_t *x, int64_t stride,
                          const uint8_t *codes, const uint8_t *high,
                          const ws scales[2][HALVES], const int kind, const int rows) {
    const int span = groups_in_16_bits(kind);
    UNROLL for (int plane = 0; plane < (kind == Q8_0 ? 2 : 1); plane++)
        UNROLL for (int from = 0; from < 8; from += span) {
            ws part[TILE][HALVES];
            for (int r = 0; r < rows; r++)
                for (int h = 0; h < HALVES; h++) part[r][h] = (ws){0};
            UNROLL for (int g = from; g < from + span; g++) {
                wu w[HALVES];
                for (int h = 0; h < HALVES; h++) w[h] = codes_of(codes, high, g, h, plane, kind);
                for (int r = 0; r < rows; r++) {
                    ws value = four(x + r * stride + 4 * g);
                    for (int h = 0; h < HALVES; h++) part[r][h] += mul_bytes(w[h], value);
                }
            }
            for (int h = 0; h < HALVES; h++) {
                ws scale = kind == Q8_0 && plane ? scales[0][h] << 4 : scales[from / 4][h];
                for (int r = 0; r < rows; r++) sum[r][h] += mul_words(part[r][h], scale);
            }
        }
}

/* The same where bytes are added to 32 bits at once. */
INLINE void dot_sub_words(wi sum[TILE][HALVES], const int8_t *x, int64_t stride,
                          const uint8_t *codes, const uint8_t *high,
                          const ws scales[2][HALVES], const int kind, const int rows) {
    const int span = kind == Q6_K ? 4 : 8; /* groups with one scale */
    UNROLL for (int from = 0; from < 8; from += span) {
        wi part[TILE][HALVES];
        for (int r = 0; r < rows; r++)
            for (int h = 0; h < HALVES; h++) part[r][h] = is_wide(kind) ? (wi){0} : sum[r][h];
        UNROLL for (int g = from; g < from + span; g++)
            for (int h = 0; h < HALVES; h++) {
                wu w = codes_of(codes, high, g, h, -1, kind);
                HOLD(w);
                for (int r = 0; r < rows; r++)
                    part[r][h] = add_bytes(part[r][h], w, four(x + r * stride + 4 * g));
            }
        for (int h = 0; h < HALVES; h++) {
            wi scale = (wi)scales[from / 4][h] << 16 >> 16;
            for (int r = 0; r < rows; r++)
                sum[r][h] = is_wide(kind) ? sum[r][h] + part[r][h] * scale : part[r][h];
        }
    }
}

INLINE void dot_sub(wi sum[TILE][HALVES], const int8_t *x, int64_t stride, const uint8_t *codes,
                    const uint8_t *high, const ws scales[2][HALVES], const int kind,
                    const int rows) {
    if (BYTES_TO_WORDS)
        dot_sub_words(sum, x, stride, codes, high, scales, kind, rows);
    else
        dot_sub_pairs(sum, x, stride, codes, high, scales, kind, rows);
}

INLINE void no_sums(wi sum[TILE][HALVES], const int rows) {
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < HALVES; h++) sum[r][h] = (wi){0};
}

/* Blocks of 32 inputs, a scale each. */
INLINE void narrow_tile(wf acc[TILE][HALVES], const Rounded *X, const uint8_t *unit, int64_t row,
                        const int kind, const int rows) {
    int64_t blocks = X->inputs / SUB;
    const int8_t *x = X->codes + row * X->inputs;
    const float *scale = X->scale + row * blocks, *total = X->sum + row * blocks;
    ws ones[2][HALVES];
    for (int h = 0; h < HALVES; h++) ones[0][h] = ones[1][h] = (ws)splat_i(0x00010001);
    for (int64_t b = 0; b < blocks; b++, unit += unit_bytes(kind), x += SUB) {
        wi sum[TILE][HALVES];
        no_sums(sum, rows);
        dot_sub(sum, x, X->inputs, unit + codes_at(kind), unit + high_at(kind), ones, kind, rows);
        for (int h = 0; h < HALVES; h++) {
            wf d = halves_at(unit, h);
            wf m = has_min(kind) ? halves_at(unit + 32, h) : d * (float)-code_offset(kind);
            for (int r = 0; r < rows; r++) {
                acc[r][h] += to_float(sum[r][h]) * (d * scale[r * blocks + b]);
                acc[r][h] += m * total[r * blocks + b];
            }
        }
    }
}

/* The scales of sub-block j, as dot_sub wants them. */
INLINE void sub_scales(const uint8_t *unit, const int j, ws out[2][HALVES], const int kind) {
    const uint8_t *at = unit + sub_scales_at(kind) + (kind == Q6_K ? 2 : 1) * j * OUTPUTS;
    for (int h = 0; h < HALVES; h++) {
        wi first = bytes_at(at, h, kind == Q6_K);
        wi last = kind == Q6_K ? bytes_at(at + OUTPUTS, h, 1) : first;
        out[0][h] = pair(first, first);
        out[1][h] = pair(last, last);
    }
}

/* What the codes' offset (Q6_K) or the sub-blocks' minimums take off: products with sums of codes. */
INLINE void correct(wi off[TILE][HALVES], const Rounded *X, const uint8_t *unit, int64_t row,
                    int64_t b, const int kind, const int rows) {
    const int pairs = kind == Q6_K ? 8 : 4;
    const uint8_t *at = unit + (kind == Q6_K ? sub_scales_at(kind) : sub_mins_at(kind));
    const int16_t *sums = kind == Q6_K ? X->by_half : X->by_sub;
    int64_t stride = X->inputs / (kind == Q6_K ? 16 : SUB);
    for (int i = 0; i < pairs; i++)
        for (int h = 0; h < HALVES; h++) {
            wi first = bytes_at(at + 2 * i * OUTPUTS, h, kind == Q6_K);
            ws both = pair(first, bytes_at(at + (2 * i + 1) * OUTPUTS, h, kind == Q6_K));
            for (int r = 0; r < rows; r++)
                off[r][h] += mul_words(both, four(sums + (row + r) * stride + 2 * pairs * b + 2 * i));
        }
}

/* Blocks of 256 inputs, whose sub-blocks have integer scales. */
INLINE void wide_tile(wf acc[TILE][HALVES], const Rounded *X, const uint8_t *unit, int64_t row,
                      const int kind, const int rows) {
    int64_t blocks = X->inputs / SUPER;
    const int8_t *x = X->codes + row * X->inputs;
    const float *scale = X->scale + row * blocks;
    for (int64_t b = 0; b < blocks; b++, unit += unit_bytes(kind)) {
        wi sum[TILE][HALVES], off[TILE][HALVES];
        no_sums(sum, rows);
        no_sums(off, rows);
        for (int j = 0; j < 8; j++, x += SUB) {
            ws scales[2][HALVES];
            sub_scales(unit, j, scales, kind);
            dot_sub(sum, x, X->inputs, unit + codes_at(kind) + j * sub_bytes(kind),
                    unit + high_at(kind) + j * high_bits(kind) * QLINE, scales, kind, rows);
        }
        correct(off, X, unit, row, b, kind, rows);
        for (int h = 0; h < HALVES; h++) {
            wf d = halves_at(unit, h), m = kind == Q6_K ? d : halves_at(unit + 32, h);
            for (int r = 0; r < rows; r++) {
                float each = scale[r * blocks + b];
                wi whole = kind == Q6_K ? sum[r][h] - (off[r][h] << 5) : sum[r][h];
                acc[r][h] += to_float(whole) * (d * each);
                if (kind != Q6_K) acc[r][h] -= to_float(off[r][h]) * (m * each);
            }
        }
    }
}

/* What a task is: one panel, for the rows of one block. `first`: the output in the whole layer. */
typedef struct {
    const Linear *A;
    const Rounded *X;
    const uint8_t *panel;
    int64_t first, count, row, end;
    int bf16;
} Task;

/* Answers of `rows` rows from `row` on, [rows, OUTPUTS], with bias and residual. */
static void write_out(const Task *T, const float *answers, int64_t row, int64_t rows) {
    const Linear *A = T->A;
    for (int64_t r = 0; r < rows; r++, answers += OUTPUTS) {
        int64_t at = (row + r) * A->out_stride + T->first;
        for (int64_t o = 0; T->count == OUTPUTS && o < OUTPUTS; o += LANES) {
            vf value = load(answers, o, 0);
            if (A->weight.bias) value += load(A->weight.bias, T->first + o, 0);
            if (A->residual) value += load(A->residual, at + o, T->bf16);
            store(A->out, at + o, value, T->bf16);
        }
        for (int64_t o = 0; T->count < OUTPUTS && o < T->count; o++) {
            float value = answers[o];
            if (A->weight.bias) value += A->weight.bias[T->first + o];
            if (A->residual) value += load1(A->residual, at + o, T->bf16);
            store1(A->out, at + o, value, T->bf16);
        }
    }
}

INLINE void tile(const Task *T, int64_t row, const int kind, const int rows) {
    wf acc[TILE][HALVES];
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < HALVES; h++) acc[r][h] = (wf){0};
    if (is_wide(kind))
        wide_tile(acc, T->X, T->panel, row, kind, rows);
    else
        narrow_tile(acc, T->X, T->panel, row, kind, rows);
    write_out(T, (const float *)acc, row, rows);
}

/* A function for each type and height: compilers take their time over one large function. */
#define TILE_OF(KIND, ROWS)                                                             \
    static __attribute__((noinline)) void KIND##_##ROWS(const Task *T, int64_t row) {   \
        tile(T, row, KIND, ROWS);                                                       \
    }
#define TILES_OF(KIND)                                                                  \
    TILE_OF(KIND, 1) TILE_OF(KIND, 2) TILE_OF(KIND, 3) TILE_OF(KIND, 4)
#define ROW_OF(KIND) [KIND] = {KIND##_1, KIND##_2, KIND##_3, KIND##_4}

TILES_OF(Q4_0) TILES_OF(Q4_1) TILES_OF(Q5_0) TILES_OF(Q5_1)
TILES_OF(Q8_0) TILES_OF(Q4_K) TILES_OF(Q5_K) TILES_OF(Q6_K)

static void (*const KERNELS[][TILE])(const Task *, int64_t) = {
    ROW_OF(Q4_0), ROW_OF(Q4_1), ROW_OF(Q5_0), ROW_OF(Q5_1),
    ROW_OF(Q8_0), ROW_OF(Q4_K), ROW_OF(Q5_K), ROW_OF(Q6_K),
};

/* Rows in tiles of near-equal height. */
static void run_task(const Task *T, int64_t kind) {
    int64_t row = T->row, tiles = (T->end - row + TILE - 1) / TILE;
    for (int64_t t = 0; t < tiles; t++) {
        int64_t height = (T->end - row + (tiles - t) - 1) / (tiles - t);
        KERNELS[kind][height - 1](T, row);
        row += height;
    }
}

/* Panel p of a layer's parts, counted through, against rows [row, end). */
INLINE void run_panel(const Linear *A, const Rounded X[2], int64_t p, int64_t row, int64_t end,
                      int bf16) {
    const QuantPart *part = ((const QuantWeight *)A->weight.data)->parts;
    int64_t first = 0;
    for (int64_t own; p >= (own = (part->num_outputs + OUTPUTS - 1) / OUTPUTS); part++)
        p -= own, first += part->num_outputs;
    int64_t left = part->num_outputs - p * OUTPUTS;
    int64_t size = A->num_inputs / unit_inputs(part->kind) * unit_bytes(part->kind);
    const Task task = {A,   X + is_wide(part->kind), part->panels + p * size, first + p * OUTPUTS,
                       left < OUTPUTS ? left : OUTPUTS, row, end, bf16};
    run_task(&task, part->kind);
}

void quant_share(const Linear *A, void *scratch, int bf16) {
    const QuantWeight *W = A->weight.data;
    int64_t panels = 0, rows = A->num_rows, how = roundings(W);
    char *other = (char *)scratch + (how == 3 ? rounded_bytes(rows, A->num_inputs) / 2 : 0);
    const Rounded X[2] = {rounded_in(scratch, rows, A->num_inputs, 0),
                          rounded_in(other, rows, A->num_inputs, 1)};
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        if (how & 1) round_row(A->x, X, r, r * A->x_stride, 0, bf16);
        if (how & 2) round_row(A->x, X + 1, r, r * A->x_stride, 1, bf16);
    }
    for (int64_t i = 0; i < W->num_parts; i++)
        panels += (W->parts[i].num_outputs + OUTPUTS - 1) / OUTPUTS;
    int64_t height = ROW_BYTES / A->num_inputs / TILE * TILE;
    if (height < 4 * TILE) height = 4 * TILE;
    int64_t blocks = (rows + height - 1) / height, share = panels / (A->threads * 8) + 1;
#pragma omp for collapse(2) schedule(dynamic, share)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t p = 0; p < panels; p++) {
            int64_t end = (b + 1) * height;
            run_panel(A, X, p, b * height, end < rows ? end : rows, bf16);
        }
}

EXPORT int64_t quant_scratch(int64_t rows, int64_t inputs) { return rounded_bytes(rows, inputs); }

/* out = x weight^T + bias */
EXPORT void quant_gemm(const void *x, const QuantWeight *weight, const float *bias, void *out,
                       void *scratch, int64_t num_rows, int64_t num_inputs, int64_t num_outputs,
                       int64_t bf16, int64_t threads) {
    const Linear layer = {x, 0, {weight, 0, bias, BLOCKS}, 0, out, num_rows, num_inputs, num_outputs,
                          num_inputs, num_outputs, threads, bf16};
#pragma omp parallel num_threads((int)threads)
    quant_share(&layer, scratch, (int)bf16);
}
