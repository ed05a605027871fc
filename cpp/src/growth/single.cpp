#include "sgdstab/growth/single.hpp"

#include <algorithm>
#include <limits>

#include "sgdstab/base/inner_product.hpp"

namespace sgdstab {
namespace {

// A step that leaves less than 1 - kCancelling of a squared norm: 1 + x has lost digits, and the norm is taken after
// it.
constexpr double kCancelling = 1 - 0x1p-16;

}  // namespace

SingleGrowth::SingleGrowth(Index n_examples, Index dimension)
    : v_(Panel::Zero(kLanes, dimension)), w_(kLanes, n_examples), y_(w_), u_(v_) {}

template <class Rows>
void SingleGrowth::apply_metric(const Rows& rows, const double* matrix, const double* v) {
  const Index d = rows.dimension();
  multiply_panel(matrix, d, d, v, d, Rows::kGram ? y_.data() : u_.data());
  if constexpr (!Rows::kGram) {
    multiply_panel(rows.matrix.data(), rows.n_examples(), rows.matrix.outerStride(), u_.data(), d, y_.data());
  }
}

void SingleGrowth::gather(const double* vectors, Index stride, Index n_vectors) {
  v_.setZero();
  for (Index v = 0; v < n_vectors; ++v) {
    for (Index j = 0; j < v_.cols(); ++j) v_(v, j) = vectors[v * stride + j];
  }
}

template <class Rows>
void SingleGrowth::add_growth(const SingleSteps<Rows>& steps, const SingleMetrics& metrics, const double* vectors,
                              Index stride, Index n_vectors, const GrowthSums& sums) {
  gather(vectors, stride, n_vectors);
  add_growth(steps.rows, Lanes::Constant(steps.learning_rate), metrics, v_.data(), n_vectors, sums);
}

template <class Rows>
void SingleGrowth::add_growth(const Rows& rows, const Lanes& learning_rates, const SingleMetrics& metrics,
                              const double* panel, Index n_vectors, const GrowthSums& sums) {
  for_each_metric(rows, learning_rates, metrics, panel,
                  [&](const Terms& terms) { add_log_growth(rows, terms, n_vectors, sums); });
}

template <class Rows>
void SingleGrowth::evaluate_moments(const SingleSteps<Rows>& steps, double order, const SingleMetrics& metrics,
                                    const double* vectors, Index stride, Index n_vectors, double* squared_norms,
                                    double* mean_growth) {
  gather(vectors, stride, n_vectors);
  const auto n = static_cast<double>(steps.n_examples());
  for_each_metric(steps.rows, Lanes::Constant(steps.learning_rate), metrics, v_.data(), [&](const Terms& terms) {
    PowerSum<Lanes> sum(order / 2);
    lanes(squared_norms, terms.m) = add_examples(steps.rows, terms, n_vectors, sum);
    lanes(mean_growth, terms.m) = sum.total() / n;
  });
}

template <class Rows, class Work>
void SingleGrowth::for_each_metric(const Rows& rows, const Lanes& learning_rates, const SingleMetrics& metrics,
                                   const double* panel, const Work& work) {
  constexpr bool kGram = Rows::kGram;
  const Index d = rows.dimension();
  multiply_panel(rows.matrix.data(), rows.n_examples(), rows.matrix.outerStride(), panel, d, w_.data());
  // The norm of K: y = M v = K a = w in gram coordinates, and M s = s, y = w in factor coordinates.
  const double* w = w_.data();
  work(Terms{metrics, 0, learning_rates, panel, w, kGram ? w : panel});
  for (Index m = 1; m < metrics.count; ++m) {
    apply_metric(rows, metrics.matrices + (m - 1) * d * d, panel);
    work(Terms{metrics, m, learning_rates, panel, y_.data(), kGram ? y_.data() : u_.data()});
  }
}

namespace {

// A_i v = v - step g with the direction g = e_i or f_i: entry j of g, and of its image M g.
template <class Rows>
double direction(const Rows& rows, Index i, Index j) {
  if constexpr (Rows::kGram) return i == j ? 1.0 : 0.0;
  return rows.row(i)[j];
}
template <class Rows>
double image(const Rows& rows, const double* matrix, Index i, Index j) {
  if (matrix == nullptr) return rows.row(i)[j];
  if constexpr (Rows::kGram) return matrix[i * rows.dimension() + j];
  return inner_product(rows.row(i), matrix + j * rows.dimension(), rows.dimension());
}

}  // namespace

template <class Rows>
double SingleGrowth::squared_norm_after(const Rows& rows, const Terms& terms, Index i, Index lane) const {
  const Index d = rows.dimension();
  const double* matrix = terms.m == 0 ? nullptr : terms.metrics.matrices + (terms.m - 1) * d * d;
  const double step = terms.learning_rates[lane] * w_(lane, i);
  double norm = 0;
  for (Index j = 0; j < d; ++j) {
    norm += (terms.v[j * kLanes + lane] - step * direction(rows, i, j)) *
            (terms.mv[j * kLanes + lane] - step * image(rows, matrix, i, j));
  }
  return norm;
}

template <class Rows, class Sum>
Lanes SingleGrowth::add_examples(const Rows& rows, const Terms& terms, Index n_vectors, Sum& sum) const {
  const Index n = rows.n_examples();
  const double* diagonal = terms.metrics.diagonals + terms.m * n;
  Lanes norm = Lanes::Zero();  // q
  for (Index j = 0; j < rows.dimension(); ++j) norm += lanes(terms.v, j) * lanes(terms.mv, j);
  const Lanes scale = (norm > 0).select(1 / norm, Lanes::Zero());
  for (Index i = 0; i < n; ++i) {
    const Lanes step = terms.learning_rates * w_.col(i).array();
    const Lanes x = step * (diagonal[i] * step - 2 * lanes(terms.y, i)) * scale;
    const double largest = x.abs().maxCoeff();
    if (largest < kCancelling) {
      sum.add(x);
      continue;
    }
    Lanes factor = 1 + x;
    for (Index v = 0; v < n_vectors; ++v) {
      if (factor[v] < 1 - kCancelling) factor[v] = squared_norm_after(rows, terms, i, v) * scale[v];
    }
    sum.multiply(factor, largest);
  }
  return norm;
}

template <class Rows>
void SingleGrowth::add_log_growth(const Rows& rows, const Terms& terms, Index n_vectors, const GrowthSums& sums) {
  const auto n = static_cast<double>(rows.n_examples());
  LogSum<Lanes> log_sum;
  const Lanes norm = add_examples(rows, terms, n_vectors, log_sum);
  // A vector that steps have annihilated has no norm; one that overflowed has none that is a number.
  const Lanes without_norm = (norm == 0).select(Lanes::Constant(-std::numeric_limits<double>::infinity()),
                                                Lanes::Constant(std::numeric_limits<double>::quiet_NaN()));
  const Lanes growth = (norm > 0).select(log_sum.total() / (2 * n), without_norm);
  for (Index v = 0; v < n_vectors; ++v) {
    sums.sums[v * sums.vector_stride + terms.m * sums.metric_stride] += growth[v];
  }
}

template void SingleGrowth::add_growth(const GramRows&, const Lanes&, const SingleMetrics&, const double*, Index,
                                       const GrowthSums&);
template void SingleGrowth::add_growth(const FactorRows&, const Lanes&, const SingleMetrics&, const double*, Index,
                                       const GrowthSums&);
template void SingleGrowth::evaluate_moments(const SingleSteps<GramRows>&, double, const SingleMetrics&, const double*,
                                             Index, Index, double*, double*);
template void SingleGrowth::evaluate_moments(const SingleSteps<FactorRows>&, double, const SingleMetrics&,
                                             const double*, Index, Index, double*, double*);
template void SingleGrowth::add_growth(const SingleSteps<GramRows>&, const SingleMetrics&, const double*, Index, Index,
                                       const GrowthSums&);
template void SingleGrowth::add_growth(const SingleSteps<FactorRows>&, const SingleMetrics&, const double*, Index,
                                       Index, const GrowthSums&);
template void SingleGrowth::add_growth(const SingleSteps<GramRows32>&, const SingleMetrics&, const double*, Index,
                                       Index, const GrowthSums&);
template void SingleGrowth::add_growth(const SingleSteps<FactorRows32>&, const SingleMetrics&, const double*, Index,
                                       Index, const GrowthSums&);

}  // namespace sgdstab
