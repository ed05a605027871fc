#include "sgdstab/steps/frames.hpp"

#include <algorithm>

#include "sgdstab/base/inner_product.hpp"

namespace sgdstab {
namespace {

// V <- V - g_j r_j^T for every step j, where gradients g_j are unit vectors in gram coordinates.
template <class Rows>
void subtract(const Rows& rows, std::span<const std::uint32_t> examples, const double* r, double* panel) {
  const auto n_steps = static_cast<Index>(examples.size());
  if constexpr (Rows::kGram) {
    for (Index j = 0; j < n_steps; ++j) lanes(panel, examples[j]) -= lanes(r, j);
  } else {
    std::array<const double*, kBlockRows> gradients;
    for (Index j = 0; j < n_steps; ++j) gradients[j] = rows.row(examples[j]);
    for (Index i = 0; i < rows.dimension(); ++i) {
      Lanes v = lanes(panel, i);
      for (Index j = 0; j < n_steps; ++j) v -= gradients[j][i] * lanes(r, j);
      lanes(panel, i) = v;
    }
  }
}

}  // namespace

FrameSteps::FrameSteps(Index dimension, Index most_steps)
    : couplings_(most_steps, kTogether), panel_(dimension * kLanes), r_(kTogether * kLanes) {}

template <class Rows>
void FrameSteps::take(const Rows& rows, double learning_rate, std::span<const std::uint32_t> examples, Index block,
                      MatrixView& v) {
  const auto n_steps = static_cast<Index>(examples.size()), together = block < kTogether ? 1 : kTogether;
  for (Index j = 0; j < n_steps; ++j) {
    const std::uint32_t* others = examples.data() + j / together * together;
    const double* row = rows.row(examples[j]);
    for (Index l = 0; l < j % together; ++l) {
      couplings_(j, l) =
          learning_rate * (Rows::kGram ? row[others[l]] : inner_product(row, rows.row(others[l]), rows.dimension()));
    }
  }
  for (Index first = 0; first < v.cols(); first += kLanes) {
    copy_into_panel(v, first, panel_.data());
    for (Index j = 0; j < n_steps; j += together) {
      take_together(rows, learning_rate, examples.subspan(j, std::min(together, n_steps - j)), &couplings_(j, 0));
    }
    copy_from_panel(panel_.data(), first, v);
  }
}

template <class Rows>
void FrameSteps::take_together(const Rows& rows, double learning_rate, std::span<const std::uint32_t> examples,
                               const double* couplings) {
  const auto n_steps = static_cast<Index>(examples.size());
  std::array<const double*, kBlockRows> gradients;
  for (Index j = 0; j < kTogether; ++j) gradients[j] = rows.row(examples[std::min(j, n_steps - 1)]);
  if (n_steps == 1) {
    multiply_rows<1>(gradients.data(), panel_.data(), rows.dimension(), r_.data());
  } else {
    multiply_block(gradients, panel_.data(), rows.dimension(), r_.data());
  }
  for (Index j = 0; j < n_steps; ++j) {
    Lanes r = learning_rate * lanes(r_.data(), j);
    for (Index l = 0; l < j; ++l) r -= couplings[j * kTogether + l] * lanes(r_.data(), l);
    lanes(r_.data(), j) = r;
  }
  subtract(rows, examples, r_.data(), panel_.data());
}

template void FrameSteps::take(const GramRows&, double, std::span<const std::uint32_t>, Index, MatrixView&);
template void FrameSteps::take(const FactorRows&, double, std::span<const std::uint32_t>, Index, MatrixView&);

}  // namespace sgdstab
