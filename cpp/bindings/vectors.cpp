// Vectors of every kind of system.
#include "sgdstab/kernels/vectors.hpp"

#include "arguments.hpp"

namespace {

// Vectors and what they leave behind.
struct VectorRecords {
  VectorRecords(Index n_chains, Index n_batches, Index k, Index columns, Index recorded)
      : log_growth({n_chains, n_batches, k}),
        growth({n_chains, n_batches, columns}),
        directions({n_chains, n_batches, recorded}) {}

  VectorSums sums() {
    return {log_growth.mutable_data(), growth.mutable_data(),
            directions.shape(2) > 0 ? directions.mutable_data() : nullptr};
  }

  InputArray log_growth, growth, directions;
};

auto bound_advance_vectors(const InputArray& rows, const std::string& coordinates, double learning_rate,
                           const InputArray& metrics, const InputArray& diagonals, InputArray vectors, StreamKey key,
                           std::uint64_t first_chain, std::uint64_t first_step, Index n_batches, Index steps_per_batch,
                           Index renormalise_every, Index spacing, bool careful, bool record, int n_threads) {
  require(rows.ndim() == 2 && vectors.ndim() == 3 && vectors.shape(2) == rows.shape(1), "shapes do not agree");
  const Index n_chains = vectors.shape(0), k = vectors.shape(1), n_metrics = diagonals.shape(0);
  require(diagonals.ndim() == 2 && diagonals.shape(1) == rows.shape(0), "shapes do not agree");
  require(metrics.size() == std::max<Index>(n_metrics - 1, 0) * rows.shape(1) * rows.shape(1), "shapes do not agree");
  require(n_batches >= 0 && steps_per_batch > 0 && renormalise_every > 0 && spacing > 0, "counts must be positive");
  VectorRecords records(n_chains, n_batches, k, n_metrics, record ? rows.shape(1) : 0);
  const VectorSums sums = records.sums();
  const SingleMetrics all{n_metrics, metrics.data(), diagonals.data()};
  double* vectors_data = vectors.mutable_data();
  {
    const py::gil_scoped_release release;
    with_rows(coordinates, rows, [&](const auto& typed) {
      advance_vectors(SingleSteps{typed, learning_rate}, {key, first_chain, first_step, n_batches, steps_per_batch},
                      {renormalise_every, careful, spacing}, all, vectors_data, n_chains, k, sums, n_threads);
    });
  }
  return std::make_tuple(std::move(vectors), std::move(records.log_growth), std::move(records.growth),
                         std::move(records.directions));
}

auto bound_advance_sampled_vectors(const InputArray& rows, const std::string& coordinates, double learning_rate,
                                   const std::string& sampling, Index batch_size, Index n_units,
                                   const InputArray& cumulative, const IndexArray& offsets, const IndexArray& members,
                                   const InputArray& free, const InputArray& readout, double log_determinant,
                                   double feedback, const InputArray& metrics, const InputArray& couplings,
                                   const InputArray& probabilities, Index n_trials, InputArray vectors, StreamKey key,
                                   std::uint64_t first_chain, std::uint64_t first_step, Index n_batches,
                                   Index steps_per_batch, Index renormalise_every, Index spacing, bool record,
                                   int n_threads) {
  require(rows.ndim() == 2 && vectors.ndim() == 3, "shapes do not agree");
  const Index n = rows.shape(0), d = readout.size() * rows.shape(1), n_chains = vectors.shape(0), k = vectors.shape(1);
  require(vectors.shape(2) == d && metrics.size() % (d * d) == 0, "shapes do not agree");
  const Index count = metrics.size() / (d * d);
  require(couplings.size() == count * n * n && probabilities.size() == n_units, "shapes do not agree");
  require(n_trials > 0 || batch_size == 1 || count == 0, "batches need trials");
  require(n_batches >= 0 && steps_per_batch > 0 && renormalise_every > 0 && spacing > 0, "counts must be positive");
  const SamplingArguments given{sampling, batch_size, n_units, cumulative,      offsets,
                                members,  free,       readout, log_determinant, feedback};
  const Law law = given.law(n);
  const Recurrence recurrence = given.recurrence();
  const BatchMetrics all{count, n_trials, metrics.data(), couplings.data(), probabilities.data()};
  VectorRecords records(n_chains, n_batches, k, all.columns(), record ? d : 0);
  const VectorSums sums = records.sums();
  double* vectors_data = vectors.mutable_data();
  {
    const py::gil_scoped_release release;
    with_rows(coordinates, rows, [&](const auto& typed) {
      advance_vectors(BatchSteps{typed, learning_rate, law, recurrence},
                      {key, first_chain, first_step, n_batches, steps_per_batch}, {renormalise_every, true, spacing},
                      all, vectors_data, n_chains, k, sums, n_threads);
    });
  }
  return std::make_tuple(std::move(vectors), std::move(records.log_growth), std::move(records.growth),
                         std::move(records.directions));
}

auto bound_advance_matrix_vectors(const InputArray& panels, const InputArray& probabilities,
                                  const InputArray& cumulative, const InputArray& roots, double log_scale,
                                  InputArray vectors, StreamKey key, std::uint64_t first_chain,
                                  std::uint64_t first_step, Index n_batches, Index steps_per_batch,
                                  Index renormalise_every, Index spacing, bool record, int n_threads) {
  require(panels.ndim() == 4 && panels.shape(3) == kLanes && vectors.ndim() == 3, "shapes do not agree");
  const Index n = panels.shape(0), d = panels.shape(2), n_chains = vectors.shape(0), k = vectors.shape(1);
  require(vectors.shape(2) == d && panels.shape(1) * kLanes >= d, "shapes do not agree");
  require(probabilities.size() == n && (cumulative.size() == 0 || cumulative.size() == n), "shapes do not agree");
  const Index count = roots.size() / ((n + 1) * d * d);
  require(roots.size() == count * (n + 1) * d * d, "shapes do not agree");
  require(n_batches >= 0 && steps_per_batch > 0 && renormalise_every > 0 && spacing > 0, "counts must be positive");
  const MatrixSet set{n, d, panels.data(), probabilities.data(), cumulative.size() > 0 ? cumulative.data() : nullptr};
  VectorRecords records(n_chains, n_batches, k, count, record ? d : 0);
  const VectorSums sums = records.sums();
  double* vectors_data = vectors.mutable_data();
  {
    const py::gil_scoped_release release;
    advance_vectors(set, {key, first_chain, first_step, n_batches, steps_per_batch}, {renormalise_every, true, spacing},
                    MatrixMetrics{count, roots.data(), log_scale}, vectors_data, n_chains, k, sums, n_threads);
  }
  return std::make_tuple(std::move(vectors), std::move(records.log_growth), std::move(records.growth),
                         std::move(records.directions));
}

}  // namespace

void register_vectors(py::module_& module) {
  module.def("advance_vectors", &bound_advance_vectors,
             "Advances chains of k vectors each, (n_chains, k, dimension), in place: (vectors, log_growth, growth, "
             "directions).",
             py::kw_only(), py::arg("rows").noconvert(), py::arg("coordinates"), py::arg("learning_rate"),
             py::arg("metrics").noconvert(), py::arg("diagonals").noconvert(), py::arg("vectors").noconvert(),
             py::arg("key"), py::arg("first_chain"), py::arg("first_step"), py::arg("n_batches"),
             py::arg("steps_per_batch"), py::arg("renormalise_every"), py::arg("spacing"), py::arg("careful"),
             py::arg("record"), py::arg("n_threads"));
  module.def("advance_sampled_vectors", &bound_advance_sampled_vectors,
             "The same for chains that draw batches, with a memory; growth in one or three columns a metric.",
             py::kw_only(), py::arg("rows").noconvert(), py::arg("coordinates"), py::arg("learning_rate"),
             py::arg("sampling"), py::arg("batch_size"), py::arg("n_units"), py::arg("cumulative").noconvert(),
             py::arg("offsets").noconvert(), py::arg("members").noconvert(), py::arg("free").noconvert(),
             py::arg("readout").noconvert(), py::arg("log_determinant"), py::arg("feedback"),
             py::arg("metrics").noconvert(), py::arg("couplings").noconvert(), py::arg("probabilities").noconvert(),
             py::arg("n_trials"), py::arg("vectors").noconvert(), py::arg("key"), py::arg("first_chain"),
             py::arg("first_step"), py::arg("n_batches"), py::arg("steps_per_batch"), py::arg("renormalise_every"),
             py::arg("spacing"), py::arg("record"), py::arg("n_threads"));
  module.def("advance_matrix_vectors", &bound_advance_matrix_vectors,
             "The same for chains that draw matrices of a set.", py::kw_only(), py::arg("panels").noconvert(),
             py::arg("probabilities").noconvert(), py::arg("cumulative").noconvert(), py::arg("roots").noconvert(),
             py::arg("log_scale"), py::arg("vectors").noconvert(), py::arg("key"), py::arg("first_chain"),
             py::arg("first_step"), py::arg("n_batches"), py::arg("steps_per_batch"), py::arg("renormalise_every"),
             py::arg("spacing"), py::arg("record"), py::arg("n_threads"));
}
