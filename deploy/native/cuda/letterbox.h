// The arithmetic of the letterbox: letterbox.cu runs it on the GPU, deploy/native/letterbox_nms uses its rounding on
// CPUs, and the tests compare it on the host with Pillow's resize.
//
// Pillow resizes uint8 images one axis at a time, by sums of pixels times weights of 22 fractional bits, rounded to
// uint8 after each axis. The weights come from the host (deploy/image/resample.py), so there is no floating point here,
// and every GPU gives Pillow's pixels to the last bit.
//
// The table of an axis, for `length` results of `taps` pixels each: int32 first[length], int32 weights[length][taps].

#pragma once
#include <stddef.h>
#include <stdint.h>

#ifndef HOST_DEVICE
#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ inline
#else
#define HOST_DEVICE inline
#endif
#endif

constexpr int FRACTION_BITS = 22;

// Converts a fixed-point sum, begun at one half, to a byte.
HOST_DEVICE uint8_t to_byte(int32_t sum) {
  sum >>= FRACTION_BITS;
  return static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

// Computes the weighted sum of `taps` bytes that lie `stride` apart, rounded.
HOST_DEVICE uint8_t weighted_sum(const uint8_t* bytes, size_t stride, const int32_t* weights, int taps) {
  int32_t sum = 1 << (FRACTION_BITS - 1);
  for (int tap = 0; tap < taps; ++tap) sum += bytes[tap * stride] * weights[tap];
  return to_byte(sum);
}

// Computes byte `i` (three a pixel) of a row of the image resized to `new_width` pixels.
HOST_DEVICE uint8_t horizontal_byte(const uint8_t* row, const int32_t* table, int new_width, int taps, int i) {
  const int x = i / 3, channel = i % 3;
  const int32_t* weights = table + new_width + static_cast<size_t>(x) * taps;
  return weighted_sum(row + 3 * static_cast<size_t>(table[x]) + channel, 3, weights, taps);
}

// Computes byte `i` of row `y` of the letterbox: of the resized image at the top left, of the fill colour elsewhere.
// `horizontal`: the image resized along its rows, [.,new_width,3].
HOST_DEVICE uint8_t letterbox_byte(const uint8_t* horizontal, const int32_t* table, int new_height, int new_width,
                                   int taps, uint32_t fill, int y, int i) {
  if (y >= new_height || i >= 3 * new_width) return static_cast<uint8_t>(fill >> (8 * (i % 3)));
  const size_t stride = 3 * static_cast<size_t>(new_width);
  const int32_t* weights = table + new_height + static_cast<size_t>(y) * taps;
  return weighted_sum(horizontal + table[y] * stride + i, stride, weights, taps);
}
