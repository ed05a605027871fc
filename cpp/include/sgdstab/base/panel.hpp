// Panels: kLanes vectors side by side, coordinate by coordinate, so that one pass over a row serves them all.
//
// A panel of vectors v_1 .. v_kLanes of length n is the n x kLanes matrix, row-major, whose columns they are: the lanes
// of a coordinate are next to each other in memory.
#pragma once

#include <algorithm>
#include <array>

#include "sgdstab/base/types.hpp"

namespace sgdstab {

inline constexpr Index kLanes = 16;
using Lanes = Eigen::Array<double, kLanes, 1>;  // a number for each
using LanesView = Eigen::Map<Lanes>;
using ConstLanesView = Eigen::Map<const Lanes>;

// The lanes of coordinate j.
inline LanesView lanes(double* panel, Index j) { return LanesView(panel + j * kLanes); }
inline ConstLanesView lanes(const double* panel, Index j) { return ConstLanesView(panel + j * kLanes); }

// A panel of the columns first, first + 1, .. of a frame, and back.
inline void copy_into_panel(const MatrixView& v, Index first, double* panel) {
  const Index width = std::min(kLanes, v.cols() - first);
  for (Index i = 0; i < v.rows(); ++i) {
    std::fill_n(std::copy_n(&v(i, first), width, panel + i * kLanes), kLanes - width, 0.0);
  }
}
inline void copy_from_panel(const double* panel, Index first, MatrixView& v) {
  const Index width = std::min(kLanes, v.cols() - first);
  for (Index i = 0; i < v.rows(); ++i) std::copy_n(panel + i * kLanes, width, &v(i, first));
}

using LanePacket = Eigen::internal::find_best_packet<double, kLanes>::type;
inline constexpr Index kPacketWidth = Eigen::internal::unpacket_traits<LanePacket>::size;

// products[r] = rows[r] . v for every lane v of a panel of length n: kRows x kLanes.
template <std::size_t kRows, class Scalar>
void multiply_rows(const Scalar* const* rows, const double* panel, Index n, double* products) {
  using namespace Eigen::internal;
  constexpr std::size_t kPackets = kLanes / kPacketWidth;
  LanePacket sums[kRows][kPackets];
  for (auto& row : sums) std::fill(std::begin(row), std::end(row), pset1<LanePacket>(0.0));
  for (Index j = 0; j < n; ++j, panel += kLanes) {
    LanePacket v[kPackets];
    for (std::size_t p = 0; p < kPackets; ++p) v[p] = ploadu<LanePacket>(panel + static_cast<Index>(p) * kPacketWidth);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto entry = pset1<LanePacket>(static_cast<double>(rows[r][j]));
      for (std::size_t p = 0; p < kPackets; ++p) sums[r][p] = pmadd(entry, v[p], sums[r][p]);
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t p = 0; p < kPackets; ++p) {
      pstoreu(products + static_cast<Index>(r * kPackets + p) * kPacketWidth, sums[r][p]);
    }
  }
}

// The same for kBlockRows rows, as many at a time as there are registers for their sums: AVX-512 has twice as many.
inline constexpr std::size_t kBlockRows = 8;

template <class Scalar>
void multiply_block(const std::array<const Scalar*, kBlockRows>& rows, const double* panel, Index n, double* products) {
  constexpr std::size_t kTile = kPacketWidth == 8 ? 8 : std::max<std::size_t>(kPacketWidth / 2, 1);
  for (std::size_t first = 0; first < kBlockRows; first += kTile) {
    multiply_rows<kTile>(rows.data() + first, panel, n, products + static_cast<Index>(first) * kLanes);
  }
}

// result (n_rows x kLanes) = matrix (n_rows x n, rows `stride` apart) times a panel of length n.
template <class Scalar>
void multiply_panel(const Scalar* matrix, Index n_rows, Index stride, const double* panel, Index n, double* result) {
  constexpr auto kBlock = static_cast<Index>(kBlockRows);
  Index i = 0;
  for (; i + kBlock <= n_rows; i += kBlock) {
    std::array<const Scalar*, kBlockRows> rows;
    for (Index r = 0; r < kBlock; ++r) rows[static_cast<std::size_t>(r)] = matrix + (i + r) * stride;
    multiply_block(rows, panel, n, result + i * kLanes);
  }
  for (; i < n_rows; ++i) {
    const Scalar* row = matrix + i * stride;
    multiply_rows<1>(&row, panel, n, result + i * kLanes);
  }
}

}  // namespace sgdstab
