/* Convolutions 3x3 by Winograd's algorithm F(2x2, 3x3) (Lavin and Gray 2016, arXiv 1509.09308).

   Four outputs of a channel take 16 products per channel of input instead of 36: a tile of 4x4
   pixels becomes 16 sums of pixels, each is multiplied by a sum of weights that was made
   beforehand, and sums of the products are the four outputs. Tensors are float32, in channels_last,
   the channels a multiple of LANES; the stride is 1, the padding 1, of zeros. Blocks of TILES tiles
   are shared among the threads of PyTorch's own OpenMP; a tile's outputs do not depend on how many
   there are, nor on the tiles beside it. */

#include "lanes.h"

enum { TILES = 16 };    /* tiles whose products are made together */
enum { SUMS = 16 };     /* of a tile's pixels */
enum { MOST = 2 };      /* times LANES outputs at a time, at the most */
enum { TOGETHER = 16 }; /* sums of products in registers at a time, each of LANES outputs */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef struct {
    ptrdiff_t images, height, width, inputs, outputs;
} Sizes;

/* Where a tile's outputs begin: its image's first pixel, and a row and a column of it. */
typedef struct {
    ptrdiff_t image, row, column;
} Place;

INLINE Place place_of(ptrdiff_t tile, Sizes of)
{
    const ptrdiff_t down = (of.height + 1) / 2, across = (of.width + 1) / 2;
    return (Place){tile / across / down * of.height * of.width, tile / across % down * 2,
                   tile % across * 2};
}

/* The next tile's place: to divide for each would take as long as much of the rest. */
INLINE Place next(Place at, Sizes of)
{
    at.column += 2;
    if (at.column >= of.width) {
        at.column = 0;
        at.row += 2;
    }
    if (at.row >= of.height) {
        at.row = 0;
        at.image += of.height * of.width;
    }
    return at;
}

/* Say where a tile's 16 pixels are, those around the image in `zeros`; and where its four outputs
   go, NULL for one beyond the image. */
INLINE void find_tile(Place at, Sizes of, const float *x, float *y, const float *zeros,
                      const float *from[SUMS], float *to[4])
{
    const ptrdiff_t pixel = at.image + at.row * of.width + at.column;
    const int beside = at.column + 1 < of.width, below = at.row + 1 < of.height;
    UNROLL for (int i = 0; i < 4; i++) {
        const int inside = at.row + i > 0 && at.row + i <= of.height;
        const float *const line = x + (pixel + (i - 1) * of.width - 1) * of.inputs;
        UNROLL for (int j = 0; j < 4; j++)
            from[4 * i + j] = inside ? line + j * of.inputs : zeros;
        if (at.column == 0)
            from[4 * i] = zeros;
        if (!beside)
            from[4 * i + 2] = zeros;
        if (at.column + 2 >= of.width)
            from[4 * i + 3] = zeros;
    }
    UNROLL for (int i = 0; i < 4; i++) {
        const int inside = (i < 2 || below) && (i % 2 == 0 || beside);
        to[i] = inside ? y + (pixel + i / 2 * of.width + i % 2) * of.outputs : NULL;
    }
}

/* Have four pixels in the cache when it is their turn: the processor foresees too few of them. */
INLINE void foresee(const float *x, float *y, ptrdiff_t pixel, Sizes of)
{
    for (ptrdiff_t c = (pixel + of.width) * of.inputs; c < (pixel + of.width + 4) * of.inputs;
         c += LANES)
        __builtin_prefetch(x + c, 0, 2);
    for (ptrdiff_t c = pixel * of.outputs; c < (pixel + 4) * of.outputs; c += LANES)
        __builtin_prefetch(y + c, 1, 2);
}

/* Replace four pixels by their sums that two outputs are made of. */
INLINE void sum_four(Lanes *a, Lanes *b, Lanes *c, Lanes *d)
{
    const Lanes sum = *b + *c, difference = *c - *b;
    *a -= *c;
    *d = *b - *d;
    *b = sum;
    *c = difference;
}

/* Write a tile's sums of pixels, of all inputs: (SUMS, inputs / LANES, TILES, LANES). */
INLINE void sum_pixels(const float *const from[SUMS], float *to, ptrdiff_t inputs)
{
    for (ptrdiff_t c = 0; c < inputs; c += LANES) {
        Lanes tile[4][4];
        UNROLL for (int i = 0; i < SUMS; i++)
            tile[i / 4][i % 4] = READ(from[i] + c);
        UNROLL for (int i = 0; i < 4; i++)
            sum_four(&tile[i][0], &tile[i][1], &tile[i][2], &tile[i][3]);
        UNROLL for (int i = 0; i < 4; i++)
            sum_four(&tile[0][i], &tile[1][i], &tile[2][i], &tile[3][i]);
        UNROLL for (int i = 0; i < SUMS; i++)
            AT(to + i * TILES * inputs + c * TILES) = tile[i / 4][i % 4];
    }
}

/* Multiply some tiles' sums of pixels by sums of weights, and add that up over the inputs. */
INLINE void multiply(const float *sums, const float *weights, float *to, ptrdiff_t inputs,
                     const int tiles, const int wide)
{
    Lanes found[TOGETHER] = {0};
    for (ptrdiff_t c = 0; c < inputs; c += LANES, sums += TILES * LANES)
        for (int lane = 0; lane < LANES; lane++, weights += wide * LANES)
            UNROLL for (int t = 0; t < tiles; t++)
                UNROLL for (int k = 0; k < wide; k++)
                    found[t * wide + k] += sums[t * LANES + lane] * READ(weights + k * LANES);
    UNROLL for (int i = 0; i < TOGETHER; i++)
        AT(to + i * LANES) = found[i];
}

/* Write a tile's four outputs, those that are not beyond the image. */
INLINE void sum_products(const float *products, float *const to[4], const int wide)
{
    for (int k = 0; k < wide; k++) {
        Lanes tile[4][4], half[2][4];
        UNROLL for (int i = 0; i < SUMS; i++)
            tile[i / 4][i % 4] = READ(products + (i * TILES * wide + k) * LANES);
        UNROLL for (int i = 0; i < 4; i++) {
            half[0][i] = tile[0][i] + tile[1][i] + tile[2][i];
            half[1][i] = tile[1][i] - tile[2][i] - tile[3][i];
        }
        UNROLL for (int i = 0; i < 2; i++) {
            if (to[2 * i])
                AT(to[2 * i] + k * LANES) = half[i][0] + half[i][1] + half[i][2];
            if (to[2 * i + 1])
                AT(to[2 * i + 1] + k * LANES) = half[i][1] - half[i][2] - half[i][3];
        }
    }
}

/* Do all that for `count` tiles from `first` on; `wide` times LANES outputs at a time. */
INLINE void convolve_block(const float *x, const float *weights, float *y, float *work, Sizes of,
                           ptrdiff_t first, ptrdiff_t count, const int wide)
{
    float *const sums = work, *const products = sums + SUMS * TILES * of.inputs;
    const float *const zeros = products + SUMS * TILES * MOST * LANES;
    float *to[TILES][4];
    Place at = place_of(first, of);
    for (ptrdiff_t tile = 0; tile < count; tile++, at = next(at, of)) {
        const float *from[SUMS];
        find_tile(at, of, x, y, zeros, from, to[tile]);
        foresee(x, y, (first + tile + TILES) * 4, of);
        sum_pixels(from, sums + tile * LANES, of.inputs);
    }
    for (ptrdiff_t k = 0; k < of.outputs; k += wide * LANES) {
        for (int i = 0; i < SUMS; i++, weights += of.inputs * wide * LANES)
            for (int tile = 0; tile < TILES; tile += TOGETHER / wide)
                multiply(sums + i * TILES * of.inputs + tile * LANES, weights,
                         products + (i * TILES + tile) * wide * LANES, of.inputs,
                         TOGETHER / wide, wide);
        for (ptrdiff_t tile = 0; tile < count; tile++) {
            sum_products(products + tile * wide * LANES, to[tile], wide);
            for (int i = 0; i < 4; i++)
                to[tile][i] = to[tile][i] ? to[tile][i] + wide * LANES : NULL;
        }
    }
}

/* How many numbers a thread needs room for. */
ptrdiff_t room(ptrdiff_t inputs)
{
    return SUMS * TILES * (inputs + MOST * LANES) + inputs;
}

FOR_EVERY_PROCESSOR
static void convolve_tiles(const float *x, const float *weights, float *y, float *work, Sizes of,
                           ptrdiff_t first, ptrdiff_t last)
{
    float *const end = work + room(of.inputs);
    for (float *zero = end - of.inputs; zero < end; zero++)
        *zero = 0;
    for (ptrdiff_t tile = first; tile < last; tile += TILES) {
        const ptrdiff_t count = last - tile < TILES ? last - tile : TILES;
        if (of.outputs % (MOST * LANES))
            convolve_block(x, weights, y, work, of, tile, count, 1);
        else
            convolve_block(x, weights, y, work, of, tile, count, MOST);
    }
}

/* y (images, height, width, outputs) = the convolution of x (images, height, width, inputs).
   weights (outputs / n, SUMS, inputs, n), sums of them; n is MOST * LANES where that divides
   outputs, else LANES. work: room for each thread. */
void convolve(const float *x, const float *weights, float *y, float *work, ptrdiff_t images,
              ptrdiff_t height, ptrdiff_t width, ptrdiff_t inputs, ptrdiff_t outputs, int threads)
{
    const Sizes of = {images, height, width, inputs, outputs};
    const ptrdiff_t tiles = images * ((height + 1) / 2) * ((width + 1) / 2);
    const ptrdiff_t blocks = (tiles + TILES - 1) / TILES;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; thread++) {
        const ptrdiff_t first = blocks * thread / threads * TILES;
        const ptrdiff_t last = blocks * (thread + 1) / threads * TILES;
        convolve_tiles(x, weights, y, work + thread * room(inputs), of, first,
                       last < tiles ? last : tiles);
    }
}
