#include "sgdstab/base/frame.hpp"

#include <cmath>

#include "sgdstab/base/inner_product.hpp"

namespace sgdstab {
namespace {

// Squared pivots of a leaf, relative to their columns. Q loses orthogonality as eps over the smallest: enough is lost
// below the first for another pass to be worth it, and below the second for Cholesky not to be trusted at all.
constexpr double kEasyPivot = 1e-5, kTrustedPivot = 1e-12;

Index half_rounded_up(Index k) { return (k + 1) / 2; }

}  // namespace

FrameWorkspace::FrameWorkspace(Index dimension, Index k)
    : original_norm_(k),
      diagonal_(k),
      coefficients_(k),
      coupling_(std::max(kLeaf, half_rounded_up(k)), std::clamp(half_rounded_up(k) + kLeaf, kLeaf, kChunk)),
      products_(std::max(k, kLeaf), std::max(dimension, kLeaf), dimension) {}

double FrameWorkspace::orthonormalise(MatrixView& v, const Orthonormalisation& options,
                                      Eigen::Ref<Eigen::RowVectorXd> log_diagonal) {
  original_norm_.setZero();
  for (Index i = 0; i < v.rows(); ++i) original_norm_.array() += v.row(i).array().square();
  original_norm_ = original_norm_.cwiseSqrt();
  split(v, 0, v.cols(), options);
  double smallest = 1;
  for (Index j = 0; j < v.cols(); ++j) {
    log_diagonal[j] += std::log(diagonal_[j]);  // Eigen's vectorised log rounds otherwise, where alignment lets it
    smallest = std::min(smallest, original_norm_[j] > 0 ? diagonal_[j] / original_norm_[j] : 0.0);
  }
  return smallest;
}

void FrameWorkspace::split(MatrixView& v, Index first, Index last, const Orthonormalisation& options) {
  const Index width = last - first;
  if (width <= kLeaf) {
    diagonal_.segment(first, width).setOnes();
    double smallest_pivot = options.careful ? 0 : cholesky_leaf(v, first, last);
    if (smallest_pivot > 0 && smallest_pivot < kEasyPivot) smallest_pivot = cholesky_leaf(v, first, last);
    if (smallest_pivot == 0) careful_leaf(v, first, last, options.null_ratio);
    return;
  }
  // Whole leaves on the left.
  const Index left = half_rounded_up((width + kLeaf - 1) / kLeaf) * kLeaf, right = width - left;
  const Index middle = first + left, stride = v.outerStride();
  split(v, first, middle, options);
  // A chunk of Q_1's columns at a time. Row-major V is V^T in column-major terms:
  //   R_12^T = V_2^T Q_1,   V_2^T -= R_12^T Q_1^T
  double* v2 = v.data() + middle;
  double* r12 = coupling_.data();
  for (Index start = first; start < middle; start += kChunk) {
    const Index chunk = std::min(kChunk, middle - start);
    const double* q1 = v.data() + start;
    std::fill_n(r12, right * chunk, 0.0);
    accumulate_product<ColMajor, RowMajor>(right, chunk, v.rows(), 1, v2, stride, q1, stride, r12, right, products_);
    accumulate_product<ColMajor, ColMajor>(right, v.rows(), chunk, -1, r12, right, q1, stride, v2, stride, products_);
  }
  split(v, middle, last, options);
}

// Gram matrix, Cholesky, triangular solve; diagonal_j *= R_jj. Returns the smallest squared pivot relative to its
// column, or 0, with V untouched, where one cannot be trusted.
double FrameWorkspace::cholesky_leaf(MatrixView& v, Index first, Index last) {
  const Index width = last - first, stride = v.outerStride();
  double* gram = coupling_.data();
  std::fill_n(gram, width * width, 0.0);
  accumulate_product<ColMajor, RowMajor>(width, width, v.rows(), 1, v.data() + first, stride, v.data() + first, stride,
                                         gram, width, products_);
  // R, upper.
  double r[kLeaf][kLeaf] = {};
  double smallest_pivot = 1;
  for (Index j = 0; j < width; ++j) {
    double pivot = gram[j * width + j];
    for (Index l = 0; l < j; ++l) pivot -= r[l][j] * r[l][j];
    if (!(pivot > kTrustedPivot * gram[j * width + j])) return 0;
    smallest_pivot = std::min(smallest_pivot, pivot / gram[j * width + j]);
    r[j][j] = std::sqrt(pivot);
    for (Index c = j + 1; c < width; ++c) {
      double entry = gram[c * width + j];
      for (Index l = 0; l < j; ++l) entry -= r[l][j] * r[l][c];
      r[j][c] = entry / r[j][j];
    }
  }
  double inverse[kLeaf];
  for (Index j = 0; j < width; ++j) {
    diagonal_[first + j] *= r[j][j];
    inverse[j] = 1 / r[j][j];
    r[j][j] = 0;
  }
  // Each row x of V solves x R = (old x): x_j /= R_jj, then what follows loses x_j R_j,:.
  for (Index i = 0; i < v.rows(); ++i) {
    double x[kLeaf] = {};
    double* row = v.data() + i * stride + first;
    std::copy_n(row, width, x);
    for (Index j = 0; j < width; ++j) {
      const double solved = x[j] * inverse[j];
      for (Index c = 0; c < kLeaf; ++c) x[c] -= solved * r[j][c];
      x[j] = solved;
    }
    std::copy_n(x, width, row);
  }
  return smallest_pivot;
}

// v_j <- v_j - Q (Q^T v_j) with Q the columns before j.
void FrameWorkspace::project_out(MatrixView& v, Index column) {
  if (column == 0) return;
  auto coefficients = coefficients_.head(column);
  coefficients.setZero();
  for (Index i = 0; i < v.rows(); ++i) coefficients += v(i, column) * v.row(i).head(column);
  for (Index i = 0; i < v.rows(); ++i) v(i, column) -= inner_product(&v(i, 0), coefficients.data(), column);
}

void FrameWorkspace::careful_leaf(MatrixView& v, Index first, Index last, double null_ratio) {
  for (Index j = first; j < last; ++j) {
    project_out(v, j);
    project_out(v, j);
    double norm = v.col(j).norm();
    const bool dependent = !(norm > null_ratio * original_norm_[j]);
    diagonal_[j] *= dependent ? 0 : norm;  // 0 makes log R_jj = -inf
    // The replacement: the first coordinate direction of which the columns before j leave enough.
    for (Index seed = 0; dependent && seed < v.rows(); ++seed) {
      v.col(j).setZero();
      v((j + seed) % v.rows(), j) = 1;
      project_out(v, j);
      project_out(v, j);
      norm = v.col(j).norm();
      if (norm * norm * static_cast<double>(2 * v.rows()) > 1) break;
    }
    v.col(j) /= norm;
  }
}

}  // namespace sgdstab
