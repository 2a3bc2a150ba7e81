// Letterbox and NMS on the CPU: deploy/native/letterbox_nms/library.py compiles this for the CPU at hand and holds it against Pillow and NumPy.
//
// The letterbox is letterbox.h's, with the same tables: sums of pixels in fixed point, rounded to uint8 between the two
// axes, as Pillow has them. A row is narrowed once, just before the first row of the result that needs it, and stays in
// the cache until the last has had it.

#include <algorithm>
#include <cstring>
#include <vector>

#ifdef __SSE4_1__
#include <immintrin.h>
#endif

#include "../cuda/letterbox.h"
#include "../cuda/nms.h"

// A pixel's three sums. Four bytes are read for each pixel, and four written: one more than it has.
#ifdef __SSE4_1__
struct Pixel {
  __m128i sums = _mm_set1_epi32(1 << (FRACTION_BITS - 1));
  void add(const uint8_t* bytes, int32_t weight) {
    int32_t four;
    std::memcpy(&four, bytes, 4);
    const __m128i wide = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(four));
    sums = _mm_add_epi32(sums, _mm_mullo_epi32(wide, _mm_set1_epi32(weight)));
  }
  void store(uint8_t* bytes) const {
    const __m128i words = _mm_packus_epi32(_mm_srai_epi32(sums, FRACTION_BITS), _mm_setzero_si128());
    const int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    std::memcpy(bytes, &four, 4);
  }
};
#else
struct Pixel {
  int32_t sums[4] = {1 << (FRACTION_BITS - 1), 1 << (FRACTION_BITS - 1), 1 << (FRACTION_BITS - 1), 0};
  void add(const uint8_t* bytes, int32_t weight) {
    for (int i = 0; i < 4; ++i) sums[i] += bytes[i] * weight;
  }
  void store(uint8_t* bytes) const {
    for (int i = 0; i < 4; ++i) bytes[i] = rounded(sums[i]);
  }
};
#endif

constexpr size_t BLOCK = 64;  // bytes, of sums that are made together; as many behind a row may be read and written

// One axis of a resize; see letterbox.h.
struct Axis {
  const int32_t* table;
  size_t length, taps;
  size_t first(size_t i) const { return static_cast<size_t>(table[i]); }
  const int32_t* weights(size_t i) const { return table + length + i * taps; }
};

// In what follows TAPS is how many pixels are in each sum where that is known ahead, so that the compiler can write them
// out; else 0.

// A row of pixels resized along it.
template <size_t TAPS>
void narrow_row(const uint8_t* row, const Axis across, uint8_t* out) {
  const size_t taps = TAPS ? TAPS : across.taps;
  const int32_t *first = across.table, *weights = across.weights(0), *end = first + across.length;
  for (; first < end; ++first, weights += taps, out += 3) {
    const uint8_t* bytes = row + 3 * static_cast<size_t>(*first);
    Pixel pixel;
    for (size_t tap = 0; tap < taps; ++tap) pixel.add(bytes + 3 * tap, weights[tap]);
    pixel.store(out);
  }
}

// Rows of bytes, weighted and added up. Those behind the last are read and written too, up to a multiple of BLOCK.
template <size_t TAPS>
void add_rows(const uint8_t* const* rows, const int32_t* weights, size_t taps, size_t bytes, uint8_t* __restrict out) {
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
    for (size_t i = 0; i < BLOCK; ++i) out[start + i] = rounded(sums[i]);
  }
}

using Narrow = void (*)(const uint8_t*, Axis, uint8_t*);
using Add = void (*)(const uint8_t* const*, const int32_t*, size_t, size_t, uint8_t*);
const Narrow NARROW[] = {narrow_row<0>, narrow_row<1>, narrow_row<2>, narrow_row<3>, narrow_row<4>,
                         narrow_row<5>, narrow_row<6>, narrow_row<7>, narrow_row<8>, narrow_row<9>};
const Add ADD[] = {add_rows<0>, add_rows<1>, add_rows<2>, add_rows<3>, add_rows<4>,
                   add_rows<5>, add_rows<6>, add_rows<7>, add_rows<8>, add_rows<9>};
constexpr size_t KNOWN = 10;

// Rows `from` to `to` of the letterbox of a picture [picture_height,picture_width,3] whose rows follow each other. `out`
// [.,width,3] begins at its row 0.
extern "C" void letterbox_rows(const uint8_t* picture, size_t picture_height, size_t picture_width, uint8_t* out,
                               size_t width, size_t from, size_t to, const int32_t* across_table, size_t taps_across,
                               size_t new_width, const int32_t* down_table, size_t taps_down, size_t new_height,
                               uint32_t fill) {
  const Axis across = {across_table, new_width, taps_across}, down = {down_table, new_height, taps_down};
  const size_t stride = 3 * new_width + BLOCK, row_bytes = 3 * picture_width;
  std::vector<uint8_t> narrowed(taps_down * stride);  // a row of the picture at its number modulo `taps_down`
  std::vector<uint8_t> last(row_bytes + BLOCK);      // the picture's last row, behind which nothing may be read
  std::memcpy(last.data(), picture + (picture_height - 1) * row_bytes, row_bytes);
  std::vector<const uint8_t*> rows(taps_down);
  std::vector<uint8_t> line(stride);
  const Narrow narrow_row = NARROW[taps_across < KNOWN ? taps_across : 0];
  const Add add_rows = ADD[taps_down < KNOWN ? taps_down : 0];
  size_t done = 0;  // rows of the picture before this one are narrowed, or not needed
  for (size_t y = from; y < to; ++y) {
    uint8_t* target = out + 3 * y * width;
    size_t x = 0;
    if (y < new_height) {
      const size_t first = down.first(y);
      for (done = std::max(done, first); done < first + taps_down; ++done) {
        const uint8_t* row = done + 1 < picture_height ? picture + done * row_bytes : last.data();
        narrow_row(row, across, narrowed.data() + done % taps_down * stride);
      }
      for (size_t tap = 0; tap < taps_down; ++tap) rows[tap] = narrowed.data() + (first + tap) % taps_down * stride;
      add_rows(rows.data(), down.weights(y), taps_down, 3 * new_width, line.data());
      std::memcpy(target, line.data(), 3 * new_width);
      x = new_width;
    }
    for (; x < width; ++x)
      for (int channel = 0; channel < 3; ++channel) target[3 * x + channel] = static_cast<uint8_t>(fill >> (8 * channel));
  }
}

// One picture's candidates, finite numbers -> how many stay, and in `kept` their indices, best first. `width` by
// `height`: the part of the letterbox that the picture fills.
extern "C" int select_boxes(const Box* boxes, const float* scores, const int32_t* classes, int count, float width,
                            float height, float threshold, float iou, int most, int32_t* kept) {
  const Candidates given = {boxes, scores, classes, count, width, height, threshold};
  std::vector<int32_t> order;
  for (int i = 0; i < count; ++i)
    if (given.counts(i)) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](int i, int j) { return given.better(i, j); });
  std::vector<Box> chosen;  // the boxes of those kept
  for (const int32_t candidate : order) {
    if (static_cast<int>(chosen.size()) == most) break;
    const Box box = given.box(candidate);
    bool stays = true;
    for (size_t i = 0; stays && i < chosen.size(); ++i)
      stays = classes[kept[i]] != classes[candidate] || !overlap(chosen[i], box, iou);
    if (!stays) continue;
    kept[chosen.size()] = candidate;
    chosen.push_back(box);
  }
  return static_cast<int>(chosen.size());
}
