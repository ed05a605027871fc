// Vectors of every kind of system.
#include "sgdstab/kernels/vectors.hpp"

#include "arguments.hpp"

namespace {

// What vectors leave behind.
struct VectorRecords {
  VectorRecords(Index n_chains, Index n_batches, Index k, Index columns, Index recorded)
      : log_growth({n_chains, n_batches, k}),
        growth({n_chains, n_batches, columns}),
        directions({n_chains, n_batches, recorded}) {}

  VectorSums sums() {
    return {log_growth.mutable_data(), growth.mutable_data(),
            directions.shape(2) > 0 ? directions.mutable_data() : nullptr};
  }

  Array<double> log_growth, growth, directions;
};

py::tuple bound_advance_vectors(const py::object& steps, const py::object& metrics, Array<double> vectors,
                                const py::object& given_stream, const py::object& given_options, int n_threads) {
  const Stream stream = stream_of(given_stream);
  const auto [renormalise_every, spacing, careful, record] = kVectorOptions.of(given_options);
  const VectorOptions options{value<Index>(renormalise_every), value<bool>(careful), value<Index>(spacing)};
  require(options.renormalise_every > 0 && options.spacing > 0, "counts must be positive");
  const bool recorded = value<bool>(record);
  py::tuple result;
  const auto advance = [&](const auto& system) {
    const Index d = system.dimension();
    require(vectors.ndim() == 3 && vectors.shape(2) == d, "shapes do not agree");
    const Index n_chains = vectors.shape(0), k = vectors.shape(1);
    const auto evaluated = vector_metrics_of(system, metrics);
    VectorRecords records(n_chains, stream.n_batches, k, evaluated.columns(), recorded ? d : 0);
    const VectorSums sums = records.sums();
    double* data = vectors.mutable_data();
    {
      // Long-running and free of Python objects: other Python threads may go on.
      const WithoutInterpreter released;
      advance_vectors(system, stream, options, evaluated, data, n_chains, k, sums, n_threads);
    }
    result = py::make_tuple(std::move(vectors), std::move(records.log_growth), std::move(records.growth),
                            std::move(records.directions));
  };
  if (in_float32(steps)) {
    with_system<float>(steps, advance);
  } else {
    with_system(steps, advance);
  }
  return result;
}

}  // namespace

void register_vectors(py::module_& module) {
  module.def("advance_vectors", &bound_advance_vectors,
             "Advances chains of k vectors each, (n_chains, k, dimension), in place: (vectors, log_growth, growth, "
             "directions).",
             py::arg("steps"), py::arg("metrics"), py::arg("vectors").noconvert(), py::arg("stream"),
             py::arg("options"), py::arg("n_threads"));
}
