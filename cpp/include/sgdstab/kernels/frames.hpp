// Chains of frames (k vectors that share one stream), for the Lyapunov spectrum.
#pragma once

#include "sgdstab/base/frame.hpp"
#include "sgdstab/kernels/frame_workers.hpp"
#include "sgdstab/random/stream.hpp"

namespace sgdstab {

struct FrameSums {
  double* log_growth;       // (n_chains x n_batches x k): log R_jj summed over the batch
  double* log_determinant;  // (n_chains x n_batches): log|det| of the batch's steps, summed
  double* smallest_ratio;   // (n_chains x n_batches): the smallest that orthonormalise returned
  double* growth;           // (n_chains x n_batches x metrics.count x metrics.columns): at the end of the batch
};

// Advances `frames` (n_chains x dimension x k, contiguous), one chain each, orthonormalising every `period`
// steps, counted from the start of a batch, and at its end; sooner where steps leave less than options.least_ratio of
// a column: they are then taken again, half as many. Steps are taken together as long as they have at most
// `block` rows, which leaves errors relative to the frame before them: so few that they do not shrink it by many
// orders.
template <class System>
void advance_frames(const System& system, const Stream& stream, Index block, Index period,
                    const Orthonormalisation& options, const typename FrameWorker<System>::Metrics& metrics,
                    double* frames, Index n_chains, Index k, FrameSums sums, int n_threads);

extern template void advance_frames(const BatchSteps<GramRows>&, const Stream&, Index, Index, const Orthonormalisation&,
                                    const FrameWorker<BatchSteps<GramRows>>::Metrics&, double*, Index, Index, FrameSums,
                                    int);
extern template void advance_frames(const BatchSteps<FactorRows>&, const Stream&, Index, Index,
                                    const Orthonormalisation&, const FrameWorker<BatchSteps<FactorRows>>::Metrics&,
                                    double*, Index, Index, FrameSums, int);
extern template void advance_frames(const MatrixSet&, const Stream&, Index, Index, const Orthonormalisation&,
                                    const FrameWorker<MatrixSet>::Metrics&, double*, Index, Index, FrameSums, int);

}  // namespace sgdstab
