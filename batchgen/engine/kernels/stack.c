/* A stack of decoder layers of Llama's shape in one parallel region: norm, q/k/v, rotary embedding,
   paged attention, o + residual, norm, gate/up, silu, down + residual. */
#include "levels.h"
#include "paged.h"
#include "quant.h"

typedef struct {
    const float *input_norm, *post_norm;    /* [hidden] */
    const float *q_norm, *k_norm;           /* [head_dim] or null */
    Weight qkv, o, gate_up, down;
    double input_eps, post_eps, q_eps, k_eps;
    int64_t input_round, post_round, q_round, k_round; /* round before the weight: see norm_row */
} Block;

typedef struct {
    int64_t num_blocks, hidden, intermediate;
    const Block *blocks;
    const Layer *const *layers; /* attention of each block */
} Stack;

typedef struct {
    void *x;         /* [num_tokens, hidden]: in and out */
    void *normed;    /* [num_tokens, hidden] */
    void *qkv;       /* [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim] */
    void *attended;  /* [num_tokens, num_heads * head_dim] */
    void *gate_up;   /* [num_tokens, 2 * intermediate] */
    void *active;    /* [num_tokens, intermediate] */
    const void *cos, *sin; /* [num_tokens, head_dim], row stride angle_stride */
    float *partial;  /* see Tensors */
    int16_t *levels; /* of the rows that go into a product with 8 bits: [num_tokens, widest] */
    float *level_scale; /* [num_tokens] */
    void *rounded; /* scratch memory for products with a GGUF file's blocks, or null */
    int64_t angle_stride;
    /* The tokens for which alone the last block is to answer, or null: as a step of their own, and
       their places in the step, ascending. */
    const Step *ends;
    const int64_t *end_tokens;
} Pass;

/* Row r of x [num_tokens, size] is complete: put it as the weight wants it. */
INLINE void hand_over(const Weight *W, const Pass *P, const void *x, int64_t r, int64_t size,
                      const int bf16) {
    if (W->kind == INT8) level_row(x, P->levels, P->level_scale, r, size, bf16);
}

INLINE void norms(const float *weight, const Weight *next, const Pass *P, int64_t rows,
                  int64_t size, double eps, int64_t round_first, const int bf16) {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        norm_row(P->x, weight, P->normed, r * size, size, (float)eps, (int)round_first, bf16);
        hand_over(next, P, P->normed, r, size, bf16);
    }
}

/* x has been handed over. */
INLINE void linear(const Weight *W, const Pass *P, const void *x, const void *residual, void *out,
                   int64_t rows, int64_t inputs, int64_t outputs, int64_t threads,
                   const int bf16) {
    int levels = W->kind == INT8;
    const Linear A = {levels ? P->levels : x, P->level_scale, *W, residual, out, rows, inputs,
                      outputs, levels ? level_stride(inputs) : inputs, outputs, threads, bf16};
    if (W->kind == BLOCKS)
        quant_share(&A, P->rounded, bf16);
    else
        linear_share(&A);
}

/* One token's queries and keys: normed per head where the model does so, then rotated in place. */
INLINE void turn(const Block *B, const Layer *L, const Pass *P, int64_t t, const int bf16) {
    int64_t heads = L->num_heads + L->num_kv_heads, size = L->head_dim;
    int64_t at = t * (heads + L->num_kv_heads) * size;
    for (int64_t h = 0; h < heads; h++, at += size) {
        int is_key = h >= L->num_heads;
        const float *weight = is_key ? B->k_norm : B->q_norm;
        if (weight)
            norm_row(P->qkv, weight, P->qkv, at, size, (float)(is_key ? B->k_eps : B->q_eps),
                     (int)(is_key ? B->k_round : B->q_round), bf16);
        rope_head(P->qkv, P->cos, P->sin, P->qkv, at, t * P->angle_stride, at, size / 2, bf16);
    }
}

/* Put the rows of the last block's tokens at the front of x and qkv. Their places ascend, so none is
   overwritten before it is read. */
INLINE void gather_ends(const Pass *P, int64_t hidden, int64_t width, const int bf16) {
    int64_t bytes = bf16 ? 2 : 4;
#pragma omp single
    for (int64_t i = 0; i < P->ends->num_tokens; i++) {
        int64_t t = P->end_tokens[i];
        if (t == i) continue;
        memcpy((char *)P->x + i * hidden * bytes, (char *)P->x + t * hidden * bytes,
               (size_t)(hidden * bytes));
        memcpy((char *)P->qkv + i * width * bytes, (char *)P->qkv + t * width * bytes,
               (size_t)(width * bytes));
    }
}

/* Of all tokens, or of P->ends, whose rows are first then. */
INLINE void attention(const Block *B, const Layer *L, const Step *S, const Pass *P, int64_t hidden,
                      int is_last, const int bf16) {
    int64_t size = L->head_dim, width = (L->num_heads + 2 * L->num_kv_heads) * size;
    char *k = (char *)P->qkv + L->num_heads * size * (bf16 ? 2 : 4);
    char *v = k + L->num_kv_heads * size * (bf16 ? 2 : 4);
    const Tensors T = {P->qkv, k, v, P->attended, 0, P->partial, width, size, width, size, width,
                       size};
#pragma omp for schedule(static)
    for (int64_t t = 0; t < S->num_tokens; t++) {
        turn(B, L, P, t, bf16);
        write_token(L, S, &T, t);
    }
    if (is_last) gather_ends(P, hidden, width, bf16);
    attend_share(L, is_last ? P->ends : S, &T);
}

INLINE void run_block(const Stack *H, int64_t b, const Step *S, const Pass *P, const int bf16) {
    const Block *B = H->blocks + b;
    const Layer *L = H->layers[b];
    int64_t rows = S->num_tokens, size = H->intermediate, threads = S->threads;
    int64_t queries = L->num_heads * L->head_dim;
    int64_t width = queries + 2 * L->num_kv_heads * L->head_dim;
    int is_last = P->ends && b == H->num_blocks - 1;
    norms(B->input_norm, &B->qkv, P, rows, H->hidden, B->input_eps, B->input_round, bf16);
    linear(&B->qkv, P, P->normed, 0, P->qkv, rows, H->hidden, width, threads, bf16);
    attention(B, L, S, P, H->hidden, is_last, bf16);
    if (is_last) rows = P->ends->num_tokens;
    if (B->o.kind == INT8) {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) hand_over(&B->o, P, P->attended, r, queries, bf16);
    }
    linear(&B->o, P, P->attended, P->x, P->x, rows, queries, H->hidden, threads, bf16);
    norms(B->post_norm, &B->gate_up, P, rows, H->hidden, B->post_eps, B->post_round, bf16);
    linear(&B->gate_up, P, P->normed, 0, P->gate_up, rows, H->hidden, 2 * size, threads, bf16);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        silu_row(P->gate_up, P->active, r, 2 * size, size, bf16);
        hand_over(&B->down, P, P->active, r, size, bf16);
    }
    linear(&B->down, P, P->active, P->x, P->x, rows, size, H->hidden, threads, bf16);
}

/* All blocks over the step's tokens, P->x in place; with P->ends only their rows, at its front. */
EXPORT void run_stack(const Stack *H, const Step *S, const Pass *P) {
#pragma omp parallel num_threads((int)S->threads)
    for (int64_t b = 0; b < H->num_blocks; b++) {
        if (H->layers[b]->bf16)
            run_block(H, b, S, P, 1);
        else
            run_block(H, b, S, P, 0);
    }
}
