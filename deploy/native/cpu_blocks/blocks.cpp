// Computes the first blocks of an EfficientNet on the CPU. deploy/native/cpu_blocks/blocks.py compiles this file for
// the CPU at hand and calls it.
//
// In these blocks the maps are large and the channels few, so nearly all time goes into moving the values between the
// layers. Here an inverted residual block (of MobileNetV2; with squeeze-and-excitation: EfficientNet, arXiv 1905.11946,
// section 4) is two passes. The depthwise pass works on one vector of channels at a time: it expands rows of the map,
// keeps as many of them as the depthwise kernel is high, and writes the depthwise convolution's output and the sums of
// it. The projection pass projects that output, with the gates of squeeze-and-excitation multiplied into its weights.
// Both compute in 16 bits where the CPU does.
//
// Maps are [height,width,channels]. The image and the maps are padded as each layer's layout says.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <memory>
#include <vector>

#include "block.h"
#include "product.h"
#include "simd.h"
#include "thread_team.h"

// swish(x) = max(x, 0) - h(|x|), with h a polynomial up to END and 0 from there on: the fit of
// engines/openvino/swish.py, in u = 2 t / END - 1. In t FP16 would lose it: the terms are up to 100 times as large as
// their sum.
constexpr float END = 7;
constexpr float MINUS_H[] = {-0.102276113f, 0.239071042f,  -0.24079888f,  0.0911652506f,
                             0.29893521f,   -0.50146315f,  0.0441397829f, 0.171226857f};

INLINE Vec swish(Vec x) {  // NaN for NaN
  const Vec u = multiply_add(minimum(broadcast(END), absolute(x)), broadcast(2 / END), broadcast(-1));
  Vec value = broadcast(MINUS_H[7]);
  for (int i = 6; i > 0; --i) value = multiply_add(value, u, broadcast(static_cast<Real>(MINUS_H[i])));
  return multiply_add(value, u, maximum(Vec{}, x) + broadcast(static_cast<Real>(MINUS_H[0])));
}
static bool all_finite(const float* values, size_t count) {
  constexpr uint32_t MAX_EXPONENT = 0x7f800000;  // of infinities and NaN
  int not_finite = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    not_finite |= (bits & MAX_EXPONENT) == MAX_EXPONENT;
  }
  return !not_finite;
}
inline float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

constexpr size_t VECTOR_GROUPS = VECTOR_SIZE / GROUP_COLUMNS;  // groups of a matrix's columns in a vector
// The phases of a block: the depthwise pass, and after it the gates; the projection's weights times the gates; the
// projection pass.
enum Phase { DEPTHWISE_PASS, SCALE_PROJECTION, PROJECTION_PASS, PHASES };

// The buffers of one thread.
struct Workspace {
  AlignedArray<Real> ring;        // the rows that the depthwise convolution reads, and a row of zeros
  AlignedArray<Stored> stem_rows; // the three rows of the image that the stem reads, with their padding
  AlignedArray<Sum> sums;
};

class CpuBlocks {
 public:
  CpuBlocks(const Layout* layouts, size_t count, const float* weights, size_t threads);
  bool run(const uint8_t* image, float* const* features);

 private:
  void depthwise_pass(Block& block, const Stored* input, size_t part, Workspace& workspace);
  void compute_entry_row(const Block& block, const Stored* input, size_t row, size_t vector, bool preloaded, Real* out,
                         Workspace& workspace);
  const Stored* read_stem_rows(const Block& block, size_t row, Workspace& workspace);
  void compute_gates(Block& block);
  void projection_pass(Block& block, const Stored* input, Stored* output, float* feature, size_t part,
                       Workspace& workspace);

  std::vector<std::unique_ptr<Block>> blocks;
  float image_mean[COLORS];
  AlignedArray<Stored> maps[2];           // the blocks' inputs and outputs, alternately
  AlignedArray<Stored> depthwise_output;  // [pixels][padded_channels]
  std::vector<std::unique_ptr<Workspace>> workspaces;
  std::unique_ptr<ThreadTeam> team;
  const uint8_t* image = nullptr;
  float* const* features = nullptr;
  std::atomic<bool> finite{true};  // false once a value of this image was not finite
  std::vector<size_t> feature_index;
};

CpuBlocks::CpuBlocks(const Layout* layouts, size_t count, const float* weights, size_t threads) {
  std::copy(weights, weights + COLORS, image_mean);
  weights += COLORS;
  size_t map_size = 0, depthwise_size = 0, ring_size = 0, stem_size = 0, sums_size = 0;
  std::vector<size_t> parts;
  for (size_t i = 0; i < count; ++i) {
    blocks.emplace_back(new Block(layouts[i]));
    Block& b = *blocks.back();
    weights = b.read(weights, image_mean);
    parts.insert(parts.end(), {b.bands * b.vectors(), b.projection.groups,
                               (b.pixels() + b.part_pixels - 1) / b.part_pixels});
    feature_index.push_back(i ? feature_index.back() + blocks[i - 1]->feature : 0);
    map_size = std::max(map_size, b.pixels() * b.out_channels);
    depthwise_size = std::max(depthwise_size, (b.pixels() + MULTIPLY_HIGH * TILE_PIXELS) * b.padded_channels);
    ring_size = std::max(ring_size, (b.kernel + 1) * b.ring_row_size());
    if (b.entry == STEM) stem_size = STEM_KERNEL * b.stem_row_size();
    sums_size = std::max(sums_size,
                         MULTIPLY_HIGH * TILE_PIXELS * round_up(b.projection.groups * GROUP_COLUMNS, VECTOR_SIZE));
  }
  for (AlignedArray<Stored>& map : maps) map.allocate(map_size);
  depthwise_output.allocate(depthwise_size);  // with room for whole products behind its end
  for (size_t thread = 0; thread < threads; ++thread) {
    workspaces.emplace_back(new Workspace);
    Workspace& workspace = *workspaces.back();
    workspace.ring.allocate(ring_size);
    workspace.stem_rows.allocate(stem_size);
    workspace.sums.allocate(sums_size);
  }
  team.reset(new ThreadTeam(threads, std::move(parts)));
  team->run_part = [this](size_t thread, size_t phase, size_t part) {
    const size_t index = phase / PHASES;
    Block& block = *blocks[index];
    if (phase % PHASES == DEPTHWISE_PASS)
      depthwise_pass(block, maps[index % 2], part, *workspaces[thread]);
    else if (phase % PHASES == SCALE_PROJECTION)
      block.projection.set_scaled(part, block.unscaled_projection, block.gates);
    else
      projection_pass(block, maps[index % 2], maps[(index + 1) % 2],
                      block.feature ? features[feature_index[index]] : nullptr, part, *workspaces[thread]);
  };
  team->end_phase = [this](size_t phase) {
    if (phase % PHASES == DEPTHWISE_PASS) compute_gates(*blocks[phase / PHASES]);
  };
}

bool CpuBlocks::run(const uint8_t* image_, float* const* features_) {
  image = image_;
  features = features_;
  finite = true;
  team->run();
  return finite;
}

// Converts the three rows of the image, with their padding, that a row of the stem reads: [3][stem_row_size()].
const Stored* CpuBlocks::read_stem_rows(const Block& b, size_t row, Workspace& workspace) {
  const size_t bytes = COLORS * b.in_width;
  for (size_t kernel_row = 0; kernel_row < STEM_KERNEL; ++kernel_row) {
    Stored* stem_row = workspace.stem_rows + kernel_row * b.stem_row_size();
    Stored* inner = stem_row + COLORS * b.entry_left;
    const size_t y = STEM_STRIDE * row + kernel_row;  // counted from the first row of the padding
    const bool inside = y >= b.entry_top && y < b.entry_top + b.in_height;
    for (size_t color = 0; color < COLORS; ++color) {
      const Stored padding = to_stored(EXACT_BYTES ? image_mean[color] : 0);
      const auto fill = [&](Stored* start, size_t count) {
        for (size_t x = 0; x < count; ++x) start[COLORS * x + color] = padding;
      };
      fill(stem_row, b.entry_left);
      fill(inner + bytes, STEM_KERNEL);
      if (!inside) fill(inner, b.in_width);
    }
    if (!inside) continue;
    const uint8_t* pixels = image + (y - b.entry_top) * bytes;
    if (EXACT_BYTES)
      for (size_t i = 0; i < bytes; ++i) inner[i] = to_stored(pixels[i]);
    else
      for (size_t i = 0; i < bytes; ++i) inner[i] = to_stored(pixels[i] - image_mean[i % COLORS]);
  }
  return workspace.stem_rows;
}

// Computes a row of the depthwise convolution's input for a vector of channels: [width][VECTOR_SIZE].
void CpuBlocks::compute_entry_row(const Block& b, const Stored* input, size_t row, size_t vector, bool preloaded,
                                  Real* out, Workspace& workspace) {
  if (b.entry == NONE) {
    const Stored* pixels = input + row * b.width * b.channels + vector * VECTOR_SIZE;
    for (size_t x = 0; x < b.width; ++x) store(out + x * VECTOR_SIZE, load_vec(pixels + x * b.channels));
    return;
  }
  const auto finish = [out](size_t x, const Sum* sums) {
    for (size_t i = 0; i < TILE_PIXELS * VECTOR_SIZE; i += VECTOR_SIZE)
      store(out + x * VECTOR_SIZE + i, swish(load_vec(sums + i)));
  };
  const bool stem = b.entry == STEM;
  const Stored* pixels = stem ? read_stem_rows(b, row, workspace) : input + row * b.width * b.in_channels;
  const size_t stride = stem ? STEM_STRIDE * COLORS : b.in_channels;
  const size_t tile_stride = stem ? b.stem_row_size() : b.entry_matrix.tile_rows;
  (preloaded ? multiply_vectors<true, decltype(finish)> : multiply_vectors<false, decltype(finish)>)(
      pixels, stride, tile_stride, b.width, b.entry_matrix, vector * VECTOR_GROUPS, workspace.sums, finish);
}

// Computes COUNT neighbouring pixels of a row of a depthwise convolution and their swish. Returns their sum.
template <size_t KERNEL, size_t STRIDE, size_t COUNT>
INLINE Vec depthwise_pixels(const Real* const* rows, const Real* weights, Vec bias, size_t padded_channels,
                            Stored* out) {
  Vec totals[COUNT];
  for (Vec& total : totals) total = bias;
  for (size_t y = 0; y < KERNEL; ++y)
    for (size_t x = 0; x < KERNEL; ++x) {
      const Vec weight = load(weights + (y * KERNEL + x) * VECTOR_SIZE);
      for (size_t i = 0; i < COUNT; ++i)
        totals[i] = multiply_add(load(rows[y] + (i * STRIDE + x) * VECTOR_SIZE), weight, totals[i]);
    }
  Vec sum{};
  for (size_t i = 0; i < COUNT; ++i) {
    const Vec value = swish(totals[i]);
    store_stored(out + i * padded_channels, value);
    sum += value;
  }
  return sum;
}

template <size_t KERNEL, size_t STRIDE>
void depthwise_row(const Block& b, const Real* const* rows, size_t vector, Stored* out, FloatVec& sum) {
  constexpr size_t COUNT = 8;
  const Real* weights = b.depthwise + vector * KERNEL * KERNEL * VECTOR_SIZE;
  const Vec bias = load(b.depthwise_bias + vector * VECTOR_SIZE);
  const Real* inputs[KERNEL];
  std::copy(rows, rows + KERNEL, inputs);
  size_t x = 0;
  for (; x + COUNT <= b.out_width; x += COUNT) {
    Stored* pixels = out + x * b.padded_channels;
    const Vec part = depthwise_pixels<KERNEL, STRIDE, COUNT>(inputs, weights, bias, b.padded_channels, pixels);
    sum += __builtin_convertvector(part, FloatVec);
    for (const Real*& row : inputs) row += COUNT * STRIDE * VECTOR_SIZE;
  }
  for (; x < b.out_width; ++x) {
    Stored* pixel = out + x * b.padded_channels;
    const Vec part = depthwise_pixels<KERNEL, STRIDE, 1>(inputs, weights, bias, b.padded_channels, pixel);
    sum += __builtin_convertvector(part, FloatVec);
    for (const Real*& row : inputs) row += STRIDE * VECTOR_SIZE;
  }
}

// Runs the depthwise pass over a band of rows for a vector of channels.
void CpuBlocks::depthwise_pass(Block& b, const Stored* input, size_t part, Workspace& workspace) {
  const size_t vector = part / b.bands, band = part % b.bands, row_size = b.ring_row_size();
  const size_t start = band * b.band_rows, end = std::min(start + b.band_rows, b.out_height);
  TileConfig tiles;
  bool preloaded = false;
  if (b.entry != NONE) {
    tiles.set_for_multiply_vector(b.entry_matrix);
    preloaded = preload_weights(b.entry_matrix, vector * VECTOR_GROUPS);
  }
  const auto ring_row = [&](size_t i) { return workspace.ring + i * row_size; };
  std::fill(ring_row(0), ring_row(b.kernel + 1), static_cast<Real>(0));
  const Real* zeros = ring_row(b.kernel);
  // Input rows are counted from the first row of the padding.
  size_t next_row = std::max(start * b.stride, b.top);
  FloatVec sum{};
  for (size_t y = start; y < end; ++y) {
    const size_t first_row = y * b.stride, end_row = std::min(first_row + b.kernel, b.top + b.height);
    for (; next_row < end_row; ++next_row)
      compute_entry_row(b, input, next_row - b.top, vector, preloaded,
                        ring_row(next_row % b.kernel) + b.left * VECTOR_SIZE, workspace);
    const Real* rows[MAX_KERNEL];
    for (size_t i = 0; i < b.kernel; ++i) {
      const size_t row = first_row + i;
      rows[i] = row < b.top || row >= b.top + b.height ? zeros : ring_row(row % b.kernel);
    }
    Stored* out = depthwise_output + y * b.out_width * b.padded_channels + vector * VECTOR_SIZE;
    if (b.kernel == 3)
      (b.stride == 1 ? depthwise_row<3, 1> : depthwise_row<3, 2>)(b, rows, vector, out, sum);
    else
      (b.stride == 1 ? depthwise_row<5, 1> : depthwise_row<5, 2>)(b, rows, vector, out, sum);
  }
  std::memcpy(b.sums + band * b.padded_channels + vector * VECTOR_SIZE, &sum, sizeof sum);
}

// Computes the gates of squeeze-and-excitation, which are then multiplied into the projection's weights.
void CpuBlocks::compute_gates(Block& b) {
  std::fill(b.mean.begin(), b.mean.end(), 0.0f);
  for (size_t band = 0; band < b.bands; ++band)
    for (size_t c = 0; c < b.channels; ++c)
      b.mean[c] += b.sums[band * b.padded_channels + c] / static_cast<float>(b.pixels());
  std::copy(b.reduce_bias.begin(), b.reduce_bias.end(), b.reduced.begin());
  for (size_t c = 0; c < b.channels; ++c)
    for (size_t i = 0; i < b.squeezed; ++i) b.reduced[i] += b.mean[c] * to_float(b.reduce[c * b.squeezed + i]);
  float* gates = b.gates;
  std::copy(b.expand_bias.begin(), b.expand_bias.end(), gates);
  for (size_t i = 0; i < b.squeezed; ++i) {
    const float value = b.reduced[i] * sigmoid(b.reduced[i]);
    for (size_t c = 0; c < b.channels; ++c) gates[c] += value * to_float(b.expand[i * b.channels + c]);
  }
  for (size_t c = 0; c < b.channels; ++c) {
    gates[c] = sigmoid(gates[c]) * b.gate_factor[c];
    if (!std::isfinite(b.mean[c]) || !std::isfinite(gates[c])) finite = false;
  }
}

// Runs the projection pass over the pixels of a part.
void CpuBlocks::projection_pass(Block& b, const Stored* input, Stored* output, float* feature, size_t part,
                                Workspace& workspace) {
  const size_t start = part * b.part_pixels, end = std::min(start + b.part_pixels, b.pixels());
  const size_t stride = round_up(b.projection.groups * GROUP_COLUMNS, VECTOR_SIZE);
  TileConfig tiles;
  tiles.set_for_multiply(b.projection);
  for (size_t first = start; first < end; first += MULTIPLY_HIGH * TILE_PIXELS) {
    // The last product reads past the pixels' end, where `depthwise_output` has room; its results there are not used.
    const Stored* pixels = depthwise_output + first * b.padded_channels;
    size_t group = 0;
    for (; group + 2 <= b.projection.groups; group += 2)
      multiply<MULTIPLY_HIGH, 2>(pixels, b.padded_channels, b.projection, group,
                                 workspace.sums + group * GROUP_COLUMNS, stride);
    if (group < b.projection.groups)
      multiply<MULTIPLY_HIGH, 1>(pixels, b.padded_channels, b.projection, group,
                                 workspace.sums + group * GROUP_COLUMNS, stride);
    for (size_t i = 0; i < std::min(MULTIPLY_HIGH * TILE_PIXELS, end - first); ++i)
      for (size_t c = 0; c < b.out_channels; c += VECTOR_SIZE) {
        const size_t position = (first + i) * b.out_channels + c, count = b.out_channels - c;
        SumVec sums = load_sums(workspace.sums + i * stride + c);
        if (b.residual) sums = sums + load_sums(input + position);
        store_stored(output + position, sums, count);
        if (feature) store_floats(feature + position, sums, count);
      }
  }
  if (feature && !all_finite(feature + start * b.out_channels, (end - start) * b.out_channels)) finite = false;
  // The next block multiplies the values that it reads behind the map by 0, so they must not be NaN or infinite.
  if (end == b.pixels()) std::fill_n(output + end * b.out_channels, VECTOR_SIZE, static_cast<Stored>(0));
}

// The precision of the products of the stem and of the 1x1 convolutions.
extern "C" const char* cpu_blocks_product_precision() {
  return sizeof(Stored) == 4 ? "f32" : EXACT_BYTES ? "bf16" : "f16";
}
// The precision of all other arithmetic on maps.
extern "C" const char* cpu_blocks_vector_precision() { return sizeof(Real) == 4 ? "f32" : "f16"; }

// The number of weights that cpu_blocks_create reads for these blocks.
extern "C" size_t cpu_blocks_weight_count(const Layout* layouts, size_t count) {
  size_t weights = COLORS;
  for (size_t i = 0; i < count; ++i) weights += weight_count(layouts[i]);
  return weights;
}

// Asks the system to let this process use the CPU's tiles, if this file was compiled for them; 0 if it does not. To be
// called before cpu_blocks_create.
extern "C" int cpu_blocks_request_permission() { return TileConfig::request_permission(); }

// Creates CPU blocks that `threads` threads run; null if memory is short.
extern "C" CpuBlocks* cpu_blocks_create(const Layout* layouts, size_t count, const float* weights, size_t threads) {
  try {
    return new CpuBlocks(layouts, count, weights, threads);
  } catch (const std::exception&) {
    return nullptr;
  }
}

// Computes, from an image, uint8 [height,width,3], the outputs of those blocks that are features, float32
// [height,width, channels]. Returns 0 if an intermediate value was larger than the vectors' type holds (FP16: 65504,
// and 8188 behind a depthwise convolution, where eight are added up).
extern "C" int cpu_blocks_run(CpuBlocks* blocks, const uint8_t* image, float* const* features) {
  return blocks->run(image, features);
}

extern "C" void cpu_blocks_destroy(CpuBlocks* blocks) { delete blocks; }
