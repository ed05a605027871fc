#include "sgdstab/kernels/panels.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "sgdstab/base/parallel.hpp"
#include "sgdstab/base/unit_vectors.hpp"
#include "sgdstab/steps/single.hpp"

namespace sgdstab {
namespace {

constexpr Index kOrthogonalAgain = 256;  // steps after which the vectors of a chain are made orthogonal

// K_ij.
double entry(const GramRows& rows, Index i, Index j) { return rows.row(i)[j]; }
double entry(const FactorRows& rows, Index i, Index j) {
  return inner_product(rows.row(i), rows.row(j), rows.dimension());
}

// V -= e_i step.
template <Index kSteps>
void apply(const GramRows&, const std::uint32_t* s, const double* step, double* panel) {
  for (Index j = 0; j < kSteps; ++j) lanes(panel, s[j]) -= lanes(step, j);
}

// V -= sum_j f_{S_j} step_j.
template <Index kSteps>
void apply(const FactorRows& rows, const std::uint32_t* s, const double* step, double* panel) {
  for (Index c = 0; c < rows.dimension(); ++c) {
    Lanes change = rows.row(s[0])[c] * lanes(step, 0);
    for (Index j = 1; j < kSteps; ++j) change += rows.row(s[j])[c] * lanes(step, j);
    lanes(panel, c) -= change;
  }
}

// Takes kSteps steps, given rows_S V in `step`.
template <Index kSteps, class Rows>
void finish_steps(const Rows& rows, const Lanes& learning_rates, const std::uint32_t* s, double* step, double* panel) {
  for (Index j = 0; j < kSteps; ++j) {
    Lanes product = lanes(step, j);
    for (Index l = 0; l < j; ++l) product -= entry(rows, s[j], s[l]) * lanes(step, l);
    lanes(step, j) = learning_rates * product;
  }
  apply<kSteps>(rows, s, step, panel);
}

constexpr auto kBlock = static_cast<Index>(kBlockRows);

template <class Rows>
void advance_block(const Rows& rows, const Lanes& learning_rates, const std::uint32_t* s, double* panel) {
  std::array<const double*, kBlockRows> block;
  for (std::size_t j = 0; j < kBlockRows; ++j) block[j] = rows.row(s[j]);
  alignas(64) double step[kBlock * kLanes];
  multiply_block(block, panel, rows.dimension(), step);
  finish_steps<kBlock>(rows, learning_rates, s, step, panel);
}

template <class Rows>
void advance_one(const Rows& rows, const Lanes& learning_rates, std::uint32_t s, double* panel) {
  const double* row = rows.row(s);
  alignas(64) double step[kLanes];
  multiply_rows<1>(&row, panel, rows.dimension(), step);
  finish_steps<1>(rows, learning_rates, &s, step, panel);
}

// Advances the k panels of a chain by n_steps steps, renormalising at the end, and adds to log growth (k x kLanes).
template <class Rows>
void advance_chain(const Rows& rows, const Lanes& learning_rates, const IndexStream& draws, std::uint64_t start,
                   Index n_steps, const PanelOptions& options, double* panels, Index k, double* log_growth) {
  std::uint32_t examples[kMaxSegment];
  const Index size = rows.dimension() * kLanes;
  Index since_normal = 0, since_orthogonal = 0;
  for (Index done = 0; done < n_steps;) {
    const Index segment = std::min({kMaxSegment, options.renormalise_every - since_normal, n_steps - done});
    draws.fill(start + static_cast<std::uint64_t>(done), segment, examples);
    for (Index l = 0; l < k; ++l) {
      Index j = 0;
      for (; !options.careful && j + kBlock <= segment; j += kBlock) {
        advance_block(rows, learning_rates, examples + j, panels + l * size);
      }
      for (; j < segment; ++j) advance_one(rows, learning_rates, examples[j], panels + l * size);
    }
    done += segment;
    since_normal += segment;
    since_orthogonal += segment;
    if (since_normal < options.renormalise_every && done < n_steps) continue;
    // In between it is enough that norms stay in range.
    const bool orthogonal = since_orthogonal >= kOrthogonalAgain || done == n_steps;
    for (Index l = 0; l < k; ++l) {
      lanes(log_growth, l) += orthonormalise<Lanes>(panels + l * size, panels, orthogonal ? l : 0, rows.dimension());
    }
    since_normal = 0;
    if (orthogonal) since_orthogonal = 0;
  }
}

}  // namespace

template <class Rows>
void advance_panels(const Rows& rows, const double* learning_rates, const Stream& stream, const PanelOptions& options,
                    const PanelMetrics& metrics, double* panels, Index n_chains, Index n_panels, Index k,
                    PanelSums sums, int n_threads) {
  const Index n_items = n_chains * n_panels, d = rows.dimension();
  const Index spacing = metrics.count > 0 ? options.spacing : stream.steps_per_batch;
  std::vector<std::unique_ptr<SingleGrowth>> workspaces;
  for (Index worker = 0; metrics.count > 0 && worker < useful_threads(n_items, n_threads); ++worker) {
    workspaces.push_back(std::make_unique<SingleGrowth>(rows));
  }
  std::fill_n(sums.log_growth, n_items * stream.n_batches * k * kLanes, 0.0);
  std::fill_n(sums.growth, n_items * stream.n_batches * metrics.count * kLanes, 0.0);
  // Chains of a panel one after the other: its metrics stay in the cache.
  for_each_item(n_items, n_threads, [&](Index index, Index worker) {
    const Index panel = index / n_chains, chain = index % n_chains;
    const Lanes eta = ConstLanesView(learning_rates + panel * kLanes);
    const SingleMetrics its = metrics.of_panel(panel, d, rows.n_examples());
    const IndexStream draws(stream.key, stream.first_chain + static_cast<std::uint64_t>(chain), rows.n_examples());
    double* vectors = panels + (chain * n_panels + panel) * k * d * kLanes;
    for (Index batch = 0; batch < stream.n_batches; ++batch) {
      const Index cell = (chain * stream.n_batches + batch) * n_panels + panel;
      for (Index done = 0; done < stream.steps_per_batch;) {
        const Index n_steps = std::min(spacing, stream.steps_per_batch - done);
        const auto start = stream.first_step + static_cast<std::uint64_t>(batch * stream.steps_per_batch + done);
        advance_chain(rows, eta, draws, start, n_steps, options, vectors, k, sums.log_growth + cell * k * kLanes);
        done += n_steps;
        if (its.count > 0 && n_steps == spacing) {
          workspaces[static_cast<std::size_t>(worker)]->add_growth(
              rows, eta, its, vectors, kLanes, {sums.growth + cell * metrics.count * kLanes, 1, kLanes});
        }
      }
    }
  });
}

template void advance_panels(const GramRows&, const double*, const Stream&, const PanelOptions&, const PanelMetrics&,
                             double*, Index, Index, Index, PanelSums, int);
template void advance_panels(const FactorRows&, const double*, const Stream&, const PanelOptions&, const PanelMetrics&,
                             double*, Index, Index, Index, PanelSums, int);

}  // namespace sgdstab
