// Steps of single vectors on single examples, several vectors side by side.
#pragma once

#include "sgdstab/base/inner_product.hpp"
#include "sgdstab/systems/single_steps.hpp"

namespace sgdstab {

inline constexpr std::size_t kVectorBlock = 4;  // steps taken together: one pass over v serves four dot products
inline constexpr Index kSideBySide = 4;         // chains: one's recursion hides behind another's products
inline constexpr Index kMaxSegment = 256;       // examples drawn at a time

template <class Scalar>
void advance_block(const SingleSteps<BasicGramRows<Scalar>>& steps, const std::uint32_t* s, double* v) {
  const BasicGramRows<Scalar>& rows = steps.rows;
  const std::array<const Scalar*, kVectorBlock> k{rows.row(s[0]), rows.row(s[1]), rows.row(s[2]), rows.row(s[3])};
  // step_j = eta r_j = eta (K_{S_j} . v - sum_{l<j} K_{S_j S_l} step_l)
  std::array<double, kVectorBlock> step = inner_products(k, v, rows.dimension());
  for (std::size_t j = 0; j < kVectorBlock; ++j) {
    for (std::size_t l = 0; l < j; ++l) step[j] -= k[j][s[l]] * step[l];
    step[j] *= steps.learning_rate;
  }
  for (std::size_t j = 0; j < kVectorBlock; ++j) v[s[j]] -= step[j];
}

template <class Scalar>
void advance_one(const SingleSteps<BasicGramRows<Scalar>>& steps, std::uint32_t s, double* v) {
  v[s] -= steps.learning_rate * inner_product(steps.rows.row(s), v, steps.dimension());
}

template <class Scalar>
void advance_one(const SingleSteps<BasicFactorRows<Scalar>>& steps, std::uint32_t s, double* v) {
  const Scalar* feature = steps.rows.row(s);
  const double step = steps.learning_rate * inner_product(feature, v, steps.dimension());
  for (Index j = 0; j < steps.dimension(); ++j) v[j] -= step * feature[j];
}

template <class Scalar>
void advance_block(const SingleSteps<BasicFactorRows<Scalar>>& steps, const std::uint32_t* s, double* v) {
  for (std::size_t j = 0; j < kVectorBlock; ++j) advance_one(steps, s[j], v);
}

// Takes n_steps steps of up to kSideBySide chains, with k vectors each: vector(chain, l) is where the l-th one lies. If
// careful, one by one.
template <class Rows, class Vector>
void take_steps(const SingleSteps<Rows>& steps, const std::uint32_t (*examples)[kMaxSegment], Index n_steps,
                bool careful, Index n_chains, Index k, const Vector& vector) {
  constexpr auto kStride = static_cast<Index>(kVectorBlock);
  Index j = 0;
  for (; !careful && j + kStride <= n_steps; j += kStride) {
    for (Index chain = 0; chain < n_chains; ++chain) {
      for (Index l = 0; l < k; ++l) advance_block(steps, examples[chain] + j, vector(chain, l));
    }
  }
  for (; j < n_steps; ++j) {
    for (Index chain = 0; chain < n_chains; ++chain) {
      for (Index l = 0; l < k; ++l) advance_one(steps, examples[chain][j], vector(chain, l));
    }
  }
}

}  // namespace sgdstab
