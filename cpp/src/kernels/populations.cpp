#include "sgdstab/kernels/populations.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "sgdstab/base/parallel.hpp"
#include "sgdstab/base/unit_vectors.hpp"
#include "sgdstab/steps/single.hpp"

namespace sgdstab {
namespace {

constexpr Index kFirstInterval = 4, kFirstTilted = 16;  // steps to the first look at the weights
constexpr double kFewerLooks = 0.9, kMoreLooks = 0.7;   // effective size over that of the look before
constexpr std::uint64_t kResampling = 2;                // the counter's last word: 0 for steps, 1 for initial states
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Buffers of one thread.
struct Workspace {
  Workspace(const AnyRows& rows, const PopulationOptions& options, Index n_metrics, Index size)
      : tilted(options.gauge == nullptr ? nullptr
                                        : std::make_unique<TiltedSteps>(rows, *options.gauge, options.order,
                                                                        options.n_vectors, options.n_passive)),
        growth(n_metrics > 0 ? std::make_unique<SingleGrowth>(rows) : nullptr),
        squared_norms(static_cast<std::size_t>(n_metrics * kLanes)),
        mean_growth(squared_norms.size()),
        weights(static_cast<std::size_t>(size)),
        offspring(weights.size()) {}

  std::unique_ptr<TiltedSteps> tilted;
  std::unique_ptr<SingleGrowth> growth;
  std::vector<double> squared_norms, mean_growth;  // n_metrics x kLanes
  std::vector<double> weights;                     // of the walkers, over the largest
  std::vector<Index> offspring;
};

// The walkers of one population.
struct Population {
  double* walkers;
  Index size, dimension, n_vectors;  // passive ones included
  std::uint64_t index;               // names its streams

  std::uint64_t stream(Index j) const {
    return index * static_cast<std::uint64_t>(size) + static_cast<std::uint64_t>(j);
  }

  Index stride() const { return n_vectors * dimension + 2; }
  double* walker(Index j) const { return walkers + j * stride(); }
  double& log_weight(Index j) const { return walker(j)[n_vectors * dimension]; }
  double& log_norm(Index j) const { return walker(j)[n_vectors * dimension + 1]; }
};

// Sum and sum of squares of the weights over the largest, which they are left with in the workspace.
struct Weights {
  double log_largest, sum, squares;

  double effective_size() const { return squares > 0 ? sum * sum / squares : 0; }
};

Weights weigh(const Population& population, Workspace& workspace) {
  Weights weights{-kInfinity, 0, 0};
  for (Index j = 0; j < population.size; ++j)
    weights.log_largest = std::max(weights.log_largest, population.log_weight(j));
  for (Index j = 0; j < population.size; ++j) {
    // Walkers of infinite weight, annihilated at a negative order, outweigh all others.
    const double difference = population.log_weight(j) - weights.log_largest;
    const double weight = std::isinf(weights.log_largest) ? 0.0 : std::exp(difference);
    workspace.weights[static_cast<std::size_t>(j)] = weight;
    weights.sum += weight;
    weights.squares += weight * weight;
  }
  return weights;
}

// Systematic resampling (Carpenter, Clifford & Fearnhead, "Improved particle filter for nonlinear problems", IEE
// Proceedings - Radar, Sonar and Navigation 146, 1999): with u uniform in [0, 1), offspring k + 1 has the first walker
// whose cumulative weight exceeds (u + k) / size.
void resample(const Population& population, const Weights& weights, const StreamKey& key, std::uint64_t step,
              Workspace& workspace) {
  const std::uint64_t bits = philox4x64({step, 0, population.index, kResampling}, key)[0];
  double next = static_cast<double>(bits >> 11) * 0x1p-53, cumulative = 0;
  const double share = static_cast<double>(population.size) / weights.sum;
  Index given = 0;
  for (Index j = 0; j < population.size; ++j) {
    cumulative += workspace.weights[static_cast<std::size_t>(j)] * share;
    Index& offspring = workspace.offspring[static_cast<std::size_t>(j)];
    for (offspring = 0; next < cumulative && given < population.size; ++offspring, ++given) next += 1;
  }
  // Rounding may leave one over, for the heaviest.
  const auto heaviest =
      std::max_element(workspace.weights.begin(), workspace.weights.end()) - workspace.weights.begin();
  workspace.offspring[static_cast<std::size_t>(heaviest)] += population.size - given;
  Index free = 0;
  for (Index j = 0; j < population.size; ++j) {
    for (; workspace.offspring[static_cast<std::size_t>(j)] > 1; --workspace.offspring[static_cast<std::size_t>(j)]) {
      while (workspace.offspring[static_cast<std::size_t>(free)] > 0) ++free;
      std::copy_n(population.walker(j), population.stride(), population.walker(free));
      workspace.offspring[static_cast<std::size_t>(free)] = 1;
    }
  }
  const double log_mean = weights.log_largest + std::log(weights.sum / static_cast<double>(population.size));
  for (Index j = 0; j < population.size; ++j) population.log_weight(j) = log_mean;
}

// Takes n_steps steps of every walker and puts the growth of norms into norms and weights.
template <class Rows>
void advance_walkers(const SingleSteps<Rows>& steps, const Population& population, const StreamKey& key,
                     std::uint64_t start, Index n_steps, const PopulationOptions& options) {
  std::uint32_t examples[kSideBySide][kMaxSegment];
  for (Index first = 0; first < population.size; first += kSideBySide) {
    const Index n = std::min(kSideBySide, population.size - first);
    for (Index j = 0; j < n; ++j) {
      IndexStream(key, population.stream(first + j), steps.n_examples()).fill(start, n_steps, examples[j]);
    }
    take_steps(steps, examples, n_steps, options.careful, n, options.n_vectors,
               [&](Index j, Index l) { return population.walker(first + j) + l * population.dimension; });
    for (Index j = first; j < first + n; ++j) {
      const double log_growth = renormalise<double>(population.walker(j), options.n_vectors * population.dimension);
      population.log_norm(j) += log_growth;
      if (options.order != 0) population.log_weight(j) += options.order * log_growth;
    }
  }
}

// The same in tilted steps.
template <class Rows>
void advance_tilted(const SingleSteps<Rows>& steps, const Population& population, const StreamKey& key,
                    std::uint64_t start, Index n_steps, TiltedSteps& tilted) {
  for (Index j = 0; j < population.size; ++j) {
    const TiltedSteps::Growth growth =
        tilted.advance(steps, key, population.stream(j), start, n_steps, population.walker(j));
    population.log_norm(j) += growth.log_norm;
    population.log_weight(j) += growth.log_weight;
  }
}

// Makes the passive vector of every walker as long as the first one and orthogonal to it; returns log(length of the
// first / length of the orthogonal part), on weighted average.
double separate(const Population& population, Index n_vectors) {
  const Index d = population.dimension;
  double sum = 0;
  for (Index j = 0; j < population.size; ++j) {
    if (!std::isfinite(population.log_weight(j))) continue;  // annihilated
    const VectorView first(population.walker(j), d);
    VectorView passive(population.walker(j) + n_vectors * d, d);
    const double length = std::sqrt(inner_product(first.data(), first.data(), d));
    double log_length = 0;
    for (int pass = 0; pass < 2; ++pass) {  // "twice is enough"
      log_length += renormalise<double>(passive.data(), d);
      const double along = inner_product(first.data(), passive.data(), d) / (length * length);
      for (Index i = 0; i < d; ++i) passive[i] -= along * first[i];
    }
    log_length += renormalise<double>(passive.data(), d);
    passive *= length;
    sum += std::exp(population.log_weight(j)) * (std::log(length) - log_length);
  }
  return sum / static_cast<double>(population.size);
}

// Advances a population by a batch, looking at its weights at intervals that follow how fast they spread.
template <class Rows>
void advance_batch(const SingleSteps<Rows>& steps, const Population& population, const Stream& stream,
                   std::uint64_t start, const PopulationOptions& options, Workspace& workspace) {
  const auto size = static_cast<double>(population.size);
  Index interval = workspace.tilted ? kFirstTilted : kFirstInterval;
  double effective = weigh(population, workspace).effective_size();
  for (Index done = 0; done < stream.steps_per_batch;) {
    const Index segment = std::min({interval, kMaxSegment, options.renormalise_every, stream.steps_per_batch - done});
    const std::uint64_t from = start + static_cast<std::uint64_t>(done);
    if (workspace.tilted) {
      advance_tilted(steps, population, stream.key, from, segment, *workspace.tilted);
    } else {
      advance_walkers(steps, population, stream.key, from, segment, options);
    }
    done += segment;
    if (options.order == 0) {
      interval = kMaxSegment;
      continue;
    }
    const Weights weights = weigh(population, workspace);
    const double ratio = weights.effective_size() / effective;
    if (ratio > kFewerLooks) interval *= 2;
    if (ratio < kMoreLooks) interval = std::max<Index>(interval / 2, 1);
    effective = weights.effective_size();
    if (effective < options.least_share * size && weights.sum > 0) {
      resample(population, weights, stream.key, start + static_cast<std::uint64_t>(done), workspace);
      effective = size;
    }
  }
}

// Scales the weights to a mean of 1 and returns the log of what it was.
double normalise_weights(const Population& population, const Weights& weights) {
  const double log_mean = std::isinf(weights.log_largest)
                              ? weights.log_largest
                              : weights.log_largest + std::log(weights.sum / static_cast<double>(population.size));
  for (Index j = 0; j < population.size; ++j) {
    population.log_weight(j) = std::isinf(log_mean) ? 0.0 : population.log_weight(j) - log_mean;
  }
  return log_mean;
}

// X_M and E_M for every metric.
template <class Rows>
void evaluate(const SingleSteps<Rows>& steps, const Population& population, const Weights& weights, double order,
              const SingleMetrics& metrics, Workspace& workspace, double* norms, double* excess) {
  for (Index first = 0; first < population.size; first += kLanes) {
    const Index n = std::min(kLanes, population.size - first);
    workspace.growth->evaluate_moments(steps, order, metrics, population.walker(first), population.stride(), n,
                                       workspace.squared_norms.data(), workspace.mean_growth.data());
    for (Index m = 0; m < metrics.count; ++m) {
      Lanes powers = Lanes::Ones();
      if (order != 0) powers = (order / 2 * lanes(workspace.squared_norms.data(), m).log()).exp();
      for (Index j = 0; j < n; ++j) {
        const double weight = workspace.weights[static_cast<std::size_t>(first + j)] / weights.sum;
        if (weight == 0) continue;
        norms[m] += weight * powers[j];
        excess[m] += weight * powers[j] * workspace.mean_growth[static_cast<std::size_t>(m * kLanes + j)];
      }
    }
  }
}

}  // namespace

template <class Rows>
void advance_populations(const SingleSteps<Rows>& steps, const Stream& stream, const PopulationOptions& options,
                         const SingleMetrics& metrics, double* walkers, Index n_populations, Index size,
                         PopulationSums sums, int n_threads) {
  std::vector<std::unique_ptr<Workspace>> workspaces;
  for (Index worker = 0; worker < useful_threads(n_populations, n_threads); ++worker) {
    workspaces.push_back(std::make_unique<Workspace>(steps.rows, options, metrics.count, size));
  }
  std::fill_n(sums.norms, n_populations * stream.n_batches * metrics.count, 0.0);
  std::fill_n(sums.excess, n_populations * stream.n_batches * metrics.count, 0.0);
  for_each_item(n_populations, n_threads, [&](Index c, Index worker) {
    Workspace& workspace = *workspaces[static_cast<std::size_t>(worker)];
    Population population{walkers, size, steps.dimension(), options.n_vectors + options.n_passive,
                          stream.first_chain + static_cast<std::uint64_t>(c)};
    population.walkers += c * size * population.stride();
    for (Index batch = 0; batch < stream.n_batches; ++batch) {
      const auto start = stream.first_step + static_cast<std::uint64_t>(batch * stream.steps_per_batch);
      if (options.n_passive > 0) separate(population, options.n_vectors);
      advance_batch(steps, population, stream, start, options, workspace);
      const Weights weights = weigh(population, workspace);
      const Index record = c * stream.n_batches + batch;
      sums.log_growth[record] = normalise_weights(population, weights);
      sums.effective_size[record] = weights.effective_size();
      sums.separation[record] = options.n_passive > 0 ? separate(population, options.n_vectors) : 0.0;
      if (metrics.count > 0 && weights.sum > 0) {
        evaluate(steps, population, weights, options.order, metrics, workspace, sums.norms + record * metrics.count,
                 sums.excess + record * metrics.count);
      }
    }
  });
}

template void advance_populations(const SingleSteps<GramRows>&, const Stream&, const PopulationOptions&,
                                  const SingleMetrics&, double*, Index, Index, PopulationSums, int);
template void advance_populations(const SingleSteps<FactorRows>&, const Stream&, const PopulationOptions&,
                                  const SingleMetrics&, double*, Index, Index, PopulationSums, int);

}  // namespace sgdstab
