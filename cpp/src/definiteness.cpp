#include "sgdstab/definiteness.hpp"

#include <Eigen/Cholesky>
#include <cmath>

namespace sgdstab {

double smallest_eigenvalue_estimate(MatrixView c) {
  constexpr int kIterations = 6;
  using View = Eigen::Ref<Eigen::MatrixXd, 0, Eigen::OuterStride<>>;
  // A symmetric row-major matrix is its own column-major reading.
  View columns = Eigen::Map<Eigen::MatrixXd, 0, Eigen::OuterStride<>>(c.data(), c.rows(), c.cols(),
                                                                      Eigen::OuterStride<>(c.outerStride()));
  const Eigen::LLT<View> cholesky(columns);
  if (cholesky.info() != Eigen::Success) return 0;
  // A start with components everywhere: the golden-ratio sequence.
  Eigen::VectorXd x(c.rows());
  for (Index j = 0; j < x.size(); ++j) x[j] = 0.1 + std::fmod(static_cast<double>(j + 1) * 0.6180339887498949, 1.0) - 0.5;
  double norm = 0;
  for (int iteration = 0; iteration <= kIterations; ++iteration) {
    x.normalize();
    cholesky.solveInPlace(x);
    norm = x.norm();
    if (!std::isfinite(norm)) return 0;
  }
  return 1 / norm;
}

}  // namespace sgdstab
