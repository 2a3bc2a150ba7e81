// The kernels' arithmetic compiled for the host: the same parameters as the kernels', and loops for their threads.

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "letterbox.h"
#include "nms.h"

extern "C" void narrow(const uint8_t* picture, uint8_t* narrowed, const int32_t* table, int height, int width,
                       int new_width, int taps) {
  for (size_t y = 0; y < size_t(height); ++y)
    for (int i = 0; i < 3 * new_width; ++i)
      narrowed[3 * y * new_width + i] = narrowed_byte(picture + 3 * y * width, table, new_width, taps, i);
}

extern "C" void letterbox(const uint8_t* narrowed, uint8_t* input, const int32_t* table, int new_height, int new_width,
                          int taps, int height, int width, uint32_t fill) {
  for (size_t y = 0; y < size_t(height); ++y)
    for (int i = 0; i < 3 * width; ++i)
      input[3 * y * width + i] = letterbox_byte(narrowed, table, new_height, new_width, taps, fill, int(y), i);
}

// As __syncthreads: nobody goes on until all have come.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int round = round_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++round_;
      all_.notify_all();
    } else {
      all_.wait(lock, [&] { return round != round_; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  int threads_, waiting_ = 0, round_ = 0;
};

struct Size {
  int32_t width, height;
};

extern "C" void nms_by(int threads, int pictures, const Box* boxes, const float* scores, const int32_t* classes,
                       const Size* sizes, int32_t* kept, int count, int most, float threshold, float iou) {
  for (size_t picture = 0; picture < size_t(pictures); ++picture) {
    const size_t start = picture * count;
    const Candidates given = {boxes + start, scores + start, classes + start, count, float(sizes[picture].width),
                              float(sizes[picture].height), threshold};
    std::vector<int32_t> order(count);
    std::vector<uint8_t> stays(count);
    Barrier barrier(threads);
    std::vector<std::thread> group;
    for (int thread = 0; thread < threads; ++thread)
      group.emplace_back([&, thread] {
        suppress(given, iou, most, order.data(), stays.data(), kept + picture * most, thread, threads,
                 [&] { barrier.wait(); });
      });
    for (auto& one : group) one.join();
  }
}

extern "C" void nms(int pictures, const Box* boxes, const float* scores, const int32_t* classes, const Size* sizes,
                    int32_t* kept, int count, int most, float threshold, float iou) {
  nms_by(1, pictures, boxes, scores, classes, sizes, kept, count, most, threshold, iou);
}
