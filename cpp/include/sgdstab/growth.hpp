// Anchored growth: the expected log growth of the next step, given the vector, in several metrics at once.
//
// With w_i = K_i . a = f_i . s and a metric M, the step on example i multiplies the squared norm by
//
//   |A_i v|_M^2 / |v|_M^2 = 1 + x_i,   x_i = (eta^2 w_i^2 M_ii - 2 eta w_i y_i) / q,
//   gram form:    y = M a,    q = a . y,    M_ii
//   factor form:  u = M s,  y = F u,  q = s . u,  with f_i . M f_i for M_ii
//
// and the growth in M is g_M = (1/2N) sum_i log(1 + x_i). Under the stationary law of v its mean is the exponent
// whatever M is (Furstenberg's formula; Chemnitz & Engel 2025, lemma 3.10), so that its differences are control
// variates.
//
// The first metric is always the norm of K, the distance in parameter space: its M v, w or s, comes for free.
#pragma once

#include "sgdstab/log_sum.hpp"
#include "sgdstab/product.hpp"
#include "sgdstab/system.hpp"

namespace sgdstab {

struct Metrics {
  Index count;              // with the norm of K; 0 for no evaluation at all
  const double* matrices;   // (count - 1) x dimension x dimension: M of all but the first
  const double* diagonals;  // count x n_examples: M_ii or f_i . M f_i
};

class GrowthWorkspace {
 public:
  static constexpr int kVectors = 16;  // evaluated together, so that products read K once for all of them
  using Lanes = Eigen::Array<double, kVectors, 1>;

  explicit GrowthWorkspace(const RowForm& form);

  // sums[v * sums_stride + m] += g_m of vector v, for up to kVectors rows of `vectors`, `vectors_stride` apart.
  template <class Form>
  void add_growth(const Form& form, const Metrics& metrics, const double* vectors, Index vectors_stride,
                  Index n_vectors, double* sums, Index sums_stride);

 private:
  // Vectors side by side, a column for each coordinate, so that the elementwise work runs across vectors.
  using Panel = Eigen::Matrix<double, kVectors, Eigen::Dynamic, Eigen::ColMajor>;
  void load(const double* vectors, Index vectors_stride, Index n_vectors);
  void apply(const double* matrix, Index stride, const Panel& right, Panel& result);
  // y = M a, or u = M s and y = F u.
  void apply_metric(const GramForm& form, const double* matrix);
  void apply_metric(const FactorForm& form, const double* matrix);
  // Adds the growth in metric m, given y and M v, to sums[v * sums_stride].
  template <class Form>
  void add_log_growth(const Form& form, const Metrics& metrics, Index m, const Panel& y, const Panel& mv,
                      Index n_vectors, double* sums, Index sums_stride);
  // |A_i v|_M^2 of vector v, from A_i v itself.
  template <class Form>
  double squared_norm_after(const Form& form, const Metrics& metrics, Index m, Index i, Index v, const Panel& mv) const;

  Panel v_, w_, y_, u_;  // kVectors x dimension or n_examples
  ProductWorkspace products_;
};

extern template void GrowthWorkspace::add_growth(const GramForm&, const Metrics&, const double*, Index, Index, double*,
                                                 Index);
extern template void GrowthWorkspace::add_growth(const FactorForm&, const Metrics&, const double*, Index, Index,
                                                 double*, Index);

}  // namespace sgdstab
