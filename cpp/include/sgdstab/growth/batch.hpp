// Anchored growth of steps on batches: the expected log growth of the next step, given the state, in several metrics.
//
// With z0 = (F (x) I) z, w = rows (h^T (x) I) z and a metric M, a step on the rows S changes the squared norm by
//
//   |z'|_M^2 = |z0|_M^2 (1 + x_S),   x_S = (c^2 sum_{i,j in S} w_i w_j G_ij - 2 c sum_{i in S} w_i y_i) / |z0|_M^2,
//
// c = learning rate / examples drawn, y = (M z0)_1 or F (M z0)_1, G = M_11 or F M_11 F^T: the first level's block. The
// growth is log(|z0|_M / |z|_M) + (1/2) E log(1 + x_S).
//
// A batch of one example: every example in turn, exactly. Larger batches: x_S = sum_{u in S} l_u + sum_{u != v} r_uv
// is a sum over examples and pairs, so that E x_S and E x_S^2 are closed-form sums; a few batches are drawn for what is
// left. With means over trials of g = log(1 + x) / 2, x and x^2, three columns that all have the same mean,
//
//   g,    g - (x - E x) / 2,    g - (x - E x) / 2 + (x^2 - E x^2) / 4,
//
// let a regression choose how much of the expansion of the logarithm to use.
#pragma once

#include "sgdstab/growth/single.hpp"
#include "sgdstab/steps/batch.hpp"

namespace sgdstab {

struct BatchMetrics {
  Index count = 0;     // 0 for no evaluation at all
  Index n_trials = 0;  // batches drawn for an evaluation; 0 for batches of one example, all of which are evaluated
  const double* matrices = nullptr;       // count x dimension x dimension: M
  const double* couplings = nullptr;      // count x n_rows x n_rows: G
  const double* probabilities = nullptr;  // n_units: of each example in a draw

  static constexpr Index kColumns = 3;  // a metric, where batches are drawn
  Index columns() const { return count * (n_trials > 0 ? kColumns : 1); }
};

template <class Rows>
class BatchGrowth {
 public:
  BatchGrowth(const BatchSteps<Rows>& steps, const BatchMetrics& metrics);

  // Adds the columns of up to kLanes states that lie `stride` apart, those of chains first_chain, first_chain + 1, ..,
  // drawing the trials of `step`.
  void add_growth(const double* vectors, Index stride, Index n_vectors, const GrowthSums& sums, const StreamKey& key,
                  std::uint64_t first_chain, std::uint64_t step);

 private:
  // What growth in one metric is made of.
  struct Terms {
    Lanes norm;               // |z0|_M^2
    Lanes scale;              // 1 / norm, or 0
    Lanes log_ratio;          // log(|z0|_M / |z|_M)
    Lanes mean, mean_square;  // E x, E x^2
  };
  Terms measure(Index metric);
  void add_exactly(Index metric, const Terms& terms, Index n_vectors, const GrowthSums& sums);
  void expect(Index metric, Terms& terms);
  double excess(Index metric, const double* w, const double* y);
  // sum_{i in u} sum_{j in v} w_i G_ij w_j
  Lanes coupling(const double* g, Index u, Index v) const;
  double size() const { return steps_.learning_rate / static_cast<double>(steps_.law.batch_size); }
  const BatchSteps<Rows>& steps_;
  const BatchMetrics& metrics_;
  Draws draws_;
  std::vector<double> z_, image_, read_, w_, y_, weighted_, product_, metric_image_;  // panels
  std::vector<double> linear_, pairs_;                                                // panels over examples
  std::vector<double> lane_w_, lane_y_, trial_w_;
  std::vector<Index> trial_;
  std::vector<Terms> terms_;
};

extern template class BatchGrowth<GramRows>;
extern template class BatchGrowth<FactorRows>;
extern template class BatchGrowth<GramRows32>;
extern template class BatchGrowth<FactorRows32>;

}  // namespace sgdstab
