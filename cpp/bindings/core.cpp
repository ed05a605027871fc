// The compiled core, a registrar a topic. Compiled once per SIMD level under the name SGDSTAB_MODULE.
#include <Eigen/Core>
#include <string>

#include "arguments.hpp"

void register_streams(py::module_& module);
void register_vectors(py::module_& module);
void register_panels(py::module_& module);
void register_frames(py::module_& module);
void register_populations(py::module_& module);
void register_definiteness(py::module_& module);

PYBIND11_MODULE(SGDSTAB_MODULE, module, py::mod_gil_not_used()) {
  module.doc() = "Compiled core of sgdstab_fast; see sgdstab_fast._core.";
  register_streams(module);
  register_vectors(module);
  register_panels(module);
  register_frames(module);
  register_populations(module);
  register_definiteness(module);
  py::dict arguments;  // the fields of every argument, in order, for whoever checks declarations
  for_each_argument([&](const auto& tuple) { arguments[tuple.name] = py::tuple(py::cast(tuple.fields)); });
  module.attr("arguments") = arguments;
  module.attr("n_lanes") = kLanes;
  module.attr("simd_level") = SGDSTAB_SIMD_LEVEL;
  module.attr("eigen_version") = std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
                                 std::to_string(EIGEN_MINOR_VERSION);
  module.attr("compiler") = SGDSTAB_COMPILER;
}
