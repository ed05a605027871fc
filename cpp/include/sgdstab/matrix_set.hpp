// Matrix sets: any finite set of real matrices, each drawn with its probability.
//
// A matrix is stored as panels of kLanes rows at a time, transposed: entry (j, lane) of panel p is A(kLanes p + lane,
// j), zero beyond the last row, so that A v is a sum of columns.
//
// Anchored growth is exact: in a metric M = R^T R, sum_i q_i log(|R A_i v| / |R v|).
#pragma once

#include <limits>
#include <vector>

#include "sgdstab/draws.hpp"
#include "sgdstab/growth.hpp"
#include "sgdstab/panel.hpp"

namespace sgdstab {

struct MatrixSet {
  Index count, size;            // matrices, and their dimension
  const double* panels;         // count x n_panels x size x kLanes
  const double* probabilities;  // count
  const double* cumulative;     // of the probabilities; nullptr if they are all the same

  Index dimension() const { return size; }
  Index n_panels() const { return (size + kLanes - 1) / kLanes; }
};

inline Law law_of(const MatrixSet& set) { return {Sampling::iid, set.count, 1, set.cumulative, nullptr, nullptr}; }

// v <- A_i v, through `image` of n_panels kLanes unless there is just one panel, full.
inline void multiply(const MatrixSet& set, Index i, double* v, double* image) {
  const double* row = v;
  if (set.size == kLanes) {
    multiply_rows<1>(&row, set.panels + i * kLanes * kLanes, kLanes, v);
    return;
  }
  for (Index p = 0; p < set.n_panels(); ++p) {
    multiply_rows<1>(&row, set.panels + (i * set.n_panels() + p) * set.size * kLanes, set.size, image + p * kLanes);
  }
  std::copy_n(image, set.size, v);
}

struct MatrixMetrics {
  Index count = 0;                // 0 for no evaluation at all
  const double* roots = nullptr;  // count x (1 + matrices) x size x size: R, R A_1 / s, R A_2 / s, ..
  double log_scale = 0;           // log s, which keeps squares within floating point

  Index columns() const { return count; }
};

class MatrixGrowth {
 public:
  MatrixGrowth(const MatrixSet& set, const MatrixMetrics& metrics)
      : set_(set),
        metrics_(metrics),
        v_(metrics.count > 0 ? static_cast<std::size_t>(set.size * kLanes) : 0),
        images_((1 + static_cast<std::size_t>(set.count)) * v_.size()) {}

  void add_growth(const double* vectors, Index stride, Index n_vectors, const GrowthSums& sums) {
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

 private:
  const MatrixSet& set_;
  const MatrixMetrics& metrics_;
  std::vector<double> v_, images_;
};

}  // namespace sgdstab
