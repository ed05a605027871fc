// The smallest eigenvalue of a matrix whose eigenvalues are known.
#include <doctest/doctest.h>

#include "problems.hpp"
#include "sgdstab/base/definiteness.hpp"

using namespace sgdstab;

TEST_CASE("the smallest eigenvalue is found, and 0 where there is none") {
  RowMatrix c = RowMatrix::Identity(3, 3);
  c(0, 1) = c(1, 0) = 0.75;
  RowMatrix copy = c;
  const auto [estimate, direction] = smallest_eigenvalue(view(copy), Eigen::VectorXd::Ones(3));
  CHECK(estimate >= 0.25);
  CHECK(estimate < 0.26);
  CHECK((c * direction - 0.25 * direction).norm() < 1e-9);
  c(0, 1) = c(1, 0) = 2;
  CHECK(smallest_eigenvalue(view(c), Eigen::VectorXd::Ones(3)).estimate == 0);
}
