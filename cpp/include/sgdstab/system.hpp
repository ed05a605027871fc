// Systems: what one SGD step does to a displacement, in two coordinate systems.
//
//   GramForm     a in R^N:   A_i = I - eta e_i e_i^T K        K = gram (N x N)        a_i -= eta K_i . a
//   FactorForm   s in R^r:   A_i = I - eta f_i f_i^T          K = F F^T, F (N x r)    s   -= eta f_i (f_i . s)
//
// They are similar (s = F^T a), so exponents agree; the factor form has no kernel when K has one, and its
// Euclidean norm is the distance in parameter space (Chemnitz & Engel 2025, eqs. 2.11 and 2.19).
//
// m steps on examples S_1..S_m at once, for a vector or a frame V:
//   P = rows_S V,   r_j = P_j - sum_{l<j} eta K_{S_j S_l} r_l,   then   V -= eta (e_{S_j} or f_{S_j}) r_j
// which is exact, repeated examples included.
#pragma once

#include "sgdstab/types.hpp"

namespace sgdstab {

struct RowForm {
  ConstMatrixView rows;  // K or F
  double learning_rate;

  const double* row(Index example) const { return rows.data() + example * rows.outerStride(); }
  Index n_examples() const { return rows.rows(); }
  Index dimension() const { return rows.cols(); }
};

struct GramForm : RowForm {};
struct FactorForm : RowForm {};

}  // namespace sgdstab
