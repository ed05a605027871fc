#include "sgdstab/steps/tilted.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sgdstab/base/inner_product.hpp"

namespace sgdstab {
namespace {

constexpr std::uint64_t kTilted = 3;      // the counter's last word, as in kernels/populations.cpp
constexpr Index kFresh = 32;              // steps
constexpr double kShrunk = 0x1p-13;       // q: the errors of w, y and q stay as they were
constexpr double kGrown = 0x1p200;        // q: nothing has overflowed so far
constexpr double kCancelled = 0x1p-20;    // of a squared norm: may be rounding
constexpr double kAnnihilated = 0x1p-86;  // of a squared norm: what rounding leaves of a vector
constexpr double kMostProducts = 12;      // order
constexpr double kLargest = 0x1p300;      // product of weights

// M v in gram coordinates, F M s in factor coordinates.
void apply(const GramRows& rows, const double* metric, const double* v, Eigen::VectorXd&, double* y) {
  const Index d = rows.dimension();
  for (Index j = 0; j < d; ++j) y[j] = inner_product(metric + j * d, v, d);
}
void apply(const FactorRows& rows, const double* metric, const double* v, Eigen::VectorXd& image, double* y) {
  const Index d = rows.dimension();
  for (Index j = 0; j < d; ++j) image[j] = inner_product(metric + j * d, v, d);
  for (Index i = 0; i < rows.n_examples(); ++i) y[i] = inner_product(rows.row(i), image.data(), d);
}

// v -= step g, with the direction g = e_i or f_i.
void take(const GramRows&, Index i, double step, double* v) { v[i] -= step; }
void take(const FactorRows& rows, Index i, double step, double* v) {
  for (Index j = 0; j < rows.dimension(); ++j) v[j] -= step * rows.row(i)[j];
}
double direction(const GramRows&, Index i, Index j) { return i == j ? 1.0 : 0.0; }
double direction(const FactorRows& rows, Index i, Index j) { return rows.row(i)[j]; }

}  // namespace

TiltedSteps::TiltedSteps(const AnyRows& rows, const Gauge& gauge, double order, Index n_vectors, Index n_passive)
    : gauge_(gauge),
      power_(order / 2),
      n_vectors_(n_vectors),
      n_all_(n_vectors + n_passive),
      w_(n_all_ * rows.n_examples()),
      y_(n_vectors * rows.n_examples()),
      factors_(rows.n_examples()),
      odds_(rows.n_examples()),
      image_(rows.dimension()),
      next_(rows.dimension()),
      q_(1) {}

template <class Rows>
void TiltedSteps::refresh(const Rows& rows, const double* vectors) {
  constexpr bool kGram = Rows::kGram;
  const Index n = rows.n_examples(), d = rows.dimension();
  q_ = 0;
  for (Index l = 0; l < n_all_; ++l) {
    const double* v = vectors + l * d;
    double* w = w_.data() + l * n;
    for (Index i = 0; i < n; ++i) w[i] = inner_product(rows.row(i), v, d);
    if (l >= n_vectors_) continue;
    double* y = y_.data() + l * n;
    if (gauge_.metric == nullptr) {
      q_ += kGram ? inner_product(v, w, d) : inner_product(v, v, d);
    } else {
      apply(rows, gauge_.metric, v, image_, y);
      q_ += kGram ? inner_product(v, y, d) : inner_product(v, image_.data(), d);
    }
  }
}

template <class Rows>
double TiltedSteps::weigh(const SingleSteps<Rows>& steps, const double* vectors) {
  const Index n = steps.n_examples();
  const double eta = steps.learning_rate;
  const Eigen::Map<const Eigen::ArrayXd> diagonal(gauge_.diagonal, n);
  const Eigen::ArrayXd& y = gauge_.metric == nullptr ? w_ : y_;
  factors_ = w_.head(n) * (eta * w_.head(n) * diagonal - 2 * y.head(n));
  for (Index l = 1; l < n_vectors_; ++l) {
    factors_ += w_.segment(l * n, n) * (eta * w_.segment(l * n, n) * diagonal - 2 * y.segment(l * n, n));
  }
  factors_ = 1 + eta / q_ * factors_;
  if (factors_.minCoeff() < kCancelled) {
    for (Index i = 0; i < n; ++i) {
      if (factors_[i] < kCancelled) {
        factors_[i] = squared_norm_after(steps, i, vectors) / q_;
        const bool annihilated = !(factors_[i] > kAnnihilated);
        if (annihilated && power_ < 0) return std::numeric_limits<double>::infinity();
        if (annihilated) factors_[i] = 0.0;
      }
    }
  }
  raise();
  return odds_.sum();
}

// Orders that are whole numbers need no logarithms.
void TiltedSteps::raise() {
  const double order = std::abs(2 * power_);
  if (order > kMostProducts || order != std::floor(order)) {
    odds_ = (power_ * factors_.log()).exp();
    return;
  }
  if (power_ < 0) factors_ = factors_.inverse();
  const auto whole = static_cast<int>(order);
  if (whole % 2 == 1) {
    odds_ = factors_.sqrt();
  } else {
    odds_.setOnes();
  }
  for (int power = 0; power < whole / 2; ++power) odds_ *= factors_;
  if (power_ < 0) factors_ = factors_.inverse();
}

template <class Rows>
double TiltedSteps::squared_norm_after(const SingleSteps<Rows>& steps, Index i, const double* vectors) {
  constexpr bool kGram = Rows::kGram;
  const Index n = steps.n_examples(), d = steps.dimension();
  // In gram coordinates the norm of K has the rows of K for its metric; in factor coordinates it is Euclidean.
  const double* metric = gauge_.metric != nullptr ? gauge_.metric : kGram ? gauge_.gram : nullptr;
  double norm = 0;
  for (Index l = 0; l < n_vectors_; ++l) {
    const double step = steps.learning_rate * w_[l * n + i];
    for (Index j = 0; j < d; ++j) next_[j] = vectors[l * d + j] - step * direction(steps.rows, i, j);
    for (Index j = 0; j < d; ++j) {
      norm += next_[j] * (metric == nullptr ? next_[j] : inner_product(metric + j * d, next_.data(), d));
    }
  }
  return norm;
}

Index TiltedSteps::choose(double target) const {
  Index chosen = 0;  // rounding may leave the target beyond all odds
  double cumulative = 0;
  for (Index i = 0; i < odds_.size() && cumulative <= target; ++i) {
    cumulative += odds_[i];
    if (odds_[i] > 0) chosen = i;
  }
  return chosen;
}

template <class Rows>
TiltedSteps::Growth TiltedSteps::advance(const SingleSteps<Rows>& steps, const StreamKey& key, std::uint64_t stream,
                                         std::uint64_t start, Index n_steps, double* vectors) {
  const Index n = steps.n_examples(), d = steps.dimension();
  Growth growth{0, 0};
  Counter words{};
  double weight = 1;
  const auto rescale = [&] {
    // q = 1 again, with what it was in log_norm.
    growth.log_norm += std::log(q_) / 2;
    VectorView(vectors, n_all_ * d) *= 1 / std::sqrt(q_);
  };
  for (Index t = 0; t < n_steps; ++t) {
    const std::uint64_t step = start + static_cast<std::uint64_t>(t);
    if (t == 0 || step % 4 == 0) words = philox4x64({step / 4, 0, stream, kTilted}, key);
    if (t % kFresh == 0 || q_ < kShrunk || q_ > kGrown) {
      if (t > 0) rescale();
      refresh(steps.rows, vectors);
      if (!(q_ > 0)) break;
      if (t == 0) growth.log_norm = -std::log(q_) / 2;
    }
    const double total = weigh(steps, vectors);
    if (std::isinf(total)) return {growth.log_norm, total};
    weight *= total / static_cast<double>(n);
    if (weight > kLargest || weight < 1 / kLargest) {
      growth.log_weight += std::log(weight);
      weight = 1;
    }
    const Index i = choose(static_cast<double>(words[step % 4] >> 11) * 0x1p-53 * total);
    q_ *= factors_[i];
    for (Index l = 0; l < n_all_; ++l) {
      const double delta = steps.learning_rate * w_[l * n + i];
      take(steps.rows, i, delta, vectors + l * d);
      w_.segment(l * n, n) -= delta * Eigen::Map<const Eigen::ArrayXd>(gauge_.gram + i * n, n);
      if (gauge_.metric != nullptr && l < n_vectors_) {
        y_.segment(l * n, n) -= delta * Eigen::Map<const Eigen::ArrayXd>(gauge_.coupling + i * n, n);
      }
    }
  }
  growth.log_weight += std::log(weight);
  if (q_ > 0) {
    rescale();
  } else {
    growth = {-std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  }
  return growth;
}

template TiltedSteps::Growth TiltedSteps::advance(const SingleSteps<GramRows>&, const StreamKey&, std::uint64_t,
                                                  std::uint64_t, Index, double*);
template TiltedSteps::Growth TiltedSteps::advance(const SingleSteps<FactorRows>&, const StreamKey&, std::uint64_t,
                                                  std::uint64_t, Index, double*);

}  // namespace sgdstab
