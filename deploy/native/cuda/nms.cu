// NMS over a batch of candidates: a block of threads for each picture. Tested on an H200, and nms.h on the
// host.

#include "nms.h"

struct Block {
  BOTH void operator()() const {
#ifdef __CUDA_ARCH__
    __syncthreads();
#endif
  }
};

// boxes [N,count,4] xyxy, scores and classes [N,count], sizes [N] (width and height of the picture in the letterbox) ->
// kept [N,most]. Shared memory: five bytes a candidate.
extern "C" __global__ void nms(const Box* boxes, const float* scores, const int32_t* classes, const int2* sizes,
                               int32_t* kept, int count, int most, float threshold, float iou) {
  extern __shared__ int32_t order[];
  const size_t picture = blockIdx.x, start = picture * count;
  const Candidates given = {boxes + start, scores + start, classes + start, count, float(sizes[picture].x),
                            float(sizes[picture].y), threshold};
  suppress(given, iou, most, order, reinterpret_cast<uint8_t*>(order + count), kept + picture * most, threadIdx.x,
           blockDim.x, Block());
}
