// Steps on batches against their definition, taken one by one as dense matrices.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "problems.hpp"
#include "sgdstab/kernels/frames.hpp"
#include "sgdstab/kernels/vectors.hpp"

using namespace sgdstab;

namespace {

constexpr StreamKey kKey{11, 22};
constexpr double kEta = 1.6, kMomentum = 0.6;

enum class Optimiser { plain, decay, heavy_ball, nesterov };

// A law with its groups, and an optimiser.
struct Setting {
  Sampling sampling;
  Index batch_size;
  bool grouped;
  Optimiser optimiser;
};

// Of an n x n problem: groups are rows u and u + n / 2.
template <class Rows>
struct Case {
  Case(const Setting& setting, const SingleSteps<Rows>& single)
      : n(single.n_examples()), d(single.dimension()), steps(in_batches_of_one(single)) {
    const Index n_units = setting.grouped ? n / 2 : n;
    for (Index u = 0; u < n_units; ++u) {
      offsets.push_back(2 * u);
      members.insert(members.end(), {u, u + n / 2});
    }
    offsets.push_back(2 * n_units);
    double log_determinant = std::log(kMomentum), feedback = 1;
    free = {1 + kMomentum, -kMomentum, 1, 0};
    readout = {1 + kMomentum, -kMomentum};
    switch (setting.optimiser) {
      case Optimiser::plain:
        free = readout = {1};
        log_determinant = 0;
        break;
      case Optimiser::decay:  // of 10%, with gradients at half the displacement
        free = {0.9};
        readout = {0.5};
        log_determinant = std::log(0.9);
        feedback = 0.5 / 0.9;
        break;
      case Optimiser::heavy_ball:
        readout = {1, 0};
        feedback = 0;
        break;
      case Optimiser::nesterov:
        break;
    }
    steps.law = {setting.sampling,
                 n_units,
                 setting.batch_size,
                 nullptr,
                 setting.grouped ? offsets.data() : nullptr,
                 setting.grouped ? members.data() : nullptr};
    steps.recurrence = {static_cast<Index>(readout.size()), free.data(), readout.data(), log_determinant, feedback};
  }

  // The matrix of a step on rows of n_drawn units.
  RowMatrix step(std::span<const std::uint32_t> rows, Index n_drawn, const RowMatrix& along) const {
    const Index levels = steps.recurrence.levels;
    RowMatrix matrix = RowMatrix::Zero(levels * d, levels * d);
    for (Index to = 0; to < levels; ++to) {
      for (Index from = 0; from < levels; ++from) {
        matrix.block(to * d, from * d, d, d).diagonal().setConstant(steps.recurrence.free_entry(to, from));
      }
    }
    for (const std::uint32_t row : rows) {
      const RowMatrix gradient = along.row(row).transpose() * steps.rows.matrix.row(row);
      for (Index from = 0; from < levels; ++from) {
        matrix.block(0, from * d, d, d) -= kEta / static_cast<double>(n_drawn) * readout[from] * gradient;
      }
    }
    return matrix;
  }

  Index n, d;
  std::vector<std::int64_t> offsets, members;
  std::vector<double> free, readout;
  BatchSteps<Rows> steps;
};

const std::vector<Setting>& settings() {
  static const std::vector<Setting> all = [] {
    std::vector<Setting> made;
    for (const auto sampling : {Sampling::iid, Sampling::with_replacement, Sampling::epoch, Sampling::cyclic}) {
      for (const Index batch_size : {1, 3, 5}) {
        for (const bool grouped : {false, true}) {
          for (const auto optimiser :
               {Optimiser::plain, Optimiser::decay, Optimiser::heavy_ball, Optimiser::nesterov}) {
            made.push_back({sampling, batch_size, grouped, optimiser});
          }
        }
      }
    }
    return made;
  }();
  return all;
}

template <class Rows>
void check(const Setting& setting, const SingleSteps<Rows>& single) {
  const Case<Rows> given(setting, single);
  const Index d = given.steps.dimension(), k = std::min<Index>(d, 4), n_steps = 57;
  const RowMatrix along = directions(single.rows), start = normal(d, k, 5);
  RowMatrix product = RowMatrix::Identity(d, d);
  double log_determinant = 0;
  Draws draws(given.steps.law);
  for (Index done = 0; done < n_steps;) {
    const Index drawn = draws.fill(kKey, 5, static_cast<std::uint64_t>(done), n_steps - done);
    for (Index j = 0; j < drawn; ++j) {
      const RowMatrix step = given.step(draws.rows(j), draws.n_drawn(j), along);
      product = step * product;
      RowMatrix q = step;
      FrameWorkspace workspace(d, d);
      Eigen::RowVectorXd logs = Eigen::RowVectorXd::Zero(d);
      MatrixView q_view = view(q);
      workspace.orthonormalise(q_view, {true, 0}, logs);
      log_determinant += logs.sum();
    }
    done += drawn;
  }
  const Eigen::VectorXd end = product * start.col(0);

  RowMatrix vector = start.col(0).transpose(), log_growth(1, 1);
  advance_vectors(given.steps, {kKey, 5, 0, 1, n_steps}, {10, true, 1}, BatchMetrics{}, vector.data(), 1, 1,
                  {log_growth.data(), nullptr}, 1);
  CHECK(log_growth(0, 0) == doctest::Approx(std::log(end.norm())).epsilon(1e-10));
  CHECK((vector.transpose() - end / end.norm()).norm() < 1e-9);

  RowMatrix frame = start;
  std::vector<double> growth(static_cast<std::size_t>(k));
  double determinant = 0, ratio = 0;
  advance_frames(given.steps, {kKey, 5, 0, 1, n_steps}, 16, 8, {true, 0}, {}, frame.data(), 1, k,
                 {growth.data(), &determinant, &ratio, nullptr}, 1);
  CHECK(growth[0] == doctest::Approx(std::log(end.norm())).epsilon(1e-9));
  CHECK(std::abs(std::abs(frame.col(0).dot(end)) / end.norm() - 1) < 1e-9);
  CHECK(determinant == doctest::Approx(log_determinant).epsilon(1e-7));
}

}  // namespace

TEST_CASE("steps on batches advance as the product of single steps does") {
  const Problem problem(12);
  for (const Setting& setting : settings()) {
    CAPTURE(setting.batch_size);
    CAPTURE(static_cast<int>(setting.optimiser));
    check(setting, problem.steps<GramRows>(kEta));
    check(setting, problem.steps<FactorRows>(kEta));
  }
}
