// Anchored growth of a matrix set, exactly: in a metric M = R^T R, sum_i q_i log(|R A_i v| / |R v|).
#pragma once

#include <vector>

#include "sgdstab/growth/single.hpp"
#include "sgdstab/systems/matrix_set.hpp"

namespace sgdstab {

struct MatrixMetrics {
  Index count = 0;                // 0 for no evaluation at all
  const double* roots = nullptr;  // count x (1 + matrices) x size x size: R, R A_1 / s, R A_2 / s, ..
  double log_scale = 0;           // log s, which keeps squares within floating point

  Index columns() const { return count; }
};

class MatrixGrowth {
 public:
  MatrixGrowth(const MatrixSet& set, const MatrixMetrics& metrics);

  // Adds the growth of up to kLanes vectors that lie `stride` apart.
  void add_growth(const double* vectors, Index stride, Index n_vectors, const GrowthSums& sums);

 private:
  const MatrixSet& set_;
  const MatrixMetrics& metrics_;
  std::vector<double> v_, images_;
};

}  // namespace sgdstab
