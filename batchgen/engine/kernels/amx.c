/* Linear layers in bfloat16 on Intel's matrix tiles (AMX): weights packed once in tile layout, each
   panel of 32 outputs read once from memory. Sums are float32, in the order of the inputs, whatever
   the number of rows. */
#include "amx.h"
#include "linear.h"

#define TILE_INPUTS 32
#define PANEL 32
#define ROW_BLOCK 256 /* rows kept in the second-level cache while a panel passes */

#if HAS_TILES
#define AHEAD 12288 /* bytes of weights asked for before they are needed */

#if defined(TILES_IN_C)
EXPORT int64_t amx_start(void) { return 1; }
#else
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023
#define TILE_DATA 18

/* Ask the kernel for the tile registers, for all threads of the process. 1 = granted. */
EXPORT int64_t amx_start(void) {
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

/* Tiles 0-3: sums, 4-5: rows, 6-7: weights. `top` rows in the first pair, `low` in the second. */
static void configure(int64_t top, int64_t low) {
    TileConfig config = {.palette = 1};
    const int64_t rows[8] = {top, top, low, low, top, low, TILE_ROWS, TILE_ROWS};
    for (int i = 0; i < 8; i++) {
        config.rows[i] = (uint8_t)(rows[i] ? rows[i] : 1);
        config.row_bytes[i] = TILE_BYTES;
    }
    _tile_loadconfig(&config);
}

/* Two tiles of sums beside each other: `rows` rows of 32 outputs from `first`. */
INLINE void write_whole(const Linear *A, float (*sums)[TILE_ROWS * LANES], int64_t row,
                        int64_t rows, int64_t first) {
    vf left = A->weight.bias ? load(A->weight.bias, first, 0) : splat(0.0f);
    vf right = A->weight.bias ? load(A->weight.bias, first + LANES, 0) : splat(0.0f);
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (row + r) * A->out_stride + first;
        vf a = load(sums[0], r * LANES, 0) + left, b = load(sums[1], r * LANES, 0) + right;
        if (A->residual) {
            a += load(A->residual, at, 1);
            b += load(A->residual, at + LANES, 1);
        }
        __m512bh both = _mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
        _mm512_storeu_si512((uint16_t *)A->out + at, (__m512i)both);
    }
}

INLINE void write_edge(const Linear *A, float (*sums)[TILE_ROWS * LANES], int64_t row,
                       int64_t rows, int64_t first) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < A->num_outputs - first; c++) {
            int64_t at = (row + r) * A->out_stride + first + c;
            float value = sums[c / LANES][r * LANES + c % LANES];
            if (A->weight.bias) value += A->weight.bias[first + c];
            if (A->residual) value += load1(A->residual, at, 1);
            store1(A->out, at, value, 1);
        }
}

INLINE void write_rows(const Linear *A, float (*sums)[TILE_ROWS * LANES], int64_t row,
                       int64_t rows, int64_t first) {
    if (A->num_outputs - first >= PANEL)
        write_whole(A, sums, row, rows, first);
    else
        write_edge(A, sums, row, rows, first);
}

/* Up to 32 rows against one panel; `fetch`: the weights still lie in memory. */
INLINE void multiply(const Linear *A, const uint16_t *panel, int64_t row, int64_t first,
                     int64_t top, int64_t low, const int pair, const int fetch) {
    const uint16_t *x = (const uint16_t *)A->x + row * A->x_stride;
    const uint16_t *under = x + TILE_ROWS * A->x_stride;
    int64_t stride = A->x_stride * 2;
    float sums[4][TILE_ROWS * LANES] __attribute__((aligned(64)));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < A->num_inputs; i += TILE_INPUTS, panel += 2 * 512) {
        if (fetch)
            for (int line = 0; line < 32; line++)
                _mm_prefetch((const char *)panel + AHEAD + line * 64, _MM_HINT_T1);
        _tile_loadd(6, panel, 64);
        _tile_loadd(7, panel + 512, 64);
        _tile_loadd(4, x + i, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (pair) {
            _tile_loadd(5, under + i, stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    write_rows(A, sums, row, top, first);
    if (!pair) return;
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    write_rows(A, sums + 2, row + TILE_ROWS, low, first);
}

static void panel_rows(const Linear *A, int64_t p, int64_t row, int64_t end, int64_t shape[2]) {
    const uint16_t *panel = (const uint16_t *)A->weight.data + p * A->num_inputs * PANEL;
    int fetch = 1;
    for (; row < end; row += 2 * TILE_ROWS, fetch = 0) {
        int64_t top = end - row < TILE_ROWS ? end - row : TILE_ROWS;
        int64_t low = end - row - top < TILE_ROWS ? end - row - top : TILE_ROWS;
        if (top != shape[0] || low != shape[1]) configure(shape[0] = top, shape[1] = low);
        if (low && fetch)
            multiply(A, panel, row, p * PANEL, top, low, 1, 1);
        else if (low)
            multiply(A, panel, row, p * PANEL, top, low, 1, 0);
        else if (fetch)
            multiply(A, panel, row, p * PANEL, top, low, 0, 1);
        else
            multiply(A, panel, row, p * PANEL, top, low, 0, 0);
    }
}

void amx_share(const Linear *A) {
    int64_t panels = (A->num_outputs + PANEL - 1) / PANEL, shape[2] = {-1, -1};
    int64_t blocks = (A->num_rows + ROW_BLOCK - 1) / ROW_BLOCK;
    int64_t share = panels / (A->threads * 8) + 1;
#pragma omp for collapse(2) schedule(dynamic, share) nowait
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t p = 0; p < panels; p++) {
            int64_t end = (b + 1) * ROW_BLOCK;
            panel_rows(A, p, b * ROW_BLOCK, end < A->num_rows ? end : A->num_rows, shape);
        }
    if (shape[0] >= 0) _tile_release();
#pragma omp barrier
}
#else
EXPORT int64_t amx_start(void) { return 0; }
void amx_share(const Linear *A) { (void)A; }
#endif

EXPORT int64_t amx_panel(void) { return PANEL; }

/* weight [num_outputs, num_inputs] into panels [.., num_inputs / 32, 2, 16, 16, 2]: pairs of inputs
   beside each other, as a tile wants them; outputs past the last are zeros. */
EXPORT void amx_pack(const uint16_t *weight, uint16_t *packed, int64_t num_outputs,
                     int64_t num_inputs, int64_t threads) {
    int64_t panels = (num_outputs + PANEL - 1) / PANEL;
#pragma omp parallel for num_threads((int)threads)
    for (int64_t p = 0; p < panels; p++)
        for (int64_t i = 0; i < num_inputs; i++)
            for (int64_t o = 0; o < PANEL; o++) {
                int64_t from = p * PANEL + o, tile = i / TILE_INPUTS * 2 + o / TILE_ROWS;
                int64_t at = tile * 512 + i % TILE_INPUTS / 2 * 32 + o % TILE_ROWS * 2 + i % 2;
                packed[p * num_inputs * PANEL + at] =
                    from < num_outputs ? weight[from * num_inputs + i] : 0;
            }
}
