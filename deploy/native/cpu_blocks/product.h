// Matrix products for 1x1 convolutions: by AMX in bfloat16 where the CPU has AMX, else by SIMD vectors.
//
// A value between two layers has the type `Stored`: bfloat16, as AMX reads it, or the vectors' own type. A sum has the
// type `Sum`.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>

#include "simd.h"

#if defined(HAS_FP16) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

constexpr size_t round_up(size_t number, size_t step) { return (number + step - 1) / step * step; }

// An array that begins at a multiple of 64 bytes and is allocated full of zeros. A vector may be read past its end.
template <class T>
class AlignedArray {
 public:
  AlignedArray() = default;
  AlignedArray(const AlignedArray&) = delete;
  AlignedArray& operator=(const AlignedArray&) = delete;
  ~AlignedArray() { std::free(data); }
  void allocate(size_t count) {
    const size_t bytes = round_up(count * sizeof(T) + 256, 64);
    std::free(data);
    data = static_cast<T*>(std::aligned_alloc(64, bytes));
    if (!data) throw std::bad_alloc();
    std::memset(static_cast<void*>(data), 0, bytes);
  }
  operator T*() { return data; }
  operator const T*() const { return data; }

 private:
  T* data = nullptr;
};

constexpr size_t TILE_PIXELS = 16;  // rows of the left matrix that are multiplied together

#ifdef HAS_AMX

using Stored = uint16_t;
using Sum = float;
constexpr bool EXACT_BYTES = true;      // numbers up to 255 are exact, and products with them are summed in float32
constexpr size_t GROUP_COLUMNS = 16;    // columns of the right matrix in a tile
constexpr size_t MAX_TILE_ROWS = 32;    // rows of the right matrix in a tile, at most
constexpr size_t INTERLEAVED_ROWS = 2;  // rows of the right matrix that AMX multiplies at once

INLINE Stored to_stored(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<Stored>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE float to_float(Stored stored) {
  const uint32_t bits = static_cast<uint32_t>(stored) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// As many values as a vector of FP16 has, in float32: two vectors of 16.
struct FloatPair {
  __m512 low, high;
};
INLINE FloatPair to_floats(const Sum* sums) { return {_mm512_loadu_ps(sums), _mm512_loadu_ps(sums + 16)}; }
INLINE FloatPair to_floats(const Stored* stored) {
  const __m512i bits = _mm512_loadu_si512(stored);
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(bits));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bits, 1));
  return {(__m512)_mm512_slli_epi32(low, 16), (__m512)_mm512_slli_epi32(high, 16)};
}
INLINE FloatPair to_floats(Vec vec) {
  const __m512i bits = (__m512i)vec;
  return {_mm512_cvtxph_ps((__m256h)_mm512_castsi512_si256(bits)),
          _mm512_cvtxph_ps((__m256h)_mm512_extracti64x4_epi64(bits, 1))};
}
INLINE FloatPair operator+(FloatPair a, FloatPair b) {
  return {_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)};
}
INLINE Vec to_vec(FloatPair floats) {
  const __m256i low = (__m256i)_mm512_cvtxps_ph(floats.low), high = (__m256i)_mm512_cvtxps_ph(floats.high);
  return (Vec)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
INLINE void store_stored(Stored* stored, FloatPair floats) {
  const __m512bh bits = _mm512_cvtne2ps_pbh(floats.high, floats.low);
  std::memcpy(stored, &bits, 64);
}
INLINE void store_stored(Stored* stored, Vec vec) { store_stored(stored, to_floats(vec)); }
// Stores the first `count` values.
INLINE void store_stored(Stored* stored, FloatPair floats, size_t count) {
  const __mmask32 mask = count < 32 ? (1u << count) - 1 : ~0u;
  _mm512_mask_storeu_epi16(stored, mask, (__m512i)_mm512_cvtne2ps_pbh(floats.high, floats.low));
}
INLINE void store_floats(float* out, FloatPair floats, size_t count) {
  const uint32_t mask = count < 32 ? (1u << count) - 1 : ~0u;
  _mm512_mask_storeu_ps(out, static_cast<__mmask16>(mask), floats.low);
  _mm512_mask_storeu_ps(out + 16, static_cast<__mmask16>(mask >> 16), floats.high);
}
INLINE Vec load_vec(const Sum* sums) { return to_vec(to_floats(sums)); }
INLINE Vec load_vec(const Stored* stored) { return to_vec(to_floats(stored)); }

// A vector of sums in the precision in which they are added.
using SumVec = FloatPair;
INLINE SumVec load_sums(const Sum* sums) { return to_floats(sums); }
INLINE SumVec load_sums(const Stored* stored) { return to_floats(stored); }

#else

using Stored = Real;
using Sum = Real;
constexpr bool EXACT_BYTES = false;
constexpr size_t GROUP_COLUMNS = VECTOR_SIZE;
constexpr size_t MAX_TILE_ROWS = 1 << 20;
constexpr size_t INTERLEAVED_ROWS = 1;

INLINE Stored to_stored(float value) { return static_cast<Stored>(value); }
INLINE float to_float(Stored stored) { return static_cast<float>(stored); }
INLINE void store_stored(Stored* stored, Vec vec) { store(stored, vec); }
INLINE Vec load_vec(const Real* values) { return load(values); }

using SumVec = Vec;
INLINE SumVec load_sums(const Real* values) { return load(values); }
// Stores the first `count` values.
INLINE void store_stored(Stored* stored, Vec vec, size_t count) {
  std::memcpy(stored, &vec, std::min(count, VECTOR_SIZE) * sizeof(Stored));
}
INLINE void store_floats(float* out, Vec vec, size_t count) {
  for (size_t i = 0; i < std::min(count, VECTOR_SIZE); ++i) out[i] = static_cast<float>(vec[i]);
}

#endif

// The right matrix of a product, [rows,columns], with a bias for each column. The weights lie in the order in which the
// product reads them: in groups of GROUP_COLUMNS columns, of `row_tiles` tiles each, of `tile_rows` rows each; in a
// tile INTERLEAVED_ROWS rows are interleaved, as AMX reads them.
class Matrix {
 public:
  size_t columns = 0, groups = 0, row_tiles = 0, tile_rows = 0;

  void allocate(size_t rows, size_t columns_) {
    const size_t tiles = (rows + MAX_TILE_ROWS - 1) / MAX_TILE_ROWS;
    allocate(tiles, (rows + tiles - 1) / tiles, columns_);
  }
  void allocate(size_t row_tiles_, size_t tile_rows_, size_t columns_) {
    columns = columns_, row_tiles = row_tiles_;
    groups = (columns + GROUP_COLUMNS - 1) / GROUP_COLUMNS;
    tile_rows = round_up(tile_rows_, INTERLEAVED_ROWS);
    weights.allocate(size());
    bias.allocate(groups * GROUP_COLUMNS);
  }
  size_t rows() const { return row_tiles * tile_rows; }
  size_t size() const { return groups * row_tiles * tile_size(); }
  size_t tile_size() const { return tile_rows * GROUP_COLUMNS; }
  // The position of a weight in `weights`.
  size_t position(size_t row, size_t column) const {
    return column / GROUP_COLUMNS * row_tiles * tile_size() +
           row / INTERLEAVED_ROWS * GROUP_COLUMNS * INTERLEAVED_ROWS + column % GROUP_COLUMNS * INTERLEAVED_ROWS +
           row % INTERLEAVED_ROWS;
  }
  void set(size_t row, size_t column, float weight) { weights[position(row, column)] = to_stored(weight); }
  float get(size_t row, size_t column) const { return to_float(weights[position(row, column)]); }
  void set_bias(size_t column, float value) { bias[column] = static_cast<Sum>(value); }

  // Sets a group to the product of `unscaled`, `size` values in the order of `weights`, with a factor for each row.
  void set_scaled(size_t group, const Stored* unscaled, const float* factors) {
    Stored* out = weights + group * row_tiles * tile_size();
    unscaled += group * row_tiles * tile_size();
    for (size_t row = 0; row < rows(); row += INTERLEAVED_ROWS)
      for (size_t i = 0; i < GROUP_COLUMNS * INTERLEAVED_ROWS; ++i)
        *out++ = to_stored(to_float(*unscaled++) * factors[row + i % INTERLEAVED_ROWS]);
  }
  const Stored* group_weights(size_t group) const { return weights + group * row_tiles * tile_size(); }
  const Sum* group_bias(size_t group) const { return bias + group * GROUP_COLUMNS; }

 private:
  AlignedArray<Stored> weights;
  AlignedArray<Sum> bias;
};

#ifdef HAS_AMX

// Keeps loads and stores in their order around tile instructions: GCC assumes that these access no memory, or only as
// much as a pointer has.
INLINE void compiler_barrier() { asm volatile("" ::: "memory"); }

// The configuration of the calling thread's tiles. The destructor restores the previous one, because other code in this
// thread may rely on it.
class TileConfig {
 public:
  TileConfig() {
    _tile_storeconfig(&previous);
    compiler_barrier();
  }
  ~TileConfig() { load(previous); }
  // For multiply: tiles 0 to 3 hold sums, 4 and 5 pixels, 6 and 7 weights.
  void set_for_multiply(const Matrix& matrix) { set(matrix, 4, 6); }
  // For multiply_vector: tiles 0 and 1 hold sums, 2 and 3 pixels, 4 to 7 weights.
  void set_for_multiply_vector(const Matrix& matrix) { set(matrix, 2, 4); }
  // Asks the system to let this process use tiles; false if it does not.
  static bool request_permission() {
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
  }

 private:
  struct alignas(64) Config {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  };
  // `first_pixels` and `first_weights`: the numbers of the first tiles that hold pixels and weights.
  void set(const Matrix& matrix, int first_pixels, int first_weights) {
    Config config = {};
    config.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      config.bytes[tile] =
          static_cast<uint16_t>(tile < first_pixels || tile >= first_weights ? 64 : 2 * matrix.tile_rows);
      config.rows[tile] = static_cast<uint8_t>(tile < first_weights ? 16 : matrix.tile_rows / 2);
    }
    load(config);
  }
  static void load(const Config& config) {
    compiler_barrier();
    _tile_loadconfig(&config);
  }
  Config previous;
};

// Computes sums [HIGH * TILE_PIXELS,.] = pixels [HIGH * TILE_PIXELS,.] times WIDE groups of the matrix's columns, from
// `group` on, plus the bias. Consecutive pixels are `stride` values apart, their sums `sums_stride`.
template <size_t HIGH, size_t WIDE>
INLINE void multiply(const Stored* pixels, size_t stride, const Matrix& matrix, size_t group, Sum* sums,
                     size_t sums_stride) {
  const Stored *weights = matrix.group_weights(group), *right_weights = matrix.group_weights(group + WIDE - 1);
  const Sum *bias = matrix.group_bias(group), *right_bias = matrix.group_bias(group + WIDE - 1);
  const Stored* lower_pixels = pixels + TILE_PIXELS * stride;
  compiler_barrier();
  _tile_loadd(0, bias, 0);
  if (WIDE > 1) _tile_loadd(1, right_bias, 0);
  if (HIGH > 1) _tile_loadd(2, bias, 0);
  if (HIGH > 1 && WIDE > 1) _tile_loadd(3, right_bias, 0);
  for (size_t tile = 0; tile < matrix.row_tiles; ++tile) {
    _tile_loadd(4, pixels + tile * matrix.tile_rows, 2 * stride);
    _tile_loadd(6, weights + tile * matrix.tile_size(), 64);
    _tile_dpbf16ps(0, 4, 6);
    if (WIDE > 1) {
      _tile_loadd(7, right_weights + tile * matrix.tile_size(), 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (HIGH > 1) {
      _tile_loadd(5, lower_pixels + tile * matrix.tile_rows, 2 * stride);
      _tile_dpbf16ps(2, 5, 6);
      if (WIDE > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 4 * sums_stride);
  if (WIDE > 1) _tile_stored(1, sums + GROUP_COLUMNS, 4 * sums_stride);
  if (HIGH > 1) _tile_stored(2, sums + TILE_PIXELS * sums_stride, 4 * sums_stride);
  if (HIGH > 1 && WIDE > 1) _tile_stored(3, sums + TILE_PIXELS * sums_stride + GROUP_COLUMNS, 4 * sums_stride);
  compiler_barrier();
}

// Computes VECTOR_SIZE of the matrix's columns, from group `group` on, for TILE_PIXELS pixels: sums [TILE_PIXELS,
// VECTOR_SIZE]. Consecutive pixels are `stride` values apart, the values that a row tile multiplies `tile_stride`.
// PRELOADED: `preload_weights` has put the weights into tiles 4 to 7.
template <bool PRELOADED>
INLINE void multiply_vector(const Stored* pixels, size_t stride, size_t tile_stride, const Matrix& matrix, size_t group,
                            Sum* sums) {
  const Stored *weights = matrix.group_weights(group), *right_weights = matrix.group_weights(group + 1);
  compiler_barrier();
  _tile_loadd(0, matrix.group_bias(group), 0);
  _tile_loadd(1, matrix.group_bias(group + 1), 0);
  if (PRELOADED) {
    _tile_loadd(2, pixels, 2 * stride);
    _tile_dpbf16ps(0, 2, 4);
    _tile_dpbf16ps(1, 2, 5);
    if (matrix.row_tiles > 1) {
      _tile_loadd(3, pixels + tile_stride, 2 * stride);
      _tile_dpbf16ps(0, 3, 6);
      _tile_dpbf16ps(1, 3, 7);
    }
  } else {
    for (size_t tile = 0; tile < matrix.row_tiles; ++tile) {
      _tile_loadd(2, pixels + tile * tile_stride, 2 * stride);
      _tile_loadd(4, weights + tile * matrix.tile_size(), 64);
      _tile_dpbf16ps(0, 2, 4);
      _tile_loadd(5, right_weights + tile * matrix.tile_size(), 64);
      _tile_dpbf16ps(1, 2, 5);
    }
  }
  _tile_stored(0, sums, 4 * VECTOR_SIZE);
  _tile_stored(1, sums + GROUP_COLUMNS, 4 * VECTOR_SIZE);
  compiler_barrier();
}
// Loads the weights of a vector of columns once for many calls of multiply_vector; false if they are too many.
INLINE bool preload_weights(const Matrix& matrix, size_t group) {
  if (matrix.row_tiles > 2) return false;
  _tile_loadd(4, matrix.group_weights(group), 64);
  _tile_loadd(5, matrix.group_weights(group + 1), 64);
  _tile_loadd(6, matrix.group_weights(group) + (matrix.row_tiles - 1) * matrix.tile_size(), 64);
  _tile_loadd(7, matrix.group_weights(group + 1) + (matrix.row_tiles - 1) * matrix.tile_size(), 64);
  return true;
}

#else

struct TileConfig {
  void set_for_multiply(const Matrix&) {}
  void set_for_multiply_vector(const Matrix&) {}
  static bool request_permission() { return true; }
};

INLINE bool preload_weights(const Matrix&, size_t) { return false; }

template <bool PRELOADED>
INLINE void multiply_vector(const Stored* pixels, size_t stride, size_t tile_stride, const Matrix& matrix, size_t group,
                            Sum* sums) {
  Vec totals[TILE_PIXELS];
  for (Vec& total : totals) total = load(matrix.group_bias(group));
  for (size_t tile = 0; tile < matrix.row_tiles; ++tile)
    for (size_t row = 0; row < matrix.tile_rows; ++row) {
      const Vec weight = load(matrix.group_weights(group) + tile * matrix.tile_size() + row * GROUP_COLUMNS);
      const Stored* left = pixels + tile * tile_stride + row;
      for (size_t i = 0; i < TILE_PIXELS; ++i) totals[i] = multiply_add(broadcast(left[i * stride]), weight, totals[i]);
    }
  for (size_t i = 0; i < TILE_PIXELS; ++i) store(sums + i * VECTOR_SIZE, totals[i]);
}

template <size_t HIGH, size_t WIDE>
INLINE void multiply(const Stored* pixels, size_t stride, const Matrix& matrix, size_t group, Sum* sums,
                     size_t sums_stride) {
  alignas(64) Sum tile_sums[TILE_PIXELS * VECTOR_SIZE];
  for (size_t high = 0; high < HIGH; ++high)
    for (size_t wide = 0; wide < WIDE; ++wide) {
      multiply_vector<false>(pixels + high * TILE_PIXELS * stride, stride, matrix.tile_rows, matrix, group + wide,
                             tile_sums);
      Sum* out = sums + high * TILE_PIXELS * sums_stride + wide * GROUP_COLUMNS;
      for (size_t i = 0; i < TILE_PIXELS; ++i)
        std::copy(tile_sums + i * VECTOR_SIZE, tile_sums + (i + 1) * VECTOR_SIZE, out + i * sums_stride);
    }
}

#endif

// Calls multiply_vector for `count` pixels, TILE_PIXELS or more, and finish(first, sums) for each TILE_PIXELS of them:
// the number of the first pixel, and the pixels' sums. The last TILE_PIXELS may overlap those before them; then some
// pixels are computed twice. `sums`: room for 2 * TILE_PIXELS * VECTOR_SIZE, so that the CPU can overlap `finish` with
// the next product.
template <bool PRELOADED, class Finish>
INLINE void multiply_vectors(const Stored* pixels, size_t stride, size_t tile_stride, size_t count,
                             const Matrix& matrix, size_t group, Sum* sums, const Finish& finish) {
  Sum *current = sums, *next = sums + TILE_PIXELS * VECTOR_SIZE;
  size_t first = 0;
  multiply_vector<PRELOADED>(pixels, stride, tile_stride, matrix, group, current);
  for (size_t pixel = TILE_PIXELS; pixel < count; pixel += TILE_PIXELS) {
    const size_t next_first = std::min(pixel, count - TILE_PIXELS);
    multiply_vector<PRELOADED>(pixels + next_first * stride, stride, tile_stride, matrix, group, next);
    finish(first, current);
    std::swap(current, next);
    first = next_first;
  }
  finish(first, current);
}
