/* One linear layer of a step, and the kernels that compute a thread's share of it. Call them from
   every thread of a parallel region; they return when the whole layer is done. */
#ifndef BATCHGEN_CPU_LINEAR_H
#define BATCHGEN_CPU_LINEAR_H

#include "common.h"

typedef struct {
    const void *x;        /* [num_rows, num_inputs], row stride x_stride */
    const void *weight;   /* packed by the kernel that reads it */
    const float *bias;    /* [num_outputs] or null */
    const void *residual; /* added to the answer, laid out like it (may be it); or null */
    void *out;            /* [num_rows, num_outputs], row stride out_stride */
    int64_t num_rows, num_inputs, num_outputs, x_stride, out_stride, threads;
} Linear;

void gemm_share(const Linear *A); /* float32 */
void amx_share(const Linear *A);  /* bfloat16, where amx_start() said 1 */

#endif
