#include "sgdstab/growth.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <numbers>
#include <type_traits>

namespace sgdstab {
namespace {

using Lanes = GrowthWorkspace::Lanes;

// sum_i log(1 + x_i) for every lane, with next to no logarithms and as exact for tiny x as for huge ones: where all lanes are
// small it adds the Taylor series, else it multiplies mantissas and adds exponents.
class LogSum {
 public:
  void add(const Lanes& x) {
    const double largest = x.abs().maxCoeff();
    if (largest < kSmall) {
      sum_ += series(x);
      return;
    }
    if (largest > kHuge) split();
    mantissa_ *= (1 + x).max(kLeast);
    if (++since_ == kFactors || largest > kHuge) split();
  }

  Lanes total() {
    split();
    return sum_ + mantissa_.log() + exponent_ * std::numbers::ln2;
  }

 private:
  static constexpr double kSmall = 1.0 / 64;  // x^9 / 9 is below rounding
  static constexpr double kLeast = 0x1p-104;  // what cancellation leaves of a step that destroys the vector
  static constexpr double kHuge = 0x1p200;
  static constexpr int kFactors = 4;  // between kLeast and kHuge, times a mantissa: no overflow

  // log(1 + x) = x - x^2 / 2 + ..
  static Lanes series(const Lanes& x) {
    Lanes value = Lanes::Constant(-1.0 / 8);
    for (int power = 7; power >= 1; --power) value = (power % 2 == 1 ? 1.0 : -1.0) / power + x * value;
    return x * value;
  }

  // Moves the mantissas' exponents to exponent_.
  void split() {
    constexpr std::uint64_t kMantissa = (std::uint64_t{1} << 52) - 1, kOne = std::uint64_t{1023} << 52;
    for (Index v = 0; v < mantissa_.size(); ++v) {
      const auto bits = std::bit_cast<std::uint64_t>(mantissa_[v]);
      exponent_[v] += static_cast<double>(static_cast<std::int64_t>(bits >> 52) - 1023);
      mantissa_[v] = std::bit_cast<double>((bits & kMantissa) | kOne);
    }
    since_ = 0;
  }

  Lanes sum_ = Lanes::Zero(), mantissa_ = Lanes::Ones(), exponent_ = Lanes::Zero();
  int since_ = 0;
};

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
  for (Index m = 0, base = 0; m < metrics.count; ++m) {
    if (metrics.bases[m] != base) {
      base = metrics.bases[m];
      apply_metric(form, metrics.matrices + (base - 1) * form.dimension() * form.dimension());
    }
    // The norm of K: M v = K a = w in gram form, and M s = s, y = w in factor form.
    const Panel& y = base == 0 ? w_ : y_;
    const Panel& mv = base == 0 ? (kGram ? w_ : v_) : (kGram ? y_ : u_);
    add_log_growth(form, metrics, m, y, mv, n_vectors, sums + m, sums_stride);
  }
}

void GrowthWorkspace::add_log_growth(const RowForm& form, const Metrics& metrics, Index m, const Panel& y,
                                     const Panel& mv, Index n_vectors, double* sums, Index sums_stride) {
  const Index n = form.n_examples(), spike = metrics.spikes[m];
  const double* diagonal = metrics.diagonals + m * n;
  const double* column = metrics.spike_columns + m * n;
  Lanes norm = Lanes::Zero(), along = Lanes::Zero();  // q, c w_j
  for (Index j = 0; j < form.dimension(); ++j) norm += v_.col(j).array() * mv.col(j).array();
  if (spike >= 0) {
    along = metrics.spike_weights[m] * w_.col(spike).array();
    norm += along * w_.col(spike).array();
  }
  const Lanes scale = (norm > 0).select(1 / norm, Lanes::Zero());
  LogSum log_sum;
  for (Index i = 0; i < n; ++i) {
    const Lanes step = form.learning_rate * w_.col(i).array();
    const Lanes x = step * (diagonal[i] * step - 2 * (y.col(i).array() + column[i] * along)) * scale;
    log_sum.add(x);
  }
  const Lanes growth = (norm > 0).select(log_sum.total() / (2.0 * static_cast<double>(n)),
                                         Lanes::Constant(-std::numeric_limits<double>::infinity()));
  for (Index v = 0; v < n_vectors; ++v) sums[v * sums_stride] += growth[v];
}

template void GrowthWorkspace::add_growth(const GramForm&, const Metrics&, const double*, Index, Index, double*, Index);
template void GrowthWorkspace::add_growth(const FactorForm&, const Metrics&, const double*, Index, Index, double*,
                                          Index);

}  // namespace sgdstab
