// Vectors of numbers on the CPU at hand: FP16 where it computes in it (AVX512-FP16), else float32.
//
// GCC's and Clang's vector types, so that the rest is written once; in intrinsics only what these types have no word for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

#if defined(__AVX512FP16__) && !defined(FLOAT_ONLY)
#define HAS_HALF
using Real = _Float16;
constexpr size_t LANES = 32;
#else
using Real = float;
#if defined(__AVX512F__)
constexpr size_t LANES = 16;
#elif defined(__AVX__)
constexpr size_t LANES = 8;
#else
constexpr size_t LANES = 4;
#endif
#endif

typedef Real Vec __attribute__((vector_size(LANES * sizeof(Real))));
typedef float Floats __attribute__((vector_size(LANES * sizeof(float))));

INLINE Vec load(const Real* numbers) {
  Vec vec;
  std::memcpy(&vec, numbers, sizeof vec);
  return vec;
}
INLINE void store(Real* numbers, Vec vec) { std::memcpy(numbers, &vec, sizeof vec); }
INLINE Vec all(Real number) { return number - Vec{}; }
// least(a, b) and most(a, b) are b where a or b is no number.

#ifdef HAS_HALF
INLINE Vec least(Vec a, Vec b) { return (Vec)_mm512_min_ph((__m512h)a, (__m512h)b); }
INLINE Vec most(Vec a, Vec b) { return (Vec)_mm512_max_ph((__m512h)a, (__m512h)b); }
INLINE Vec magnitude(Vec a) { return (Vec)_mm512_abs_ph((__m512h)a); }
INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return (Vec)_mm512_fmadd_ph((__m512h)a, (__m512h)b, (__m512h)c); }
#else
INLINE Vec least(Vec a, Vec b) { return a < b ? a : b; }
INLINE Vec most(Vec a, Vec b) { return a > b ? a : b; }
INLINE Vec magnitude(Vec a) { return most(a, -a); }
INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
#endif
