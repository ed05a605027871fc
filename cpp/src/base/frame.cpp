#include "sgdstab/base/frame.hpp"

#include <cmath>

#include "sgdstab/base/inner_product.hpp"

namespace sgdstab {
namespace {

constexpr double kNothingLeft = 1e-15;  // of a column, relative: rounding
constexpr double kOrthonormal = 1e-11;
// What is left of a column in its leaf: if it is less, Q is orthonormalised once more. R does not need it, but columns
// behind, out of which Q is taken, do.
constexpr double kTwice = 1e-3, kTwiceOfTheLast = 1e-8;

}  // namespace

FrameWorkspace::FrameWorkspace(Index dimension, Index k)
    : original_norm_(k),
      leaf_norm_(k),
      diagonal_(k),
      coefficients_(k),
      coupling_(k, kLeaf),
      leaf_(dimension, kLeaf),
      products_(std::max(k, kLeaf), std::max(dimension, kLeaf), dimension) {}

void FrameWorkspace::column_norms(const MatrixView& v, Index first, Index last, Eigen::RowVectorXd& norms) {
  double* squares = norms.data();
  std::fill(squares + first, squares + last, 0.0);
  for (Index i = 0; i < v.rows(); ++i) {
    const double* row = &v(i, 0);
    for (Index j = first; j < last; ++j) squares[j] += row[j] * row[j];
  }
  for (Index j = first; j < last; ++j) squares[j] = std::sqrt(squares[j]);
}

double FrameWorkspace::orthonormalise(MatrixView& v, const Orthonormalisation& options,
                                      Eigen::Ref<Eigen::RowVectorXd> log_diagonal) {
  column_norms(v, 0, v.cols(), original_norm_);
  leaf_norm_ = original_norm_;
  diagonal_.setOnes();
  for (Index first = 0; first < v.cols(); first += kLeaf) {
    const Index last = std::min(first + kLeaf, v.cols());
    if (first > 0) column_norms(v, first, last, leaf_norm_);
    const auto orthonormalise_leaf = [&] {
      return last - first <= kLeaf / 2 ? leaf<kLeaf / 2>(v, first, last) : leaf<kLeaf>(v, first, last);
    };
    Index done = options.careful ? first : orthonormalise_leaf();
    const double least = last < v.cols() ? kTwice : kTwiceOfTheLast;
    bool twice = false;
    for (Index j = first; j < done; ++j) twice |= diagonal_[j] < least * leaf_norm_[j];
    if (done == last && twice) done = orthonormalise_leaf();
    if (done < last) careful_leaf(v, done, last, options.null_ratio);
    project(v, first, last);
  }
  double smallest = 1;
  for (Index j = 0; j < v.cols(); ++j) {
    log_diagonal[j] += std::log(diagonal_[j]);  // Eigen's vectorised log rounds otherwise, where alignment lets it
    smallest = std::min(smallest, original_norm_[j] > 0 ? diagonal_[j] / original_norm_[j] : 0.0);
  }
  return smallest;
}

bool FrameWorkspace::is_orthonormal(const MatrixView& v) {
  const Index k = v.cols();
  double largest = 0;
  for (Index j = 0; j < k; ++j) diagonal_[j] = std::cos(static_cast<double>(j));  // x, of no special direction
  coefficients_.setZero();
  for (Index i = 0; i < v.rows(); ++i) {
    coefficients_ += inner_product(&v(i, 0), diagonal_.data(), k) * v.row(i);
  }
  for (Index j = 0; j < k; ++j) largest = std::max(largest, std::abs(coefficients_[j] - diagonal_[j]));
  return largest <= kOrthonormal;
}

// V_right <- V_right - Q (Q^T V_right), Q the columns first..last-1 and V_right those after them. Row-major V is V^T in
// column-major terms:
//
//   R^T = V_right^T Q,   V_right^T -= R^T Q^T
void FrameWorkspace::project(MatrixView& v, Index first, Index last) {
  const Index right = v.cols() - last, width = last - first, stride = v.outerStride();
  if (right == 0) return;
  const double* q = v.data() + first;
  double* v_right = v.data() + last;
  double* r = coupling_.data();
  std::fill_n(r, right * width, 0.0);
  accumulate_product<ColMajor, RowMajor>(right, width, v.rows(), 1, v_right, stride, q, stride, r, right, products_);
  accumulate_product<ColMajor, ColMajor>(right, v.rows(), width, -1, r, right, q, stride, v_right, stride, products_);
}

// Modified Gram-Schmidt in a contiguous copy, one pass over its rows for each column,
//
//   v_l <- v_l - (v_j^T v_l / v_j^T v_j) v_j for l > j,   and at once the products of the new v_{j+1} with all columns,
//
// and lengths at the end: roots are in nobody's way. diagonal_j *= R_jj. Returns the first column of which nothing but
// rounding is left, where it stops.
template <Index kWidth>
Index FrameWorkspace::leaf(MatrixView& v, Index first, Index last) {
  using Columns = Eigen::Array<double, kWidth, 1>;
  Eigen::Array<double, 2 * kWidth, 1> steps;  // ones behind kWidth zeros
  steps << Columns::Zero(), Columns::Ones();
  const Index width = last - first, n = v.rows();
  const auto row = [&](Index i) { return Eigen::Map<Columns>(&leaf_(i, 0)); };
  Columns products = Columns::Zero(), lengths = Columns::Ones();
  for (Index i = 0; i < n; ++i) {
    std::fill_n(std::copy_n(&v(i, first), width, &leaf_(i, 0)), kWidth - width, 0.0);
  }
  for (Index i = 0; i < n; ++i) products += leaf_(i, 0) * row(i);
  Index j = 0;
  for (; j < width; ++j) {
    const double square = products[j], length = std::sqrt(square);
    if (!(length * diagonal_[first + j] > kNothingLeft * original_norm_[first + j])) break;
    diagonal_[first + j] *= length;
    lengths[j] = length;
    const auto is_behind = steps.template segment<kWidth>(kWidth - 1 - j);
    const Columns coefficients = is_behind * products * (1 / square);
    products.setZero();
    const Index next = std::min(j + 1, kWidth - 1);
    for (Index i = 0; i < n; ++i) {
      row(i) -= leaf_(i, j) * coefficients;
      products += leaf_(i, next) * row(i);
    }
  }
  const Columns scales = 1 / lengths;
  for (Index i = 0; i < n; ++i) {
    row(i) *= scales;
    std::copy_n(&leaf_(i, 0), width, &v(i, first));
  }
  return first + j;
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
