/* Paged attention on the CPU: block tables are read directly, no padding is touched, the query
   heads of a group are rows of one small matrix, and long contexts are split by keys. */
#include <stdlib.h>

#include "paged.h"

#define SPLIT 1024   /* keys of one work item; the parts of longer contexts are joined afterwards */
#define ITEM_ROWS 48 /* rows (tokens * heads of a group) of one work item */

typedef struct {
    int32_t seq, token0, token1, key0, key1, slot, split, num_splits;
} Item;

/* Work items of one step: token ranges times key ranges. Returns how many; fills at most `room`.
   `slots` gets the number of (token, split) pairs that need joining. */
EXPORT int64_t paged_plan(const int32_t *cu, const int32_t *lens, int64_t num_seqs, int64_t group,
                          Item *items, int64_t room, int64_t *slots) {
    int64_t count = 0, used = 0, step = ITEM_ROWS / group > 1 ? ITEM_ROWS / group : 1;
    for (int64_t s = 0; s < num_seqs; s++) {
        int32_t tokens = cu[s + 1] - cu[s];
        for (int32_t t = 0; t < tokens; t += (int32_t)step) {
            int32_t end = t + step < tokens ? t + (int32_t)step : tokens;
            int32_t keys = lens[s] - tokens + end, splits = (keys + SPLIT - 1) / SPLIT;
            for (int32_t i = 0; i < splits; i++, count++) {
                int32_t slot = splits > 1 ? (int32_t)used + i * (end - t) : -1;
                int32_t last = (i + 1) * SPLIT < keys ? (i + 1) * SPLIT : keys;
                Item item = {(int32_t)s, t, end, i * SPLIT, last, slot, i, splits};
                if (count < room) items[count] = item;
            }
            if (splits > 1) used += (int64_t)splits * (end - t);
        }
    }
    *slots = used;
    return count;
}

INLINE void write_in_pairs(const Layer *L, const uint16_t *key, const uint16_t *value, int64_t head,
                           int64_t at) {
    uint32_t *k = (uint32_t *)L->k + head * L->head_dim / 2 * L->block_size + at;
    uint16_t *v = (uint16_t *)L->v + (head * L->block_size + at / 2 * 2) * L->v_pad + at % 2;
    for (int64_t d = 0; d < L->head_dim; d += 2, k += L->block_size) memcpy(k, key + d, 4);
    for (int64_t d = 0; d < L->v_head_dim; d++) v[2 * d] = value[d];
}

INLINE void write_alone(const Layer *L, const void *key, const void *value, int64_t head,
                        int64_t at) {
    int64_t size = L->bf16 ? 2 : 4, k0 = head * L->head_dim * L->block_size + at;
    for (int64_t d = 0; d < L->head_dim; d++, k0 += L->block_size)
        if (L->bf16)
            ((uint16_t *)L->k)[k0] = ((const uint16_t *)key)[d];
        else
            ((float *)L->k)[k0] = ((const float *)key)[d];
    memcpy((char *)L->v + (head * L->block_size + at) * L->v_pad * size, value,
           (size_t)(L->v_head_dim * size));
}

void write_token(const Layer *L, const Step *S, const Tensors *T, int64_t t) {
    int64_t slot = S->slots[t], size = L->bf16 ? 2 : 4;
    if (slot < 0) return;
    int64_t block = slot / L->block_size, at = slot % L->block_size;
    for (int64_t h = 0; h < L->num_kv_heads; h++) {
        int64_t head = block * L->num_kv_heads + h;
        const char *key = (const char *)T->k + (t * T->k_token + h * T->k_head) * size;
        const char *value = (const char *)T->v + (t * T->v_token + h * T->v_head) * size;
        if (in_pairs(L))
            write_in_pairs(L, (const uint16_t *)key, (const uint16_t *)value, head, at);
        else
            write_alone(L, key, value, head, at);
    }
}

typedef struct {
    float *q, *scores, *out, *top, *sums;
    int64_t *low, *high, *keys, *values; /* the first of each 64 bytes: see Tile */
} Scratch;

static __thread char *scratch_memory = NULL;
static __thread size_t scratch_size = 0;

/* Per-thread buffers for `rows` rows, kept between calls. Returns 0 when memory ran out. */
static int scratch(const Layer *L, int64_t rows, Scratch *s) {
    rows = (rows + GROUP - 1) / GROUP * GROUP;
    size_t floats = (size_t)(rows * (L->head_dim + L->v_pad + LANES + 1) + GROUP * TILE);
    size_t numbers = (size_t)(rows * 2 + 2 * TILE / LANES);
    size_t need = floats * sizeof(float) + numbers * sizeof(int64_t);
    if (need > scratch_size) {
        free(scratch_memory);
        scratch_memory = aligned_alloc(64, (need + 63) / 64 * 64);
        scratch_size = scratch_memory ? need : 0;
        if (!scratch_memory) return 0;
    }
    s->scores = (float *)scratch_memory;
    s->out = s->scores + GROUP * TILE;
    s->sums = s->out + rows * L->v_pad;
    s->q = s->sums + rows * LANES;
    s->top = s->q + rows * L->head_dim;
    s->low = (int64_t *)(s->top + rows);
    s->high = s->low + rows;
    s->keys = s->high + rows;
    s->values = s->keys + TILE / LANES;
    return 1;
}

/* Where a query's dimension d lies among those of its group of rows. */
INLINE int64_t query_at(const Layer *L, int64_t row, int64_t d) {
    return row / GROUP * GROUP * L->head_dim + d * GROUP + row % GROUP;
}

/* Scaled queries as float rows (in pairs: as they are), and which keys each row sees. Row = token * group + head. */
INLINE void load_rows(const Layer *L, const Step *S, const Tensors *T, const Item *item, int64_t h,
                      int64_t group, Scratch *s, const int bf16) {
    int64_t begin = S->cu_seqlens[item->seq], tokens = S->cu_seqlens[item->seq + 1] - begin;
    int64_t position = S->seq_lens[item->seq] - tokens, row = 0;
    for (int64_t t = item->token0; t < item->token1; t++)
        for (int64_t g = 0; g < group; g++, row++) {
            int64_t from = (begin + t) * T->q_token + (h * group + g) * T->q_head;
            float *to = s->q + query_at(L, row, 0);
            for (int64_t d = 0; bf16 != IN_PAIRS && d < L->head_dim; d++)
                to[d * GROUP] = load1(T->q, from + d, bf16) * (float)L->scale;
            for (int64_t d = 0; bf16 == IN_PAIRS && d < L->head_dim / 2; d++)
                memcpy(to + d * GROUP, (const uint16_t *)T->q + from + 2 * d, 4);
            int64_t seen = position + t + 1;
            s->high[row] = seen;
            s->low[row] = L->window > 0 && seen > L->window ? seen - L->window : 0;
            s->top[row] = -1e30f;
        }
    memset(s->out, 0, (size_t)(row * L->v_pad) * sizeof(float));
    memset(s->sums, 0, (size_t)(row * LANES) * sizeof(float));
}

/* Where the keys and values of one tile lie. */
INLINE void find_keys(const Layer *L, const int32_t *table, int64_t h, int64_t key, int64_t stop,
                      Scratch *s, const int bf16) {
    for (int64_t i = 0; key < stop; i++, key += LANES) {
        s->keys[i] = key_offset(L, table, h, key / LANES, bf16);
        s->values[i] = value_offset(L, table, h, key);
    }
}

/* Normalise one row and write it as the answer. */
INLINE void write_row(const Layer *L, const Step *S, const Tensors *T, const Item *item, int64_t t,
                      int64_t head, const float *out, float top, float sum, const int bf16) {
    if (T->sinks) {
        float sink = T->sinks[head], best = sink > top ? sink : top;
        float scale = expf(top - best);
        sum = sum * scale + expf(sink - best);
        sum = scale > 0.0f ? sum / scale : INFINITY;
    }
    float inverse = sum > 0.0f ? 1.0f / sum : (sum == 0.0f ? 0.0f : sum);
    int64_t token = S->cu_seqlens[item->seq] + t;
    int64_t to = (token * L->num_heads + head) * L->v_head_dim;
    for (int64_t d = 0; d < L->v_head_dim; d++) store1(T->out, to + d, out[d] * inverse, bf16);
}

INLINE float *partial_row(const Layer *L, const Tensors *T, int64_t slot, int64_t h, int64_t g,
                          int64_t group) {
    return T->partial + ((slot * L->num_kv_heads + h) * group + g) * (L->v_pad + 2);
}

INLINE void attend_item(const Layer *L, const Step *S, const Tensors *T, const Item *item,
                        int64_t h, const int bf16) {
    int64_t group = L->num_heads / L->num_kv_heads;
    int64_t rows = (item->token1 - item->token0) * group;
    Scratch s;
    if (!scratch(L, rows, &s)) abort();
    load_rows(L, S, T, item, h, group, &s, bf16);
    for (int64_t key = item->key0; key < item->key1; key += TILE) {
        int64_t stop = key + TILE < item->key1 ? key + TILE : item->key1;
        find_keys(L, S->tables + item->seq * S->table_stride, h, key, stop, &s, bf16);
        for (int64_t r = 0; r < rows; r += GROUP) {
            Tile tile = {rows - r < GROUP ? rows - r : GROUP, key, stop, s.keys, s.values,
                         s.low + r, s.high + r, s.q + r * L->head_dim, s.scores,
                         s.out + r * L->v_pad, s.top + r, s.sums + r * LANES, r == 0};
            attend_tile(L, &tile, bf16);
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t t = item->token0 + r / group, g = r % group;
        const float *out = s.out + r * L->v_pad;
        float sum = 0.0f;
        for (int c = 0; c < LANES; c++) sum += s.sums[r * LANES + c];
        if (item->num_splits == 1) {
            write_row(L, S, T, item, t, h * group + g, out, s.top[r], sum, bf16);
            continue;
        }
        float *to = partial_row(L, T, item->slot + r / group, h, g, group);
        memcpy(to, out, (size_t)L->v_pad * sizeof(float));
        to[L->v_pad] = s.top[r];
        to[L->v_pad + 1] = sum;
    }
}

/* Join the parts of one item's rows, in the order of their keys, into the first part. */
INLINE void join_item(const Layer *L, const Step *S, const Tensors *T, const Item *item, int64_t h,
                      const int bf16) {
    int64_t group = L->num_heads / L->num_kv_heads, tokens = item->token1 - item->token0;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t g = 0; g < group; g++) {
            float *into = partial_row(L, T, item->slot + t, h, g, group);
            float *top = into + L->v_pad, *sum = top + 1;
            for (int64_t i = 1; i < item->num_splits; i++) {
                float *part = partial_row(L, T, item->slot + i * tokens + t, h, g, group);
                float best = *top > part[L->v_pad] ? *top : part[L->v_pad];
                float a = expf(*top - best), b = expf(part[L->v_pad] - best);
                for (int64_t d = 0; d < L->v_head_dim; d++) into[d] = into[d] * a + part[d] * b;
                *sum = *sum * a + part[L->v_pad + 1] * b;
                *top = best;
            }
            write_row(L, S, T, item, item->token0 + t, h * group + g, into, *top, *sum, bf16);
        }
}

INLINE void attend(const Layer *L, const Step *S, const Tensors *T, const int bf16) {
    const Item *items = (const Item *)S->items;
/* Head by head: rows that share a prefix find its keys of one head in the cache. */
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < S->num_items * L->num_kv_heads; i++)
        attend_item(L, S, T, items + i % S->num_items, i / S->num_items, bf16);
    if (!T->partial) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < S->num_items * L->num_kv_heads; i++) {
        const Item *item = items + i / L->num_kv_heads;
        if (item->num_splits > 1 && item->split == 0)
            join_item(L, S, T, item, i % L->num_kv_heads, bf16);
    }
}

void attend_share(const Layer *L, const Step *S, const Tensors *T) {
    if (in_pairs(L))
        attend(L, S, T, IN_PAIRS);
    else if (L->bf16)
        attend(L, S, T, 1);
    else
        attend(L, S, T, 0);
}

/* Write the step's keys and values to their slots. */
EXPORT void paged_write(const Layer *L, const Step *S, const Tensors *T) {
#pragma omp parallel for schedule(static) num_threads((int)S->threads)
    for (int64_t t = 0; t < S->num_tokens; t++) write_token(L, S, T, t);
}

/* Write the step's keys and values to their slots, then attend. */
EXPORT void paged_attention(const Layer *L, const Step *S, const Tensors *T) {
#pragma omp parallel num_threads((int)S->threads)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < S->num_tokens; t++) write_token(L, S, T, t);
        attend_share(L, S, T);
    }
}
