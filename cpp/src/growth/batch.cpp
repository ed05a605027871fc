#include "sgdstab/growth/batch.hpp"

#include <limits>

namespace sgdstab {
namespace {

// 1 + x is a squared norm, relative: what rounding leaves of one that a step destroys.
constexpr double kLeast = 0x1p-50;

std::vector<double> panel(Index n) { return std::vector<double>(static_cast<std::size_t>(n * kLanes)); }

Lanes inner(const double* a, const double* b, Index n) {
  Lanes sum = Lanes::Zero();
  for (Index j = 0; j < n; ++j) sum += lanes(a, j) * lanes(b, j);
  return sum;
}

Lanes half_log1p(const Lanes& x) { return x.max(kLeast - 1).log1p() / 2; }
double half_log1p(double x) { return std::log1p(std::max(x, kLeast - 1)) / 2; }

}  // namespace

template <class Rows>
BatchGrowth<Rows>::BatchGrowth(const BatchSteps<Rows>& steps, const BatchMetrics& metrics)
    : steps_(steps), metrics_(metrics), draws_(steps.law, metrics.n_trials) {
  const Index n = steps.n_examples(), d = steps.rows.dimension(), whole = steps.dimension();
  const auto n_rows = static_cast<std::size_t>(n);
  z_ = panel(whole);
  image_ = panel(whole);
  metric_image_ = panel(whole);
  read_ = panel(d);
  w_ = panel(n);
  y_ = panel(n * metrics.count);
  weighted_ = panel(n);
  product_ = panel(n);
  linear_ = panel(steps.law.n_units);
  pairs_ = panel(steps.law.n_units);
  lane_w_.resize(n_rows);
  lane_y_.resize(n_rows * static_cast<std::size_t>(metrics.count));
  const Index most = steps.law.batch_size * most_rows_of_a_unit(steps.law);
  trial_.resize(static_cast<std::size_t>(most));
  trial_w_.resize(static_cast<std::size_t>(most));
  terms_.resize(static_cast<std::size_t>(metrics.count));
}

template <class Rows>
void BatchGrowth<Rows>::add_growth(const double* vectors, Index stride, Index n_vectors, const GrowthSums& sums,
                                   const StreamKey& key, std::uint64_t first_chain, std::uint64_t step) {
  const Rows& rows = steps_.rows;
  const Index n = rows.n_examples(), d = rows.dimension(), whole = steps_.dimension();
  for (Index j = 0; j < whole; ++j) {
    for (Index v = 0; v < kLanes; ++v) z_[j * kLanes + v] = v < n_vectors ? vectors[v * stride + j] : 0.0;
  }
  // Panels are vectors of kLanes times the length, as far as levels are concerned.
  using Stepper = BatchStepper<Rows>;
  const double* at = Stepper::read(steps_.recurrence, d * kLanes, z_.data(), read_.data());
  multiply_panel(rows.matrix.data(), n, rows.matrix.outerStride(), at, d, w_.data());
  Stepper::move_freely(steps_.recurrence, d * kLanes, z_.data(), image_.data());
  for (Index m = 0; m < metrics_.count; ++m) terms_[m] = measure(m);
  if (metrics_.n_trials == 0) {
    for (Index m = 0; m < metrics_.count; ++m) add_exactly(m, terms_[m], n_vectors, sums);
    return;
  }
  for (Index m = 0; m < metrics_.count; ++m) expect(m, terms_[m]);
  const auto n_trials = static_cast<double>(metrics_.n_trials);
  for (Index v = 0; v < n_vectors; ++v) {
    for (Index i = 0; i < n; ++i) lane_w_[i] = w_[i * kLanes + v];
    for (Index i = 0; i < n * metrics_.count; ++i) lane_y_[i] = y_[i * kLanes + v];
    draws_.fill_trials(key, first_chain + static_cast<std::uint64_t>(v), step, metrics_.n_trials);
    for (Index m = 0; m < metrics_.count; ++m) {
      const Terms& terms = terms_[m];
      double growth = 0, first = 0, second = 0;
      for (Index t = 0; t < metrics_.n_trials; ++t) {
        Index size = 0;
        for (const std::uint32_t unit : draws_.trial(t)) {
          for (Index r = 0; r < n_rows_of(steps_.law, unit); ++r) trial_[size++] = row_of(steps_.law, unit, r);
        }
        const double* couplings = metrics_.couplings + m * n * n;
        double along = 0, within = 0;
        for (Index a = 0; a < size; ++a) {
          const Index i = trial_[a];
          const double* g = couplings + i * n;
          const double w = trial_w_[a] = lane_w_[i];
          along += w * lane_y_[m * n + i];
          double before = 0;
          for (Index b = 0; b < a; ++b) before += g[trial_[b]] * trial_w_[b];
          within += w * (2 * before + g[i] * w);
        }
        const double c = this->size(), x = c * (c * within - 2 * along) * terms.scale[v];
        growth += half_log1p(x);
        first += x;
        second += x * x;
      }
      const double plain = growth / n_trials + terms.log_ratio[v];
      const double linear = plain - (first / n_trials - terms.mean[v]) / 2;
      const double quadratic = linear + (second / n_trials - terms.mean_square[v]) / 4;
      const double lost = -std::numeric_limits<double>::infinity();
      const double columns[] = {plain, linear, quadratic};
      for (Index column = 0; column < BatchMetrics::kColumns; ++column) {
        sums.sums[v * sums.vector_stride + (m * BatchMetrics::kColumns + column) * sums.metric_stride] +=
            terms.norm[v] == 0 ? lost : columns[column];
      }
    }
  }
}

template <class Rows>
typename BatchGrowth<Rows>::Terms BatchGrowth<Rows>::measure(Index metric) {
  const Rows& rows = steps_.rows;
  const Index n = rows.n_examples(), d = rows.dimension(), whole = steps_.dimension();
  const double* matrix = metrics_.matrices + metric * whole * whole;
  Terms terms;
  terms.log_ratio.setZero();
  if (!steps_.recurrence.is_plain()) {
    multiply_panel(matrix, whole, whole, z_.data(), whole, metric_image_.data());
    terms.log_ratio = -inner(z_.data(), metric_image_.data(), whole).log() / 2;
  }
  multiply_panel(matrix, whole, whole, image_.data(), whole, metric_image_.data());
  terms.norm = inner(image_.data(), metric_image_.data(), whole);
  terms.scale = (terms.norm > 0).select(1 / terms.norm, Lanes::Zero());
  if (!steps_.recurrence.is_plain()) terms.log_ratio += terms.norm.log() / 2;
  double* y = y_.data() + metric * n * kLanes;
  if constexpr (Rows::kGram) {
    std::copy_n(metric_image_.data(), n * kLanes, y);
  } else {
    multiply_panel(rows.matrix.data(), n, rows.matrix.outerStride(), metric_image_.data(), d, y);
  }
  return terms;
}

template <class Rows>
Lanes BatchGrowth<Rows>::coupling(const double* g, Index u, Index v) const {
  const Law& law = steps_.law;
  const Index n = steps_.n_examples();
  Lanes sum = Lanes::Zero();
  for (Index a = 0; a < n_rows_of(law, u); ++a) {
    const Index i = row_of(law, u, a);
    Lanes image = Lanes::Zero();
    for (Index b = 0; b < n_rows_of(law, v); ++b) {
      const Index j = row_of(law, v, b);
      image += g[i * n + j] * lanes(w_.data(), j);
    }
    sum += lanes(w_.data(), i) * image;
  }
  return sum;
}

template <class Rows>
void BatchGrowth<Rows>::add_exactly(Index metric, const Terms& terms, Index n_vectors, const GrowthSums& sums) {
  const Law& law = steps_.law;
  const Index n = steps_.n_examples();
  const double *g = metrics_.couplings + metric * n * n, *y = y_.data() + metric * n * kLanes;
  const double c = size();
  Lanes growth = terms.log_ratio;
  for (Index u = 0; u < law.n_units; ++u) {
    Lanes along = Lanes::Zero();
    for (Index a = 0; a < n_rows_of(law, u); ++a) {
      const Index i = row_of(law, u, a);
      along += lanes(w_.data(), i) * lanes(y, i);
    }
    growth += metrics_.probabilities[u] * half_log1p(c * (c * coupling(g, u, u) - 2 * along) * terms.scale);
  }
  for (Index v = 0; v < n_vectors; ++v) {
    sums.sums[v * sums.vector_stride + metric * sums.metric_stride] +=
        terms.norm[v] == 0 ? -std::numeric_limits<double>::infinity() : growth[v];
  }
}

// E x and E x^2 over batches S, x = sum_{u in S} l_u + sum_{u != v in S} r_uv. With R_u = sum_v r_uv, sums over
// distinct examples follow from sums over all by taking out those that coincide. Draws with replacement may coincide:
// there r_uu is part of the sums over pairs, and sums are means under the probabilities.
template <class Rows>
void BatchGrowth<Rows>::expect(Index metric, Terms& terms) {
  const Law& law = steps_.law;
  const bool repeats = law.sampling == Sampling::with_replacement;
  const Index n = steps_.n_examples(), n_units = law.n_units;
  const double *g = metrics_.couplings + metric * n * n, *y = y_.data() + metric * n * kLanes;
  const double c = size();
  const Lanes linear_scale = -2 * c * terms.scale, pair_scale = c * c * terms.scale;
  const auto weight = [&](Index u) { return repeats ? metrics_.probabilities[u] : 1.0; };
  for (Index u = 0; u < n_units; ++u) {
    for (Index a = 0; a < n_rows_of(law, u); ++a) {
      const Index i = row_of(law, u, a);
      lanes(weighted_.data(), i) = weight(u) * lanes(w_.data(), i);
    }
  }
  multiply_panel(g, n, n, weighted_.data(), n, product_.data());
  Lanes l1 = Lanes::Zero(), l2 = l1, lr = l1, r1 = l1, r2 = l1, pairs = l1;
  for (Index u = 0; u < n_units; ++u) {
    Lanes along = Lanes::Zero(), all = Lanes::Zero();
    for (Index a = 0; a < n_rows_of(law, u); ++a) {
      const Index i = row_of(law, u, a);
      along += lanes(w_.data(), i) * lanes(y, i);
      all += lanes(w_.data(), i) * lanes(product_.data(), i);
    }
    const Lanes own = pair_scale * coupling(g, u, u);
    const Lanes l = linear_scale * along + own;
    const Lanes r = repeats ? Lanes(pair_scale * all) : Lanes(pair_scale * all - own);
    const double p = weight(u);
    l1 += p * l;
    l2 += p * l * l;
    lr += p * l * r;
    r1 += p * r;
    r2 += p * r * r;
    if (repeats) pairs += p * p * own * own;
    Lanes others = Lanes::Zero();
    if (law.offsets == nullptr) {
      for (Index v = 0; v < u; ++v) {
        const Lanes t = g[u * n + v] * lanes(w_.data(), v);
        others += weight(v) * t * t;
      }
      others *= lanes(w_.data(), u).square();
    } else {
      for (Index v = 0; v < u; ++v) others += weight(v) * coupling(g, u, v).square();
    }
    pairs += 2 * p * others * pair_scale.square();
  }
  // Probabilities of 1, 2, 3 and 4 different examples to be in the batch; with replacement, numbers of tuples of draws.
  double in[4], left = 1;
  for (int k = 0; k < 4; ++k) {
    left *= static_cast<double>(law.batch_size - k);
    if (!repeats) left /= static_cast<double>(std::max<Index>(n_units - k, 1));
    in[k] = left;
  }
  terms.mean = in[0] * l1 + in[1] * r1;
  if (repeats) {
    terms.mean_square =
        in[0] * l2 + in[1] * (l1 * l1 + 4 * lr + 2 * pairs) + in[2] * (2 * l1 * r1 + 4 * r2) + in[3] * r1 * r1;
  } else {
    terms.mean_square = in[0] * l2 + in[1] * (l1 * l1 - l2 + 4 * lr + 2 * pairs) +
                        in[2] * (2 * (l1 * r1 - 2 * lr) + 4 * (r2 - pairs)) + in[3] * (r1 * r1 - 4 * r2 + 2 * pairs);
  }
}

template class BatchGrowth<GramRows>;
template class BatchGrowth<FactorRows>;
template class BatchGrowth<GramRows32>;
template class BatchGrowth<FactorRows32>;

}  // namespace sgdstab
