// Sampled systems and matrix sets against the definition of a step, taken one by one as dense matrices.
#include <doctest/doctest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "problems.hpp"
#include "sgdstab/advance_frames.hpp"
#include "sgdstab/advance_vectors.hpp"

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
template <class Form>
struct Case {
  Case(const Setting& setting, const Form& form) : n(form.n_examples()), d(form.dimension()), system(plain(form)) {
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
    system.law = {setting.sampling,
                  n_units,
                  setting.batch_size,
                  nullptr,
                  setting.grouped ? offsets.data() : nullptr,
                  setting.grouped ? members.data() : nullptr};
    system.recurrence = {static_cast<Index>(readout.size()), free.data(), readout.data(), log_determinant, feedback};
  }

  // The matrix of a step on rows of n_drawn units.
  RowMatrix step(std::span<const std::uint32_t> rows, Index n_drawn, const RowMatrix& directions) const {
    const Index levels = system.recurrence.levels;
    RowMatrix matrix = RowMatrix::Zero(levels * d, levels * d);
    for (Index to = 0; to < levels; ++to) {
      for (Index from = 0; from < levels; ++from) {
        matrix.block(to * d, from * d, d, d).diagonal().setConstant(system.recurrence.free_entry(to, from));
      }
    }
    for (const std::uint32_t row : rows) {
      const RowMatrix gradient = directions.row(row).transpose() * system.form.rows.row(row);
      for (Index from = 0; from < levels; ++from) {
        matrix.block(0, from * d, d, d) -= kEta / static_cast<double>(n_drawn) * readout[from] * gradient;
      }
    }
    return matrix;
  }

  Index n, d;
  std::vector<std::int64_t> offsets, members;
  std::vector<double> free, readout;
  Sampled<Form> system;
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

// e_i or f_i in the rows.
RowMatrix directions_of(const GramForm& form) { return RowMatrix::Identity(form.dimension(), form.dimension()); }
RowMatrix directions_of(const FactorForm& form) { return form.rows; }

template <class Form>
void check(const Setting& setting, const Form& form) {
  const Case<Form> given(setting, form);
  const Index d = given.system.dimension(), k = std::min<Index>(d, 4), n_steps = 57;
  const RowMatrix directions = directions_of(form), start = normal(d, k, 5);
  RowMatrix product = RowMatrix::Identity(d, d);
  double log_determinant = 0;
  Draws draws(given.system.law);
  for (Index done = 0; done < n_steps;) {
    const Index drawn = draws.fill(kKey, 5, static_cast<std::uint64_t>(done), n_steps - done);
    for (Index j = 0; j < drawn; ++j) {
      const RowMatrix step = given.step(draws.rows(j), draws.n_drawn(j), directions);
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
  advance_vectors(given.system, {kKey, 5, 0, 1, n_steps}, {10, true, 1}, SampledMetrics{}, vector.data(), 1, 1,
                  {log_growth.data(), nullptr}, 1);
  CHECK(log_growth(0, 0) == doctest::Approx(std::log(end.norm())).epsilon(1e-10));
  CHECK((vector.transpose() - end / end.norm()).norm() < 1e-9);

  RowMatrix frame = start;
  std::vector<double> growth(static_cast<std::size_t>(k));
  double determinant = 0, ratio = 0;
  advance_frames(given.system, {kKey, 5, 0, 1, n_steps}, 16, 8, {true, 0}, {}, frame.data(), 1, k,
                 {growth.data(), &determinant, &ratio, nullptr}, 1);
  CHECK(growth[0] == doctest::Approx(std::log(end.norm())).epsilon(1e-9));
  CHECK(std::abs(std::abs(frame.col(0).dot(end)) / end.norm() - 1) < 1e-9);
  CHECK(determinant == doctest::Approx(log_determinant).epsilon(1e-7));
}

}  // namespace

TEST_CASE("sampled systems advance as the product of single steps does") {
  const Problem problem(12);
  for (const Setting& setting : settings()) {
    CAPTURE(setting.batch_size);
    CAPTURE(static_cast<int>(setting.optimiser));
    check(setting, GramForm{problem.gram_form(kEta)});
    check(setting, FactorForm{problem.factor_form(kEta)});
  }
}

TEST_CASE("growth of batches has the mean of all batches, whatever the column, and less variance with each") {
  // N = 6, B = 2 or 3: all batches can be gone through. Means over many evaluations of one and the same state.
  const Problem problem(6);
  const GramForm form{problem.gram_form(kEta)};
  const RowMatrix state = normal(1, 6, 8), root = normal(6, 6, 9), metric = root * root.transpose();
  const RowMatrix probabilities = RowMatrix::Constant(1, 6, 1.0 / 6);
  for (const auto sampling : {Sampling::iid, Sampling::with_replacement}) {
    for (const Index batch_size : {2, 3}) {
      const Sampled<GramForm> system{form, {sampling, 6, batch_size}, plain(form).recurrence};
      const Case<GramForm> given({sampling, batch_size, false, Optimiser::plain}, form);
      double expected = 0, total = 0;
      std::vector<std::uint32_t> batch(static_cast<std::size_t>(batch_size));
      const auto all = static_cast<Index>(std::pow(6, batch_size));
      for (Index code = 0; code < all; ++code) {
        Index left = code;
        bool repeats = false;
        for (Index b = 0; b < batch_size; ++b, left /= 6) {
          batch[static_cast<std::size_t>(b)] = static_cast<std::uint32_t>(left % 6);
          for (Index c = 0; c < b; ++c)
            repeats |= batch[static_cast<std::size_t>(b)] == batch[static_cast<std::size_t>(c)];
        }
        if (repeats && sampling == Sampling::iid) continue;
        const RowMatrix step = given.step(batch, batch_size, RowMatrix::Identity(6, 6));
        const Eigen::VectorXd after = step * state.transpose(), before = state.transpose();
        expected += std::log(after.dot(metric * after) / before.dot(metric * before)) / 2;
        total += 1;
      }
      expected /= total;
      const SampledMetrics metrics{1, 6, metric.data(), metric.data(), probabilities.data()};
      SampledGrowth<GramForm> growth(system, metrics);
      constexpr Index kEvaluations = 4000;
      Eigen::Array3d mean = Eigen::Array3d::Zero(), square = mean;
      for (Index e = 0; e < kEvaluations; ++e) {
        Eigen::Array3d columns = Eigen::Array3d::Zero();
        growth.add_growth(state.data(), 6, 1, {columns.data(), 3, 1}, kKey, 3, static_cast<std::uint64_t>(e));
        mean += columns;
        square += columns.square();
      }
      mean /= kEvaluations;
      const Eigen::Array3d error = ((square / kEvaluations - mean.square()) / kEvaluations).max(0.0).sqrt();
      for (Index column = 0; column < 3; ++column) {
        CAPTURE(column);
        CHECK(std::abs(mean[column] - expected) < 4.5 * error[column] + 1e-12);
      }
      CHECK(error[1] < error[0]);
    }
  }
}

TEST_CASE("matrix sets advance as the product of their matrices does") {
  for (const Index d : {1, 2, 7, 16, 21}) {
    const Index count = 3;
    std::vector<RowMatrix> matrices;
    const Index n_panels = (d + kLanes - 1) / kLanes;
    std::vector<double> panels(static_cast<std::size_t>(count * n_panels * d * kLanes)), dense, logs(3, 0.0);
    for (Index i = 0; i < count; ++i) {
      matrices.push_back(normal(d, d, static_cast<unsigned>(20 + i)) / std::sqrt(static_cast<double>(d)));
      for (Index row = 0; row < d; ++row) {
        for (Index j = 0; j < d; ++j) {
          panels[static_cast<std::size_t>(((i * n_panels + row / kLanes) * d + j) * kLanes + row % kLanes)] =
              matrices.back()(row, j);
        }
      }
      dense.insert(dense.end(), matrices.back().data(), matrices.back().data() + d * d);
    }
    const double probabilities[] = {0.2, 0.5, 0.3}, cumulative[] = {0.2, 0.7, 1.0};
    const MatrixSet set{count, d, panels.data(), probabilities, cumulative};
    const RowMatrix start = normal(d, std::min<Index>(d, 3), 5);
    Eigen::VectorXd end = start.col(0);
    Draws draws(law_of(set));
    constexpr Index kSteps = 40;
    draws.fill(kKey, 5, 0, kSteps);
    for (Index j = 0; j < kSteps; ++j) end = matrices[draws.units(j)[0]] * end;
    RowMatrix vector = start.col(0).transpose(), log_growth(1, 1);
    advance_vectors(set, {kKey, 5, 0, 1, kSteps}, {7, true, 1}, MatrixMetrics{}, vector.data(), 1, 1,
                    {log_growth.data(), nullptr}, 1);
    CHECK(log_growth(0, 0) == doctest::Approx(std::log(end.norm())).epsilon(1e-10));
    CHECK((vector.transpose() - end / end.norm()).norm() < 1e-9);
    RowMatrix frame = start;
    std::vector<double> growth(static_cast<std::size_t>(start.cols()));
    double determinant = 0, ratio = 0;
    advance_frames(set, {kKey, 5, 0, 1, kSteps}, 1, 5, {true, 0}, {{}, logs.data(), dense.data()}, frame.data(), 1,
                   start.cols(), {growth.data(), &determinant, &ratio, nullptr}, 1);
    CHECK(growth[0] == doctest::Approx(std::log(end.norm())).epsilon(1e-9));

    // In the Euclidean metric, from the state after a scale of 2 was taken out of the matrices.
    std::vector<double> roots(static_cast<std::size_t>((1 + count) * d * d));
    double expected = 0;
    Eigen::Map<RowMatrix>(roots.data(), d, d).setIdentity();
    for (Index i = 0; i < count; ++i) {
      Eigen::Map<RowMatrix>(roots.data() + (i + 1) * d * d, d, d) = matrices[static_cast<std::size_t>(i)] / 2;
      expected += probabilities[i] * std::log((matrices[static_cast<std::size_t>(i)] * end).norm() / end.norm());
    }
    MatrixMetrics metrics{1, roots.data(), std::numbers::ln2};
    MatrixGrowth evaluation(set, metrics);
    double sum = 0;
    const RowMatrix state = end.transpose();
    evaluation.add_growth(state.data(), d, 1, {&sum, 1, 1});
    CHECK(sum == doctest::Approx(expected).epsilon(1e-12));
  }
}
