/* A stack of decoder layers of Llama's shape in one parallel region: norm, q/k/v, rotary embedding,
   paged attention, o + residual, norm, gate/up, silu, down + residual. */
#include "linear.h"
#include "paged.h"
#include "rows.h"

typedef struct {
    const float *input_norm, *post_norm;    /* [hidden] */
    const float *q_norm, *k_norm;           /* [head_dim] or null */
    const void *qkv, *o, *gate_up, *down;   /* packed */
    const float *qkv_bias, *o_bias, *gate_up_bias, *down_bias; /* or null */
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
    int64_t angle_stride;
} Pass;

INLINE void norms(const void *x, const float *weight, void *out, int64_t rows, int64_t size,
                  double eps, int64_t round_first, const int bf16) {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        norm_row(x, weight, out, r * size, size, (float)eps, (int)round_first, bf16);
}

INLINE void linear(const void *x, const void *weight, const float *bias, const void *residual,
                   void *out, int64_t rows, int64_t inputs, int64_t outputs, int64_t threads,
                   const int bf16) {
    const Linear A = {x, weight, bias, residual, out, rows, inputs, outputs, inputs, outputs,
                      threads};
    if (bf16)
        amx_share(&A);
    else
        gemm_share(&A);
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

INLINE void attention(const Block *B, const Layer *L, const Step *S, const Pass *P,
                      const int bf16) {
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
    attend_share(L, S, &T);
}

INLINE void run_block(const Stack *H, int64_t b, const Step *S, const Pass *P, const int bf16) {
    const Block *B = H->blocks + b;
    const Layer *L = H->layers[b];
    int64_t rows = S->num_tokens, size = H->intermediate, threads = S->threads;
    int64_t queries = L->num_heads * L->head_dim;
    int64_t width = queries + 2 * L->num_kv_heads * L->head_dim;
    norms(P->x, B->input_norm, P->normed, rows, H->hidden, B->input_eps, B->input_round, bf16);
    linear(P->normed, B->qkv, B->qkv_bias, 0, P->qkv, rows, H->hidden, width, threads, bf16);
    attention(B, L, S, P, bf16);
    linear(P->attended, B->o, B->o_bias, P->x, P->x, rows, queries, H->hidden, threads, bf16);
    norms(P->x, B->post_norm, P->normed, rows, H->hidden, B->post_eps, B->post_round, bf16);
    linear(P->normed, B->gate_up, B->gate_up_bias, 0, P->gate_up, rows, H->hidden, 2 * size,
           threads, bf16);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        silu_row(P->gate_up, P->active, r, 2 * size, size, bf16);
    linear(P->active, B->down, B->down_bias, P->x, P->x, rows, size, H->hidden, threads, bf16);
}

/* All blocks over the step's tokens, P->x in place. */
EXPORT void run_stack(const Stack *H, const Step *S, const Pass *P) {
#pragma omp parallel num_threads((int)S->threads)
    for (int64_t b = 0; b < H->num_blocks; b++) {
        if (H->layers[b]->bf16)
            run_block(H, b, S, P, 1);
        else
            run_block(H, b, S, P, 0);
    }
}
