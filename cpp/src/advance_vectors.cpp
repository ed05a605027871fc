#include "sgdstab/advance_vectors.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "sgdstab/parallel.hpp"
#include "sgdstab/vector_steps.hpp"

namespace sgdstab {
namespace {

// Removes from v its part along the unit vectors before it, twice ("twice is enough": Giraud, Langou & Rozloznik,
// 2005).
double orthonormalise(double* v, const double* before, Index n_before, Index dimension) {
  double log_norm = 0;
  for (int pass = 0; pass < (n_before > 0 ? 2 : 0); ++pass) {
    log_norm += renormalise(v, dimension);
    for (Index b = 0; b < n_before; ++b) {
      const double* q = before + b * dimension;
      const double along = inner_product(q, v, dimension);
      for (Index j = 0; j < dimension; ++j) v[j] -= along * q[j];
    }
  }
  return log_norm + renormalise(v, dimension);
}

// The vectors and sums of one work item, a few chains that are advanced side by side: what it reads and writes.
struct Item {
  Index first_chain, n_chains, k, dimension;
  double* vectors;  // of all chains
  double* log_growth;
  Index log_growth_stride;  // from chain to chain

  double* vector(Index chain, Index j) const { return vectors + ((first_chain + chain) * k + j) * dimension; }
  double* sums(Index chain) const { return log_growth + (first_chain + chain) * log_growth_stride; }
};

// Advances up to kSideBySide chains by n_steps steps, renormalising at the end, and adds to log growth.
template <class System>
void advance_item(VectorWorker<System>& worker, const Item& item, const StreamKey& key, std::uint64_t stream,
                  std::uint64_t start, Index n_steps, const VectorOptions& options) {
  for (Index done = 0, since = 0; done < n_steps;) {
    const Index segment = std::min({kMaxSegment, options.renormalise_every - since, n_steps - done});
    worker.take_steps(key, stream, start + static_cast<std::uint64_t>(done), segment, options.careful, item.n_chains,
                      item.k, [&](Index chain, Index l) { return item.vector(chain, l); });
    done += segment;
    since += segment;
    if (since == options.renormalise_every || done == n_steps) {
      for (Index chain = 0; chain < item.n_chains; ++chain) {
        for (Index l = 0; l < item.k; ++l) {
          item.sums(chain)[l] += orthonormalise(item.vector(chain, l), item.vector(chain, 0), l, item.dimension);
        }
      }
      since = 0;
    }
  }
}

}  // namespace

template <class System>
void advance_vectors(const System& system, const Steps& steps, const VectorOptions& options,
                     const typename VectorWorker<System>::Metrics& metrics, double* vectors, Index n_chains, Index k,
                     VectorSums sums, int n_threads) {
  // Work items are the same whatever the number of threads; with evaluations, as many chains as are evaluated together.
  const Index columns = metrics.columns(), d = system.dimension();
  const Index group = columns > 0 ? kLanes : kSideBySide;
  const Index spacing = columns > 0 ? options.spacing : steps.steps_per_batch;
  const Index n_items = (n_chains + group - 1) / group;
  std::vector<std::unique_ptr<VectorWorker<System>>> workers;
  for (Index worker = 0; worker < useful_threads(n_items, n_threads); ++worker) {
    workers.push_back(std::make_unique<VectorWorker<System>>(system, metrics));
  }
  std::fill_n(sums.log_growth, n_chains * steps.n_batches * k, 0.0);
  std::fill_n(sums.growth, n_chains * steps.n_batches * columns, 0.0);
  for_each_item(n_items, n_threads, [&](Index index, Index worker_index) {
    VectorWorker<System>& worker = *workers[static_cast<std::size_t>(worker_index)];
    const Index first = index * group, last = std::min(first + group, n_chains);
    const auto stream = [&](Index chain) { return steps.first_chain + static_cast<std::uint64_t>(chain); };
    for (Index batch = 0; batch < steps.n_batches; ++batch) {
      for (Index done = 0; done < steps.steps_per_batch;) {
        const Index n_steps = std::min(spacing, steps.steps_per_batch - done);
        const auto start = steps.first_step + static_cast<std::uint64_t>(batch * steps.steps_per_batch + done);
        for (Index chain = first; chain < last; chain += kSideBySide) {
          const Item item{chain,
                          std::min(kSideBySide, last - chain),
                          k,
                          d,
                          vectors,
                          sums.log_growth + batch * k,
                          steps.n_batches * k};
          advance_item(worker, item, steps.key, stream(chain), start, n_steps, options);
        }
        done += n_steps;
        if (columns > 0 && n_steps == spacing) {
          worker.add_growth(vectors + first * k * d, k * d, last - first,
                            {sums.growth + (first * steps.n_batches + batch) * columns, steps.n_batches * columns, 1},
                            steps.key, stream(first), start + static_cast<std::uint64_t>(n_steps));
        }
      }
      for (Index chain = first; sums.directions != nullptr && chain < last; ++chain) {
        std::copy_n(vectors + chain * k * d, d, sums.directions + (chain * steps.n_batches + batch) * d);
      }
    }
  });
}

template void advance_vectors(const GramForm&, const Steps&, const VectorOptions&, const Metrics&, double*, Index,
                              Index, VectorSums, int);
template void advance_vectors(const FactorForm&, const Steps&, const VectorOptions&, const Metrics&, double*, Index,
                              Index, VectorSums, int);
template void advance_vectors(const Sampled<GramForm>&, const Steps&, const VectorOptions&, const SampledMetrics&,
                              double*, Index, Index, VectorSums, int);
template void advance_vectors(const Sampled<FactorForm>&, const Steps&, const VectorOptions&, const SampledMetrics&,
                              double*, Index, Index, VectorSums, int);
template void advance_vectors(const MatrixSet&, const Steps&, const VectorOptions&, const MatrixMetrics&, double*,
                              Index, Index, VectorSums, int);

}  // namespace sgdstab
