// Panels against vectors: every lane of a panel is a vector of its own, with a learning rate of its own.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "problems.hpp"
#include "sgdstab/kernels/panels.hpp"
#include "sgdstab/kernels/vectors.hpp"

using namespace sgdstab;

namespace {

constexpr StreamKey kKey{11, 22};
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr PanelMetrics kNoMetrics{0, nullptr, nullptr, nullptr};

// From 0.15 on, increasing, but away from 1 / K_ii = 1: nearly singular steps leave no digits to compare.
std::vector<double> learning_rates(Index n_panels) {
  const auto n = static_cast<std::size_t>(n_panels * kLanes);
  std::vector<double> rates(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(n - 1);
    rates[i] = share < 0.5 ? 0.15 + share : 0.9 + share;
  }
  return rates;
}

// Panels of normal vectors, and where to find them.
struct Panels {
  Panels(Index chains, Index panels, Index vectors, Index length, unsigned seed = 3)
      : n_chains(chains), n_panels(panels), k(vectors), dimension(length) {
    const RowMatrix numbers = normal(n_chains * n_panels * k, dimension * kLanes, seed);
    values.assign(numbers.data(), numbers.data() + numbers.size());
  }
  double* start(Index chain, Index panel, Index l) {
    return values.data() + ((chain * n_panels + panel) * k + l) * dimension * kLanes;
  }
  RowMatrix vector(Index chain, Index panel, Index l, Index lane) {
    RowMatrix v(1, dimension);
    for (Index j = 0; j < dimension; ++j) v(0, j) = start(chain, panel, l)[j * kLanes + lane];
    return v;
  }

  Index n_chains, n_panels, k, dimension;
  std::vector<double> values;
};

struct Sums {
  Sums(const Panels& panels, Index batches, Index metrics)
      : n_panels(panels.n_panels), k(panels.k), n_batches(batches), count(metrics) {
    const Index cells = panels.n_chains * n_batches * n_panels * kLanes;
    log_growth.assign(static_cast<std::size_t>(cells * k), -1.0);
    growth.assign(static_cast<std::size_t>(cells * count), -1.0);
  }
  PanelSums view() { return {log_growth.data(), growth.data()}; }
  double log_growth_at(Index chain, Index batch, Index panel, Index l, Index lane) const {
    return log_growth[static_cast<std::size_t>((((chain * n_batches + batch) * n_panels + panel) * k + l) * kLanes +
                                               lane)];
  }
  double growth_at(Index chain, Index batch, Index panel, Index m, Index lane) const {
    return growth[static_cast<std::size_t>((((chain * n_batches + batch) * n_panels + panel) * count + m) * kLanes +
                                           lane)];
  }

  Index n_panels, k, n_batches, count;
  std::vector<double> log_growth, growth;
};

PanelOptions for_panels(const VectorOptions& options) {
  return {options.renormalise_every, options.careful, options.spacing};
}

// Vectors that nearly agree with a sum: relative to what is of size 1.
void check_close(double value, double expected, double tolerance) {
  CHECK(std::abs(value - expected) <= tolerance * std::max(1.0, std::abs(expected)));
}

template <class Rows>
void check_against_vectors(const Rows& rows, const Stream& stream, const VectorOptions& options, Index k,
                           const std::vector<double>& rates, double tolerance) {
  const Index n_chains = 3, n_panels = static_cast<Index>(rates.size()) / kLanes, d = rows.dimension();
  Panels panels(n_chains, n_panels, k, d);
  Panels before = panels;
  Sums sums(panels, stream.n_batches, 0);
  advance_panels(rows, rates.data(), stream, for_panels(options), kNoMetrics, panels.values.data(), n_chains, n_panels,
                 k, sums.view(), 2);
  for (Index panel = 0; panel < n_panels; ++panel) {
    for (Index lane = 0; lane < kLanes; ++lane) {
      const SingleSteps<Rows> alone{rows, rates[static_cast<std::size_t>(panel * kLanes + lane)]};
      RowMatrix vectors(n_chains * k, d), log_growth(n_chains, stream.n_batches * k);
      for (Index v = 0; v < n_chains * k; ++v) vectors.row(v) = before.vector(v / k, panel, v % k, lane);
      advance_vectors(alone, stream, options, SingleMetrics{}, vectors.data(), n_chains, k,
                      {log_growth.data(), nullptr}, 1);
      for (Index chain = 0; chain < n_chains; ++chain) {
        for (Index l = 0; l < k; ++l) {
          CHECK((panels.vector(chain, panel, l, lane) - vectors.row(chain * k + l)).norm() < tolerance);
          for (Index batch = 0; batch < stream.n_batches; ++batch) {
            check_close(sums.log_growth_at(chain, batch, panel, l, lane), log_growth(chain, batch * k + l), tolerance);
          }
        }
      }
    }
  }
}

// The norm of K and three random metrics, of which panel 0 has the first two and panel 1 the last.
struct RandomMetrics {
  template <class Rows>
  explicit RandomMetrics(const Rows& rows)
      : n(rows.n_examples()), d(rows.dimension()), matrices(3 * d, d), diagonals(2 * 3, n), windows{0, 3, 2, 2} {
    for (Index m = 0; m < 3; ++m) {
      const RowMatrix root = normal(d, d, 20 + static_cast<unsigned>(m));
      matrices.middleRows(m * d, d) = root * root.transpose() + RowMatrix::Identity(d, d);
    }
    diagonals.setZero();
    for (Index panel = 0; panel < 2; ++panel) {
      const SingleMetrics its = of_panel(panel);
      for (Index m = 0; m < its.count; ++m) {
        for (Index i = 0; i < n; ++i) diagonals(3 * panel + m, i) = diagonal(rows, its, m, i);
      }
    }
  }
  PanelMetrics all() const { return {3, matrices.data(), windows.data(), diagonals.data()}; }

  // The same, apart.
  SingleMetrics of_panel(Index panel) const {
    return {panel == 0 ? 3 : 2, matrices.data() + (panel == 0 ? 0 : 2 * d * d), diagonals.row(3 * panel).data()};
  }

  // M_ii or f_i . M f_i.
  double diagonal(const GramRows& rows, const SingleMetrics& its, Index m, Index i) const {
    return m == 0 ? rows.matrix(i, i) : its.matrices[(m - 1) * d * d + i * d + i];
  }
  double diagonal(const FactorRows& rows, const SingleMetrics& its, Index m, Index i) const {
    const RowMatrix f = rows.matrix.row(i);
    if (m == 0) return f.squaredNorm();
    const ConstMatrixView matrix(its.matrices + (m - 1) * d * d, d, d, Eigen::OuterStride<>(d));
    return (f * matrix * f.transpose())(0, 0);
  }

  Index n, d;
  RowMatrix matrices, diagonals;
  std::vector<std::int64_t> windows;
};

template <class Rows>
void check_growth_of_lanes(const Rows& rows) {
  const RandomMetrics metrics(rows);
  const std::vector<double> rates = learning_rates(1);
  Panels panels(1, 1, 1, rows.dimension(), 5);
  const SingleMetrics its = metrics.of_panel(0);
  SingleGrowth workspace(rows);
  for (const Index n_vectors : {kLanes, Index{5}}) {
    RowMatrix together = RowMatrix::Zero(its.count, kLanes);
    workspace.add_growth(rows, ConstLanesView(rates.data()), its, panels.values.data(), n_vectors,
                         {together.data(), 1, kLanes});
    for (Index lane = 0; lane < kLanes; ++lane) {
      const SingleSteps<Rows> alone{rows, rates[static_cast<std::size_t>(lane)]};
      const RowMatrix v = panels.vector(0, 0, 0, lane);
      RowMatrix growth = RowMatrix::Zero(1, its.count);
      SingleGrowth(rows).add_growth(alone, its, v.data(), rows.dimension(), 1, {growth.data(), its.count, 1});
      for (Index m = 0; m < its.count; ++m) {
        if (lane < n_vectors) {
          CHECK(together(m, lane) == doctest::Approx(growth(0, m)).epsilon(1e-12));
        } else {
          CHECK(together(m, lane) == 0);
        }
      }
    }
  }
}

// Runs of 5 batches of 13 steps with evaluations after every 4, the last step of a batch left without.
template <class Rows>
void check_growth_of_runs(const Rows& rows, bool careful) {
  const RandomMetrics metrics(rows);
  const Index n_chains = 2, d = rows.dimension();
  const Stream stream{kKey, 7, 100, 5, 13};
  const VectorOptions options{3, careful, 4};
  const std::vector<double> rates = learning_rates(2);
  Panels panels(n_chains, 2, 1, d);
  Panels before = panels;
  Sums sums(panels, stream.n_batches, 3);
  advance_panels(rows, rates.data(), stream, for_panels(options), metrics.all(), panels.values.data(), n_chains, 2, 1,
                 sums.view(), 2);
  for (Index panel = 0; panel < 2; ++panel) {
    const SingleMetrics its = metrics.of_panel(panel);
    for (Index lane = 0; lane < kLanes; ++lane) {
      const SingleSteps<Rows> alone{rows, rates[static_cast<std::size_t>(panel * kLanes + lane)]};
      RowMatrix vectors(n_chains, d), log_growth(n_chains, stream.n_batches);
      RowMatrix growth(n_chains, stream.n_batches * its.count);
      for (Index chain = 0; chain < n_chains; ++chain) vectors.row(chain) = before.vector(chain, panel, 0, lane);
      advance_vectors(alone, stream, options, its, vectors.data(), n_chains, 1, {log_growth.data(), growth.data()}, 1);
      for (Index chain = 0; chain < n_chains; ++chain) {
        for (Index batch = 0; batch < stream.n_batches; ++batch) {
          // Of a growth that its three evaluations sum up.
          check_close(sums.log_growth_at(chain, batch, panel, 0, lane), log_growth(chain, batch), 1e-11);
          for (Index m = 0; m < 3; ++m) {
            const double expected = m < its.count ? growth(chain, batch * its.count + m) : 0.0;
            check_close(sums.growth_at(chain, batch, panel, m, lane), expected, 1e-11);
          }
        }
      }
    }
  }
}

// All that a run writes, in calls of so many batches.
template <class Rows>
std::vector<double> outputs(const Rows& rows, const std::vector<Index>& calls, int n_threads) {
  const RandomMetrics metrics(rows);
  const std::vector<double> rates = learning_rates(2);
  Panels panels(3, 2, 2, rows.dimension());
  Index n_batches = 0;
  for (const Index batches : calls) n_batches += batches;
  std::vector<double> all;
  std::vector<Sums> each;
  std::uint64_t first_step = 8;
  for (const Index batches : calls) {
    each.emplace_back(panels, batches, 3);
    advance_panels(rows, rates.data(), {kKey, 7, first_step, batches, 21}, {6, false, 5}, metrics.all(),
                   panels.values.data(), 3, 2, 2, each.back().view(), n_threads);
    first_step += static_cast<std::uint64_t>(21 * batches);
  }
  // In the order of a single call.
  for (Index chain = 0; chain < 3; ++chain) {
    for (const Sums& sums : each) {
      for (Index batch = 0; batch < sums.n_batches; ++batch) {
        for (Index cell = 0; cell < 2 * kLanes; ++cell) {
          for (Index l = 0; l < 2; ++l) {
            all.push_back(sums.log_growth_at(chain, batch, cell / kLanes, l, cell % kLanes));
          }
          for (Index m = 0; m < 3; ++m) all.push_back(sums.growth_at(chain, batch, cell / kLanes, m, cell % kLanes));
        }
      }
    }
  }
  all.insert(all.end(), panels.values.begin(), panels.values.end());
  return all;
}

}  // namespace

TEST_CASE("every lane advances as a single vector with its learning rate does") {
  for (const Index n : {1, 2, 5, 16, 37}) {
    const Problem problem(n);
    for (const bool careful : {false, true}) {
      const Stream stream{kKey, 5, 3, 3, 21};
      const VectorOptions options{10, careful, 1};
      // Rounding of 63 steps, none of which shrinks a vector to less than a third.
      check_against_vectors(problem.rows<GramRows>(), stream, options, 1, learning_rates(2), 2e-12);
      check_against_vectors(problem.rows<FactorRows>(), stream, options, 1, learning_rates(2), 2e-12);
    }
  }
}

TEST_CASE("pairs of lanes advance as pairs of vectors do") {
  for (const Index n : {1, 2, 5, 16, 37}) {
    const Problem problem(n);
    for (const bool careful : {false, true}) {
      const Stream stream{kKey, 5, 3, 4, 11};
      const VectorOptions options{6, careful, 1};
      // Between orthonormalisations 11 steps bring the angle of a pair down to 0.35^11 = 1e-5 at worst.
      if (n > 1) check_against_vectors(problem.rows<GramRows>(), stream, options, 2, learning_rates(1), 1e-10);
      check_against_vectors(problem.rows<FactorRows>(), stream, options, 2, learning_rates(1), 1e-10);
    }
  }
}

TEST_CASE("pairs are made orthogonal often enough in long batches") {
  const Problem problem(16);
  std::vector<double> rates(kLanes);
  for (std::size_t lane = 0; lane < rates.size(); ++lane) rates[lane] = 0.6 + 0.01 * static_cast<double>(lane);
  // Angles shrink like exp(-0.006 n) there: to a fifth in 256 steps, to rounding in 6000.
  for (const Index renormalise_every : {100, 256}) {
    check_against_vectors(problem.rows<GramRows>(), {kKey, 5, 0, 2, 6000}, {renormalise_every, false, 1}, 2, rates,
                          1e-9);
  }
}

TEST_CASE("growth of a lane is that of its vector at its learning rate") {
  for (const Index n : {1, 2, 7, 30}) {
    const Problem problem(n);
    check_growth_of_lanes(problem.rows<GramRows>());
    check_growth_of_lanes(problem.rows<FactorRows>());
  }
}

TEST_CASE("panels record the growth of their own metrics, as vectors do") {
  for (const Index n : {2, 7, 30}) {
    const Problem problem(n);
    for (const bool careful : {false, true}) {
      check_growth_of_runs(problem.rows<GramRows>(), careful);
      check_growth_of_runs(problem.rows<FactorRows>(), careful);
    }
  }
}

TEST_CASE("a lane that a step annihilates stays zero with -inf and leaves the others alone") {
  // In one dimension a step is a number, 1 - eta K_ii; for two examples in factor coordinates too.
  RowMatrix one(1, 1), two(2, 1), panel(1, kLanes);
  one << 2;
  two << 1, 1;
  const double k[] = {2, 1};
  for (const bool factor : {false, true}) {
    std::vector<double> rates(kLanes);
    for (std::size_t lane = 0; lane < rates.size(); ++lane) rates[lane] = 0.25 * static_cast<double>(lane + 1);
    const Index n = factor ? 2 : 1, annihilated = factor ? 3 : 1;  // eta = 1 / K_ii
    const AnyRows rows{const_view(factor ? two : one)};
    const RowMatrix diagonal = RowMatrix::Constant(1, n, k[factor]);
    const std::int64_t windows[] = {0, 1};
    const PanelMetrics metrics{1, nullptr, windows, diagonal.data()};
    for (const bool careful : {false, true}) {
      panel.setConstant(-3.0);
      std::vector<double> log_growth(2 * kLanes), growth(2 * kLanes);
      const Stream stream{kKey, 0, 0, 2, 9};
      const PanelSums sums{log_growth.data(), growth.data()};
      if (factor) {
        advance_panels(FactorRows{rows}, rates.data(), stream, {4, careful, 3}, metrics, panel.data(), 1, 1, 1, sums,
                       1);
      } else {
        advance_panels(GramRows{rows}, rates.data(), stream, {4, careful, 3}, metrics, panel.data(), 1, 1, 1, sums, 1);
      }
      for (Index lane = 0; lane < kLanes; ++lane) {
        const auto i = static_cast<std::size_t>(lane);
        const double step = 1 - rates[i] * k[factor];
        if (lane == annihilated) {
          CHECK(panel(0, lane) == 0);
          for (const std::size_t batch : {i, i + kLanes}) {
            CHECK(log_growth[batch] == -kInfinity);
            CHECK(growth[batch] == -kInfinity);
          }
          continue;
        }
        CHECK(panel(0, lane) == doctest::Approx(step < 0 ? -std::copysign(1.0, std::pow(step, 18)) : -1.0));
        const double grown = std::log(std::abs(step));
        check_close(log_growth[i], 9 * grown + std::log(3.0), 1e-13);
        check_close(log_growth[i + kLanes], 9 * grown, 1e-13);
        for (const std::size_t batch : {i, i + kLanes}) check_close(growth[batch], 3 * grown, 1e-13);
      }
    }
  }
}

TEST_CASE("bits depend neither on the number of threads nor on how batches are cut into calls") {
  const Problem problem(11);
  const auto gram = problem.rows<GramRows>();
  const auto factor = problem.rows<FactorRows>();
  const std::vector<double> of_gram = outputs(gram, {6}, 1), of_factor = outputs(factor, {6}, 1);
  for (const int n_threads : {2, 3, 20}) {
    CHECK(outputs(gram, {6}, n_threads) == of_gram);
    CHECK(outputs(factor, {6}, n_threads) == of_factor);
  }
  for (const std::vector<Index>& calls : {std::vector<Index>{1, 5}, {2, 2, 2}, {1, 1, 1, 1, 1, 1}}) {
    CHECK(outputs(gram, calls, 2) == of_gram);
    CHECK(outputs(factor, calls, 1) == of_factor);
  }
}
