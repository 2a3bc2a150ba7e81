// Threads that do one list of phases together: each phase in parts, which go to whoever is free, and no phase before
// the one in front of it is done.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

class Crew {
 public:
  // do_part(thread, phase, part) in threads 0 (the caller of `run`) to `threads` - 1; do_end(phase) once, after the
  // phase's last part.
  std::function<void(size_t, size_t, size_t)> do_part;
  std::function<void(size_t)> do_end;

  Crew(size_t threads, std::vector<size_t> parts) : parts(std::move(parts)) {
    phases.reset(new Phase[this->parts.size()]);
    try {
      for (size_t thread = 1; thread < threads; ++thread) helpers.emplace_back([this, thread] { help(thread); });
    } catch (const std::system_error&) {  // the system gives no more threads: those that are there do it
    }
  }
  ~Crew() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      ended = true;
    }
    wake.notify_all();
    for (std::thread& helper : helpers) helper.join();
  }

  // Do all phases. A helper that has not begun, and may never, is not waited for.
  void run() {
    for (size_t i = 0; i < parts.size(); ++i) phases[i].next = 0, phases[i].done = 0, phases[i].over = false;
    {
      std::lock_guard<std::mutex> lock(mutex);
      ++runs;
      open = true;
    }
    wake.notify_all();
    work(0);
    {
      std::lock_guard<std::mutex> lock(mutex);
      open = false;
    }
    while (inside != 0) std::this_thread::yield();
  }

 private:
  struct Phase {
    alignas(64) std::atomic<size_t> next{0};
    alignas(64) std::atomic<size_t> done{0};
    std::atomic<bool> over{false};
  };
  static constexpr int SPINS = 2000;  // after which a thread that waits lets others have its core

  void work(size_t thread) {
    for (size_t i = 0; i < parts.size(); ++i) {
      Phase& phase = phases[i];
      for (size_t part; (part = phase.next++) < parts[i];) {
        do_part(thread, i, part);
        if (++phase.done == parts[i]) {
          do_end(i);
          phase.over = true;
        }
      }
      for (int spin = 0; !phase.over; ++spin) {
        if (spin > SPINS) std::this_thread::yield();
#ifdef __x86_64__
        _mm_pause();
#endif
      }
    }
  }

  void help(size_t thread) {
    for (uint64_t seen = 0;;) {
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return ended || (open && runs != seen); });
        if (ended) return;
        seen = runs;
        ++inside;
      }
      work(thread);
      --inside;
    }
  }

  std::vector<size_t> parts;  // of each phase
  std::unique_ptr<Phase[]> phases;
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> helpers;
  uint64_t runs = 0;
  bool open = false, ended = false;
  std::atomic<int> inside{0};
};
