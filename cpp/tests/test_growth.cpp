// Anchored growth against its definition: the mean over examples of the growth of |A_i v|_M, or of a volume.
#include <doctest/doctest.h>

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <cmath>
#include <vector>

#include "problems.hpp"
#include "sgdstab/frame_growth.hpp"
#include "sgdstab/growth.hpp"
#include "sgdstab/inner_product.hpp"

using namespace sgdstab;

namespace {

constexpr double kEta = 1.7;

RowMatrix random_metric(Index n) {
  const RowMatrix root = normal(n, n, 8);
  return root * root.transpose() + RowMatrix::Identity(n, n);
}

// A_i V
RowMatrix after(const RowForm& form, bool factor, Index i, const RowMatrix& v) {
  RowMatrix result = v;
  const RowMatrix along = kEta * (form.rows.row(i) * v);
  if (factor) {
    result -= form.rows.row(i).transpose() * along;
  } else {
    result.row(i) -= along;
  }
  return result;
}

// log of the squared volume of V in the metric
double log_volume(const RowMatrix& v, const RowMatrix& metric) {
  const RowMatrix gram = v.transpose() * metric * v;
  const RowMatrix root = gram.llt().matrixL();
  return 2 * root.diagonal().array().log().sum();
}

template <class Form>
void check_growth(const Form& form, bool factor, const RowMatrix& gram) {
  const Index n = form.n_examples(), d = form.dimension(), n_vectors = 5;
  const RowMatrix matrix = random_metric(d);
  const RowMatrix metrics[] = {factor ? RowMatrix(RowMatrix::Identity(d, d)) : gram, matrix};
  RowMatrix diagonals(2, n);
  for (Index m = 0; m < 2; ++m) {
    const RowMatrix directions = factor ? RowMatrix(form.rows) : RowMatrix(RowMatrix::Identity(n, n));
    diagonals.row(m) = (directions * metrics[m] * directions.transpose()).diagonal();
  }
  const RowMatrix vectors = normal(n_vectors, d, 9);
  RowMatrix growth = RowMatrix::Zero(n_vectors, 2);
  GrowthWorkspace workspace(form);
  workspace.add_growth(form, {2, matrix.data(), diagonals.data()}, vectors.data(), d, n_vectors, {growth.data(), 2, 1});
  for (Index v = 0; v < n_vectors; ++v) {
    for (Index m = 0; m < 2; ++m) {
      const RowMatrix& metric = metrics[m];
      const RowMatrix start = vectors.row(v).transpose();
      double mean = 0;
      for (Index i = 0; i < n; ++i) {
        mean += (log_volume(after(form, factor, i, start), metric) - log_volume(start, metric)) / 2 /
                static_cast<double>(n);
      }
      CHECK(growth(v, m) == doctest::Approx(mean).epsilon(1e-10));
    }
  }
}

template <class Form>
void check_frame_growth(const Form& form, bool factor, const RowMatrix& gram, Index k) {
  const Index n = form.n_examples(), d = form.dimension();
  for (const RowMatrix& metric : {factor ? RowMatrix(RowMatrix::Identity(d, d)) : gram, random_metric(d)}) {
    const RowMatrix root = metric.llt().matrixL();  // M = L L^T
    const RowMatrix transposed = root.transpose();
    const RowMatrix rows = form.rows;
    const RowMatrix gradients = root.triangularView<Eigen::Lower>().solve(rows.transpose()).transpose();
    const RowMatrix images = factor ? RowMatrix(form.rows * root) : root;
    const RowMatrix directions = factor ? RowMatrix(form.rows) : RowMatrix(RowMatrix::Identity(n, n));
    const Eigen::VectorXd diagonal = (directions * metric * directions.transpose()).diagonal();
    const RowMatrix frame = normal(d, k, 10);
    const FrameMetrics metrics{1, k, transposed.data(), gradients.data(), images.data(), diagonal.data()};
    FrameGrowthWorkspace workspace(form, metrics);
    std::vector<double> growth(static_cast<std::size_t>(k));
    workspace.add_growth(form, metrics, frame.data(), k, growth.data());
    double sum = 0;
    for (Index j = 1; j <= k; ++j) {
      const RowMatrix leading = frame.leftCols(j);
      double mean = 0;
      for (Index i = 0; i < n; ++i) {
        mean += (log_volume(after(form, factor, i, leading), metric) - log_volume(leading, metric)) / 2 /
                static_cast<double>(n);
      }
      sum += growth[static_cast<std::size_t>(j - 1)];
      CHECK(sum == doctest::Approx(mean).epsilon(1e-8));
    }
  }
}

}  // namespace

TEST_CASE("a sum of logarithms is as exact for tiny terms as for huge ones") {
  using Lanes = Eigen::Array<double, 4, 1>;
  for (const double size : {1e-14, 1e-6, 0.01, 0.3, 20.0, 1e30, 1e150}) {
    LogSum<Lanes> sum;
    Lanes expected = Lanes::Zero();
    const RowMatrix terms = size * normal(200, 4, 11).cwiseAbs();
    for (Index i = 0; i < terms.rows(); ++i) {
      const Lanes x = terms.row(i).transpose().array();
      sum.add(x);
      for (Index v = 0; v < 4; ++v) expected[v] += std::log1p(x[v]);
    }
    const Lanes total = sum.total();
    for (Index v = 0; v < 4; ++v) CHECK(total[v] == doctest::Approx(expected[v]).epsilon(2e-14));
  }
}

TEST_CASE("growth of vectors is the mean over all next steps") {
  for (const Index n : {2, 7, 30}) {
    const Problem problem(n);
    check_growth(GramForm{problem.gram_form(kEta)}, false, problem.gram);
    check_growth(FactorForm{problem.factor_form(kEta)}, true, problem.gram);
  }
}

TEST_CASE("growth of frames is the mean over all next steps") {
  for (const Index n : {2, 7, 30}) {
    const Problem problem(n);
    for (const Index k : {Index{1}, std::min<Index>(n, 11)}) {
      check_frame_growth(GramForm{problem.gram_form(kEta)}, false, problem.gram, k);
      check_frame_growth(FactorForm{problem.factor_form(kEta)}, true, problem.gram, k);
    }
  }
}

TEST_CASE("growth of a step that nearly destroys a vector keeps its digits") {
  // eta = 1, unit diagonal, off-diagonal r: after a step on one example the other one leaves r of the norm.
  for (const double r : {1e-3, 1e-5}) {
    RowMatrix gram(2, 2), v(1, 2);
    gram << 1, r, r, 1;
    v << -r, 1;
    const GramForm form{{{gram.data(), 2, 2, Eigen::OuterStride<>(2)}, 1.0}};
    const RowMatrix diagonal = RowMatrix::Ones(1, 2);
    GrowthWorkspace workspace(form);
    double growth = 0;
    workspace.add_growth(form, {1, nullptr, diagonal.data()}, v.data(), 2, 1, {&growth, 1, 1});
    CHECK(growth == doctest::Approx(0.5 * std::log(r)).epsilon(1e-12));
  }
}
