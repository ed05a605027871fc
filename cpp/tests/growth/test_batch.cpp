// Growth of batches against the mean over all of them.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "problems.hpp"
#include "sgdstab/growth/batch.hpp"

using namespace sgdstab;

namespace {

constexpr StreamKey kKey{11, 22};
constexpr double kEta = 1.6;

}  // namespace

TEST_CASE("growth of batches has the mean of all batches, whatever the column, and less variance with each") {
  // N = 6, B = 2 or 3: all batches can be gone through. Means over many evaluations of one and the same state.
  const Problem problem(6);
  const auto single = problem.steps<GramRows>(kEta);
  const RowMatrix state = normal(1, 6, 8), root = normal(6, 6, 9), metric = root * root.transpose();
  const RowMatrix probabilities = RowMatrix::Constant(1, 6, 1.0 / 6);
  for (const auto sampling : {Sampling::iid, Sampling::with_replacement}) {
    for (const Index batch_size : {2, 3}) {
      BatchSteps<GramRows> steps = in_batches_of_one(single);
      steps.law = {sampling, 6, batch_size};
      double expected = 0, total = 0;
      std::vector<std::uint32_t> batch(static_cast<std::size_t>(batch_size));
      const auto all = static_cast<Index>(std::pow(6, batch_size));
      for (Index code = 0; code < all; ++code) {
        Index left = code;
        bool repeats = false;
        for (Index b = 0; b < batch_size; ++b, left /= 6) {
          batch[static_cast<std::size_t>(b)] = static_cast<std::uint32_t>(left % 6);
          for (Index c = 0; c < b; ++c)
            repeats |= batch[static_cast<std::size_t>(b)] == batch[static_cast<std::size_t>(c)];
        }
        if (repeats && sampling == Sampling::iid) continue;
        const Eigen::VectorXd before = state.transpose();
        Eigen::VectorXd after = before;
        for (const std::uint32_t i : batch) {
          after[i] -= kEta / static_cast<double>(batch_size) * problem.gram.row(i).dot(before);
        }
        expected += std::log(after.dot(metric * after) / before.dot(metric * before)) / 2;
        total += 1;
      }
      expected /= total;
      const BatchMetrics metrics{1, 6, metric.data(), metric.data(), probabilities.data()};
      BatchGrowth<GramRows> growth(steps, metrics);
      constexpr Index kEvaluations = 4000;
      Eigen::Array3d mean = Eigen::Array3d::Zero(), square = mean;
      for (Index e = 0; e < kEvaluations; ++e) {
        Eigen::Array3d columns = Eigen::Array3d::Zero();
        growth.add_growth(state.data(), 6, 1, {columns.data(), 3, 1}, kKey, 3, static_cast<std::uint64_t>(e));
        mean += columns;
        square += columns.square();
      }
      mean /= kEvaluations;
      const Eigen::Array3d error = ((square / kEvaluations - mean.square()) / kEvaluations).max(0.0).sqrt();
      for (Index column = 0; column < 3; ++column) {
        CAPTURE(column);
        CHECK(std::abs(mean[column] - expected) < 4.5 * error[column] + 1e-12);
      }
      CHECK(error[1] < error[0]);
    }
  }
}
