// Frames of every kind of system.
#include "sgdstab/kernels/frames.hpp"

#include "arguments.hpp"
#include "sgdstab/base/definiteness.hpp"

namespace {

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
    const py::gil_scoped_release release;
    with_rows(coordinates, rows, [&](const auto& typed) {
      advance_frames(BatchSteps{typed, learning_rate, law, recurrence},
                     {key, first_chain, first_step, n_batches, steps_per_batch}, block, period, {careful, null_ratio},
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
    const py::gil_scoped_release release;
    result = smallest_eigenvalue(matrix_view, scale_vector);
  }
  InputArray direction(result.direction.size());
  std::copy_n(result.direction.data(), result.direction.size(), direction.mutable_data());
  return std::make_tuple(result.estimate, std::move(direction));
}

}  // namespace

void register_frames(py::module_& module) {
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
}
