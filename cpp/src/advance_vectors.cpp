#include "sgdstab/advance_vectors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sgdstab/parallel.hpp"

namespace sgdstab {
namespace {

constexpr Index kBlock = 4;          // steps taken together: one pass over v serves four dot products
constexpr Index kChainsPerItem = 4;  // interleaved, so that one chain's recursion hides behind another's products
constexpr Index kMaxSegment = 256;   // examples drawn at a time

using Products = Eigen::Array<double, kBlock, 1>;
using Packet = Eigen::internal::packet_traits<double>::type;  // as wide as the SIMD level

// (a_0 . v, .., a_3 . v) for four rows of length n.
Products four_products(const double* const (&a)[kBlock], const double* v, Index n) {
  using namespace Eigen::internal;
  constexpr Index kWidth = packet_traits<double>::size;
  // Two accumulators a row keep as many multiply-adds in flight as their latency asks for.
  Packet even[kBlock], odd[kBlock];
  for (Index b = 0; b < kBlock; ++b) even[b] = odd[b] = pset1<Packet>(0.0);
  Index j = 0;
  for (; j + 2 * kWidth <= n; j += 2 * kWidth) {
    const Packet x = ploadu<Packet>(v + j), y = ploadu<Packet>(v + j + kWidth);
    for (Index b = 0; b < kBlock; ++b) {
      even[b] = pmadd(ploadu<Packet>(a[b] + j), x, even[b]);
      odd[b] = pmadd(ploadu<Packet>(a[b] + j + kWidth), y, odd[b]);
    }
  }
  Products products;
  for (Index b = 0; b < kBlock; ++b) products[b] = predux(padd(even[b], odd[b]));
  for (; j < n; ++j) {
    for (Index b = 0; b < kBlock; ++b) products[b] += a[b][j] * v[j];
  }
  return products;
}

void advance_block(const GramForm& form, const std::uint32_t* s, double* v) {
  const double* const k[kBlock] = {form.row(s[0]), form.row(s[1]), form.row(s[2]), form.row(s[3])};
  // eta r_j = eta (P_j - sum_{l<j} K_{S_j S_l} eta r_l)
  Products step = form.learning_rate * four_products(k, v, form.dimension());
  for (Index j = 1; j < kBlock; ++j) {
    double coupled = 0;
    for (Index l = 0; l < j; ++l) coupled += k[j][s[l]] * step[l];
    step[j] -= form.learning_rate * coupled;
  }
  for (Index j = 0; j < kBlock; ++j) v[s[j]] -= step[j];
}

void advance_one(const GramForm& form, std::uint32_t s, double* v) {
  const Eigen::Map<const Eigen::VectorXd> row(form.row(s), form.dimension());
  const VectorView vector(v, form.dimension());
  v[s] -= form.learning_rate * row.dot(vector);
}

void advance_one(const FactorForm& form, std::uint32_t s, double* v) {
  const Eigen::Map<const Eigen::VectorXd> feature(form.row(s), form.dimension());
  VectorView vector(v, form.dimension());
  vector -= form.learning_rate * feature.dot(vector) * feature;
}

void advance_block(const FactorForm& form, const std::uint32_t* s, double* v) {
  for (Index j = 0; j < kBlock; ++j) advance_one(form, s[j], v);
}

// Scales v to unit norm and returns log(norm); a zero vector stays, with -inf. Components that have decayed
// beyond recovery (another block of a reducible K) become 0 before they turn subnormal and slow.
double renormalise(double* v, Index dimension) {
  constexpr double kNegligible = 1e-280;
  VectorView vector(v, dimension);
  const double largest = vector.cwiseAbs().maxCoeff();
  if (largest == 0) return -std::numeric_limits<double>::infinity();
  vector *= 1 / largest;
  const double norm = vector.norm();
  vector *= 1 / norm;
  for (Index j = 0; j < dimension; ++j) v[j] = std::abs(v[j]) < kNegligible ? 0.0 : v[j];
  return std::log(largest) + std::log(norm);
}

// One work item: up to kChainsPerItem chains, advanced side by side.
template <class Form>
void advance_item(const Form& form, const Steps& steps, Index renormalise_every, Index first, Index last,
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
      Index j = 0;
      for (; j + kBlock <= segment; j += kBlock) {
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
void advance_vectors(const Form& form, const Steps& steps, Index renormalise_every, MatrixView vectors,
                     MatrixView log_growth, int n_threads) {
  const Index n_items = (vectors.rows() + kChainsPerItem - 1) / kChainsPerItem;
  for_each_item(n_items, n_threads, [&](Index item, Index) {
    const Index first = item * kChainsPerItem;
    const Index last = std::min(first + kChainsPerItem, vectors.rows());
    advance_item(form, steps, renormalise_every, first, last, vectors, log_growth);
  });
}

template void advance_vectors(const GramForm&, const Steps&, Index, MatrixView, MatrixView, int);
template void advance_vectors(const FactorForm&, const Steps&, Index, MatrixView, MatrixView, int);

}  // namespace sgdstab
