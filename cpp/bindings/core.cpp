// numpy <-> the core. No numerics and no validation beyond shapes: Python hands over clean arrays.
//
// Compiled once per SIMD level under the name SGDSTAB_MODULE.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

#include "sgdstab/advance_frames.hpp"
#include "sgdstab/advance_panels.hpp"
#include "sgdstab/advance_populations.hpp"
#include "sgdstab/advance_vectors.hpp"
#include "sgdstab/definiteness.hpp"

namespace py = pybind11;
using namespace sgdstab;

namespace {

// Arrays arrive as they are or not at all: a silent conversion would be a silent copy. States (vectors, frames) are
// consumed: they are advanced in place and handed back, since a second copy of full frames would double the memory.
using InputArray = py::array_t<double, py::array::c_style>;
using IndexArray = py::array_t<std::int64_t, py::array::c_style>;

ConstMatrixView const_view(const InputArray& a) {
  return {a.data(), a.shape(0), a.shape(1), Eigen::OuterStride<>(a.shape(1))};
}

MatrixView view(InputArray& a) { return {a.mutable_data(), a.shape(0), a.shape(1), Eigen::OuterStride<>(a.shape(1))}; }

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Calls work(form) with the form that `coordinates` names.
template <class Work>
void with_form(const std::string& coordinates, const InputArray& rows, double learning_rate, const Work& work) {
  const RowForm form{const_view(rows), learning_rate};
  if (coordinates == "gram") {
    work(GramForm{form});
  } else {
    require(coordinates == "factor", "coordinates must be 'gram' or 'factor'");
    work(FactorForm{form});
  }
}

// How batches are drawn and what the optimiser remembers, as they arrive.
struct SamplingArguments {
  const std::string& sampling;
  Index batch_size, n_units;
  const InputArray& cumulative;
  const IndexArray &offsets, &members;
  const InputArray &free, &readout;
  double log_determinant, feedback;

  Law law(Index n_rows) const {
    require(n_units > 0 && n_units < (Index{1} << 31) && batch_size > 0, "counts out of range");
    require(cumulative.size() == 0 || cumulative.size() == n_units, "shapes do not agree");
    require(offsets.size() == 0 || offsets.size() == n_units + 1, "shapes do not agree");
    require(offsets.size() > 0 ? members.size() == n_rows : n_units == n_rows, "shapes do not agree");
    return {named(),
            n_units,
            batch_size,
            cumulative.size() > 0 ? cumulative.data() : nullptr,
            offsets.size() > 0 ? offsets.data() : nullptr,
            offsets.size() > 0 ? members.data() : nullptr};
  }
  Recurrence recurrence() const {
    require(free.size() == readout.size() * readout.size() && readout.size() > 0, "shapes do not agree");
    return {readout.size(), free.data(), readout.data(), log_determinant, feedback};
  }

 private:
  Sampling named() const {
    if (sampling == "iid") return Sampling::iid;
    if (sampling == "with_replacement") return Sampling::with_replacement;
    if (sampling == "epoch") return Sampling::epoch;
    require(sampling == "cyclic", "sampling must be 'iid', 'with_replacement', 'epoch' or 'cyclic'");
    return Sampling::cyclic;
  }
};

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

// Frames and what they leave behind.
struct FrameRecords {
  FrameRecords(Index n_chains, Index n_batches, Index k, Index n_metrics, Index evaluated)
      : log_growth({n_chains, n_batches, k}),
        log_determinant({n_chains, n_batches}),
        smallest_ratio({n_chains, n_batches}),
        growth({n_chains, n_batches, n_metrics, evaluated}) {}

  FrameSums sums() {
    return {log_growth.mutable_data(), log_determinant.mutable_data(), smallest_ratio.mutable_data(),
            growth.mutable_data()};
  }

  InputArray log_growth, log_determinant, smallest_ratio, growth;
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
  const Metrics all{n_metrics, metrics.data(), diagonals.data()};
  double* vectors_data = vectors.mutable_data();
  {
    // Long-running and free of Python objects: other Python threads may go on.
    const py::gil_scoped_release release;
    with_form(coordinates, rows, learning_rate, [&](const auto& form) {
      advance_vectors(form, {key, first_chain, first_step, n_batches, steps_per_batch},
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
  const SampledMetrics all{count, n_trials, metrics.data(), couplings.data(), probabilities.data()};
  VectorRecords records(n_chains, n_batches, k, all.columns(), record ? d : 0);
  const VectorSums sums = records.sums();
  double* vectors_data = vectors.mutable_data();
  {
    // As above.
    const py::gil_scoped_release release;
    with_form(coordinates, rows, learning_rate, [&](const auto& form) {
      advance_vectors(Sampled{form, law, recurrence}, {key, first_chain, first_step, n_batches, steps_per_batch},
                      {renormalise_every, true, spacing}, all, vectors_data, n_chains, k, sums, n_threads);
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
    // As above.
    const py::gil_scoped_release release;
    advance_vectors(set, {key, first_chain, first_step, n_batches, steps_per_batch}, {renormalise_every, true, spacing},
                    MatrixMetrics{count, roots.data(), log_scale}, vectors_data, n_chains, k, sums, n_threads);
  }
  return std::make_tuple(std::move(vectors), std::move(records.log_growth), std::move(records.growth),
                         std::move(records.directions));
}

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
    // As above.
    const py::gil_scoped_release release;
    with_form(coordinates, rows, 0.0, [&](const auto& form) {
      advance_panels(form, learning_rates.data(), {key, first_chain, first_step, n_batches, steps_per_batch},
                     {renormalise_every, careful, spacing}, all, panels_data, n_chains, n_panels, k, sums, n_threads);
    });
  }
  return std::make_tuple(std::move(panels), std::move(log_growth), std::move(growth));
}

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
  const Metrics all{n_metrics, metrics.data(), diagonals.data()};
  double* walkers_data = walkers.mutable_data();
  {
    // As above.
    const py::gil_scoped_release release;
    with_form(coordinates, rows, learning_rate, [&](const auto& form) {
      advance_populations(
          form, {key, first_chain, first_step, n_batches, steps_per_batch},
          {order, n_vectors, n_passive, renormalise_every, careful, least_share, tilted ? &gauge : nullptr}, all,
          walkers_data, n_populations, size, sums, n_threads);
    });
  }
  return std::make_tuple(std::move(walkers), std::move(log_growth), std::move(effective_size), std::move(norms),
                         std::move(excess), std::move(separation));
}

auto bound_advance_frames(const InputArray& rows, const std::string& coordinates, double learning_rate,
                          const std::string& sampling, Index batch_size, Index n_units, const InputArray& cumulative,
                          const IndexArray& offsets, const IndexArray& members, const InputArray& free,
                          const InputArray& readout, double log_determinant, double feedback,
                          const InputArray& log_determinants, const InputArray& roots, const InputArray& gradients,
                          const InputArray& images, const InputArray& diagonals, Index evaluated, InputArray frames,
                          StreamKey key, std::uint64_t first_chain, std::uint64_t first_step, Index n_batches,
                          Index steps_per_batch, Index block, Index period, bool careful, double null_ratio,
                          int n_threads) {
  require(rows.ndim() == 2 && frames.ndim() == 3, "shapes do not agree");
  require(frames.shape(1) == readout.size() * rows.shape(1), "shapes do not agree");
  require(frames.shape(2) <= frames.shape(1), "a frame has at most as many vectors as dimensions");
  require(log_determinants.size() == 0 || log_determinants.size() == rows.shape(0), "shapes do not agree");
  const Index n_metrics = roots.size() / (rows.shape(1) * rows.shape(1));
  require(roots.size() == n_metrics * rows.shape(1) * rows.shape(1), "shapes do not agree");
  require(gradients.size() == n_metrics * rows.size() && images.size() == gradients.size(), "shapes do not agree");
  require(diagonals.size() == n_metrics * rows.shape(0), "shapes do not agree");
  require(n_metrics == 0 || readout.size() == 1, "growth of volumes is for optimisers without memory");
  require(n_batches >= 0 && steps_per_batch > 0 && block > 0 && period > 0, "counts must be positive");
  const Index n_chains = frames.shape(0), k = frames.shape(2);
  require(evaluated > 0 && evaluated <= k, "evaluated columns out of range");
  const SamplingArguments given{sampling, batch_size, n_units, cumulative,      offsets,
                                members,  free,       readout, log_determinant, feedback};
  const Law law = given.law(rows.shape(0));
  const Recurrence recurrence = given.recurrence();
  FrameRecords records(n_chains, n_batches, k, n_metrics, evaluated);
  const FrameSums sums = records.sums();
  const FrameMetrics metrics{n_metrics, evaluated, roots.data(), gradients.data(), images.data(), diagonals.data()};
  double* frames_data = frames.mutable_data();
  {
    // As above.
    const py::gil_scoped_release release;
    with_form(coordinates, rows, learning_rate, [&](const auto& form) {
      advance_frames(Sampled{form, law, recurrence}, {key, first_chain, first_step, n_batches, steps_per_batch}, block,
                     period, {careful, null_ratio},
                     {metrics, log_determinants.size() > 0 ? log_determinants.data() : nullptr}, frames_data, n_chains,
                     k, sums, n_threads);
    });
  }
  return std::make_tuple(std::move(frames), std::move(records.log_growth), std::move(records.log_determinant),
                         std::move(records.smallest_ratio), std::move(records.growth));
}

auto bound_advance_matrix_frames(const InputArray& matrices, const InputArray& probabilities,
                                 const InputArray& cumulative, const InputArray& log_determinants, InputArray frames,
                                 StreamKey key, std::uint64_t first_chain, std::uint64_t first_step, Index n_batches,
                                 Index steps_per_batch, Index period, bool careful, double null_ratio, int n_threads) {
  require(matrices.ndim() == 3 && matrices.shape(1) == matrices.shape(2), "matrices must be square");
  const Index n = matrices.shape(0), d = matrices.shape(1);
  require(frames.ndim() == 3 && frames.shape(1) == d && frames.shape(2) <= d, "shapes do not agree");
  require(probabilities.size() == n && (cumulative.size() == 0 || cumulative.size() == n), "shapes do not agree");
  require(log_determinants.size() == n, "shapes do not agree");
  require(n_batches >= 0 && steps_per_batch > 0 && period > 0, "counts must be positive");
  const MatrixSet set{n, d, nullptr, probabilities.data(), cumulative.size() > 0 ? cumulative.data() : nullptr};
  const Index n_chains = frames.shape(0), k = frames.shape(2);
  FrameRecords records(n_chains, n_batches, k, 0, k);
  const FrameSums sums = records.sums();
  double* frames_data = frames.mutable_data();
  {
    // As above.
    const py::gil_scoped_release release;
    advance_frames(set, {key, first_chain, first_step, n_batches, steps_per_batch}, 1, period, {careful, null_ratio},
                   {FrameMetrics{}, log_determinants.data(), matrices.data()}, frames_data, n_chains, k, sums,
                   n_threads);
  }
  return std::make_tuple(std::move(frames), std::move(records.log_growth), std::move(records.log_determinant),
                         std::move(records.smallest_ratio), std::move(records.growth));
}

auto bound_smallest_eigenvalue(InputArray matrix, const InputArray& scale) {
  require(matrix.ndim() == 2 && matrix.shape(0) == matrix.shape(1), "matrix must be square");
  require(scale.ndim() == 1 && scale.size() == matrix.shape(0), "shapes do not agree");
  MatrixView matrix_view = view(matrix);
  const Eigen::VectorXd scale_vector = Eigen::Map<const Eigen::VectorXd>(scale.data(), scale.size());
  SmallestEigenvalue result;
  {
    const py::gil_scoped_release release;  // as above
    result = smallest_eigenvalue(matrix_view, scale_vector);
  }
  InputArray direction(result.direction.size());
  std::copy_n(result.direction.data(), result.direction.size(), direction.mutable_data());
  return std::make_tuple(result.estimate, std::move(direction));
}

auto bound_examples(StreamKey key, std::uint64_t chain, std::uint64_t first_step, Index n_steps, Index n_examples) {
  require(n_steps >= 0 && n_examples > 0 && n_examples <= (Index{1} << 31), "counts out of range");
  py::array_t<std::uint32_t> examples(n_steps);
  IndexStream(key, chain, n_examples).fill(first_step, n_steps, examples.mutable_data());
  return examples;
}

}  // namespace

PYBIND11_MODULE(SGDSTAB_MODULE, module) {
  module.doc() = "Compiled core of sgdstab_fast; see sgdstab_fast._core.";
  module.def("philox4x64", &philox4x64, "The Philox4x64-10 block of a counter.", py::arg("counter"), py::arg("key"));
  module.def("examples", &bound_examples, "The examples that a chain draws at n_steps steps from first_step on.",
             py::kw_only(), py::arg("key"), py::arg("chain"), py::arg("first_step"), py::arg("n_steps"),
             py::arg("n_examples"));
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
  module.def("advance_panels", &bound_advance_panels,
             "Advances chains of k vectors for every learning rate, (n_chains, n_panels, k, dimension, n_lanes), in "
             "place: (panels, log_growth, growth).",
             py::kw_only(), py::arg("rows").noconvert(), py::arg("coordinates"), py::arg("learning_rates").noconvert(),
             py::arg("metrics").noconvert(), py::arg("windows").noconvert(), py::arg("diagonals").noconvert(),
             py::arg("panels").noconvert(), py::arg("key"), py::arg("first_chain"), py::arg("first_step"),
             py::arg("n_batches"), py::arg("steps_per_batch"), py::arg("renormalise_every"), py::arg("spacing"),
             py::arg("careful"), py::arg("n_threads"));
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
  module.def(
      "advance_frames", &bound_advance_frames,
      "Advances chains of one frame each, in place: (frames, log_growth, log_determinant, smallest_ratio, growth).",
      py::kw_only(), py::arg("rows").noconvert(), py::arg("coordinates"), py::arg("learning_rate"), py::arg("sampling"),
      py::arg("batch_size"), py::arg("n_units"), py::arg("cumulative").noconvert(), py::arg("offsets").noconvert(),
      py::arg("members").noconvert(), py::arg("free").noconvert(), py::arg("readout").noconvert(),
      py::arg("log_determinant"), py::arg("feedback"), py::arg("log_determinants").noconvert(),
      py::arg("roots").noconvert(), py::arg("gradients").noconvert(), py::arg("images").noconvert(),
      py::arg("diagonals").noconvert(), py::arg("evaluated"), py::arg("frames").noconvert(), py::arg("key"),
      py::arg("first_chain"), py::arg("first_step"), py::arg("n_batches"), py::arg("steps_per_batch"), py::arg("block"),
      py::arg("period"), py::arg("careful"), py::arg("null_ratio"), py::arg("n_threads"));
  module.def("advance_matrix_frames", &bound_advance_matrix_frames, "The same for chains that draw matrices of a set.",
             py::kw_only(), py::arg("matrices").noconvert(), py::arg("probabilities").noconvert(),
             py::arg("cumulative").noconvert(), py::arg("log_determinants").noconvert(), py::arg("frames").noconvert(),
             py::arg("key"), py::arg("first_chain"), py::arg("first_step"), py::arg("n_batches"),
             py::arg("steps_per_batch"), py::arg("period"), py::arg("careful"), py::arg("null_ratio"),
             py::arg("n_threads"));
  module.def("smallest_eigenvalue", &bound_smallest_eigenvalue,
             "(estimate from above for `matrix`, eigenvector of diag(scale) matrix diag(scale)); overwrites `matrix`.",
             py::kw_only(), py::arg("matrix").noconvert(), py::arg("scale").noconvert());
  module.attr("n_lanes") = kLanes;
  module.attr("simd_level") = SGDSTAB_SIMD_LEVEL;
  module.attr("eigen_version") = std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
                                 std::to_string(EIGEN_MINOR_VERSION);
  module.attr("compiler") = SGDSTAB_COMPILER;
}
