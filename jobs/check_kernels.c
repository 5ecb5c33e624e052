/* The CPU kernels against plain loops, for any processor: see check_kernels.py. Prints a line for
   each and returns the number of those that differ. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "levels.h"
#include "paged.h"
#include "quant.h"

int64_t gemm_panel(void), bf16_panel(void), amx_panel(void), int8_panel(void);
int64_t amx_start(void), int8_panel_bytes(int64_t), int8_level_stride(int64_t);
int64_t quant_scratch(int64_t, int64_t);
int64_t quant_panel_bytes(int64_t, int64_t);
void gemm_pack(const float *, float *, int64_t, int64_t, int64_t);
void bf16_pack(const uint16_t *, uint16_t *, int64_t, int64_t, int64_t);
void amx_pack(const uint16_t *, uint16_t *, int64_t, int64_t, int64_t);
void int8_use_tiles(int64_t);
void packed_linear(const void *, const void *, const float *, void *, int64_t, int64_t, int64_t,
                   int64_t, int64_t, int64_t, int64_t);
void int8_pack(const int8_t *, int8_t *, int64_t, int64_t, int64_t);
void int8_linear(const void *, const Weight *, int16_t *, float *, void *, int64_t, int64_t,
                 int64_t, int64_t, int64_t);
void quant_pack(const uint8_t *const *, uint8_t *, int64_t, int64_t, int64_t, int64_t);
void quant_rows(const uint8_t *, int64_t, const int64_t *, void *, int64_t, int64_t, int64_t,
                int64_t);
void quant_gemm(const void *, const QuantWeight *, const float *, void *, void *, int64_t, int64_t,
                int64_t, int64_t, int64_t);
int64_t paged_plan(const int32_t *, const int32_t *, int64_t, int64_t, void *, int64_t, int64_t *);
void paged_attention(const Layer *, const Step *, const Tensors *);

enum { MOST_ROWS = 9, INPUTS = 512, OUT = 37 };
static int failed = 0;

static float uniform(void) { return (float)rand() / (float)RAND_MAX * 2.0f - 1.0f; }

static void *filled(int64_t count) {
    float *x = malloc((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++) x[i] = uniform();
    return x;
}

static void judge(const char *name, const float *got, const float *wanted, int64_t count,
                  float allowed) {
    float most = 0.0f, error = 0.0f;
    for (int64_t i = 0; i < count; i++) {
        most = fmaxf(most, fabsf(wanted[i]));
        error = fmaxf(error, fabsf(got[i] - wanted[i]));
    }
    int right = error <= allowed * most;
    printf("%-24s %s, %.1e of the largest\n", name, right ? "right" : "WRONG", error / most);
    failed += !right;
}

/* weight [OUT, INPUTS] by x [rows, INPUTS], in double. */
static float *product(const float *x, const float *weight, int64_t rows) {
    float *out = malloc((size_t)(rows * OUT) * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < OUT; o++) {
            double sum = 0.0;
            for (int64_t i = 0; i < INPUTS; i++) sum += (double)x[r * INPUTS + i] * weight[o * INPUTS + i];
            out[r * OUT + o] = (float)sum;
        }
    return out;
}

static void check_gemm(int64_t rows) {
    float *x = filled(rows * INPUTS), *weight = filled(OUT * INPUTS), out[MOST_ROWS * OUT];
    int64_t panels = (OUT + gemm_panel() - 1) / gemm_panel();
    float *packed = aligned_alloc(64, (size_t)(panels * gemm_panel() * INPUTS * 4));
    gemm_pack(weight, packed, OUT, INPUTS, 1);
    packed_linear(x, packed, 0, out, rows, INPUTS, OUT, INPUTS, OUT, FLOAT32, 1);
    judge("float32", out, product(x, weight, rows), rows * OUT, 1e-5f);
}

/* x rounded, in place, and as its bits. */
static uint16_t *in_bf16(float *x, int64_t count) {
    uint16_t *bits = malloc((size_t)count * sizeof(uint16_t));
    for (int64_t i = 0; i < count; i++) x[i] = bf16_to_float(bits[i] = float_to_bf16(x[i]));
    return bits;
}

static void check_bf16(int64_t rows) {
    float *x = filled(rows * INPUTS), *weight = filled(OUT * INPUTS), out[MOST_ROWS * OUT];
    uint16_t *narrow = in_bf16(x, rows * INPUTS), answer[MOST_ROWS * OUT];
    int64_t panels = (OUT + bf16_panel() - 1) / bf16_panel();
    uint16_t *packed = aligned_alloc(64, (size_t)(panels * bf16_panel() * INPUTS * 2));
    bf16_pack(in_bf16(weight, OUT * INPUTS), packed, OUT, INPUTS, 1);
    packed_linear(narrow, packed, 0, answer, rows, INPUTS, OUT, INPUTS, OUT, BFLOAT16, 1);
    for (int64_t i = 0; i < rows * OUT; i++) out[i] = bf16_to_float(answer[i]);
    judge("bfloat16", out, product(x, weight, rows), rows * OUT, 4e-3f);
}

static void check_int8(int64_t rows) {
    if (!int8_panel()) return (void)printf("int8 has no kernel here\n");
    float *x = filled(rows * INPUTS), *dense = filled(OUT * INPUTS), scale[OUT], x_scale[MOST_ROWS];
    float out[MOST_ROWS * OUT];
    int8_t *weight = malloc(OUT * INPUTS);
    for (int64_t o = 0; o < OUT; o++) scale[o] = 0.01f * (float)(o + 1);
    for (int64_t i = 0; i < OUT * INPUTS; i++) {
        weight[i] = (int8_t)(dense[i] * 127.0f);
        dense[i] = (float)weight[i] * scale[i / INPUTS];
    }
    int64_t panels = (OUT + int8_panel() - 1) / int8_panel();
    int8_t *packed = aligned_alloc(64, (size_t)((panels * int8_panel_bytes(INPUTS) + 63) & ~63));
    int8_pack(weight, packed, OUT, INPUTS, 1);
    const Weight W = {packed, scale, 0, INT8};
    int16_t *levels = aligned_alloc(64, MOST_ROWS * (INPUTS + 64) * sizeof(int16_t));
    int8_linear(x, &W, levels, x_scale, out, rows, INPUTS, OUT, 0, 1);
    judge("int8", out, product(x, dense, rows), rows * OUT, INT8_GROUPS ? 5e-3f : 1e-3f);
}

enum { TILED_ROWS = 75, TILED_OUT = 107 }; /* whole panels, and a last one */

/* Many rows of 8 bits on matrix tiles: the bits of the other kernel. */
static void check_int8_tiles(int64_t rows, int64_t inputs, int64_t bf16) {
    float scale[TILED_OUT], x_scale[TILED_ROWS], out[2][TILED_ROWS * TILED_OUT] = {0};
    float *x = filled(rows * inputs), *bias = filled(TILED_OUT);
    int8_t *weight = malloc((size_t)(TILED_OUT * inputs));
    for (int64_t o = 0; o < TILED_OUT; o++) scale[o] = 0.01f * (float)(o + 1);
    for (int64_t i = 0; i < TILED_OUT * inputs; i++) weight[i] = (int8_t)(uniform() * 127.0f);
    int64_t panels = (TILED_OUT + int8_panel() - 1) / int8_panel();
    int8_t *packed = aligned_alloc(64, (size_t)((panels * int8_panel_bytes(inputs) + 63) & ~63));
    int8_pack(weight, packed, TILED_OUT, inputs, 1);
    const Weight W = {packed, scale, bias, INT8};
    int16_t *levels = malloc((size_t)(TILED_ROWS * int8_level_stride(inputs)) * sizeof(int16_t));
    for (int tiles = 0; tiles < 2; tiles++) {
        int8_use_tiles(tiles);
        int8_linear(bf16 ? (void *)in_bf16(x, rows * inputs) : x, &W, levels, x_scale, out[tiles],
                    rows, inputs, TILED_OUT, bf16, 1);
    }
    int right = memcmp(out[0], out[1], sizeof out[0]) == 0;
    printf("int8 on tiles, %2d x %3d    %s, %s\n", (int)rows, (int)inputs, right ? "right" : "WRONG",
           right ? "bit for bit" : "other bits than without");
    failed += !right;
}

static void check_bf16_tiles(int64_t rows) {
    float *x = filled(rows * INPUTS), *weight = filled(OUT * INPUTS), *out = filled(rows * OUT);
    uint16_t *narrow = in_bf16(x, rows * INPUTS), answer[TILED_ROWS * OUT];
    int64_t panels = (OUT + amx_panel() - 1) / amx_panel();
    uint16_t *packed = aligned_alloc(64, (size_t)(panels * amx_panel() * INPUTS * 2));
    amx_pack(in_bf16(weight, OUT * INPUTS), packed, OUT, INPUTS, 1);
    packed_linear(narrow, packed, 0, answer, rows, INPUTS, OUT, INPUTS, OUT, TILES, 1);
    for (int64_t i = 0; i < rows * OUT; i++) out[i] = bf16_to_float(answer[i]);
    judge("bfloat16 on tiles", out, product(x, weight, rows), rows * OUT, 4e-3f);
}

static void check_tiles(void) {
    const int64_t inputs[] = {5, 84, 500, 700};
    for (int64_t rows = 7; rows <= TILED_ROWS; rows += 4) {
        for (int i = 0; i < 4; i++) check_int8_tiles(rows, inputs[i], i % 2);
        check_bf16_tiles(rows);
    }
}

/* x as `rounding.py` rounds it. */
static float *rounded_rows(const float *x, int64_t count, int64_t block) {
    float *out = malloc((size_t)count * sizeof(float));
    for (int64_t b = 0; b < count; b += block) {
        float most = 0.0f;
        for (int64_t i = b; i < b + block; i++) most = fmaxf(most, fabsf(x[i]));
        for (int64_t i = b; i < b + block; i++)
            out[i] = rintf(x[i] * (1.0f / (most / 127.0f))) * (most / 127.0f);
    }
    return out;
}

static void set_half(uint8_t *at, uint16_t bits) { memcpy(at, &bits, 2); }

/* Random blocks; scales (float16) are 2^-6 or so. */
static void check_blocks(const char *name, int64_t kind, int64_t bytes, int64_t rows) {
    int64_t each = unit_inputs(kind), size = INPUTS / each * bytes;
    uint8_t *raw = malloc((size_t)(OUT * size));
    const uint8_t *starts[OUT];
    int64_t ids[OUT];
    for (int64_t i = 0; i < OUT * size; i++) raw[i] = (uint8_t)(rand() >> 8);
    for (int64_t b = 0; b < OUT * size / bytes; b++) {
        uint8_t *block = raw + b * bytes;
        set_half(block + (kind == Q6_K ? 208 : 0), (uint16_t)(0x2400 + b % 512));
        if (has_min(kind)) set_half(block + 2, (uint16_t)(0xa400 + b % 256));
    }
    for (int64_t o = 0; o < OUT; o++) starts[o] = raw + o * size, ids[o] = o;
    int64_t panels = (OUT + OUTPUTS - 1) / OUTPUTS;
    uint8_t *packed = aligned_alloc(64, (size_t)(panels * quant_panel_bytes(kind, INPUTS)));
    quant_pack(starts, packed, kind, OUT, INPUTS, 1);
    float *dense = malloc(OUT * INPUTS * sizeof(float)), out[MOST_ROWS * OUT];
    quant_rows(packed, kind, ids, dense, OUT, INPUTS, 0, 1);
    const QuantPart part = {packed, kind, OUT};
    const QuantWeight W = {1, &part};
    float *x = filled(rows * INPUTS);
    void *scratch = aligned_alloc(64, (size_t)((quant_scratch(rows, INPUTS) + 127) / 64 * 64));
    quant_gemm(x, &W, 0, out, scratch, rows, INPUTS, OUT, 0, 1);
    const float *near = rounded_rows(x, rows * INPUTS, is_wide(kind) ? SUPER : SUB);
    judge(name, out, product(near, dense, rows), rows * OUT, 1e-4f);
}

enum { TOKENS = 40, HEADS = 4, KV_HEADS = 2, SIZE = 32, BLOCK = 16 };

static void check_attention(int64_t bf16) {
    int32_t cu[] = {0, TOKENS}, lens[] = {TOKENS}, tables[] = {2, 0, 1};
    int64_t slots[TOKENS], used, group = HEADS / KV_HEADS;
    char items[4096];
    for (int64_t t = 0; t < TOKENS; t++) slots[t] = tables[t / BLOCK] * BLOCK + t % BLOCK;
    float *q = filled(TOKENS * HEADS * SIZE), *k = filled(TOKENS * KV_HEADS * SIZE);
    float *v = filled(TOKENS * KV_HEADS * SIZE), *out = filled(TOKENS * HEADS * SIZE);
    float *wanted = filled(TOKENS * HEADS * SIZE);
    size_t cache = 3 * KV_HEADS * BLOCK * SIZE * sizeof(float);
    uint16_t *narrow[] = {in_bf16(q, bf16 * TOKENS * HEADS * SIZE),
                          in_bf16(k, bf16 * TOKENS * KV_HEADS * SIZE),
                          in_bf16(v, bf16 * TOKENS * KV_HEADS * SIZE), malloc(TOKENS * HEADS * SIZE * 2)};
    Layer L = {HEADS, KV_HEADS, SIZE, SIZE, BLOCK, SIZE, 0, bf16, 0.25, 0.0, aligned_alloc(64, cache),
               aligned_alloc(64, cache)};
    memset(L.k, 0, cache), memset(L.v, 0, cache);
    int64_t count = paged_plan(cu, lens, 1, group, items, 64, &used);
    Step S = {cu, lens, tables, slots, items, 3, TOKENS, count, 1};
    Tensors T = {q, k, v, out, 0, 0, HEADS * SIZE, SIZE, KV_HEADS * SIZE, SIZE, KV_HEADS * SIZE, SIZE};
    const Tensors N = {narrow[0], narrow[1], narrow[2], narrow[3], 0, 0, HEADS * SIZE, SIZE,
                       KV_HEADS * SIZE, SIZE, KV_HEADS * SIZE, SIZE};
    paged_attention(&L, &S, bf16 ? &N : &T);
    for (int64_t i = 0; bf16 && i < TOKENS * HEADS * SIZE; i++) out[i] = bf16_to_float(narrow[3][i]);
    for (int64_t t = 0; t < TOKENS; t++)
        for (int64_t h = 0; h < HEADS; h++) {
            double sums[SIZE] = {0}, total = 0.0;
            for (int64_t s = 0; s <= t; s++) {
                double score = 0.0;
                const float *key = k + (s * KV_HEADS + h / group) * SIZE;
                for (int64_t d = 0; d < SIZE; d++) score += (double)q[(t * HEADS + h) * SIZE + d] * key[d];
                total += score = exp(0.25 * score);
                const float *value = v + (s * KV_HEADS + h / group) * SIZE;
                for (int64_t d = 0; d < SIZE; d++) sums[d] += score * value[d];
            }
            for (int64_t d = 0; d < SIZE; d++)
                wanted[(t * HEADS + h) * SIZE + d] = (float)(sums[d] / total);
        }
    judge(bf16 ? "attention in bfloat16" : "attention", out, wanted, TOKENS * HEADS * SIZE,
          bf16 ? 6e-3f : 1e-5f);
}

int main(void) {
    for (int64_t rows = 1; rows <= MOST_ROWS; rows += 4) {
        check_gemm(rows);
        check_bf16(rows);
        check_int8(rows);
        check_blocks("Q4_0", Q4_0, 18, rows), check_blocks("Q4_1", Q4_1, 20, rows);
        check_blocks("Q5_0", Q5_0, 22, rows), check_blocks("Q5_1", Q5_1, 24, rows);
        check_blocks("Q8_0", Q8_0, 34, rows), check_blocks("Q4_K", Q4_K, 144, rows);
        check_blocks("Q5_K", Q5_K, 176, rows), check_blocks("Q6_K", Q6_K, 210, rows);
    }
    check_attention(0), check_attention(1);
    if (amx_start()) check_tiles();
    return failed;
}
