// Many chains, each one vector, or a few, with a stream of its own.
#pragma once

#include "sgdstab/kernels/vector_workers.hpp"
#include "sgdstab/random/stream.hpp"

namespace sgdstab {

struct VectorOptions {
  // Vectors are rescaled every so many steps, counted from the start of a batch or the last evaluation; that must be
  // often enough for squared norms not to overflow.
  Index renormalise_every;
  // Steps one by one: they are otherwise taken in blocks, which leaves errors relative to a vector before its block,
  // for systems in which a few steps can shrink a whole vector by many orders.
  bool careful;
  // Anchored growth is evaluated after every so many steps, counted from the start of a batch.
  Index spacing;
};

struct VectorSums {
  double* log_growth;  // (n_chains x n_batches x k): log(norm after / norm before); -inf once a vector is 0
  double* growth;      // (n_chains x n_batches x metrics.columns()): anchored growth summed over the evaluations
  // (n_chains x n_batches x dimension): the first vector at the end of each batch, where it is wanted.
  double* directions = nullptr;
};

// Advances `vectors` (n_chains x k x dimension), k of each chain sharing its stream, and leaves them orthonormal. Of
// several, log_growth has the Gram-Schmidt norms, log R_jj, as far as the angle left between renormalisations lets them
// be known; growth is that of the first.
template <class System>
void advance_vectors(const System& system, const Stream& stream, const VectorOptions& options,
                     const typename VectorWorker<System>::Metrics& metrics, double* vectors, Index n_chains, Index k,
                     VectorSums sums, int n_threads);

extern template void advance_vectors(const SingleSteps<GramRows>&, const Stream&, const VectorOptions&,
                                     const SingleMetrics&, double*, Index, Index, VectorSums, int);
extern template void advance_vectors(const SingleSteps<FactorRows>&, const Stream&, const VectorOptions&,
                                     const SingleMetrics&, double*, Index, Index, VectorSums, int);
extern template void advance_vectors(const BatchSteps<GramRows>&, const Stream&, const VectorOptions&,
                                     const BatchMetrics&, double*, Index, Index, VectorSums, int);
extern template void advance_vectors(const BatchSteps<FactorRows>&, const Stream&, const VectorOptions&,
                                     const BatchMetrics&, double*, Index, Index, VectorSums, int);
extern template void advance_vectors(const SingleSteps<GramRows32>&, const Stream&, const VectorOptions&,
                                     const SingleMetrics&, double*, Index, Index, VectorSums, int);
extern template void advance_vectors(const SingleSteps<FactorRows32>&, const Stream&, const VectorOptions&,
                                     const SingleMetrics&, double*, Index, Index, VectorSums, int);
extern template void advance_vectors(const BatchSteps<GramRows32>&, const Stream&, const VectorOptions&,
                                     const BatchMetrics&, double*, Index, Index, VectorSums, int);
extern template void advance_vectors(const BatchSteps<FactorRows32>&, const Stream&, const VectorOptions&,
                                     const BatchMetrics&, double*, Index, Index, VectorSums, int);
extern template void advance_vectors(const MatrixSet&, const Stream&, const VectorOptions&, const MatrixMetrics&,
                                     double*, Index, Index, VectorSums, int);

}  // namespace sgdstab
