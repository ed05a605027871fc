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

}  // namespace

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
