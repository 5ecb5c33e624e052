/* What one step of paged attention is made of, and its parts for a running parallel region. */
#ifndef BATCHGEN_CPU_PAGED_H
#define BATCHGEN_CPU_PAGED_H

#include "tile.h"

typedef struct {
    const int32_t *cu_seqlens, *seq_lens, *tables;
    const int64_t *slots;
    const void *items; /* Item [num_items] */
    int64_t table_stride, num_tokens, num_items, threads;
} Step;

typedef struct {
    const void *q, *k, *v;
    void *out;            /* [num_tokens, num_heads, v_head_dim] */
    const float *sinks;   /* [num_heads] or null */
    float *partial;       /* [slots, num_kv_heads, group, v_pad + 2] */
    int64_t q_token, q_head, k_token, k_head, v_token, v_head; /* strides */
} Tensors;

/* Put one token's keys and values into their slot, if it has one. */
void write_token(const Layer *L, const Step *S, const Tensors *T, int64_t t);

/* A thread's share of attention over what is written; returns when all of it is done. */
void attend_share(const Layer *L, const Step *S, const Tensors *T);

#endif
