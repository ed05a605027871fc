// Matrix sets: any finite set of real matrices, each drawn with its probability.
//
// For vectors a matrix is stored as panels of kLanes rows at a time, transposed, so that A v is a sum of columns: entry
// (j, lane) of panel p is A(kLanes p + lane, j), zero beyond the last row. Frames take it as it is.
#pragma once

#include "sgdstab/base/panel.hpp"
#include "sgdstab/random/draws.hpp"

namespace sgdstab {

struct MatrixSet {
  Index count, size;            // matrices, and their dimension
  const double* panels;         // count x n_panels x size x kLanes, for vectors
  const double* matrices;       // count x size x size, row-major, for frames
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

// The same where the dimension is known, up to kLanes: v goes through registers.
template <int kSize>
void multiply(const MatrixSet& set, Index i, double* v) {
  using Matrix = Eigen::Matrix<double, kSize, kSize>;
  Eigen::Map<Eigen::Matrix<double, kSize, 1>> vector(v);
  vector = Eigen::Map<const Matrix, 0, Eigen::OuterStride<kLanes>>(set.panels + i * kSize * kLanes) * vector;
}

}  // namespace sgdstab
