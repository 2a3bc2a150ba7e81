// Runs NMS over the candidates of a batch, with one block of threads for each image. Tested on an H200, and nms.h on
// the host.

#include "nms.h"

struct SyncBlock {
  HOST_DEVICE void operator()() const {
#ifdef __CUDA_ARCH__
    __syncthreads();
#endif
  }
};

// boxes [N,count,4] xyxy, scores and classes [N,count], sizes [N] (width and height of the image in the letterbox) ->
// kept [N,max_kept]. Shared memory: five bytes for each candidate.
extern "C" __global__ void nms(const Box* boxes, const float* scores, const int32_t* classes, const int2* sizes,
                               int32_t* kept, int count, int max_kept, float threshold, float iou) {
  extern __shared__ int32_t order[];
  const size_t image = blockIdx.x, start = image * count;
  const Candidates candidates = {boxes + start, scores + start, classes + start, count, float(sizes[image].x),
                                 float(sizes[image].y), threshold};
  suppress(candidates, iou, max_kept, order, reinterpret_cast<uint8_t*>(order + count), kept + image * max_kept,
           threadIdx.x, blockDim.x, SyncBlock());
}
