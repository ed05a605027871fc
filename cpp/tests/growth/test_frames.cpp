// Growth of frames against its definition: the mean over examples of the growth of a volume.
#include <doctest/doctest.h>

#include <vector>

#include "enumeration.hpp"
#include "sgdstab/growth/frames.hpp"

namespace {

constexpr double kEta = 1.7;

template <class Rows>
void check_frame_growth(const SingleSteps<Rows>& steps, const RowMatrix& gram, Index k) {
  const Index n = steps.n_examples(), d = steps.dimension();
  for (const RowMatrix& metric : {norm_of_k(steps.rows, gram), random_metric(d)}) {
    const RowMatrix root = metric.llt().matrixL();  // M = L L^T
    const RowMatrix transposed = root.transpose();
    const RowMatrix rows = steps.rows.matrix;
    const RowMatrix gradients = root.triangularView<Eigen::Lower>().solve(rows.transpose()).transpose();
    const RowMatrix along = directions(steps.rows), images = along * root;
    const Eigen::VectorXd diagonal = (along * metric * along.transpose()).diagonal();
    const RowMatrix frame = normal(d, k, 10);
    const FrameMetrics metrics{1, k, transposed.data(), gradients.data(), images.data(), diagonal.data()};
    FrameGrowth workspace(steps.rows, metrics);
    std::vector<double> growth(static_cast<std::size_t>(k));
    workspace.add_growth(steps.rows, steps.learning_rate, metrics, frame.data(), k, growth.data());
    double sum = 0;
    for (Index j = 1; j <= k; ++j) {
      const RowMatrix leading = frame.leftCols(j);
      double mean = 0;
      for (Index i = 0; i < n; ++i) {
        mean +=
            (log_volume(after(steps, i, leading), metric) - log_volume(leading, metric)) / 2 / static_cast<double>(n);
      }
      sum += growth[static_cast<std::size_t>(j - 1)];
      CHECK(sum == doctest::Approx(mean).epsilon(1e-8));
    }
  }
}

}  // namespace

TEST_CASE("growth of frames is the mean over all next steps") {
  for (const Index n : {2, 7, 30}) {
    const Problem problem(n);
    for (const Index k : {Index{1}, std::min<Index>(n, 11)}) {
      check_frame_growth(problem.steps<GramRows>(kEta), problem.gram, k);
      check_frame_growth(problem.steps<FactorRows>(kEta), problem.gram, k);
    }
  }
}
