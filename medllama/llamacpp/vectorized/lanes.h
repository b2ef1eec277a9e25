/* Vectors of LANES float32 or int32, and what is done to each lane. */

#ifndef LANES_H
#define LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

#define INLINED static inline __attribute__((always_inline)) /* so that constants reach the loops */

static const floats zero = {0};

INLINED floats pick(ints where, floats yes, floats no) { return (floats)((where & (ints)yes) | (~where & (ints)no)); }
INLINED floats magnitude(floats x) { return (floats)((ints)x & 0x7fffffff); }
INLINED floats to_floats(ints x) { return __builtin_convertvector(x, floats); }

INLINED floats square_root(floats x)
{
    for (int lane = 0; lane < LANES; lane++) x[lane] = sqrtf(x[lane]);
    return x;
}

/* To nearest, halves to even, up to 2^22; beyond that, and for NaN, what ggml makes of the bits. */
INLINED ints nearest(floats x) { return ((ints)(x + 0x1.8p23f) & 0x7fffff) - 0x400000; }

INLINED int32_t nearest_of_one(float x)
{
    const float shifted = x + 0x1.8p23f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (bits & 0x7fffff) - 0x400000;
}

INLINED ints clamp(ints x, int32_t least, int32_t most)
{
    const ints low = (ints){0} + least, high = (ints){0} + most, below = x < low, above = x > high;
    return (below & low) | (above & high) | (~(below | above) & x);
}

INLINED int32_t smaller(int32_t one, int32_t other) { return one < other ? one : other; }

#endif
