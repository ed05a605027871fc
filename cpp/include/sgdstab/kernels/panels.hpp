// Many learning rates, all of them driven by the stream of their chain.
//
// Each lane of a panel has a learning rate of its own. m steps on examples S_1..S_m at once, for a panel V:
//   P = rows_S V,   step_j = eta o (P_j - sum_{l<j} K_{S_j S_l} step_l),   then   V -= (e_{S_j} or f_{S_j}) step_j
// where o multiplies lane by lane.
#pragma once

#include "sgdstab/growth/single.hpp"
#include "sgdstab/random/stream.hpp"

namespace sgdstab {

// As of `VectorOptions`.
struct PanelOptions {
  Index renormalise_every;
  bool careful;
  Index spacing;
};

// The metrics of every panel: neighbouring panels share some.
struct PanelMetrics {
  Index count;                  // the most that a panel has, with the norm of K; 0 for no evaluation at all
  const double* matrices;       // n_matrices x dimension x dimension
  const std::int64_t* windows;  // n_panels x 2: first matrix, and number of metrics with the norm of K
  const double* diagonals;      // n_panels x count x n_examples: M_ii or f_i . M f_i

  SingleMetrics of_panel(Index panel, Index dimension, Index n_examples) const {
    if (count == 0) return {0, nullptr, nullptr};
    return {windows[2 * panel + 1], matrices + windows[2 * panel] * dimension * dimension,
            diagonals + panel * count * n_examples};
  }
};

// Sums as of `VectorSums`, for every lane.
struct PanelSums {
  double* log_growth;  // n_chains x n_batches x n_panels x k x kLanes
  double* growth;      // n_chains x n_batches x n_panels x metrics.count x kLanes
};

// Advances panels (n_chains x n_panels x k x dimension x kLanes), k vectors for every learning rate (n_panels x
// kLanes), and leaves those orthonormal, as `advance_vectors` does.
template <class Rows>
void advance_panels(const Rows& rows, const double* learning_rates, const Stream& stream, const PanelOptions& options,
                    const PanelMetrics& metrics, double* panels, Index n_chains, Index n_panels, Index k,
                    PanelSums sums, int n_threads);

extern template void advance_panels(const GramRows&, const double*, const Stream&, const PanelOptions&,
                                    const PanelMetrics&, double*, Index, Index, Index, PanelSums, int);
extern template void advance_panels(const FactorRows&, const double*, const Stream&, const PanelOptions&,
                                    const PanelMetrics&, double*, Index, Index, Index, PanelSums, int);

}  // namespace sgdstab
