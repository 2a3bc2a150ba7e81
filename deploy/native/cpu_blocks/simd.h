// SIMD vectors for the CPU at hand: of FP16 where the CPU computes in FP16 (AVX512-FP16), else of float32.
//
// The types are GCC's and Clang's vector types, so the code that uses them is written once; intrinsics are used only
// where these types have no operator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

#if defined(__AVX512FP16__) && !defined(FLOAT_ONLY)
#define HAS_FP16
using Real = _Float16;
constexpr size_t VECTOR_SIZE = 32;  // values in a vector
#else
using Real = float;
#if defined(__AVX512F__)
constexpr size_t VECTOR_SIZE = 16;
#elif defined(__AVX__)
constexpr size_t VECTOR_SIZE = 8;
#else
constexpr size_t VECTOR_SIZE = 4;
#endif
#endif

typedef Real Vec __attribute__((vector_size(VECTOR_SIZE * sizeof(Real))));
typedef float FloatVec __attribute__((vector_size(VECTOR_SIZE * sizeof(float))));

INLINE Vec load(const Real* values) {
  Vec vec;
  std::memcpy(&vec, values, sizeof vec);
  return vec;
}
INLINE void store(Real* values, Vec vec) { std::memcpy(values, &vec, sizeof vec); }
INLINE Vec broadcast(Real value) { return value - Vec{}; }
// minimum(a, b) and maximum(a, b) return b where a or b is NaN.

#ifdef HAS_FP16
INLINE Vec minimum(Vec a, Vec b) { return (Vec)_mm512_min_ph((__m512h)a, (__m512h)b); }
INLINE Vec maximum(Vec a, Vec b) { return (Vec)_mm512_max_ph((__m512h)a, (__m512h)b); }
INLINE Vec absolute(Vec a) { return (Vec)_mm512_abs_ph((__m512h)a); }
INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return (Vec)_mm512_fmadd_ph((__m512h)a, (__m512h)b, (__m512h)c); }
#else
INLINE Vec minimum(Vec a, Vec b) { return a < b ? a : b; }
INLINE Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
INLINE Vec absolute(Vec a) { return maximum(a, -a); }
INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
#endif
