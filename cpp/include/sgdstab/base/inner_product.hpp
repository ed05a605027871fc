// Inner products whose bits do not depend on where their operands lie in memory.
//
// Eigen's reductions start at the first aligned address, so the same numbers at another address sum in another order.
// Here the order is fixed by the length and the SIMD level alone.
#pragma once

#include <algorithm>
#include <array>
#include <iterator>

#include "sgdstab/base/types.hpp"

namespace sgdstab {

// A packet of doubles from consecutive numbers.
template <class Packet>
Packet load_doubles(const double* from) {
  return Eigen::internal::ploadu<Packet>(from);
}
template <class Packet>
Packet load_doubles(const float* from) {
  // One instruction: compilers see it.
  double doubles[Eigen::internal::unpacket_traits<Packet>::size];
  std::copy_n(from, std::size(doubles), doubles);
  return Eigen::internal::ploadu<Packet>(doubles);
}

// (a_0 . v, a_1 . v, ..) for several rows of length n: one pass over v serves them all.
template <std::size_t kRows, class Scalar>
std::array<double, kRows> inner_products(const std::array<const Scalar*, kRows>& a, const double* v, Index n) {
  using namespace Eigen::internal;
  // As wide as the SIMD level, up to four: the rows are short, and a wider load of v waits more often for the entry
  // that the last step has stored (N = 128: 20 ns a step with eight, 14 with four).
  using Packet = find_best_packet<double, 4>::type;
  constexpr Index kWidth = std::min<Index>(packet_traits<double>::size, 4);
  // Two accumulators a row keep as many multiply-adds in flight as their latency asks for.
  Packet even[kRows], odd[kRows];
  for (std::size_t b = 0; b < kRows; ++b) even[b] = odd[b] = pset1<Packet>(0.0);
  Index j = 0;
  for (; j + 2 * kWidth <= n; j += 2 * kWidth) {
    const Packet x = ploadu<Packet>(v + j), y = ploadu<Packet>(v + j + kWidth);
    for (std::size_t b = 0; b < kRows; ++b) {
      even[b] = pmadd(load_doubles<Packet>(a[b] + j), x, even[b]);
      odd[b] = pmadd(load_doubles<Packet>(a[b] + j + kWidth), y, odd[b]);
    }
  }
  std::array<double, kRows> products;
  for (std::size_t b = 0; b < kRows; ++b) products[b] = predux(padd(even[b], odd[b]));
  for (; j < n; ++j) {
    for (std::size_t b = 0; b < kRows; ++b) products[b] += a[b][j] * v[j];
  }
  return products;
}

template <class Scalar>
double inner_product(const Scalar* a, const double* v, Index n) {
  return inner_products<1, Scalar>({a}, v, n)[0];
}

}  // namespace sgdstab
