// Workers of frames: what one thread needs to advance frames of a system, many steps at once where that is possible.
//
//   FrameWorker(system, metrics, k, block)
//   take_block(key, chain, start, most_steps, v) -> {steps taken, sum of their log|det|}
//   add_growth(v, sums)    growth of volumes, where the system has it
//
// Steps on batches. m steps with the batches S_1 .. S_m, all rows together, from the state V (levels x dimension x k):
//
//   P_j = sum_l (h^T F^{t_j})_l rows_j V_l                                              a product for each level
//   r_j = P_j - sum_{t_l < t_j} size_l kappa(t_j - t_l) K_{S_j S_l} r_l,                kappa(s) = h^T F^{s-1} e_1
//   V <- (F^m (x) I) V - sum_j size_j (F^{m-1-t_j} e_1) (x) e_{S_j} r_j,
//
// row j being of step t_j = 0 .. m - 1. That is exact, repeated examples included, and for plain SGD all powers are 1.
// Plain SGD on single examples goes by `FrameSteps`.
//
// The determinant of a step is det(F)^d det(I - size g K_SS), with the feedback g = h^T F^{-1} e_1.
#pragma once

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "sgdstab/growth/frames.hpp"
#include "sgdstab/steps/frames.hpp"
#include "sgdstab/steps/orthogonal.hpp"
#include "sgdstab/systems/batch_steps.hpp"
#include "sgdstab/systems/matrix_set.hpp"

namespace sgdstab {

struct BlockDone {
  Index n_steps;
  double log_determinant;
};

template <class System>
class FrameWorker;

template <class Rows>
class FrameWorker<BatchSteps<Rows>> {
 public:
  // What growth is measured in, and log|det| of the step on each example, where batches of one make it that simple.
  struct Metrics {
    FrameMetrics frames;
    const double* log_determinants = nullptr;
  };

  FrameWorker(const BatchSteps<Rows>& steps, const Metrics& metrics, Index k, Index block);
  BlockDone take_block(const StreamKey& key, std::uint64_t chain, std::uint64_t start, Index most_steps, MatrixView& v);
  // Whether steps are known that leave a frame of k vectors orthonormal.
  static bool has_orthogonal_steps(const BatchSteps<Rows>& steps, Index k);
  // Takes n_steps that do, adds log R_jj and returns the sum of their log|det|.
  double take_orthogonal_steps(const StreamKey& key, std::uint64_t chain, std::uint64_t start, Index n_steps,
                               MatrixView& v, Eigen::Ref<Eigen::RowVectorXd> log_diagonal);
  void add_growth(const MatrixView& v, double* sums) {
    growth_.add_growth(steps_.rows, steps_.learning_rate, metrics_.frames, v.data(), v.outerStride(), sums);
  }

 private:
  static bool is_plain_sgd(const BatchSteps<Rows>& steps) {
    return steps.law.batch_size == 1 && steps.law.offsets == nullptr && steps.recurrence.is_plain();
  }
  static bool has_frame_steps(const BatchSteps<Rows>& steps, const Metrics& metrics) {
    return is_plain_sgd(steps) && metrics.log_determinants != nullptr;
  }
  Index dimension() const { return steps_.rows.dimension(); }
  const Eigen::MatrixXd& power(Index n) const { return powers_[static_cast<std::size_t>(n)]; }
  double kappa(Index lag) const { return (readout_ * power(lag - 1))(0, 0); }
  void gather(Index n_steps);
  void fill_products();
  void multiply(const MatrixView& v);
  void fill_coupling();
  void solve_recursion(Index first, Index last);
  void apply(Index n_steps, MatrixView& v);
  double log_determinant(Index n_steps);

  const Index block_;
  const BatchSteps<Rows>& steps_;
  const Metrics& metrics_;
  Draws draws_;
  std::vector<Eigen::MatrixXd> powers_;  // F^0 .. F^block
  Eigen::RowVectorXd readout_;
  Index n_rows_ = 0;  // of all steps of the block
  std::vector<std::uint32_t> examples_;
  std::vector<Index> step_of_;
  std::vector<double> size_of_;
  RowMatrix rows_;                     // gathered, m x dimension
  RowMatrix products_k_;               // K_{S_j S_l}
  RowMatrix coupling_;                 // of the recursion, used for l < j
  RowMatrix changes_, level_changes_;  // P, then r (m x k); P of one level
  RowMatrix moved_;                    // (F^m (x) I) V
  RowMatrix minor_;                    // to be eliminated
  ProductWorkspace products_;
  std::unique_ptr<FrameSteps> single_;
  std::unique_ptr<OrthogonalSteps> orthogonal_;
  FrameGrowth growth_;
};

template <>
class FrameWorker<MatrixSet> {
 public:
  struct Metrics {
    FrameMetrics frames;
    const double* log_determinants;  // of every matrix
  };

  FrameWorker(const MatrixSet& set, const Metrics& metrics, Index, Index)
      : set_(set), metrics_(metrics), draws_(law_of(set)), panel_(set.size * kLanes), image_(set.size * kLanes) {}

  // Columns do not meet: a panel of them takes all steps before the next one does.
  BlockDone take_block(const StreamKey& key, std::uint64_t chain, std::uint64_t start, Index most_steps,
                       MatrixView& v) {
    const Index n_steps = draws_.fill(key, chain, start, most_steps), d = set_.size;
    for (Index first = 0; first < v.cols(); first += kLanes) {
      copy_into_panel(v, first, panel_.data());
      for (Index j = 0; j < n_steps; ++j) {
        multiply_panel(set_.matrices + draws_.units(j)[0] * d * d, d, d, panel_.data(), d, image_.data());
        panel_.swap(image_);
      }
      copy_from_panel(panel_.data(), first, v);
    }
    double log_determinant = 0;
    for (Index j = 0; j < n_steps; ++j) log_determinant += metrics_.log_determinants[draws_.units(j)[0]];
    return {n_steps, log_determinant};
  }
  static bool has_orthogonal_steps(const MatrixSet&, Index) { return false; }
  double take_orthogonal_steps(const StreamKey&, std::uint64_t, std::uint64_t, Index, MatrixView&,
                               Eigen::Ref<Eigen::RowVectorXd>) {
    return 0;
  }
  void add_growth(const MatrixView&, double*) {}

 private:
  const MatrixSet& set_;
  const Metrics& metrics_;
  Draws draws_;
  Eigen::VectorXd panel_, image_;
};

extern template class FrameWorker<BatchSteps<GramRows>>;
extern template class FrameWorker<BatchSteps<FactorRows>>;

}  // namespace sgdstab
