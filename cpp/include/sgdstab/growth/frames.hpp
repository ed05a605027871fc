// Anchored growth of volumes: the expected log growth of the next step of every leading part of a frame.
//
// In a metric M = L L^T a frame V spans with its first j columns the same as the orthonormal Q = L^T V R^-1 does, and
// the step on example i multiplies their volume, squared, by (matrix determinant lemma)
//
//   (1 - eta b)^2 + a (eta^2 M_ii - eta^2 c),   a = sum w_l^2,  b = sum w_l y_l,  c = sum y_l^2,   l = 1..j,
//   gram coordinates:    w = (K L^-T Q)_i,  y = (L Q)_i
//   factor coordinates:  w = (F L^-T Q)_i,  y = (F L Q)_i,  with f_i . M f_i for M_ii
//
// Half the mean of its logarithm over i is the growth, in M, of the sum of the j largest exponents. In the norm of K w
// = y, and the factor is 1 - eta (2 - eta K_ii) a.
#pragma once

#include "sgdstab/base/frame.hpp"
#include "sgdstab/base/product.hpp"
#include "sgdstab/base/sums.hpp"
#include "sgdstab/systems/rows.hpp"

namespace sgdstab {

struct FrameMetrics {
  Index count;
  Index columns;            // leading columns of a frame whose growth is evaluated
  const double* roots;      // count x dimension x dimension: L^T
  const double* gradients;  // count x n_examples x dimension: K L^-T or F L^-T
  const double* images;     // count x n_examples x dimension: L or F L
  const double* diagonals;  // count x n_examples: M_ii or f_i . M f_i
};

class FrameGrowth {
 public:
  FrameGrowth(const AnyRows& rows, const FrameMetrics& metrics);

  // sums[m * columns + j] += growth in metric m of the (j+1)-th exponent: of volume j+1 less that of volume j.
  // `frame` is dimension x any, row-major, its rows `stride` apart.
  void add_growth(const AnyRows& rows, double learning_rate, const FrameMetrics& metrics, const double* frame,
                  Index stride, double* sums);

 private:
  static constexpr int kColumns = 8;  // prefix sums taken together
  using Columns = Eigen::Array<double, kColumns, 1>;

  Index k_;
  RowMatrix q_, w_, y_, prefix_;  // dimension x k, n_examples x k padded to whole kColumns, n_examples x (a, b, c)
  Eigen::RowVectorXd unused_;
  ProductWorkspace products_;
  FrameWorkspace frame_;
};

}  // namespace sgdstab
