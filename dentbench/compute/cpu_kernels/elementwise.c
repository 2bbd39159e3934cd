/* What dent does between convolutions, in one pass over the memory each.

   By PyTorch's operations it takes several, and each of them reads and writes all of a tensor
   again. Numbers are float32. Images and blocks of channels are shared among the threads of
   PyTorch's own OpenMP; every sum is one thread's, so the answer does not depend on how many there
   are.

   forward, backward: scaling.py, a scale and a shift for every image and channel, a sum and a ReLU;
   tensors in channels_last, the channels a multiple of LANES. adamod: optimizers.py, an update. */

#include <math.h>
#include <stddef.h>

enum { LANES = 16 }; /* channels at a time: what AVX-512 computes at once */

typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define AT(pointer) (*(Lanes *)(pointer))
#define READ(pointer) (*(const Lanes *)(pointer))

/* Of a function with this, the version for the processor at hand is taken when it is loaded. */
#if defined(__x86_64__) && defined(__linux__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#ifndef FOR_EVERY_PROCESSOR
#define FOR_EVERY_PROCESSOR
#endif

enum { ROWS = 64 };      /* pixels that are summed up by themselves, such that errors stay small */
enum { GRAIN = 32768 };  /* numbers from which threads are worth their start, as in PyTorch */

typedef int Mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Unless OF <= 0, which a NaN is not: it goes on, as in PyTorch. */
#define LET_THROUGH(value, of) ((Lanes)((Mask)(value) & ~((of) <= 0)))

FOR_EVERY_PROCESSOR
static void forward_block(const float *x, const float *scale, const float *shift,
                          const float *other, float *y, ptrdiff_t stop, ptrdiff_t channels,
                          int rectified)
{
    const Lanes by = READ(scale), plus = READ(shift);
    for (ptrdiff_t p = 0; p < stop; p += channels) {
        Lanes value = READ(x + p) * by + plus;
        if (other)
            value += READ(other + p);
        AT(y + p) = rectified ? LET_THROUGH(value, value) : value;
    }
}

/* y = x * scale + shift, plus other unless that is NULL, of that the ReLU if it is wanted. */
void forward(const float *x, const float *scale, const float *shift, const float *other, float *y,
             ptrdiff_t scale_row, ptrdiff_t shift_row, ptrdiff_t images, ptrdiff_t pixels,
             ptrdiff_t channels, int rectified, int threads)
{
    const ptrdiff_t blocks = channels / LANES, size = pixels * channels;
#pragma omp parallel for num_threads(threads) if (images * size > GRAIN)
    for (ptrdiff_t item = 0; item < images * blocks; item++) {
        const ptrdiff_t image = item / blocks, channel = item % blocks * LANES;
        const ptrdiff_t at = image * size + channel;
        forward_block(x + at, scale + image * scale_row + channel,
                      shift + image * shift_row + channel, other ? other + at : NULL, y + at,
                      size, channels, rectified);
    }
}

FOR_EVERY_PROCESSOR
static void backward_block(const float *grad, const float *y, const float *x, const float *scale,
                           const float *shift, float *to_x, float *to_other, float *to_scale,
                           float *to_shift, ptrdiff_t stop, ptrdiff_t channels)
{
    const Lanes by = READ(scale), plus = shift ? READ(shift) : by;
    Lanes scale_sum = {0}, shift_sum = {0};
    for (ptrdiff_t p = 0; p < stop;) {
        const ptrdiff_t left = stop - p, rows = ROWS * channels;
        const ptrdiff_t end = p + (left < rows ? left : rows);
        Lanes scale_part = {0}, shift_part = {0};
        for (; p < end; p += channels) {
            const Lanes of = READ(x + p);
            Lanes value = READ(grad + p);
            if (y)
                value = LET_THROUGH(value, READ(y + p));
            else if (shift)
                value = LET_THROUGH(value, of * by + plus);
            scale_part += value * of;
            shift_part += value;
            if (to_other)
                AT(to_other + p) = value;
            if (to_x)
                AT(to_x + p) = value * by;
        }
        scale_sum += scale_part;
        shift_sum += shift_part;
    }
    AT(to_scale) = scale_sum;
    AT(to_shift) = shift_sum;
}

/* The gradients of what forward computes, by grad, that of its y. Of a ReLU, y or shift is given:
   by the latter it is computed again, which is faster than to read it, where nothing was added.
   to_x and to_other are NULL where they are not wanted; to_scale and to_shift have no gaps. */
void backward(const float *grad, const float *y, const float *x, const float *scale,
              const float *shift, float *to_x, float *to_other, float *to_scale, float *to_shift,
              ptrdiff_t scale_row, ptrdiff_t shift_row, ptrdiff_t images, ptrdiff_t pixels,
              ptrdiff_t channels, int threads)
{
    const ptrdiff_t blocks = channels / LANES, size = pixels * channels;
#pragma omp parallel for num_threads(threads) if (images * size > GRAIN)
    for (ptrdiff_t item = 0; item < images * blocks; item++) {
        const ptrdiff_t image = item / blocks, channel = item % blocks * LANES;
        const ptrdiff_t at = image * size + channel, sum = image * channels + channel;
        backward_block(grad + at, y ? y + at : NULL, x + at, scale + image * scale_row + channel,
                       shift ? shift + image * shift_row + channel : NULL,
                       to_x ? to_x + at : NULL, to_other ? to_other + at : NULL, to_scale + sum,
                       to_shift + sum, size, channels);
    }
}

typedef struct {
    float old, new; /* parts of what was known and of what is */
} Mixture;

static Mixture mixture(double beta)
{
    return (Mixture){(float)beta, (float)(1 - beta)}; /* 1 - beta of floats would be less exact */
}

FOR_EVERY_PROCESSOR
static void adamod_row(const float *restrict grad, const float *restrict mean,
                       const float *restrict square, const float *restrict rate,
                       const float *restrict lr, float *restrict to_change,
                       float *restrict to_mean, float *restrict to_square,
                       float *restrict to_rate, ptrdiff_t count, float correction, Mixture one,
                       Mixture two, Mixture three, float eps)
{
    for (ptrdiff_t p = 0; p < count; p++) {
        const float first = one.old * mean[p] + one.new * grad[p];
        const float second = two.old * square[p] + two.new * (grad[p] * grad[p]);
        const float current = correction * lr[p] / (sqrtf(second) + eps);
        const float bound = three.old * rate[p] + three.new * current;
        to_change[p] = -(current < bound ? current : bound) * first;
        to_mean[p] = first;
        to_square[p] = second;
        to_rate[p] = bound;
    }
}

/* AdaMod's change, and its moving averages after it. lr: those of a row, corrected by a factor. */
void adamod(const float *grad, const float *mean, const float *square, const float *rate,
            const float *lr, float *to_change, float *to_mean, float *to_square, float *to_rate,
            ptrdiff_t rows, ptrdiff_t count, double correction, double beta1, double beta2,
            double beta3, double eps, int threads)
{
    const Mixture one = mixture(beta1), two = mixture(beta2), three = mixture(beta3);
#pragma omp parallel for num_threads(threads) if (rows * count > GRAIN)
    for (ptrdiff_t row = 0; row < rows; row++) {
        const ptrdiff_t at = row * count;
        adamod_row(grad + at, mean + at, square + at, rate + at, lr, to_change + at, to_mean + at,
                   to_square + at, to_rate + at, count, (float)correction, one, two, three,
                   (float)eps);
    }
}
