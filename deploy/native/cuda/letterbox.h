// The arithmetic of letterbox.cu, for the GPU and for the host, where the tests hold it against Pillow's resize;
// deploy/host has the same for CPUs.
//
// Pillow resizes uint8 pictures one axis at a time, each by sums of pixels with weights of 22 fractional bits, rounded to
// uint8 in between. The weights come from the host (deploy/image/resample.py), so that nothing here is floating point: every
// GPU gives Pillow's pixels to the last bit.
//
// A table of an axis is, for `length` results of `taps` pixels each: int32 first[length], int32 weights[length][taps].

#pragma once
#include <stddef.h>
#include <stdint.h>

#ifndef BOTH
#ifdef __CUDACC__
#define BOTH __host__ __device__ inline
#else
#define BOTH inline
#endif
#endif

constexpr int FRACTION_BITS = 22;

// A sum in fixed point, begun at a half, as a byte.
BOTH uint8_t rounded(int32_t sum) {
  sum >>= FRACTION_BITS;
  return static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

// The weighted sum of `taps` bytes that lie `stride` apart, rounded.
BOTH uint8_t weighted(const uint8_t* bytes, size_t stride, const int32_t* weights, int taps) {
  int32_t sum = 1 << (FRACTION_BITS - 1);
  for (int tap = 0; tap < taps; ++tap) sum += bytes[tap * stride] * weights[tap];
  return rounded(sum);
}

// Byte `i` (three a pixel) of a row of `new_width` pixels, made of a row of the picture.
BOTH uint8_t narrowed_byte(const uint8_t* row, const int32_t* table, int new_width, int taps, int i) {
  const int x = i / 3, channel = i % 3;
  return weighted(row + 3 * static_cast<size_t>(table[x]) + channel, 3, table + new_width + static_cast<size_t>(x) * taps, taps);
}

// Byte `i` of row `y` of the letterbox: of the narrowed picture where that lies (top left), of the colour elsewhere.
BOTH uint8_t letterbox_byte(const uint8_t* narrowed, const int32_t* table, int new_height, int new_width, int taps,
                            uint32_t fill, int y, int i) {
  if (y >= new_height || i >= 3 * new_width) return static_cast<uint8_t>(fill >> (8 * (i % 3)));
  const size_t stride = 3 * static_cast<size_t>(new_width);
  return weighted(narrowed + table[y] * stride + i, stride, table + new_height + static_cast<size_t>(y) * taps, taps);
}
