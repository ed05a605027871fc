// Populations of weighted walkers.
#include "sgdstab/kernels/populations.hpp"

#include "arguments.hpp"

namespace {

auto bound_advance_populations(const InputArray& rows, const std::string& coordinates, double learning_rate,
                               double order, const InputArray& metrics, const InputArray& diagonals,
                               const InputArray& gauge_gram, const InputArray& gauge_coupling,
                               const InputArray& gauge_metric, const InputArray& gauge_diagonal, InputArray walkers,
                               StreamKey key, std::uint64_t first_chain, std::uint64_t first_step, Index n_batches,
                               Index steps_per_batch, Index renormalise_every, bool careful, double least_share,
                               Index n_passive, int n_threads) {
  require(rows.ndim() == 2 && walkers.ndim() == 3 && walkers.shape(2) > 2, "shapes do not agree");
  require((walkers.shape(2) - 2) % rows.shape(1) == 0, "walkers must hold whole vectors");
  const Index n_populations = walkers.shape(0), size = walkers.shape(1);
  const Index n_vectors = (walkers.shape(2) - 2) / rows.shape(1) - n_passive, n_metrics = diagonals.shape(0);
  require(n_passive >= 0 && n_passive < 2 && n_vectors > 0, "at most one passive vector");
  require(n_passive == 0 || gauge_gram.size() > 0, "passive vectors take tilted steps");
  require(diagonals.ndim() == 2 && diagonals.shape(1) == rows.shape(0), "shapes do not agree");
  require(metrics.size() == std::max<Index>(n_metrics - 1, 0) * rows.shape(1) * rows.shape(1), "shapes do not agree");
  require(n_batches >= 0 && steps_per_batch > 0 && renormalise_every > 0 && size > 0, "counts must be positive");
  const Index n = rows.shape(0), d = rows.shape(1);
  const bool tilted = gauge_gram.size() > 0, has_metric = gauge_metric.size() > 0;
  require(!tilted || (gauge_gram.size() == n * n && gauge_diagonal.size() == n), "shapes do not agree");
  require(!has_metric || (gauge_metric.size() == d * d && gauge_coupling.size() == n * n), "shapes do not agree");
  const Gauge gauge{gauge_gram.data(), has_metric ? gauge_coupling.data() : nullptr,
                    has_metric ? gauge_metric.data() : nullptr, gauge_diagonal.data()};
  InputArray log_growth({n_populations, n_batches}), effective_size({n_populations, n_batches}),
      separation({n_populations, n_batches});
  InputArray norms({n_populations, n_batches, n_metrics}), excess({n_populations, n_batches, n_metrics});
  const PopulationSums sums{log_growth.mutable_data(), effective_size.mutable_data(), norms.mutable_data(),
                            excess.mutable_data(), separation.mutable_data()};
  const SingleMetrics all{n_metrics, metrics.data(), diagonals.data()};
  double* walkers_data = walkers.mutable_data();
  {
    const py::gil_scoped_release release;
    with_rows(coordinates, rows, [&](const auto& typed) {
      advance_populations(
          SingleSteps{typed, learning_rate}, {key, first_chain, first_step, n_batches, steps_per_batch},
          {order, n_vectors, n_passive, renormalise_every, careful, least_share, tilted ? &gauge : nullptr}, all,
          walkers_data, n_populations, size, sums, n_threads);
    });
  }
  return std::make_tuple(std::move(walkers), std::move(log_growth), std::move(effective_size), std::move(norms),
                         std::move(excess), std::move(separation));
}

}  // namespace

void register_populations(py::module_& module) {
  module.def("advance_populations", &bound_advance_populations,
             "Advances populations of weighted walkers, (n_populations, size, n_vectors * dimension + 2), in place: "
             "(walkers, log_growth, effective_size, norms, excess, separation).",
             py::kw_only(), py::arg("rows").noconvert(), py::arg("coordinates"), py::arg("learning_rate"),
             py::arg("order"), py::arg("metrics").noconvert(), py::arg("diagonals").noconvert(),
             py::arg("gauge_gram").noconvert(), py::arg("gauge_coupling").noconvert(),
             py::arg("gauge_metric").noconvert(), py::arg("gauge_diagonal").noconvert(), py::arg("walkers").noconvert(),
             py::arg("key"), py::arg("first_chain"), py::arg("first_step"), py::arg("n_batches"),
             py::arg("steps_per_batch"), py::arg("renormalise_every"), py::arg("careful"), py::arg("least_share"),
             py::arg("n_passive"), py::arg("n_threads"));
}
