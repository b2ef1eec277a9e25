/* llama.cpp's quantizers, LANES blocks at a time: the bytes of its ggml_quantize_chunk in a fraction of its time.

   ggml searches the best scale of one block after the other, in code for any processor. Here each lane of a vector searches that of
   a block of its own, by the same float32 operations in the same order, so that nothing is rounded otherwise. This holds as long as
   the compiler fuses no multiplication with an addition (-ffp-contract=off); the package compares results before it uses any.

   Followed: quantize_row_{q4_K,q5_K,q6_K,q8_0}_ref and _impl of ggml-quants.c, block formats of ggml-common.h.

   An exported function takes rows * columns float32 in whole blocks, room for as many blocks, and NULL or a weight for each column.
   Compiled twice by setup.py: LANES 8 for AVX2, 16 for AVX-512. */

#include <stddef.h>

#include "fit.h"
#include "lanes.h"

enum { AT_ONCE = LANES / PER_SUPERBLOCK };

#define EXPORTED __attribute__((visibility("default")))

/* Whether this processor and its system run what this file was compiled to. */
EXPORTED int is_supported(void)
{
    __builtin_cpu_init();
#if LANES == 16
    return __builtin_cpu_supports("avx512f") != 0;
#else
    return __builtin_cpu_supports("avx2") != 0;
#endif
}

/* float32 to float16, to nearest, halves to even. */
static uint16_t to_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;  /* NaN */
    if (bits >= 0x477ff000) return sign | 0x7c00; /* from 65520 on infinite */
    if (bits >= 0x38800000) return sign | (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13;
    memcpy(&value, &bits, sizeof value);
    value += 0.5f; /* below 2^-14 float16 has steps of 2^-24, as float32 has between 1/2 and 1 */
    memcpy(&bits, &value, sizeof bits);
    return sign | (bits - 0x3f000000);
}

/* A finite float16 as float32. No float32 on the way is subnormal: a program may have told the processor to take such for zero. */
static float to_float(uint16_t half)
{
    const uint32_t magnitude_bits = half & 0x7fff, bits = (magnitude_bits << 13) + 0x38000000;
    float value;
    memcpy(&value, &bits, sizeof value);
    if (magnitude_bits < 0x400) value = magnitude_bits * 0x1p-24f;
    return half & 0x8000 ? -value : value;
}

/* How Q4_K and Q5_K begin: eight blocks of 32 values, each with a scale and a minimum of six bits. */
typedef struct {
    uint16_t scale, minimum; /* float16, of the scales and of the minima */
    uint8_t packed[12];
} superblock_head;

static void pack_scales(const uint8_t scales[PER_SUPERBLOCK], const uint8_t minima[PER_SUPERBLOCK], uint8_t packed[12])
{
    for (int block = 0; block < 4; block++) {
        packed[block] = scales[block] | (scales[block + 4] >> 4) << 6;
        packed[block + 4] = minima[block] | (minima[block + 4] >> 4) << 6;
        packed[block + 8] = (scales[block + 4] & 15) | (minima[block + 4] & 15) << 4;
    }
}

static void unpack_scales(const uint8_t packed[12], uint8_t scales[PER_SUPERBLOCK], uint8_t minima[PER_SUPERBLOCK])
{
    for (int block = 0; block < 4; block++) {
        scales[block] = packed[block] & 63;
        minima[block] = packed[block + 4] & 63;
        scales[block + 4] = (packed[block + 8] & 15) | (packed[block] >> 6) << 4;
        minima[block + 4] = packed[block + 8] >> 4 | (packed[block + 4] >> 6) << 4;
    }
}

/* The superblock's head from what its blocks have found, NULL weights for the plain way. */
static void make_head(superblock_head *head, const float *scales, const float *minima, const float *weights, int bits)
{
    uint8_t scale_levels[PER_SUPERBLOCK], minimum_levels[PER_SUPERBLOCK];
    head->scale = to_half(weights ? fit_scales(scales, weights, scale_levels) : round_scales(scales, scale_levels));
    head->minimum = to_half(weights ? fit_scales(minima, weights, minimum_levels) : round_scales(minima, minimum_levels));
    for (int block = 0; block < PER_SUPERBLOCK && bits == 5; block++) { /* ggml leaves weighed ones of Q4_K as they wrapped */
        scale_levels[block] = smaller(63, scale_levels[block]);
        minimum_levels[block] = smaller(63, minimum_levels[block]);
    }
    pack_scales(scale_levels, minimum_levels, head->packed);
}

/* The weight of value i of each block, by its importance; returned is each block's sum of them. */
INLINED floats weigh(const float *const x[AT_ONCE], const float *const importance[AT_ONCE], const floats values[BLOCK],
                     floats weights[BLOCK])
{
    floats variance = zero, sum = zero;
    for (int lane = 0; lane < LANES; lane += PER_SUPERBLOCK) {
        float squares = 0;
        for (int i = 0; i < SUPERBLOCK; i++) squares += x[lane / PER_SUPERBLOCK][i] * x[lane / PER_SUPERBLOCK][i];
        for (int block = 0; block < PER_SUPERBLOCK; block++) variance[lane + block] = 2 * squares / SUPERBLOCK;
    }
    for (int i = 0; i < BLOCK; i++) {
        for (int lane = 0; lane < LANES; lane++)
            weights[i][lane] = importance[lane / PER_SUPERBLOCK][lane % PER_SUPERBLOCK * BLOCK + i];
        weights[i] *= square_root(variance + values[i] * values[i]);
        sum += weights[i];
    }
    return sum;
}

/* AT_ONCE superblocks of Q4_K or Q5_K: their heads, and the levels of value i of each block. */
INLINED void fit_superblocks(const float *const x[AT_ONCE], const float *const importance[AT_ONCE], int bits,
                             superblock_head *const heads[AT_ONCE], ints levels[BLOCK])
{
    const int32_t largest = (1 << bits) - 1;
    floats values[BLOCK], weights[BLOCK], scales, minima, sums = zero, steps = zero, offsets = zero;
    for (int i = 0; i < BLOCK; i++)
        for (int lane = 0; lane < LANES; lane++) values[i][lane] = x[lane / PER_SUPERBLOCK][lane % PER_SUPERBLOCK * BLOCK + i];
    if (importance[0]) {
        sums = weigh(x, importance, values, weights);
        fit_scale_and_minimum(values, weights, largest, -0.9f, 0.05f, 36, &scales, &minima, levels);
    } else {
        floats squares = zero;
        for (int i = 0; i < BLOCK; i++) squares += values[i] * values[i];
        const floats mean = square_root(squares / BLOCK);
        for (int i = 0; i < BLOCK; i++) weights[i] = mean + magnitude(values[i]);
        fit_scale_and_minimum(values, weights, largest, bits == 4 ? -1.0f : -0.5f, 0.1f, bits == 4 ? 20 : 15, &scales, &minima,
                              levels);
    }
    float scale[LANES], minimum[LANES], sum[LANES];
    memcpy(scale, &scales, sizeof scale);
    memcpy(minimum, &minima, sizeof minimum);
    memcpy(sum, &sums, sizeof sum);
    for (int lane = 0; lane < LANES; lane += PER_SUPERBLOCK) {
        superblock_head *head = heads[lane / PER_SUPERBLOCK];
        uint8_t scale_levels[PER_SUPERBLOCK], minimum_levels[PER_SUPERBLOCK];
        make_head(head, scale + lane, minimum + lane, importance[0] ? sum + lane : NULL, bits);
        unpack_scales(head->packed, scale_levels, minimum_levels);
        for (int block = 0; block < PER_SUPERBLOCK; block++) {
            steps[lane + block] = to_float(head->scale) * scale_levels[block];
            offsets[lane + block] = to_float(head->minimum) * minimum_levels[block];
        }
    }
    /* Values are rounded once more, to what is stored of scale and minimum; where no scale is, the search's levels stay. */
    const ints is_kept = steps == zero;
    for (int i = 0; i < BLOCK; i++)
        levels[i] = (is_kept & levels[i]) | (~is_kept & clamp(nearest((values[i] + offsets) / steps), 0, largest));
}

/* Q4_K and Q5_K: the head; for five bits the fifths of value i of all blocks in a byte; 32 bytes for each two blocks, the second's
   four bits above the first's. */
INLINED void quantize_superblocks(const float *x, uint8_t *out, int64_t values, int64_t columns, const float *importance, int bits)
{
    const int64_t superblocks = values / SUPERBLOCK, stride = sizeof(superblock_head) + bits * BLOCK;
    for (int64_t first = 0; first < superblocks; first += AT_ONCE) {
        const float *from[AT_ONCE], *weights[AT_ONCE];
        superblock_head *heads[AT_ONCE];
        for (int member = 0; member < AT_ONCE; member++) { /* the last one goes twice where another is missing */
            const int64_t at = first + member < superblocks ? first + member : first;
            from[member] = x + at * SUPERBLOCK;
            weights[member] = importance ? importance + at * SUPERBLOCK % columns : NULL;
            heads[member] = (superblock_head *)(out + at * stride);
        }
        ints levels[BLOCK];
        fit_superblocks(from, weights, bits, heads, levels);
        for (int lane = 0; lane < LANES; lane += PER_SUPERBLOCK) {
            uint8_t *fifths = (uint8_t *)(heads[lane / PER_SUPERBLOCK] + 1), *low = fifths + (bits == 5 ? BLOCK : 0);
            for (int i = 0; i < BLOCK && bits == 5; i++) {
                fifths[i] = 0;
                for (int block = 0; block < PER_SUPERBLOCK; block++) fifths[i] |= levels[i][lane + block] >> 4 << block;
            }
            for (int block = 0; block < PER_SUPERBLOCK; block += 2, low += BLOCK)
                for (int i = 0; i < BLOCK; i++) low[i] = (levels[i][lane + block] & 15) | (levels[i][lane + block + 1] & 15) << 4;
        }
    }
}

EXPORTED void quantize_Q4_K(const float *x, void *out, int64_t rows, int64_t columns, const float *importance)
{
    quantize_superblocks(x, out, rows * columns, columns, importance, 4);
}

EXPORTED void quantize_Q5_K(const float *x, void *out, int64_t rows, int64_t columns, const float *importance)
{
    quantize_superblocks(x, out, rows * columns, columns, importance, 5);
}

/* Sixteen blocks of sixteen values, each with a scale of eight bits. Of a level of six bits the lower four stand apart from the upper
   two, and each half of the superblock is packed by itself. */
typedef struct {
    uint8_t low[SUPERBLOCK / 2], high[SUPERBLOCK / 4];
    int8_t scales[16];
    uint16_t scale;
} block_q6_K;

static void pack_six_bits(const uint8_t levels[SUPERBLOCK], block_q6_K *out)
{
    for (int half = 0; half < 2; half++, levels += SUPERBLOCK / 2) {
        for (int i = 0; i < 64; i++) out->low[64 * half + i] = (levels[i] & 15) | (levels[i + 64] & 15) << 4;
        for (int i = 0; i < 32; i++)
            out->high[32 * half + i] =
                levels[i] >> 4 | levels[i + 32] >> 4 << 2 | levels[i + 64] >> 4 << 4 | levels[i + 96] >> 4 << 6;
    }
}

/* The scale of largest magnitude, with its sign. */
static float extreme_of(const float scales[16])
{
    float extreme = 0;
    for (int block = 0; block < 16; block++)
        if (fabsf(scales[block]) > fabsf(extreme)) extreme = scales[block];
    return extreme;
}

EXPORTED void quantize_Q6_K(const float *x, block_q6_K *out, int64_t rows, int64_t columns, const float *importance)
{
    enum { PARTS = 16 / LANES };
    for (int64_t at = 0; at < rows * columns; at += SUPERBLOCK, x += SUPERBLOCK, out++) {
        const float *given = importance ? importance + at % columns : NULL;
        floats values[PARTS][16], scales[PARTS];
        ints levels[PARTS][16];
        for (int part = 0; part < PARTS; part++) {
            floats weights[16];
            for (int i = 0; i < 16; i++) {
                for (int lane = 0; lane < LANES; lane++) {
                    const int column = 16 * (LANES * part + lane) + i;
                    values[part][i][lane] = x[column];
                    weights[i][lane] = given ? given[column] : x[column] * x[column];
                }
            }
            scales[part] = fit_scale(values[part], weights, 32, levels[part]);
        }
        float scale_of[16];
        memcpy(scale_of, scales, sizeof scale_of);
        const float extreme = extreme_of(scale_of);
        if (fabsf(extreme) < SMALLEST_MAXIMUM) {
            memset(out, 0, sizeof *out);
            continue;
        }
        const float inverse = -128 / extreme;
        out->scale = to_half(1 / inverse);
        uint8_t in_order[SUPERBLOCK];
        for (int part = 0; part < PARTS; part++) {
            floats steps;
            for (int lane = 0; lane < LANES; lane++) {
                int8_t *scale = out->scales + LANES * part + lane;
                *scale = smaller(127, nearest_of_one(inverse * scale_of[LANES * part + lane]));
                steps[lane] = to_float(out->scale) * *scale;
            }
            const ints is_kept = steps == zero;
            for (int i = 0; i < 16; i++) {
                const ints rounded = clamp(nearest(values[part][i] / steps), -32, 31) + 32;
                const ints level = (is_kept & levels[part][i]) | (~is_kept & rounded);
                for (int lane = 0; lane < LANES; lane++) in_order[16 * (LANES * part + lane) + i] = level[lane];
            }
        }
        pack_six_bits(in_order, out);
    }
}

typedef struct {
    uint16_t scale;
    int8_t levels[BLOCK];
} block_q8_0;

EXPORTED void quantize_Q8_0(const float *x, block_q8_0 *out, int64_t rows, int64_t columns, const float *importance)
{
    (void)importance; /* the scale is the largest value's */
    enum { PARTS = BLOCK / LANES };
    for (int64_t at = 0; at < rows * columns; at += BLOCK, x += BLOCK, out++) {
        floats values[PARTS], larger = zero;
        memcpy(values, x, sizeof values);
        for (int part = 0; part < PARTS; part++) larger = pick(magnitude(values[part]) > larger, magnitude(values[part]), larger);
        float largest = 0;
        for (int lane = 0; lane < LANES; lane++) largest = larger[lane] > largest ? larger[lane] : largest;
        const float scale = largest / 127;
        out->scale = to_half(scale);
        const float inverse = isfinite(1 / scale) ? 1 / scale : 0; /* all levels are 0, too, where it overflows */
        for (int part = 0; part < PARTS; part++) {
            const floats scaled = values[part] * inverse;
            const ints whole = __builtin_convertvector(scaled, ints);
            const floats rest = scaled - to_floats(whole);
            const ints rounded = whole - (rest >= 0.5f) + (rest <= -0.5f); /* halves away from zero; true is -1 */
            const bytes levels = __builtin_convertvector(rounded, bytes);
            memcpy(out->levels + LANES * part, &levels, sizeof levels);
        }
    }
}
