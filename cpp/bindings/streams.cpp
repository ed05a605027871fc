// Streams: the random numbers themselves.
#include "arguments.hpp"
#include "sgdstab/random/stream.hpp"

namespace {

auto bound_examples(StreamKey key, std::uint64_t chain, std::uint64_t first_step, Index n_steps, Index n_examples) {
  require(n_steps >= 0 && n_examples > 0 && n_examples <= (Index{1} << 31), "counts out of range");
  py::array_t<std::uint32_t> examples(n_steps);
  IndexStream(key, chain, n_examples).fill(first_step, n_steps, examples.mutable_data());
  return examples;
}

}  // namespace

void register_streams(py::module_& module) {
  module.def("philox4x64", &philox4x64, "The Philox4x64-10 block of a counter.", py::arg("counter"), py::arg("key"));
  module.def("examples", &bound_examples, "The examples that a chain draws at n_steps steps from first_step on.",
             py::kw_only(), py::arg("key"), py::arg("chain"), py::arg("first_step"), py::arg("n_steps"),
             py::arg("n_examples"));
}
