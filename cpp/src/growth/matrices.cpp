#include "sgdstab/growth/matrices.hpp"

#include <limits>

namespace sgdstab {

MatrixGrowth::MatrixGrowth(const MatrixSet& set, const MatrixMetrics& metrics)
    : set_(set),
      metrics_(metrics),
      v_(metrics.count > 0 ? static_cast<std::size_t>(set.size * kLanes) : 0),
      images_((1 + static_cast<std::size_t>(set.count)) * v_.size()) {}

void MatrixGrowth::add_growth(const double* vectors, Index stride, Index n_vectors, const GrowthSums& sums) {
  const Index d = set_.size, n = 1 + set_.count;
  for (Index j = 0; j < d; ++j) {
    for (Index v = 0; v < kLanes; ++v) v_[j * kLanes + v] = v < n_vectors ? vectors[v * stride + j] : 0.0;
  }
  for (Index m = 0; m < metrics_.count; ++m) {
    multiply_panel(metrics_.roots + m * n * d * d, n * d, d, v_.data(), d, images_.data());
    const auto log_norm = [&](Index i) {
      Lanes squares = Lanes::Zero();
      for (Index j = 0; j < d; ++j) squares += lanes(images_.data(), i * d + j).square();
      return Lanes(squares.log() / 2);
    };
    const Lanes before = log_norm(0);
    Lanes growth = Lanes::Constant(metrics_.log_scale);
    for (Index i = 0; i < set_.count; ++i) {
      if (set_.probabilities[i] > 0) growth += set_.probabilities[i] * (log_norm(i + 1) - before);
    }
    for (Index v = 0; v < n_vectors; ++v) {
      const bool lost = before[v] == -std::numeric_limits<double>::infinity();  // annihilated before
      sums.sums[v * sums.vector_stride + m * sums.metric_stride] += lost ? before[v] : growth[v];
    }
  }
}

}  // namespace sgdstab
