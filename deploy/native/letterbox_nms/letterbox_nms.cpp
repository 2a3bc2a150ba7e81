// Letterbox and NMS on the CPU. deploy/native/letterbox_nms/library.py compiles this file for the CPU at hand and
// compares its results with Pillow's and NumPy's.
//
// The letterbox has the tables of ../cuda/letterbox.h: sums of pixels in fixed point, rounded to uint8 between the two
// axes, as in Pillow. A row of the image is resized horizontally just before the first output row that needs it, and
// stays in the cache until the last one has used it.

#include <algorithm>
#include <cstring>
#include <vector>

#ifdef __SSE4_1__
#include <immintrin.h>
#endif

#include "../cuda/letterbox.h"
#include "../cuda/nms.h"

// A pixel's three sums. Four bytes are read and written for each pixel: one more than it has.
#ifdef __SSE4_1__
struct PixelSums {
  __m128i sums = _mm_set1_epi32(1 << (FRACTION_BITS - 1));
  void add(const uint8_t* bytes, int32_t weight) {
    int32_t packed;
    std::memcpy(&packed, bytes, 4);
    const __m128i values = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(packed));
    sums = _mm_add_epi32(sums, _mm_mullo_epi32(values, _mm_set1_epi32(weight)));
  }
  void store(uint8_t* bytes) const {
    const __m128i words = _mm_packus_epi32(_mm_srai_epi32(sums, FRACTION_BITS), _mm_setzero_si128());
    const int32_t packed = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    std::memcpy(bytes, &packed, 4);
  }
};
#else
struct PixelSums {
  int32_t sums[4] = {1 << (FRACTION_BITS - 1), 1 << (FRACTION_BITS - 1), 1 << (FRACTION_BITS - 1), 0};
  void add(const uint8_t* bytes, int32_t weight) {
    for (int i = 0; i < 4; ++i) sums[i] += bytes[i] * weight;
  }
  void store(uint8_t* bytes) const {
    for (int i = 0; i < 4; ++i) bytes[i] = to_byte(sums[i]);
  }
};
#endif

constexpr size_t BLOCK = 64;  // bytes that are summed together; as many behind a row may be read and written

// One axis of a resize; letterbox.h describes the table.
struct Axis {
  const int32_t* table;
  size_t length, taps;
  size_t first(size_t i) const { return static_cast<size_t>(table[i]); }
  const int32_t* weights(size_t i) const { return table + length + i * taps; }
};

// In the following functions TAPS is the number of pixels in each sum where it is known at compile time, so that the
// compiler unrolls the loop; else 0.

// Resizes a row of pixels along it.
template <size_t TAPS>
void resize_row(const uint8_t* row, const Axis across, uint8_t* out) {
  const size_t taps = TAPS ? TAPS : across.taps;
  const int32_t *first = across.table, *weights = across.weights(0), *end = first + across.length;
  for (; first < end; ++first, weights += taps, out += 3) {
    const uint8_t* bytes = row + 3 * static_cast<size_t>(*first);
    PixelSums pixel;
    for (size_t tap = 0; tap < taps; ++tap) pixel.add(bytes + 3 * tap, weights[tap]);
    pixel.store(out);
  }
}

// Computes the weighted sum of rows of bytes. Bytes behind the rows' ends are read and written too, up to a multiple of
// BLOCK.
template <size_t TAPS>
void sum_rows(const uint8_t* const* rows, const int32_t* weights, size_t taps, size_t bytes, uint8_t* __restrict out) {
  taps = TAPS ? TAPS : taps;
  for (size_t start = 0; start < bytes; start += BLOCK) {
    int32_t sums[BLOCK];
    for (size_t i = 0; i < BLOCK; ++i) {
      sums[i] = 1 << (FRACTION_BITS - 1);
      if (TAPS)
        for (size_t tap = 0; tap < TAPS; ++tap) sums[i] += rows[tap][start + i] * weights[tap];
    }
    for (size_t tap = TAPS; tap < taps; ++tap)
      for (size_t i = 0; i < BLOCK; ++i) sums[i] += rows[tap][start + i] * weights[tap];
    for (size_t i = 0; i < BLOCK; ++i) out[start + i] = to_byte(sums[i]);
  }
}

using ResizeRow = void (*)(const uint8_t*, Axis, uint8_t*);
using SumRows = void (*)(const uint8_t* const*, const int32_t*, size_t, size_t, uint8_t*);
const ResizeRow RESIZE_ROW[] = {resize_row<0>, resize_row<1>, resize_row<2>, resize_row<3>, resize_row<4>,
                                resize_row<5>, resize_row<6>, resize_row<7>, resize_row<8>, resize_row<9>};
const SumRows SUM_ROWS[] = {sum_rows<0>, sum_rows<1>, sum_rows<2>, sum_rows<3>, sum_rows<4>,
                            sum_rows<5>, sum_rows<6>, sum_rows<7>, sum_rows<8>, sum_rows<9>};
constexpr size_t TEMPLATES = 10;

// Writes rows `start` to `stop` of the letterbox of an image [image_height,image_width,3] whose rows are contiguous.
// `out` [.,width,3] begins at row 0.
extern "C" void letterbox_rows(const uint8_t* image, size_t image_height, size_t image_width, uint8_t* out,
                               size_t width, size_t start, size_t stop, const int32_t* across_table, size_t taps_across,
                               size_t new_width, const int32_t* down_table, size_t taps_down, size_t new_height,
                               uint32_t fill) {
  const Axis across = {across_table, new_width, taps_across}, down = {down_table, new_height, taps_down};
  const size_t stride = 3 * new_width + BLOCK, row_bytes = 3 * image_width;
  std::vector<uint8_t> resized_rows(taps_down * stride);  // row y of the image is at position y modulo `taps_down`
  std::vector<uint8_t> last_row(row_bytes + BLOCK);       // a copy: nothing may be read behind the image's last row
  std::memcpy(last_row.data(), image + (image_height - 1) * row_bytes, row_bytes);
  std::vector<const uint8_t*> rows(taps_down);
  std::vector<uint8_t> line(stride);
  const ResizeRow resize_row = RESIZE_ROW[taps_across < TEMPLATES ? taps_across : 0];
  const SumRows sum_rows = SUM_ROWS[taps_down < TEMPLATES ? taps_down : 0];
  size_t next_row = 0;  // the image's rows before this one are resized, or not needed
  for (size_t y = start; y < stop; ++y) {
    uint8_t* target = out + 3 * y * width;
    size_t x = 0;
    if (y < new_height) {
      const size_t first = down.first(y);
      for (next_row = std::max(next_row, first); next_row < first + taps_down; ++next_row) {
        const uint8_t* row = next_row + 1 < image_height ? image + next_row * row_bytes : last_row.data();
        resize_row(row, across, resized_rows.data() + next_row % taps_down * stride);
      }
      for (size_t tap = 0; tap < taps_down; ++tap)
        rows[tap] = resized_rows.data() + (first + tap) % taps_down * stride;
      sum_rows(rows.data(), down.weights(y), taps_down, 3 * new_width, line.data());
      std::memcpy(target, line.data(), 3 * new_width);
      x = new_width;
    }
    for (; x < width; ++x)
      for (int channel = 0; channel < 3; ++channel)
        target[3 * x + channel] = static_cast<uint8_t>(fill >> (8 * channel));
  }
}

// Runs NMS over one image's candidates, finite numbers. Writes the indices of the kept ones, best first, to `kept`, and
// returns their number. `width` by `height`: the part of the letterbox that the image fills.
extern "C" int select_boxes(const Box* boxes, const float* scores, const int32_t* classes, int count, float width,
                            float height, float threshold, float iou, int max_kept, int32_t* kept) {
  const Candidates candidates = {boxes, scores, classes, count, width, height, threshold};
  std::vector<int32_t> order;
  for (int i = 0; i < count; ++i)
    if (candidates.is_valid(i)) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](int i, int j) { return candidates.is_better(i, j); });
  std::vector<Box> kept_boxes;
  for (const int32_t candidate : order) {
    if (static_cast<int>(kept_boxes.size()) == max_kept) break;
    const Box box = candidates.box(candidate);
    bool suppressed = false;
    for (size_t i = 0; !suppressed && i < kept_boxes.size(); ++i)
      suppressed = classes[kept[i]] == classes[candidate] && overlap(kept_boxes[i], box, iou);
    if (suppressed) continue;
    kept[kept_boxes.size()] = candidate;
    kept_boxes.push_back(box);
  }
  return static_cast<int>(kept_boxes.size());
}
