// Frames of every kind of system.
#include "sgdstab/kernels/frames.hpp"

#include "arguments.hpp"
#include "sgdstab/base/definiteness.hpp"

namespace {

// What frames leave behind.
struct FrameRecords {
  FrameRecords(Index n_chains, Index n_batches, Index k, Index n_metrics, Index columns)
      : log_growth({n_chains, n_batches, k}),
        log_determinant({n_chains, n_batches}),
        smallest_ratio({n_chains, n_batches}),
        growth({n_chains, n_batches, n_metrics, columns}) {}

  FrameSums sums() {
    return {log_growth.mutable_data(), log_determinant.mutable_data(), smallest_ratio.mutable_data(),
            growth.mutable_data()};
  }

  Array<double> log_growth, log_determinant, smallest_ratio, growth;
};

// Frames take single steps as batches of one.
template <class Rows>
BatchSteps<Rows> with_frames(const SingleSteps<Rows>& steps) {
  return in_batches_of_one(steps);
}
template <class Rows>
const BatchSteps<Rows>& with_frames(const BatchSteps<Rows>& steps) {
  return steps;
}
const MatrixSet& with_frames(const MatrixSet& set) { return set; }

py::tuple bound_advance_frames(const py::object& steps, const py::object& metrics, Array<double> frames,
                               const py::object& its_stream, const py::object& its_options, int n_threads) {
  const Stream stream = stream_of(its_stream);
  const auto [its_block, its_period, careful, null_ratio] = kFrameOptions.of(its_options);
  const auto block = value<Index>(its_block), period = value<Index>(its_period);
  const Orthonormalisation options{value<bool>(careful), value<double>(null_ratio)};
  require(block > 0 && period > 0, "counts must be positive");
  py::tuple result;
  with_system(steps, [&](const auto& given) {
    const auto& system = with_frames(given);
    require(frames.ndim() == 3 && frames.shape(1) == system.dimension(), "shapes do not agree");
    require(frames.shape(2) <= frames.shape(1), "a frame has at most as many vectors as dimensions");
    const Index n_chains = frames.shape(0), k = frames.shape(2);
    const auto evaluated = frame_metrics_of(system, k, metrics);
    FrameRecords records(n_chains, stream.n_batches, k, evaluated.frames.count, evaluated.frames.columns);
    const FrameSums sums = records.sums();
    double* data = frames.mutable_data();
    {
      const py::gil_scoped_release release;
      advance_frames(system, stream, block, period, options, evaluated, data, n_chains, k, sums, n_threads);
    }
    result = py::make_tuple(std::move(frames), std::move(records.log_growth), std::move(records.log_determinant),
                            std::move(records.smallest_ratio), std::move(records.growth));
  });
  return result;
}

py::tuple bound_smallest_eigenvalue(Array<double> matrix, const Array<double>& scale) {
  require(matrix.ndim() == 2 && matrix.shape(0) == matrix.shape(1), "matrix must be square");
  require(scale.ndim() == 1 && scale.size() == matrix.shape(0), "shapes do not agree");
  const Index n = matrix.shape(0);
  const MatrixView view(matrix.mutable_data(), n, n, Eigen::OuterStride<>(n));
  const Eigen::VectorXd scale_vector = Eigen::Map<const Eigen::VectorXd>(scale.data(), n);
  SmallestEigenvalue found;
  {
    const py::gil_scoped_release release;
    found = smallest_eigenvalue(view, scale_vector);
  }
  Array<double> direction(n);
  std::copy_n(found.direction.data(), n, direction.mutable_data());
  return py::make_tuple(found.estimate, std::move(direction));
}

}  // namespace

void register_frames(py::module_& module) {
  module.def(
      "advance_frames", &bound_advance_frames,
      "Advances chains of one frame each, in place: (frames, log_growth, log_determinant, smallest_ratio, growth).",
      py::arg("steps"), py::arg("metrics"), py::arg("frames").noconvert(), py::arg("stream"), py::arg("options"),
      py::arg("n_threads"));
  module.def("smallest_eigenvalue", &bound_smallest_eigenvalue,
             "(estimate from above for `matrix`, eigenvector of diag(scale) matrix diag(scale)); overwrites `matrix`.",
             py::kw_only(), py::arg("matrix").noconvert(), py::arg("scale").noconvert());
}
