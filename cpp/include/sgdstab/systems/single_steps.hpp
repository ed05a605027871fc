// SGD on single examples, drawn uniformly, without memory.
//
//   gram coordinates     A_i = I - eta e_i e_i^T K     a_i -= eta K_i . a
//   factor coordinates   A_i = I - eta f_i f_i^T       s   -= eta f_i (f_i . s)
//
// m steps on examples S_1..S_m at once, for a vector or a frame V:
//   P = rows_S V,   r_j = P_j - sum_{l<j} eta K_{S_j S_l} r_l,   then   V -= eta (e_{S_j} or f_{S_j}) r_j
// which is exact, repeated examples included.
#pragma once

#include "sgdstab/systems/rows.hpp"

namespace sgdstab {

template <class Rows>
struct SingleSteps {
  Rows rows;
  double learning_rate;

  Index n_examples() const { return rows.n_examples(); }
  Index dimension() const { return rows.dimension(); }
};

}  // namespace sgdstab
