// Steps of single vectors on batches.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "sgdstab/base/inner_product.hpp"
#include "sgdstab/systems/batch_steps.hpp"

namespace sgdstab {

template <class Rows>
class BatchStepper {
 public:
  explicit BatchStepper(const BatchSteps<Rows>& steps)
      : steps_(steps),
        products_(steps.law.batch_size * most_rows_of_a_unit(steps.law)),
        next_(steps.recurrence.levels != 2 ? steps.dimension() : 0),
        read_(steps.recurrence.is_plain() ? 0 : steps.rows.dimension()) {}

  // z <- M z for the batch with these rows.
  void take(std::span<const std::uint32_t> batch, Index n_drawn, double* z) {
    const double* at = read(steps_.recurrence, steps_.rows.dimension(), z, read_.data());
    multiply(batch, at);
    if (!steps_.recurrence.is_plain()) move_freely(z);
    const double size = steps_.learning_rate / static_cast<double>(n_drawn);
    for (std::size_t j = 0; j < batch.size(); ++j) {
      subtract(steps_.rows, batch[j], size * products_[static_cast<Index>(j)], z);
    }
  }

  // (h^T (x) I) z, in `scratch` unless it is the first block of z.
  static const double* read(const Recurrence& recurrence, Index dimension, const double* z, double* scratch) {
    const auto* rest = recurrence.readout + recurrence.levels;
    if (recurrence.readout[0] == 1 && std::all_of(recurrence.readout + 1, rest, [](double h) { return h == 0; }))
      return z;
    std::fill_n(scratch, dimension, 0.0);
    for (Index level = 0; level < recurrence.levels; ++level) {
      const double weight = recurrence.readout[level];
      if (weight == 0) continue;
      for (Index j = 0; j < dimension; ++j) scratch[j] += weight * z[level * dimension + j];
    }
    return scratch;
  }

  // image = (F (x) I) z.
  static void move_freely(const Recurrence& recurrence, Index dimension, const double* z, double* image) {
    std::fill_n(image, recurrence.levels * dimension, 0.0);
    for (Index to = 0; to < recurrence.levels; ++to) {
      for (Index from = 0; from < recurrence.levels; ++from) {
        const double weight = recurrence.free_entry(to, from);
        if (weight == 0) continue;
        for (Index j = 0; j < dimension; ++j) image[to * dimension + j] += weight * z[from * dimension + j];
      }
    }
  }

 private:
  // z <- (F (x) I) z, in place where there are two levels.
  void move_freely(double* z) {
    const Recurrence& recurrence = steps_.recurrence;
    const Index d = steps_.rows.dimension();
    if (recurrence.levels != 2) {
      move_freely(recurrence, d, z, next_.data());
      std::copy_n(next_.data(), next_.size(), z);
      return;
    }
    const double f00 = recurrence.free_entry(0, 0), f01 = recurrence.free_entry(0, 1);
    const double f10 = recurrence.free_entry(1, 0), f11 = recurrence.free_entry(1, 1);
    double *now = z, *before = z + d;
    for (Index j = 0; j < d; ++j) {
      const double x = now[j], y = before[j];
      now[j] = f00 * x + f01 * y;
      before[j] = f10 * x + f11 * y;
    }
  }

  void multiply(std::span<const std::uint32_t> batch, const double* v) {
    const Rows& rows = steps_.rows;
    const auto n = static_cast<Index>(batch.size()), d = rows.dimension();
    const auto row = [&](Index j) { return rows.row(batch[static_cast<std::size_t>(j)]); };
    Index j = 0;
    for (; j + 4 <= n; j += 4) {
      const auto four = inner_products<4, typename Rows::Scalar>({row(j), row(j + 1), row(j + 2), row(j + 3)}, v, d);
      std::copy_n(four.data(), 4, products_.data() + j);
    }
    if (j + 2 <= n) {
      const auto two = inner_products<2, typename Rows::Scalar>({row(j), row(j + 1)}, v, d);
      std::copy_n(two.data(), 2, products_.data() + j);
      j += 2;
    }
    if (j < n) products_[j] = inner_product(row(j), v, d);
  }

  static void subtract(const Rows& rows, std::uint32_t row, double step, double* v) {
    if constexpr (Rows::kGram) {
      v[row] -= step;
    } else {
      const auto* feature = rows.row(row);
      for (Index j = 0; j < rows.dimension(); ++j) v[j] -= step * feature[j];
    }
  }

  const BatchSteps<Rows>& steps_;
  Eigen::VectorXd products_, next_, read_;
};

}  // namespace sgdstab
