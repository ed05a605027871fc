// V = Q R: orthonormality, reconstruction, conditioning, and dependent columns.
#include <doctest/doctest.h>

#include "problems.hpp"
#include "sgdstab/base/frame.hpp"

using namespace sgdstab;

namespace {

struct Factors {
  RowMatrix q;
  Eigen::RowVectorXd log_diagonal;
  double smallest_ratio;
};

Factors factorise(const RowMatrix& v, bool careful, double null_ratio = 0) {
  Factors factors{v, Eigen::RowVectorXd::Zero(v.cols()), 0};
  MatrixView q = view(factors.q);
  factors.smallest_ratio =
      FrameWorkspace(v.rows(), v.cols()).orthonormalise(q, {careful, null_ratio}, factors.log_diagonal);
  return factors;
}

double orthogonality_loss(const RowMatrix& q) {
  return (q.transpose() * q - RowMatrix::Identity(q.cols(), q.cols())).norm();
}

// Columns that grow together: singular values from 1 down to 1 / condition.
RowMatrix graded(Index rows, Index columns, double condition) {
  RowMatrix v = factorise(normal(rows, columns, 5), true).q;
  for (Index j = 0; j < columns; ++j) {
    v.col(j) *= std::pow(condition, -static_cast<double>(j) / static_cast<double>(std::max<Index>(columns - 1, 1)));
  }
  return v * factorise(normal(columns, columns, 6), true).q;
}

}  // namespace

TEST_CASE("Q is orthonormal, Q^T V is R, and R's diagonal is returned") {
  for (const Index n : {1, 2, 15, 16, 17, 50, 130}) {
    for (const Index k : {Index{1}, (n + 1) / 2, n}) {
      for (const bool careful : {false, true}) {
        const RowMatrix v = normal(n, k, 1);
        const Factors factors = factorise(v, careful);
        CHECK(orthogonality_loss(factors.q) < 1e-9);
        const RowMatrix r = factors.q.transpose() * v;
        CHECK((v - factors.q * RowMatrix(r.triangularView<Eigen::Upper>())).norm() < 1e-9 * v.norm());
        CHECK((r.diagonal().array().log().matrix().transpose() - factors.log_diagonal).norm() < 1e-8);
        CHECK(factors.smallest_ratio > 0);
      }
    }
  }
}

TEST_CASE("the volume is right whatever the conditioning") {
  for (const double condition : {1e2, 1e6, 1e10}) {
    const RowMatrix v = graded(60, 60, condition);
    double log_volume = 0;
    for (Index j = 0; j < 60; ++j) log_volume -= std::log(condition) * static_cast<double>(j) / 59;
    for (const bool careful : {false, true}) {
      const Factors factors = factorise(v, careful);
      // V's entries are known to eps of the largest, and the inverse of V magnifies that in all 60 x 60 of them.
      CHECK(std::abs(factors.log_diagonal.sum() - log_volume) < 60 * 60 * 2.3e-16 * condition + 1e-10);
      if (careful) CHECK(orthogonality_loss(factors.q) < 1e-13 * 60);
    }
  }
}

// V = Q R with columns whose angles with those before them fall to 1e-8: R_jj is known to eps over that, where products
// that take out many columns at once leave eps over its square.
TEST_CASE("the diagonal of R is good to eps over the smallest angle") {
  for (const Index n : {20, 60, 150}) {
    const RowMatrix q = factorise(normal(n, n, 8), true).q;
    RowMatrix r = RowMatrix(normal(n, n, 9).triangularView<Eigen::Upper>()) / std::sqrt(static_cast<double>(n));
    for (Index j = 0; j < n; ++j) {
      r.row(j) *= std::pow(1e-8, static_cast<double>(j) / static_cast<double>(n - 1));
      r(j, j) = std::pow(1e-8, static_cast<double>(j) / static_cast<double>(n - 1));
    }
    const Factors factors = factorise(q * r, false);
    CHECK((factors.log_diagonal.transpose() - r.diagonal().array().log().matrix()).cwiseAbs().maxCoeff() < 1e-5);
    CHECK(factors.smallest_ratio < 1e-7);
  }
}

TEST_CASE("an orthonormal frame is known as one") {
  RowMatrix v = factorise(normal(40, 30, 10), true).q;
  FrameWorkspace workspace(40, 30);
  CHECK(workspace.is_orthonormal(view(v)));
  v(3, 4) += 1e-9;
  CHECK(!workspace.is_orthonormal(view(v)));
  v.col(5) *= 2;
  CHECK(!workspace.is_orthonormal(view(v)));
}

TEST_CASE("a dependent column gets -inf and is replaced by an orthogonal unit vector") {
  RowMatrix v = normal(30, 20, 2);
  v.col(7) = v.col(2) - 3 * v.col(5);
  const Factors factors = factorise(v, true, 1e-12);
  CHECK(factors.log_diagonal[7] == -std::numeric_limits<double>::infinity());
  CHECK(factors.log_diagonal.array().isFinite().count() == 19);
  CHECK(orthogonality_loss(factors.q) < 1e-13 * 20);
}
