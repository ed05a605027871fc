// Tilted steps: examples drawn with probabilities that favour growth to the power p.
//
// In a metric M, the gauge, the step on example i multiplies the norm of a walker by (1 + x_i)^(1/2), with x_i those of
// `growth/single.hpp`. A tilted step draws i with probability (1 + x_i)^(p/2) / (N h) instead of 1/N, and multiplies
// the walker's weight by
//
//   h = (1/N) sum_i (1 + x_i)^(p/2),
//
// so that weighted walkers mean the same as with plain steps that multiply it by growth^p. h varies far less: not at
// all where |.|_M^p is the eigenfunction, as at p = 2 in the metric of constant mean squared growth.
//
// Of a walker with vectors v_l, the N growths come from w_l = rows v_l and y_l = F M F^T-products (M v_l in gram
// coordinates),
//
//   x_i = eta sum_l (eta w_li^2 M_ii - 2 w_li y_li) / q,   q = sum_l |v_l|_M^2,
//
// which a step updates in O(N): w_l -= eta w_li K_i, y_l -= eta w_li (F M F^T)_i. They are formed anew from v_l before
// rounding counts: every few steps, and once a norm has shrunk by much.
#pragma once

#include "sgdstab/random/stream.hpp"
#include "sgdstab/systems/single_steps.hpp"

namespace sgdstab {

// A metric to tilt steps with.
struct Gauge {
  const double* gram;      // n_examples x n_examples: K
  const double* coupling;  // n_examples x n_examples: M, or F M F^T in factor coordinates; null for the norm of K
  const double* metric;    // dimension x dimension: M; null for the norm of K
  const double* diagonal;  // n_examples: M_ii or f_i . M f_i
};

class TiltedSteps {
 public:
  // Walkers have n_vectors vectors that steps are tilted by, and n_passive more that take the same ones.
  TiltedSteps(const AnyRows& rows, const Gauge& gauge, double order, Index n_vectors, Index n_passive);

  struct Growth {
    double log_norm, log_weight;
  };
  // Takes n_steps steps of the walker whose vectors lie one after the other, and leaves q = 1. Infinite
  // weight: a step may annihilate it, at a negative order.
  template <class Rows>
  Growth advance(const SingleSteps<Rows>& steps, const StreamKey& key, std::uint64_t stream, std::uint64_t start,
                 Index n_steps, double* vectors);

 private:
  template <class Rows>
  void refresh(const Rows& rows, const double* vectors);  // w, y and q from the vectors
  // (1 + x_i)^(p/2) of all examples, and their sum.
  template <class Rows>
  double weigh(const SingleSteps<Rows>& steps, const double* vectors);
  void raise();
  // |A_i v|_M^2, from A_i v itself.
  template <class Rows>
  double squared_norm_after(const SingleSteps<Rows>& steps, Index i, const double* vectors);
  Index choose(double target) const;

  Gauge gauge_;
  double power_;  // p/2
  Index n_vectors_, n_all_;
  Eigen::ArrayXd w_, y_;           // of all vectors, of those that count: x n_examples
  Eigen::ArrayXd factors_, odds_;  // 1 + x_i, and to the power p/2
  Eigen::VectorXd image_, next_;   // M s, A_i v
  double q_;
};

extern template TiltedSteps::Growth TiltedSteps::advance(const SingleSteps<GramRows>&, const StreamKey&, std::uint64_t,
                                                         std::uint64_t, Index, double*);
extern template TiltedSteps::Growth TiltedSteps::advance(const SingleSteps<FactorRows>&, const StreamKey&,
                                                         std::uint64_t, std::uint64_t, Index, double*);

}  // namespace sgdstab
