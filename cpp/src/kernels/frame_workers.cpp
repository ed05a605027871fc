#include "sgdstab/kernels/frame_workers.hpp"

#include <algorithm>
#include <limits>

namespace sgdstab {
namespace {

constexpr Index kDirectSolve = 8;  // rows solved at a time before products take over

// Rows of a block: `block`, or those of one step.
template <class Rows>
Index most_rows(const BatchSteps<Rows>& steps, Index block) {
  return std::max(block, steps.law.batch_size * most_rows_of_a_unit(steps.law));
}

// log|det| of the leading n x n part of a matrix, by elimination with row exchanges.
double log_determinant_of(RowMatrix& matrix, Index n) {
  double sum = 0;
  for (Index j = 0; j < n; ++j) {
    Index pivot = j;
    for (Index i = j + 1; i < n; ++i) {
      if (std::abs(matrix(i, j)) > std::abs(matrix(pivot, j))) pivot = i;
    }
    if (matrix(pivot, j) == 0) return -std::numeric_limits<double>::infinity();
    for (Index c = j; c < n && pivot != j; ++c) std::swap(matrix(j, c), matrix(pivot, c));
    sum += std::log(std::abs(matrix(j, j)));
    for (Index i = j + 1; i < n; ++i) {
      const double factor = matrix(i, j) / matrix(j, j);
      for (Index c = j + 1; c < n; ++c) matrix(i, c) -= factor * matrix(j, c);
    }
  }
  return sum;
}

}  // namespace

template <class Rows>
FrameWorker<BatchSteps<Rows>>::FrameWorker(const BatchSteps<Rows>& steps, const Metrics& metrics, Index k, Index block)
    : block_(block),
      steps_(steps),
      metrics_(metrics),
      draws_(steps.law, 0, has_frame_steps(steps, metrics) ? Draws::kMostRows : block),
      readout_(Eigen::Map<const Eigen::RowVectorXd>(steps.recurrence.readout, steps.recurrence.levels)),
      examples_(static_cast<std::size_t>(most_rows(steps, block))),
      step_of_(examples_.size()),
      size_of_(examples_.size()),
      rows_(most_rows(steps, block), steps.rows.dimension()),
      products_k_(rows_.rows(), rows_.rows()),
      coupling_(rows_.rows(), rows_.rows()),
      changes_(rows_.rows(), k),
      level_changes_(steps.recurrence.is_plain() ? 0 : rows_.rows(), k),
      moved_(steps.recurrence.is_plain() ? 0 : steps.dimension(), k),
      minor_(metrics.log_determinants == nullptr ? steps.law.batch_size * most_rows_of_a_unit(steps.law) : 0,
             metrics.log_determinants == nullptr ? steps.law.batch_size * most_rows_of_a_unit(steps.law) : 0),
      products_(std::max(k, rows_.rows()), std::max(rows_.cols(), rows_.rows()), std::max(rows_.cols(), rows_.rows())),
      growth_(steps.rows, metrics.frames) {
  if (has_frame_steps(steps, metrics)) {
    single_ = std::make_unique<FrameSteps>(dimension(), draws_.steps_at_once());
    return;
  }
  const Index levels = steps.recurrence.levels;
  const Eigen::MatrixXd free = Eigen::Map<const RowMatrix>(steps.recurrence.free, levels, levels);
  powers_.push_back(Eigen::MatrixXd::Identity(levels, levels));
  for (Index n = 0; n < draws_.steps_at_once(); ++n) powers_.push_back(free * powers_.back());
}

// Row-major frames and steps are their transposes in the column-major terms of accumulate_product: P^T is k x m.

template <class Rows>
BlockDone FrameWorker<BatchSteps<Rows>>::take_block(const StreamKey& key, std::uint64_t chain, std::uint64_t start,
                                                    Index most_steps, MatrixView& v) {
  const Index n_steps = draws_.fill(key, chain, start, most_steps);
  if (single_ != nullptr) {
    const std::span<const std::uint32_t> examples(draws_.units(0).data(), static_cast<std::size_t>(n_steps));
    single_->take(steps_.rows, steps_.learning_rate, examples, block_, v);
    double log_det = 0;
    for (const std::uint32_t i : examples) log_det += metrics_.log_determinants[i];
    return {n_steps, log_det};
  }
  gather(n_steps);
  multiply(v);
  fill_products();
  const double log_det = log_determinant(n_steps);
  fill_coupling();
  solve_recursion(0, n_rows_);
  apply(n_steps, v);
  return {n_steps, log_det};
}

template <class Rows>
bool FrameWorker<BatchSteps<Rows>>::has_orthogonal_steps(const BatchSteps<Rows>& steps, Index k) {
  return !Rows::kGram && is_plain_sgd(steps) && k == steps.dimension();
}

template <class Rows>
double FrameWorker<BatchSteps<Rows>>::take_orthogonal_steps(const StreamKey& key, std::uint64_t chain,
                                                            std::uint64_t start, Index n_steps, MatrixView& v,
                                                            Eigen::Ref<Eigen::RowVectorXd> log_diagonal) {
  if (orthogonal_ == nullptr) orthogonal_ = std::make_unique<OrthogonalSteps>(v.cols(), rows_.rows());
  double log_det = 0;
  orthogonal_->begin(v);
  for (Index done = 0; done < n_steps;) {
    const Index most = std::min(n_steps - done, rows_.rows());
    const Index taken = draws_.fill(key, chain, start + static_cast<std::uint64_t>(done), most);
    gather(taken);
    log_det += log_determinant(taken);
    orthogonal_->take(rows_, taken, steps_.learning_rate);
    done += taken;
  }
  orthogonal_->end(v, log_diagonal);
  return log_det;
}

template <class Rows>
void FrameWorker<BatchSteps<Rows>>::gather(Index n_steps) {
  n_rows_ = 0;
  for (Index t = 0; t < n_steps; ++t) {
    const double size = steps_.learning_rate / static_cast<double>(draws_.n_drawn(t));
    for (const std::uint32_t example : draws_.rows(t)) {
      examples_[static_cast<std::size_t>(n_rows_)] = example;
      step_of_[static_cast<std::size_t>(n_rows_)] = t;
      size_of_[static_cast<std::size_t>(n_rows_)] = size;
      std::copy_n(steps_.rows.row(example), dimension(), &rows_(n_rows_, 0));
      ++n_rows_;
    }
  }
}

// P, level by level.
template <class Rows>
void FrameWorker<BatchSteps<Rows>>::multiply(const MatrixView& v) {
  const Index levels = steps_.recurrence.levels, k = v.cols();
  const auto product = [&](Index level, RowMatrix& result) {
    result.topRows(n_rows_).setZero();
    accumulate_product<ColMajor, ColMajor>(k, n_rows_, dimension(), 1, v.data() + level * dimension() * v.outerStride(),
                                           v.outerStride(), rows_.data(), rows_.cols(), result.data(), k, products_);
  };
  if (steps_.recurrence.is_plain()) {
    product(0, changes_);
    return;
  }
  changes_.topRows(n_rows_).setZero();
  for (Index level = 0; level < levels; ++level) {
    product(level, level_changes_);
    for (Index j = 0; j < n_rows_; ++j) {
      const double weight = readout_.dot(power(step_of_[static_cast<std::size_t>(j)]).col(level));
      changes_.row(j) += weight * level_changes_.row(j);
    }
  }
}

template <class Rows>
void FrameWorker<BatchSteps<Rows>>::fill_products() {
  if constexpr (Rows::kGram) {
    for (Index j = 0; j < n_rows_; ++j) {
      for (Index l = 0; l < n_rows_; ++l) products_k_(j, l) = rows_(j, examples_[static_cast<std::size_t>(l)]);
    }
  } else {
    products_k_.topRows(n_rows_).setZero();
    accumulate_product<RowMajor, ColMajor>(n_rows_, n_rows_, dimension(), 1, rows_.data(), rows_.cols(), rows_.data(),
                                           rows_.cols(), products_k_.data(), products_k_.cols(), products_);
  }
}

template <class Rows>
void FrameWorker<BatchSteps<Rows>>::fill_coupling() {
  const bool plain = steps_.recurrence.is_plain();
  for (Index j = 0; j < n_rows_; ++j) {
    for (Index l = 0; l < j; ++l) {
      const Index lag = step_of_[static_cast<std::size_t>(j)] - step_of_[static_cast<std::size_t>(l)];
      const double weight = lag == 0 ? 0 : plain ? 1 : kappa(lag);
      coupling_(j, l) = size_of_[static_cast<std::size_t>(l)] * weight * products_k_(j, l);
    }
  }
}

// Solves (I + strictly lower part of the coupling) r = P in place, for rows first..last-1.
template <class Rows>
void FrameWorker<BatchSteps<Rows>>::solve_recursion(Index first, Index last) {
  const Index n = last - first, k = changes_.cols();
  if (n > kDirectSolve) {
    const Index half = (n / 2 + kDirectSolve - 1) / kDirectSolve * kDirectSolve, middle = first + half;
    solve_recursion(first, middle);
    // r_bottom -= coupling_bottom,top r_top
    accumulate_product<ColMajor, ColMajor>(k, last - middle, half, -1, &changes_(first, 0), k,
                                           &coupling_(middle, first), coupling_.cols(), &changes_(middle, 0), k,
                                           products_);
    solve_recursion(middle, last);
    return;
  }
  for (Index j = first + 1; j < last; ++j) {
    double* target = &changes_(j, 0);
    for (Index l = first; l < j; ++l) {
      const double c = coupling_(j, l);
      const double* source = &changes_(l, 0);
      for (Index column = 0; column < k; ++column) target[column] -= c * source[column];
    }
  }
}

template <class Rows>
void FrameWorker<BatchSteps<Rows>>::apply(Index n_steps, MatrixView& v) {
  const Index levels = steps_.recurrence.levels, d = dimension();
  const bool plain = steps_.recurrence.is_plain();
  if (!plain) {
    moved_.setZero();
    for (Index to = 0; to < levels; ++to) {
      for (Index from = 0; from < levels; ++from) {
        moved_.middleRows(to * d, d) += power(n_steps)(to, from) * v.middleRows(from * d, d);
      }
    }
    v = moved_;
  }
  const auto weight = [&](Index level, Index j) {
    const auto row = static_cast<std::size_t>(j);
    return size_of_[row] * (plain ? 1 : power(n_steps - 1 - step_of_[row])(level, 0));
  };
  for (Index level = 0; level < levels; ++level) {
    if constexpr (Rows::kGram) {
      for (Index j = 0; j < n_rows_; ++j) {
        v.row(level * d + examples_[static_cast<std::size_t>(j)]) -= weight(level, j) * changes_.row(j);
      }
    } else {
      RowMatrix& scaled = plain ? changes_ : level_changes_;
      for (Index j = 0; j < n_rows_; ++j) scaled.row(j) = weight(level, j) * changes_.row(j);
      accumulate_product<ColMajor, RowMajor>(v.cols(), d, n_rows_, -1, scaled.data(), scaled.cols(), rows_.data(),
                                             rows_.cols(), v.data() + level * d * v.outerStride(), v.outerStride(),
                                             products_);
    }
  }
}

template <class Rows>
double FrameWorker<BatchSteps<Rows>>::log_determinant(Index n_steps) {
  double sum = static_cast<double>(n_steps * dimension()) * steps_.recurrence.log_determinant;
  if (metrics_.log_determinants != nullptr) {
    for (Index j = 0; j < n_rows_; ++j) sum += metrics_.log_determinants[examples_[static_cast<std::size_t>(j)]];
    return sum;
  }
  if (steps_.recurrence.feedback == 0) return sum;
  for (Index first = 0, last = 0; first < n_rows_; first = last) {
    const Index step = step_of_[static_cast<std::size_t>(first)];
    while (last < n_rows_ && step_of_[static_cast<std::size_t>(last)] == step) ++last;
    const Index n = last - first;
    const double size = size_of_[static_cast<std::size_t>(first)];
    for (Index a = 0; a < n; ++a) {
      for (Index b = 0; b < n; ++b) {
        minor_(a, b) = (a == b ? 1 : 0) - size * steps_.recurrence.feedback * products_k_(first + a, first + b);
      }
    }
    sum += log_determinant_of(minor_, n);
  }
  return sum;
}

template class FrameWorker<BatchSteps<GramRows>>;
template class FrameWorker<BatchSteps<FactorRows>>;

}  // namespace sgdstab
