#include "sgdstab/steps/orthogonal.hpp"

#include <cmath>

namespace sgdstab {
namespace {

Index whole_lanes(Index n) { return (n + kLanes - 1) / kLanes * kLanes; }

}  // namespace

OrthogonalSteps::OrthogonalSteps(Index dimension, Index most_steps)
    : dimension_(dimension),
      padded_(whole_lanes(most_steps)),
      v_(dimension, dimension),
      g_(dimension, padded_),
      products_(RowMatrix::Zero(most_steps, whole_lanes(dimension))),
      couplings_(RowMatrix::Zero(most_steps, padded_)),
      coefficients_(static_cast<std::size_t>(most_steps * dimension)),
      upwards_(static_cast<std::size_t>(most_steps)),
      first_(most_steps),
      gradient_(Eigen::ArrayXd::Zero(whole_lanes(dimension))),
      d_(dimension + 1),
      excess_(gradient_),
      ratio_(Eigen::ArrayXd::Ones(gradient_.size())),
      kept_(dimension),
      added_(dimension),
      panel_(dimension * kLanes),
      workspace_(std::max(dimension, most_steps), std::max(dimension, most_steps), dimension) {}

void OrthogonalSteps::begin(const MatrixView& v) {
  v_ = v.transpose();
  log_squares_.assign(static_cast<std::size_t>(whole_lanes(dimension_) / kLanes), {});
}

void OrthogonalSteps::end(MatrixView& v, Eigen::Ref<Eigen::RowVectorXd> log_diagonal) {
  v = v_.transpose();
  for (Index l = 0; l < dimension_; l += kLanes) {
    const Lanes logs = log_squares_[static_cast<std::size_t>(l / kLanes)].total() / 2;
    for (Index lane = 0; lane < std::min(kLanes, dimension_ - l); ++lane) log_diagonal[l + lane] += logs[lane];
  }
}

// Row-major matrices are their transposes in the column-major terms of accumulate_product.
void OrthogonalSteps::take(const Eigen::Ref<const RowMatrix>& gradients, Index n_steps, double learning_rate) {
  const Index d = dimension_;
  g_.setZero();
  accumulate_product<RowMajor, ColMajor>(n_steps, d, d, 1, gradients.data(), gradients.outerStride(), v_.data(), d,
                                         g_.data(), padded_, workspace_);
  products_.topRows(n_steps).setZero();
  accumulate_product<ColMajor, RowMajor>(d, n_steps, d, 1, v_.data(), d, g_.data(), padded_, products_.data(),
                                         products_.cols(), workspace_);
  couplings_.setZero();
  accumulate_product<RowMajor, ColMajor>(n_steps, n_steps, d, 1, gradients.data(), gradients.outerStride(),
                                         products_.data(), products_.cols(), couplings_.data(), padded_, workspace_);
  for (Index t = 0; t < n_steps; ++t) {
    prepare(t, gradients.row(t).squaredNorm(), learning_rate);
    for (Index j = (t + 1) / kLanes * kLanes; j < n_steps; j += kLanes) {
      apply(t, &couplings_(t, j), &g_(0, j), padded_);
    }
  }
  for (Index i = 0; i < d; i += kLanes) {
    const Index width = std::min(kLanes, d - i);
    for (Index l = 0; l < d; ++l) {
      for (Index lane = 0; lane < width; ++lane) panel_[l * kLanes + lane] = v_(l, i + lane);
    }
    for (Index t = 0; t < n_steps; ++t) apply(t, &products_(t, i), panel_.data(), kLanes);
    for (Index l = 0; l < d; ++l) {
      for (Index lane = 0; lane < width; ++lane) v_(l, i + lane) = panel_[l * kLanes + lane];
    }
  }
}

void OrthogonalSteps::prepare(Index step, double squared_norm, double learning_rate) {
  const double left = 1 - learning_rate * squared_norm, c = learning_rate * (1 + left);
  const bool upwards = c < 0;
  const Index k = dimension_;
  // Of the length of f, whatever V lacks of being orthogonal: Q is orthogonal all the same.
  double length = 0;
  for (Index l = 0; l < k; ++l) {
    gradient_[l] = g_(l, step);
    length += gradient_[l] * gradient_[l];
  }
  const double scale = length > 0 ? std::sqrt(squared_norm / length) : 0;
  gradient_ *= scale;
  const auto g = gradient_.head(k), before = d_.head(k), after = d_.tail(k);
  excess_ = c * gradient_.square();
  if (upwards) {
    d_[0] = 1;
    for (Index l = 0; l < k; ++l) d_[l + 1] = d_[l] - excess_[l];
  } else {
    d_[k] = left * left;
    for (Index l = k - 1; l >= 0; --l) d_[l] = d_[l + 1] + excess_[l];
  }
  excess_.head(k) /= -before;
  ratio_.head(k) = after / before;
  kept_ = upwards ? (before / after).sqrt() : (after / before).sqrt();
  added_ = g / (before * after).sqrt();
  const double sign = upwards ? c : -c;
  Coefficients* its = coefficients_.data() + step * k;
  for (Index l = 0; l < k; ++l) its[l] = {kept_[l], added_[l], sign * g[l]};
  for (Index l = 0; l < k; l += kLanes) {
    log_squares_[static_cast<std::size_t>(l / kLanes)].add(Lanes::Map(excess_.data() + l),
                                                           [&] { return Lanes::Map(ratio_.data() + l); });
  }
  upwards_[static_cast<std::size_t>(step)] = upwards;
  first_[step] = scale * learning_rate * (upwards ? -1 : left);  // c - eta = eta left
}

void OrthogonalSteps::apply(Index step, const double* products, double* columns, Index stride) const {
  using namespace Eigen::internal;
  constexpr Index kPackets = kLanes / kPacketWidth;
  const Coefficients* its = coefficients(step);
  const bool upwards = upwards_[static_cast<std::size_t>(step)];
  LanePacket h[kPackets];
  for (Index p = 0; p < kPackets; ++p) {
    h[p] = pmul(pset1<LanePacket>(first_[step]), ploadu<LanePacket>(products + p * kPacketWidth));
  }
  const Index increment = upwards ? 1 : -1;
  for (Index l = upwards ? 0 : dimension_ - 1, n = 0; n < dimension_; l += increment, ++n) {
    double* x = columns + l * stride;
    const auto kept = pset1<LanePacket>(its[l].kept), added = pset1<LanePacket>(its[l].added),
               taken = pset1<LanePacket>(its[l].taken);
    for (Index p = 0; p < kPackets; ++p) {
      const auto before = ploadu<LanePacket>(x + p * kPacketWidth);
      pstoreu(x + p * kPacketWidth, pmadd(added, h[p], pmul(kept, before)));
      h[p] = pmadd(taken, before, h[p]);
    }
  }
}

}  // namespace sgdstab
