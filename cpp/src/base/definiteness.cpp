#include "sgdstab/base/definiteness.hpp"

#include <Eigen/Cholesky>
#include <cmath>

namespace sgdstab {

SmallestEigenvalue smallest_eigenvalue(MatrixView c, const Eigen::VectorXd& scale) {
  constexpr int kIterations = 8, kDirectionIterations = 32;
  using View = Eigen::Ref<Eigen::MatrixXd, 0, Eigen::OuterStride<>>;
  // A symmetric row-major matrix is its own column-major reading.
  View columns = Eigen::Map<Eigen::MatrixXd, 0, Eigen::OuterStride<>>(c.data(), c.rows(), c.cols(),
                                                                      Eigen::OuterStride<>(c.outerStride()));
  const Eigen::LLT<View> cholesky(columns);
  // A start with components everywhere: the golden-ratio sequence.
  Eigen::VectorXd x(c.rows());
  for (Index j = 0; j < x.size(); ++j) x[j] = std::fmod(static_cast<double>(j + 1) * 0.6180339887498949, 1.0) - 0.4;
  SmallestEigenvalue result{0, x};
  if (cholesky.info() != Eigen::Success) return result;
  double norm = 0;
  for (int iteration = 0; iteration < kIterations; ++iteration) {
    x.normalize();
    cholesky.solveInPlace(x);
    norm = x.norm();
    if (!std::isfinite(norm)) return result;
  }
  result.estimate = 1 / norm;
  x = result.direction;
  for (int iteration = 0; iteration < kDirectionIterations; ++iteration) {
    x = (x / x.norm()).cwiseQuotient(scale);  // K^-1 = D^-1 C^-1 D^-1
    cholesky.solveInPlace(x);
    x = x.cwiseQuotient(scale);
    if (!std::isfinite(x.norm())) return result;
  }
  result.direction = x.normalized();
  return result;
}

}  // namespace sgdstab
