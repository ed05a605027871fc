// Workers of vectors: what one thread needs to advance single vectors of a system, and to evaluate their growth. A
// system is anything that has one:
//
//   VectorWorker(system, metrics)
//   take_steps(key, chain, start, n_steps, careful, n_chains, k, vector)
//       steps start .. start + n_steps - 1 (at most kMaxSegment) of up to kSideBySide chains, vector(chain, l) being
//       where the l-th vector of each lies
//   add_growth(vectors, stride, n_vectors, sums, key, first_chain, step)
//       the expected log growth of the step `step` of up to kLanes chains, in all columns of the metrics
#pragma once

#include <optional>

#include "sgdstab/growth/batch.hpp"
#include "sgdstab/growth/matrices.hpp"
#include "sgdstab/growth/single.hpp"
#include "sgdstab/steps/single.hpp"

namespace sgdstab {

template <class System>
class VectorWorker;

template <class Rows>
class VectorWorker<SingleSteps<Rows>> {
 public:
  using Metrics = SingleMetrics;

  VectorWorker(const SingleSteps<Rows>& steps, const Metrics& metrics) : steps_(steps), metrics_(metrics) {
    if (metrics.count > 0) growth_.emplace(steps.rows);
  }

  template <class Vector>
  void take_steps(const StreamKey& key, std::uint64_t chain, std::uint64_t start, Index n_steps, bool careful,
                  Index n_chains, Index k, const Vector& vector) {
    for (Index c = 0; c < n_chains; ++c) {
      IndexStream(key, chain + static_cast<std::uint64_t>(c), steps_.n_examples()).fill(start, n_steps, examples_[c]);
    }
    sgdstab::take_steps(steps_, examples_, n_steps, careful, n_chains, k, vector);
  }

  void add_growth(const double* vectors, Index stride, Index n_vectors, const GrowthSums& sums, const StreamKey&,
                  std::uint64_t, std::uint64_t) {
    growth_->add_growth(steps_, metrics_, vectors, stride, n_vectors, sums);
  }

 private:
  const SingleSteps<Rows>& steps_;
  const Metrics& metrics_;
  std::optional<SingleGrowth> growth_;
  std::uint32_t examples_[kSideBySide][kMaxSegment];
};

template <class Rows>
class VectorWorker<BatchSteps<Rows>> {
 public:
  using Metrics = BatchMetrics;

  VectorWorker(const BatchSteps<Rows>& steps, const Metrics& metrics)
      : stepper_(steps), draws_(kSideBySide, Draws(steps.law)) {
    if (metrics.count > 0) growth_.emplace(steps, metrics);
  }

  template <class Vector>
  void take_steps(const StreamKey& key, std::uint64_t chain, std::uint64_t start, Index n_steps, bool, Index n_chains,
                  Index k, const Vector& vector) {
    for (Index c = 0; c < n_chains; ++c) {
      Draws& draws = draws_[static_cast<std::size_t>(c)];
      for (Index done = 0; done < n_steps;) {
        const Index drawn = draws.fill(key, chain + static_cast<std::uint64_t>(c),
                                       start + static_cast<std::uint64_t>(done), n_steps - done);
        for (Index j = 0; j < drawn; ++j) {
          for (Index l = 0; l < k; ++l) stepper_.take(draws.rows(j), draws.n_drawn(j), vector(c, l));
        }
        done += drawn;
      }
    }
  }

  void add_growth(const double* vectors, Index stride, Index n_vectors, const GrowthSums& sums, const StreamKey& key,
                  std::uint64_t first_chain, std::uint64_t step) {
    growth_->add_growth(vectors, stride, n_vectors, sums, key, first_chain, step);
  }

 private:
  BatchStepper<Rows> stepper_;
  std::vector<Draws> draws_;
  std::optional<BatchGrowth<Rows>> growth_;
};

template <>
class VectorWorker<MatrixSet> {
 public:
  using Metrics = MatrixMetrics;

  VectorWorker(const MatrixSet& set, const Metrics& metrics)
      : set_(set),
        metrics_(metrics),
        draws_(kSideBySide, Draws(law_of(set))),
        image_(set.n_panels() * kLanes),
        growth_(set, metrics) {}

  template <class Vector>
  void take_steps(const StreamKey& key, std::uint64_t chain, std::uint64_t start, Index n_steps, bool, Index n_chains,
                  Index k, const Vector& vector) {
    // Chains in turn: one's product hides behind another's.
    for (Index done = 0, drawn = 0; done < n_steps; done += drawn) {
      for (Index c = 0; c < n_chains; ++c) {
        drawn = draws_[static_cast<std::size_t>(c)].fill(key, chain + static_cast<std::uint64_t>(c),
                                                         start + static_cast<std::uint64_t>(done), n_steps - done);
      }
      take_drawn(drawn, n_chains, k, vector);
    }
  }

  void add_growth(const double* vectors, Index stride, Index n_vectors, const GrowthSums& sums, const StreamKey&,
                  std::uint64_t, std::uint64_t) {
    growth_.add_growth(vectors, stride, n_vectors, sums);
  }

 private:
  static constexpr int kLargestInRegisters = 8;

  template <int kSize = 1, class Vector>
  void take_drawn(Index n_steps, Index n_chains, Index k, const Vector& vector) {
    if constexpr (kSize <= kLargestInRegisters) {
      if (set_.size != kSize) return take_drawn<kSize + 1>(n_steps, n_chains, k, vector);
    }
    for (Index j = 0; j < n_steps; ++j) {
      for (Index c = 0; c < n_chains; ++c) {
        const auto i = static_cast<Index>(draws_[static_cast<std::size_t>(c)].units(j)[0]);
        for (Index l = 0; l < k; ++l) {
          if constexpr (kSize <= kLargestInRegisters) {
            multiply<kSize>(set_, i, vector(c, l));
          } else {
            multiply(set_, i, vector(c, l), image_.data());
          }
        }
      }
    }
  }

  const MatrixSet& set_;
  const Metrics& metrics_;
  std::vector<Draws> draws_;
  Eigen::VectorXd image_;
  MatrixGrowth growth_;
};

}  // namespace sgdstab
