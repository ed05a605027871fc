// Sums of logarithms without a logarithm for each term.
#pragma once

#include <bit>
#include <cstdint>
#include <numbers>

#include "sgdstab/types.hpp"

namespace sgdstab {

// sum_i log(1 + x_i) for every lane, with next to no logarithms and as exact for tiny x as for huge ones: where all
// lanes are small it adds the Taylor series, else it multiplies mantissas and adds exponents.
template <class Lanes>
class LogSum {
 public:
  void add(const Lanes& x) {
    const double largest = x.abs().maxCoeff();
    if (largest < kSmall) {
      sum_ += series(x);
      return;
    }
    multiply(1 + x, largest);
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

}  // namespace sgdstab
