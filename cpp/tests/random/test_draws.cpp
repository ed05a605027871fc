// Batches against their laws: chi-square statistics of 1e5 draws, exact identities wherever there are any.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "sgdstab/random/draws.hpp"

using namespace sgdstab;

namespace {

constexpr StreamKey kKey{11, 22};
constexpr Index kDraws = 100'000;
using Batch = std::vector<std::uint32_t>;

// A chi-square variable in units of standard deviations (Wilson and Hilferty): beyond 4 with probability 3e-5.
double normal_score(double chi_square, double degrees) {
  const double variance = 2 / (9 * degrees);
  return (std::cbrt(chi_square / degrees) - (1 - variance)) / std::sqrt(variance);
}

// Of counts whose expectations these are.
double normal_score(const std::vector<double>& counts, const std::vector<double>& expected) {
  double chi_square = 0, cells = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0) CHECK(counts[i] == 0);
    if (expected[i] == 0) continue;
    chi_square += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i];
    ++cells;
  }
  return normal_score(chi_square, cells - 1);
}

// Of events that all have the same probability; n_events of them are possible.
double normal_score(const std::map<Batch, Index>& events, std::size_t n_events) {
  std::vector<double> counts(n_events);
  CHECK(events.size() <= n_events);
  std::transform(events.begin(), events.end(), counts.begin(), [](const auto& event) { return event.second; });
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  return normal_score(counts, std::vector<double>(n_events, total / static_cast<double>(n_events)));
}

Batch copy(std::span<const std::uint32_t> batch) { return {batch.begin(), batch.end()}; }
Batch sorted(Batch batch) {
  std::sort(batch.begin(), batch.end());
  return batch;
}

// Takes n_steps steps, at most `piece` at a time; use(step, batch of units).
template <class Use>
void take(Draws& draws, std::uint64_t chain, std::uint64_t first, Index n_steps, Index piece, const Use& use) {
  for (Index done = 0; done < n_steps;) {
    const Index n = draws.fill(kKey, chain, first + static_cast<std::uint64_t>(done), std::min(piece, n_steps - done));
    REQUIRE(n > 0);
    for (Index j = 0; j < n; ++j) {
      REQUIRE(draws.units(j).size() == static_cast<std::size_t>(draws.n_drawn(j)));
      use(done + j, copy(draws.units(j)));
    }
    done += n;
  }
}

std::vector<Batch> batches(Draws& draws, std::uint64_t chain, std::uint64_t first, Index n_steps, Index piece = 1000) {
  std::vector<Batch> all;
  take(draws, chain, first, n_steps, piece, [&](Index, const Batch& batch) { all.push_back(batch); });
  return all;
}

std::vector<double> cumulative(const std::vector<double>& probabilities) {
  std::vector<double> sums(probabilities.size());
  std::partial_sum(probabilities.begin(), probabilities.end(), sums.begin());
  for (double& sum : sums) sum /= sums.back();
  return sums;
}

const std::vector<double> kProbabilities{0, 0.1, 0.25, 0, 0, 0.4, 0.05, 0.2, 0};
const std::vector<double> kCumulative = cumulative(kProbabilities);
constexpr Index kWeightedUnits = 9;

std::vector<Law> laws() {
  return {{Sampling::iid, 37, 1},
          {Sampling::iid, 37, 5},
          {Sampling::iid, 37, 30},
          {Sampling::iid, 300, 140},
          {Sampling::iid, 37, 37},
          {Sampling::with_replacement, 37, 5},
          {Sampling::with_replacement, kWeightedUnits, 3, kCumulative.data()},
          {Sampling::iid, kWeightedUnits, 1, kCumulative.data()},
          {Sampling::epoch, 37, 1},
          {Sampling::epoch, 37, 5},
          {Sampling::epoch, 300, 299},
          {Sampling::epoch, 4, 1},
          {Sampling::cyclic, 37, 5}};
}

}  // namespace

TEST_CASE("single units, and draws with replacement, are those of the index stream") {
  for (const Index n : {Index{1}, Index{2}, Index{3}, Index{256}, Index{3} << 29}) {  // a quarter rejected in the last
    for (const Law& law :
         {Law{Sampling::iid, n, 1}, Law{Sampling::with_replacement, n, 1}, Law{Sampling::with_replacement, n, 3}}) {
      Draws draws(law);
      Batch stream(static_cast<std::size_t>(1000 * law.batch_size)), drawn;
      IndexStream(kKey, 3, n)
          .fill(static_cast<std::uint64_t>(77 * law.batch_size), 1000 * law.batch_size, stream.data());
      take(draws, 3, 77, 1000, 1000,
           [&](Index, const Batch& batch) { drawn.insert(drawn.end(), batch.begin(), batch.end()); });
      CHECK(drawn == stream);
    }
  }
}

TEST_CASE("batches do not depend on where a run is cut, nor on other chains in between") {
  for (const Law& law : laws()) {
    Draws draws(law);
    const std::vector<Batch> whole = batches(draws, 3, 5, 100), other = batches(draws, 4, 5, 100);
    CHECK((whole == other) == (law.sampling == Sampling::cyclic || law.batch_size == law.n_units));
    for (const Index piece : {1, 2, 7, 60}) CHECK(batches(draws, 3, 5, 100, piece) == whole);
    Index step = 99;
    for (; step >= 0; step -= 3) {
      CHECK(batches(draws, 3, 5 + static_cast<std::uint64_t>(step), 1)[0] == whole[static_cast<std::size_t>(step)]);
      CHECK(batches(draws, 4, 5 + static_cast<std::uint64_t>(step), 1)[0] == other[static_cast<std::size_t>(step)]);
    }
  }
}

TEST_CASE("all subsets are equally likely") {
  for (const auto& [n, b, n_subsets] : {std::array<Index, 3>{5, 2, 10}, {5, 3, 10}, {7, 3, 35}, {7, 6, 7}, {2, 2, 1}}) {
    Draws draws({Sampling::iid, n, b});
    std::map<Batch, Index> counts;
    take(draws, 1, 0, kDraws, 1000, [&](Index, const Batch& batch) {
      REQUIRE(std::set<std::uint32_t>(batch.begin(), batch.end()).size() == static_cast<std::size_t>(b));
      ++counts[sorted(batch)];
    });
    if (n_subsets == 1) CHECK(counts == std::map<Batch, Index>{{{0, 1}, kDraws}});
    if (n_subsets > 1) CHECK(std::abs(normal_score(counts, static_cast<std::size_t>(n_subsets))) < 4);
  }
}

TEST_CASE("subsets of successive steps, and of chains, are independent") {
  for (const bool chains : {false, true}) {
    Draws draws({Sampling::iid, 5, 2});
    std::map<Batch, Index> counts;
    for (std::uint64_t pair = 0; pair < kDraws; ++pair) {
      Batch both = sorted(batches(draws, chains ? 2 * pair : 1, chains ? 7 : 2 * pair, 1)[0]);
      const Batch second = sorted(batches(draws, chains ? 2 * pair + 1 : 1, chains ? 7 : 2 * pair + 1, 1)[0]);
      both.insert(both.end(), second.begin(), second.end());
      ++counts[both];
    }
    CHECK(std::abs(normal_score(counts, 100)) < 4);
  }
}

TEST_CASE("units and pairs of units are equally likely in larger subsets") {
  for (const auto& [n, b] : {std::array<Index, 2>{64, 16}, {64, 32}, {64, 50}}) {
    const double steps = 20'000, p = static_cast<double>(b) / static_cast<double>(n);
    Draws draws({Sampling::iid, n, b});
    Eigen::VectorXd drawn(n);
    Eigen::MatrixXd together = Eigen::MatrixXd::Zero(n, n);
    take(draws, 1, 0, static_cast<Index>(steps), 1000, [&](Index, const Batch& batch) {
      drawn.setZero();
      for (const std::uint32_t u : batch) drawn[u] = 1;
      together += drawn * drawn.transpose();
    });
    // Covariance of single units: p (1 - p) n / (n - 1) on the complement of the constants
    const double units = (together.diagonal().array() - steps * p).square().sum() / (steps * p * (1 - p));
    CHECK(std::abs(normal_score(units * static_cast<double>(n - 1) / static_cast<double>(n), n - 1)) < 4);
    // The 2016 pairs: none beyond 5.5 standard deviations
    const double both = p * static_cast<double>(b - 1) / static_cast<double>(n - 1);
    together.diagonal().setConstant(steps * both);
    CHECK((together.array() - steps * both).abs().maxCoeff() < 5.5 * std::sqrt(steps * both * (1 - both)));
  }
}

TEST_CASE("an epoch draws every unit once, its last batch is smaller, and permutations are uniform") {
  for (const auto& [n, b] : {std::array<Index, 2>{4, 1}, {4, 3}, {4, 4}, {37, 5}, {600, 7}}) {
    const Law law{Sampling::epoch, n, b};
    Draws draws(law);
    const Index length = law.steps_per_epoch(), n_epochs = n == 4 ? kDraws : 20;
    std::map<Batch, Index> counts;
    Batch order;
    take(draws, 1, 0, n_epochs * length, 1000, [&](Index step, const Batch& batch) {
      const bool last = step % length == length - 1;
      REQUIRE(static_cast<Index>(batch.size()) == (last ? n - (length - 1) * b : b));
      order.insert(order.end(), batch.begin(), batch.end());
      if (!last) return;
      ++counts[order];
      order.clear();
    });
    Batch units(static_cast<std::size_t>(n));
    std::iota(units.begin(), units.end(), 0U);
    for (const auto& [permutation, count] : counts) REQUIRE(sorted(permutation) == units);
    if (n == 4) CHECK(std::abs(normal_score(counts, 24)) < 4);
    if (n > 4) CHECK(static_cast<Index>(counts.size()) == n_epochs);
  }
}

TEST_CASE("a cycle goes through all units in order") {
  Draws draws({Sampling::cyclic, 5, 2});
  CHECK(batches(draws, 9, 4, 5) == std::vector<Batch>{{2, 3}, {4}, {0, 1}, {2, 3}, {4}});
}

TEST_CASE("with replacement, ordered batches have the product of the probabilities of their units") {
  for (const double* sums : {static_cast<const double*>(nullptr), kCumulative.data()}) {
    Draws draws({Sampling::with_replacement, kWeightedUnits, 2, sums});
    std::vector<double> counts(kWeightedUnits * kWeightedUnits), expected(counts.size());
    take(draws, 1, 0, kDraws, 1000, [&](Index, const Batch& batch) { ++counts[batch[0] * kWeightedUnits + batch[1]]; });
    for (std::size_t cell = 0; cell < expected.size(); ++cell) {
      const double p = kProbabilities[cell / kWeightedUnits], q = kProbabilities[cell % kWeightedUnits];
      expected[cell] = kDraws * (sums != nullptr ? p * q : 1.0 / (kWeightedUnits * kWeightedUnits));
    }
    CHECK(std::abs(normal_score(counts, expected)) < 4);
  }
}

TEST_CASE("a batch larger than the number of units repeats them") {
  Draws draws({Sampling::with_replacement, 2, 5});
  std::vector<double> counts(6), expected;
  for (const double ways : {1, 5, 10, 10, 5, 1}) expected.push_back(kDraws * ways / 32);
  take(draws, 1, 0, kDraws, 1000, [&](Index, const Batch& batch) {
    ++counts[static_cast<std::size_t>(std::count(batch.begin(), batch.end(), 1U))];
  });
  CHECK(std::abs(normal_score(counts, expected)) < 4);
}

TEST_CASE("weighted units invert their cumulative probabilities") {
  std::vector<double> uneven(1000);
  for (std::size_t i = 0; i < uneven.size(); ++i) uneven[i] = std::exp(-0.1 * static_cast<double>(i % 300));
  uneven = cumulative(uneven);
  std::vector<double> short_of_one = kCumulative;  // as rounding may leave it
  for (double& sum : short_of_one) sum *= 0.75;
  for (const std::vector<double>& sums : {kCumulative, uneven, short_of_one}) {
    Draws draws({Sampling::iid, static_cast<Index>(sums.size()), 1, sums.data()});
    const auto last = std::lower_bound(sums.begin(), sums.end(), sums.back());
    take(draws, 1, 0, 20'000, 1000, [&](Index step, const Batch& batch) {
      const Counter words = philox4x64({static_cast<std::uint64_t>(step / 4), 0, 1, 5}, kKey);
      const double u = static_cast<double>(words[static_cast<std::size_t>(step % 4)] >> 11) * 0x1p-53;
      REQUIRE(batch[0] == std::min(std::upper_bound(sums.begin(), sums.end(), u), last) - sums.begin());
    });
  }
}

TEST_CASE("groups are drawn with all their rows, and weigh as one unit") {
  const std::vector<std::int64_t> offsets{0, 3, 4, 4, 6, 9}, members{8, 0, 3, 1, 2, 7, 4, 5, 6};
  for (const auto& [sampling, b] : {std::pair<Sampling, Index>{Sampling::iid, 2},
                                    {Sampling::iid, 4},
                                    {Sampling::with_replacement, 7},
                                    {Sampling::epoch, 3}}) {
    Draws draws({sampling, 5, b, nullptr, offsets.data(), members.data()}, 0, 40), plain({sampling, 5, b}, 0, 40);
    CHECK(draws.steps_at_once() == 40 / (sampling == Sampling::with_replacement ? 3 * b : std::min<Index>(3 * b, 9)));
    for (std::uint64_t step = 0; step < 100;) {
      const Index n_steps = draws.fill(kKey, 2, step, 100);
      REQUIRE(plain.fill(kKey, 2, step, n_steps) == n_steps);
      for (Index j = 0; j < n_steps; ++j) {
        Batch rows;
        for (const std::uint32_t u : plain.rows(j)) {
          rows.insert(rows.end(), members.begin() + offsets[u], members.begin() + offsets[u + 1]);
        }
        CHECK(copy(draws.units(j)) == copy(plain.units(j)));
        CHECK(copy(draws.rows(j)) == rows);
        CHECK(draws.n_drawn(j) == plain.n_drawn(j));
      }
      step += static_cast<std::uint64_t>(n_steps);
    }
  }
}

TEST_CASE("groups of one may stand in any order") {
  const std::vector<std::int64_t> offsets{0, 1, 2, 3}, members{2, 0, 1};
  Draws draws({Sampling::cyclic, 3, 1, nullptr, offsets.data(), members.data()});
  REQUIRE(draws.fill(kKey, 0, 0, 3) == 3);
  for (Index j = 0; j < 3; ++j)
    CHECK(static_cast<std::int64_t>(draws.rows(j)[0]) == members[static_cast<std::size_t>(j)]);
}

TEST_CASE("as many steps at a time as rows are asked for, or one") {
  CHECK(Draws({Sampling::iid, 1000, 1}).steps_at_once() == 256);
  CHECK(Draws({Sampling::iid, 1000, 16}).steps_at_once() == 16);
  CHECK(Draws({Sampling::iid, 1000, 300}).steps_at_once() == 1);
  CHECK(Draws({Sampling::iid, 1000, 300}, 0, 1000).steps_at_once() == 3);
}

TEST_CASE("trials are disjoint within a permutation, and each has the law of a batch") {
  for (const auto& [sampling, b, n_subsets] : {std::tuple<Sampling, Index, std::size_t>{Sampling::iid, 2, 10},
                                               {Sampling::epoch, 2, 10},
                                               {Sampling::iid, 3, 10},
                                               {Sampling::iid, 1, 5},
                                               {Sampling::iid, 5, 1}}) {
    constexpr Index kTrials = 5;
    const Index n = 5, per_permutation = n / b;
    Draws draws({sampling, n, b}, kTrials);
    std::map<Batch, Index> each[kTrials], pairs;
    for (std::uint64_t evaluation = 0; evaluation < 20'000; ++evaluation) {
      draws.fill_trials(kKey, 1, evaluation, kTrials);
      std::set<std::uint32_t> together;
      for (Index t = 0; t < kTrials; ++t) {
        const Batch batch = sorted(copy(draws.trial(t)));
        ++each[t][batch];
        if (t % per_permutation == 0) together.clear();
        together.insert(batch.begin(), batch.end());
        REQUIRE(static_cast<Index>(together.size()) == (t % per_permutation + 1) * b);
      }
      Batch both = sorted(copy(draws.trial(0)));
      const Batch next = sorted(copy(draws.trial(per_permutation == kTrials ? 1 : per_permutation)));
      both.insert(both.end(), next.begin(), next.end());
      ++pairs[both];
    }
    if (n_subsets == 1) continue;
    for (const auto& counts : each) CHECK(std::abs(normal_score(counts, n_subsets)) < 4);
    // Two of the same permutation for b = 1, of different ones otherwise
    CHECK(std::abs(normal_score(pairs, b == 1 ? 20 : n_subsets * n_subsets)) < 4);
  }
}

TEST_CASE("trials with replacement are independent, and those with probabilities have them") {
  for (const Law& law : {Law{Sampling::with_replacement, kWeightedUnits, 2},
                         Law{Sampling::with_replacement, kWeightedUnits, 2, kCumulative.data()},
                         Law{Sampling::iid, kWeightedUnits, 1, kCumulative.data()}}) {
    Draws draws(law, 3);
    std::vector<double> counts(kWeightedUnits * kWeightedUnits), expected(counts.size());
    for (std::uint64_t evaluation = 0; evaluation < kDraws; ++evaluation) {
      draws.fill_trials(kKey, 1, evaluation, 3);
      ++counts[draws.trial(0).front() * kWeightedUnits + draws.trial(2).back()];
    }
    for (std::size_t cell = 0; cell < expected.size(); ++cell) {
      const double p = kProbabilities[cell / kWeightedUnits], q = kProbabilities[cell % kWeightedUnits];
      expected[cell] = kDraws * (law.cumulative != nullptr ? p * q : 1.0 / (kWeightedUnits * kWeightedUnits));
    }
    CHECK(std::abs(normal_score(counts, expected)) < 4);
  }
}

TEST_CASE("trials depend on chain and evaluation, not on the steps of the chain nor on how many there are") {
  for (const Law& law : laws()) {
    Draws draws(law, 40);
    const auto trials = [&](std::uint64_t chain, std::uint64_t evaluation, Index n_trials) {
      draws.fill_trials(kKey, chain, evaluation, n_trials);
      std::vector<Batch> all;
      for (Index t = 0; t < n_trials; ++t) all.push_back(copy(draws.trial(t)));
      return all;
    };
    const auto whole = trials(3, 5, 40), steps = batches(draws, 3, 5, 40);
    for (const Index n_trials : {1, 2, 7, 39}) {
      CHECK(trials(3, 5, n_trials) == std::vector<Batch>(whole.begin(), whole.begin() + n_trials));
    }
    CHECK(trials(4, 5, 40) != whole);
    CHECK(trials(3, 6, 40) != whole);
    CHECK(steps != whole);
    CHECK(batches(draws, 3, 5, 40) == steps);
  }
}
