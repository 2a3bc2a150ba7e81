// A block that blocks.cpp computes: its layout, and its weights in the order in which the two passes read them.
#pragma once

#include <algorithm>
#include <vector>

#include "product.h"

enum Entry { STEM, EXPANSION, NONE };  // the layer in front of the depthwise convolution

// A block's layout as deploy/native/cpu_blocks/blocks.py gives it.
struct Layout {
  int32_t entry, in_height, in_width, in_channels;
  int32_t entry_top, entry_left;    // padding of the stem, a 3x3 convolution with stride 2
  int32_t height, width, channels;  // of the depthwise convolution's input
  int32_t kernel, stride, top, left, out_height, out_width, out_channels;
  int32_t squeezed;  // channels between squeeze and excitation
  int32_t residual;  // 1: the block's input is added to its output
  int32_t feature;   // 1: the block's output is an output of the CPU blocks
};
static_assert(sizeof(Layout) == 19 * sizeof(int32_t), "the fields follow each other");
constexpr size_t STEM_KERNEL = 3, STEM_STRIDE = 2, COLORS = 3;
constexpr size_t MAX_KERNEL = 5;
constexpr size_t MULTIPLY_HIGH = 2;      // the projection pass multiplies this many times TILE_PIXELS pixels together
constexpr size_t MIN_PARTS = 8;          // of a phase, so that several threads end at about the same time
constexpr size_t MAX_PART_PIXELS = 512;  // pixels of the projection pass in one part

// The number of weights of a block.
inline size_t weight_count(const Layout& layout) {
  const size_t channels = layout.channels, taps = static_cast<size_t>(layout.kernel) * layout.kernel;
  const size_t entry_rows = layout.entry == STEM ? STEM_KERNEL * STEM_KERNEL * COLORS : layout.in_channels;
  return (layout.entry == NONE ? 0 : (entry_rows + 1) * channels) + (taps + 1) * channels +
         2 * static_cast<size_t>(layout.squeezed) * channels + layout.squeezed + 2 * channels +
         (channels + 1) * layout.out_channels;
}

struct Block {
  size_t entry, in_height, in_width, in_channels, entry_top, entry_left, height, width, channels, kernel, stride, top,
      left, out_height, out_width, out_channels, squeezed;
  bool residual, feature;
  size_t padded_channels;   // channels, rounded up to whole vectors
  size_t bands, band_rows;  // the depthwise pass computes bands of rows
  size_t part_pixels;       // pixels of the projection pass in one part
  Matrix entry_matrix;      // the stem's or the expansion's weights
  Matrix projection;        // the projection's weights times the gates
  AlignedArray<Real> depthwise, depthwise_bias;  // [vector][tap][VECTOR_SIZE], [padded_channels]
  AlignedArray<float> sums;                      // [bands][padded_channels], of the depthwise pass's output
  AlignedArray<Stored> reduce, expand;           // [channels,squeezed], [squeezed,channels]
  std::vector<float> reduce_bias, expand_bias;   // [squeezed], [channels]
  std::vector<float> gate_factor;                // [channels]
  std::vector<float> mean, reduced;              // [channels], [squeezed]: work space of the gates' computation
  AlignedArray<float> gates;                     // [padded_channels]; the padding is 0
  AlignedArray<Stored> unscaled_projection;      // the projection's weights in the order of `projection`

  explicit Block(const Layout& layout) {
    const int32_t* number = reinterpret_cast<const int32_t*>(&layout);
    for (size_t* field : {&entry, &in_height, &in_width, &in_channels, &entry_top, &entry_left, &height, &width,
                          &channels, &kernel, &stride, &top, &left, &out_height, &out_width, &out_channels, &squeezed})
      *field = static_cast<size_t>(*number++);
    residual = layout.residual, feature = layout.feature;
    padded_channels = round_up(channels, VECTOR_SIZE);
    bands = (MIN_PARTS + vectors() - 1) / vectors();
    if (bands > 1) bands += bands * vectors() % 2;  // two threads have equally many parts
    band_rows = (out_height + bands - 1) / bands;
    bands = (out_height + band_rows - 1) / band_rows;
    part_pixels = std::min(MAX_PART_PIXELS, round_up(pixels() / MIN_PARTS + 1, MULTIPLY_HIGH * TILE_PIXELS));
  }

  size_t vectors() const { return padded_channels / VECTOR_SIZE; }
  size_t pixels() const { return out_height * out_width; }
  // Values of a row of the image with its padding, as the stem reads it.
  size_t stem_row_size() const { return COLORS * (entry_left + in_width + STEM_KERNEL); }
  // Values of a row in the ring buffer, with its padding.
  size_t ring_row_size() const { return (left + width + kernel) * VECTOR_SIZE; }

  // Reads the block's weights in the order of blocks.py; returns the position behind them. `image_mean`: of each color.
  const float* read(const float* weights, const float* image_mean) {
    if (entry != NONE) weights = read_entry(weights, image_mean);
    const size_t taps = kernel * kernel;
    depthwise.allocate(taps * padded_channels);
    depthwise_bias.allocate(padded_channels);
    for (size_t tap = 0; tap < taps; ++tap)
      for (size_t c = 0; c < channels; ++c)
        depthwise[(c / VECTOR_SIZE * taps + tap) * VECTOR_SIZE + c % VECTOR_SIZE] = static_cast<Real>(*weights++);
    for (size_t c = 0; c < channels; ++c) depthwise_bias[c] = static_cast<Real>(*weights++);
    const auto read_floats = [&weights](std::vector<float>& out, size_t count) {
      out.assign(weights, weights + count);
      weights += count;
    };
    const auto read_stored = [&weights](AlignedArray<Stored>& out, size_t count) {
      out.allocate(count);
      for (size_t i = 0; i < count; ++i) out[i] = to_stored(*weights++);
    };
    read_stored(reduce, channels * squeezed);
    read_floats(reduce_bias, squeezed);
    read_stored(expand, squeezed * channels);
    read_floats(expand_bias, channels);
    read_floats(gate_factor, channels);
    mean.resize(channels);
    reduced.resize(squeezed);
    gates.allocate(padded_channels);
    projection.allocate(padded_channels, out_channels);
    unscaled_projection.allocate(projection.size());
    for (size_t row = 0; row < channels; ++row)
      for (size_t column = 0; column < out_channels; ++column)
        unscaled_projection[projection.position(row, column)] = to_stored(*weights++);
    for (size_t column = 0; column < out_channels; ++column) projection.set_bias(column, *weights++);
    sums.allocate(bands * padded_channels);
    return weights;
  }

 private:
  const float* read_entry(const float* weights, const float* image_mean) {
    const size_t stem_row = STEM_KERNEL * COLORS, rows = entry == STEM ? STEM_KERNEL * stem_row : in_channels;
    if (entry == STEM)
      entry_matrix.allocate(STEM_KERNEL, stem_row, padded_channels);  // a tile for each row of the kernel
    else
      entry_matrix.allocate(rows, padded_channels);
    const auto matrix_row = [&](size_t row) {
      return entry == STEM ? row / stem_row * entry_matrix.tile_rows + row % stem_row : row;
    };
    for (size_t row = 0; row < rows; ++row)
      for (size_t column = 0; column < channels; ++column) entry_matrix.set(matrix_row(row), column, *weights++);
    for (size_t column = 0; column < channels; ++column) {
      float bias = *weights++;
      // The image's values are exact in bfloat16, their differences from the mean are not; so the bias takes up the
      // mean, and the padding is the mean.
      if (entry == STEM && EXACT_BYTES)
        for (size_t row = 0; row < rows; ++row)
          bias -= entry_matrix.get(matrix_row(row), column) * image_mean[row % COLORS];
      entry_matrix.set_bias(column, bias);
    }
    return weights;
  }
};
