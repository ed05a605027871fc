// Orthonormalisation of a frame: V = Q R in place, with the logarithms of R's diagonal.
//
// Recursive block Gram-Schmidt, all matrix products. With the columns of V (dimension x k) split in halves,
//
//   V_1 = Q_1 R_11,   R_12 = Q_1^T V_2,   V_2 <- V_2 - Q_1 R_12 = Q_2 R_22,
//
// down to leaves of at most kLeaf columns, which a Cholesky factorisation of their Gram matrix orthonormalises
// (V^T V = R^T R, Q = V R^-1), twice where once leaves Q far from orthogonal. The cost is dimension k^2 multiply-adds,
// less than CholeskyQR of the whole frame (7/6 of that), and nothing of the size of V is needed. What orthogonality Q
// loses is harmless along a product: V = Q R holds to rounding whatever Q's orthogonality, and the next pass corrects
// what this one left (Carson, Lund, Rozloznik & Thomas, "Block Gram-Schmidt algorithms and their stability properties",
// Linear Algebra Appl. 638, 2022, for the loss; Benettin et al., Meccanica 15, 1980, for the exponents).
//
// A leaf whose Cholesky pivots say that too little is left of a column, and every leaf when `careful`, is instead
// orthonormalised column by column against everything before it, twice ("twice is enough": Giraud, Langou &
// Rozloznik, 2005). That is stable for any conditioning, also when rows differ by 1e12 as huge learning rates
// make them.
#pragma once

#include "sgdstab/base/product.hpp"

namespace sgdstab {

struct Orthonormalisation {
  bool careful;       // every leaf twice, column by column
  double null_ratio;  // what is left of a column, relative, below which it counts as linearly dependent
};

class FrameWorkspace {
 public:
  FrameWorkspace(Index dimension, Index k);

  // V (dimension x k, k <= dimension, row-major) <- Q, log_diagonal[j] += log R_jj. A linearly dependent column
  // gets -inf and is replaced by a unit vector orthogonal to the others. Returns min_j R_jj / |V_j|, the sine
  // of the smallest angle between a column and the span of those before it.
  double orthonormalise(MatrixView& v, const Orthonormalisation& options, Eigen::Ref<Eigen::RowVectorXd> log_diagonal);

 private:
  static constexpr Index kLeaf = 16;
  static constexpr Index kChunk = 256;  // columns projected out together, so that R_12 stays small beside V

  void split(MatrixView& v, Index first, Index last, const Orthonormalisation& options);
  double cholesky_leaf(MatrixView& v, Index first, Index last);
  void careful_leaf(MatrixView& v, Index first, Index last, double null_ratio);
  void project_out(MatrixView& v, Index column);

  Eigen::RowVectorXd original_norm_, diagonal_, coefficients_;
  Eigen::MatrixXd coupling_;
  ProductWorkspace products_;
};

}  // namespace sgdstab
