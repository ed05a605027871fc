// How far a symmetric matrix is from singular, without an eigendecomposition.
#pragma once

#include "sgdstab/types.hpp"

namespace sgdstab {

// An estimate, from above and usually within a small factor, of the smallest eigenvalue of C (n x n, symmetric,
// row-major): Cholesky in place (C is overwritten) and a few inverse iterations x <- C^-1 x / |C^-1 x|. A
// matrix that is not numerically positive definite gives 0.
double smallest_eigenvalue_estimate(MatrixView c);

}  // namespace sgdstab
