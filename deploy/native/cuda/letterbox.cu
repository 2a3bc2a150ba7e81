// A picture, RGB uint8, into the engine's input: resized to fit, placed top left, the rest filled with a colour.
//
// Two kernels, an axis each. A thread makes one byte of a row and goes down the picture; neighbouring threads read and
// write neighbouring bytes. Tested on an H200, and its arithmetic on the host.

#include "letterbox.h"

// [height,width,3] -> [height,new_width,3].
extern "C" __global__ void narrow(const uint8_t* picture, uint8_t* narrowed, const int32_t* table, int height, int width,
                                  int new_width, int taps) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= 3 * new_width) return;
  for (size_t y = blockIdx.y; y < height; y += gridDim.y)
    narrowed[3 * y * new_width + i] = narrowed_byte(picture + 3 * y * width, table, new_width, taps, i);
}

// [any,new_width,3] -> input [height,width,3]; `fill` is red + 256 green + 65536 blue.
extern "C" __global__ void letterbox(const uint8_t* narrowed, uint8_t* input, const int32_t* table, int new_height,
                                     int new_width, int taps, int height, int width, uint32_t fill) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= 3 * width) return;
  for (size_t y = blockIdx.y; y < height; y += gridDim.y)
    input[3 * y * width + i] = letterbox_byte(narrowed, table, new_height, new_width, taps, fill, y, i);
}
