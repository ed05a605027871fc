#include "sgdstab/advance_panels.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "sgdstab/inner_product.hpp"
#include "sgdstab/panel.hpp"
#include "sgdstab/parallel.hpp"

namespace sgdstab {
namespace {

constexpr Index kMaxSegment = 256;       // examples drawn at a time
constexpr Index kOrthogonalAgain = 256;  // steps after which the vectors of a chain are made orthogonal

// K_ij.
double entry(const GramForm& form, Index i, Index j) { return form.row(i)[j]; }
double entry(const FactorForm& form, Index i, Index j) {
  return inner_product(form.row(i), form.row(j), form.dimension());
}

// V -= e_i step.
template <Index kSteps>
void apply(const GramForm&, const std::uint32_t* s, const double* step, double* panel) {
  for (Index j = 0; j < kSteps; ++j) lanes(panel, s[j]) -= lanes(step, j);
}

// V -= sum_j f_{S_j} step_j.
template <Index kSteps>
void apply(const FactorForm& form, const std::uint32_t* s, const double* step, double* panel) {
  for (Index c = 0; c < form.dimension(); ++c) {
    Lanes change = form.row(s[0])[c] * lanes(step, 0);
    for (Index j = 1; j < kSteps; ++j) change += form.row(s[j])[c] * lanes(step, j);
    lanes(panel, c) -= change;
  }
}

// Takes kSteps steps, given rows_S V in `step`.
template <Index kSteps, class Form>
void finish_steps(const Form& form, const Lanes& learning_rates, const std::uint32_t* s, double* step, double* panel) {
  for (Index j = 0; j < kSteps; ++j) {
    Lanes product = lanes(step, j);
    for (Index l = 0; l < j; ++l) product -= entry(form, s[j], s[l]) * lanes(step, l);
    lanes(step, j) = learning_rates * product;
  }
  apply<kSteps>(form, s, step, panel);
}

constexpr auto kBlock = static_cast<Index>(kBlockRows);

template <class Form>
void advance_block(const Form& form, const Lanes& learning_rates, const std::uint32_t* s, double* panel) {
  std::array<const double*, kBlockRows> rows;
  for (std::size_t j = 0; j < kBlockRows; ++j) rows[j] = form.row(s[j]);
  alignas(64) double step[kBlock * kLanes];
  multiply_block(rows, panel, form.dimension(), step);
  finish_steps<kBlock>(form, learning_rates, s, step, panel);
}

template <class Form>
void advance_one(const Form& form, const Lanes& learning_rates, std::uint32_t s, double* panel) {
  const double* row = form.row(s);
  alignas(64) double step[kLanes];
  multiply_rows<1>(&row, panel, form.dimension(), step);
  finish_steps<1>(form, learning_rates, &s, step, panel);
}

// |v|^2 of every lane.
Lanes squared_norms(const double* panel, Index dimension) {
  Lanes even = Lanes::Zero(), odd = Lanes::Zero();
  Index j = 0;
  for (; j + 1 < dimension; j += 2) {
    even += lanes(panel, j).square();
    odd += lanes(panel, j + 1).square();
  }
  if (j < dimension) even += lanes(panel, j).square();
  return even + odd;
}

// Scales every lane to unit norm and returns log(norm); zero lanes stay, with -inf. What has decayed beyond recovery
// becomes 0 before it turns subnormal and slow.
Lanes renormalise(double* panel, Index dimension) {
  constexpr double kNegligible = 1e-280;
  Lanes log_norm = Lanes::Zero(), squares = squared_norms(panel, dimension);
  if (!(squares > kNegligible).all()) {
    // Too small to square, or zero.
    Lanes largest = Lanes::Zero();
    for (Index j = 0; j < dimension; ++j) largest = largest.max(lanes(panel, j).abs());
    const Lanes scale = (largest == 0).select(Lanes::Zero(), 1 / largest);
    for (Index j = 0; j < dimension; ++j) lanes(panel, j) *= scale;
    log_norm = largest.log();
    squares = (largest == 0).select(Lanes::Ones(), squared_norms(panel, dimension));
  }
  const Lanes norm = squares.sqrt(), inverse = 1 / norm;
  for (Index j = 0; j < dimension; ++j) {
    const Lanes scaled = lanes(panel, j) * inverse;
    lanes(panel, j) = (scaled.abs() < kNegligible).select(Lanes::Zero(), scaled);
  }
  return log_norm + norm.log();
}

// Removes from every lane its part along the unit vectors of the same lane in the panels before, twice ("twice is
// enough": Giraud, Langou & Rozloznik, 2005).
Lanes orthonormalise(double* panel, const double* before, Index n_before, Index dimension) {
  Lanes log_norm = renormalise(panel, dimension);
  for (int pass = 0; pass < (n_before > 0 ? 2 : 0); ++pass) {
    for (Index b = 0; b < n_before; ++b) {
      const double* q = before + b * dimension * kLanes;
      Lanes along = Lanes::Zero();
      for (Index j = 0; j < dimension; ++j) along += lanes(q, j) * lanes(panel, j);
      for (Index j = 0; j < dimension; ++j) lanes(panel, j) -= along * lanes(q, j);
    }
    log_norm += renormalise(panel, dimension);
  }
  return log_norm;
}

// Advances the k panels of a chain by n_steps steps, renormalising at the end, and adds to log growth (k x kLanes).
template <class Form>
void advance_chain(const Form& form, const Lanes& learning_rates, const IndexStream& stream, std::uint64_t start,
                   Index n_steps, const VectorOptions& options, double* panels, Index k, double* log_growth) {
  std::uint32_t examples[kMaxSegment];
  const Index size = form.dimension() * kLanes;
  Index since_normal = 0, since_orthogonal = 0;
  for (Index done = 0; done < n_steps;) {
    const Index segment = std::min({kMaxSegment, options.renormalise_every - since_normal, n_steps - done});
    stream.fill(start + static_cast<std::uint64_t>(done), segment, examples);
    for (Index l = 0; l < k; ++l) {
      Index j = 0;
      for (; !options.careful && j + kBlock <= segment; j += kBlock) {
        advance_block(form, learning_rates, examples + j, panels + l * size);
      }
      for (; j < segment; ++j) advance_one(form, learning_rates, examples[j], panels + l * size);
    }
    done += segment;
    since_normal += segment;
    since_orthogonal += segment;
    if (since_normal < options.renormalise_every && done < n_steps) continue;
    // In between it is enough that norms stay in range.
    const bool orthogonal = since_orthogonal >= kOrthogonalAgain || done == n_steps;
    for (Index l = 0; l < k; ++l) {
      lanes(log_growth, l) += orthonormalise(panels + l * size, panels, orthogonal ? l : 0, form.dimension());
    }
    since_normal = 0;
    if (orthogonal) since_orthogonal = 0;
  }
}

}  // namespace

template <class Form>
void advance_panels(const Form& form, const double* learning_rates, const Steps& steps, const VectorOptions& options,
                    const PanelMetrics& metrics, double* panels, Index n_chains, Index n_panels, Index k,
                    PanelSums sums, int n_threads) {
  const Index n_items = n_chains * n_panels, d = form.dimension();
  const Index spacing = metrics.count > 0 ? options.spacing : steps.steps_per_batch;
  std::vector<std::unique_ptr<GrowthWorkspace>> workspaces;
  for (Index worker = 0; metrics.count > 0 && worker < useful_threads(n_items, n_threads); ++worker) {
    workspaces.push_back(std::make_unique<GrowthWorkspace>(form));
  }
  std::fill_n(sums.log_growth, n_items * steps.n_batches * k * kLanes, 0.0);
  std::fill_n(sums.growth, n_items * steps.n_batches * metrics.count * kLanes, 0.0);
  // Chains of a panel one after the other: its metrics stay in the cache.
  for_each_item(n_items, n_threads, [&](Index index, Index worker) {
    const Index panel = index / n_chains, chain = index % n_chains;
    const Lanes eta = ConstLanesView(learning_rates + panel * kLanes);
    const Metrics its = metrics.of_panel(panel, d, form.n_examples());
    const IndexStream stream(steps.key, steps.first_chain + static_cast<std::uint64_t>(chain), form.n_examples());
    double* vectors = panels + (chain * n_panels + panel) * k * d * kLanes;
    for (Index batch = 0; batch < steps.n_batches; ++batch) {
      const Index cell = (chain * steps.n_batches + batch) * n_panels + panel;
      for (Index done = 0; done < steps.steps_per_batch;) {
        const Index n_steps = std::min(spacing, steps.steps_per_batch - done);
        const auto start = steps.first_step + static_cast<std::uint64_t>(batch * steps.steps_per_batch + done);
        advance_chain(form, eta, stream, start, n_steps, options, vectors, k, sums.log_growth + cell * k * kLanes);
        done += n_steps;
        if (its.count > 0 && n_steps == spacing) {
          workspaces[static_cast<std::size_t>(worker)]->add_growth(
              form, eta, its, vectors, kLanes, {sums.growth + cell * metrics.count * kLanes, 1, kLanes});
        }
      }
    }
  });
}

template void advance_panels(const GramForm&, const double*, const Steps&, const VectorOptions&, const PanelMetrics&,
                             double*, Index, Index, Index, PanelSums, int);
template void advance_panels(const FactorForm&, const double*, const Steps&, const VectorOptions&, const PanelMetrics&,
                             double*, Index, Index, Index, PanelSums, int);

}  // namespace sgdstab
