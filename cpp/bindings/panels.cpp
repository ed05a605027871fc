// Panels of learning rates.
#include "sgdstab/kernels/panels.hpp"

#include "arguments.hpp"

namespace {

py::tuple bound_advance_panels(const py::object& steps, const py::object& metrics, Array<double> panels,
                               const py::object& given_stream, const py::object& given_options, int n_threads) {
  const Stream stream = stream_of(given_stream);
  const auto [renormalise_every, spacing, careful] = kPanelOptions.of(given_options);
  const PanelOptions options{value<Index>(renormalise_every), value<bool>(careful), value<Index>(spacing)};
  require(options.renormalise_every > 0 && options.spacing > 0, "counts must be positive");
  const auto [given_rows, given_rates] = kPanelSteps.of(steps);
  const Borrowed<> rates = given_rates;
  py::tuple result;
  with_rows(given_rows, [&](const auto& rows) {
    require(panels.ndim() == 5 && panels.shape(3) == rows.dimension(), "shapes do not agree");
    const Index n_chains = panels.shape(0), n_panels = panels.shape(1), k = panels.shape(2);
    require(panels.shape(4) == kLanes && rates.size() == n_panels * kLanes, "shapes do not agree");
    const PanelMetrics evaluated = panel_metrics_of(rows, n_panels, metrics);
    Array<double> log_growth({n_chains, stream.n_batches, n_panels, k, kLanes});
    Array<double> growth({n_chains, stream.n_batches, n_panels, evaluated.count, kLanes});
    const PanelSums sums{log_growth.mutable_data(), growth.mutable_data()};
    double* data = panels.mutable_data();
    {
      // Long-running and free of Python objects: other Python threads may go on.
      const WithoutInterpreter released;
      advance_panels(rows, rates.data(), stream, options, evaluated, data, n_chains, n_panels, k, sums, n_threads);
    }
    result = py::make_tuple(std::move(panels), std::move(log_growth), std::move(growth));
  });
  return result;
}

}  // namespace

void register_panels(py::module_& module) {
  module.def("advance_panels", &bound_advance_panels,
             "Advances chains of k vectors for every learning rate, (n_chains, n_panels, k, dimension, n_lanes), in "
             "place: (panels, log_growth, growth).",
             py::arg("steps"), py::arg("metrics"), py::arg("panels").noconvert(), py::arg("stream"), py::arg("options"),
             py::arg("n_threads"));
}
