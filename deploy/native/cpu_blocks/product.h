// Products of matrices, for 1x1 convolutions: by AMX in bfloat16 where the CPU has it, else by vectors.
//
// What is between two layers is `Stored`: bfloat16, as AMX reads it, or the vectors' own type. Sums are `Sum`.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>

#include "simd.h"

#if defined(HAS_HALF) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

constexpr size_t up(size_t number, size_t step) { return (number + step - 1) / step * step; }

// Numbers on a border of 64 bytes, at first 0; behind the last a vector's worth may be read.
template <class T>
class Numbers {
 public:
  Numbers() = default;
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  ~Numbers() { std::free(first); }
  void make(size_t count) {
    const size_t bytes = up(count * sizeof(T) + 256, 64);
    std::free(first);
    first = static_cast<T*>(std::aligned_alloc(64, bytes));
    if (!first) throw std::bad_alloc();
    std::memset(static_cast<void*>(first), 0, bytes);
  }
  operator T*() { return first; }
  operator const T*() const { return first; }

 private:
  T* first = nullptr;
};

constexpr size_t PIXELS = 16;  // rows of the left matrix that are multiplied together

#ifdef HAS_AMX

using Stored = uint16_t;
using Sum = float;
constexpr bool exact_bytes = true;  // numbers up to 255 are exact, and products with them are summed in float32
constexpr size_t COLUMNS = 16;      // of the right matrix in a tile
constexpr size_t DEEPEST = 32;      // its rows in a tile, at most
constexpr size_t TOGETHER = 2;      // its rows that are multiplied at once

INLINE Stored as_stored(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  return static_cast<Stored>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE float as_float(Stored number) {
  const uint32_t bits = static_cast<uint32_t>(number) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

// 32 numbers as two vectors of 16.
struct Halves {
  __m512 low, high;
};
INLINE Halves halves(const Sum* sums) { return {_mm512_loadu_ps(sums), _mm512_loadu_ps(sums + 16)}; }
INLINE Halves halves(const Stored* stored) {
  const __m512i bits = _mm512_loadu_si512(stored);
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(bits));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bits, 1));
  return {(__m512)_mm512_slli_epi32(low, 16), (__m512)_mm512_slli_epi32(high, 16)};
}
INLINE Halves halves(Vec vec) {
  const __m512i bits = (__m512i)vec;
  return {_mm512_cvtxph_ps((__m256h)_mm512_castsi512_si256(bits)),
          _mm512_cvtxph_ps((__m256h)_mm512_extracti64x4_epi64(bits, 1))};
}
using Total = Halves;
INLINE Halves total(const Sum* sums) { return halves(sums); }
INLINE Halves total(const Stored* stored) { return halves(stored); }
INLINE Halves operator+(Halves a, Halves b) { return {_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)}; }
INLINE Vec as_vec(Halves both) {
  const __m256i low = (__m256i)_mm512_cvtxps_ph(both.low), high = (__m256i)_mm512_cvtxps_ph(both.high);
  return (Vec)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
INLINE void store_stored(Stored* stored, Halves both) {
  const __m512bh bits = _mm512_cvtne2ps_pbh(both.high, both.low);
  std::memcpy(stored, &bits, 64);
}
INLINE void store_stored(Stored* stored, Vec vec) { store_stored(stored, halves(vec)); }
// The first `count` of them.
INLINE void store_stored(Stored* stored, Halves both, size_t count) {
  const __mmask32 mask = count < 32 ? (1u << count) - 1 : ~0u;
  _mm512_mask_storeu_epi16(stored, mask, (__m512i)_mm512_cvtne2ps_pbh(both.high, both.low));
}
INLINE void store_floats(float* floats, Halves both, size_t count) {
  const uint32_t mask = count < 32 ? (1u << count) - 1 : ~0u;
  _mm512_mask_storeu_ps(floats, static_cast<__mmask16>(mask), both.low);
  _mm512_mask_storeu_ps(floats + 16, static_cast<__mmask16>(mask >> 16), both.high);
}
INLINE Vec vec_of(const Sum* sums) { return as_vec(halves(sums)); }
INLINE Vec vec_of(const Stored* stored) { return as_vec(halves(stored)); }

#else

using Stored = Real;
using Sum = Real;
constexpr bool exact_bytes = false;
constexpr size_t COLUMNS = LANES;
constexpr size_t DEEPEST = 1 << 20;
constexpr size_t TOGETHER = 1;

INLINE Stored as_stored(float number) { return static_cast<Stored>(number); }
INLINE float as_float(Stored number) { return static_cast<float>(number); }
INLINE void store_stored(Stored* stored, Vec vec) { store(stored, vec); }
INLINE Vec vec_of(const Real* numbers) { return load(numbers); }

using Total = Vec;
INLINE Vec total(const Real* numbers) { return load(numbers); }
// The first `count` of them.
INLINE void store_stored(Stored* stored, Vec vec, size_t count) {
  std::memcpy(stored, &vec, std::min(count, LANES) * sizeof(Stored));
}
INLINE void store_floats(float* floats, Vec vec, size_t count) {
  for (size_t i = 0; i < std::min(count, LANES); ++i) floats[i] = static_cast<float>(vec[i]);
}

#endif

// The right matrix of a product, [rows,columns], with a bias for each column; kept in the order in which it is read: in
// groups of COLUMNS, each in `steps` times `depth` rows, in which two rows are side by side where AMX takes them so.
class Matrix {
 public:
  size_t columns = 0, groups = 0, steps = 0, depth = 0;

  void make(size_t rows, size_t columns_) {
    const size_t needed = (rows + DEEPEST - 1) / DEEPEST;
    make(needed, (rows + needed - 1) / needed, columns_);
  }
  void make(size_t steps_, size_t depth_, size_t columns_) {
    columns = columns_, steps = steps_;
    groups = (columns + COLUMNS - 1) / COLUMNS;
    depth = up(depth_, TOGETHER);
    weights.make(size());
    bias.make(groups * COLUMNS);
  }
  size_t rows() const { return steps * depth; }
  size_t size() const { return groups * steps * tile(); }
  size_t tile() const { return depth * COLUMNS; }
  size_t place(size_t row, size_t column) const {
    return column / COLUMNS * steps * tile() + row / TOGETHER * COLUMNS * TOGETHER + column % COLUMNS * TOGETHER +
           row % TOGETHER;
  }
  void set(size_t row, size_t column, float weight) { weights[place(row, column)] = as_stored(weight); }
  float get(size_t row, size_t column) const { return as_float(weights[place(row, column)]); }
  void set_bias(size_t column, float value) { bias[column] = static_cast<Sum>(value); }

  // A group's rows become those of `whole`, `size` numbers in the order of `weights`, times their factors.
  void scale(size_t group, const Stored* whole, const float* factors) {
    Stored* out = weights + group * steps * tile();
    whole += group * steps * tile();
    for (size_t row = 0; row < rows(); row += TOGETHER)
      for (size_t i = 0; i < COLUMNS * TOGETHER; ++i) *out++ = as_stored(as_float(*whole++) * factors[row + i % TOGETHER]);
  }
  const Stored* group(size_t index) const { return weights + index * steps * tile(); }
  const Sum* bias_of(size_t index) const { return bias + index * COLUMNS; }

 private:
  Numbers<Stored> weights;
  Numbers<Sum> bias;
};

#ifdef HAS_AMX

// GCC believes that these instructions read and write no memory, or a pointer's worth of it.
INLINE void written() { asm volatile("" ::: "memory"); }

// The shapes of a thread's tiles as they were, put back at the end: what else runs in this thread may count on them.
class Tiles {
 public:
  Tiles() {
    _tile_storeconfig(&before);
    written();
  }
  ~Tiles() { take(before); }
  // Tiles 0 to `pixels` - 1 for sums, from there for pixels, and from `weights` on for weights.
  void shape(const Matrix& matrix, int pixels, int weights) {
    Config config = {};
    config.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      config.bytes[tile] = static_cast<uint16_t>(tile < pixels || tile >= weights ? 64 : 2 * matrix.depth);
      config.rows[tile] = static_cast<uint8_t>(tile < weights ? 16 : matrix.depth / 2);
    }
    take(config);
  }
  void for_product(const Matrix& matrix) { shape(matrix, 4, 6); }
  void for_vectors(const Matrix& matrix) { shape(matrix, 2, 4); }
  // Whether the system lets this process have tiles.
  static bool allowed() {
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
  }

 private:
  struct alignas(64) Config {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  };
  static void take(const Config& config) {
    written();
    _tile_loadconfig(&config);
  }
  Config before;
};

// sums [HIGH * PIXELS,.] = pixels [HIGH * PIXELS,.] times WIDE groups of the matrix's columns, from `group` on, plus the
// bias. A pixel follows the other after `stride` numbers, its sums after `sums_stride`.
template <size_t HIGH, size_t WIDE>
INLINE void product(const Stored* pixels, size_t stride, const Matrix& matrix, size_t group, Sum* sums,
                    size_t sums_stride) {
  const Stored *weights = matrix.group(group), *right = matrix.group(group + WIDE - 1);
  const Sum *bias = matrix.bias_of(group), *right_bias = matrix.bias_of(group + WIDE - 1);
  const Stored* below = pixels + PIXELS * stride;
  written();
  _tile_loadd(0, bias, 0);
  if (WIDE > 1) _tile_loadd(1, right_bias, 0);
  if (HIGH > 1) _tile_loadd(2, bias, 0);
  if (HIGH > 1 && WIDE > 1) _tile_loadd(3, right_bias, 0);
  for (size_t step = 0; step < matrix.steps; ++step) {
    _tile_loadd(4, pixels + step * matrix.depth, 2 * stride);
    _tile_loadd(6, weights + step * matrix.tile(), 64);
    _tile_dpbf16ps(0, 4, 6);
    if (WIDE > 1) {
      _tile_loadd(7, right + step * matrix.tile(), 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (HIGH > 1) {
      _tile_loadd(5, below + step * matrix.depth, 2 * stride);
      _tile_dpbf16ps(2, 5, 6);
      if (WIDE > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 4 * sums_stride);
  if (WIDE > 1) _tile_stored(1, sums + COLUMNS, 4 * sums_stride);
  if (HIGH > 1) _tile_stored(2, sums + PIXELS * sums_stride, 4 * sums_stride);
  if (HIGH > 1 && WIDE > 1) _tile_stored(3, sums + PIXELS * sums_stride + COLUMNS, 4 * sums_stride);
  written();
}

// A vector of the matrix's columns, LANES from group `group` on, for PIXELS pixels. A pixel follows the other after
// `stride` numbers, what a step multiplies after `step_stride`. PREPARED: `prepare` has put the weights into tiles 4 to 7.
template <bool PREPARED>
INLINE void vector_product(const Stored* pixels, size_t stride, size_t step_stride, const Matrix& matrix, size_t group,
                           Sum* sums) {
  const Stored *weights = matrix.group(group), *right = matrix.group(group + 1);
  written();
  _tile_loadd(0, matrix.bias_of(group), 0);
  _tile_loadd(1, matrix.bias_of(group + 1), 0);
  if (PREPARED) {
    _tile_loadd(2, pixels, 2 * stride);
    _tile_dpbf16ps(0, 2, 4);
    _tile_dpbf16ps(1, 2, 5);
    if (matrix.steps > 1) {
      _tile_loadd(3, pixels + step_stride, 2 * stride);
      _tile_dpbf16ps(0, 3, 6);
      _tile_dpbf16ps(1, 3, 7);
    }
  } else {
    for (size_t step = 0; step < matrix.steps; ++step) {
      _tile_loadd(2, pixels + step * step_stride, 2 * stride);
      _tile_loadd(4, weights + step * matrix.tile(), 64);
      _tile_dpbf16ps(0, 2, 4);
      _tile_loadd(5, right + step * matrix.tile(), 64);
      _tile_dpbf16ps(1, 2, 5);
    }
  }
  _tile_stored(0, sums, 4 * LANES);
  _tile_stored(1, sums + COLUMNS, 4 * LANES);
  written();
}
// Load the weights of a vector of columns once for many products; false if there are too many.
INLINE bool prepare(const Matrix& matrix, size_t group) {
  if (matrix.steps > 2) return false;
  _tile_loadd(4, matrix.group(group), 64);
  _tile_loadd(5, matrix.group(group + 1), 64);
  _tile_loadd(6, matrix.group(group) + (matrix.steps - 1) * matrix.tile(), 64);
  _tile_loadd(7, matrix.group(group + 1) + (matrix.steps - 1) * matrix.tile(), 64);
  return true;
}

#else

struct Tiles {
  void for_product(const Matrix&) {}
  void for_vectors(const Matrix&) {}
  static bool allowed() { return true; }
};

INLINE bool prepare(const Matrix&, size_t) { return false; }

template <bool PREPARED>
INLINE void vector_product(const Stored* pixels, size_t stride, size_t step_stride, const Matrix& matrix, size_t group,
                           Sum* sums) {
  Vec totals[PIXELS];
  for (Vec& total : totals) total = load(matrix.bias_of(group));
  for (size_t step = 0; step < matrix.steps; ++step)
    for (size_t row = 0; row < matrix.depth; ++row) {
      const Vec weight = load(matrix.group(group) + step * matrix.tile() + row * COLUMNS);
      const Stored* left = pixels + step * step_stride + row;
      for (size_t i = 0; i < PIXELS; ++i) totals[i] = multiply_add(all(left[i * stride]), weight, totals[i]);
    }
  for (size_t i = 0; i < PIXELS; ++i) store(sums + i * LANES, totals[i]);
}

template <size_t HIGH, size_t WIDE>
INLINE void product(const Stored* pixels, size_t stride, const Matrix& matrix, size_t group, Sum* sums,
                    size_t sums_stride) {
  alignas(64) Sum some[PIXELS * LANES];
  for (size_t high = 0; high < HIGH; ++high)
    for (size_t wide = 0; wide < WIDE; ++wide) {
      vector_product<false>(pixels + high * PIXELS * stride, stride, matrix.depth, matrix, group + wide, some);
      Sum* out = sums + high * PIXELS * sums_stride + wide * COLUMNS;
      for (size_t i = 0; i < PIXELS; ++i) std::copy(some + i * LANES, some + (i + 1) * LANES, out + i * sums_stride);
    }
}

#endif

// As vector_product for `count` pixels, PIXELS or more; `finish` takes the first of PIXELS pixels and their sums. The last
// ones, where they are fewer, begin earlier, and some are computed twice. `sums`: room for 2 * PIXELS * LANES. What is
// done with sums goes on beside the next ones' products.
template <bool PREPARED, class Finish>
INLINE void vector_products(const Stored* pixels, size_t stride, size_t step_stride, size_t count, const Matrix& matrix,
                            size_t group, Sum* sums, const Finish& finish) {
  Sum *made = sums, *next = sums + PIXELS * LANES;
  size_t first = 0;
  vector_product<PREPARED>(pixels, stride, step_stride, matrix, group, made);
  for (size_t at = PIXELS; at < count; at += PIXELS) {
    const size_t from = std::min(at, count - PIXELS);
    vector_product<PREPARED>(pixels + from * stride, stride, step_stride, matrix, group, next);
    finish(first, made);
    std::swap(made, next);
    first = from;
  }
  finish(first, made);
}
