// Populations of weighted walkers.
#include "sgdstab/kernels/populations.hpp"

#include <optional>

#include "arguments.hpp"

namespace {

py::tuple bound_advance_populations(const py::object& steps, const py::object& metrics, Array<double> walkers,
                                    const py::object& given_stream, const py::object& given_options, int n_threads) {
  const Stream stream = stream_of(given_stream);
  const auto [order, renormalise_every, careful, least_share, n_passive] = kPopulationOptions.of(given_options);
  const auto given = kPopulationMetrics.of(metrics);
  PopulationOptions options{.order = value<double>(order),
                            .n_vectors = 0,  // set below, as gauge is: both take the steps to tell
                            .n_passive = value<Index>(n_passive),
                            .renormalise_every = value<Index>(renormalise_every),
                            .careful = value<bool>(careful),
                            .least_share = value<double>(least_share),
                            .gauge = nullptr};
  require(options.renormalise_every > 0, "counts must be positive");
  py::tuple result;
  with_single_steps(steps, [&](const auto& single) {
    const auto [given_matrices, given_diagonals, given_gauge] = given;
    const Index d = single.dimension();
    require(walkers.ndim() == 3 && walkers.shape(2) > 2, "shapes do not agree");
    require((walkers.shape(2) - 2) % d == 0, "walkers must hold whole vectors");
    const Index n_populations = walkers.shape(0), size = walkers.shape(1);
    options.n_vectors = (walkers.shape(2) - 2) / d - options.n_passive;
    require(size > 0, "counts must be positive");
    require(options.n_passive >= 0 && options.n_passive < 2 && options.n_vectors > 0, "at most one passive vector");
    std::optional<Gauge> gauge;
    if (!given_gauge.is_none()) gauge = gauge_of(single, given_gauge);
    require(options.n_passive == 0 || gauge, "passive vectors take tilted steps");
    options.gauge = gauge ? &*gauge : nullptr;
    const SingleMetrics evaluated = metrics_of(single, given_matrices, given_diagonals);
    Array<double> log_growth({n_populations, stream.n_batches}), effective_size({n_populations, stream.n_batches}),
        separation({n_populations, stream.n_batches});
    Array<double> norms({n_populations, stream.n_batches, evaluated.count}),
        excess({n_populations, stream.n_batches, evaluated.count});
    const PopulationSums sums{log_growth.mutable_data(), effective_size.mutable_data(), norms.mutable_data(),
                              excess.mutable_data(), separation.mutable_data()};
    double* data = walkers.mutable_data();
    {
      // Long-running and free of Python objects: other Python threads may go on.
      const WithoutInterpreter released;
      advance_populations(single, stream, options, evaluated, data, n_populations, size, sums, n_threads);
    }
    result = py::make_tuple(std::move(walkers), std::move(log_growth), std::move(effective_size), std::move(norms),
                            std::move(excess), std::move(separation));
  });
  return result;
}

}  // namespace

void register_populations(py::module_& module) {
  module.def("advance_populations", &bound_advance_populations,
             "Advances populations of weighted walkers, (n_populations, size, n_vectors * dimension + 2), in place: "
             "(walkers, log_growth, effective_size, norms, excess, separation).",
             py::arg("steps"), py::arg("metrics"), py::arg("walkers").noconvert(), py::arg("stream"),
             py::arg("options"), py::arg("n_threads"));
}
