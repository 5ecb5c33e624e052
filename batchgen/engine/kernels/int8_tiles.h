/* Many rows of `int8_vnni.c` on matrix tiles (AMX): a group of inputs of up to 16 rows by 16 outputs
   is one product. Its whole numbers are those that `multiply` finds, and what follows is done in its
   order, so that the answers are equal bit for bit: which of the two computes a row is a matter of
   speed alone. */
#ifndef BATCHGEN_CPU_INT8_TILES_H
#define BATCHGEN_CPU_INT8_TILES_H

#include "amx.h"

#if HAS_TILES
#define FEWEST_ROWS 8 /* of a tile: with fewer it has little to do */
#define BATCH 4       /* groups whose products are under way at once */

typedef int32_t TileSums[BATCH][TILE_ROWS * LANES];

static int64_t tiles_wanted = 0;

/* Tiles 0-3: sums, 4-5: a group of the rows, 6-7: a group of 16 outputs. */
static void configure(int64_t rows) {
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.rows[i] = (uint8_t)(i < 6 ? rows : STEPS);
        config.row_bytes[i] = i == 4 || i == 5 ? GROUP : TILE_BYTES;
    }
    _tile_loadconfig(&config);
}

/* How many of the rows that are left go to the next tile; 0: they are too few. */
INLINE int64_t tile_height(int64_t left) {
    if (!tiles_wanted || left < FEWEST_ROWS) return 0;
    return left < TILE_ROWS ? left / 4 * 4 : TILE_ROWS;
}

/* sums[g] = x . codes of group g of `count`, [rows, 16]. */
INLINE void batch_sums(const char *x, int64_t stride, const int8_t *codes, int64_t count,
                       TileSums sums) {
#define GROUP_SUMS(G, X, W)                            \
    if (G < count) {                                   \
        _tile_zero(G);                                 \
        _tile_loadd(X, x + G * GROUP, stride);         \
        _tile_loadd(W, codes + G * CODES, PANEL * 4);  \
        _tile_dpbusd(G, X, W);                         \
        _tile_stored(G, sums[G], TILE_BYTES);          \
    }
    GROUP_SUMS(0, 4, 6)
    GROUP_SUMS(1, 5, 7)
    GROUP_SUMS(2, 4, 6)
    GROUP_SUMS(3, 5, 7)
}

/* acc[r] += scale * sums[g][r] + zero * totals[g]: as `multiply` does. */
INLINE void add_batch(TileSums sums, const char *scale, int64_t stride, int64_t groups,
                      const int16_t *totals, int64_t count, vf acc[TILE_ROWS], const int rows) {
    for (int64_t g = 0; g < count; g++, totals += PANEL, scale += sizeof(float)) {
        vf total = outputs_of(totals);
        _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++) {
            const float *of = (const float *)(scale + r * stride);
            vf some = (vf)_mm512_cvtepi32_ps(_mm512_load_si512(sums[g] + r * LANES));
            acc[r] = vfma(some, splat(*of), acc[r]);
            acc[r] = vfma(total, splat(of[groups]), acc[r]);
        }
    }
}

/* One chunk against `rows` rows. A batch's products are begun before the one before it is added up:
   from a tile's register to a vector's is a long way, through memory. */
INLINE void tile_sums(const Chunk *C, const Rows *R, float *sums, const int rows) {
    TileSums room[2] __attribute__((aligned(LINE)));
    int64_t batches = (C->count + BATCH - 1) / BATCH, last = WIDE * batches - 1;
    vf acc[TILE_ROWS];
    for (int64_t i = -1; i <= last; i++) {
        int64_t next = i + 1, from = next % batches * BATCH, left = C->count - from;
        if (next <= last)
            batch_sums(R->x + from * GROUP, R->stride,
                       R->codes + from * CODES + next / batches * LANES * 4, left, room[next % 2]);
        if (i < 0) continue;
        int64_t c = i / batches, g = i % batches * BATCH;
        if (g == 0) {
            _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
                acc[r] = C->from ? load(sums, r * PANEL + c * LANES, 0) : splat(0.0f);
        }
        add_batch(room[i % 2], (const char *)(R->scale + g), R->stride, R->groups,
                  R->totals + g * PANEL + c * LANES, C->count - g < BATCH ? C->count - g : BATCH,
                  acc, rows);
        if (i % batches == batches - 1) {
            _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
                store(sums, r * PANEL + c * LANES, acc[r], 0);
        }
    }
}

/* The same for the heights that there are; `shape`: of the tiles of this thread. */
static void tile_rows(const Chunk *C, int64_t row, int64_t height, float *sums, int64_t *shape) {
    const Rows R = rows_of(C, row);
    if (height != *shape) configure(*shape = height);
    switch (height) {
        case 8: tile_sums(C, &R, sums, 8); break;
        case 12: tile_sums(C, &R, sums, 12); break;
        default: tile_sums(C, &R, sums, 16); break;
    }
    if (C->from + C->count < R.groups) return;
    if (C->first + PANEL > C->A->num_outputs) {
        write_out(C->A, sums, row, C->first, height);
        return;
    }
    for (int64_t r = 0; r < height; r += ROWS, sums += ROWS * PANEL) {
        vf acc[ROWS][WIDE];
        for (int i = 0; i < ROWS * WIDE; i++) acc[i / WIDE][i % WIDE] = load(sums, i * LANES, 0);
        finish(C->A, acc, row + r, C->first, ROWS);
    }
}

INLINE void end_tiles(void) { _tile_release(); }
INLINE void use_tiles(int64_t wanted) { tiles_wanted = wanted; }
#else
INLINE int64_t tile_height(int64_t left) { return 0; }
INLINE void tile_rows(const Chunk *C, int64_t row, int64_t height, float *sums, int64_t *shape) {}
INLINE void end_tiles(void) {}
INLINE void use_tiles(int64_t wanted) {}
#endif

#endif
