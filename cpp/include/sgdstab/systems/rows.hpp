// Rows of K, in two coordinate systems.
//
//   GramRows     K = gram (N x N)      row i is K_i    displacements are a in R^N
//   FactorRows   K = F F^T, F (N x r)  row i is f_i    displacements are s = F^T a in R^r
//
// Systems in one and in the other are similar, so exponents agree; factor coordinates have no kernel when K has one,
// and their Euclidean norm is the distance in parameter space (Chemnitz & Engel 2025, eqs. 2.11 and 2.19).
#pragma once

#include "sgdstab/base/types.hpp"

namespace sgdstab {

struct AnyRows {
  ConstMatrixView matrix;  // K or F

  const double* row(Index example) const { return matrix.data() + example * matrix.outerStride(); }
  Index n_examples() const { return matrix.rows(); }
  Index dimension() const { return matrix.cols(); }
};

struct GramRows : AnyRows {};
struct FactorRows : AnyRows {};

}  // namespace sgdstab
