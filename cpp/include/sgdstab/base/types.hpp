// The vocabulary of the core: index type and matrix views.
#pragma once

#include <Eigen/Core>
#include <cstdint>

namespace sgdstab {

using Index = Eigen::Index;

// Everything that crosses the core's boundary is row-major, as numpy lays it out.
using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using MatrixView = Eigen::Map<RowMatrix, Eigen::Unaligned, Eigen::OuterStride<>>;
using ConstMatrixView = Eigen::Map<const RowMatrix, Eigen::Unaligned, Eigen::OuterStride<>>;
using VectorView = Eigen::Map<Eigen::VectorXd>;

}  // namespace sgdstab
