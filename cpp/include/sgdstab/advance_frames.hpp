// Kernel 2: chains of frames (k vectors that share one stream), for the Lyapunov spectrum.
#pragma once

#include "sgdstab/frame.hpp"
#include "sgdstab/frame_growth.hpp"
#include "sgdstab/stream.hpp"
#include "sgdstab/system.hpp"

namespace sgdstab {

struct FrameSums {
  double* log_growth;       // (n_chains x n_batches x k): log R_jj summed over the batch
  double* log_determinant;  // (n_chains x n_batches): log|det A_i| summed over the batch's examples i
  double* smallest_ratio;   // (n_chains x n_batches): the smallest that orthonormalise returned
  double* growth;           // (n_chains x n_batches x metrics.count x metrics.columns): at the end of the batch
};

// Advances `frames` (n_chains x dimension x k, contiguous), one chain each, orthonormalising every `period`
// steps, counted from the start of a batch, and at its end. `block` steps are taken at once, which leaves errors
// relative to the frame before the block: so few that they do not shrink it by many orders.
//   log_determinants (n_examples): log|det A_i| = log|1 - eta K_ii| of each example
template <class Form>
void advance_frames(const Form& form, const Steps& steps, Index block, Index period, const Orthonormalisation& options,
                    const double* log_determinants, const FrameMetrics& metrics, double* frames, Index n_chains,
                    Index k, FrameSums sums, int n_threads);

extern template void advance_frames(const GramForm&, const Steps&, Index, Index, const Orthonormalisation&,
                                    const double*, const FrameMetrics&, double*, Index, Index, FrameSums, int);
extern template void advance_frames(const FactorForm&, const Steps&, Index, Index, const Orthonormalisation&,
                                    const double*, const FrameMetrics&, double*, Index, Index, FrameSums, int);

}  // namespace sgdstab
