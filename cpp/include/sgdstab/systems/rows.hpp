// Rows of K, in two coordinate systems.
//
//   GramRows     K = gram (N x N)      row i is K_i    displacements are a in R^N
//   FactorRows   K = F F^T, F (N x r)  row i is f_i    displacements are s = F^T a in R^r
//
// Systems in one and in the other are similar, so exponents agree; factor coordinates have no kernel when K has one,
// and their Euclidean norm is the distance in parameter space (Chemnitz & Engel 2025, eqs. 2.11 and 2.19).
//
// Rows may be of float32, as networks give them: half the memory, and half the traffic. Everything computed from them
// is of float64, in which every float32 is itself, so that bits are those of the same rows in float64.
#pragma once

#include "sgdstab/base/types.hpp"

namespace sgdstab {

template <class Number>
struct BasicRows {
  using Scalar = Number;
  ConstMatrixViewOf<Scalar> matrix;  // K or F

  const Scalar* row(Index example) const { return matrix.data() + example * matrix.outerStride(); }
  Index n_examples() const { return matrix.rows(); }
  Index dimension() const { return matrix.cols(); }
};

template <class Scalar>
struct BasicGramRows : BasicRows<Scalar> {
  static constexpr bool kGram = true;
};
template <class Scalar>
struct BasicFactorRows : BasicRows<Scalar> {
  static constexpr bool kGram = false;
};

using AnyRows = BasicRows<double>;
using GramRows = BasicGramRows<double>;
using FactorRows = BasicFactorRows<double>;
using GramRows32 = BasicGramRows<float>;
using FactorRows32 = BasicFactorRows<float>;

}  // namespace sgdstab
