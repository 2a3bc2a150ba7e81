// The first blocks of an EfficientNet on the CPU; deploy/native/cpu_blocks/blocks.py compiles this for the CPU at hand and says what for.
//
// There the maps are large and the channels few, so that nearly all time goes into moving what lies between the layers.
// Here an inverted residual block (MobileNetV2's; with squeeze-and-excitation: EfficientNet, arXiv 1905.11946, section
// 4) is two passes. The first, for a vector of channels at a time, expands rows of the map, keeps as many as the
// depthwise kernel is high, and writes what that makes of them with their sums; the second projects the result, with
// the gates of squeeze-and-excitation multiplied into its weights. All in 16 bits where the CPU computes in them.
//
// Maps are [height,width,channels]. Picture and maps are padded as each layer's layout says.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <memory>
#include <vector>

#include "thread_team.h"
#include "simd.h"
#include "product.h"

// swish(x) = max(x, 0) - h(|x|), with h a polynomial up to END and 0 from there on: the fit of engines/openvino/swish.py, in
// u = 2 t / END - 1, because in t FP16 would lose it: its terms are up to 100 times as large as their sum.
constexpr float END = 7;
constexpr float MINUS_H[] = {-0.102276113f, 0.239071042f,  -0.24079888f,  0.0911652506f,
                             0.29893521f,   -0.50146315f,  0.0441397829f, 0.171226857f};

INLINE Vec swish(Vec x) {  // of what is no number, no number
  const Vec u = multiply_add(least(all(END), magnitude(x)), all(2 / END), all(-1));
  Vec value = all(MINUS_H[7]);
  for (int i = 6; i > 0; --i) value = multiply_add(value, u, all(static_cast<Real>(MINUS_H[i])));
  return multiply_add(value, u, most(Vec{}, x) + all(static_cast<Real>(MINUS_H[0])));
}
static bool all_finite(const float* numbers, size_t count) {
  constexpr uint32_t LARGEST_EXPONENT = 0x7f800000;  // of infinities and of what is no number
  int found = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, numbers + i, sizeof bits);
    found |= (bits & LARGEST_EXPONENT) == LARGEST_EXPONENT;
  }
  return !found;
}
inline float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

enum Entry { STEM, EXPANSION, NONE };  // what is in front of the depthwise convolution

// A block as deploy/native/cpu_blocks/blocks.py describes it.
struct Layout {
  int32_t entry, in_height, in_width, in_channels;
  int32_t entry_top, entry_left;    // padding of the stem, which is 3x3 with stride 2
  int32_t height, width, channels;  // that the depthwise convolution reads
  int32_t kernel, stride, top, left, out_height, out_width, out_channels;
  int32_t squeezed;  // channels between squeeze and excitation
  int32_t residual;  // the block's input is added to its output
  int32_t feature;   // its output is one of the front's
};
static_assert(sizeof(Layout) == 19 * sizeof(int32_t), "the fields follow each other");
constexpr size_t STEM_SIDE = 3, STEM_STRIDE = 2, COLORS = 3;
constexpr size_t LARGEST_KERNEL = 5;
constexpr size_t GROUPS = LANES / COLUMNS;  // of columns in a vector
constexpr size_t HIGH = 2;                  // times PIXELS that the second pass multiplies together
constexpr size_t LEAST_PARTS = 8;           // of a phase, so that several threads end at about the same time
constexpr size_t MOST_PIXELS = 512;         // of the second pass in one part
// Of a block, one after the other: the first pass and the gates, the weights times the gates, the second pass.
enum Phase { FIRST, SCALE, SECOND, PHASES };

struct Block {
  size_t entry, in_height, in_width, in_channels, entry_top, entry_left, height, width, channels, kernel, stride, top,
      left, out_height, out_width, out_channels, squeezed;
  bool residual, feature;
  size_t lanes;             // channels, up to whole vectors
  size_t bands, band_rows;  // of the first pass
  size_t part_pixels;       // of the second
  Matrix first, last;
  Numbers<Real> depthwise, depthwise_bias;      // [vector][tap][LANES], [lanes]
  Numbers<float> sums;                          // [bands][lanes], of what the first pass wrote
  Numbers<Stored> reduce, expand;               // [channels,squeezed], [squeezed,channels]
  std::vector<float> reduce_bias, expand_bias;  // [squeezed], [channels]
  std::vector<float> factor;                    // [channels], of the gates
  std::vector<float> mean, reduced;             // [channels], [squeezed]: room for what the gates come from
  Numbers<float> gates;                         // [lanes], those behind the channels 0
  Numbers<Stored> projection;                   // in the order of `last`

  size_t pixels() const { return out_height * out_width; }
  size_t stem_line() const { return COLORS * (entry_left + in_width + STEM_SIDE); }
  size_t line() const { return (left + width + kernel) * LANES; }  // a row in the ring, with its padding
};

// What a thread works in.
struct Bench {
  Numbers<Real> ring;     // rows that the depthwise convolution reads, and one of zeros
  Numbers<Stored> lines;  // the stem's three rows of the picture, with their padding
  Numbers<Sum> sums;
};

class Front {
 public:
  Front(const Layout* layouts, size_t count, const float* weights, size_t threads);
  bool run(const uint8_t* picture, float* const* features);

 private:
  const float* read(Block& block, const float* weights);
  void first(Block& block, const Stored* input, size_t part, Bench& bench);
  void entry_row(const Block& block, const Stored* input, size_t row, size_t vector, bool prepared, Real* out,
                 Bench& bench);
  const Stored* stem_lines(const Block& block, size_t row, Bench& bench);
  void squeeze(Block& block);
  void second(Block& block, const Stored* input, Stored* output, float* feature, size_t part, Bench& bench);

  std::vector<std::unique_ptr<Block>> blocks;
  float mean[COLORS];
  Numbers<Stored> maps[2];  // between blocks, in turns
  Numbers<Stored> wide;     // between the passes of a block, [pixels][lanes]
  std::vector<std::unique_ptr<Bench>> benches;
  std::unique_ptr<Crew> crew;
  const uint8_t* picture = nullptr;
  float* const* features = nullptr;
  std::atomic<bool> finite{true};  // what was computed of the picture so far
  std::vector<size_t> feature_index;
};

static size_t weights_of(const Layout& b) {
  const size_t channels = b.channels, taps = static_cast<size_t>(b.kernel) * b.kernel;
  const size_t before = b.entry == STEM ? STEM_SIDE * STEM_SIDE * COLORS : b.in_channels;
  return (b.entry == NONE ? 0 : (before + 1) * channels) + (taps + 1) * channels +
         2 * static_cast<size_t>(b.squeezed) * channels + b.squeezed + 2 * channels + (channels + 1) * b.out_channels;
}

Front::Front(const Layout* layouts, size_t count, const float* weights, size_t threads) {
  std::copy(weights, weights + COLORS, mean);
  weights += COLORS;
  size_t map = 0, between = 0, ring = 0, lines = 0, sums = 0;
  std::vector<size_t> parts;
  for (size_t i = 0; i < count; ++i) {
    const Layout& from = layouts[i];
    blocks.emplace_back(new Block);
    Block& b = *blocks.back();
    const int32_t* numbers = reinterpret_cast<const int32_t*>(&from);
    for (size_t* field : {&b.entry, &b.in_height, &b.in_width, &b.in_channels, &b.entry_top, &b.entry_left, &b.height,
                          &b.width, &b.channels, &b.kernel, &b.stride, &b.top, &b.left, &b.out_height, &b.out_width,
                          &b.out_channels, &b.squeezed})
      *field = static_cast<size_t>(*numbers++);
    b.residual = from.residual, b.feature = from.feature;
    b.lanes = up(b.channels, LANES);
    const size_t vectors = b.lanes / LANES;
    b.bands = (LEAST_PARTS + vectors - 1) / vectors;
    if (b.bands > 1) b.bands += b.bands * vectors % 2;  // two threads have as many parts each
    b.band_rows = (b.out_height + b.bands - 1) / b.bands;
    b.bands = (b.out_height + b.band_rows - 1) / b.band_rows;
    b.part_pixels = std::min(MOST_PIXELS, up(b.pixels() / LEAST_PARTS + 1, HIGH * PIXELS));
    weights = read(b, weights);
    parts.insert(parts.end(), {b.bands * vectors, b.last.groups, (b.pixels() + b.part_pixels - 1) / b.part_pixels});
    feature_index.push_back(i ? feature_index.back() + blocks[i - 1]->feature : 0);
    map = std::max(map, b.pixels() * b.out_channels);
    between = std::max(between, (b.pixels() + HIGH * PIXELS) * b.lanes);
    ring = std::max(ring, (b.kernel + 1) * b.line());
    if (b.entry == STEM) lines = STEM_SIDE * b.stem_line();
    sums = std::max(sums, HIGH * PIXELS * up(b.last.groups * COLUMNS, LANES));
  }
  for (Numbers<Stored>& one : maps) one.make(map);
  wide.make(between);  // room for whole products behind its end
  for (size_t thread = 0; thread < threads; ++thread) {
    benches.emplace_back(new Bench);
    Bench& bench = *benches.back();
    bench.ring.make(ring);
    bench.lines.make(lines);
    bench.sums.make(sums);
  }
  crew.reset(new Crew(threads, std::move(parts)));
  crew->do_part = [this](size_t thread, size_t phase, size_t part) {
    const size_t index = phase / PHASES;
    Block& block = *blocks[index];
    if (phase % PHASES == FIRST)
      first(block, maps[index % 2], part, *benches[thread]);
    else if (phase % PHASES == SCALE)
      block.last.scale(part, block.projection, block.gates);
    else
      second(block, maps[index % 2], maps[(index + 1) % 2], block.feature ? features[feature_index[index]] : nullptr,
             part, *benches[thread]);
  };
  crew->do_end = [this](size_t phase) {
    if (phase % PHASES == FIRST) squeeze(*blocks[phase / PHASES]);
  };
}

const float* Front::read(Block& b, const float* weights) {
  if (b.entry != NONE) {
    const size_t across = STEM_SIDE * COLORS, rows = b.entry == STEM ? STEM_SIDE * across : b.in_channels;
    if (b.entry == STEM)
      b.first.make(STEM_SIDE, across, b.lanes);  // a row of the picture at a time
    else
      b.first.make(rows, b.lanes);
    const auto place = [&](size_t row) { return b.entry == STEM ? row / across * b.first.depth + row % across : row; };
    for (size_t row = 0; row < rows; ++row)
      for (size_t column = 0; column < b.channels; ++column) b.first.set(place(row), column, *weights++);
    for (size_t column = 0; column < b.channels; ++column) {
      float bias = *weights++;
      // The picture's numbers are exact in bfloat16, their distances from the mean are not; the padding is the mean.
      if (b.entry == STEM && exact_bytes)
        for (size_t row = 0; row < rows; ++row) bias -= b.first.get(place(row), column) * mean[row % COLORS];
      b.first.set_bias(column, bias);
    }
  }
  const size_t taps = b.kernel * b.kernel;
  b.depthwise.make(taps * b.lanes);
  b.depthwise_bias.make(b.lanes);
  for (size_t tap = 0; tap < taps; ++tap)
    for (size_t c = 0; c < b.channels; ++c)
      b.depthwise[(c / LANES * taps + tap) * LANES + c % LANES] = static_cast<Real>(*weights++);
  for (size_t c = 0; c < b.channels; ++c) b.depthwise_bias[c] = static_cast<Real>(*weights++);
  const auto take = [&weights](std::vector<float>& numbers, size_t count) {
    numbers.assign(weights, weights + count);
    weights += count;
  };
  const auto take_stored = [&weights](Numbers<Stored>& numbers, size_t count) {
    numbers.make(count);
    for (size_t i = 0; i < count; ++i) numbers[i] = as_stored(*weights++);
  };
  take_stored(b.reduce, b.channels * b.squeezed);
  take(b.reduce_bias, b.squeezed);
  take_stored(b.expand, b.squeezed * b.channels);
  take(b.expand_bias, b.channels);
  take(b.factor, b.channels);
  b.mean.resize(b.channels);
  b.reduced.resize(b.squeezed);
  b.gates.make(b.lanes);
  b.last.make(b.lanes, b.out_channels);
  b.projection.make(b.last.size());
  for (size_t row = 0; row < b.channels; ++row)
    for (size_t column = 0; column < b.out_channels; ++column)
      b.projection[b.last.place(row, column)] = as_stored(*weights++);
  for (size_t column = 0; column < b.out_channels; ++column) b.last.set_bias(column, *weights++);
  b.sums.make(b.bands * b.lanes);
  return weights;
}

bool Front::run(const uint8_t* given, float* const* results) {
  picture = given;
  features = results;
  finite = true;
  crew->run();
  return finite;
}

// The three rows of the picture, with their padding, that a row of the stem reads: [3][stem_line()].
const Stored* Front::stem_lines(const Block& b, size_t row, Bench& bench) {
  const size_t bytes = COLORS * b.in_width;
  for (size_t down = 0; down < STEM_SIDE; ++down) {
    Stored* line = bench.lines + down * b.stem_line();
    Stored* inner = line + COLORS * b.entry_left;
    const size_t y = STEM_STRIDE * row + down;  // counted from the first row of the padding
    const bool inside = y >= b.entry_top && y < b.entry_top + b.in_height;
    for (size_t color = 0; color < COLORS; ++color) {
      const Stored empty = as_stored(exact_bytes ? mean[color] : 0);
      const auto fill = [&](Stored* from, size_t count) {
        for (size_t x = 0; x < count; ++x) from[COLORS * x + color] = empty;
      };
      fill(line, b.entry_left);
      fill(inner + bytes, STEM_SIDE);
      if (!inside) fill(inner, b.in_width);
    }
    if (!inside) continue;
    const uint8_t* pixels = picture + (y - b.entry_top) * bytes;
    if (exact_bytes)
      for (size_t i = 0; i < bytes; ++i) inner[i] = as_stored(pixels[i]);
    else
      for (size_t i = 0; i < bytes; ++i) inner[i] = as_stored(pixels[i] - mean[i % COLORS]);
  }
  return bench.lines;
}

// A row of the map that the depthwise convolution reads, a vector of channels: [width][LANES].
void Front::entry_row(const Block& b, const Stored* input, size_t row, size_t vector, bool prepared, Real* out,
                      Bench& bench) {
  if (b.entry == NONE) {
    const Stored* pixels = input + row * b.width * b.channels + vector * LANES;
    for (size_t x = 0; x < b.width; ++x) store(out + x * LANES, vec_of(pixels + x * b.channels));
    return;
  }
  const auto finish = [out](size_t x, const Sum* sums) {
    for (size_t i = 0; i < PIXELS * LANES; i += LANES) store(out + x * LANES + i, swish(vec_of(sums + i)));
  };
  const bool stem = b.entry == STEM;
  const Stored* pixels = stem ? stem_lines(b, row, bench) : input + row * b.width * b.in_channels;
  const size_t stride = stem ? STEM_STRIDE * COLORS : b.in_channels, step = stem ? b.stem_line() : b.first.depth;
  (prepared ? vector_products<true, decltype(finish)> : vector_products<false, decltype(finish)>)(
      pixels, stride, step, b.width, b.first, vector * GROUPS, bench.sums, finish);
}

// COUNT pixels next to each other of a depthwise convolution's row, through swish. Returns their sum.
template <size_t KERNEL, size_t STRIDE, size_t COUNT>
INLINE Vec depthwise_pixels(const Real* const* rows, const Real* weights, Vec bias, size_t lanes, Stored* out) {
  Vec totals[COUNT];
  for (Vec& total : totals) total = bias;
  for (size_t y = 0; y < KERNEL; ++y)
    for (size_t x = 0; x < KERNEL; ++x) {
      const Vec weight = load(weights + (y * KERNEL + x) * LANES);
      for (size_t i = 0; i < COUNT; ++i)
        totals[i] = multiply_add(load(rows[y] + (i * STRIDE + x) * LANES), weight, totals[i]);
    }
  Vec sum{};
  for (size_t i = 0; i < COUNT; ++i) {
    const Vec value = swish(totals[i]);
    store_stored(out + i * lanes, value);
    sum += value;
  }
  return sum;
}

template <size_t KERNEL, size_t STRIDE>
void depthwise_row(const Block& b, const Real* const* rows, size_t vector, Stored* out, Floats& sum) {
  constexpr size_t COUNT = 8;
  const Real* weights = b.depthwise + vector * KERNEL * KERNEL * LANES;
  const Vec bias = load(b.depthwise_bias + vector * LANES);
  const Real* from[KERNEL];
  std::copy(rows, rows + KERNEL, from);
  size_t x = 0;
  for (; x + COUNT <= b.out_width; x += COUNT) {
    const Vec part = depthwise_pixels<KERNEL, STRIDE, COUNT>(from, weights, bias, b.lanes, out + x * b.lanes);
    sum += __builtin_convertvector(part, Floats);
    for (const Real*& row : from) row += COUNT * STRIDE * LANES;
  }
  for (; x < b.out_width; ++x) {
    const Vec part = depthwise_pixels<KERNEL, STRIDE, 1>(from, weights, bias, b.lanes, out + x * b.lanes);
    sum += __builtin_convertvector(part, Floats);
    for (const Real*& row : from) row += STRIDE * LANES;
  }
}

// The first pass over a band of rows, for a vector of channels.
void Front::first(Block& b, const Stored* input, size_t part, Bench& bench) {
  const size_t vector = part / b.bands, band = part % b.bands, line = b.line();
  const size_t from = band * b.band_rows, to = std::min(from + b.band_rows, b.out_height);
  Tiles tiles;
  bool prepared = false;
  if (b.entry != NONE) {
    tiles.for_vectors(b.first);
    prepared = prepare(b.first, vector * GROUPS);
  }
  const auto row_at = [&](size_t i) { return bench.ring + i * line; };
  std::fill(row_at(0), row_at(b.kernel + 1), static_cast<Real>(0));
  const Real* zeros = row_at(b.kernel);
  // Rows are counted from the first one of the padding.
  size_t next = std::max(from * b.stride, b.top);
  Floats sum{};
  for (size_t y = from; y < to; ++y) {
    const size_t first_row = y * b.stride, end = std::min(first_row + b.kernel, b.top + b.height);
    for (; next < end; ++next)
      entry_row(b, input, next - b.top, vector, prepared, row_at(next % b.kernel) + b.left * LANES, bench);
    const Real* rows[LARGEST_KERNEL];
    for (size_t i = 0; i < b.kernel; ++i) {
      const size_t row = first_row + i;
      rows[i] = row < b.top || row >= b.top + b.height ? zeros : row_at(row % b.kernel);
    }
    Stored* out = wide + y * b.out_width * b.lanes + vector * LANES;
    if (b.kernel == 3)
      (b.stride == 1 ? depthwise_row<3, 1> : depthwise_row<3, 2>)(b, rows, vector, out, sum);
    else
      (b.stride == 1 ? depthwise_row<5, 1> : depthwise_row<5, 2>)(b, rows, vector, out, sum);
  }
  std::memcpy(b.sums + band * b.lanes + vector * LANES, &sum, sizeof sum);
}

// Squeeze-and-excitation's gates, which are then multiplied into the weights of the projection.
void Front::squeeze(Block& b) {
  std::fill(b.mean.begin(), b.mean.end(), 0.0f);
  for (size_t band = 0; band < b.bands; ++band)
    for (size_t c = 0; c < b.channels; ++c) b.mean[c] += b.sums[band * b.lanes + c] / static_cast<float>(b.pixels());
  std::copy(b.reduce_bias.begin(), b.reduce_bias.end(), b.reduced.begin());
  for (size_t c = 0; c < b.channels; ++c)
    for (size_t i = 0; i < b.squeezed; ++i) b.reduced[i] += b.mean[c] * as_float(b.reduce[c * b.squeezed + i]);
  float* gates = b.gates;
  std::copy(b.expand_bias.begin(), b.expand_bias.end(), gates);
  for (size_t i = 0; i < b.squeezed; ++i) {
    const float value = b.reduced[i] * sigmoid(b.reduced[i]);
    for (size_t c = 0; c < b.channels; ++c) gates[c] += value * as_float(b.expand[i * b.channels + c]);
  }
  for (size_t c = 0; c < b.channels; ++c) {
    gates[c] = sigmoid(gates[c]) * b.factor[c];
    if (!std::isfinite(b.mean[c]) || !std::isfinite(gates[c])) finite = false;
  }
}

// The second pass over some pixels.
void Front::second(Block& b, const Stored* input, Stored* output, float* feature, size_t part, Bench& bench) {
  const size_t from = part * b.part_pixels, to = std::min(from + b.part_pixels, b.pixels());
  const size_t stride = up(b.last.groups * COLUMNS, LANES);
  Tiles tiles;
  tiles.for_product(b.last);
  for (size_t pixel = from; pixel < to; pixel += HIGH * PIXELS) {
    // Past the end there is room in `wide`; what comes of it is not kept.
    const Stored* left = wide + pixel * b.lanes;
    size_t group = 0;
    for (; group + 2 <= b.last.groups; group += 2)
      product<HIGH, 2>(left, b.lanes, b.last, group, bench.sums + group * COLUMNS, stride);
    if (group < b.last.groups) product<HIGH, 1>(left, b.lanes, b.last, group, bench.sums + group * COLUMNS, stride);
    for (size_t i = 0; i < std::min(HIGH * PIXELS, to - pixel); ++i)
      for (size_t c = 0; c < b.out_channels; c += LANES) {
        const size_t place = (pixel + i) * b.out_channels + c, count = b.out_channels - c;
        Total sums = total(bench.sums + i * stride + c);
        if (b.residual) sums = sums + total(input + place);
        store_stored(output + place, sums, count);
        if (feature) store_floats(feature + place, sums, count);
      }
  }
  if (feature && !all_finite(feature + from * b.out_channels, (to - from) * b.out_channels)) finite = false;
  // The next block multiplies by 0 what it reads behind the map: it must be a number.
  if (to == b.pixels()) std::fill_n(output + to * b.out_channels, LANES, static_cast<Stored>(0));
}

// The precision of the 1x1 convolutions' and of the stem's products, and of all else that is done to maps.
extern "C" const char* front_product_precision() { return sizeof(Stored) == 4 ? "f32" : exact_bytes ? "bf16" : "f16"; }
extern "C" const char* front_vector_precision() { return sizeof(Real) == 4 ? "f32" : "f16"; }

// How many weights front_make reads for these blocks.
extern "C" size_t front_weights(const Layout* layouts, size_t count) {
  size_t weights = COLORS;
  for (size_t i = 0; i < count; ++i) weights += weights_of(layouts[i]);
  return weights;
}

// Whether this process may do what this was compiled for; to be asked before a front is made.
extern "C" int front_allowed() { return Tiles::allowed(); }

// A front that is to be run by `threads`; null if there is no memory.
extern "C" Front* front_make(const Layout* layouts, size_t count, const float* weights, size_t threads) {
  try {
    return new Front(layouts, count, weights, threads);
  } catch (const std::exception&) {
    return nullptr;
  }
}

// A picture, uint8 [height,width,3], to the outputs of those blocks that are features, float32 [height,width,channels].
// Returns 0 if something on the way was larger than the vectors' type holds (FP16: 65504, and 8188 behind a depthwise
// convolution, where eight are added up).
extern "C" int front_run(Front* front, const uint8_t* picture, float* const* features) {
  return front->run(picture, features);
}

extern "C" void front_free(Front* front) { delete front; }
