#include "sgdstab/advance_frames.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "sgdstab/parallel.hpp"

namespace sgdstab {
namespace {

constexpr Index kDirectSolve = 8;  // rows solved at a time before products take over

// What one thread needs to take a block of steps.
struct BlockWorkspace {
  BlockWorkspace(const RowForm& form, const FrameMetrics& metrics, Index k, Index block_size)
      : block(block_size),
        examples(static_cast<std::size_t>(block_size)),
        rows(block_size, form.dimension()),
        coupling(block_size, block_size),
        steps(block_size, k),
        products(std::max(k, block_size), std::max(form.dimension(), block_size),
                 std::max(form.dimension(), block_size)),
        frame(form.dimension(), k),
        growth(form, metrics) {}

  Index block;
  std::vector<std::uint32_t> examples;  // S_1 .. S_m
  RowMatrix rows;                       // rows_S (m x dimension), gathered
  RowMatrix coupling;                   // eta K_{S_j S_l}, used for l < j
  RowMatrix steps;                      // P, then r (m x k)
  ProductWorkspace products;
  FrameWorkspace frame;
  FrameGrowthWorkspace growth;
};

// Row-major frames and steps are their transposes in the column-major terms of accumulate_product: P^T is k x m.

// Solves (I + strictly lower part of `coupling`) r = P in place, for rows first..last-1 of `steps`.
void solve_recursion(BlockWorkspace& w, Index first, Index last) {
  const Index n = last - first, k = w.steps.cols();
  if (n > kDirectSolve) {
    const Index half = (n / 2 + kDirectSolve - 1) / kDirectSolve * kDirectSolve, middle = first + half;
    solve_recursion(w, first, middle);
    // r_bottom -= coupling_bottom,top r_top
    accumulate_product<ColMajor, ColMajor>(k, last - middle, half, -1, &w.steps(first, 0), k,
                                           &w.coupling(middle, first), w.coupling.cols(), &w.steps(middle, 0), k,
                                           w.products);
    solve_recursion(w, middle, last);
    return;
  }
  for (Index j = first + 1; j < last; ++j) {
    double* target = &w.steps(j, 0);
    for (Index l = first; l < j; ++l) {
      const double c = w.coupling(j, l);
      const double* source = &w.steps(l, 0);
      for (Index column = 0; column < k; ++column) target[column] -= c * source[column];
    }
  }
}

void gather(const RowForm& form, BlockWorkspace& w, Index m) {
  for (Index j = 0; j < m; ++j) {
    std::copy_n(form.row(w.examples[static_cast<std::size_t>(j)]), form.dimension(), &w.rows(j, 0));
  }
}

void fill_coupling(const GramForm& form, BlockWorkspace& w, Index m) {
  for (Index j = 0; j < m; ++j) {
    for (Index l = 0; l < j; ++l) {
      w.coupling(j, l) = form.learning_rate * w.rows(j, w.examples[static_cast<std::size_t>(l)]);
    }
  }
}

void fill_coupling(const FactorForm& form, BlockWorkspace& w, Index m) {
  w.coupling.topRows(m).setZero();
  accumulate_product<RowMajor, ColMajor>(m, m, form.dimension(), form.learning_rate, w.rows.data(), w.rows.cols(),
                                         w.rows.data(), w.rows.cols(), w.coupling.data(), w.coupling.cols(),
                                         w.products);
}

// V_{S_j} -= eta r_j, in order.
void apply(const GramForm& form, BlockWorkspace& w, Index m, MatrixView& v) {
  for (Index j = 0; j < m; ++j) {
    v.row(w.examples[static_cast<std::size_t>(j)]) -= form.learning_rate * w.steps.row(j);
  }
}

// V -= eta sum_j f_{S_j} r_j.
void apply(const FactorForm& form, BlockWorkspace& w, Index m, MatrixView& v) {
  accumulate_product<ColMajor, RowMajor>(v.cols(), v.rows(), m, -form.learning_rate, w.steps.data(), w.steps.cols(),
                                         w.rows.data(), w.rows.cols(), v.data(), v.outerStride(), w.products);
}

template <class Form>
void advance_block(const Form& form, BlockWorkspace& w, Index m, MatrixView& v) {
  const Index k = v.cols();
  gather(form, w, m);
  w.steps.topRows(m).setZero();
  // P = rows_S V
  accumulate_product<ColMajor, ColMajor>(k, m, form.dimension(), 1, v.data(), v.outerStride(), w.rows.data(),
                                         w.rows.cols(), w.steps.data(), k, w.products);
  fill_coupling(form, w, m);
  solve_recursion(w, 0, m);
  apply(form, w, m, v);
}

template <class Form>
void advance_chain(const Form& form, const Steps& steps, Index chain, Index period, const Orthonormalisation& options,
                   const double* log_determinants, const FrameMetrics& metrics, MatrixView& v, FrameSums sums,
                   BlockWorkspace& w) {
  const Index k = v.cols();
  const IndexStream stream(steps.key, steps.first_chain + static_cast<std::uint64_t>(chain), form.n_examples());
  for (Index batch = 0; batch < steps.n_batches; ++batch) {
    const Index cell = chain * steps.n_batches + batch;
    const auto start = steps.first_step + static_cast<std::uint64_t>(batch * steps.steps_per_batch);
    Eigen::Map<Eigen::RowVectorXd> log_growth(sums.log_growth + cell * k, k);
    log_growth.setZero();
    double log_determinant = 0, smallest_ratio = 1;
    for (Index done = 0, since = 0; done < steps.steps_per_batch;) {
      const Index m = std::min({w.block, period - since, steps.steps_per_batch - done});
      stream.fill(start + static_cast<std::uint64_t>(done), m, w.examples.data());
      for (Index j = 0; j < m; ++j) log_determinant += log_determinants[w.examples[static_cast<std::size_t>(j)]];
      advance_block(form, w, m, v);
      done += m;
      since += m;
      if (since == period || done == steps.steps_per_batch) {
        smallest_ratio = std::min(smallest_ratio, w.frame.orthonormalise(v, options, log_growth));
        since = 0;
      }
    }
    sums.log_determinant[cell] = log_determinant;
    sums.smallest_ratio[cell] = smallest_ratio;
    double* growth = sums.growth + cell * metrics.count * metrics.columns;
    std::fill_n(growth, metrics.count * metrics.columns, 0.0);
    w.growth.add_growth(form, metrics, v.data(), v.outerStride(), growth);
  }
}

}  // namespace

template <class Form>
void advance_frames(const Form& form, const Steps& steps, Index block, Index period, const Orthonormalisation& options,
                    const double* log_determinants, const FrameMetrics& metrics, double* frames, Index n_chains,
                    Index k, FrameSums sums, int n_threads) {
  std::vector<std::unique_ptr<BlockWorkspace>> workspaces;
  for (Index worker = 0; worker < useful_threads(n_chains, n_threads); ++worker) {
    workspaces.push_back(std::make_unique<BlockWorkspace>(form, metrics, k, block));
  }
  for_each_item(n_chains, n_threads, [&](Index chain, Index worker) {
    MatrixView v(frames + chain * form.dimension() * k, form.dimension(), k, Eigen::OuterStride<>(k));
    advance_chain(form, steps, chain, period, options, log_determinants, metrics, v, sums,
                  *workspaces[static_cast<std::size_t>(worker)]);
  });
}

template void advance_frames(const GramForm&, const Steps&, Index, Index, const Orthonormalisation&, const double*,
                             const FrameMetrics&, double*, Index, Index, FrameSums, int);
template void advance_frames(const FactorForm&, const Steps&, Index, Index, const Orthonormalisation&, const double*,
                             const FrameMetrics&, double*, Index, Index, FrameSums, int);

}  // namespace sgdstab
