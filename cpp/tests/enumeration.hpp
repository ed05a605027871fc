// Steps as matrices, one by one: the moments of all products of few steps, by enumeration.
#pragma once

#include <doctest/doctest.h>

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "problems.hpp"
#include "sgdstab/growth/single.hpp"
#include "sgdstab/steps/tilted.hpp"

using namespace sgdstab;

// The norm of K.
template <class Rows>
RowMatrix norm_of_k(const Rows& rows, const RowMatrix& gram) {
  const Index d = rows.dimension();
  return Rows::kGram ? gram : RowMatrix::Identity(d, d);
}

// A_i V
template <class Rows>
RowMatrix after(const SingleSteps<Rows>& steps, Index i, const RowMatrix& v) {
  const RowMatrix along = steps.learning_rate * (steps.rows.matrix.row(i) * v);
  return v - directions(steps.rows).row(i).transpose() * along;
}

// A_S_m .. A_S_1 V
template <class Rows>
RowMatrix product_of_steps(const SingleSteps<Rows>& steps, const std::vector<std::uint32_t>& drawn, RowMatrix v) {
  for (const std::uint32_t i : drawn) v = after(steps, i, v);
  return v;
}

// The examples of the first steps of a chain.
inline std::vector<std::uint32_t> examples(StreamKey key, std::uint64_t chain, Index n_steps, Index n) {
  std::vector<std::uint32_t> drawn(static_cast<std::size_t>(n_steps));
  IndexStream(key, chain, n).fill(0, n_steps, drawn.data());
  return drawn;
}

// log of the squared volume of V in the metric
inline double log_volume(const RowMatrix& v, const RowMatrix& metric) {
  const RowMatrix gram = v.transpose() * metric * v;
  const RowMatrix root = gram.llt().matrixL();
  return 2 * root.diagonal().array().log().sum();
}

// A_i^T of all i: vectors are rows here.
template <class Rows>
std::vector<RowMatrix> transposed_steps(const SingleSteps<Rows>& steps) {
  const Index d = steps.dimension();
  const RowMatrix g = directions(steps.rows);
  std::vector<RowMatrix> matrices;
  for (Index i = 0; i < steps.n_examples(); ++i) {
    matrices.push_back(RowMatrix::Identity(d, d) -
                       steps.learning_rate * steps.rows.matrix.row(i).transpose() * g.row(i));
  }
  return matrices;
}

// sqrt(sum_l |v_l|_M^2)
inline double norm_in(const RowMatrix& metric, const RowMatrix& v) {
  return std::sqrt((v * metric * v.transpose()).trace());
}

// E |A_{i_n} .. A_{i_1} v|_M^p
inline double moment(const std::vector<RowMatrix>& matrices, const RowMatrix& metric, double p, const RowMatrix& v,
                     Index n) {
  if (n == 0) return std::pow(norm_in(metric, v), p);
  double sum = 0;
  for (const RowMatrix& step : matrices) sum += moment(matrices, metric, p, v * step, n - 1);
  return sum / static_cast<double>(matrices.size());
}

// The same over |v|_M^p.
inline double mean_growth_of(const std::vector<RowMatrix>& matrices, const RowMatrix& metric, double p,
                             const RowMatrix& v, Index n) {
  return moment(matrices, metric, p, v, n) / std::pow(norm_in(metric, v), p);
}

// A metric with what steps need of it. M is the norm of K unless given.
struct Norm {
  template <class Rows>
  Norm(const Rows& rows, RowMatrix its_gram, RowMatrix its_metric = {})
      : of_k(its_metric.size() == 0), gram(std::move(its_gram)), metric(std::move(its_metric)) {
    const RowMatrix g = directions(rows);
    if (of_k) metric = norm_of_k(rows, gram);
    coupling = g * metric * g.transpose();
    diagonal = coupling.diagonal();
  }
  Gauge gauge() const {
    return {gram.data(), of_k ? nullptr : coupling.data(), of_k ? nullptr : metric.data(), diagonal.data()};
  }

  bool of_k;
  RowMatrix gram, metric, coupling;
  Eigen::VectorXd diagonal;
};

// The norm of K and a random metric, as the core asks for them.
template <class Rows>
struct TwoMetrics {
  TwoMetrics(const Rows& rows, const RowMatrix& gram)
      : norms{{rows, gram}, {rows, gram, random_metric(rows.dimension())}}, diagonals(2, rows.n_examples()) {
    for (Index m = 0; m < 2; ++m) diagonals.row(m) = norms[static_cast<std::size_t>(m)].diagonal;
  }
  SingleMetrics view() const { return {2, norms[1].metric.data(), diagonals.data()}; }

  std::vector<Norm> norms;
  RowMatrix diagonals;
};

inline void check_close(double value, double expected, double tolerance) {
  CHECK(std::abs(value - expected) <= tolerance * std::max(1.0, std::abs(expected)));
}

inline void check_mean(const Eigen::ArrayXd& samples, double expected) {
  const double error = std::sqrt((samples - samples.mean()).square().mean() / static_cast<double>(samples.size()));
  CAPTURE(error);
  CAPTURE(samples.mean());
  CHECK(std::abs(samples.mean() - expected) <= 4 * error + 1e-12 * expected);
}
