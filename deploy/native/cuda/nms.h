// Greedy, class-aware non-maximum suppression of one image's candidates by a group of threads: nms.cu runs it on the
// GPU, and the tests compare it on the host with deploy/image/nms.py. deploy/native/letterbox_nms uses its boxes and
// candidates on CPUs.
//
// The float32 arithmetic is that of deploy/image/nms.py, operation for operation; no product is contracted with a sum
// (__fmul_rn).

#pragma once
#include <stdint.h>

#ifndef HOST_DEVICE
#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ inline
#else
#define HOST_DEVICE inline
#endif
#endif

struct Box {
  float x0, y0, x1, y1;
};

HOST_DEVICE float multiply(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

HOST_DEVICE float minimum(float a, float b) { return a < b ? a : b; }
HOST_DEVICE float maximum(float a, float b) { return a > b ? a : b; }

// Clips a box to the part of the letterbox that the image fills, `width` by `height` pixels.
HOST_DEVICE Box clip(Box box, float width, float height) {
  return {minimum(maximum(box.x0, 0), width), minimum(maximum(box.y0, 0), height),
          minimum(maximum(box.x1, 0), width), minimum(maximum(box.y1, 0), height)};
}

HOST_DEVICE bool has_area(Box box) { return box.x1 > box.x0 && box.y1 > box.y0; }

HOST_DEVICE float area(Box box) { return multiply(box.x1 - box.x0, box.y1 - box.y0); }

// True if the boxes' IoU is more than `iou`.
HOST_DEVICE bool overlap(Box a, Box b, float iou) {
  const float width = maximum(minimum(a.x1, b.x1) - maximum(a.x0, b.x0), 0);
  const float height = maximum(minimum(a.y1, b.y1) - maximum(a.y0, b.y0), 0);
  const float intersection = multiply(width, height);
  return intersection > multiply(iou, area(a) + area(b) - intersection);
}

// The candidates of one image.
struct Candidates {
  const Box* boxes;
  const float* scores;
  const int32_t* classes;
  int count;
  float width, height;  // of the part of the letterbox that the image fills
  float threshold;

  HOST_DEVICE Box box(int i) const { return clip(boxes[i], width, height); }
  // True if candidate `i` has a high enough score and lies in the image.
  HOST_DEVICE bool is_valid(int i) const { return scores[i] >= threshold && has_area(box(i)); }
  // Of equal scores the one with the lower index is better.
  HOST_DEVICE bool is_better(int i, int j) const { return scores[i] > scores[j] || (scores[i] == scores[j] && i < j); }
};

// Writes to `kept` the indices of at most `max_kept` candidates that are not suppressed, best first, then -1.
//
// Each of `threads` threads calls it with its own number; `sync` waits for all of them. They share `order` and
// `remaining`, of `count` elements. The candidates are sorted by counting the better ones for each: a million
// comparisons for 1000 candidates, but no thread waits for another.
template <typename Sync>
HOST_DEVICE void suppress(const Candidates& candidates, float iou, int max_kept, int32_t* order, uint8_t* remaining,
                          int32_t* kept, int thread, int threads, Sync sync) {
  for (int i = thread; i < candidates.count; i += threads) {
    remaining[i] = candidates.is_valid(i);
    order[i] = -1;
  }
  sync();
  for (int i = thread; i < candidates.count; i += threads) {
    if (!remaining[i]) continue;
    int rank = 0;
    for (int j = 0; j < candidates.count; ++j) rank += remaining[j] && candidates.is_better(j, i);
    order[rank] = i;
  }
  sync();
  int kept_count = 0;
  for (int rank = 0; rank < candidates.count && order[rank] >= 0 && kept_count < max_kept; ++rank) {
    const int best = order[rank];
    if (!remaining[best]) continue;  // the same for all threads: it was written before the last sync
    const Box box = candidates.box(best);
    if (thread == 0) kept[kept_count] = best;
    ++kept_count;
    for (int next = rank + 1 + thread; next < candidates.count && order[next] >= 0; next += threads) {
      const int worse = order[next];
      if (remaining[worse] && candidates.classes[worse] == candidates.classes[best] &&
          overlap(box, candidates.box(worse), iou))
        remaining[worse] = 0;
    }
    sync();
  }
  for (int i = kept_count + thread; i < max_kept; i += threads) kept[i] = -1;
}
