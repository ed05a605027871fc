// Ratios inside the core, each taken in one run on one thread: the frame kernel's multiply-adds per second, and the
// cost of one orthonormalisation, against Eigen's own dgemm at the same SIMD level.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

#include "sgdstab/kernels/frames.hpp"

using namespace sgdstab;

namespace {

constexpr Index kSize = 1024;

template <class Work>
double seconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

}  // namespace

int main() {
  const RowMatrix features = RowMatrix::Random(kSize, 2 * kSize) * std::sqrt(5.0 / (2.0 * kSize));
  const RowMatrix gram = features * features.transpose();
  const SingleSteps<GramRows> steps{{{{gram.data(), kSize, kSize, Eigen::OuterStride<>(kSize)}}}, 1.0};
  const Eigen::VectorXd log_determinants = (1 - gram.diagonal().array()).abs().log();
  const Eigen::MatrixXd a = Eigen::MatrixXd::Random(kSize, kSize), b = Eigen::MatrixXd::Random(kSize, kSize);
  Eigen::MatrixXd c(kSize, kSize);
  RowMatrix frame = RowMatrix::Random(kSize, kSize), spare(kSize, kSize);
  FrameWorkspace workspace(kSize, kSize);
  Eigen::RowVectorXd log_growth(kSize);
  double log_determinant = 0, ratio = 0;
  MatrixView view(frame.data(), kSize, kSize, Eigen::OuterStride<>(kSize));
  const auto advance = [&](Index n_steps) {
    advance_frames(in_batches_of_one(steps), {{1, 2}, 0, 0, 1, n_steps}, 64, n_steps, {false, 0},
                   {{}, log_determinants.data()}, frame.data(), 1, kSize,
                   {log_growth.data(), &log_determinant, &ratio, nullptr}, 1);
  };
  const Index period = kSize / 2;
  advance(period);

  std::vector<double> rate_ratio, orthonormalisation_ratio;
  for (int repetition = 0; repetition < 7; ++repetition) {
    const double dgemm = seconds([&] { c.noalias() = a * b; });
    const double period_and_pass = seconds([&] { advance(period); });
    // The same pass on what the same steps leave: taken apart by advancing twice as far.
    const double twice_and_pass = seconds([&] { advance(2 * period); });
    const double step = (twice_and_pass - period_and_pass) / static_cast<double>(period);
    const double pass = seconds([&] { workspace.orthonormalise(view, {false, 0}, log_growth); });
    rate_ratio.push_back(dgemm / kSize / step);
    orthonormalisation_ratio.push_back(pass / dgemm);
  }
  std::printf("N = %d, one thread, medians of 7\n", static_cast<int>(kSize));
  std::printf("steps' multiply-adds per second over dgemm's: %.0f%%   (goal: at least 75%%)\n",
              100 * median(rate_ratio));
  std::printf("one orthonormalisation, in dgemms of the same size: %.2f   (goal: at most 1.6)\n",
              median(orthonormalisation_ratio));
}
