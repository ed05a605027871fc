// Steps of frames on single examples.
//
// Columns of a frame do not meet until it is orthonormalised. So a panel of a few of them, which the nearest caches
// hold, takes all steps before the next panel does. Some steps S_1 .. S_m at a time, from the rows V_i of the panel:
//
//   r_j = K_{S_j} V - sum_{l < j} eta K_{S_j S_l} r_l       one pass over the panel serves all of them
//   V_{S_j} <- V_{S_j} - eta r_j                            gram coordinates
//   V_i <- V_i - sum_j eta f_{S_j i} r_j                    factor coordinates, where f_{S_j} stands for K_{S_j}
#pragma once

#include <cstdint>
#include <span>

#include "sgdstab/base/panel.hpp"
#include "sgdstab/systems/rows.hpp"

namespace sgdstab {

class FrameSteps {
 public:
  // Of a frame of so many rows, so many steps at once at the most.
  FrameSteps(Index dimension, Index most_steps);

  // Takes steps on these examples: together, if `block` says that so many may be.
  template <class Rows>
  void take(const Rows& rows, double learning_rate, std::span<const std::uint32_t> examples, Index block,
            MatrixView& v);

 private:
  static constexpr auto kTogether = static_cast<Index>(kBlockRows);

  template <class Rows>
  void take_together(const Rows& rows, double learning_rate, std::span<const std::uint32_t> examples,
                     const double* couplings);

  RowMatrix couplings_;  // eta K_{S_j S_l} with the steps taken together, most_steps x kTogether
  Eigen::VectorXd panel_;
  Eigen::VectorXd r_;  // eta r_j, kTogether x kLanes
};

extern template void FrameSteps::take(const GramRows&, double, std::span<const std::uint32_t>, Index, MatrixView&);
extern template void FrameSteps::take(const FactorRows&, double, std::span<const std::uint32_t>, Index, MatrixView&);

}  // namespace sgdstab
