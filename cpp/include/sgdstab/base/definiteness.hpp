// How far a symmetric matrix is from singular, without an eigendecomposition.
#pragma once

#include "sgdstab/base/types.hpp"

namespace sgdstab {

struct SmallestEigenvalue {
  double estimate;            // of C, from above and usually within a small factor; 0 if C is not positive definite
  Eigen::VectorXd direction;  // of K = D C D, about its eigenvector
};

// For C (n x n, symmetric, row-major; overwritten by its Cholesky factor) and D = diag(scale): inverse iterations
// x <- C^-1 x / |C^-1 x| and x <- K^-1 x / |K^-1 x|.
SmallestEigenvalue smallest_eigenvalue(MatrixView c, const Eigen::VectorXd& scale);

}  // namespace sgdstab
