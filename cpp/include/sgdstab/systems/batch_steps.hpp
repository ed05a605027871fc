// SGD that draws batches of examples, in any order, with an optimiser that remembers.
//
//   z <- (F (x) I) z - e_1 (x) size sum_{i in S} e_i K_i . (h^T (x) I) z      (or f_i f_i^T for e_i K_i)
//
// S are the rows of the examples drawn, all of them from the same state; size is the learning rate over the number of
// examples drawn. z has `levels` blocks of the rows' dimension: the present displacement, and what the optimiser
// remembers. F is what it does without gradients, h where it takes them:
//
//   plain       F = [1]                     h = [1]
//   heavy ball  F = [[1 + b, -b], [1, 0]]   h = [1, 0]           z = (a_t, a_{t-1})
//   Nesterov    F = [[1 + b, -b], [1, 0]]   h = [1 + b, -b]
#pragma once

#include <algorithm>

#include "sgdstab/random/draws.hpp"
#include "sgdstab/systems/single_steps.hpp"

namespace sgdstab {

// The rows of a unit, an example or a group of rows that are drawn together.
inline Index n_rows_of(const Law& law, Index unit) {
  return law.offsets == nullptr ? 1 : law.offsets[unit + 1] - law.offsets[unit];
}
inline Index row_of(const Law& law, Index unit, Index which) {
  return law.offsets == nullptr ? unit : law.members[law.offsets[unit] + which];
}
inline Index most_rows_of_a_unit(const Law& law) {
  Index largest = 1;
  for (Index u = 0; law.offsets != nullptr && u < law.n_units; ++u) largest = std::max(largest, n_rows_of(law, u));
  return largest;
}

struct Recurrence {
  Index levels;
  const double* free;      // F, levels x levels
  const double* readout;   // h, levels
  double log_determinant;  // log|det F|
  double feedback;         // h^T F^{-1} e_1

  bool is_plain() const { return levels == 1 && free[0] == 1 && readout[0] == 1; }
  double free_entry(Index row, Index column) const { return free[row * levels + column]; }
};

template <class Rows>
struct BatchSteps {
  Rows rows;
  double learning_rate;
  Law law;
  Recurrence recurrence;

  Index n_examples() const { return rows.n_examples(); }
  Index dimension() const { return recurrence.levels * rows.dimension(); }
};

// Single examples as batches of one.
template <class Rows>
BatchSteps<Rows> in_batches_of_one(const SingleSteps<Rows>& steps) {
  static constexpr double kOne[] = {1};
  return {steps.rows, steps.learning_rate, {Sampling::iid, steps.n_examples(), 1}, {1, kOne, kOne, 0, 1}};
}

}  // namespace sgdstab
