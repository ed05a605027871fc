#include "sgdstab/growth.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "sgdstab/inner_product.hpp"

namespace sgdstab {
namespace {

// A step that leaves less than 1 - kCancelling of a squared norm: 1 + x has lost digits, and the norm is taken after
// it.
constexpr double kCancelling = 1 - 0x1p-16;

}  // namespace

GrowthWorkspace::GrowthWorkspace(const RowForm& form)
    : v_(Panel::Zero(kVectors, form.dimension())),
      w_(Panel::Zero(kVectors, form.n_examples())),
      y_(w_.rows(), w_.cols()),
      u_(v_.rows(), v_.cols()),
      products_(kVectors, std::max(form.dimension(), form.n_examples()),
                std::max(form.dimension(), form.n_examples())) {}

void GrowthWorkspace::load(const double* vectors, Index vectors_stride, Index n_vectors) {
  v_.setZero();
  for (Index v = 0; v < n_vectors; ++v) {
    for (Index j = 0; j < v_.cols(); ++j) v_(v, j) = vectors[v * vectors_stride + j];
  }
}

// result = matrix right, for all vectors at once; matrix has as many rows as result.
void GrowthWorkspace::apply(const double* matrix, Index stride, const Panel& right, Panel& result) {
  result.setZero();
  accumulate_product<ColMajor, ColMajor>(kVectors, result.cols(), right.cols(), 1, right.data(), kVectors, matrix,
                                         stride, result.data(), kVectors, products_);
}

void GrowthWorkspace::apply_metric(const GramForm& form, const double* matrix) {
  apply(matrix, form.dimension(), v_, y_);
}

void GrowthWorkspace::apply_metric(const FactorForm& form, const double* matrix) {
  apply(matrix, form.dimension(), v_, u_);
  apply(form.rows.data(), form.rows.outerStride(), u_, y_);
}

template <class Form>
void GrowthWorkspace::add_growth(const Form& form, const Metrics& metrics, const double* vectors, Index vectors_stride,
                                 Index n_vectors, double* sums, Index sums_stride) {
  constexpr bool kGram = std::is_same_v<Form, GramForm>;
  load(vectors, vectors_stride, n_vectors);
  apply(form.rows.data(), form.rows.outerStride(), v_, w_);
  // The norm of K: y = M v = K a = w in gram form, and M s = s, y = w in factor form.
  add_log_growth(form, metrics, 0, w_, kGram ? w_ : v_, n_vectors, sums, sums_stride);
  for (Index m = 1; m < metrics.count; ++m) {
    apply_metric(form, metrics.matrices + (m - 1) * form.dimension() * form.dimension());
    add_log_growth(form, metrics, m, y_, kGram ? y_ : u_, n_vectors, sums + m, sums_stride);
  }
}

namespace {

// A_i v = v - step g with the direction g = e_i or f_i: entry j of g, and of its image M g.
double direction(const GramForm&, Index i, Index j) { return i == j ? 1.0 : 0.0; }
double direction(const FactorForm& form, Index i, Index j) { return form.row(i)[j]; }
double image(const GramForm& form, const double* matrix, Index i, Index j) {
  return matrix == nullptr ? form.row(i)[j] : matrix[i * form.dimension() + j];
}
double image(const FactorForm& form, const double* matrix, Index i, Index j) {
  return matrix == nullptr ? form.row(i)[j]
                           : inner_product(form.row(i), matrix + j * form.dimension(), form.dimension());
}

}  // namespace

template <class Form>
double GrowthWorkspace::squared_norm_after(const Form& form, const Metrics& metrics, Index m, Index i, Index v,
                                           const Panel& mv) const {
  const Index d = form.dimension();
  const double* matrix = m == 0 ? nullptr : metrics.matrices + (m - 1) * d * d;
  const double step = form.learning_rate * w_(v, i);
  double norm = 0;
  for (Index j = 0; j < d; ++j) {
    norm += (v_(v, j) - step * direction(form, i, j)) * (mv(v, j) - step * image(form, matrix, i, j));
  }
  return norm;
}

template <class Form>
void GrowthWorkspace::add_log_growth(const Form& form, const Metrics& metrics, Index m, const Panel& y, const Panel& mv,
                                     Index n_vectors, double* sums, Index sums_stride) {
  const Index n = form.n_examples();
  const double* diagonal = metrics.diagonals + m * n;
  Lanes norm = Lanes::Zero();  // q
  for (Index j = 0; j < form.dimension(); ++j) norm += v_.col(j).array() * mv.col(j).array();
  const Lanes scale = (norm > 0).select(1 / norm, Lanes::Zero());
  LogSum<Lanes> log_sum;
  for (Index i = 0; i < n; ++i) {
    const Lanes step = form.learning_rate * w_.col(i).array();
    const Lanes x = step * (diagonal[i] * step - 2 * y.col(i).array()) * scale;
    const double largest = x.abs().maxCoeff();
    if (largest < kCancelling) {
      log_sum.add(x);
      continue;
    }
    Lanes factor = 1 + x;
    for (Index v = 0; v < n_vectors; ++v) {
      if (factor[v] < 1 - kCancelling) factor[v] = squared_norm_after(form, metrics, m, i, v, mv) * scale[v];
    }
    log_sum.multiply(factor, largest);
  }
  // A vector that steps have annihilated has no norm; one that overflowed has none that is a number.
  const Lanes without_norm = (norm == 0).select(Lanes::Constant(-std::numeric_limits<double>::infinity()),
                                                Lanes::Constant(std::numeric_limits<double>::quiet_NaN()));
  const Lanes growth = (norm > 0).select(log_sum.total() / (2.0 * static_cast<double>(n)), without_norm);
  for (Index v = 0; v < n_vectors; ++v) sums[v * sums_stride] += growth[v];
}

template void GrowthWorkspace::add_growth(const GramForm&, const Metrics&, const double*, Index, Index, double*, Index);
template void GrowthWorkspace::add_growth(const FactorForm&, const Metrics&, const double*, Index, Index, double*,
                                          Index);

}  // namespace sgdstab
