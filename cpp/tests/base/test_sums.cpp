// Sums of logarithms and powers against the standard library's functions.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "problems.hpp"
#include "sgdstab/base/sums.hpp"

using namespace sgdstab;

TEST_CASE("a sum of logarithms is as exact for tiny terms as for huge ones") {
  using Lanes = Eigen::Array<double, 4, 1>;
  for (const double size : {1e-14, 1e-6, 0.01, 0.3, 20.0, 1e30, 1e150}) {
    LogSum<Lanes> sum;
    Lanes expected = Lanes::Zero();
    const RowMatrix terms = size * normal(200, 4, 11).cwiseAbs();
    for (Index i = 0; i < terms.rows(); ++i) {
      const Lanes x = terms.row(i).transpose().array();
      sum.add(x);
      for (Index v = 0; v < 4; ++v) expected[v] += std::log1p(x[v]);
    }
    const Lanes total = sum.total();
    for (Index v = 0; v < 4; ++v) CHECK(total[v] == doctest::Approx(expected[v]).epsilon(2e-14));
  }
}

TEST_CASE("a sum of powers less 1 is as exact for tiny terms as for huge ones") {
  using Lanes = Eigen::Array<double, 4, 1>;
  for (const double power : {-4.0, -2.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 3.7, 4.0, 5.0, 6.0}) {
    for (const double size : {1e-12, 1e-5, 0.01, 0.3, 20.0, 1e10, 1e30}) {
      PowerSum<Lanes> sum(power);
      Lanes expected = Lanes::Zero(), absolute = Lanes::Zero();
      RowMatrix terms = size * normal(100, 4, 11).cwiseMax(-3).cwiseMin(3);  // 1 + x >= 0.1
      if (size > 0.3) terms = terms.cwiseAbs();
      for (Index i = 0; i < terms.rows(); ++i) {
        const Lanes x = terms.row(i).transpose().array();
        sum.add(x);
        for (Index v = 0; v < 4; ++v) {
          const double term = std::expm1(power * std::log1p(x[v]));
          expected[v] += term;
          absolute[v] += std::abs(term);
        }
      }
      // What exp makes of a rounded exponent.
      const double tolerance = 1e-14 * std::max(1.0, std::abs(power) * std::log1p(size) / 10);
      for (Index v = 0; v < 4; ++v) CHECK(std::abs(sum.total()[v] - expected[v]) <= tolerance * absolute[v]);
    }
  }
}

TEST_CASE("a power less 1 whose series does not end is exact to rounding of the power") {
  using Lanes = Eigen::Array<double, 4, 1>;
  for (const double power : {-5.5, 4.5, 5.5}) {
    for (const double size : {1e-12, 0.01, 0.3, 20.0}) {
      PowerSum<Lanes> sum(power);
      const Lanes x{size, size / 2, size / 3, 0};
      sum.add(x);
      for (Index v = 0; v < 4; ++v) {
        CHECK(std::abs(sum.total()[v] - (std::pow(1 + x[v], power) - 1)) <=
              1e-14 * std::max(1.0, std::pow(1 + x[v], power)));
      }
    }
  }
}

TEST_CASE("a factor of 0 to a power is 0, 1 or infinite") {
  using Lanes = Eigen::Array<double, 4, 1>;
  for (const double power : {-4.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.7, 6.0}) {
    PowerSum<Lanes> sum(power);
    const Lanes factors{0, 1e-20, 0.3, 1e30};
    sum.multiply(factors, 1e30);
    sum.multiply(Lanes::Ones(), 1);
    CHECK(sum.total()[0] == (power > 0 ? -1 : power < 0 ? std::numeric_limits<double>::infinity() : 0));
    for (Index v = 1; v < 4; ++v) {
      CHECK(sum.total()[v] == doctest::Approx(std::pow(factors[v], power) - 1).epsilon(1e-13));
    }
  }
}
