// Matrix sets against products of their matrices.
#include <doctest/doctest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "problems.hpp"
#include "sgdstab/growth/matrices.hpp"
#include "sgdstab/kernels/frames.hpp"
#include "sgdstab/kernels/vectors.hpp"

using namespace sgdstab;

namespace {

constexpr StreamKey kKey{11, 22};

}  // namespace

TEST_CASE("matrix sets advance as the product of their matrices does") {
  for (const Index d : {1, 2, 7, 16, 21}) {
    const Index count = 3;
    std::vector<RowMatrix> matrices;
    const Index n_panels = (d + kLanes - 1) / kLanes;
    std::vector<double> panels(static_cast<std::size_t>(count * n_panels * d * kLanes)), dense, logs(3, 0.0);
    for (Index i = 0; i < count; ++i) {
      matrices.push_back(normal(d, d, static_cast<unsigned>(20 + i)) / std::sqrt(static_cast<double>(d)));
      for (Index row = 0; row < d; ++row) {
        for (Index j = 0; j < d; ++j) {
          panels[static_cast<std::size_t>(((i * n_panels + row / kLanes) * d + j) * kLanes + row % kLanes)] =
              matrices.back()(row, j);
        }
      }
      dense.insert(dense.end(), matrices.back().data(), matrices.back().data() + d * d);
    }
    const double probabilities[] = {0.2, 0.5, 0.3}, cumulative[] = {0.2, 0.7, 1.0};
    const MatrixSet set{count, d, panels.data(), dense.data(), probabilities, cumulative};
    const RowMatrix start = normal(d, std::min<Index>(d, 3), 5);
    Eigen::VectorXd end = start.col(0);
    Draws draws(law_of(set));
    constexpr Index kSteps = 40;
    draws.fill(kKey, 5, 0, kSteps);
    for (Index j = 0; j < kSteps; ++j) end = matrices[draws.units(j)[0]] * end;
    RowMatrix vector = start.col(0).transpose(), log_growth(1, 1);
    advance_vectors(set, {kKey, 5, 0, 1, kSteps}, {7, true, 1}, MatrixMetrics{}, vector.data(), 1, 1,
                    {log_growth.data(), nullptr}, 1);
    CHECK(log_growth(0, 0) == doctest::Approx(std::log(end.norm())).epsilon(1e-10));
    CHECK((vector.transpose() - end / end.norm()).norm() < 1e-9);
    RowMatrix frame = start;
    std::vector<double> growth(static_cast<std::size_t>(start.cols()));
    double determinant = 0, ratio = 0;
    advance_frames(set, {kKey, 5, 0, 1, kSteps}, 1, 5, {true, 0}, {{}, logs.data()}, frame.data(), 1, start.cols(),
                   {growth.data(), &determinant, &ratio, nullptr}, 1);
    CHECK(growth[0] == doctest::Approx(std::log(end.norm())).epsilon(1e-9));

    // In the Euclidean metric, from the state after a scale of 2 was taken out of the matrices.
    std::vector<double> roots(static_cast<std::size_t>((1 + count) * d * d));
    double expected = 0;
    Eigen::Map<RowMatrix>(roots.data(), d, d).setIdentity();
    for (Index i = 0; i < count; ++i) {
      Eigen::Map<RowMatrix>(roots.data() + (i + 1) * d * d, d, d) = matrices[static_cast<std::size_t>(i)] / 2;
      expected += probabilities[i] * std::log((matrices[static_cast<std::size_t>(i)] * end).norm() / end.norm());
    }
    MatrixMetrics metrics{1, roots.data(), std::numbers::ln2};
    MatrixGrowth evaluation(set, metrics);
    double sum = 0;
    const RowMatrix state = end.transpose();
    evaluation.add_growth(state.data(), d, 1, {&sum, 1, 1});
    CHECK(sum == doctest::Approx(expected).epsilon(1e-12));
  }
}
