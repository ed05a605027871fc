// Which SIMD levels this processor and operating system can run. Compiled at baseline, imported before any other
// module of the package.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

namespace {

// Best first, out of the levels the package is compiled for.
std::vector<std::string> simd_levels() {
  std::vector<std::string> levels;
#if defined(__x86_64__)
  // __builtin_cpu_supports asks CPUID and, through XGETBV, whether the operating system saves the registers.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) levels.emplace_back("v4");
  if (__builtin_cpu_supports("x86-64-v3")) levels.emplace_back("v3");
  if (__builtin_cpu_supports("x86-64-v2")) levels.emplace_back("v2");
#else
  levels.emplace_back("baseline");
#endif
  return levels;
}

}  // namespace

PYBIND11_MODULE(_cpu, module, pybind11::mod_gil_not_used()) {
  module.doc() = "What this processor can run.";
  module.def("simd_levels", &simd_levels, "The SIMD levels that can run here, best first.");
}
