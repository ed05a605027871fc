// Unit vectors: of a vector (double), or of every lane of a panel (Lanes).
//
// A vector is scaled by its largest entry before its norm is taken, a panel only where squares would not do.
#pragma once

#include <cmath>
#include <limits>

#include "sgdstab/base/inner_product.hpp"
#include "sgdstab/base/panel.hpp"

namespace sgdstab {

// Components that have decayed beyond recovery (another block of a reducible K) become 0 before they turn subnormal and
// slow.
inline constexpr double kNegligible = 1e-280;

// Numbers that stand side by side for a coordinate.
template <class Number>
inline constexpr Index kWidth = 1;
template <>
inline constexpr Index kWidth<Lanes> = kLanes;

// Scales v to unit norm and returns log(norm); a zero vector stays, with -inf.
template <class Number>
Number renormalise(double* v, Index dimension);

template <>
inline double renormalise<double>(double* v, Index dimension) {
  VectorView vector(v, dimension);
  const double largest = vector.cwiseAbs().maxCoeff();
  if (largest == 0) return -std::numeric_limits<double>::infinity();
  vector *= 1 / largest;
  const double norm = std::sqrt(inner_product(v, v, dimension));
  vector *= 1 / norm;
  for (Index j = 0; j < dimension; ++j) v[j] = std::abs(v[j]) < kNegligible ? 0.0 : v[j];
  return std::log(largest) + std::log(norm);
}

// |v|^2 of every lane.
inline Lanes squared_norms(const double* panel, Index dimension) {
  Lanes even = Lanes::Zero(), odd = Lanes::Zero();
  Index j = 0;
  for (; j + 1 < dimension; j += 2) {
    even += lanes(panel, j).square();
    odd += lanes(panel, j + 1).square();
  }
  if (j < dimension) even += lanes(panel, j).square();
  return even + odd;
}

template <>
inline Lanes renormalise<Lanes>(double* panel, Index dimension) {
  Lanes log_norm = Lanes::Zero(), squares = squared_norms(panel, dimension);
  if (!(squares > kNegligible).all()) {
    // Too small to square, or zero.
    Lanes largest = Lanes::Zero();
    for (Index j = 0; j < dimension; ++j) largest = largest.max(lanes(panel, j).abs());
    const Lanes scale = (largest == 0).select(Lanes::Zero(), 1 / largest);
    for (Index j = 0; j < dimension; ++j) lanes(panel, j) *= scale;
    log_norm = largest.log();
    squares = (largest == 0).select(Lanes::Ones(), squared_norms(panel, dimension));
  }
  const Lanes norm = squares.sqrt(), inverse = 1 / norm;
  for (Index j = 0; j < dimension; ++j) {
    const Lanes scaled = lanes(panel, j) * inverse;
    lanes(panel, j) = (scaled.abs() < kNegligible).select(Lanes::Zero(), scaled);
  }
  return log_norm + norm.log();
}

// v -= (q . v) q
template <class Number>
void project_out(double* v, const double* q, Index dimension);

template <>
inline void project_out<double>(double* v, const double* q, Index dimension) {
  const double along = inner_product(q, v, dimension);
  for (Index j = 0; j < dimension; ++j) v[j] -= along * q[j];
}

template <>
inline void project_out<Lanes>(double* panel, const double* q, Index dimension) {
  Lanes along = Lanes::Zero();
  for (Index j = 0; j < dimension; ++j) along += lanes(q, j) * lanes(panel, j);
  for (Index j = 0; j < dimension; ++j) lanes(panel, j) -= along * lanes(q, j);
}

// Makes v a unit vector, without its part along the n_before unit vectors that lie one after the other in `before`,
// which is removed twice ("twice is enough": Giraud, Langou & Rozloznik, 2005). Returns the log of what was left.
template <class Number>
Number orthonormalise(double* v, const double* before, Index n_before, Index dimension) {
  Number log_norm = renormalise<Number>(v, dimension);
  for (int pass = 0; pass < (n_before > 0 ? 2 : 0); ++pass) {
    for (Index b = 0; b < n_before; ++b) project_out<Number>(v, before + b * dimension * kWidth<Number>, dimension);
    log_norm += renormalise<Number>(v, dimension);
  }
  return log_norm;
}

}  // namespace sgdstab
