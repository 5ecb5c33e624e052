/* From a GGUF file's blocks to panels of 16 outputs (see quant.h), and rows of panels to values. */
#include "quant.h"

/* One block of the file: its codes in order of the inputs; w = scale * (code - offset) - minimum. */
typedef struct {
    uint16_t scale, minimum;
    uint8_t sub_scales[16], sub_mins[8]; /* of K kinds; Q6_K's scales are signed, one for 16 inputs */
    uint8_t codes[SUPER];
} Block;

INLINE uint16_t half_at(const uint8_t *p) {
    uint16_t x;
    memcpy(&x, p, 2);
    return x;
}

INLINE int64_t file_block_bytes(int64_t kind) {
    switch (kind) {
        case Q4_0: return 18;
        case Q4_1: return 20;
        case Q5_0: return 22;
        case Q5_1: return 24;
        case Q8_0: return 34;
        case Q4_K: return 144;
        case Q5_K: return 176;
        default: return 210;
    }
}

static void read_small(const uint8_t *from, int64_t kind, Block *to) {
    to->scale = half_at(from), from += 2;
    if (has_min(kind)) to->minimum = half_at(from), from += 2;
    if (kind == Q8_0) {
        for (int i = 0; i < SUB; i++) to->codes[i] = from[i] ^ 0x80;
        return;
    }
    uint32_t high = 0;
    if (high_bits(kind)) memcpy(&high, from, 4), from += 4;
    for (int i = 0; i < 16; i++) {
        to->codes[i] = (uint8_t)((from[i] & 15) | (high >> i & 1) << 4);
        to->codes[i + 16] = (uint8_t)((from[i] >> 4) | (high >> (i + 16) & 1) << 4);
    }
}

/* Eight scales and minimums of 6 bits each in 12 bytes. */
static void read_six_bits(const uint8_t *q, Block *to) {
    for (int j = 0; j < 4; j++) {
        to->sub_scales[j] = q[j] & 63;
        to->sub_mins[j] = q[j + 4] & 63;
        to->sub_scales[j + 4] = (uint8_t)((q[j + 8] & 15) | q[j] >> 6 << 4);
        to->sub_mins[j + 4] = (uint8_t)(q[j + 8] >> 4 | q[j + 4] >> 6 << 4);
    }
}

static void read_k45(const uint8_t *from, int64_t kind, Block *to) {
    const uint8_t *high = from + 16, *low = kind == Q5_K ? from + 48 : from + 16;
    to->scale = half_at(from);
    to->minimum = half_at(from + 2);
    read_six_bits(from + 4, to);
    for (int i = 0; i < SUPER; i++) {
        int sub = i / SUB, l = i % SUB;
        uint8_t code = low[sub / 2 * SUB + l] >> 4 * (sub % 2) & 15;
        if (kind == Q5_K) code |= (uint8_t)((high[l] >> sub & 1) << 4);
        to->codes[i] = code;
    }
}

static void read_k6(const uint8_t *from, Block *to) {
    to->scale = half_at(from + 208);
    memcpy(to->sub_scales, from + 192, 16);
    for (int i = 0; i < SUPER; i++) {
        int half = i / 128, part = i % 128 / SUB, l = i % SUB;
        uint8_t low = from[half * 64 + part % 2 * SUB + l] >> 4 * (part / 2) & 15;
        uint8_t high = from[128 + half * SUB + l] >> 2 * part & 3;
        to->codes[i] = (uint8_t)(low | high << 4);
    }
}

static void read_block(const uint8_t *from, int64_t kind, Block *to) {
    if (kind == Q6_K)
        read_k6(from, to);
    else if (is_wide(kind))
        read_k45(from, kind, to);
    else
        read_small(from, kind, to);
}

/* Where the code of input i of a unit lies: its line, and the bits above it in a byte. */
INLINE int64_t code_line(int64_t kind, int i) {
    int group = i % SUB / 4;
    return codes_at(kind) + i / SUB * sub_bytes(kind) + (kind == Q8_0 ? group : group % 4) * QLINE;
}
INLINE int code_shift(int64_t kind, int i) { return kind == Q8_0 ? 0 : i % SUB / 16 * 4; }
INLINE int64_t high_line(int64_t kind, int i) {
    int64_t sub = high_at(kind) + i / SUB * high_bits(kind) * QLINE;
    return sub + (kind == Q6_K ? i % SUB / 16 * QLINE : 0);
}
INLINE int high_shift(int64_t kind, int i) {
    int group = i % SUB / 4;
    return kind == Q6_K ? group % 4 * 2 : group;
}

static void write_block(const Block *from, int64_t kind, int64_t output, uint8_t *unit) {
    memcpy(unit + 2 * output, &from->scale, 2);
    if (has_min(kind)) memcpy(unit + 32 + 2 * output, &from->minimum, 2);
    if (is_wide(kind)) {
        uint8_t *scales = unit + sub_scales_at(kind) + output, *mins = unit + sub_mins_at(kind) + output;
        for (int j = 0; j < (kind == Q6_K ? 16 : 8); j++) scales[j * OUTPUTS] = from->sub_scales[j];
        for (int j = 0; j < 8 && kind != Q6_K; j++) mins[j * OUTPUTS] = from->sub_mins[j];
    }
    for (int i = 0; i < unit_inputs(kind); i++) {
        int64_t at = output * 4 + i % 4;
        int low = kind == Q8_0 ? from->codes[i] : from->codes[i] & 15;
        unit[code_line(kind, i) + at] |= (uint8_t)(low << code_shift(kind, i));
        if (high_bits(kind))
            unit[high_line(kind, i) + at] |= (uint8_t)(from->codes[i] >> 4 << high_shift(kind, i));
    }
}

EXPORT int64_t quant_panel_bytes(int64_t kind, int64_t num_inputs) {
    return num_inputs / unit_inputs(kind) * unit_bytes(kind);
}

/* Rows of the file's blocks, output r at rows[r], into panels; outputs past the last are zeros. */
EXPORT void quant_pack(const uint8_t *const *rows, uint8_t *panels, int64_t kind,
                       int64_t num_outputs, int64_t num_inputs, int64_t threads) {
    int64_t size = quant_panel_bytes(kind, num_inputs), units = num_inputs / unit_inputs(kind);
#pragma omp parallel for num_threads((int)threads)
    for (int64_t p = 0; p < (num_outputs + OUTPUTS - 1) / OUTPUTS; p++) {
        Block block;
        memset(panels + p * size, 0, (size_t)size);
        for (int64_t o = 0; o < OUTPUTS && p * OUTPUTS + o < num_outputs; o++)
            for (int64_t u = 0; u < units; u++) {
                read_block(rows[p * OUTPUTS + o] + u * file_block_bytes(kind), kind, &block);
                write_block(&block, kind, o, panels + p * size + u * unit_bytes(kind));
            }
    }
}

/* The values of four neighbouring inputs, i the first, of one output. */
INLINE void four_values(const uint8_t *unit, int64_t kind, int64_t output, int i, float d, float m,
                        float *to) {
    const uint8_t *low = unit + code_line(kind, i) + output * 4;
    const uint8_t *high = unit + high_line(kind, i) + output * 4;
    const uint8_t *scales = unit + sub_scales_at(kind) + output;
    if (kind == Q6_K) {
        d *= (float)(int8_t)scales[i / 16 * OUTPUTS];
    } else if (is_wide(kind)) {
        d *= (float)scales[i / SUB * OUTPUTS];
        m *= -(float)unit[sub_mins_at(kind) + output + i / SUB * OUTPUTS];
    }
    for (int c = 0; c < 4; c++) {
        int code = low[c] >> code_shift(kind, i) & (kind == Q8_0 ? 255 : 15);
        if (high_bits(kind))
            code |= (high[c] >> high_shift(kind, i) & (kind == Q6_K ? 3 : 1)) << 4;
        to[c] = d * (float)(code - code_offset(kind)) + m;
    }
}

/* Rows `ids` of a packed weight, [num_ids, num_inputs] float32 or bfloat16. */
EXPORT void quant_rows(const uint8_t *panels, int64_t kind, const int64_t *ids, void *out,
                       int64_t num_ids, int64_t num_inputs, int64_t bf16, int64_t threads) {
    int64_t size = quant_panel_bytes(kind, num_inputs), each = unit_inputs(kind);
#pragma omp parallel for num_threads(num_ids < 8 ? 1 : (int)threads)
    for (int64_t r = 0; r < num_ids; r++)
        for (int64_t from = 0; from < num_inputs; from += each) {
            const uint8_t *unit = panels + ids[r] / OUTPUTS * size + from / each * unit_bytes(kind);
            int64_t output = ids[r] % OUTPUTS;
            float d = half_to_float(half_at(unit + 2 * output)), values[4];
            float m = has_min(kind) ? half_to_float(half_at(unit + 32 + 2 * output)) : 0.0f;
            for (int i = 0; i < each; i += 4) {
                four_values(unit, kind, output, i, d, m, values);
                for (int c = 0; c < 4; c++)
                    store1(out, r * num_inputs + from + i + c, values[c], (int)bf16);
            }
        }
}
