// Streams: the random examples of every chain, addressable by step.
//
// The example drawn by a chain at step n is a pure function of (key, chain, n), so a run gives the same bits
// however it is cut into calls and whichever thread or machine advances a chain.
//
//   Philox4x64-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps
//   a counter of four 64-bit words and a key of two. Its eight 32-bit halves, low half first, give the examples of
//   steps 8 b .. 8 b + 7 through
//
//       counter = (b, attempt, chain, 0),    half u  ->  floor(u N / 2^32),
//
//   which is unbiased once halves with (u N mod 2^32) < (2^32 mod N) are rejected (Lemire, "Fast random
//   integer generation in an interval", ACM TOMACS 29, 2019). A rejected step alone looks at the same lane of
//   the next attempt.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "sgdstab/base/types.hpp"

namespace sgdstab {

using Counter = std::array<std::uint64_t, 4>;
using StreamKey = std::array<std::uint64_t, 2>;

inline Counter philox4x64(Counter counter, StreamKey key) {
  constexpr std::uint64_t kMultiplier0 = 0xD2E7470EE14C6C93, kMultiplier1 = 0xCA5A826395121157;
  constexpr std::uint64_t kWeyl0 = 0x9E3779B97F4A7C15, kWeyl1 = 0xBB67AE8584CAA73B;
  auto [c0, c1, c2, c3] = counter;
  auto [k0, k1] = key;
  for (int round = 0; round < 10; ++round, k0 += kWeyl0, k1 += kWeyl1) {
    const auto product0 = static_cast<unsigned __int128>(kMultiplier0) * c0;
    const auto product1 = static_cast<unsigned __int128>(kMultiplier1) * c2;
    c0 = static_cast<std::uint64_t>(product1 >> 64) ^ c1 ^ k0;
    c1 = static_cast<std::uint64_t>(product1);
    c2 = static_cast<std::uint64_t>(product0 >> 64) ^ c3 ^ k1;
    c3 = static_cast<std::uint64_t>(product0);
  }
  return {c0, c1, c2, c3};
}

class IndexStream {
 public:
  // n_examples must be in 1..2^31.
  IndexStream(StreamKey key, std::uint64_t chain, Index n_examples)
      : key_(key),
        chain_(chain),
        n_(static_cast<std::uint32_t>(n_examples)),
        threshold_(static_cast<std::uint32_t>((std::uint64_t{1} << 32) % n_)) {}

  // examples[j] = the example of step first_step + j.
  void fill(std::uint64_t first_step, Index n_steps, std::uint32_t* examples) const {
    for (Index j = 0; j < n_steps;) {
      const std::uint64_t step = first_step + static_cast<std::uint64_t>(j);
      const auto first_lane = static_cast<Index>(step % kLanes);
      const Block block = draw(step / kLanes);
      const Index n_lanes = std::min(kLanes - first_lane, n_steps - j);
      std::copy_n(block.begin() + first_lane, n_lanes, examples + j);
      j += n_lanes;
    }
  }

 private:
  static constexpr Index kLanes = 8;
  using Block = std::array<std::uint32_t, kLanes>;

  // The examples of steps 8 b .. 8 b + 7, all lanes at once: rejections are too rare to branch for each.
  Block draw(std::uint64_t block) const {
    Block examples;
    bool all_accepted = true;
    const Counter words = philox4x64({block, 0, chain_, 0}, key_);
#pragma GCC unroll 8
    for (Index lane = 0; lane < kLanes; ++lane) {
      const std::uint64_t scaled = half(words, lane) * n_;
      examples[lane] = static_cast<std::uint32_t>(scaled >> 32);
      all_accepted &= static_cast<std::uint32_t>(scaled) >= threshold_;
    }
    if (!all_accepted) [[unlikely]] {
      for (Index lane = 0; lane < kLanes; ++lane) {
        if (static_cast<std::uint32_t>(half(words, lane) * n_) < threshold_) examples[lane] = redraw(block, lane);
      }
    }
    return examples;
  }

  std::uint32_t redraw(std::uint64_t block, Index lane) const {
    for (std::uint64_t attempt = 1;; ++attempt) {
      const std::uint64_t scaled = half(philox4x64({block, attempt, chain_, 0}, key_), lane) * n_;
      if (static_cast<std::uint32_t>(scaled) >= threshold_) return static_cast<std::uint32_t>(scaled >> 32);
    }
  }

  static std::uint64_t half(const Counter& words, Index lane) {
    return (words[lane / 2] >> (32 * (lane % 2))) & 0xFFFFFFFF;
  }

  StreamKey key_;
  std::uint64_t chain_;
  std::uint32_t n_, threshold_;
};

// Which steps to take: n_batches batches of steps_per_batch steps, from first_step on, of the chains
// first_chain, first_chain + 1, ...
struct Stream {
  StreamKey key;
  std::uint64_t first_chain;
  std::uint64_t first_step;
  Index n_batches;
  Index steps_per_batch;
};

}  // namespace sgdstab
