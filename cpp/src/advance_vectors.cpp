#include "sgdstab/advance_vectors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sgdstab/inner_product.hpp"
#include "sgdstab/parallel.hpp"

namespace sgdstab {
namespace {

constexpr std::size_t kBlock = 4;    // steps taken together: one pass over v serves four dot products
constexpr Index kChainsPerItem = 4;  // interleaved, so that one chain's recursion hides behind another's products
constexpr Index kMaxSegment = 256;   // examples drawn at a time

void advance_block(const GramForm& form, const std::uint32_t* s, double* v) {
  const std::array<const double*, kBlock> k{form.row(s[0]), form.row(s[1]), form.row(s[2]), form.row(s[3])};
  // step_j = eta r_j = eta (K_{S_j} . v - sum_{l<j} K_{S_j S_l} step_l)
  std::array<double, kBlock> step = inner_products(k, v, form.dimension());
  for (std::size_t j = 0; j < kBlock; ++j) {
    for (std::size_t l = 0; l < j; ++l) step[j] -= k[j][s[l]] * step[l];
    step[j] *= form.learning_rate;
  }
  for (std::size_t j = 0; j < kBlock; ++j) v[s[j]] -= step[j];
}

void advance_one(const GramForm& form, std::uint32_t s, double* v) {
  v[s] -= form.learning_rate * inner_product(form.row(s), v, form.dimension());
}

void advance_one(const FactorForm& form, std::uint32_t s, double* v) {
  const double* feature = form.row(s);
  const double step = form.learning_rate * inner_product(feature, v, form.dimension());
  for (Index j = 0; j < form.dimension(); ++j) v[j] -= step * feature[j];
}

void advance_block(const FactorForm& form, const std::uint32_t* s, double* v) {
  for (std::size_t j = 0; j < kBlock; ++j) advance_one(form, s[j], v);
}

// Scales v to unit norm and returns log(norm); a zero vector stays, with -inf. Components that have decayed
// beyond recovery (another block of a reducible K) become 0 before they turn subnormal and slow.
double renormalise(double* v, Index dimension) {
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

// One work item: up to kChainsPerItem chains, advanced side by side.
template <class Form>
void advance_item(const Form& form, const Steps& steps, Index renormalise_every, bool careful, Index first, Index last,
                  MatrixView& vectors, MatrixView& log_growth) {
  std::uint32_t examples[kChainsPerItem][kMaxSegment];
  for (Index batch = 0; batch < steps.n_batches; ++batch) {
    const auto start = steps.first_step + static_cast<std::uint64_t>(batch * steps.steps_per_batch);
    for (Index chain = first; chain < last; ++chain) log_growth(chain, batch) = 0;
    for (Index done = 0, since = 0; done < steps.steps_per_batch;) {
      const Index segment = std::min({kMaxSegment, renormalise_every - since, steps.steps_per_batch - done});
      for (Index chain = first; chain < last; ++chain) {
        IndexStream(steps.key, steps.first_chain + static_cast<std::uint64_t>(chain), form.n_examples())
            .fill(start + static_cast<std::uint64_t>(done), segment, examples[chain - first]);
      }
      constexpr auto kStride = static_cast<Index>(kBlock);
      Index j = 0;
      for (; !careful && j + kStride <= segment; j += kStride) {
        for (Index chain = first; chain < last; ++chain) {
          advance_block(form, examples[chain - first] + j, &vectors(chain, 0));
        }
      }
      for (; j < segment; ++j) {
        for (Index chain = first; chain < last; ++chain) {
          advance_one(form, examples[chain - first][j], &vectors(chain, 0));
        }
      }
      done += segment;
      since += segment;
      if (since == renormalise_every || done == steps.steps_per_batch) {
        for (Index chain = first; chain < last; ++chain) {
          log_growth(chain, batch) += renormalise(&vectors(chain, 0), form.dimension());
        }
        since = 0;
      }
    }
  }
}

}  // namespace

template <class Form>
void advance_vectors(const Form& form, const Steps& steps, Index renormalise_every, bool careful, MatrixView vectors,
                     MatrixView log_growth, int n_threads) {
  const Index n_items = (vectors.rows() + kChainsPerItem - 1) / kChainsPerItem;
  for_each_item(n_items, n_threads, [&](Index item, Index) {
    const Index first = item * kChainsPerItem;
    const Index last = std::min(first + kChainsPerItem, vectors.rows());
    advance_item(form, steps, renormalise_every, careful, first, last, vectors, log_growth);
  });
}

template void advance_vectors(const GramForm&, const Steps&, Index, bool, MatrixView, MatrixView, int);
template void advance_vectors(const FactorForm&, const Steps&, Index, bool, MatrixView, MatrixView, int);

}  // namespace sgdstab
