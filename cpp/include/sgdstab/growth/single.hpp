// Anchored growth: the expected log growth of the next step, given the vector, in several metrics at once.
//
// With w_i = K_i . a = f_i . s and a metric M, the step on example i multiplies the squared norm by
//
//   |A_i v|_M^2 / |v|_M^2 = 1 + x_i,   x_i = (eta^2 w_i^2 M_ii - 2 eta w_i y_i) / q,
//   gram coordinates:    y = M a,    q = a . y,    M_ii
//   factor coordinates:  u = M s,  y = F u,  q = s . u,  with f_i . M f_i for M_ii
//
// and the growth in M is g_M = (1/2N) sum_i log(1 + x_i). Under the stationary law of v its mean is the exponent
// whatever M is (Furstenberg's formula; Chemnitz & Engel 2025, lemma 3.10), so that its differences are control
// variates.
//
// Moments. The mean growth to the power p, (1/N) sum_i (1 + x_i)^(p/2), takes the place of g_M; it is returned less 1,
// which keeps its digits where steps are small.
//
// The first metric is always the norm of K, the distance in parameter space: its M v, w or s, comes for free.
#pragma once

#include "sgdstab/base/panel.hpp"
#include "sgdstab/base/sums.hpp"
#include "sgdstab/systems/single_steps.hpp"

namespace sgdstab {

struct SingleMetrics {
  Index count;              // with the norm of K; 0 for no evaluation at all
  const double* matrices;   // (count - 1) x dimension x dimension: M of all but the first
  const double* diagonals;  // count x n_examples: M_ii or f_i . M f_i

  Index columns() const { return count; }
};

// Where sums of growth go: that of vector v in metric m to sums[v * vector_stride + m * metric_stride].
struct GrowthSums {
  double* sums;
  Index vector_stride, metric_stride;
};

class SingleGrowth {
 public:
  template <class Scalar>
  explicit SingleGrowth(const BasicRows<Scalar>& rows) : SingleGrowth(rows.n_examples(), rows.dimension()) {}

  // Adds g_m of the first n_vectors lanes of a panel, each of which has its own learning rate.
  template <class Rows>
  void add_growth(const Rows& rows, const Lanes& learning_rates, const SingleMetrics& metrics, const double* panel,
                  Index n_vectors, const GrowthSums& sums);

  // The same for up to kLanes vectors that lie `stride` apart, with the learning rate of the steps.
  template <class Rows>
  void add_growth(const SingleSteps<Rows>& steps, const SingleMetrics& metrics, const double* vectors, Index stride,
                  Index n_vectors, const GrowthSums& sums);

  // What moments of order `order` are made of, of up to kLanes vectors that lie `stride` apart, with the
  // learning rate of the steps: squared norms and mean growth less 1, metrics.count x kLanes each.
  template <class Rows>
  void evaluate_moments(const SingleSteps<Rows>& steps, double order, const SingleMetrics& metrics,
                        const double* vectors, Index stride, Index n_vectors, double* squared_norms,
                        double* mean_growth);

 private:
  SingleGrowth(Index n_examples, Index dimension);
  using Panel = Eigen::Matrix<double, kLanes, Eigen::Dynamic, Eigen::ColMajor>;
  // What growth in one metric is made of.
  struct Terms {
    const SingleMetrics& metrics;
    Index m;
    const Lanes& learning_rates;
    const double *v, *y, *mv;
  };
  // y = M a, or u = M s and y = F u.
  template <class Rows>
  void apply_metric(const Rows& rows, const double* matrix, const double* v);
  void gather(const double* vectors, Index stride, Index n_vectors);
  // Calls work(terms) for every metric.
  template <class Rows, class Work>
  void for_each_metric(const Rows& rows, const Lanes& learning_rates, const SingleMetrics& metrics, const double* panel,
                       const Work& work);
  // Adds x_i, or the factor 1 + x_i, of all examples to `sum`; returns q.
  template <class Rows, class Sum>
  Lanes add_examples(const Rows& rows, const Terms& terms, Index n_vectors, Sum& sum) const;
  template <class Rows>
  void add_log_growth(const Rows& rows, const Terms& terms, Index n_vectors, const GrowthSums& sums);
  // |A_i v|_M^2 of a lane, from A_i v itself.
  template <class Rows>
  double squared_norm_after(const Rows& rows, const Terms& terms, Index i, Index lane) const;

  Panel v_, w_, y_, u_;  // of length dimension or n_examples
};

extern template void SingleGrowth::add_growth(const GramRows&, const Lanes&, const SingleMetrics&, const double*, Index,
                                              const GrowthSums&);
extern template void SingleGrowth::add_growth(const FactorRows&, const Lanes&, const SingleMetrics&, const double*,
                                              Index, const GrowthSums&);
extern template void SingleGrowth::evaluate_moments(const SingleSteps<GramRows>&, double, const SingleMetrics&,
                                                    const double*, Index, Index, double*, double*);
extern template void SingleGrowth::evaluate_moments(const SingleSteps<FactorRows>&, double, const SingleMetrics&,
                                                    const double*, Index, Index, double*, double*);
extern template void SingleGrowth::add_growth(const SingleSteps<GramRows>&, const SingleMetrics&, const double*, Index,
                                              Index, const GrowthSums&);
extern template void SingleGrowth::add_growth(const SingleSteps<FactorRows>&, const SingleMetrics&, const double*,
                                              Index, Index, const GrowthSums&);
extern template void SingleGrowth::add_growth(const SingleSteps<GramRows32>&, const SingleMetrics&, const double*,
                                              Index, Index, const GrowthSums&);
extern template void SingleGrowth::add_growth(const SingleSteps<FactorRows32>&, const SingleMetrics&, const double*,
                                              Index, Index, const GrowthSums&);

}  // namespace sgdstab
