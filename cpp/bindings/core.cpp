// The compiled core, a registrar a topic. Compiled once per SIMD level under the name SGDSTAB_MODULE.
#include <pybind11/pybind11.h>

#include <Eigen/Core>
#include <string>

#include "sgdstab/base/panel.hpp"

namespace py = pybind11;

void register_streams(py::module_& module);
void register_vectors(py::module_& module);
void register_panels(py::module_& module);
void register_frames(py::module_& module);
void register_populations(py::module_& module);

PYBIND11_MODULE(SGDSTAB_MODULE, module) {
  module.doc() = "Compiled core of sgdstab_fast; see sgdstab_fast._core.";
  register_streams(module);
  register_vectors(module);
  register_panels(module);
  register_frames(module);
  register_populations(module);
  module.attr("n_lanes") = sgdstab::kLanes;
  module.attr("simd_level") = SGDSTAB_SIMD_LEVEL;
  module.attr("eigen_version") = std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
                                 std::to_string(EIGEN_MINOR_VERSION);
  module.attr("compiler") = SGDSTAB_COMPILER;
}
