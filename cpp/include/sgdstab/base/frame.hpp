// Orthonormalisation of a frame: V = Q R in place, with the logarithms of R's diagonal.
//
// Block Gram-Schmidt of leaves of kLeaf columns, from left to right. Modified Gram-Schmidt makes a leaf Q_1 R_11, twice
// where once leaves Q_1 too far from orthogonal, and a product takes it out of all that follows,
//
//   V_2 <- V_2 - Q_1 (Q_1^T V_2).
//
// The cost is dimension k^2 multiply-adds. R is that of V but for rounding of its columns, as Householder's is, however
// little of them is left: R_jj is good to eps over the sine of the smallest angle (A. Bjorck, "Solving linear least
// squares problems by Gram-Schmidt orthogonalization", BIT 7, 1967; of blocks Carson, Lund, Rozloznik & Thomas, "Block
// Gram-Schmidt algorithms and their stability properties", Linear Algebra Appl. 638, 2022). Taking out many leaves at
// once would leave eps over its square. What orthogonality Q loses is harmless along a product: the next pass corrects
// what this one left (Benettin et al., Meccanica 15, 1980).
//
// Columns of which nothing but rounding is left, and every leaf when `careful`, are instead orthonormalised one by one
// against everything before them, twice ("twice is enough": Giraud, Langou & Rozloznik, 2005). That is stable for any
// conditioning, also when rows differ by 1e12 as huge learning rates make them.
#pragma once

#include "sgdstab/base/product.hpp"

namespace sgdstab {

struct Orthonormalisation {
  bool careful;            // every leaf twice, column by column
  double null_ratio;       // what is left of a column, relative, below which it counts as linearly dependent
  double least_ratio = 0;  // what steps may leave of a column before it is time to orthonormalise
};

class FrameWorkspace {
 public:
  FrameWorkspace(Index dimension, Index k);

  // V (dimension x k, k <= dimension, row-major) <- Q, log_diagonal[j] += log R_jj. A linearly dependent column
  // gets -inf and is replaced by a unit vector orthogonal to the others. Returns min_j R_jj / |V_j|, the sine
  // of the smallest angle between a column and the span of those before it.
  double orthonormalise(MatrixView& v, const Orthonormalisation& options, Eigen::Ref<Eigen::RowVectorXd> log_diagonal);

  // Whether V^T V x = x for one x, which costs next to nothing: whether V lacks no more than rounding of steps that
  // leave it orthonormal.
  bool is_orthonormal(const MatrixView& v);

 private:
  static constexpr Index kLeaf = 16;

  static void column_norms(const MatrixView& v, Index first, Index last, Eigen::RowVectorXd& norms);
  void project(MatrixView& v, Index first, Index last);
  template <Index kWidth>
  Index leaf(MatrixView& v, Index first, Index last);
  void careful_leaf(MatrixView& v, Index first, Index last, double null_ratio);
  void project_out(MatrixView& v, Index column);

  Eigen::RowVectorXd original_norm_, leaf_norm_, diagonal_, coefficients_;
  Eigen::MatrixXd coupling_;
  RowMatrix leaf_;
  ProductWorkspace products_;
};

}  // namespace sgdstab
