#include "sgdstab/kernels/frames.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "sgdstab/base/parallel.hpp"

namespace sgdstab {
namespace {

template <class System>
struct Workspace {
  Workspace(const System& system, const typename FrameWorker<System>::Metrics& metrics, Index k, Index block)
      : worker(system, metrics, k, block),
        frame(system.dimension(), k),
        before(system.dimension(), k),
        log_diagonal(k) {}

  FrameWorker<System> worker;
  FrameWorkspace frame;
  RowMatrix before;  // a pass
  Eigen::RowVectorXd log_diagonal;
};

struct Pass {
  Index n_steps;
  double log_determinant, smallest_ratio;
};

// Takes steps, most_steps if they leave enough of every column and half as many otherwise, and so on; orthonormalises,
// and leaves log R_jj in w.log_diagonal.
template <class System>
Pass take_pass(const StreamKey& key, std::uint64_t chain, std::uint64_t start, Index most_steps,
               const Orthonormalisation& options, MatrixView& v, Workspace<System>& w) {
  if (options.least_ratio > 0) w.before = v;
  for (Index n_steps = most_steps;; n_steps = (n_steps + 1) / 2) {
    Pass pass{n_steps, 0, 0};
    for (Index done = 0; done < n_steps;) {
      const BlockDone block =
          w.worker.take_block(key, chain, start + static_cast<std::uint64_t>(done), n_steps - done, v);
      pass.log_determinant += block.log_determinant;
      done += block.n_steps;
    }
    w.log_diagonal.setZero();
    pass.smallest_ratio = w.frame.orthonormalise(v, options, w.log_diagonal);
    if (!(pass.smallest_ratio < options.least_ratio) || n_steps == 1) return pass;
    v = w.before;
  }
}

template <class System>
void advance_chain(const System& system, const Stream& stream, Index chain, Index period,
                   const Orthonormalisation& options, const FrameMetrics& metrics, MatrixView& v, FrameSums sums,
                   Workspace<System>& w) {
  const Index k = v.cols();
  const std::uint64_t number = stream.first_chain + static_cast<std::uint64_t>(chain);
  const bool orthogonal = period == 1 && !options.careful && w.worker.has_orthogonal_steps(system, k);
  for (Index batch = 0; batch < stream.n_batches; ++batch) {
    const Index cell = chain * stream.n_batches + batch;
    const auto start = stream.first_step + static_cast<std::uint64_t>(batch * stream.steps_per_batch);
    Eigen::Map<Eigen::RowVectorXd> log_growth(sums.log_growth + cell * k, k);
    log_growth.setZero();
    double log_determinant = 0, smallest_ratio = 1;
    if (orthogonal) {
      if (!w.frame.is_orthonormal(v)) w.frame.orthonormalise(v, options, log_growth);
      log_determinant =
          w.worker.take_orthogonal_steps(stream.key, number, start, stream.steps_per_batch, v, log_growth);
    }
    for (Index done = 0; done < stream.steps_per_batch && !orthogonal;) {
      const auto first = start + static_cast<std::uint64_t>(done);
      const Index most = std::min(period, stream.steps_per_batch - done);
      const Pass pass = take_pass(stream.key, number, first, most, options, v, w);
      log_growth += w.log_diagonal;
      log_determinant += pass.log_determinant;
      smallest_ratio = std::min(smallest_ratio, pass.smallest_ratio);
      done += pass.n_steps;
    }
    sums.log_determinant[cell] = log_determinant;
    sums.smallest_ratio[cell] = smallest_ratio;
    if (metrics.count > 0) {
      double* growth = sums.growth + cell * metrics.count * metrics.columns;
      std::fill_n(growth, metrics.count * metrics.columns, 0.0);
      w.worker.add_growth(v, growth);
    }
  }
}

}  // namespace

template <class System>
void advance_frames(const System& system, const Stream& stream, Index block, Index period,
                    const Orthonormalisation& options, const typename FrameWorker<System>::Metrics& metrics,
                    double* frames, Index n_chains, Index k, FrameSums sums, int n_threads) {
  std::vector<std::unique_ptr<Workspace<System>>> workspaces;
  for (Index worker = 0; worker < useful_threads(n_chains, n_threads); ++worker) {
    workspaces.push_back(std::make_unique<Workspace<System>>(system, metrics, k, block));
  }
  for_each_item(n_chains, n_threads, [&](Index chain, Index worker) {
    MatrixView v(frames + chain * system.dimension() * k, system.dimension(), k, Eigen::OuterStride<>(k));
    advance_chain(system, stream, chain, period, options, metrics.frames, v, sums,
                  *workspaces[static_cast<std::size_t>(worker)]);
  });
}

template void advance_frames(const BatchSteps<GramRows>&, const Stream&, Index, Index, const Orthonormalisation&,
                             const FrameWorker<BatchSteps<GramRows>>::Metrics&, double*, Index, Index, FrameSums, int);
template void advance_frames(const BatchSteps<FactorRows>&, const Stream&, Index, Index, const Orthonormalisation&,
                             const FrameWorker<BatchSteps<FactorRows>>::Metrics&, double*, Index, Index, FrameSums,
                             int);
template void advance_frames(const MatrixSet&, const Stream&, Index, Index, const Orthonormalisation&,
                             const FrameWorker<MatrixSet>::Metrics&, double*, Index, Index, FrameSums, int);

}  // namespace sgdstab
