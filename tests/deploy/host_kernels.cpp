// The kernels' arithmetic compiled for the host: functions with the kernels' parameters, and loops in place of their
// threads.

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "letterbox.h"
#include "nms.h"

extern "C" void resize_horizontal(const uint8_t* image, uint8_t* horizontal, const int32_t* table, int height,
                                  int width, int new_width, int taps) {
  for (size_t y = 0; y < size_t(height); ++y)
    for (int i = 0; i < 3 * new_width; ++i)
      horizontal[3 * y * new_width + i] = horizontal_byte(image + 3 * y * width, table, new_width, taps, i);
}

extern "C" void letterbox(const uint8_t* horizontal, uint8_t* input, const int32_t* table, int new_height,
                          int new_width, int taps, int height, int width, uint32_t fill) {
  for (size_t y = 0; y < size_t(height); ++y)
    for (int i = 0; i < 3 * width; ++i)
      input[3 * y * width + i] = letterbox_byte(horizontal, table, new_height, new_width, taps, fill, int(y), i);
}

// Like __syncthreads: no thread goes on before all have arrived.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int round = round_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++round_;
      all_arrived_.notify_all();
    } else {
      all_arrived_.wait(lock, [&] { return round != round_; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_arrived_;
  int threads_, waiting_ = 0, round_ = 0;
};

struct Size {
  int32_t width, height;
};

extern "C" void nms_by_threads(int threads, int images, const Box* boxes, const float* scores, const int32_t* classes,
                               const Size* sizes, int32_t* kept, int count, int max_kept, float threshold, float iou) {
  for (size_t image = 0; image < size_t(images); ++image) {
    const size_t start = image * count;
    const Candidates candidates = {boxes + start, scores + start, classes + start, count, float(sizes[image].width),
                                   float(sizes[image].height), threshold};
    std::vector<int32_t> order(count);
    std::vector<uint8_t> remaining(count);
    Barrier barrier(threads);
    std::vector<std::thread> group;
    for (int thread = 0; thread < threads; ++thread)
      group.emplace_back([&, thread] {
        suppress(candidates, iou, max_kept, order.data(), remaining.data(), kept + image * max_kept, thread, threads,
                 [&] { barrier.wait(); });
      });
    for (auto& member : group) member.join();
  }
}

extern "C" void nms(int images, const Box* boxes, const float* scores, const int32_t* classes, const Size* sizes,
                    int32_t* kept, int count, int max_kept, float threshold, float iou) {
  nms_by_threads(1, images, boxes, scores, classes, sizes, kept, count, max_kept, threshold, iou);
}
