// Work items over threads: items are fixed by the problem, never by the number of threads, so that results
// do not depend on it.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "sgdstab/base/types.hpp"

namespace sgdstab {

inline Index useful_threads(Index n_items, int n_threads) {
  return std::clamp<Index>(n_threads, 1, std::max<Index>(n_items, 1));
}

// A thread that is waited for where its scope ends, as std::jthread is, which not every standard library has.
class JoiningThread {
 public:
  explicit JoiningThread(std::thread thread) : thread_(std::move(thread)) {}
  JoiningThread(JoiningThread&&) = default;
  ~JoiningThread() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::thread thread_;
};

// Calls work(item, worker) once for every item in 0..n_items-1; worker in 0..useful_threads-1 names the
// workspace that the call may use. `work` must not throw. The calling thread takes its share.
template <class Work>
void for_each_item(Index n_items, int n_threads, const Work& work) {
  std::atomic<Index> next{0};
  const auto take_items = [&](Index worker) {
    for (Index item; (item = next.fetch_add(1, std::memory_order_relaxed)) < n_items;) work(item, worker);
  };
  std::vector<JoiningThread> others;
  for (Index worker = 1; worker < useful_threads(n_items, n_threads); ++worker) {
    others.emplace_back(std::thread(take_items, worker));
  }
  take_items(0);
}

}  // namespace sgdstab
