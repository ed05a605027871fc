// Populations of walkers, weighted by norm^p, for moments of order p.
//
// E |A_{i_n} .. A_{i_1} v|^p is carried by rare paths. A population follows them: its walkers take steps, each with a
// stream of its own, and the one that has grown by the factor g has its weight multiplied by g^p; or, which costs more
// and spreads weights far less, tilted steps (`steps/tilted.hpp`), with norms and weights those of a gauge. Once few
// walkers carry most of the weight, the effective size (sum W)^2 / sum W^2 being small, they are resampled: walker j
// has floor or ceil of W_j / mean W offspring (systematically: one uniform number for all), of equal weights with the
// same sum. The expectation of a population's total weight is then exactly the moment, whatever its size.
//
// At the end of every batch, with the walkers' directions s and metrics M, the population gives
//
//   X_M = sum_j W_j |s_j|_M^p / sum_j W_j,   E_M = sum_j W_j |s_j|_M^p (h_M(s_j) - 1) / sum_j W_j,
//   h_M(s) = (1/N) sum_i (|A_i s|_M / |s|_M)^p,
//
// and 1 + E_M / X_M is an estimate of exp Lambda(p) for every metric: without any variance at p = 0, and at p = 2 in
// the metric of constant mean squared growth.
#pragma once

#include "sgdstab/growth/single.hpp"
#include "sgdstab/random/stream.hpp"
#include "sgdstab/steps/tilted.hpp"

namespace sgdstab {

struct PopulationOptions {
  double order;             // p
  Index n_vectors;          // a walker has this many, which take the same steps; the norm of all together counts
  Index n_passive;          // more vectors, one or none, that take the same tilted steps but do not count
  Index renormalise_every;  // as of `VectorOptions`
  bool careful;             // as of `VectorOptions`
  double least_share;       // of effective walkers, below which they are resampled
  const Gauge* gauge;       // to tilt steps with; null for plain steps
};

struct PopulationSums {
  double* log_growth;      // n_populations x n_batches: log of the total weight after over that before
  double* effective_size;  // n_populations x n_batches: after the batch
  double* norms;           // n_populations x n_batches x metrics.count: X_M
  double* excess;          // n_populations x n_batches x metrics.count: E_M
  // n_populations x n_batches, with a passive vector: growth of the first vector over that of the part of the passive
  // one orthogonal to it, as a logarithm, on weighted average. Chains forget their starts as fast as that grows.
  double* separation;
};

// Advances walkers, n_populations x size x ((n_vectors + n_passive) * dimension + 2): the vectors, whose Frobenius norm
// comes out as 1, the log of the weight, whose mean is 1, and the log of the norm since the start.
template <class Rows>
void advance_populations(const SingleSteps<Rows>& steps, const Stream& stream, const PopulationOptions& options,
                         const SingleMetrics& metrics, double* walkers, Index n_populations, Index size,
                         PopulationSums sums, int n_threads);

extern template void advance_populations(const SingleSteps<GramRows>&, const Stream&, const PopulationOptions&,
                                         const SingleMetrics&, double*, Index, Index, PopulationSums, int);
extern template void advance_populations(const SingleSteps<FactorRows>&, const Stream&, const PopulationOptions&,
                                         const SingleMetrics&, double*, Index, Index, PopulationSums, int);

}  // namespace sgdstab
