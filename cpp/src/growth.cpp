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
    : v_(Panel::Zero(kLanes, form.dimension())), w_(kLanes, form.n_examples()), y_(w_), u_(v_) {}

void GrowthWorkspace::apply_metric(const GramForm& form, const double* matrix, const double* v) {
  const Index d = form.dimension();
  multiply_panel(matrix, d, d, v, d, y_.data());
}

void GrowthWorkspace::apply_metric(const FactorForm& form, const double* matrix, const double* v) {
  const Index d = form.dimension();
  multiply_panel(matrix, d, d, v, d, u_.data());
  multiply_panel(form.rows.data(), form.n_examples(), form.rows.outerStride(), u_.data(), d, y_.data());
}

void GrowthWorkspace::gather(const double* vectors, Index stride, Index n_vectors) {
  v_.setZero();
  for (Index v = 0; v < n_vectors; ++v) {
    for (Index j = 0; j < v_.cols(); ++j) v_(v, j) = vectors[v * stride + j];
  }
}

template <class Form>
void GrowthWorkspace::add_growth(const Form& form, const Metrics& metrics, const double* vectors, Index stride,
                                 Index n_vectors, const GrowthSums& sums) {
  gather(vectors, stride, n_vectors);
  add_growth(form, Lanes::Constant(form.learning_rate), metrics, v_.data(), n_vectors, sums);
}

template <class Form>
void GrowthWorkspace::add_growth(const Form& form, const Lanes& learning_rates, const Metrics& metrics,
                                 const double* panel, Index n_vectors, const GrowthSums& sums) {
  for_each_metric(form, learning_rates, metrics, panel,
                  [&](const Terms& terms) { add_log_growth(form, terms, n_vectors, sums); });
}

template <class Form>
void GrowthWorkspace::evaluate_moments(const Form& form, double order, const Metrics& metrics, const double* vectors,
                                       Index stride, Index n_vectors, double* squared_norms, double* mean_growth) {
  gather(vectors, stride, n_vectors);
  const auto n = static_cast<double>(form.n_examples());
  for_each_metric(form, Lanes::Constant(form.learning_rate), metrics, v_.data(), [&](const Terms& terms) {
    PowerSum<Lanes> sum(order / 2);
    lanes(squared_norms, terms.m) = add_examples(form, terms, n_vectors, sum);
    lanes(mean_growth, terms.m) = sum.total() / n;
  });
}

template <class Form, class Work>
void GrowthWorkspace::for_each_metric(const Form& form, const Lanes& learning_rates, const Metrics& metrics,
                                      const double* panel, const Work& work) {
  constexpr bool kGram = std::is_same_v<Form, GramForm>;
  const Index d = form.dimension();
  multiply_panel(form.rows.data(), form.n_examples(), form.rows.outerStride(), panel, d, w_.data());
  // The norm of K: y = M v = K a = w in gram form, and M s = s, y = w in factor form.
  const double* w = w_.data();
  work(Terms{metrics, 0, learning_rates, panel, w, kGram ? w : panel});
  for (Index m = 1; m < metrics.count; ++m) {
    apply_metric(form, metrics.matrices + (m - 1) * d * d, panel);
    work(Terms{metrics, m, learning_rates, panel, y_.data(), kGram ? y_.data() : u_.data()});
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
double GrowthWorkspace::squared_norm_after(const Form& form, const Terms& terms, Index i, Index lane) const {
  const Index d = form.dimension();
  const double* matrix = terms.m == 0 ? nullptr : terms.metrics.matrices + (terms.m - 1) * d * d;
  const double step = terms.learning_rates[lane] * w_(lane, i);
  double norm = 0;
  for (Index j = 0; j < d; ++j) {
    norm += (terms.v[j * kLanes + lane] - step * direction(form, i, j)) *
            (terms.mv[j * kLanes + lane] - step * image(form, matrix, i, j));
  }
  return norm;
}

template <class Form, class Sum>
Lanes GrowthWorkspace::add_examples(const Form& form, const Terms& terms, Index n_vectors, Sum& sum) const {
  const Index n = form.n_examples();
  const double* diagonal = terms.metrics.diagonals + terms.m * n;
  Lanes norm = Lanes::Zero();  // q
  for (Index j = 0; j < form.dimension(); ++j) norm += lanes(terms.v, j) * lanes(terms.mv, j);
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
      if (factor[v] < 1 - kCancelling) factor[v] = squared_norm_after(form, terms, i, v) * scale[v];
    }
    sum.multiply(factor, largest);
  }
  return norm;
}

template <class Form>
void GrowthWorkspace::add_log_growth(const Form& form, const Terms& terms, Index n_vectors, const GrowthSums& sums) {
  const auto n = static_cast<double>(form.n_examples());
  LogSum<Lanes> log_sum;
  const Lanes norm = add_examples(form, terms, n_vectors, log_sum);
  // A vector that steps have annihilated has no norm; one that overflowed has none that is a number.
  const Lanes without_norm = (norm == 0).select(Lanes::Constant(-std::numeric_limits<double>::infinity()),
                                                Lanes::Constant(std::numeric_limits<double>::quiet_NaN()));
  const Lanes growth = (norm > 0).select(log_sum.total() / (2 * n), without_norm);
  for (Index v = 0; v < n_vectors; ++v) {
    sums.sums[v * sums.vector_stride + terms.m * sums.metric_stride] += growth[v];
  }
}

template void GrowthWorkspace::add_growth(const GramForm&, const Lanes&, const Metrics&, const double*, Index,
                                          const GrowthSums&);
template void GrowthWorkspace::add_growth(const FactorForm&, const Lanes&, const Metrics&, const double*, Index,
                                          const GrowthSums&);
template void GrowthWorkspace::evaluate_moments(const GramForm&, double, const Metrics&, const double*, Index, Index,
                                                double*, double*);
template void GrowthWorkspace::evaluate_moments(const FactorForm&, double, const Metrics&, const double*, Index, Index,
                                                double*, double*);
template void GrowthWorkspace::add_growth(const GramForm&, const Metrics&, const double*, Index, Index,
                                          const GrowthSums&);
template void GrowthWorkspace::add_growth(const FactorForm&, const Metrics&, const double*, Index, Index,
                                          const GrowthSums&);

}  // namespace sgdstab
