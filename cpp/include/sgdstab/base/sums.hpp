// Sums of logarithms without a logarithm for each term, and of powers less 1 that keep their digits where factors are
// close to 1. Both take terms as factors 1 + x, a number of lanes at a time.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

#include "sgdstab/base/types.hpp"

namespace sgdstab {

// sum_i log(1 + x_i) for every lane, with next to no logarithms and as exact for tiny x as for huge ones: where all
// lanes are small it adds the Taylor series, else it multiplies mantissas and adds exponents.
template <class Lanes>
class LogSum {
 public:
  void add(const Lanes& x) {
    add(x, [&x] { return 1 + x; });
  }

  // The same, where factor() is known better than 1 + x.
  template <class Factor>
  void add(const Lanes& x, const Factor& factor) {
    const double largest = x.abs().maxCoeff();
    if (largest < kSmall) {
      sum_ += series(x);
      return;
    }
    multiply(factor(), largest);
  }

  // Adds log(factor).
  void multiply(const Lanes& factor, double largest) {
    if (largest > kHuge) split();
    mantissa_ *= factor.max(kLeast);
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
