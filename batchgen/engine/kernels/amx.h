/* Intel's matrix tiles (AMX): eight registers of up to 16 rows of 64 bytes. With -DTILES_IN_C their
   instructions are plain C, so that processors without them compute, and check, the same products. */
#ifndef BATCHGEN_CPU_AMX_H
#define BATCHGEN_CPU_AMX_H

#include "common.h"

#define TILE_ROWS 16
#define TILE_BYTES 64 /* of a row */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

#if defined(__AVX512BF16__) && defined(TILES_IN_C)
#define HAS_TILES 1
#include <stdlib.h>

#undef _tile_zero /* the compiler's are macros */
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#undef _tile_dpbf16ps
#define _tile_loadconfig set_tiles
#define _tile_release forget_tiles

static __thread TileConfig tile_shapes;
static __thread uint8_t tile_data[8][TILE_ROWS][TILE_BYTES];

INLINE void _tile_loadconfig(const void *config) {
    memcpy(&tile_shapes, config, sizeof tile_shapes);
    memset(tile_data, 0, sizeof tile_data);
}

INLINE void _tile_release(void) { memset(&tile_shapes, 0, sizeof tile_shapes); }

INLINE void _tile_zero(int t) { memset(tile_data[t], 0, sizeof tile_data[t]); }

INLINE void _tile_loadd(int t, const void *from, int64_t stride) {
    _tile_zero(t);
    for (int r = 0; r < tile_shapes.rows[t]; r++)
        memcpy(tile_data[t][r], (const char *)from + r * stride, tile_shapes.row_bytes[t]);
}

INLINE void _tile_stored(int t, void *to, int64_t stride) {
    for (int r = 0; r < tile_shapes.rows[t]; r++)
        memcpy((char *)to + r * stride, tile_data[t][r], tile_shapes.row_bytes[t]);
}

/* Where the processor would end the process. */
INLINE void tile_fit(int sum, int a, int b) {
    const TileConfig *S = &tile_shapes;
    if (S->palette != 1 || S->rows[a] != S->rows[sum] || S->row_bytes[b] != S->row_bytes[sum] ||
        S->rows[b] * 4 != S->row_bytes[a] || !S->rows[sum])
        abort();
}

/* sum[m][n] += a[m][k] . b[k][n], of four bytes or two numbers in bfloat16 each. */
INLINE void _tile_dpbusd(int sum, int a, int b) {
    tile_fit(sum, a, b);
    for (int m = 0; m < tile_shapes.rows[sum]; m++)
        for (int n = 0; n < tile_shapes.row_bytes[sum] / 4; n++)
            for (int k = 0; k < tile_shapes.row_bytes[a]; k++)
                ((int32_t *)tile_data[sum][m])[n] +=
                    tile_data[a][m][k] * (int8_t)tile_data[b][k / 4][4 * n + k % 4];
}

INLINE void _tile_dpbf16ps(int sum, int a, int b) {
    tile_fit(sum, a, b);
    for (int m = 0; m < tile_shapes.rows[sum]; m++)
        for (int n = 0; n < tile_shapes.row_bytes[sum] / 4; n++)
            for (int k = 0; k < tile_shapes.row_bytes[a] / 2; k++)
                ((float *)tile_data[sum][m])[n] +=
                    load1(tile_data[a][m], k, 1) * load1(tile_data[b][k / 2], 2 * n + k % 2, 1);
}
#elif defined(__AVX512BF16__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

#endif
