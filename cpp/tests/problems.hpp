// Random problems for the tests, and views of matrices.
#pragma once

#include <cmath>
#include <random>

#include "sgdstab/system.hpp"

inline sgdstab::MatrixView view(sgdstab::RowMatrix& m) {
  return {m.data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.cols())};
}

inline sgdstab::RowMatrix normal(sgdstab::Index rows, sgdstab::Index columns, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> distribution;
  return sgdstab::RowMatrix::NullaryExpr(rows, columns, [&] { return distribution(generator); });
}

// K = F F^T with K_ii = 1.
struct Problem {
  explicit Problem(sgdstab::Index n)
      : features(normal(n, 2 * n, 7).rowwise().normalized()), gram(features * features.transpose()) {}

  sgdstab::RowForm gram_form(double learning_rate) const {
    return {{gram.data(), gram.rows(), gram.cols(), Eigen::OuterStride<>(gram.cols())}, learning_rate};
  }
  sgdstab::RowForm factor_form(double learning_rate) const {
    return {{features.data(), features.rows(), features.cols(), Eigen::OuterStride<>(features.cols())}, learning_rate};
  }
  Eigen::VectorXd log_determinants(double learning_rate) const {
    return (1 - learning_rate * gram.diagonal().array()).abs().log();
  }

  sgdstab::RowMatrix features, gram;
};
