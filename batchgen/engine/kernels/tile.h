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
} Layer; /* of what is in pairs two dimensions of a key, and two keys' values, lie side by side:
            k [.., head_dim / 2, block_size, 2], v [.., block_size / 2, v_pad, 2] */

INLINE int in_pairs(const Layer *L) { return BF16_PAIRS && L->bf16 && L->head_dim % 2 == 0; }

/* Keys `chunk * LANES ..` of a sequence: where they start in the cache. */
INLINE int64_t key_offset(const Layer *L, const int32_t *table, int64_t h, int64_t chunk,
                          const int bf16) {
    int64_t per_block = L->block_size / LANES;
    int64_t head = (int64_t)table[chunk / per_block] * L->num_kv_heads + h;
    int64_t at = chunk % per_block * LANES * (bf16 == IN_PAIRS ? 2 : 1);
    return head * L->head_dim * L->block_size + at;
}

/* One key's value (in pairs: an even one's): where it starts in the cache. */
INLINE int64_t value_offset(const Layer *L, const int32_t *table, int64_t h, int64_t key) {
    int64_t head = (int64_t)table[key / L->block_size] * L->num_kv_heads + h;
    return (head * L->block_size + key % L->block_size) * L->v_pad;
}

typedef struct {
    int64_t rows, key0, key1;
    const int64_t *keys, *values; /* of each LANES keys from key0 on: see key_offset, value_offset */
    const int64_t *low, *high; /* first key and one past the last key each row sees */
    const float *q;            /* [head_dim, GROUP], in pairs [head_dim / 2, GROUP, 2] */
    float *scores;             /* [GROUP, TILE] */
    float *out, *top, *sums;   /* [rows, v_pad], [rows], [rows, LANES] */
    int fetch; /* keys and values may lie in memory still */
} Tile;

INLINE void fetch(const void *p, int64_t i, int bf16) {
    __builtin_prefetch((const char *)p + i * (bf16 ? 2 : 4));
}

/* Lines of dimensions `d` of the next keys and of these keys' values. */
INLINE void fetch_chunks(const Layer *L, const Tile *g, int64_t chunk, int64_t last, int64_t d,
                         const int count, const int bf16) {
    if (bf16 && d % 2) return; /* two of these steps share a cache line */
    for (int c = 0; c < count; c++) {
        if (count > 1 && c % (LINE_LANES / LANES)) continue; /* and these chunks do */
        int64_t later = chunk + count + c < last ? chunk + count + c : last - 1;
        fetch(L->k, g->keys[later] + d * L->block_size, bf16);
        fetch(L->v, g->values[chunk + c] + d * LINE_LANES, bf16);
    }
}

/* LANES numbers, or pairs of them. */
INLINE vf load_as(const void *p, int64_t i, const int bf16) {
    if (bf16 == IN_PAIRS) return *(const vf_any *)((const uint16_t *)p + i);
    return load(p, i, bf16);
}

/* scores[r][c * LANES ..] = q[r] . keys of `count` chunks from `chunk`. */
INLINE void score_chunks(const Layer *L, const Tile *g, float *scores, int64_t chunk, int64_t last,
                         const int rows, const int count, const int bf16) {
    const int step = bf16 == IN_PAIRS ? 2 : 1;
    const float *q = g->q;
    int64_t from[4];
    vf acc[GROUP][4];
    for (int c = 0; c < count; c++) from[c] = g->keys[chunk + c];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < count; c++) acc[r][c] = splat(0.0f);
    for (int64_t d = 0; d < L->head_dim; d += step, q += GROUP) {
        vf key[4];
        if (g->fetch) fetch_chunks(L, g, chunk, last, d, count, bf16);
        for (int c = 0; c < count; c++) key[c] = load_as(L->k, from[c] + d * L->block_size, bf16);
        for (int r = 0; r < rows; r++) {
            vf value = splat(q[r]);
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

INLINE void score_rows(const Layer *L, const Tile *g, int64_t first, int64_t last, const int rows,
                       const int bf16) {
    const int wide = VECTORS(rows);
    float *scores = g->scores;
    int64_t chunk = first;
    for (; chunk + wide <= last; chunk += wide, scores += wide * LANES)
        score_chunks(L, g, scores, chunk, last, rows, wide, bf16);
    for (; chunk < last; chunk++, scores += LANES)
        score_chunks(L, g, scores, chunk, last, rows, 1, bf16);
}

/* acc[r] += p[r] . values from `from` on, of one key or (`kept`: those of which some) a pair. */
INLINE void add_values(const Layer *L, const float *p, int64_t from, vf acc[GROUP][4], vi kept,
                       const int rows, const int wide, const int bf16) {
    vf value[4];
    for (int c = 0; c < wide; c++) {
        value[c] = load_as(L->v, from + c * LANES * (bf16 == IN_PAIRS ? 2 : 1), bf16);
        if (bf16 == IN_PAIRS) value[c] = (vf)((vi)value[c] & kept);
    }
    for (int r = 0; r < rows; r++) {
        vf weight = splat(p[r * TILE]);
        for (int c = 0; c < wide; c++)
            acc[r][c] = bf16 == IN_PAIRS ? add_pairs(weight, value[c], acc[r][c])
                                         : vfma(weight, value[c], acc[r][c]);
    }
}

/* out[r] += shares[r] . values of `count` keys from chunk `first` on, `wide` vectors of dimensions
   from `dim`. */
INLINE void value_rows(const Layer *L, const Tile *g, int64_t first, int64_t count, int64_t dim,
                       const int rows, const int wide, const int bf16) {
    const int step = bf16 == IN_PAIRS ? 2 : 1;
    const vi both = (vi)splat(0.0f) == (vi)splat(0.0f), one = (vi)((vu)both >> 16);
    const float *p = g->scores;
    float *out = g->out + dim;
    vf acc[GROUP][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < wide; c++) acc[r][c] = load(out, r * L->v_pad + c * LANES, 0);
    for (const int64_t *chunk = g->values + first; count > 0; chunk++, count -= LANES) {
        int64_t from = *chunk + dim * step, some = count < LANES ? count : LANES;
        for (int64_t key = 0; key + step <= some; key += step, from += step * L->v_pad, p++)
            add_values(L, p, from, acc, both, rows, wide, bf16);
        if (some % step) /* the last one's other half is another's, or nobody's */
            add_values(L, p, from, acc, one, rows, wide, bf16);
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < wide; c++) store(out, r * L->v_pad + c * LANES, acc[r][c], 0);
}

INLINE void all_values(const Layer *L, const Tile *g, int64_t first, int64_t count, const int rows,
                       const int bf16) {
    const int wide = VECTORS(rows);
    int64_t dim = 0;
    for (; dim + wide * LANES <= L->v_pad; dim += wide * LANES)
        value_rows(L, g, first, count, dim, rows, wide, bf16);
    for (; dim < L->v_pad; dim += LANES) value_rows(L, g, first, count, dim, rows, 1, bf16);
}

static void soft_cap(float *scores, int64_t n, float cap) {
    for (int64_t i = 0; i < n; i += LANES) {
        vf x = load(scores, i, 0) * (2.0f / cap);
        store(scores, i, cap - splat(2.0f * cap) / (vexp(x) + 1.0f), 0);
    }
}

/* One row of one tile: mask all but [a, b), exponentiate, move the running maximum and, lane by
   lane, the running sum. In pairs shares are rounded, and lie from the row's beginning on. Returns
   what earlier sums must be multiplied by. */
INLINE float soft_max(float *scores, int64_t n, int64_t a, int64_t b, float *top, float *sums,
                      const int bf16) {
    const int pairs = bf16 == IN_PAIRS;
    for (int64_t i = 0; i < a; i++) scores[i] = -INFINITY;
    for (int64_t i = b; i < n; i++) scores[i] = -INFINITY;
    vf highest = splat(*top);
    for (int64_t i = 0; i < n; i += LANES) highest = vmax(load(scores, i, 0), highest);
    float best = largest(highest), scale = best > *top ? expf(*top - best) : 1.0f;
    vf sum = load(sums, 0, 0) * scale;
    for (int64_t i = 0; i < n; i += LANES) {
        vf p = vexp_to_88(load(scores, i, 0) - best, pairs);
        store(scores, i, p, pairs);
        sum += p;
    }
    store(sums, 0, sum, 0);
    *top = best;
    return scale;
}

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
    int64_t chunks = (last - first + LANES - 1) / LANES, chunk = (first - g->key0) / LANES;
#define SCORES(R) score_rows(L, g, chunk, chunk + chunks, R, bf16)
    EACH_ROW_COUNT(SCORES)
    for (int64_t r = 0; r < g->rows; r++) {
        float *row = g->scores + r * TILE;
        if (L->softcap != 0.0) soft_cap(row, chunks * LANES, (float)L->softcap);
        int64_t a = g->low[r] > first ? g->low[r] : first;
        int64_t b = g->high[r] < last ? g->high[r] : last;
        if (b < a) b = a;
        float scale = soft_max(row, chunks * LANES, a - first, b - first, g->top + r,
                               g->sums + r * LANES, bf16);
        if (scale != 1.0f)
            for (int64_t d = 0; d < L->v_pad; d++) g->out[r * L->v_pad + d] *= scale;
    }
#define VALUES(R) all_values(L, g, chunk, last - first, R, bf16)
    EACH_ROW_COUNT(VALUES)
}

#endif
