/* What the package's code in C has in common: several channels at a time, on any processor. */

#ifndef LANES_H
#define LANES_H

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

#endif
