/* Draws of a step's rows: temperature, top-k, top-p, min-p, then the token at which the running sum of
   what is left passes the draw. A row stays in the second-level cache from the first to the last, and
   its token depends on that row alone. The meaning is that of sampling/sampler.py. */
#include <math.h>
#include <stdlib.h>

#include "common.h"

#define BLOCK 256      /* tokens whose sum is kept: the draw is looked for block by block */
#define BUCKETS 2048   /* of weights by their first bits: 8 from one power of two to the next */
#define LIKELY 0x1p-16f /* of the largest: less likely tokens are rarely needed by a filter */

typedef struct {
    float *scores;  /* [vocab], of the row, divided by its temperature */
    float *weights; /* [vocab]: e^(score - best) */
    double *blocks; /* sums of weights */
    int64_t vocab, count;
    int32_t *list; /* [count]: tokens that the filters look at, in order of their ids */
    struct Token { float score, weight; } *sorted;
    double mass[BUCKETS]; /* of the list, by bucket */
    int32_t counts[BUCKETS];
} Row;

INLINE int bucket_of(float weight) {
    uint32_t bits;
    memcpy(&bits, &weight, 4);
    return bits >> 20 & (BUCKETS - 1);
}

/* Weights of tokens below the floor become 0; the sum of each block. */
INLINE void sum_blocks(const Row *R, float floor, float best, float temperature, const int first) {
    for (int64_t b = 0; b * BLOCK < R->vocab; b++) {
        vf sum = splat(0.0f);
        int64_t end = (b + 1) * BLOCK < R->vocab ? (b + 1) * BLOCK : R->vocab, i = b * BLOCK;
        double rest = 0.0;
        for (; i + LANES <= end; i += LANES) {
            vf score = load(R->scores, i, 0), weight;
            if (first) {
                score = score / splat(temperature);
                store(R->scores, i, score, 0);
                weight = vexp(score - best);
            } else {
                weight = vselect(score >= splat(floor), load(R->weights, i, 0), splat(0.0f));
            }
            store(R->weights, i, weight, 0);
            sum += weight;
        }
        for (; i < end; i++) {
            if (first) {
                R->scores[i] /= temperature;
                R->weights[i] = expf(R->scores[i] - best);
            } else if (!(R->scores[i] >= floor)) {
                R->weights[i] = 0.0f;
            }
            rest += R->weights[i];
        }
        for (int c = 0; c < LANES; c++) rest += sum[c];
        R->blocks[b] = rest;
    }
}

/* The tokens with so large a weight, by bucket. */
static void list_tokens(Row *R, float least) {
    int64_t count = 0;
    for (int64_t i = 0; i < R->vocab; i++) {
        R->list[count] = (int32_t)i;
        count += !(R->weights[i] < least);
    }
    R->count = count;
    memset(R->mass, 0, sizeof R->mass);
    memset(R->counts, 0, sizeof R->counts);
    for (int64_t i = 0; i < count; i++) {
        float weight = R->weights[R->list[i]];
        R->mass[bucket_of(weight)] += weight;
        R->counts[bucket_of(weight)]++;
    }
}

static int more_likely(const void *a, const void *b) {
    float x = ((const struct Token *)a)->score, y = ((const struct Token *)b)->score;
    return (x < y) - (x > y);
}

/* The score of the token, most likely first, with which there are `most` or their weights are
   `wanted`; -inf: the list has fewer. */
static float floor_of(Row *R, int64_t most, double wanted) {
    int64_t count = 0, found = 0;
    double mass = 0.0;
    int b = BUCKETS - 1;
    for (; b >= 0 && count + R->counts[b] < most && mass + R->mass[b] < wanted; b--)
        count += R->counts[b], mass += R->mass[b];
    if (b < 0) return -INFINITY;
    for (int64_t i = 0; i < R->count; i++) {
        int32_t token = R->list[i];
        if (bucket_of(R->weights[token]) == b)
            R->sorted[found++] = (struct Token){R->scores[token], R->weights[token]};
    }
    qsort(R->sorted, (size_t)found, sizeof *R->sorted, more_likely);
    for (int64_t i = 0; i < found; i++) {
        count++, mass += R->sorted[i].weight;
        if (count >= most || mass >= wanted) return R->sorted[i].score;
    }
    return found ? R->sorted[found - 1].score : -INFINITY;
}

/* Of the likely tokens, of all where they do not suffice. */
static float filter_floor(Row *R, int64_t most, double wanted) {
    if (R->count < R->vocab) {
        float floor = floor_of(R, most, wanted);
        if (floor > -INFINITY) return floor;
        list_tokens(R, 0.0f);
    }
    return floor_of(R, most, wanted);
}

/* Top-k and top-p; weights below the floor are dropped between them. */
static float both_floors(Row *R, int64_t top_k, float top_p) {
    float floor = -INFINITY;
    double total = 0.0;
    list_tokens(R, LIKELY);
    if (top_k > 0 && top_k < R->vocab) floor = filter_floor(R, top_k, INFINITY);
    if (!(top_p < 1.0f)) return floor;
    if (floor > -INFINITY)
        for (int64_t i = 0; i < R->count; i++)
            total += R->scores[R->list[i]] >= floor ? R->weights[R->list[i]] : 0.0f;
    else
        for (int64_t b = 0; b * BLOCK < R->vocab; b++) total += R->blocks[b];
    float nucleus = filter_floor(R, R->vocab, (double)top_p * total);
    return nucleus > floor ? nucleus : floor;
}

/* The first token at which the running sum passes `share` of the total; where rounding left none, the
   last one that adds something. */
static int64_t token_at(const Row *R, double share) {
    int64_t blocks = (R->vocab + BLOCK - 1) / BLOCK, block = 0, last = 0;
    double total = 0.0, sum = 0.0;
    for (int64_t b = 0; b < blocks; b++) {
        total += R->blocks[b];
        if (R->blocks[b] > 0.0) last = b;
    }
    double target = share * total;
    while (block < last && !(sum + R->blocks[block] > target)) sum += R->blocks[block++];
    int64_t end = (block + 1) * BLOCK < R->vocab ? (block + 1) * BLOCK : R->vocab, found = block * BLOCK;
    for (int64_t i = block * BLOCK; i < end; i++) {
        if (R->weights[i] > 0.0f) found = i;
        sum += R->weights[i];
        if (sum > target && R->weights[i] > 0.0f) break;
    }
    return found;
}

static int64_t draw_row(Row *R, float best, float temperature, int64_t top_k, float top_p,
                        float log_min_p, double share) {
    best /= temperature;
    sum_blocks(R, 0.0f, best, temperature, 1);
    float floor = -INFINITY;
    if ((top_k > 0 && top_k < R->vocab) || top_p < 1.0f) floor = both_floors(R, top_k, top_p);
    if (best + log_min_p > floor) floor = best + log_min_p;
    if (floor > -INFINITY) sum_blocks(R, floor, 0.0f, 0.0f, 0);
    return token_at(R, share);
}

/* tokens[r] of the rows drawing[r] of scores [.., vocab], which are overwritten. `best`: their largest
   scores. No filter: top_k 0, top_p 1, log_min_p -inf. Returns 0 when memory ran out. */
EXPORT int64_t draw_rows(float *scores, const int64_t *drawing, const float *best,
                         const float *temperature, const int64_t *top_k, const float *top_p,
                         const float *log_min_p, const double *shares, int64_t *tokens,
                         int64_t rows, int64_t vocab, int64_t threads) {
    int64_t whole = 1;
#pragma omp parallel num_threads((int)(rows < threads ? rows : threads)) reduction(&& : whole)
    {
        Row *R = malloc(sizeof *R);
        float *weights = malloc((size_t)vocab * sizeof *weights);
        int32_t *list = malloc((size_t)(vocab + 1) * sizeof *list);
        struct Token *sorted = malloc((size_t)vocab * sizeof *sorted);
        double *blocks = malloc((size_t)((vocab + BLOCK - 1) / BLOCK) * sizeof *blocks);
        whole = R && weights && list && sorted && blocks;
#pragma omp for schedule(dynamic, 1)
        for (int64_t r = 0; r < rows; r++) {
            if (!whole) continue;
            R->scores = scores + drawing[r] * vocab, R->weights = weights, R->vocab = vocab;
            R->list = list, R->sorted = sorted, R->blocks = blocks;
            tokens[r] = draw_row(R, best[r], temperature[r], top_k[r], top_p[r], log_min_p[r],
                                 shares[r]);
        }
        free(R), free(weights), free(list), free(sorted), free(blocks);
    }
    return whole;
}
