// A team of threads that works through a list of phases together. A phase consists of parts, which go to whichever
// thread is free; no phase begins before all parts of the previous one are done.
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

class ThreadTeam {
 public:
  // run_part(thread, phase, part) is called in threads 0 (the caller of `run`) to `threads` - 1; end_phase(phase) is
  // called once, after the phase's last part.
  std::function<void(size_t, size_t, size_t)> run_part;
  std::function<void(size_t)> end_phase;

  // `parts`: the number of parts of each phase.
  ThreadTeam(size_t threads, std::vector<size_t> parts) : parts(std::move(parts)) {
    phases.reset(new Phase[this->parts.size()]);
    try {
      for (size_t thread = 1; thread < threads; ++thread) helpers.emplace_back([this, thread] { help(thread); });
    } catch (const std::system_error&) {  // the system gives no more threads: the existing ones do the work
    }
  }
  ~ThreadTeam() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    for (std::thread& helper : helpers) helper.join();
  }

  // Runs all phases. Does not wait for a helper thread that has not begun, because it may never begin.
  void run() {
    for (size_t i = 0; i < parts.size(); ++i) phases[i].next = 0, phases[i].done = 0, phases[i].complete = false;
    {
      std::lock_guard<std::mutex> lock(mutex);
      ++runs;
      running = true;
    }
    wake.notify_all();
    work(0);
    {
      std::lock_guard<std::mutex> lock(mutex);
      running = false;
    }
    while (active_helpers != 0) std::this_thread::yield();
  }

 private:
  struct Phase {
    alignas(64) std::atomic<size_t> next{0};
    alignas(64) std::atomic<size_t> done{0};
    std::atomic<bool> complete{false};
  };
  static constexpr int SPINS = 2000;  // after which a waiting thread leaves its core to others

  void work(size_t thread) {
    for (size_t i = 0; i < parts.size(); ++i) {
      Phase& phase = phases[i];
      for (size_t part; (part = phase.next++) < parts[i];) {
        run_part(thread, i, part);
        if (++phase.done == parts[i]) {
          end_phase(i);
          phase.complete = true;
        }
      }
      for (int spin = 0; !phase.complete; ++spin) {
        if (spin > SPINS) std::this_thread::yield();
#ifdef __x86_64__
        _mm_pause();
#endif
      }
    }
  }

  void help(size_t thread) {
    for (uint64_t last_run = 0;;) {
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return stopping || (running && runs != last_run); });
        if (stopping) return;
        last_run = runs;
        ++active_helpers;
      }
      work(thread);
      --active_helpers;
    }
  }

  std::vector<size_t> parts;  // of each phase
  std::unique_ptr<Phase[]> phases;
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> helpers;
  uint64_t runs = 0;
  bool running = false, stopping = false;
  std::atomic<int> active_helpers{0};
};
