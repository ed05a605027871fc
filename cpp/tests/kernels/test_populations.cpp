// Populations against enumeration: the moments of all products of few steps, one by one.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "enumeration.hpp"
#include "sgdstab/kernels/populations.hpp"
#include "sgdstab/kernels/vectors.hpp"

namespace {

constexpr StreamKey kKey{11, 22};
constexpr double kEta = 1.6;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Populations of walkers, and what they give.
struct Populations {
  Populations(Index number, Index its_size, Index vectors, Index length)
      : n(number), size(its_size), k(vectors), d(length), walkers(RowMatrix::Zero(n * size, k * d + 2)) {}
  // All from v: one row for each vector.
  Populations(Index number, Index its_size, const RowMatrix& v) : Populations(number, its_size, v.rows(), v.cols()) {
    walkers.leftCols(k * d).rowwise() = Eigen::Map<const Eigen::RowVectorXd>(v.data(), k * d);
  }
  RowMatrix vectors(Index j) const { return Eigen::Map<const RowMatrix>(walkers.row(j).data(), k, d); }
  double weight(Index j) const { return std::exp(walkers(j, k * d)); }
  double log_norm(Index j) const { return walkers(j, k * d + 1); }

  Index n, size, k, d;
  RowMatrix walkers;
};

struct Sums {
  Sums(Index n, Index n_batches, Index n_metrics)
      : log_growth(n, n_batches),
        effective_size(n, n_batches),
        separation(n, n_batches),
        norms(n, n_batches * n_metrics),
        excess(n, n_batches * n_metrics) {}
  PopulationSums view() {
    return {log_growth.data(), effective_size.data(), norms.data(), excess.data(), separation.data()};
  }

  RowMatrix log_growth, effective_size, separation, norms, excess;
};

template <class Rows>
Sums advance(const SingleSteps<Rows>& steps, const Stream& stream, const PopulationOptions& options,
             const SingleMetrics& metrics, Populations& populations, int n_threads = 1) {
  Sums sums(populations.n, stream.n_batches, metrics.count);
  advance_populations(steps, stream, options, metrics, populations.walkers.data(), populations.n, populations.size,
                      sums.view(), n_threads);
  return sums;
}

// 6 steps as 2 batches of 3; looked at, and resampled, after every one.
template <class Rows>
void check_moments(const SingleSteps<Rows>& steps, double p, const RowMatrix& start, const Norm* gauge) {
  const RowMatrix metric = gauge != nullptr ? gauge->metric : RowMatrix::Identity(steps.dimension(), steps.dimension());
  Gauge its{};
  if (gauge != nullptr) its = gauge->gauge();
  const PopulationOptions options{p, start.rows(), 0, 1, false, 1.0, gauge != nullptr ? &its : nullptr};
  Populations populations(2000, 4, start / norm_in(metric, start));
  const Sums sums = advance(steps, {kKey, 0, 0, 2, 3}, options, SingleMetrics{}, populations);
  check_mean(sums.log_growth.rowwise().sum().array().exp(),
             mean_growth_of(transposed_steps(steps), metric, p, start, 6));
  for (Index c = 0; c < populations.n; c += 97) {
    double sum = 0;
    for (Index j = c * 4; j < c * 4 + 4; ++j) {
      sum += populations.weight(j);
      CHECK(norm_in(metric, populations.vectors(j)) == doctest::Approx(1));
    }
    CHECK(sum / 4 == doctest::Approx(1));
  }
}

// Everything that 6 populations of 8 walkers give in 4 batches, cut into calls; in two parts if asked for.
template <class Rows>
std::vector<double> outputs(const SingleSteps<Rows>& steps, const Norm* gauge, const RowMatrix& gram,
                            const std::vector<Index>& calls, int n_threads, Index in_first_part = 6) {
  const TwoMetrics<Rows> metrics(steps.rows, gram);
  Gauge its{};
  if (gauge != nullptr) its = gauge->gauge();
  const Index n_passive = gauge != nullptr ? 1 : 0, d = steps.dimension();
  const PopulationOptions options{1.5, 1, n_passive, 5, false, 0.7, gauge != nullptr ? &its : nullptr};
  const RowMatrix start = normal(6 * 8, (1 + n_passive) * d, 12);
  std::vector<double> result;
  for (const auto& [first, n] : {std::pair<Index, Index>{0, in_first_part}, {in_first_part, 6 - in_first_part}}) {
    Populations populations(n, 8, 1 + n_passive, d);
    populations.walkers.leftCols(start.cols()) = start.middleRows(first * 8, n * 8);
    RowMatrix all(n, 4 * 7);  // by population, then batch
    Index batch = 0;
    for (const Index n_batches : calls) {
      const Stream stream{kKey, 30 + static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(batch * 21),
                          n_batches, 21};
      const Sums sums = advance(steps, stream, options, metrics.view(), populations, n_threads);
      for (Index b = 0; b < n_batches; ++b, ++batch) {
        all.middleCols(7 * batch, 7) << sums.log_growth.col(b), sums.effective_size.col(b), sums.separation.col(b),
            sums.norms.middleCols(2 * b, 2), sums.excess.middleCols(2 * b, 2);
      }
    }
    result.insert(result.end(), all.data(), all.data() + all.size());
    result.insert(result.end(), populations.walkers.data(), populations.walkers.data() + populations.walkers.size());
  }
  return result;
}

template <class Rows>
void check_bits(const SingleSteps<Rows>& steps, const RowMatrix& gram) {
  const Norm metric(steps.rows, gram, random_metric(steps.dimension()));
  for (const Norm* gauge : {static_cast<const Norm*>(nullptr), &metric}) {
    const std::vector<double> expected = outputs(steps, gauge, gram, {4}, 1);
    CHECK(outputs(steps, gauge, gram, {4}, 2) == expected);
    CHECK(outputs(steps, gauge, gram, {1, 3}, 1) == expected);
    CHECK(outputs(steps, gauge, gram, {1, 1, 2}, 2) == expected);
    // In parts the numbers come in another order.
    std::vector<double> sorted = expected, parts = outputs(steps, gauge, gram, {3, 1}, 2, 2);
    std::sort(sorted.begin(), sorted.end());
    std::sort(parts.begin(), parts.end());
    CHECK(parts == sorted);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("total weights of small populations are moments on average", Rows, GramRows, FactorRows) {
  const Problem problem(3);
  const auto steps = problem.steps<Rows>(kEta);
  const Index d = steps.dimension();
  const Norm of_k(steps.rows, problem.gram), other(steps.rows, problem.gram, random_metric(d));
  for (const double p : {-0.7, 1.0, 2.0, 4.0}) {
    const RowMatrix start = normal(1, d, 15);
    check_moments(steps, p, start, nullptr);
    check_moments(steps, p, start, &of_k);
    check_moments(steps, p, start, &other);
  }
  const RowMatrix start = RowMatrix::Identity(d, d);  // Frobenius norms of products
  check_moments(steps, 3, start, nullptr);
  check_moments(steps, 3, start, &other);
}

TEST_CASE_TEMPLATE("norms and excess are weighted means over walkers", Rows, GramRows, FactorRows) {
  const Problem problem(4);
  const auto steps = problem.steps<Rows>(kEta);
  const std::vector<RowMatrix> matrices = transposed_steps(steps);
  const TwoMetrics<Rows> metrics(steps.rows, problem.gram);
  const Gauge gauge = metrics.norms[1].gauge();
  for (const Gauge* its : {static_cast<const Gauge*>(nullptr), &gauge}) {
    for (const double p : {-0.5, 0.0, 1.0, 2.0, 3.5}) {
      const Index size = 21;
      Populations populations(2, size, normal(1, steps.dimension(), 16));
      const Sums sums = advance(steps, {kKey, 0, 0, 1, 9}, {p, 1, 0, 64, false, 0.0, its}, metrics.view(), populations);
      for (Index c = 0; c < 2; ++c) {
        double squares = 0, total = 0;
        for (Index j = c * size; j < (c + 1) * size; ++j) {
          total += populations.weight(j);
          squares += std::pow(populations.weight(j), 2);
        }
        CHECK(total / size == doctest::Approx(1));
        CHECK(sums.effective_size(c, 0) == doctest::Approx(total * total / squares));
        if (p == 0) CHECK(sums.effective_size(c, 0) == size);
        for (Index m = 0; m < 2; ++m) {
          const RowMatrix& metric = metrics.norms[static_cast<std::size_t>(m)].metric;
          double norm = 0, after = 0;
          for (Index j = c * size; j < (c + 1) * size; ++j) {
            const RowMatrix s = populations.vectors(j);
            norm += populations.weight(j) / total * moment(matrices, metric, p, s, 0);
            after += populations.weight(j) / total * moment(matrices, metric, p, s, 1);
          }
          CHECK(sums.norms(c, m) == doctest::Approx(norm).epsilon(1e-10));
          CHECK(sums.excess(c, m) == doctest::Approx(after - norm).epsilon(1e-10));
          if (p == 0) CHECK(sums.excess(c, m) == 0);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("walkers in plain steps are the chains of single vectors", Rows, GramRows, FactorRows) {
  const Problem problem(4);
  const auto steps = problem.steps<Rows>(kEta);
  for (const bool careful : {false, true}) {
    Populations populations(3, 5, normal(1, steps.dimension(), 17).normalized());
    RowMatrix vectors = populations.walkers.leftCols(steps.dimension()), log_growth(15, 2);
    advance(steps, {kKey, 6, 11, 2, 20}, {2, 1, 0, 7, careful, 0.0, nullptr}, SingleMetrics{}, populations);
    advance_vectors(steps, {kKey, 6 * 5, 11, 2, 20}, {7, careful, 1}, SingleMetrics{}, vectors.data(), 15, 1,
                    {log_growth.data(), nullptr}, 1);
    for (Index j = 0; j < 15; ++j) {
      check_close(populations.log_norm(j), log_growth.row(j).sum(), 1e-11);
      CHECK((populations.vectors(j) - vectors.row(j)).norm() < 1e-11);
    }
  }
}

TEST_CASE_TEMPLATE("weights are the growth of norms to the power p", Rows, GramRows, FactorRows) {
  const Problem problem(4);
  const auto steps = problem.steps<Rows>(kEta);
  for (const double p : {-1.0, 0.0, 1.5}) {
    Populations populations(1, 6, normal(1, steps.dimension(), 17).normalized());
    const Sums sums =
        advance(steps, {kKey, 0, 0, 3, 20}, {p, 1, 0, 7, false, 0.0, nullptr}, SingleMetrics{}, populations);
    const double total = sums.log_growth.sum();
    for (Index j = 0; j < 6; ++j) {
      check_close(std::log(populations.weight(j)) + total, p * populations.log_norm(j), 1e-12);
    }
    if (p == 0) CHECK(sums.effective_size == RowMatrix::Constant(1, 3, 6));
  }
}

TEST_CASE("tilted steps have no variance in the metric of constant mean squared growth") {
  // (1/N) sum_i A_i^T M A_i = lambda M
  const Problem problem(4);
  const auto steps = problem.steps<GramRows>(kEta);
  const std::vector<RowMatrix> matrices = transposed_steps(steps);
  RowMatrix metric = RowMatrix::Identity(4, 4);
  double lambda = 0;
  for (int iteration = 0; iteration < 2000; ++iteration) {
    RowMatrix next = RowMatrix::Zero(4, 4);
    for (const RowMatrix& step : matrices) next += step * metric * step.transpose() / 4;
    lambda = next.norm();
    metric = next / lambda;
    if (iteration == 0) metric /= metric.norm();
  }
  const Norm norm(steps.rows, problem.gram, metric);
  const Gauge gauge = norm.gauge();
  RowMatrix diagonals(2, 4);
  diagonals << problem.gram.diagonal().transpose(), norm.diagonal.transpose();
  Populations populations(3, 5, 1, 4);
  populations.walkers.leftCols(4) = normal(15, 4, 18);
  const Sums sums = advance(steps, {kKey, 0, 0, 4, 30}, {2, 1, 0, 64, false, 0.99, &gauge},
                            {2, metric.data(), diagonals.data()}, populations);
  CHECK((sums.log_growth.array() - 30 * std::log(lambda)).abs().maxCoeff() < 1e-11);
  CHECK((sums.effective_size.array() - 5).abs().maxCoeff() < 1e-11);
  for (Index record = 0; record < 12; ++record) {
    const double x = sums.norms(record / 4, 2 * (record % 4) + 1), e = sums.excess(record / 4, 2 * (record % 4) + 1);
    CHECK(x == doctest::Approx(1).epsilon(1e-11));
    CHECK(1 + e / x == doctest::Approx(lambda).epsilon(1e-11));
  }
}

TEST_CASE_TEMPLATE("a resampled walker has as many offspring as its weight, rounded down or up", Rows, GramRows,
                   FactorRows) {
  const Problem problem(6);
  const auto steps = problem.steps<Rows>(kEta);
  const Norm norm(steps.rows, problem.gram);
  const Gauge gauge = norm.gauge();
  const Index n = 20, size = 9;
  for (const Gauge* its : {static_cast<const Gauge*>(nullptr), &gauge}) {
    for (const double p : {-1.0, 1.0, 4.0}) {
      // A batch of so few steps has one look at the weights, at its end.
      const Stream stream{kKey, 5, 40, 1, 4};
      Populations before(n, size, 1, steps.dimension());
      before.walkers.leftCols(steps.dimension()) = normal(n * size, steps.dimension(), 19).rowwise().normalized();
      Populations after = before;
      const Sums weighted = advance(steps, stream, {p, 1, 0, 64, false, 0.0, its}, SingleMetrics{}, before);
      const Sums resampled = advance(steps, stream, {p, 1, 0, 64, false, 1.0, its}, SingleMetrics{}, after);
      CHECK((weighted.log_growth - resampled.log_growth).cwiseAbs().maxCoeff() < 1e-13);
      CHECK((resampled.effective_size.array() - size).abs().maxCoeff() < 1e-13);
      for (Index c = 0; c < n; ++c) {
        Index found = 0;
        for (Index j = c * size; j < (c + 1) * size; ++j) {
          Index offspring = 0;
          for (Index o = c * size; o < (c + 1) * size; ++o) {
            if (after.vectors(o) == before.vectors(j) && after.log_norm(o) == before.log_norm(j)) ++offspring;
          }
          CHECK(offspring >= std::floor(before.weight(j) - 1e-12));
          CHECK(offspring <= std::ceil(before.weight(j) + 1e-12));
          CHECK(std::abs(after.weight(j) - 1) < 1e-13);
          found += offspring;
        }
        CHECK(found == size);
      }
    }
  }
}

TEST_CASE("a passive vector separates as areas and lengths tell") {
  // In the plane the area that two vectors span grows by |det A_i| = |1 - eta K_ii|, whatever i.
  const RowMatrix features = normal(5, 2, 20).rowwise().normalized(), gram = features * features.transpose();
  const SingleSteps<FactorRows> steps{{const_view(features)}, kEta};
  const Norm norm(steps.rows, gram);
  const Gauge gauge = norm.gauge();
  const Index size = 7;
  Populations populations(1, size, 2, 2);
  populations.walkers.leftCols(4) = normal(size, 4, 21);
  Eigen::ArrayXd before = Eigen::ArrayXd::Zero(size);
  for (std::uint64_t batch = 0; batch < 3; ++batch) {
    const Sums sums =
        advance(steps, {kKey, 0, 10 * batch, 1, 10}, {1.5, 1, 1, 64, false, 0.0, &gauge}, SingleMetrics{}, populations);
    double expected = 0;
    for (Index j = 0; j < size; ++j) {
      const double log_length = populations.log_norm(j) - (batch == 0 ? 0.0 : before[j]);
      expected += populations.weight(j) * (2 * log_length - 10 * std::log(std::abs(1 - kEta))) / size;
      before[j] = populations.log_norm(j);
      const RowMatrix pair = populations.vectors(j);
      CHECK((pair * pair.transpose() - RowMatrix::Identity(2, 2)).norm() < 1e-12);
    }
    CHECK(sums.separation(0, 0) == doctest::Approx(expected).epsilon(1e-9));
  }
}

TEST_CASE("bits of populations depend neither on threads nor on how batches and populations are cut into calls") {
  const Problem problem(7);
  check_bits(problem.steps<GramRows>(kEta), problem.gram);
  check_bits(problem.steps<FactorRows>(kEta), problem.gram);
}

TEST_CASE("moments of annihilated walkers are 0, or infinite at negative orders") {
  RowMatrix one(1, 1), two(2, 2);
  one << 2;
  two << 2, 0, 0, 2;
  for (const RowMatrix& gram : {one, two}) {
    const Index n = gram.rows();
    const SingleSteps<GramRows> steps{{const_view(gram)}, 0.5};
    const Norm norm(steps.rows, gram);
    const Gauge gauge = norm.gauge();
    const SingleMetrics metrics{1, nullptr, norm.diagonal.data()};
    for (const Gauge* its : {static_cast<const Gauge*>(nullptr), &gauge}) {
      for (const double p : {-1.0, -0.5, 1.0, 2.0}) {
        Populations populations(2, 4, RowMatrix::Ones(1, n));
        const Sums sums = advance(steps, {kKey, 0, 0, 2, 60}, {p, 1, 0, 16, false, 0.5, its}, metrics, populations);
        if (its != nullptr && n == 2 && p > 0) {
          // Tilted steps never take the last one: 2^-1/2 of the norm remains, on one example out of two each time.
          for (Index c = 0; c < 2; ++c) {
            check_close(sums.log_growth(c, 0), -(p / 2 + 59) * std::log(2), 1e-13);
            check_close(sums.log_growth(c, 1), -60 * std::log(2), 1e-13);
          }
          continue;
        }
        CHECK(sums.log_growth == RowMatrix::Constant(2, 2, p > 0 ? -kInfinity : kInfinity));
        CHECK(sums.effective_size == RowMatrix::Zero(2, 2));
        CHECK(sums.norms == RowMatrix::Zero(2, 2));
        CHECK(sums.excess == RowMatrix::Zero(2, 2));
      }
    }
  }
}

TEST_CASE("steps of populations make no allocation of Eigen's") {
  const Problem problem(37);
  const auto steps = problem.steps<GramRows>(0.9);
  Populations populations(2, 6, RowMatrix::Ones(1, 37));
  Sums sums(2, 3, 0);
  Eigen::internal::set_is_malloc_allowed(false);
  advance_populations(steps, {kKey, 0, 0, 3, 100}, {2, 1, 0, 64, false, 0.5, nullptr}, SingleMetrics{},
                      populations.walkers.data(), 2, 6, sums.view(), 1);
  Eigen::internal::set_is_malloc_allowed(true);
  const TwoMetrics<GramRows> metrics(steps.rows, problem.gram);
  SingleGrowth workspace(steps.rows);
  RowMatrix squared_norms(2, kLanes), mean_growth(2, kLanes);
  Eigen::internal::set_is_malloc_allowed(false);
  workspace.evaluate_moments(steps, 1.5, metrics.view(), populations.walkers.data(), 39, 12, squared_norms.data(),
                             mean_growth.data());
  Eigen::internal::set_is_malloc_allowed(true);
  for (const Norm& norm : metrics.norms) {
    for (const double p : {1.5, 3.0}) {
      TiltedSteps tilted(steps.rows, norm.gauge(), p, 2, 1);
      RowMatrix v = normal(3, 37, 22);
      Eigen::internal::set_is_malloc_allowed(false);
      const auto growth = tilted.advance(steps, kKey, 0, 0, 100, v.data());
      Eigen::internal::set_is_malloc_allowed(true);
      CHECK(std::isfinite(growth.log_weight));
    }
  }
}
