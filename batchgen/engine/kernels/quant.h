/* Weights that stay in the blocks of a GGUF file, rearranged so that 16 outputs lie side by side: in
   a line of 64 bytes, four neighbouring inputs of each of 16 outputs. A unit is one block of 16
   outputs; its fields come in this order (numbers of bytes):
     scale 32 (float16), minimum 32 (where the kind has one),
     scales and minimums of sub-blocks (K kinds; 6 bits of the file as bytes here),
     high bits (of 5 and 6 bit codes), codes (two groups of four inputs to a byte; 8 bit: one).
   Formats: ggml/src/ggml-common.h. */
#ifndef BATCHGEN_CPU_QUANT_H
#define BATCHGEN_CPU_QUANT_H

#include "linear.h"

enum { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14 };

#define OUTPUTS 16   /* of a panel */
#define QLINE 64     /* bytes: four inputs of each output */
#define SUB 32       /* inputs of a block, or of a sub-block of a K kind */
#define SUPER 256    /* inputs of a K kind's block */

typedef struct {
    const uint8_t *panels;
    int64_t kind, num_outputs;
} QuantPart;

/* One layer, of parts one above the other: outputs of the first part come first. */
typedef struct {
    int64_t num_parts;
    const QuantPart *parts;
} QuantWeight;

/* Rows in 8 bits, as the products want them: see quant_rows.c. */
typedef struct {
    int8_t *codes;     /* [rows, inputs] */
    float *scale;      /* [rows, inputs / SUB], wide: [rows, inputs / SUPER] */
    float *sum;        /* scale * sum of codes, like `scale`; wide: unused */
    int16_t *by_half;  /* wide: sums of 16 codes [rows, inputs / 16] */
    int16_t *by_sub;   /* wide: sums of 32 codes [rows, inputs / 32] */
    int64_t inputs;
} Rounded;

INLINE int is_wide(int64_t kind) { return kind >= Q4_K; }
INLINE int has_min(int64_t kind) {
    return kind == Q4_1 || kind == Q5_1 || kind == Q4_K || kind == Q5_K;
}
INLINE int high_bits(int64_t kind) {
    return kind == Q6_K ? 2 : kind == Q5_0 || kind == Q5_1 || kind == Q5_K ? 1 : 0;
}
INLINE int code_offset(int64_t kind) {
    return kind == Q4_0 ? 8 : kind == Q5_0 ? 16 : kind == Q6_K ? 32 : kind == Q8_0 ? 128 : 0;
}
INLINE int64_t unit_inputs(int64_t kind) { return is_wide(kind) ? SUPER : SUB; }

/* Where the fields of a unit begin, in bytes. */
INLINE int64_t sub_scales_at(int64_t kind) { return has_min(kind) ? 64 : 32; }
INLINE int64_t sub_mins_at(int64_t kind) { return sub_scales_at(kind) + 8 * OUTPUTS; }
INLINE int64_t high_at(int64_t kind) {
    return sub_scales_at(kind) + (is_wide(kind) ? 16 * OUTPUTS : 0);
}
INLINE int64_t codes_at(int64_t kind) {
    return high_at(kind) + high_bits(kind) * QLINE * (unit_inputs(kind) / SUB);
}
INLINE int64_t sub_bytes(int64_t kind) { return (kind == Q8_0 ? 8 : 4) * QLINE; }
INLINE int64_t unit_bytes(int64_t kind) {
    return codes_at(kind) + sub_bytes(kind) * (unit_inputs(kind) / SUB);
}

INLINE float half_to_float(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, rest = x & 0x7fff, bits;
    float out;
    if (rest >= 0x7c00) {
        bits = sign | 0x7f800000u | (rest & 0x3ff) << 13;
    } else {
        float scaled;
        bits = rest << 13;
        memcpy(&scaled, &bits, 4);
        scaled *= 0x1p112f; /* makes subnormal numbers normal */
        memcpy(&bits, &scaled, 4);
        bits |= sign;
    }
    memcpy(&out, &bits, 4);
    return out;
}

/* Bytes of scratch memory for `rows` rounded rows, both ways. */
INLINE int64_t rounded_bytes(int64_t rows, int64_t inputs) {
    return 2 * (rows * inputs * 5 / 4 + 6 * 64);
}

Rounded rounded_in(void *scratch, int64_t rows, int64_t inputs, int wide);
void round_row(const void *x, const Rounded *to, int64_t row, int64_t at, int wide, int bf16);
/* Which roundings the parts of a weight take: 1 narrow, 2 wide, 3 both. */
INLINE int roundings(const QuantWeight *W) {
    int found = 0;
    for (int64_t i = 0; i < W->num_parts; i++) found |= is_wide(W->parts[i].kind) ? 2 : 1;
    return found;
}
/* The thread's share of a layer, rounding included; `A->weight.data` is a QuantWeight. Call it from
   every thread of a parallel region: it returns when the whole layer is done. */
void quant_share(const Linear *A, void *scratch, int bf16);

#endif
