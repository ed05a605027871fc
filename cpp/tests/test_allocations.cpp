// Step loops allocate nothing: what a call allocates does not depend on the number of steps.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <new>
#include <vector>

#include "problems.hpp"
#include "sgdstab/kernels/frames.hpp"
#include "sgdstab/kernels/panels.hpp"
#include "sgdstab/kernels/populations.hpp"
#include "sgdstab/kernels/vectors.hpp"

namespace {
std::size_t allocations = 0;
}

void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new[](std::size_t size) { return operator new(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

// Eigen allocates with malloc: this macro makes it assert, in tests, wherever that is not allowed. It must be set for
// the whole program, which the build does.
#ifndef EIGEN_RUNTIME_NO_MALLOC
#error "the tests are built with EIGEN_RUNTIME_NO_MALLOC"
#endif

using namespace sgdstab;

TEST_CASE("advancing vectors allocates its workers and nothing else") {
  const Problem problem(37);
  const auto steps = problem.steps<GramRows>(0.9);
  const auto allocations_of = [&](Index n_batches) {
    RowMatrix vectors = RowMatrix::Ones(8, 37), log_growth(8, n_batches);
    Eigen::internal::set_is_malloc_allowed(false);
    const auto before = allocations;
    advance_vectors(steps, {{1, 2}, 0, 0, n_batches, 100}, {64, false, 1}, SingleMetrics{}, vectors.data(), 8, 1,
                    {log_growth.data(), nullptr}, 1);
    Eigen::internal::set_is_malloc_allowed(true);
    return allocations - before;
  };
  CHECK(allocations_of(1) == allocations_of(50));
}

TEST_CASE("draws allocate at construction only") {
  for (const auto sampling : {Sampling::iid, Sampling::with_replacement, Sampling::epoch, Sampling::cyclic}) {
    Draws draws({sampling, 37, 5}, 12);
    const auto before = allocations;
    for (std::uint64_t n = 0; n < 5000;) n += static_cast<std::uint64_t>(draws.fill({1, 2}, 3, n, 1000));
    for (std::uint64_t evaluation = 0; evaluation < 100; ++evaluation) draws.fill_trials({1, 2}, 3, evaluation, 12);
    CHECK(allocations == before);
  }
}

TEST_CASE("advancing steps on batches and their growth allocates workers and nothing else") {
  const Problem problem(37);
  const double free[] = {1.5, -0.5, 1, 0}, readout[] = {1.5, -0.5};
  const BatchSteps<GramRows> steps{
      problem.rows<GramRows>(), 0.9, {Sampling::iid, 37, 5}, {2, free, readout, std::log(0.5), 1}};
  const RowMatrix metric = RowMatrix::Identity(74, 74), coupling = RowMatrix::Identity(37, 37);
  const RowMatrix probabilities = RowMatrix::Constant(1, 37, 1.0 / 37);
  const BatchMetrics metrics{1, 7, metric.data(), coupling.data(), probabilities.data()};
  const auto allocations_of = [&](Index n_batches) {
    RowMatrix vectors = RowMatrix::Ones(8, 74), log_growth(8, n_batches), growth(8, 3 * n_batches);
    const auto before = allocations;
    advance_vectors(steps, {{1, 2}, 0, 0, n_batches, 100}, {64, true, 50}, metrics, vectors.data(), 8, 1,
                    {log_growth.data(), growth.data()}, 1);
    return allocations - before;
  };
  CHECK(allocations_of(1) == allocations_of(50));
}

TEST_CASE("evaluating growth allocates its workspace and nothing else") {
  const Problem problem(37);
  const auto steps = problem.steps<GramRows>(0.9);
  const RowMatrix diagonal = problem.gram.diagonal().transpose();
  const SingleMetrics metrics{1, nullptr, diagonal.data()};
  const auto allocations_of = [&](Index n_batches) {
    RowMatrix vectors = RowMatrix::Ones(8, 37), log_growth(8, n_batches), growth(8, n_batches);
    const auto before = allocations;
    advance_vectors(steps, {{1, 2}, 0, 0, n_batches, 100}, {64, false, 50}, metrics, vectors.data(), 8, 1,
                    {log_growth.data(), growth.data()}, 1);
    return allocations - before;
  };
  CHECK(allocations_of(1) == allocations_of(50));
}

TEST_CASE("advancing panels allocates nothing without evaluations, whatever the number of steps") {
  const Problem problem(37);
  const auto rows = problem.rows<GramRows>();
  const std::vector<double> rates(2 * kLanes, 0.9);
  std::vector<double> panels(3 * 2 * 2 * 37 * kLanes, 1.0), log_growth(3 * 20 * 2 * 2 * kLanes);
  Eigen::internal::set_is_malloc_allowed(false);
  const auto before = allocations;
  advance_panels(rows, rates.data(), {{1, 2}, 0, 0, 20, 300}, {64, false, 1}, {0, nullptr, nullptr, nullptr},
                 panels.data(), 3, 2, 2, {log_growth.data(), nullptr}, 1);
  CHECK(allocations == before);
  Eigen::internal::set_is_malloc_allowed(true);
}

TEST_CASE("advancing panels with evaluations allocates its workspace and nothing else") {
  const Problem problem(37);
  const auto rows = problem.rows<FactorRows>();
  const RowMatrix matrix = RowMatrix::Identity(74, 74), diagonals = RowMatrix::Ones(2, 37);
  const std::vector<double> rates(kLanes, 0.9);
  const std::int64_t windows[] = {0, 2};
  const auto allocations_of = [&](Index n_batches) {
    std::vector<double> panels(74 * kLanes, 1.0), log_growth(static_cast<std::size_t>(n_batches * kLanes));
    std::vector<double> growth(2 * log_growth.size());
    const auto before = allocations;
    advance_panels(rows, rates.data(), {{1, 2}, 0, 0, n_batches, 100}, {64, false, 50},
                   {2, matrix.data(), windows, diagonals.data()}, panels.data(), 1, 1, 1,
                   {log_growth.data(), growth.data()}, 1);
    return allocations - before;
  };
  CHECK(allocations_of(1) == allocations_of(50));
}

TEST_CASE("advancing populations allocates its workspace and nothing else") {
  const Problem problem(37);
  const auto steps = problem.steps<GramRows>(0.9);
  const RowMatrix diagonal = problem.gram.diagonal().transpose();
  const Gauge gauge{problem.gram.data(), nullptr, nullptr, diagonal.data()};
  for (const Gauge* its : {static_cast<const Gauge*>(nullptr), &gauge}) {
    const auto allocations_of = [&](Index n_batches) {
      RowMatrix walkers = RowMatrix::Ones(16, 37 + 2), sums(5, 2 * n_batches);
      walkers.rightCols(2).setZero();
      const auto before = allocations;
      advance_populations(
          steps, {{1, 2}, 0, 0, n_batches, 50}, {2, 1, 0, 64, false, 0.9, its}, {1, nullptr, diagonal.data()},
          walkers.data(), 2, 8,
          {sums.row(0).data(), sums.row(1).data(), sums.row(2).data(), sums.row(3).data(), sums.row(4).data()}, 1);
      return allocations - before;
    };
    CHECK(allocations_of(1) == allocations_of(50));
  }
}

TEST_CASE("advancing frames allocates its workspace and nothing else") {
  const Problem problem(40);
  const auto allocations_of = [&](Index n_batches) {
    RowMatrix frame = RowMatrix::Identity(40, 40);
    std::vector<double> growth(40 * n_batches), determinant(n_batches), ratio(n_batches);
    const Eigen::VectorXd log_determinants = problem.log_determinants(0.9);
    const auto before = allocations;
    advance_frames(in_batches_of_one(problem.steps<GramRows>(0.9)), {{1, 2}, 0, 0, n_batches, 100}, 16, 20, {false, 0},
                   {{}, log_determinants.data()}, frame.data(), 1, 40,
                   {growth.data(), determinant.data(), ratio.data(), nullptr}, 1);
    return allocations - before;
  };
  CHECK(allocations_of(1) == allocations_of(50));
}

TEST_CASE("steps and orthonormalisation of a frame make no allocation of Eigen's") {
  const Problem problem(70);
  RowMatrix frame = RowMatrix::Random(70, 70);
  FrameWorkspace workspace(70, 70);
  Eigen::RowVectorXd log_diagonal = Eigen::RowVectorXd::Zero(70);
  MatrixView frame_view = view(frame);
  for (const bool careful : {false, true}) {
    Eigen::internal::set_is_malloc_allowed(false);
    workspace.orthonormalise(frame_view, {careful, 0}, log_diagonal);
    Eigen::internal::set_is_malloc_allowed(true);
  }
  CHECK((frame.transpose() * frame - RowMatrix::Identity(70, 70)).norm() < 1e-12);
}
