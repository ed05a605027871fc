// Panels of learning rates.
#include "sgdstab/kernels/panels.hpp"

#include "arguments.hpp"

namespace {

auto bound_advance_panels(const InputArray& rows, const std::string& coordinates, const InputArray& learning_rates,
                          const InputArray& metrics, const IndexArray& windows, const InputArray& diagonals,
                          InputArray panels, StreamKey key, std::uint64_t first_chain, std::uint64_t first_step,
                          Index n_batches, Index steps_per_batch, Index renormalise_every, Index spacing, bool careful,
                          int n_threads) {
  require(rows.ndim() == 2 && panels.ndim() == 5 && panels.shape(3) == rows.shape(1), "shapes do not agree");
  const Index n_chains = panels.shape(0), n_panels = panels.shape(1), k = panels.shape(2);
  require(panels.shape(4) == kLanes && learning_rates.size() == n_panels * kLanes, "shapes do not agree");
  require(diagonals.ndim() == 3 && diagonals.shape(0) == n_panels && diagonals.shape(2) == rows.shape(0),
          "shapes do not agree");
  const Index count = diagonals.shape(1), size = rows.shape(1) * rows.shape(1);
  require(windows.size() == (count > 0 ? 2 * n_panels : 0), "shapes do not agree");
  for (Index panel = 0; count > 0 && panel < n_panels; ++panel) {
    const std::int64_t first = windows.data()[2 * panel], n_metrics = windows.data()[2 * panel + 1];
    require(first >= 0 && n_metrics > 0 && n_metrics <= count && (first + n_metrics - 1) * size <= metrics.size(),
            "windows out of range");
  }
  require(n_batches >= 0 && steps_per_batch > 0 && renormalise_every > 0 && spacing > 0, "counts must be positive");
  InputArray log_growth({n_chains, n_batches, n_panels, k, kLanes});
  InputArray growth({n_chains, n_batches, n_panels, count, kLanes});
  const PanelSums sums{log_growth.mutable_data(), growth.mutable_data()};
  const PanelMetrics all{count, metrics.data(), windows.data(), diagonals.data()};
  double* panels_data = panels.mutable_data();
  {
    const py::gil_scoped_release release;
    with_rows(coordinates, rows, [&](const auto& typed) {
      advance_panels(typed, learning_rates.data(), {key, first_chain, first_step, n_batches, steps_per_batch},
                     {renormalise_every, careful, spacing}, all, panels_data, n_chains, n_panels, k, sums, n_threads);
    });
  }
  return std::make_tuple(std::move(panels), std::move(log_growth), std::move(growth));
}

}  // namespace

void register_panels(py::module_& module) {
  module.def("advance_panels", &bound_advance_panels,
             "Advances chains of k vectors for every learning rate, (n_chains, n_panels, k, dimension, n_lanes), in "
             "place: (panels, log_growth, growth).",
             py::kw_only(), py::arg("rows").noconvert(), py::arg("coordinates"), py::arg("learning_rates").noconvert(),
             py::arg("metrics").noconvert(), py::arg("windows").noconvert(), py::arg("diagonals").noconvert(),
             py::arg("panels").noconvert(), py::arg("key"), py::arg("first_chain"), py::arg("first_step"),
             py::arg("n_batches"), py::arg("steps_per_batch"), py::arg("renormalise_every"), py::arg("spacing"),
             py::arg("careful"), py::arg("n_threads"));
}
