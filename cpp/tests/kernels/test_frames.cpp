// Frames against the definition of a step, A_i = I - eta e_i e_i^T K, applied one by one, and against vectors.
#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "enumeration.hpp"
#include "sgdstab/kernels/frames.hpp"
#include "sgdstab/kernels/vectors.hpp"

namespace {

constexpr StreamKey kKey{11, 22};
constexpr double kEta = 1.6;

template <class Rows>
void check_frames(const Problem& problem, const SingleSteps<Rows>& steps, Index k) {
  const Index dimension = steps.dimension();
  RowMatrix frame = normal(dimension, k, 4);
  const RowMatrix start = frame;
  std::vector<double> log_growth(3 * static_cast<std::size_t>(k)), log_determinant(3), ratio(3);
  const Eigen::VectorXd log_determinants = problem.log_determinants(kEta);
  advance_frames(in_batches_of_one(steps), {kKey, 5, 0, 3, 50}, 16, 20, {false, 0}, {{}, log_determinants.data()},
                 frame.data(), 1, k, {log_growth.data(), log_determinant.data(), ratio.data(), nullptr}, 1);
  // Batch by batch, Gram-Schmidt on plain products: the volume is the product of all R_jj, and the space is the same.
  const auto drawn = examples(kKey, 5, 150, steps.n_examples());
  RowMatrix end = start;
  FrameWorkspace workspace(dimension, k);
  Eigen::RowVectorXd log_diagonal = Eigen::RowVectorXd::Zero(k);
  MatrixView end_view = view(end);
  for (Index done = 0; done < 150; done += 10) {
    const std::vector<std::uint32_t> ten(drawn.begin() + done, drawn.begin() + done + 10);
    end = product_of_steps(steps, ten, end).eval();
    workspace.orthonormalise(end_view, {true, 0}, log_diagonal);
  }
  const double total = std::accumulate(log_growth.begin(), log_growth.end(), 0.0);
  CHECK(total == doctest::Approx(log_diagonal.sum()).epsilon(1e-9));
  CHECK((frame.transpose() * frame - RowMatrix::Identity(k, k)).norm() < 1e-9);
  CHECK((end - frame * (frame.transpose() * end)).norm() < 1e-7);
}

}  // namespace

TEST_CASE("frames advance as the product of single steps does") {
  for (const Index n : {2, 5, 20, 40}) {
    const Problem problem(n);
    for (const Index k : {Index{1}, n / 2, std::min<Index>(n, 12)}) {
      check_frames(problem, problem.steps<GramRows>(kEta), k);
      check_frames(problem, problem.steps<FactorRows>(kEta), k);
    }
  }
}

TEST_CASE("steps that leave too little of a column are taken again, half as many") {
  const Problem problem(30);
  const auto steps = in_batches_of_one(problem.steps<GramRows>(0.999));
  const Eigen::VectorXd log_determinants = problem.log_determinants(0.999);
  const auto growth_of = [&](Index period, double least_ratio, double* ratio) {
    RowMatrix frame = RowMatrix::Identity(30, 30), growth(1, 30);
    double log_determinant = 0;
    advance_frames(steps, {kKey, 5, 0, 1, 90}, 16, period, {false, 0, least_ratio}, {{}, log_determinants.data()},
                   frame.data(), 1, 30, {growth.data(), &log_determinant, ratio, nullptr}, 1);
    CHECK(std::abs(growth.sum() - log_determinant) < (least_ratio > 0 ? 1e-6 : 1e9));
    return growth;
  };
  double often = 0, never = 0, again = 0;
  const RowMatrix expected = growth_of(1, 0, &often);
  growth_of(90, 0, &never);
  CHECK(never < 1e-14);
  CHECK((growth_of(90, 1e-8, &again) - expected).cwiseAbs().maxCoeff() < 1e-6);
  CHECK(again >= 1e-8);
}

TEST_CASE("a second vector of a chain grows as the volume of both does") {
  const Problem problem(9);
  const auto steps = problem.steps<GramRows>(kEta);
  RowMatrix pair = normal(2, 9, 6), frame = pair.transpose(), log_growth(1, 2), frame_growth(1, 2);
  // The first batch orthonormalises what both start from.
  for (const std::uint64_t start : {0, 40}) {
    advance_vectors(steps, {kKey, 5, start, 1, 40}, {10, false, 1}, SingleMetrics{}, pair.data(), 1, 2,
                    {log_growth.data(), nullptr}, 1);
    double log_determinant = 0, ratio = 0;
    const Eigen::VectorXd log_determinants = problem.log_determinants(kEta);
    advance_frames(in_batches_of_one(steps), {kKey, 5, start, 1, 40}, 16, 10, {true, 0}, {{}, log_determinants.data()},
                   frame.data(), 1, 2, {frame_growth.data(), &log_determinant, &ratio, nullptr}, 1);
    CHECK((log_growth - frame_growth).norm() < 1e-9);
  }
}
