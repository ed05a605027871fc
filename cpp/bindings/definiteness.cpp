// Whether a symmetric matrix is definite.
#include "sgdstab/base/definiteness.hpp"

#include <algorithm>

#include "arguments.hpp"

namespace {

py::tuple bound_smallest_eigenvalue(Array<double> matrix, const Array<double>& scale) {
  require(matrix.ndim() == 2 && matrix.shape(0) == matrix.shape(1), "matrix must be square");
  require(scale.ndim() == 1 && scale.size() == matrix.shape(0), "shapes do not agree");
  const Index n = matrix.shape(0);
  const MatrixView view(matrix.mutable_data(), n, n, Eigen::OuterStride<>(n));
  const Eigen::VectorXd scale_vector = Eigen::Map<const Eigen::VectorXd>(scale.data(), n);
  SmallestEigenvalue found;
  {
    // Long-running and free of Python objects: other Python threads may go on.
    const WithoutInterpreter released;
    found = smallest_eigenvalue(view, scale_vector);
  }
  Array<double> direction(n);
  std::copy_n(found.direction.data(), n, direction.mutable_data());
  return py::make_tuple(found.estimate, std::move(direction));
}

}  // namespace

void register_definiteness(py::module_& module) {
  module.def("smallest_eigenvalue", &bound_smallest_eigenvalue,
             "(estimate from above for `matrix`, eigenvector of diag(scale) matrix diag(scale)); overwrites `matrix`.",
             py::kw_only(), py::arg("matrix").noconvert(), py::arg("scale").noconvert());
}
