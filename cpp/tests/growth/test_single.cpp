// Anchored growth against its definition: the mean over examples of the growth of |A_i v|_M, to powers too.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "enumeration.hpp"

namespace {

constexpr double kEta = 1.7;

template <class Rows>
void check_growth(const SingleSteps<Rows>& steps, const RowMatrix& gram) {
  const Index n = steps.n_examples(), d = steps.dimension(), n_vectors = 5;
  const RowMatrix matrix = random_metric(d);
  const RowMatrix metrics[] = {norm_of_k(steps.rows, gram), matrix};
  RowMatrix diagonals(2, n);
  for (Index m = 0; m < 2; ++m) {
    const RowMatrix along = directions(steps.rows);
    diagonals.row(m) = (along * metrics[m] * along.transpose()).diagonal();
  }
  const RowMatrix vectors = normal(n_vectors, d, 9);
  RowMatrix growth = RowMatrix::Zero(n_vectors, 2);
  SingleGrowth workspace(steps.rows);
  workspace.add_growth(steps, {2, matrix.data(), diagonals.data()}, vectors.data(), d, n_vectors,
                       {growth.data(), 2, 1});
  for (Index v = 0; v < n_vectors; ++v) {
    for (Index m = 0; m < 2; ++m) {
      const RowMatrix& metric = metrics[m];
      const RowMatrix start = vectors.row(v).transpose();
      double mean = 0;
      for (Index i = 0; i < n; ++i) {
        mean += (log_volume(after(steps, i, start), metric) - log_volume(start, metric)) / 2 / static_cast<double>(n);
      }
      CHECK(growth(v, m) == doctest::Approx(mean).epsilon(1e-10));
    }
  }
}

}  // namespace

TEST_CASE("growth of vectors is the mean over all next steps") {
  for (const Index n : {2, 7, 30}) {
    const Problem problem(n);
    check_growth(problem.steps<GramRows>(kEta), problem.gram);
    check_growth(problem.steps<FactorRows>(kEta), problem.gram);
  }
}

TEST_CASE("growth of a step that nearly destroys a vector keeps its digits") {
  // eta = 1, unit diagonal, off-diagonal r: after a step on one example the other one leaves r of the norm.
  for (const double r : {1e-3, 1e-5}) {
    RowMatrix gram(2, 2), v(1, 2);
    gram << 1, r, r, 1;
    v << -r, 1;
    const SingleSteps<GramRows> steps{{const_view(gram)}, 1.0};
    const RowMatrix diagonal = RowMatrix::Ones(1, 2);
    SingleGrowth workspace(steps.rows);
    double growth = 0;
    workspace.add_growth(steps, {1, nullptr, diagonal.data()}, v.data(), 2, 1, {&growth, 1, 1});
    CHECK(growth == doctest::Approx(0.5 * std::log(r)).epsilon(1e-12));
  }
}

TEST_CASE_TEMPLATE("mean growth to a power is the mean over all next steps", Rows, GramRows, FactorRows) {
  for (const Index n : {2, 7, 30}) {
    const Problem problem(n);
    const auto steps = problem.steps<Rows>(kEta);
    const Index d = steps.dimension(), n_vectors = 5, stride = d + 3;
    const TwoMetrics<Rows> metrics(steps.rows, problem.gram);
    const std::vector<RowMatrix> matrices = transposed_steps(steps);
    const RowMatrix vectors = normal(n_vectors, stride, 9);
    SingleGrowth workspace(steps.rows);
    RowMatrix squared_norms(2, kLanes), mean_growth(2, kLanes);
    for (const double p : {-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0}) {
      workspace.evaluate_moments(steps, p, metrics.view(), vectors.data(), stride, n_vectors, squared_norms.data(),
                                 mean_growth.data());
      for (Index v = 0; v < n_vectors; ++v) {
        const RowMatrix s = vectors.row(v).head(d);
        for (Index m = 0; m < 2; ++m) {
          const RowMatrix& metric = metrics.norms[static_cast<std::size_t>(m)].metric;
          CHECK(squared_norms(m, v) == doctest::Approx(std::pow(norm_in(metric, s), 2)).epsilon(1e-12));
          CHECK(mean_growth(m, v) + 1 == doctest::Approx(mean_growth_of(matrices, metric, p, s, 1)).epsilon(1e-10));
          if (p == 0) CHECK(mean_growth(m, v) == 0);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("mean growth less 1 keeps its digits where steps are small", Rows, GramRows, FactorRows) {
  // h - 1 = -(p eta / N) sum_i w_i y_i / q + O(eta^2)
  const Problem problem(9);
  constexpr double kTiny = 1e-11;
  const auto steps = problem.steps<Rows>(kTiny);
  const Index d = steps.dimension();
  const TwoMetrics<Rows> metrics(steps.rows, problem.gram);
  const RowMatrix v = normal(1, d, 9), w = v * steps.rows.matrix.transpose();
  SingleGrowth workspace(steps.rows);
  RowMatrix squared_norms(2, kLanes), mean_growth(2, kLanes);
  for (const double p : {-1.0, 0.5, 1.0, 2.0, 3.0, 8.0}) {
    workspace.evaluate_moments(steps, p, metrics.view(), v.data(), d, 1, squared_norms.data(), mean_growth.data());
    for (Index m = 0; m < 2; ++m) {
      const RowMatrix y = v * metrics.norms[static_cast<std::size_t>(m)].metric * directions(steps.rows).transpose();
      const double first_order = -p * kTiny * w.row(0).dot(y.row(0)) / 9 / squared_norms(m, 0);
      CHECK(mean_growth(m, 0) / first_order == doctest::Approx(1).epsilon(1e-8));
    }
  }
}
