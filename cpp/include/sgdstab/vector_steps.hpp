// Steps of single vectors, several of them side by side.
#pragma once

#include <cmath>
#include <limits>

#include "sgdstab/inner_product.hpp"
#include "sgdstab/system.hpp"

namespace sgdstab {

inline constexpr std::size_t kVectorBlock = 4;  // steps taken together: one pass over v serves four dot products
inline constexpr Index kSideBySide = 4;         // chains: one's recursion hides behind another's products
inline constexpr Index kMaxSegment = 256;       // examples drawn at a time

inline void advance_block(const GramForm& form, const std::uint32_t* s, double* v) {
  const std::array<const double*, kVectorBlock> k{form.row(s[0]), form.row(s[1]), form.row(s[2]), form.row(s[3])};
  // step_j = eta r_j = eta (K_{S_j} . v - sum_{l<j} K_{S_j S_l} step_l)
  std::array<double, kVectorBlock> step = inner_products(k, v, form.dimension());
  for (std::size_t j = 0; j < kVectorBlock; ++j) {
    for (std::size_t l = 0; l < j; ++l) step[j] -= k[j][s[l]] * step[l];
    step[j] *= form.learning_rate;
  }
  for (std::size_t j = 0; j < kVectorBlock; ++j) v[s[j]] -= step[j];
}

inline void advance_one(const GramForm& form, std::uint32_t s, double* v) {
  v[s] -= form.learning_rate * inner_product(form.row(s), v, form.dimension());
}

inline void advance_one(const FactorForm& form, std::uint32_t s, double* v) {
  const double* feature = form.row(s);
  const double step = form.learning_rate * inner_product(feature, v, form.dimension());
  for (Index j = 0; j < form.dimension(); ++j) v[j] -= step * feature[j];
}

inline void advance_block(const FactorForm& form, const std::uint32_t* s, double* v) {
  for (std::size_t j = 0; j < kVectorBlock; ++j) advance_one(form, s[j], v);
}

// Takes n_steps steps of up to kSideBySide chains, with k vectors each: vector(chain, l) is where the l-th one lies. If
// careful, one by one.
template <class Form, class Vector>
void take_steps(const Form& form, const std::uint32_t (*examples)[kMaxSegment], Index n_steps, bool careful,
                Index n_chains, Index k, const Vector& vector) {
  constexpr auto kStride = static_cast<Index>(kVectorBlock);
  Index j = 0;
  for (; !careful && j + kStride <= n_steps; j += kStride) {
    for (Index chain = 0; chain < n_chains; ++chain) {
      for (Index l = 0; l < k; ++l) advance_block(form, examples[chain] + j, vector(chain, l));
    }
  }
  for (; j < n_steps; ++j) {
    for (Index chain = 0; chain < n_chains; ++chain) {
      for (Index l = 0; l < k; ++l) advance_one(form, examples[chain][j], vector(chain, l));
    }
  }
}

// Scales v to unit norm and returns log(norm); a zero vector stays, with -inf. Components that have decayed
// beyond recovery (another block of a reducible K) become 0 before they turn subnormal and slow.
inline double renormalise(double* v, Index dimension) {
  constexpr double kNegligible = 1e-280;
  VectorView vector(v, dimension);
  const double largest = vector.cwiseAbs().maxCoeff();
  if (largest == 0) return -std::numeric_limits<double>::infinity();
  vector *= 1 / largest;
  const double norm = std::sqrt(inner_product(v, v, dimension));
  vector *= 1 / norm;
  for (Index j = 0; j < dimension; ++j) v[j] = std::abs(v[j]) < kNegligible ? 0.0 : v[j];
  return std::log(largest) + std::log(norm);
}

}  // namespace sgdstab
