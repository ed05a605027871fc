// Random problems for the tests, and views of matrices.
#pragma once

#include <cmath>
#include <random>
#include <type_traits>

#include "sgdstab/systems/single_steps.hpp"

inline sgdstab::MatrixView view(sgdstab::RowMatrix& m) {
  return {m.data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.cols())};
}

inline sgdstab::ConstMatrixView const_view(const sgdstab::RowMatrix& m) {
  return {m.data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.cols())};
}

inline sgdstab::RowMatrix normal(sgdstab::Index rows, sgdstab::Index columns, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> distribution;
  return sgdstab::RowMatrix::NullaryExpr(rows, columns, [&] { return distribution(generator); });
}

inline sgdstab::RowMatrix random_metric(sgdstab::Index n) {
  const sgdstab::RowMatrix root = normal(n, n, 8);
  return root * root.transpose() + sgdstab::RowMatrix::Identity(n, n);
}

// e_i or f_i, as rows: what a step on example i moves along.
inline sgdstab::RowMatrix directions(const sgdstab::GramRows& rows) {
  return sgdstab::RowMatrix::Identity(rows.n_examples(), rows.n_examples());
}
inline sgdstab::RowMatrix directions(const sgdstab::FactorRows& rows) { return rows.matrix; }

// K = F F^T with K_ii = 1.
struct Problem {
  explicit Problem(sgdstab::Index n)
      : features(normal(n, 2 * n, 7).rowwise().normalized()), gram(features * features.transpose()) {}

  template <class Rows>
  Rows rows() const {
    return {const_view(Rows::kGram ? gram : features)};
  }
  template <class Rows>
  sgdstab::SingleSteps<Rows> steps(double learning_rate) const {
    return {rows<Rows>(), learning_rate};
  }
  Eigen::VectorXd log_determinants(double learning_rate) const {
    return (1 - learning_rate * gram.diagonal().array()).abs().log();
  }

  sgdstab::RowMatrix features, gram;
};
