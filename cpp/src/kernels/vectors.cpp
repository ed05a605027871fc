#include "sgdstab/kernels/vectors.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "sgdstab/base/parallel.hpp"
#include "sgdstab/base/unit_vectors.hpp"

namespace sgdstab {
namespace {

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
void advance_item(VectorWorker<System>& worker, const Item& item, const StreamKey& key, std::uint64_t number,
                  std::uint64_t start, Index n_steps, const VectorOptions& options) {
  for (Index done = 0, since = 0; done < n_steps;) {
    const Index segment = std::min({kMaxSegment, options.renormalise_every - since, n_steps - done});
    worker.take_steps(key, number, start + static_cast<std::uint64_t>(done), segment, options.careful, item.n_chains,
                      item.k, [&](Index chain, Index l) { return item.vector(chain, l); });
    done += segment;
    since += segment;
    if (since == options.renormalise_every || done == n_steps) {
      for (Index chain = 0; chain < item.n_chains; ++chain) {
        for (Index l = 0; l < item.k; ++l) {
          item.sums(chain)[l] +=
              orthonormalise<double>(item.vector(chain, l), item.vector(chain, 0), l, item.dimension);
        }
      }
      since = 0;
    }
  }
}

}  // namespace

template <class System>
void advance_vectors(const System& system, const Stream& stream, const VectorOptions& options,
                     const typename VectorWorker<System>::Metrics& metrics, double* vectors, Index n_chains, Index k,
                     VectorSums sums, int n_threads) {
  // Work items are the same whatever the number of threads; with evaluations, as many chains as are evaluated together.
  const Index columns = metrics.columns(), d = system.dimension();
  const Index group = columns > 0 ? kLanes : kSideBySide;
  const Index spacing = columns > 0 ? options.spacing : stream.steps_per_batch;
  const Index n_items = (n_chains + group - 1) / group;
  std::vector<std::unique_ptr<VectorWorker<System>>> workers;
  for (Index worker = 0; worker < useful_threads(n_items, n_threads); ++worker) {
    workers.push_back(std::make_unique<VectorWorker<System>>(system, metrics));
  }
  std::fill_n(sums.log_growth, n_chains * stream.n_batches * k, 0.0);
  std::fill_n(sums.growth, n_chains * stream.n_batches * columns, 0.0);
  for_each_item(n_items, n_threads, [&](Index index, Index worker_index) {
    VectorWorker<System>& worker = *workers[static_cast<std::size_t>(worker_index)];
    const Index first = index * group, last = std::min(first + group, n_chains);
    const auto number = [&](Index chain) { return stream.first_chain + static_cast<std::uint64_t>(chain); };
    for (Index batch = 0; batch < stream.n_batches; ++batch) {
      for (Index done = 0; done < stream.steps_per_batch;) {
        const Index n_steps = std::min(spacing, stream.steps_per_batch - done);
        const auto start = stream.first_step + static_cast<std::uint64_t>(batch * stream.steps_per_batch + done);
        for (Index chain = first; chain < last; chain += kSideBySide) {
          const Item item{chain,
                          std::min(kSideBySide, last - chain),
                          k,
                          d,
                          vectors,
                          sums.log_growth + batch * k,
                          stream.n_batches * k};
          advance_item(worker, item, stream.key, number(chain), start, n_steps, options);
        }
        done += n_steps;
        if (columns > 0 && n_steps == spacing) {
          worker.add_growth(vectors + first * k * d, k * d, last - first,
                            {sums.growth + (first * stream.n_batches + batch) * columns, stream.n_batches * columns, 1},
                            stream.key, number(first), start + static_cast<std::uint64_t>(n_steps));
        }
      }
      for (Index chain = first; sums.directions != nullptr && chain < last; ++chain) {
        std::copy_n(vectors + chain * k * d, d, sums.directions + (chain * stream.n_batches + batch) * d);
      }
    }
  });
}

template void advance_vectors(const SingleSteps<GramRows>&, const Stream&, const VectorOptions&, const SingleMetrics&,
                              double*, Index, Index, VectorSums, int);
template void advance_vectors(const SingleSteps<FactorRows>&, const Stream&, const VectorOptions&, const SingleMetrics&,
                              double*, Index, Index, VectorSums, int);
template void advance_vectors(const BatchSteps<GramRows>&, const Stream&, const VectorOptions&, const BatchMetrics&,
                              double*, Index, Index, VectorSums, int);
template void advance_vectors(const BatchSteps<FactorRows>&, const Stream&, const VectorOptions&, const BatchMetrics&,
                              double*, Index, Index, VectorSums, int);
template void advance_vectors(const SingleSteps<GramRows32>&, const Stream&, const VectorOptions&, const SingleMetrics&,
                              double*, Index, Index, VectorSums, int);
template void advance_vectors(const SingleSteps<FactorRows32>&, const Stream&, const VectorOptions&,
                              const SingleMetrics&, double*, Index, Index, VectorSums, int);
template void advance_vectors(const BatchSteps<GramRows32>&, const Stream&, const VectorOptions&, const BatchMetrics&,
                              double*, Index, Index, VectorSums, int);
template void advance_vectors(const BatchSteps<FactorRows32>&, const Stream&, const VectorOptions&, const BatchMetrics&,
                              double*, Index, Index, VectorSums, int);
template void advance_vectors(const MatrixSet&, const Stream&, const VectorOptions&, const MatrixMetrics&, double*,
                              Index, Index, VectorSums, int);

}  // namespace sgdstab
