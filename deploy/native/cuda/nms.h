// The algorithm of nms.cu, for the GPU and for the host, where the tests hold it against deploy/image/nms.py; boxes and
// candidates are deploy/host's too.
//
// Greedy, class-aware non-maximum suppression of one picture's candidates by a group of threads, with the float32
// arithmetic of deploy/image/nms.py operation for operation; products are never contracted with sums (__fmul_rn).

#pragma once
#include <stdint.h>

#ifndef BOTH
#ifdef __CUDACC__
#define BOTH __host__ __device__ inline
#else
#define BOTH inline
#endif
#endif

struct Box {
  float x0, y0, x1, y1;
};

BOTH float product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

BOTH float smaller(float a, float b) { return a < b ? a : b; }
BOTH float larger(float a, float b) { return a > b ? a : b; }

// The part of a box that lies in the picture, which fills `width` by `height` pixels of the letterbox.
BOTH Box clipped(Box box, float width, float height) {
  return {smaller(larger(box.x0, 0), width), smaller(larger(box.y0, 0), height), smaller(larger(box.x1, 0), width),
          smaller(larger(box.y1, 0), height)};
}

BOTH bool has_area(Box box) { return box.x1 > box.x0 && box.y1 > box.y0; }

BOTH float area(Box box) { return product(box.x1 - box.x0, box.y1 - box.y0); }

// Whether the IoU is more than `iou`.
BOTH bool overlap(Box a, Box b, float iou) {
  const float width = larger(smaller(a.x1, b.x1) - larger(a.x0, b.x0), 0);
  const float height = larger(smaller(a.y1, b.y1) - larger(a.y0, b.y0), 0);
  const float both = product(width, height);
  return both > product(iou, area(a) + area(b) - both);
}

// One picture's candidates.
struct Candidates {
  const Box* boxes;
  const float* scores;
  const int32_t* classes;
  int count;
  float width, height;  // of the part of the letterbox that the picture fills
  float threshold;

  BOTH Box box(int i) const { return clipped(boxes[i], width, height); }
  BOTH bool counts(int i) const { return scores[i] >= threshold && has_area(box(i)); }
  // Of equal scores the lower index is the better.
  BOTH bool better(int i, int j) const { return scores[i] > scores[j] || (scores[i] == scores[j] && i < j); }
};

// Writes the indices of at most `most` candidates that stay, best first, then -1.
//
// Every one of `threads` threads calls it with its own number; `sync` waits for all of them. `order` and `stays`, of
// `count` elements, are theirs together. The candidates are put in order by counting for each those that are better: a
// million comparisons for 1000 of them, but no thread waits for another.
template <typename Sync>
BOTH void suppress(const Candidates& given, float iou, int most, int32_t* order, uint8_t* stays, int32_t* kept,
                   int thread, int threads, Sync sync) {
  for (int i = thread; i < given.count; i += threads) {
    stays[i] = given.counts(i);
    order[i] = -1;
  }
  sync();
  for (int i = thread; i < given.count; i += threads) {
    if (!stays[i]) continue;
    int rank = 0;
    for (int j = 0; j < given.count; ++j) rank += stays[j] && given.better(j, i);
    order[rank] = i;
  }
  sync();
  int found = 0;
  for (int rank = 0; rank < given.count && order[rank] >= 0 && found < most; ++rank) {
    const int best = order[rank];
    if (!stays[best]) continue;  // the same for all threads: whoever wrote it did so before the last sync
    const Box box = given.box(best);
    if (thread == 0) kept[found] = best;
    ++found;
    for (int next = rank + 1 + thread; next < given.count && order[next] >= 0; next += threads) {
      const int worse = order[next];
      if (stays[worse] && given.classes[worse] == given.classes[best] && overlap(box, given.box(worse), iou))
        stays[worse] = 0;
    }
    sync();
  }
  for (int rest = found + thread; rest < most; rest += threads) kept[rest] = -1;
}
