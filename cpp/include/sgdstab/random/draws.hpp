// Draws: the batches of every chain, addressable by step.
//
// Step n of a chain draws a batch of the units 0 .. N - 1, a unit being an example, or a group of rows that are always
// drawn together. With batches of B units the law of the batches is one of
//
//   iid                uniform subsets of B units, independent from step to step; for B = 1 unit u with probability p_u
//   with_replacement   B independent units, u with probability p_u: a unit drawn twice counts twice
//   epoch              ceil(N / B) steps go through a uniform permutation of the units, B at a time and in the last one
//                      what is left; the next steps through another one
//   cyclic             the same, with the identity in place of all permutations
//
// and a batch is a pure function of (key, chain, n), so a run gives the same bits however it is cut. Random numbers are
// the lanes 0, 1, .. (eight of 32 bits a block, or four of 64) of Philox4x64-10 with
//
//       counter = (block, attempt, chain, purpose),
//
// made unbiased integers as those of IndexStream are. With uniform probabilities, lane n B + j of IndexStream itself
// (purpose 0) gives the j-th unit of step n, for B = 1 and for draws with replacement. Permutations are Fisher and
// Yates's: place j = 0, 1, .. is exchanged with one of j .. N - 1. Subsets are the first B places of one, or, as that
// is less to exchange when B > N / 2, all but the first N - B. Every step starts from the identity again, in O(B).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "sgdstab/random/stream.hpp"

namespace sgdstab {

enum class Sampling { iid, with_replacement, epoch, cyclic };

struct Law {
  Sampling sampling = Sampling::iid;
  Index n_units = 1;     // 1..2^31
  Index batch_size = 1;  // B, at most n_units unless with replacement
  // n_units cumulative probabilities, the last of them 1; none: all equal. For draws with replacement, and iid ones of
  // B = 1.
  const double* cumulative = nullptr;
  // Unit u owns the rows members[offsets[u]] .. members[offsets[u + 1] - 1]; none: row u.
  const std::int64_t* offsets = nullptr;  // n_units + 1
  const std::int64_t* members = nullptr;

  Index steps_per_epoch() const { return (n_units + batch_size - 1) / batch_size; }
};

// What one chain draws, some steps at a time. Chains advanced side by side have one each: all of them then take the
// same number of steps at a time, and each remembers the permutation that it is in.
class Draws {
 public:
  static constexpr Index kMostRows = 256;

  // fill draws as many steps at a time as have at most most_rows rows for sure, or else one; fill_trials draws up to
  // most_trials.
  explicit Draws(const Law& law, Index most_trials = 0, Index most_rows = kMostRows)
      : law_(law),
        repeats_(law.sampling == Sampling::with_replacement),
        single_(repeats_ || (law.sampling == Sampling::iid && law.batch_size == 1)) {
    const Index n = law.n_units, b = law.batch_size;
    if (!single_) law_.cumulative = nullptr;
    const Index batch_rows = most_batch_rows();
    steps_at_once_ = std::max<Index>(most_rows / batch_rows, 1);

    units_.resize(size(steps_at_once_ * b));
    unit_starts_.resize(size(steps_at_once_ + 1));
    for (Index j = 0; j <= steps_at_once_; ++j) unit_starts_[size(j)] = j * b;
    if (grouped_) {
      rows_.resize(size(steps_at_once_ * batch_rows));
      row_starts_.resize(unit_starts_.size());
    }
    if (law_.cumulative != nullptr) tabulate_probabilities();
    if (law.sampling == Sampling::epoch) order_.resize(size(n));
    if (law.sampling == Sampling::iid && !single_) {
      n_exchanges_ = std::min(b, n - b);
      order_.resize(size(n));
      std::iota(order_.begin(), order_.end(), 0U);
    }
    if (most_trials > 0) {
      trials_.resize(size(most_trials * b));
      if (!repeats_ && law_.cumulative == nullptr) trial_order_.resize(size(n));
    }
    lanes_.resize(size(std::max(kChunk, steps_at_once_ * n_exchanges_) + 2 * kLanes));
  }

  Index steps_at_once() const { return steps_at_once_; }

  // Draws the batches of the steps first_step, first_step + 1, .. of a chain and returns how many: most_steps, or
  // steps_at_once() if that is less.
  Index fill(StreamKey key, std::uint64_t chain, std::uint64_t first_step, Index most_steps) {
    const Index n_steps = std::min(most_steps, steps_at_once_), n_units = n_steps * law_.batch_size;
    const std::uint64_t first_lane = first_step * static_cast<std::uint64_t>(law_.batch_size);
    if (law_.cumulative != nullptr) {
      draw_weighted({key, chain, kWeighted}, first_lane, n_units, units_.data());
    } else if (single_) {
      draw_uniform({key, chain, kExamples}, first_lane, n_units, units_.data());
    } else if (law_.sampling == Sampling::iid) {
      draw_subsets({key, chain, kSubsets}, first_step, n_steps);
    } else {
      cut_epochs(key, chain, first_step, n_steps);
    }
    if (grouped_) look_up_rows(n_steps);
    return n_steps;
  }

  // The j-th batch of the last fill: its units, their rows, how many units. Batches follow one another in memory.
  std::span<const std::uint32_t> units(Index j) const { return part(units_, unit_starts_, j); }
  std::span<const std::uint32_t> rows(Index j) const { return grouped_ ? part(rows_, row_starts_, j) : units(j); }
  Index n_drawn(Index j) const { return unit_starts_[size(j + 1)] - unit_starts_[size(j)]; }

  // Draws n_trials batches of B units that depend on (key, chain, evaluation) alone, evaluation < 2^56, and on none of
  // the chain's own: independent ones with replacement, or with probabilities; otherwise, for epochs too, cut from
  // uniform permutations of all units, floor(N / B) of them from each. Fewer trials are the first of more.
  void fill_trials(StreamKey key, std::uint64_t chain, std::uint64_t evaluation, Index n_trials) {
    const Source source{key, chain, kTrials + (evaluation << kPurposeBits)};
    const Index b = law_.batch_size;
    if (law_.cumulative != nullptr) {
      draw_weighted(source, 0, n_trials * b, trials_.data());
    } else if (repeats_) {
      draw_uniform(source, 0, n_trials * b, trials_.data());
    } else {
      const Index per_permutation = law_.n_units / b;
      std::iota(trial_order_.begin(), trial_order_.end(), 0U);
      for (Index first = 0; first < n_trials; first += per_permutation) {
        const Index n_units = std::min(per_permutation, n_trials - first) * b;
        shuffle(source, static_cast<std::uint64_t>(first / per_permutation), n_units, trial_order_.data());
        std::copy_n(trial_order_.begin(), n_units, trials_.begin() + first * b);
      }
    }
  }

  // The units of the t-th trial.
  std::span<const std::uint32_t> trial(Index t) const {
    return {trials_.data() + t * law_.batch_size, size(law_.batch_size)};
  }

 private:
  static constexpr Index kLanes = 8;
  static constexpr Index kChunk = 256;  // lanes drawn at a time, at least
  // Purposes, the lowest bits of the counter's last word: IndexStream has 0 as well, initial states
  // (`simulation.starts`) 1, resampling 2 (`kernels/populations.cpp`) and tilted steps 3 (`steps/tilted.cpp`).
  static constexpr std::uint64_t kExamples = 0, kSubsets = 4, kWeighted = 5, kPermutations = 6, kTrials = 7;
  static constexpr int kPurposeBits = 8;
  static constexpr std::size_t kCellsPerUnit = 8;  // so that most cells lie within one unit

  struct Source {
    StreamKey key;
    std::uint64_t chain, purpose;

    Counter block(std::uint64_t number, std::uint64_t attempt = 0) const {
      return philox4x64({number, attempt, chain, purpose}, key);
    }
    // Uniform in 0 .. range - 1, from the bits of a lane.
    std::uint32_t below(std::uint32_t range, std::uint32_t bits, std::uint64_t lane) const {
      std::uint64_t scaled = std::uint64_t{bits} * range;
      if (static_cast<std::uint32_t>(scaled) < range) [[unlikely]] {
        const std::uint32_t threshold = -range % range;  // 2^32 mod range
        for (std::uint64_t attempt = 1; static_cast<std::uint32_t>(scaled) < threshold; ++attempt) {
          scaled = std::uint64_t{half(block(lane / kLanes, attempt), static_cast<Index>(lane % kLanes))} * range;
        }
      }
      return static_cast<std::uint32_t>(scaled >> 32);
    }
  };

  static std::size_t size(Index n) { return static_cast<std::size_t>(n); }

  static std::uint32_t half(const Counter& words, Index lane) {
    return static_cast<std::uint32_t>(words[size(lane / 2)] >> (32 * (lane % 2)));
  }

  static std::span<const std::uint32_t> part(const std::vector<std::uint32_t>& all, const std::vector<Index>& starts,
                                             Index j) {
    return {all.data() + starts[size(j)], size(starts[size(j + 1)] - starts[size(j)])};
  }

  // The most rows that a batch can have; finds out whether units are anything but rows.
  Index most_batch_rows() {
    const Index n = law_.n_units, b = law_.batch_size;
    Index largest = 1;
    for (Index u = 0; law_.offsets != nullptr && u < n; ++u) {
      largest = std::max<Index>(largest, law_.offsets[u + 1] - law_.offsets[u]);
      grouped_ = grouped_ || law_.offsets[u + 1] != u + 1 || law_.members[u] != u;
    }
    return grouped_ && !repeats_ ? std::min<Index>(b * largest, law_.offsets[n]) : b * largest;
  }

  void look_up_rows(Index n_steps) {
    Index end = 0;
    for (Index j = 0; j < n_steps; ++j) {
      for (const std::uint32_t u : units(j)) {
        for (std::int64_t m = law_.offsets[u]; m < law_.offsets[u + 1]; ++m, ++end) {
          rows_[size(end)] = static_cast<std::uint32_t>(law_.members[m]);
        }
      }
      row_starts_[size(j + 1)] = end;
    }
  }

  // The bits of n lanes.
  std::uint32_t* draw(const Source& source, std::uint64_t first_lane, Index n) {
    const auto skipped = static_cast<Index>(first_lane % kLanes);
    std::uint64_t number = first_lane / kLanes;
    for (std::uint32_t* lane = lanes_.data(); lane < lanes_.data() + skipped + n; lane += kLanes, ++number) {
      const Counter words = source.block(number);
      for (Index l = 0; l < kLanes; ++l) lane[l] = half(words, l);
    }
    return lanes_.data() + skipped;
  }

  void draw_uniform(const Source& source, std::uint64_t first_lane, Index n, std::uint32_t* units) {
    const auto range = static_cast<std::uint32_t>(law_.n_units);
    for (Index first = 0; first < n; first += kChunk, first_lane += kChunk) {
      const Index n_lanes = std::min(kChunk, n - first);
      const std::uint32_t* bits = draw(source, first_lane, n_lanes);
      for (Index j = 0; j < n_lanes; ++j) {
        units[first + j] = source.below(range, bits[j], first_lane + static_cast<std::uint64_t>(j));
      }
    }
  }

  // first_[k] is where the unit at cumulative probability k / first_.size() lies.
  void tabulate_probabilities() {
    const double* begin = law_.cumulative;
    const double* end = begin + law_.n_units;
    // Nothing lies beyond the last unit of positive probability, whatever the rounding.
    last_ = static_cast<std::uint32_t>(std::lower_bound(begin, end, end[-1]) - begin);
    first_.resize(kCellsPerUnit * std::bit_ceil(size(law_.n_units)));
    for (std::size_t k = 0; k < first_.size(); ++k) {
      const double at = static_cast<double>(k) / static_cast<double>(first_.size());
      first_[k] = std::min(last_, static_cast<std::uint32_t>(std::upper_bound(begin, end, at) - begin));
    }
  }

  void draw_weighted(const Source& source, std::uint64_t first_lane, Index n, std::uint32_t* units) {
    constexpr std::uint64_t kWords = 4;
    const auto n_cells = static_cast<double>(first_.size());
    for (Index j = 0; j < n;) {
      const std::uint64_t lane = first_lane + static_cast<std::uint64_t>(j);
      const Counter words = source.block(lane / kWords);
      for (std::uint64_t word = lane % kWords; word < kWords && j < n; ++word, ++j) {
        const double u = static_cast<double>(words[word] >> 11) * 0x1p-53;
        std::uint32_t unit = first_[static_cast<std::size_t>(u * n_cells)];
        while (unit < last_ && law_.cumulative[unit] <= u) ++unit;
        units[j] = unit;
      }
    }
  }

  void draw_subsets(const Source& source, std::uint64_t first_step, Index n_steps) {
    const bool complement = n_exchanges_ < law_.batch_size;
    std::uint64_t lane = first_step * static_cast<std::uint64_t>(n_exchanges_);
    std::uint32_t* places = draw(source, lane, n_steps * n_exchanges_);
    std::uint32_t *units = units_.data(), *order = order_.data();
    for (Index step = 0; step < n_steps; ++step, places += n_exchanges_, units += law_.batch_size) {
      for (Index j = 0; j < n_exchanges_; ++j, ++lane) {
        places[j] = place(source, j, places[j], lane);
        units[j] = std::exchange(order[places[j]], order[j]);
      }
      if (complement) std::copy(order + n_exchanges_, order + law_.n_units, units);
      for (Index j = 0; j < n_exchanges_; ++j) order[places[j]] = places[j];
    }
  }

  // The first n_places places of the number-th permutation, by exchanges in any order of all units.
  void shuffle(const Source& source, std::uint64_t number, Index n_places, std::uint32_t* order) {
    std::uint64_t lane = number * static_cast<std::uint64_t>(law_.n_units);
    for (Index first = 0; first < n_places; first += kChunk) {
      const Index end = std::min(first + kChunk, n_places);
      const std::uint32_t* bits = draw(source, lane, end - first);
      for (Index j = first; j < end; ++j, ++bits, ++lane) std::swap(order[j], order[place(source, j, *bits, lane)]);
    }
  }

  // What place j is exchanged with.
  std::uint32_t place(const Source& source, Index j, std::uint32_t bits, std::uint64_t lane) const {
    return static_cast<std::uint32_t>(j) + source.below(static_cast<std::uint32_t>(law_.n_units - j), bits, lane);
  }

  // The order of an epoch, kept until another one is asked for.
  void arrange(StreamKey key, std::uint64_t chain, std::uint64_t epoch) {
    const std::array<std::uint64_t, 4> wanted{key[0], key[1], chain, epoch};
    if (arranged_ && arrangement_ == wanted) return;
    std::iota(order_.begin(), order_.end(), 0U);
    shuffle({key, chain, kPermutations}, epoch, law_.n_units, order_.data());
    arranged_ = true;
    arrangement_ = wanted;
  }

  void cut_epochs(StreamKey key, std::uint64_t chain, std::uint64_t first_step, Index n_steps) {
    const Index n = law_.n_units, b = law_.batch_size, length = law_.steps_per_epoch();
    auto epoch = first_step / static_cast<std::uint64_t>(length);
    auto step = static_cast<Index>(first_step % static_cast<std::uint64_t>(length));
    Index end = 0;
    for (Index j = 0; j < n_steps; ++epoch, step = 0) {
      const Index begin = end, first_unit = step * b;
      for (; j < n_steps && step < length; ++j, ++step) {
        end = begin - first_unit + std::min((step + 1) * b, n);
        unit_starts_[size(j + 1)] = end;
      }
      if (law_.sampling == Sampling::cyclic) {
        std::iota(units_.begin() + begin, units_.begin() + end, static_cast<std::uint32_t>(first_unit));
      } else {
        arrange(key, chain, epoch);
        std::copy_n(order_.begin() + first_unit, end - begin, units_.begin() + begin);
      }
    }
  }

  Law law_;
  bool repeats_, single_, grouped_ = false;  // single_: units are drawn one by one, independently of all others
  Index steps_at_once_ = 1;
  std::vector<std::uint32_t> units_, rows_, lanes_, trials_, trial_order_;
  std::vector<Index> unit_starts_, row_starts_;
  // Cumulative probabilities
  std::vector<std::uint32_t> first_;
  std::uint32_t last_ = 0;
  // Subsets: the identity, between steps; epochs: the permutation of the last one.
  Index n_exchanges_ = 0;
  std::vector<std::uint32_t> order_;
  bool arranged_ = false;
  std::array<std::uint64_t, 4> arrangement_{};
};

}  // namespace sgdstab
