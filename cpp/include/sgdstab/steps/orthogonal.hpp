// Steps on single examples that leave a frame of all directions orthogonal: A V = V' R in closed form.
//
// In coordinates in which lengths are those of parameter space A = I - eta f f^T. With V orthogonal and g = V^T f,
//
//   A V = V (I - eta g g^T),   (A V)^T (A V) = I - c g g^T = R^T R,   c = eta (2 - eta |f|^2),
//
// and with d_l = 1 - c sum_{j <= l} g_j^2 the factors are
//
//   R_ll = sqrt(d_l / d_{l-1}),
//   v'_l = R_ll v_l + g_l h_l / sqrt(d_l d_{l-1}),          h_l = (c - eta) V g - c sum_{j > l} g_j v_j,
//        = v_l / R_ll + g_l h_{l-1} / sqrt(d_l d_{l-1}),    h_{l-1} = - eta V g + c sum_{j < l} g_j v_j.
//
// Where c >= 0 the first form is taken from the last column to the first, with d_l = (1 - eta |f|^2)^2 + c sum_{j > l}
// g_j^2, and else the second from the first column to the last: all sums are of terms of one sign. So a step is
// backward stable however close it is to being singular, and nothing has to be orthonormalised. V' = V Q with an
// orthogonal Q that is made of g alone, so that what V lacks of being orthogonal does not grow.
//
// Many steps together. f_t^T V of the steps to come change as rows of V do, with f_j . V g_t = f_j . V_0 g_t^0, where
// V_0 and g^0 = V_0^T f are those before all of the steps. So V is read once for all of them, and a step takes five
// multiply-adds for each number of V, two of them in products of matrices.
#pragma once

#include <vector>

#include "sgdstab/base/panel.hpp"
#include "sgdstab/base/product.hpp"
#include "sgdstab/base/sums.hpp"

namespace sgdstab {

class OrthogonalSteps {
 public:
  // Of so many steps at once at the most.
  OrthogonalSteps(Index dimension, Index most_steps);

  // Begins with V, dimension x dimension, orthogonal.
  void begin(const MatrixView& v);
  // Takes n_steps, with the gradients f_t as rows.
  void take(const Eigen::Ref<const RowMatrix>& gradients, Index n_steps, double learning_rate);
  // V <- what it has become, log_diagonal[l] += log R_ll of all steps.
  void end(MatrixView& v, Eigen::Ref<Eigen::RowVectorXd> log_diagonal);

 private:
  // x'_l = kept x_l + added h, then h += taken x_l: the same for every row x of V.
  struct Coefficients {
    double kept, added, taken;
  };
  void prepare(Index step, double squared_norm, double learning_rate);
  // Applies a step to kLanes rows, whose columns lie `stride` apart, given x . g of each.
  void apply(Index step, const double* products, double* columns, Index stride) const;
  const Coefficients* coefficients(Index step) const { return coefficients_.data() + step * dimension_; }

  Index dimension_, padded_;
  RowMatrix v_;          // V^T
  RowMatrix g_;          // V^T f_t, dimension x steps, padded
  RowMatrix products_;   // V_0 g_t^0, steps x dimension, padded to whole lanes
  RowMatrix couplings_;  // f_j . V_0 g_t^0, steps x steps, padded
  std::vector<Coefficients> coefficients_;
  std::vector<bool> upwards_;      // from the first column to the last
  Eigen::VectorXd first_;          // h of a row before any column, over x . g
  Eigen::ArrayXd gradient_;        // g, padded to whole lanes
  Eigen::ArrayXd d_;               // d_0 .. d_k
  Eigen::ArrayXd excess_, ratio_;  // d_l / d_{l-1}, less 1 and itself, padded
  Eigen::ArrayXd kept_, added_;
  std::vector<LogSum<Lanes>> log_squares_;
  Eigen::VectorXd panel_;
  ProductWorkspace workspace_;
};

}  // namespace sgdstab
