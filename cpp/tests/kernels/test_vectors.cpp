// Vectors against the definition of a step, A_i = I - eta e_i e_i^T K, applied one by one.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "enumeration.hpp"
#include "sgdstab/kernels/vectors.hpp"

namespace {

constexpr StreamKey kKey{11, 22};
constexpr double kEta = 1.6;

template <class Rows>
void check_vectors(const SingleSteps<Rows>& steps, bool careful) {
  const Index n_chains = 6, dimension = steps.dimension();
  const RowMatrix start = normal(n_chains, dimension, 3);
  RowMatrix vectors = start, log_growth(n_chains, 3), directions(n_chains, 3 * dimension);
  advance_vectors(steps, {kKey, 5, 0, 3, 21}, {10, careful, 1}, SingleMetrics{}, vectors.data(), n_chains, 1,
                  {log_growth.data(), nullptr, directions.data()}, 2);
  for (Index chain = 0; chain < n_chains; ++chain) {
    const auto drawn = examples(kKey, 5 + static_cast<std::uint64_t>(chain), 63, steps.n_examples());
    const RowMatrix end = product_of_steps(steps, drawn, start.row(chain).transpose());
    CHECK(log_growth.row(chain).sum() == doctest::Approx(std::log(end.norm())).epsilon(1e-12));
    CHECK((vectors.row(chain).transpose() - end / end.norm()).norm() < 1e-12);
    // Recorded after every batch.
    const RowMatrix first = product_of_steps(steps, {drawn.begin(), drawn.begin() + 21}, start.row(chain).transpose());
    CHECK((directions.row(chain).head(dimension).transpose() - first / first.norm()).norm() < 1e-12);
    CHECK((directions.row(chain).tail(dimension) - vectors.row(chain)).norm() == 0);
  }
}

// Vectors, their logarithms and their growth, after steps on rows of a precision.
template <class Steps, class Metrics>
RowMatrix after_steps(const Steps& steps, const Metrics& metrics) {
  const Index n_chains = 5, d = steps.dimension();
  RowMatrix vectors = normal(n_chains, d, 3), log_growth(n_chains, 2), growth(n_chains, 2 * metrics.columns());
  advance_vectors(steps, {kKey, 5, 0, 2, 21}, {10, false, 7}, metrics, vectors.data(), n_chains, 1,
                  {log_growth.data(), growth.data(), nullptr}, 2);
  RowMatrix all(n_chains, vectors.cols() + log_growth.cols() + growth.cols());
  all << vectors, log_growth, growth;
  return all;
}

template <template <class> class Rows>
void check_float32(const Problem& problem) {
  const RowMatrixOf<float> single = problem.rows<Rows<double>>().matrix.template cast<float>();
  const RowMatrix same = single.cast<double>();
  const Rows<float> in_single{{{single.data(), single.rows(), single.cols(), Eigen::OuterStride<>(single.cols())}}};
  const Rows<double> in_double{{const_view(same)}};
  const Index n = single.rows(), d = single.cols();
  const RowMatrix metric = random_metric(d), diagonals = RowMatrix::Ones(2, n), coupling = random_metric(n);
  const SingleMetrics metrics{2, metric.data(), diagonals.data()};
  CHECK(after_steps(SingleSteps{in_single, kEta}, metrics) == after_steps(SingleSteps{in_double, kEta}, metrics));
  const Eigen::VectorXd probabilities = Eigen::VectorXd::Constant(n, 1.0 / static_cast<double>(n));
  const BatchMetrics of_batches{1, 3, metric.data(), coupling.data(), probabilities.data()};
  const Law law{Sampling::iid, n, std::min<Index>(n, 3)};
  const double free[] = {1}, readout[] = {1};
  const Recurrence plain{1, free, readout, 0, 1};
  CHECK(after_steps(BatchSteps{in_single, kEta, law, plain}, of_batches) ==
        after_steps(BatchSteps{in_double, kEta, law, plain}, of_batches));
}

}  // namespace

TEST_CASE("rows of float32 give the bits of the same rows in float64") {
  for (const Index n : {2, 5, 16, 37}) {
    const Problem problem(n);
    check_float32<BasicGramRows>(problem);
    check_float32<BasicFactorRows>(problem);
  }
}

TEST_CASE("vectors advance as the product of single steps does") {
  for (const Index n : {1, 2, 5, 16, 37}) {
    const Problem problem(n);
    for (const bool careful : {false, true}) {
      check_vectors(problem.steps<GramRows>(kEta), careful);
      check_vectors(problem.steps<FactorRows>(kEta), careful);
    }
  }
}

TEST_CASE("a vector that a step annihilates stays zero with -inf") {
  RowMatrix gram(1, 1), vectors(1, 1), log_growth(1, 2);
  gram << 2;
  vectors << 1;
  const SingleSteps<GramRows> steps{{const_view(gram)}, 0.5};
  advance_vectors(steps, {kKey, 0, 0, 2, 8}, {8, true, 1}, SingleMetrics{}, vectors.data(), 1, 1,
                  {log_growth.data(), nullptr}, 1);
  CHECK(log_growth(0, 0) == -std::numeric_limits<double>::infinity());
  CHECK(log_growth(0, 1) == -std::numeric_limits<double>::infinity());
  CHECK(vectors(0, 0) == 0);
}
