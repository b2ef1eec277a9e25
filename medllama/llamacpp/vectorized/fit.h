/* The search of scales: ggml's make_qkx2_quants, make_qkx3_quants, make_qx_quants and make_qp_quants (ggml-quants.c), the first three
   for LANES blocks at once. Sums are in the order of ggml's, so that they are rounded alike. */

#ifndef FIT_H
#define FIT_H

#include "lanes.h"

enum { SUPERBLOCK = 256, PER_SUPERBLOCK = 8, BLOCK = 32 };

static const float SMALLEST_MAXIMUM = 1e-15f; /* a block or superblock below it is all zeros */

/* x ~ scale * level - minimum under `weights`, levels 0 to `largest` (make_qkx2_quants, make_qkx3_quants): values are rounded to the
   levels of `steps` + 1 guesses of the scale, scale and minimum are fitted to each by least squares, and the best is kept. */
INLINED void fit_scale_and_minimum(const floats x[BLOCK], const floats weights[BLOCK], int32_t largest, float first, float step,
                                   int steps, floats *scale_found, floats *minimum_found, ints levels[BLOCK])
{
    floats least = x[0], most = x[0], sum_w = weights[0], sum_x = weights[0] * x[0];
    for (int i = 1; i < BLOCK; i++) {
        least = pick(x[i] < least, x[i], least);
        most = pick(x[i] > most, x[i], most);
        sum_w += weights[i];
        sum_x += weights[i] * x[i];
    }
    least = pick(least > zero, zero, least);
    const ints is_constant = most <= least;

    floats inverse = (float)largest / (most - least), scale = 1.0f / inverse, minimum = least, error = zero;
    floats kept_inverse = inverse, kept_minimum = minimum; /* of the best levels, which are rounded again at the end */
    for (int i = 0; i < BLOCK; i++) {
        const floats level = to_floats(clamp(nearest(inverse * (x[i] - minimum)), 0, largest));
        const floats off = scale * level + minimum - x[i];
        error += weights[i] * (off * off);
    }
    for (int guess = 0; guess <= steps; guess++) {
        inverse = (first + step * guess + largest) / (most - minimum);
        floats guessed[BLOCK], sum_l = zero, sum_l2 = zero, sum_xl = zero;
        for (int i = 0; i < BLOCK; i++) {
            guessed[i] = to_floats(clamp(nearest(inverse * (x[i] - minimum)), 0, largest));
            const floats weighted = weights[i] * guessed[i];
            sum_l += weighted;
            sum_l2 += weighted * guessed[i];
            sum_xl += weighted * x[i];
        }
        const floats determinant = sum_w * sum_l2 - sum_l * sum_l;
        floats fitted_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        floats fitted_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        const ints is_positive = fitted_minimum > zero;
        fitted_scale = pick(is_positive, sum_xl / sum_l2, fitted_scale);
        fitted_minimum = pick(is_positive, zero, fitted_minimum);
        floats fitted_error = zero;
        for (int i = 0; i < BLOCK; i++) {
            const floats off = fitted_scale * guessed[i] + fitted_minimum - x[i];
            fitted_error += weights[i] * (off * off);
        }
        const ints is_better = (determinant > zero) & (fitted_error < error);
        kept_inverse = pick(is_better, inverse, kept_inverse);
        kept_minimum = pick(is_better, minimum, kept_minimum);
        error = pick(is_better, fitted_error, error);
        scale = pick(is_better, fitted_scale, scale);
        minimum = pick(is_better, fitted_minimum, minimum);
    }
    for (int i = 0; i < BLOCK; i++) levels[i] = clamp(nearest(kept_inverse * (x[i] - kept_minimum)), 0, largest) & ~is_constant;
    *scale_found = pick(is_constant, zero, scale);
    *minimum_found = -pick(is_constant, least, minimum);
}

/* x ~ scale * (level - half) under `weights`, sixteen values in levels 0 to 2 * half - 1 (make_qx_quants). */
INLINED floats fit_scale(const floats x[16], const floats weights[16], int32_t half, ints levels[16])
{
    floats largest = zero, extreme = zero;
    for (int i = 0; i < 16; i++) {
        const ints is_larger = magnitude(x[i]) > largest;
        largest = pick(is_larger, magnitude(x[i]), largest);
        extreme = pick(is_larger, x[i], extreme);
    }
    const ints is_zero = largest < SMALLEST_MAXIMUM;

    floats kept_inverse = zero, scale = zero, best = zero;
    for (int guess = -10; guess <= 9; guess++) {
        if (guess == 0) continue;
        const int is_first = guess == -10; /* the scale of the largest value itself, before nine on each side of it */
        const floats inverse = -(half + 0.1f * (is_first ? 0 : guess)) / extreme;
        floats sum_xl = zero, sum_l2 = zero;
        for (int i = 0; i < 16; i++) {
            const floats level = to_floats(clamp(nearest(inverse * x[i]), -half, half - 1));
            sum_xl += weights[i] * x[i] * level;
            sum_l2 += weights[i] * level * level;
        }
        const ints is_better = is_first ? zero == zero : (sum_l2 > zero) & (sum_xl * sum_xl > best * sum_l2);
        kept_inverse = pick(is_better, inverse, kept_inverse);
        scale = pick(is_better, pick(sum_l2 != zero, sum_xl / sum_l2, zero), scale);
        best = pick(is_better, scale * sum_xl, best);
    }
    for (int i = 0; i < 16; i++) levels[i] = (clamp(nearest(kept_inverse * x[i]), -half, half - 1) + half) & ~is_zero;
    return pick(is_zero, zero, scale);
}

/* A superblock's scales, or its minima, as levels 0 to 63 of one scale, which is returned: the largest gets 63. */
static float round_scales(const float scales[PER_SUPERBLOCK], uint8_t levels[PER_SUPERBLOCK])
{
    float most = 0;
    for (int block = 0; block < PER_SUPERBLOCK; block++) most = scales[block] > most ? scales[block] : most;
    const float inverse = most > 0 ? 63 / most : 0;
    for (int block = 0; block < PER_SUPERBLOCK; block++)
        levels[block] = smaller(63, (uint8_t)nearest_of_one(inverse * scales[block]));
    return most / 63;
}

/* The same by least squares under the blocks' weights (make_qp_quants). A negative one's level wraps, as in ggml. */
static float fit_scales(const float scales[PER_SUPERBLOCK], const float weights[PER_SUPERBLOCK], uint8_t levels[PER_SUPERBLOCK])
{
    float most = 0;
    for (int block = 0; block < PER_SUPERBLOCK; block++) most = scales[block] > most ? scales[block] : most;
    if (most < SMALLEST_MAXIMUM) {
        memset(levels, 0, PER_SUPERBLOCK);
        return 0;
    }
    float inverse = 63 / most, least_error = 0;
    for (int guess = -5; guess <= 4; guess++) {
        if (guess == 0) continue;
        const int is_first = guess == -5;
        const float guessed = is_first ? inverse : (0.1f * guess + 63) / most, scale = 1 / guessed;
        float error = 0;
        for (int block = 0; block < PER_SUPERBLOCK; block++) {
            const int32_t level = nearest_of_one(guessed * scales[block]);
            const float off = scales[block] - scale * (is_first ? (uint8_t)level : smaller(63, level));
            error += weights[block] * off * off;
        }
        if (is_first || error < least_error) {
            least_error = error;
            inverse = guessed;
        }
    }
    float sum_xl = 0, sum_l2 = 0;
    for (int block = 0; block < PER_SUPERBLOCK; block++) {
        const int32_t level = smaller(63, nearest_of_one(inverse * scales[block]));
        levels[block] = level;
        sum_xl += weights[block] * scales[block] * level;
        sum_l2 += weights[block] * level * level;
    }
    for (int round = 0, changed = 1; round < 5 && changed; round++) {
        changed = 0;
        for (int block = 0; block < PER_SUPERBLOCK; block++) {
            const float weight = weights[block], value = scales[block];
            float rest_xl = sum_xl - weight * value * levels[block], rest_l2 = sum_l2 - weight * levels[block] * levels[block];
            if (!(rest_xl > 0 && rest_l2 > 0)) continue;
            const int32_t level = smaller(63, nearest_of_one(value * rest_l2 / rest_xl));
            if (level == levels[block]) continue;
            rest_xl += weight * value * level;
            rest_l2 += weight * level * level;
            if (!(rest_xl * rest_xl * sum_l2 > sum_xl * sum_xl * rest_l2)) continue;
            levels[block] = level;
            sum_xl = rest_xl;
            sum_l2 = rest_l2;
            changed = 1;
        }
    }
    return sum_l2 > 0 ? sum_xl / sum_l2 : 0;
}

#endif
