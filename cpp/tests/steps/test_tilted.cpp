// Tilted steps against the definition of a step, and their weights against enumeration.
#include <doctest/doctest.h>

#include <limits>

#include "enumeration.hpp"

namespace {

constexpr StreamKey kKey{11, 22};
constexpr double kEta = 1.6;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The example whose step takes v to w, up to scale.
Index chosen(const std::vector<RowMatrix>& matrices, const RowMatrix& metric, const RowMatrix& v, const RowMatrix& w) {
  Index best = 0;
  double least = kInfinity;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const RowMatrix next = v * matrices[i];
    const double distance = (next / norm_in(metric, next) - w).norm();
    if (distance < least) {
      least = distance;
      best = static_cast<Index>(i);
    }
  }
  CHECK(least < 1e-10);
  return best;
}

// Steps one by one, from step 2 on, each against the definition; then all in one call.
template <class Rows>
void check_tilted_steps(const SingleSteps<Rows>& steps, const Norm& norm, double p, Index k) {
  constexpr Index kSteps = 70;
  constexpr std::uint64_t kStart = 2;
  const std::vector<RowMatrix> matrices = transposed_steps(steps);
  const RowMatrix start = normal(k, steps.dimension(), 5);
  RowMatrix v = start, product = start;
  TiltedSteps tilted(steps.rows, norm.gauge(), p, k, 0);
  double log_norm = 0, log_weight = 0;
  for (Index t = 0; t < kSteps; ++t) {
    const RowMatrix before = v;
    const auto growth = tilted.advance(steps, kKey, 3, kStart + static_cast<std::uint64_t>(t), 1, v.data());
    CHECK(norm_in(norm.metric, v) == doctest::Approx(1));
    const Index i = chosen(matrices, norm.metric, before, v);
    const RowMatrix next = before * matrices[static_cast<std::size_t>(i)];
    check_close(growth.log_norm, std::log(norm_in(norm.metric, next) / norm_in(norm.metric, before)), 1e-11);
    check_close(growth.log_weight, std::log(mean_growth_of(matrices, norm.metric, p, before, 1)), 1e-11);
    log_norm += growth.log_norm;
    log_weight += growth.log_weight;
    product = (product * matrices[static_cast<std::size_t>(i)]).eval();
  }
  check_close(log_norm, std::log(norm_in(norm.metric, product) / norm_in(norm.metric, start)), 1e-10);
  RowMatrix together = start;
  const auto growth = tilted.advance(steps, kKey, 3, kStart, kSteps, together.data());
  check_close(growth.log_norm, log_norm, 1e-9);
  check_close(growth.log_weight, log_weight, 1e-9);
  CHECK((together - v).norm() < 1e-9);
}

// Over many streams: how often examples are drawn, and what two steps weigh.
template <class Rows>
void check_law_of_tilted_steps(const SingleSteps<Rows>& steps, const Norm& norm, double p) {
  constexpr Index kStreams = 4000;
  const Index n = steps.n_examples();
  const std::vector<RowMatrix> matrices = transposed_steps(steps);
  const RowMatrix start = normal(1, steps.dimension(), 5);
  TiltedSteps tilted(steps.rows, norm.gauge(), p, 1, 0);
  Eigen::ArrayXd weights(kStreams), count = Eigen::ArrayXd::Zero(n);
  for (Index stream = 0; stream < kStreams; ++stream) {
    RowMatrix v = start;
    const auto number = static_cast<std::uint64_t>(stream);
    const double first = tilted.advance(steps, kKey, number, 0, 1, v.data()).log_weight;
    ++count[chosen(matrices, norm.metric, start, v)];
    weights[stream] = std::exp(first + tilted.advance(steps, kKey, number, 1, 1, v.data()).log_weight);
  }
  check_mean(weights, mean_growth_of(matrices, norm.metric, p, start, 2));
  const double h = mean_growth_of(matrices, norm.metric, p, start, 1);
  for (Index i = 0; i < n; ++i) {
    const double growth =
        norm_in(norm.metric, start * matrices[static_cast<std::size_t>(i)]) / norm_in(norm.metric, start);
    const double probability = std::pow(growth, p) / (static_cast<double>(n) * h);
    const double error = std::sqrt(probability * (1 - probability) / kStreams);
    CHECK(std::abs(count[i] / kStreams - probability) <= 4 * error);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("a tilted step is a step, and weighs the mean growth of the next", Rows, GramRows, FactorRows) {
  for (const Index n : {1, 2, 5}) {
    const Problem problem(n);
    const auto steps = problem.steps<Rows>(kEta);
    const Index d = steps.dimension();
    for (const Norm& norm : {Norm(steps.rows, problem.gram), Norm(steps.rows, problem.gram, random_metric(d))}) {
      for (const double p : {-1.0, -0.3, 0.5, 1.0, 2.0, 3.0, 13.0}) {
        check_tilted_steps(steps, norm, p, 1);
        check_tilted_steps(steps, norm, p, d);
      }
    }
  }
}

TEST_CASE_TEMPLATE("tilted steps draw examples by growth^p, and mean weights are moments", Rows, GramRows, FactorRows) {
  const Problem problem(4);
  const auto steps = problem.steps<Rows>(kEta);
  for (const Norm& norm :
       {Norm(steps.rows, problem.gram), Norm(steps.rows, problem.gram, random_metric(steps.dimension()))}) {
    for (const double p : {-1.0, 0.5, 1.0, 2.0, 3.0}) check_law_of_tilted_steps(steps, norm, p);
  }
}

TEST_CASE("tilted steps in both coordinates are the same steps") {
  const Problem problem(5);
  const auto gram = problem.steps<GramRows>(kEta);
  const auto factor = problem.steps<FactorRows>(kEta);
  const RowMatrix metric = random_metric(factor.dimension());
  const RowMatrix image = problem.features * metric * problem.features.transpose();
  for (const bool of_k : {true, false}) {
    const Norm in_gram = of_k ? Norm(gram.rows, problem.gram) : Norm(gram.rows, problem.gram, image);
    const Norm in_factor = of_k ? Norm(factor.rows, problem.gram) : Norm(factor.rows, problem.gram, metric);
    for (const double p : {-0.5, 1.0, 2.5}) {
      RowMatrix a = normal(2, 5, 6), s = a * problem.features;
      const auto of_a = TiltedSteps(gram.rows, in_gram.gauge(), p, 2, 0).advance(gram, kKey, 8, 5, 50, a.data());
      const auto of_s = TiltedSteps(factor.rows, in_factor.gauge(), p, 2, 0).advance(factor, kKey, 8, 5, 50, s.data());
      check_close(of_a.log_norm, of_s.log_norm, 1e-10);
      check_close(of_a.log_weight, of_s.log_weight, 1e-10);
      CHECK((a * problem.features - s).norm() < 1e-9);
    }
  }
}

TEST_CASE_TEMPLATE("passive vectors take the steps of the others and leave these alone", Rows, GramRows, FactorRows) {
  const Problem problem(4);
  const auto steps = problem.steps<Rows>(kEta);
  const std::vector<RowMatrix> matrices = transposed_steps(steps);
  const Index d = steps.dimension();
  for (const Norm& norm : {Norm(steps.rows, problem.gram), Norm(steps.rows, problem.gram, random_metric(d))}) {
    for (const Index k : {1, 3}) {
      RowMatrix all = normal(k + 1, d, 14), alone = all.topRows(k);
      RowMatrix passive = all.row(k);
      TiltedSteps with(steps.rows, norm.gauge(), 1.5, k, 1), without(steps.rows, norm.gauge(), 1.5, k, 0);
      for (std::uint64_t t = 0; t < 20; ++t) {
        const RowMatrix before = alone;
        const auto growth = with.advance(steps, kKey, 4, t, 1, all.data());
        const auto expected = without.advance(steps, kKey, 4, t, 1, alone.data());
        CHECK(all.topRows(k) == alone);
        CHECK(growth.log_norm == expected.log_norm);
        CHECK(growth.log_weight == expected.log_weight);
        const Index i = chosen(matrices, norm.metric, before, alone);
        const double scale = norm_in(norm.metric, before * matrices[static_cast<std::size_t>(i)]);
        passive = (passive * matrices[static_cast<std::size_t>(i)] / scale).eval();
        CHECK((all.row(k) - passive).norm() < 1e-10 * passive.norm());
      }
    }
  }
}
