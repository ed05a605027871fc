// Both kernels against the definition of a step, A_i = I - eta e_i e_i^T K, applied one by one.
#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "problems.hpp"
#include "sgdstab/advance_frames.hpp"
#include "sgdstab/advance_vectors.hpp"

using namespace sgdstab;

namespace {

constexpr StreamKey kKey{11, 22};
constexpr double kEta = 1.6;

std::vector<std::uint32_t> examples(std::uint64_t chain, Index n_steps, Index n) {
  std::vector<std::uint32_t> drawn(static_cast<std::size_t>(n_steps));
  IndexStream(kKey, chain, n).fill(0, n_steps, drawn.data());
  return drawn;
}

// A_S_m .. A_S_1 V
RowMatrix plain_product(const Problem& problem, bool factor, const std::vector<std::uint32_t>& drawn, RowMatrix v) {
  for (const std::uint32_t i : drawn) {
    if (factor) {
      v -= kEta * problem.features.row(i).transpose() * (problem.features.row(i) * v).eval();
    } else {
      v.row(i) -= kEta * (problem.gram.row(i) * v).eval();
    }
  }
  return v;
}

template <class Form>
void check_vectors(const Problem& problem, const Form& form, bool factor, bool careful) {
  const Index n_chains = 6, dimension = form.dimension();
  const RowMatrix start = normal(n_chains, dimension, 3);
  RowMatrix vectors = start, log_growth(n_chains, 3), directions(n_chains, 3 * dimension);
  advance_vectors(form, {kKey, 5, 0, 3, 21}, {10, careful, 1}, Metrics{}, vectors.data(), n_chains, 1,
                  {log_growth.data(), nullptr, directions.data()}, 2);
  for (Index chain = 0; chain < n_chains; ++chain) {
    const auto drawn = examples(5 + static_cast<std::uint64_t>(chain), 63, form.n_examples());
    const RowMatrix end = plain_product(problem, factor, drawn, start.row(chain).transpose());
    CHECK(log_growth.row(chain).sum() == doctest::Approx(std::log(end.norm())).epsilon(1e-12));
    CHECK((vectors.row(chain).transpose() - end / end.norm()).norm() < 1e-12);
    // Recorded after every batch.
    const RowMatrix first =
        plain_product(problem, factor, {drawn.begin(), drawn.begin() + 21}, start.row(chain).transpose());
    CHECK((directions.row(chain).head(dimension).transpose() - first / first.norm()).norm() < 1e-12);
    CHECK((directions.row(chain).tail(dimension) - vectors.row(chain)).norm() == 0);
  }
}

template <class Form>
void check_frames(const Problem& problem, const Form& form, bool factor, Index k) {
  const Index dimension = form.dimension();
  RowMatrix frame = normal(dimension, k, 4);
  const RowMatrix start = frame;
  std::vector<double> log_growth(3 * static_cast<std::size_t>(k)), log_determinant(3), ratio(3);
  const Eigen::VectorXd log_determinants = problem.log_determinants(kEta);
  advance_frames(plain(form), {kKey, 5, 0, 3, 50}, 16, 20, {false, 0}, {{}, log_determinants.data()}, frame.data(), 1,
                 k, {log_growth.data(), log_determinant.data(), ratio.data(), nullptr}, 1);
  // Batch by batch, Gram-Schmidt on plain products: the volume is the product of all R_jj, and the space is the same.
  const auto drawn = examples(5, 150, form.n_examples());
  RowMatrix end = start;
  FrameWorkspace workspace(dimension, k);
  Eigen::RowVectorXd log_diagonal = Eigen::RowVectorXd::Zero(k);
  MatrixView end_view = view(end);
  for (Index done = 0; done < 150; done += 10) {
    const std::vector<std::uint32_t> ten(drawn.begin() + done, drawn.begin() + done + 10);
    end = plain_product(problem, factor, ten, end).eval();
    workspace.orthonormalise(end_view, {true, 0}, log_diagonal);
  }
  const double total = std::accumulate(log_growth.begin(), log_growth.end(), 0.0);
  CHECK(total == doctest::Approx(log_diagonal.sum()).epsilon(1e-9));
  CHECK((frame.transpose() * frame - RowMatrix::Identity(k, k)).norm() < 1e-9);
  CHECK((end - frame * (frame.transpose() * end)).norm() < 1e-7);
}

}  // namespace

TEST_CASE("vectors advance as the product of single steps does") {
  for (const Index n : {1, 2, 5, 16, 37}) {
    const Problem problem(n);
    for (const bool careful : {false, true}) {
      check_vectors(problem, GramForm{problem.gram_form(kEta)}, false, careful);
      check_vectors(problem, FactorForm{problem.factor_form(kEta)}, true, careful);
    }
  }
}

TEST_CASE("frames advance as the product of single steps does") {
  for (const Index n : {2, 5, 20, 40}) {
    const Problem problem(n);
    for (const Index k : {Index{1}, n / 2, std::min<Index>(n, 12)}) {
      check_frames(problem, GramForm{problem.gram_form(kEta)}, false, k);
      check_frames(problem, FactorForm{problem.factor_form(kEta)}, true, k);
    }
  }
}

TEST_CASE("a second vector of a chain grows as the volume of both does") {
  const Problem problem(9);
  const GramForm form{problem.gram_form(kEta)};
  RowMatrix pair = normal(2, 9, 6), frame = pair.transpose(), log_growth(1, 2), frame_growth(1, 2);
  // The first batch orthonormalises what both start from.
  for (const std::uint64_t start : {0, 40}) {
    advance_vectors(form, {kKey, 5, start, 1, 40}, {10, false, 1}, Metrics{}, pair.data(), 1, 2,
                    {log_growth.data(), nullptr}, 1);
    double log_determinant = 0, ratio = 0;
    const Eigen::VectorXd log_determinants = problem.log_determinants(kEta);
    advance_frames(plain(form), {kKey, 5, start, 1, 40}, 16, 10, {true, 0}, {{}, log_determinants.data()}, frame.data(),
                   1, 2, {frame_growth.data(), &log_determinant, &ratio, nullptr}, 1);
    CHECK((log_growth - frame_growth).norm() < 1e-9);
  }
}

TEST_CASE("a vector that a step annihilates stays zero with -inf") {
  RowMatrix gram(1, 1), vectors(1, 1), log_growth(1, 2);
  gram << 2;
  vectors << 1;
  const GramForm form{{{gram.data(), 1, 1, Eigen::OuterStride<>(1)}, 0.5}};
  advance_vectors(form, {kKey, 0, 0, 2, 8}, {8, true, 1}, Metrics{}, vectors.data(), 1, 1, {log_growth.data(), nullptr},
                  1);
  CHECK(log_growth(0, 0) == -std::numeric_limits<double>::infinity());
  CHECK(log_growth(0, 1) == -std::numeric_limits<double>::infinity());
  CHECK(vectors(0, 0) == 0);
}
