// Puts an image, RGB uint8, into the engine's input: resized to fit, placed at the top left, the rest filled with a
// colour.
//
// Two kernels, one for each axis. A thread computes one byte of a row in every row of the image; neighbouring threads
// read and write neighbouring bytes. Tested on an H200, and the arithmetic on the host.

#include "letterbox.h"

// [height,width,3] -> [height,new_width,3].
extern "C" __global__ void resize_horizontal(const uint8_t* image, uint8_t* horizontal, const int32_t* table,
                                             int height, int width, int new_width, int taps) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= 3 * new_width) return;
  for (size_t y = blockIdx.y; y < height; y += gridDim.y)
    horizontal[3 * y * new_width + i] = horizontal_byte(image + 3 * y * width, table, new_width, taps, i);
}

// [.,new_width,3] -> input [height,width,3]; `fill` is red + 256 green + 65536 blue.
extern "C" __global__ void letterbox(const uint8_t* horizontal, uint8_t* input, const int32_t* table, int new_height,
                                     int new_width, int taps, int height, int width, uint32_t fill) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= 3 * width) return;
  for (size_t y = blockIdx.y; y < height; y += gridDim.y)
    input[3 * y * width + i] = letterbox_byte(horizontal, table, new_height, new_width, taps, fill, y, i);
}
