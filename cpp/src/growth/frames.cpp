#include "sgdstab/growth/frames.hpp"

#include <algorithm>

namespace sgdstab {

FrameGrowth::FrameGrowth(const AnyRows& rows, const FrameMetrics& metrics)
    : k_(metrics.count > 0 ? metrics.columns : 0),
      q_(rows.dimension(), k_),
      w_(RowMatrix::Zero(rows.n_examples(), (k_ + kColumns - 1) / kColumns * kColumns)),
      y_(w_),
      prefix_(rows.n_examples(), 3),
      unused_(k_),
      products_(k_, std::max(rows.n_examples(), rows.dimension()), rows.dimension()),
      frame_(k_ > 0 ? rows.dimension() : 0, k_) {}

void FrameGrowth::add_growth(const AnyRows& rows, double learning_rate, const FrameMetrics& metrics,
                             const double* frame, Index stride, double* sums) {
  const Index n = rows.n_examples(), d = rows.dimension(), padded = w_.cols();
  // result = matrix right; row-major matrices are their transposes in column-major terms.
  const auto apply = [&](const double* matrix, Index n_rows, const double* right, Index right_stride, double* result,
                         Index result_stride) {
    accumulate_product<ColMajor, ColMajor>(k_, n_rows, d, 1, right, right_stride, matrix, d, result, result_stride,
                                           products_);
  };
  for (Index m = 0; m < metrics.count; ++m) {
    q_.setZero();
    apply(metrics.roots + m * d * d, d, frame, stride, q_.data(), k_);
    MatrixView q(q_.data(), d, k_, Eigen::OuterStride<>(k_));
    frame_.orthonormalise(q, {false, 0}, unused_);
    w_.setZero();
    y_.setZero();
    apply(metrics.gradients + m * n * d, n, q_.data(), k_, w_.data(), padded);
    apply(metrics.images + m * n * d, n, q_.data(), k_, y_.data(), padded);
    prefix_.setZero();
    double before = 0;  // growth of the volume so far
    for (Index first = 0; first < k_; first += kColumns) {
      LogSum<Columns> log_sum;
      for (Index i = 0; i < n; ++i) {
        Columns a, b, c;
        for (Index l = 0; l < kColumns; ++l) {
          const double w = w_(i, first + l), y = y_(i, first + l);
          a[l] = prefix_(i, 0) += w * w;
          b[l] = prefix_(i, 1) += w * y;
          c[l] = prefix_(i, 2) += y * y;
        }
        // The factor less 1.
        log_sum.add(learning_rate *
                    (b * (learning_rate * b - 2) + a * (learning_rate * (metrics.diagonals[m * n + i] - c))));
      }
      const Columns volume = log_sum.total() / (2.0 * static_cast<double>(n));
      for (Index l = 0; l < std::min<Index>(kColumns, k_ - first); ++l) {
        sums[m * k_ + first + l] += volume[l] - before;
        before = volume[l];
      }
    }
  }
}

}  // namespace sgdstab
