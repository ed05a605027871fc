// Sums of powers less 1, exact to rounding of the differences where factors are close to 1.
#pragma once

#include <cmath>
#include <limits>

#include "sgdstab/types.hpp"

namespace sgdstab {

// sum_i ((1 + x_i)^a - 1) for every lane; the interface of `LogSum`.
template <class Lanes>
class PowerSum {
 public:
  explicit PowerSum(double power)
      : power_(power),
        few_terms_(std::abs(power) <= kLargestInSeries),
        polynomial_(power >= 1 && power < kTerms && power == std::floor(power)),
        last_(polynomial_ ? static_cast<int>(power) - 1 : kTerms - 1) {
    for (int k = 0; k < kTerms; ++k) ratios_[k] = (power - k) / (k + 1);
  }

  void add(const Lanes& x) {
    if (polynomial_ || (few_terms_ && x.abs().maxCoeff() < kSmall)) {
      sum_ += series(x);
    } else {
      sum_ += (power_ * (1 + x).log()).exp() - 1;
    }
  }

  // Adds factor^a - 1. What cancellation leaves of a step that destroys the vector is 0.
  void multiply(const Lanes& factor, double) {
    const double of_zero = power_ > 0 ? 0.0 : power_ < 0 ? std::numeric_limits<double>::infinity() : 1.0;
    const Lanes kept = factor.max(kLeast);
    sum_ += (factor > kLeast).select((power_ * kept.log()).exp(), of_zero) - 1;
  }

  Lanes total() const { return sum_; }

 private:
  static constexpr double kSmall = 1.0 / 64, kLargestInSeries = 4;
  static constexpr int kTerms = 10;  // the next one is below rounding
  static constexpr double kLeast = 0x1p-92;

  // (1 + x)^a - 1 = a x (1 + (a - 1)/2 x (1 + (a - 2)/3 x (..))), which ends if a is a natural number.
  Lanes series(const Lanes& x) const {
    Lanes value = Lanes::Ones();
    for (int k = last_; k > 0; --k) value = 1 + ratios_[k] * x * value;
    return ratios_[0] * x * value;
  }

  double power_, ratios_[kTerms];
  bool few_terms_, polynomial_;
  int last_;
  Lanes sum_ = Lanes::Zero();
};

}  // namespace sgdstab
