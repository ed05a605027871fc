// Orthogonal steps against Gram-Schmidt after every step, and what they are made of: Q orthogonal, A V = Q R.
#include <doctest/doctest.h>

#include <vector>

#include "problems.hpp"
#include "sgdstab/base/frame.hpp"
#include "sgdstab/kernels/frames.hpp"
#include "sgdstab/steps/orthogonal.hpp"

using namespace sgdstab;

namespace {

RowMatrix orthogonal(Index n, unsigned seed) {
  RowMatrix v = normal(n, n, seed);
  MatrixView q = view(v);
  Eigen::RowVectorXd unused = Eigen::RowVectorXd::Zero(n);
  FrameWorkspace(n, n).orthonormalise(q, {true, 0}, unused);
  return v;
}

double loss(const RowMatrix& v) { return (v.transpose() * v - RowMatrix::Identity(v.cols(), v.cols())).norm(); }

}  // namespace

// eta |f|^2 from small to huge, at 1 and at 2.
TEST_CASE("orthogonal steps are the factorisation of the product, step by step") {
  for (const Index n : {1, 2, 3, 15, 16, 17, 40}) {
    for (const double size : {1e-3, 0.4, 1 - 1e-6, 1 + 1e-3, 1.9, 2.0, 2.5, 30.0, 1e6}) {
      const Index n_steps = 7;
      const RowMatrix v = orthogonal(n, 1);
      RowMatrix gradients = RowMatrix(normal(n_steps, n, 2).rowwise().normalized());
      gradients.row(2) = gradients.row(1);  // the same example twice
      RowMatrix ours = v, expected = v;
      Eigen::RowVectorXd log_diagonal = Eigen::RowVectorXd::Zero(n), expected_diagonal = log_diagonal;
      OrthogonalSteps steps(n, 16);
      MatrixView ours_view = view(ours), expected_view = view(expected);
      steps.begin(ours_view);
      steps.take(gradients, 3, size);
      steps.take(gradients.bottomRows(4), 4, size);
      steps.end(ours_view, log_diagonal);
      FrameWorkspace workspace(n, n);
      for (Index t = 0; t < n_steps; ++t) {
        const Eigen::RowVectorXd products = gradients.row(t) * expected;
        expected -= size * gradients.row(t).transpose() * products;
        workspace.orthonormalise(expected_view, {true, 0}, expected_diagonal);
      }
      CHECK(loss(ours) < 1e-13 * static_cast<double>(n));
      // What a nearly singular step leaves of the last column, the other way knows to eps / 1e-6 only.
      CHECK((log_diagonal - expected_diagonal).cwiseAbs().maxCoeff() < 1e-8);
      CHECK((ours.cwiseProduct(expected).colwise().sum().cwiseAbs().array() - 1).abs().maxCoeff() < 1e-8);
      const double volume = static_cast<double>(n_steps) * std::log(std::abs(1 - size));
      CHECK(std::abs(log_diagonal.sum() - volume) < 1e-9 * (1 + std::abs(volume)));
    }
  }
}

TEST_CASE("a frame stays orthogonal for as many steps as anyone takes") {
  for (const double size : {0.5, 1 - 1e-9, 1.9, 3.0}) {
    RowMatrix v = orthogonal(20, 3);
    MatrixView v_view = view(v);
    Eigen::RowVectorXd log_diagonal = Eigen::RowVectorXd::Zero(20);
    const RowMatrix gradients = normal(30, 20, 4).rowwise().normalized();
    OrthogonalSteps steps(20, 30);
    steps.begin(v_view);
    for (int round = 0; round < 2000; ++round) steps.take(gradients, 30, size);
    steps.end(v_view, log_diagonal);
    CHECK(loss(v) < 1e-9);
  }
}

TEST_CASE("frames that advance by orthogonal steps grow as those that are orthonormalised do") {
  for (const double learning_rate : {0.7, 1 - 1e-4, 1.6, 2.4}) {
    const Problem problem(20);
    const auto steps = in_batches_of_one(problem.steps<FactorRows>(learning_rate));
    const Index d = steps.dimension();
    const Eigen::VectorXd log_determinants = problem.log_determinants(learning_rate);
    RowMatrix growth[2], frames[2];
    for (const int way : {0, 1}) {
      frames[way] = normal(d, d, 5);  // orthonormalised to begin with
      growth[way].resize(4, d);
      std::vector<double> log_determinant(4), ratio(4);
      advance_frames(steps, {{1, 2}, 3, 0, 4, 75}, 16, 1, {way == 0, 0}, {{}, log_determinants.data()},
                     frames[way].data(), 1, d, {growth[way].data(), log_determinant.data(), ratio.data(), nullptr}, 1);
    }
    CHECK((growth[0] - growth[1]).cwiseAbs().maxCoeff() < 1e-7);
    CHECK(loss(frames[1]) < 1e-11);
  }
}
