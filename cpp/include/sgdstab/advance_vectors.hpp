// Kernel 1: many chains, each one vector with a stream of its own.
#pragma once

#include "sgdstab/stream.hpp"
#include "sgdstab/system.hpp"

namespace sgdstab {

// Advances the rows of `vectors` (n_chains x dimension), one chain each, and leaves them with unit norm.
//   log_growth (n_chains x n_batches): log(norm after / norm before) of each batch; -inf once a vector is 0.
// Vectors are rescaled every renormalise_every steps, counted from the start of a batch; that must be often
// enough for squared norms not to overflow. Steps are taken in blocks, which leaves errors relative to a vector before
// its block; `careful` takes them one by one, for systems in which a few steps can shrink a whole vector by many
// orders.
template <class Form>
void advance_vectors(const Form& form, const Steps& steps, Index renormalise_every, bool careful, MatrixView vectors,
                     MatrixView log_growth, int n_threads);

extern template void advance_vectors(const GramForm&, const Steps&, Index, bool, MatrixView, MatrixView, int);
extern template void advance_vectors(const FactorForm&, const Steps&, Index, bool, MatrixView, MatrixView, int);

}  // namespace sgdstab
