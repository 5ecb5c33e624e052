/* One group of query rows against one tile of keys: scores, online softmax, weighted values.
   Every sum runs over keys and dimensions in one fixed order, whatever else is in the step.
   `bf16` is 0 for float32, 1 for bfloat16 and IN_PAIRS where pairs of it are multiplied: dimensions of
   queries and keys, then keys' shares, rounded for that, and values. Sums are float32 in any case. */
#ifndef BATCHGEN_CPU_TILE_H
#define BATCHGEN_CPU_TILE_H

#include <math.h>

#include "common.h"

#define TILE 512 /* keys of one online-softmax step */
#define GROUP 6  /* rows of one register tile */
/* Vectors of one row of a register tile: the accumulators of all its rows fit the registers. */
#if defined(__AVX__) && !defined(__AVX512F__)
#define VECTORS(ROWS) ((ROWS) <= 3 ? 4 : 2)
#else
#define VECTORS(ROWS) 4
#endif
#define LINE_LANES 16 /* floats of a cache line */
#define IN_PAIRS 2

typedef struct {
    int64_t num_heads, num_kv_heads, head_dim, v_head_dim;
    int64_t block_size, v_pad; /* block_size: a multiple of LANES; v_pad: rounded up to one */
    int64_t window;                       /* 0 = none */
    int64_t bf16;
    double scale, softcap; /* softcap 0 = none */
    void *k;               /* [num_blocks, num_kv_heads, head_dim, block_size] */
    void *v;               /* [num_blocks, num_kv_heads, block_size, v_pad] */
} Layer;

/* Keys `chunk * LANES ..` of a sequence: where they start in the cache. */
INLINE int64_t key_offset(const Layer *L, const int32_t *table, int64_t h, int64_t chunk) {
    int64_t per_block = L->block_size / LANES;
    int64_t head = (int64_t)table[chunk / per_block] * L->num_kv_heads + h;
    return head * L->head_dim * L->block_size + (chunk % per_block) * LANES;
}

/* One key's value: where it starts in the cache. */
INLINE int64_t value_offset(const Layer *L, const int32_t *table, int64_t h, int64_t key) {
    int64_t head = (int64_t)table[key / L->block_size] * L->num_kv_heads + h;
    return (head * L->block_size + key % L->block_size) * L->v_pad;
}

INLINE void fetch(const void *p, int64_t i, int bf16) {
    __builtin_prefetch((const char *)p + i * (bf16 ? 2 : 4));
}

/* scores[r][c * LANES ..] = q[r] . keys of `count` chunks from `chunk`. */
INLINE void score_chunks(const Layer *L, const int32_t *table, int64_t h, const float *q,
                         float *scores, int64_t chunk, int64_t last, const int rows,
                         const int count, int bf16) {
    int64_t from[4], ahead[4], values[4];
    vf acc[GROUP][4];
    for (int c = 0; c < count; c++) {
        int64_t later = chunk + count + c < last ? chunk + count + c : last - 1;
        from[c] = key_offset(L, table, h, chunk + c);
        ahead[c] = key_offset(L, table, h, later);
        values[c] = value_offset(L, table, h, (chunk + c) * LANES);
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < count; c++) acc[r][c] = splat(0.0f);
    const int step = bf16 == IN_PAIRS ? 2 : 1;
    for (int64_t d = 0; d < L->head_dim; d += step) {
        vf key[4];
        for (int c = 0; c < count; c++) {
            int64_t at = from[c] + d * L->block_size;
            const uint16_t *pair = (const uint16_t *)L->k + at;
            key[c] = step == 2 ? pairs_of(pair, pair + L->block_size) : load(L->k, at, bf16);
            if (bf16 && d % 2) continue; /* two of these steps share a cache line */
            if (count > 1 && c % (LINE_LANES / LANES)) continue; /* and these chunks do */
            fetch(L->k, ahead[c] + d * L->block_size, bf16);
            fetch(L->v, values[c] + d * LINE_LANES, bf16);
        }
        for (int r = 0; r < rows; r++) {
            vf value = splat(q[r * L->head_dim + d / step]);
            for (int c = 0; c < count; c++)
                acc[r][c] = step == 2 ? add_pairs(value, key[c], acc[r][c])
                                      : vfma(value, key[c], acc[r][c]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < count; c++) {
            if (step == 2) acc[r][c] *= (float)L->scale; /* else the queries are scaled */
            store(scores, r * TILE + c * LANES, acc[r][c], 0);
        }
}

INLINE void score_rows(const Layer *L, const int32_t *table, int64_t h, const float *q,
                       float *scores, int64_t first, int64_t last, const int rows, int bf16) {
    int64_t chunk = first;
    const int wide = VECTORS(rows);
    for (; chunk + wide <= last; chunk += wide, scores += wide * LANES)
        score_chunks(L, table, h, q, scores, chunk, last, rows, wide, bf16);
    for (; chunk < last; chunk++, scores += LANES)
        score_chunks(L, table, h, q, scores, chunk, last, rows, 1, bf16);
}

/* out[r] += p[r] . values of keys first..last-1, `wide` vectors of dimensions from `dim`. */
INLINE void value_rows(const Layer *L, const int32_t *table, int64_t h, const float *p, float *out,
                       int64_t origin, int64_t first, int64_t last, int64_t dim, const int rows,
                       const int wide, int bf16) {
    static const uint16_t nothing[LINE_LANES] = {0};
    vf acc[GROUP][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < wide; c++) acc[r][c] = load(out, r * L->v_pad + dim + c * LANES, 0);
    for (int64_t key = first; key < last;) {
        int64_t from = value_offset(L, table, h, key) + dim;
        int64_t end = (key / L->block_size + 1) * L->block_size, stop = end < last ? end : last;
        for (; bf16 == IN_PAIRS && key < stop; key += 2, from += 2 * L->v_pad) {
            const uint16_t *v = (const uint16_t *)L->v + from;
            const uint16_t *other = key + 1 < last ? v + L->v_pad : nothing;
            vf value[4];
            for (int c = 0; c < wide; c++)
                value[c] = pairs_of(v + c * LANES, other == nothing ? other : other + c * LANES);
            for (int r = 0; r < rows; r++) {
                vf weight = splat(p[r * TILE + (key - origin) / 2]);
                for (int c = 0; c < wide; c++) acc[r][c] = add_pairs(weight, value[c], acc[r][c]);
            }
        }
        for (; key < stop; key++, from += L->v_pad) {
            vf value[4];
            for (int c = 0; c < wide; c++) value[c] = load(L->v, from + c * LANES, bf16);
            for (int r = 0; r < rows; r++) {
                vf weight = splat(p[r * TILE + key - origin]);
                for (int c = 0; c < wide; c++) acc[r][c] = vfma(weight, value[c], acc[r][c]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < wide; c++) store(out, r * L->v_pad + dim + c * LANES, acc[r][c], 0);
}

INLINE void all_values(const Layer *L, const int32_t *table, int64_t h, const float *p, float *out,
                       int64_t origin, int64_t first, int64_t last, const int rows, int bf16) {
    const int wide = VECTORS(rows);
    int64_t dim = 0;
    for (; dim + wide * LANES <= L->v_pad; dim += wide * LANES)
        value_rows(L, table, h, p, out, origin, first, last, dim, rows, wide, bf16);
    for (; dim < L->v_pad; dim += LANES)
        value_rows(L, table, h, p, out, origin, first, last, dim, rows, 1, bf16);
}

static void soft_cap(float *scores, int64_t n, float cap) {
    for (int64_t i = 0; i < n; i += LANES) {
        vf x = load(scores, i, 0) * (2.0f / cap);
        store(scores, i, cap - splat(2.0f * cap) / (vexp(x) + 1.0f), 0);
    }
}

/* One row of one tile: mask all but [a, b), exponentiate, move the running maximum and sum.
   Returns what earlier sums must be multiplied by. */
static float soft_max(float *scores, int64_t n, int64_t a, int64_t b, float *top, float *sum) {
    for (int64_t i = 0; i < a; i++) scores[i] = -INFINITY;
    for (int64_t i = b; i < n; i++) scores[i] = -INFINITY;
    vf highest = splat(*top);
    for (int64_t i = 0; i < n; i += LANES) highest = vmax(load(scores, i, 0), highest);
    float best = *top, total = 0.0f;
    for (int c = 0; c < LANES; c++) best = highest[c] > best ? highest[c] : best;
    vf sums = splat(0.0f);
    for (int64_t i = 0; i < n; i += LANES) {
        vf p = vexp(load(scores, i, 0) - best);
        store(scores, i, p, 0);
        sums += p;
    }
    for (int c = 0; c < LANES; c++) total += sums[c];
    float scale = expf(*top - best);
    *sum = *sum * scale + total;
    *top = best;
    return scale;
}

/* Shares of a row, as pairs of bfloat16 from its beginning on. */
INLINE void round_shares(float *row, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store(row, i, load(row, i, 0), 1);
}

typedef struct {
    const int32_t *table;
    int64_t h, rows, key0, key1;
    const int64_t *low, *high; /* first key and one past the last key each row sees */
    const float *q;
    float *scores, *out, *top, *sum;
} Tile;

#define EACH_ROW_COUNT(CALL) \
    switch (g->rows) {       \
        case 1: CALL(1); break; \
        case 2: CALL(2); break; \
        case 3: CALL(3); break; \
        case 4: CALL(4); break; \
        case 5: CALL(5); break; \
        default: CALL(6); break; \
    }

/* One group of rows against the keys of one tile. */
INLINE void attend_tile(const Layer *L, const Tile *g, const int bf16) {
    int64_t first = g->key0, last = g->key1, low = last, high = first;
    for (int64_t r = 0; r < g->rows; r++) {
        if (g->low[r] < low) low = g->low[r];
        if (g->high[r] > high) high = g->high[r];
    }
    first = low > first ? low / LANES * LANES : first;
    last = high < last ? high : last;
    if (first >= last) return;
    int64_t chunks = (last - first + LANES - 1) / LANES, origin = first;
#define SCORES(R) score_rows(L, g->table, g->h, g->q, g->scores, first / LANES, \
                             first / LANES + chunks, R, bf16)
    EACH_ROW_COUNT(SCORES)
    for (int64_t r = 0; r < g->rows; r++) {
        float *row = g->scores + r * TILE;
        if (L->softcap != 0.0) soft_cap(row, chunks * LANES, (float)L->softcap);
        int64_t a = g->low[r] > first ? g->low[r] : first;
        int64_t b = g->high[r] < last ? g->high[r] : last;
        if (b < a) b = a;
        float scale = soft_max(row, chunks * LANES, a - first, b - first, g->top + r, g->sum + r);
        if (bf16 == IN_PAIRS) round_shares(row, chunks * LANES);
        if (scale != 1.0f)
            for (int64_t d = 0; d < L->v_pad; d++) g->out[r * L->v_pad + d] *= scale;
    }
#define VALUES(R) all_values(L, g->table, g->h, g->scores, g->out, origin, first, last, R, bf16)
    EACH_ROW_COUNT(VALUES)
}

#endif
