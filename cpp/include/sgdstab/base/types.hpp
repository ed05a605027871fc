// The vocabulary of the core: index type and matrix views.
#pragma once

#include <Eigen/Core>
#include <cstdint>

namespace sgdstab {

using Index = Eigen::Index;

// Everything that crosses the core's boundary is row-major, as numpy lays it out.
template <class Scalar>
using RowMatrixOf = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Scalar>
using ConstMatrixViewOf = Eigen::Map<const RowMatrixOf<Scalar>, Eigen::Unaligned, Eigen::OuterStride<>>;
using RowMatrix = RowMatrixOf<double>;
using MatrixView = Eigen::Map<RowMatrix, Eigen::Unaligned, Eigen::OuterStride<>>;
using ConstMatrixView = ConstMatrixViewOf<double>;
using VectorView = Eigen::Map<Eigen::VectorXd>;

}  // namespace sgdstab
